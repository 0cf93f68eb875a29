"""How a step is launched: decode-only steps from one CUDA graph, mixed ones from piecewise graphs, large ones
eagerly.

    launcher = Launcher(decoder, buffers)
    launch = launcher.prepare(step)         # Launch: mode, batch, and a function that runs the step once
    launch.run()

These are vLLM's rules: a decode batch runs as the next larger captured size; a batch with prefill of at most
the largest captured size runs the pieces between attentions as graphs, padded, and attention eagerly at its
own size; above that nothing is captured. On a machine without CUDA the same padded sizes run eagerly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from h3.sources.cost_model import GRAPH_SIZES, padded_tokens
from measure.batch import Batch, Buffers
from measure.decoder import Decoder
from measure.plan import Step

WARM_RUNS = 2  # compile Triton kernels and create library handles before a capture


@dataclass(frozen=True)
class Launch:
    """A loaded step: mode "full", "piecewise" or "eager", the batch, and what runs it."""

    mode: str
    batch: Batch
    run: Callable[[], object]


class Launcher:
    """Launches of one decoder; graphs are captured when a size is first needed, and kept."""

    def __init__(self, decoder: Decoder, buffers: Buffers) -> None:
        self.decoder, self.buffers = decoder, buffers
        self.captures = decoder.setup.device.type == "cuda"
        self.pool = torch.cuda.graph_pool_handle() if self.captures else None
        self.whole: dict[int, torch.cuda.CUDAGraph] = {}
        self.pieces: dict[int, list[torch.cuda.CUDAGraph]] = {}

    def prepare(self, step: Step) -> Launch:
        """Load a step that fits the buffers, and capture what it needs."""
        mode = "full" if not step.chunks else "piecewise" if step.tokens <= GRAPH_SIZES[-1] else "eager"
        padded = padded_tokens(step.tokens)
        batch = self.buffers.load(step, padded, padded if mode == "full" else None)
        body = self._body(mode, batch)
        return Launch(mode, batch, lambda: self._step(body, batch))

    def _step(self, body: Callable[[], object], batch: Batch) -> torch.Tensor:
        body()
        return self.decoder.logits(batch).argmax(-1)

    def _body(self, mode: str, batch: Batch) -> Callable[[], object]:
        if not self.captures or mode == "eager":
            return lambda: self.decoder.body(batch)
        size = batch.padded_tokens
        if mode == "full":
            if size not in self.whole:
                self._warm(batch)
                self.whole[size] = self._capture(partial(self.decoder.body, batch))
            return self.whole[size].replay
        if size not in self.pieces:
            self._warm(batch)
            parts = [partial(self.decoder.begin, batch)]
            parts += [
                partial(self.decoder.proceed, layer, batch) for layer in range(len(self.decoder.layers))
            ]
            self.pieces[size] = [self._capture(part) for part in parts]
        return lambda: self._pieces(self.pieces[size], batch)

    def _pieces(self, graphs: list[torch.cuda.CUDAGraph], batch: Batch) -> None:
        graphs[0].replay()
        for layer, graph in enumerate(graphs[1:]):
            self.decoder.attend(layer, batch)
            graph.replay()

    def _warm(self, batch: Batch) -> None:
        for _ in range(WARM_RUNS):
            self.decoder.body(batch)

    def _capture(self, part: Callable[[], object]) -> torch.cuda.CUDAGraph:
        """A CUDA graph of what `part` launches; graphs share their memory, since one runs after the other."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            part()
        return graph
