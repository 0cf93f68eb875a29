"""Raw OTLP/JSON traces for tests: experiment folders as a server's exporter leaves them.

folder = TraceBuilder().step(1, at_ms=0).step(2, at_ms=20, decode=3).write(tmp_path)
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

MODEL = "meta-llama/Llama-2-7b-hf"


def attribute(key: str, value) -> dict:
    """An OTLP attribute; whole numbers are strings on the wire."""
    kind = {int: "intValue", float: "doubleValue", str: "stringValue"}[type(value)]
    return {"key": key, "value": {kind: str(value) if kind == "intValue" else value}}


def event(name: str, attributes: dict) -> dict:
    return {
        "timeUnixNano": "1700000000000000000",
        "name": name,
        "attributes": [attribute(k, v) for k, v in attributes.items()],
    }


def step_attributes(
    step: int, at_ms: float, prefill: int = 0, decode: int = 1, prefill_tokens: int = 0, **changed
) -> dict:
    """Attributes of a step.BATCH_SUMMARY; keywords such as `batch__num_finished` replace
    `batch.num_finished`, None drops it.
    """
    start = 10_000_000_000 + round(at_ms * 1e6)
    attributes = {
        "step.id": step,
        "step.ts_start_ns": start,
        "step.ts_end_ns": start + 70_000,
        "step.duration_us": 70,
        "queue.running_depth": prefill + decode,
        "queue.waiting_depth": 0,
        "batch.num_prefill_reqs": prefill,
        "batch.num_decode_reqs": decode,
        "batch.scheduled_tokens": prefill_tokens + decode,
        "batch.prefill_tokens": prefill_tokens,
        "batch.decode_tokens": decode,
        "batch.num_finished": 0,
        "batch.num_preempted": 0,
        "kv.blocks_total_gpu": 1000,
        "kv.blocks_free_gpu": 900,
        "kv.usage_gpu_ratio": 0.1,
    }
    attributes |= {key.replace("__", "."): value for key, value in changed.items()}
    return {key: value for key, value in attributes.items() if value is not None}


class TraceBuilder:
    """Collects lines; every event gets a line of its own unless between `open_line` and `close_line`."""

    def __init__(self):
        self.lines: list[str] = []
        self.together: list[dict] | None = None

    def step(self, step: int, at_ms: float, **changed) -> TraceBuilder:
        return self.event("step.BATCH_SUMMARY", step_attributes(step, at_ms, **changed))

    def steps(
        self, count: int, period_ms: float = 20.0, first: int = 1, at_ms: float = 0.0, **changed
    ) -> TraceBuilder:
        for index in range(count):
            self.step(first + index, at_ms + index * period_ms, **changed)
        return self

    def snapshot(self, step: int, request: str, phase: str, computed: int, scheduled: int) -> TraceBuilder:
        return self.event(
            "step.REQUEST_SNAPSHOT",
            {
                "step.id": step,
                "request.id": request,
                "request.phase": phase,
                "request.num_prompt_tokens": 100,
                "request.num_computed_tokens": computed,
                "request.num_output_tokens": 0,
                "request.scheduled_tokens_this_step": scheduled,
            },
        )

    def journey(self, request: str, *events: tuple[str, int, int, int]) -> TraceBuilder:
        """A span llm_core with events (kind, step, prefill done, decode done) of a request with 100 prompt
        tokens.
        """
        named = [
            event(
                f"journey.{kind}",
                {
                    "scheduler.step": step,
                    "prefill.done_tokens": done,
                    "prefill.total_tokens": 100,
                    "decode.done_tokens": decoded,
                },
            )
            for kind, step, done, decoded in events
        ]
        span = {"name": "llm_core", "attributes": [attribute("gen_ai.request.id", request)], "events": named}
        return self.text(_line("vllm.core", span))

    def event(self, name: str, attributes: dict, scope: str = "vllm.scheduler") -> TraceBuilder:
        if self.together is not None:
            self.together.append(event(name, attributes))
            return self
        return self.text(
            _line(scope, {"name": "scheduler_steps_1", "kind": 1, "events": [event(name, attributes)]})
        )

    def text(self, line: str) -> TraceBuilder:
        self.lines.append(line)
        return self

    def open_line(self) -> TraceBuilder:
        """Events from here to `close_line` share a line."""
        self.together = []
        return self

    def close_line(self) -> TraceBuilder:
        events, self.together = self.together, None
        return self.text(_line("vllm.scheduler", {"name": "scheduler_steps_1", "kind": 1, "events": events}))

    def content(self) -> bytes:
        return "".join(line + "\n" for line in self.lines).encode()

    def write(
        self,
        root: Path,
        name: str = "20260101-000000-llama-2-7b-tp1-general",
        cut: int | None = None,
        packed: bool = False,
    ) -> Path:
        """An experiment folder below root; packed: gzip; cut: only the first so many bytes of the file."""
        folder = root / name
        folder.mkdir(parents=True)
        (folder / "exp-config.yaml").write_text(
            f"model: {MODEL}\ntensor_parallelism: 1\nmax_num_seqs: 128\nmax_num_batched_tokens: 2048\n"
        )
        content = gzip.compress(self.content()) if packed else self.content()
        (folder / ("traces.json.gz" if packed else "traces.json")).write_bytes(content[:cut])
        return folder


def _line(scope: str, span: dict) -> str:
    resource = {"attributes": [attribute("service.name", "vllm")]}
    document = {
        "resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": {"name": scope}, "spans": [span]}]}]
    }
    return json.dumps(document, separators=(",", ":"))
