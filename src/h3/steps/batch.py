"""The batch of a step as a latency model is given it, and the composition columns that physics and features
count on.

>>> llama = catalog.architecture("llama-2-7b")
>>> table = step_table(Deployment(llama, 1, "H100"), [[(600, 1, 512)], [(0, 512, 512)]])
>>> table[["num_decode_reqs", "decode_kv_tokens_sum", "prefill_tokens"]].to_numpy().tolist()
[[1.0, 601.0, 0.0], [0.0, 0.0, 512.0]]

A request is (progress_index, new_tokens, prompt_tokens): tokens computed before this step, tokens of this
step, length of the prompt. It prefills iff progress_index < prompt_tokens, else it decodes. A request without
new tokens is not in the step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from h3.common.errors import InputError
from h3.steps import catalog
from h3.steps.catalog import Architecture

Request = tuple[int, int, int]
Tokens = np.ndarray | float
COMPOSITION = (
    "num_prefill_reqs",
    "num_decode_reqs",
    "prefill_tokens",
    "decode_tokens",
    "decode_kv_tokens_sum",
    "prefill_kv_tokens_sum",
    "prefill_attended_tokens",
)
# Of layers with a sliding window, where there are any.
WINDOWED = ("decode_window_tokens_sum", "prefill_window_attended_tokens")
MAX_TOKENS = 2**31 - 1


@dataclass(frozen=True)
class Deployment:
    """A model on so many accelerators, and whether top-p or top-k truncates its sampling.

    Raises InputError for unknown hardware or a degree that does not divide the heads.
    """

    architecture: Architecture
    tensor_parallelism: int
    hardware: str
    truncated_sampling: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "hardware", catalog.hardware(self.hardware).name)
        if isinstance(self.tensor_parallelism, bool) or not isinstance(self.tensor_parallelism, int):
            raise InputError(
                f"tensor parallelism {self.tensor_parallelism!r}; expected a whole number of at least 1"
            )
        catalog.check_tensor_parallelism(self.architecture, self.tensor_parallelism, "deployment")

    def columns(self) -> dict[str, Any]:
        """The setup and architecture columns that physics needs."""
        return {
            "hardware": self.hardware,
            "tensor_parallelism": self.tensor_parallelism,
            "truncated_sampling": float(self.truncated_sampling),
            **self.architecture.columns(),
        }


def _checked(request: Request, number: int) -> Request:
    values = tuple(request)
    whole = all(isinstance(value, int | np.integer) and not isinstance(value, bool) for value in values)
    if len(values) != 3 or not whole or not all(0 <= value <= MAX_TOKENS for value in values):
        raise InputError(
            f"request {number} of the batch is {list(values)}; "
            "expected [progress_index, new_tokens, prompt_tokens], whole numbers from 0 to 2^31-1"
        )
    return int(values[0]), int(values[1]), int(values[2])


def compose(requests: np.ndarray, lengths: np.ndarray, window_tokens: int = 0) -> pd.DataFrame:
    """Composition columns of many batches at once, float64 of shape (batches, len(COMPOSITION)), and those of
    WINDOWED where layers have a window of so many tokens.

    `requests`: all batches' requests under one another, shape (sum(lengths), 3); `lengths`: requests of each
    batch.
    """
    progress, new, prompt = np.asarray(requests, dtype=float).reshape(-1, 3).T
    prefill, decode = (new > 0) & (progress < prompt), (new > 0) & (progress >= prompt)
    batch = np.repeat(np.arange(len(lengths)), lengths)

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(batch, weights=values, minlength=len(lengths))

    table = pd.DataFrame(
        {
            "num_prefill_reqs": total(prefill),
            "num_decode_reqs": total(decode),
            "prefill_tokens": total(prefill * new),
            "decode_tokens": total(decode * new),
            "decode_kv_tokens_sum": total(decode * (progress + new)),
            "prefill_kv_tokens_sum": total(prefill * progress),
            "prefill_attended_tokens": total(prefill * attended(new, progress)),
        },
        columns=list(COMPOSITION),
    )
    if not window_tokens:
        return table
    within = decode * np.minimum(progress + new, window_tokens)
    pairs = prefill * attended(new, progress, window_tokens)
    return table.assign(**dict(zip(WINDOWED, (total(within), total(pairs)), strict=True)))


def attended(new: Tokens, before: Tokens, window_tokens: float = np.inf) -> np.ndarray:
    """Query-key pairs of `new` tokens after `before`, each token attending to the window at most.

    >>> attended(3, 5), attended(3, 5, 7)        # 6 + 7 + 8, 6 + 7 + 7
    (array(21.), array(20.))
    """
    growing = np.clip(window_tokens - before, 0.0, new)
    rest = np.asarray(new) - growing
    return np.asarray(
        growing * before
        + growing * (growing + 1) / 2
        + np.where(rest > 0, rest * _finite(window_tokens), 0.0)
    )


def _finite(window_tokens: float) -> float:
    return window_tokens if np.isfinite(window_tokens) else 0.0


def flatten(batches: Iterable[Sequence[Request]]) -> tuple[np.ndarray, np.ndarray]:
    """Batches as `compose` takes them; raises InputError for anything but three whole numbers from 0 to
    2^31-1 a request.
    """
    checked = [[_checked(request, number) for number, request in enumerate(batch)] for batch in batches]
    rows = [request for batch in checked for request in batch]
    return np.array(rows, dtype=float).reshape(-1, 3), np.array([len(batch) for batch in checked], dtype=int)


def step_table(deployment: Deployment, batches: Iterable[Sequence[Request]]) -> pd.DataFrame:
    """One row a batch with every column that physics.py and the scale-free features need."""
    window = deployment.architecture.window_tokens
    return with_deployment(compose(*flatten(batches), window), deployment)


def with_deployment(composition: pd.DataFrame, deployment: Deployment) -> pd.DataFrame:
    """Composition rows of one deployment with its setup and architecture columns."""
    return composition.assign(**deployment.columns())


def uniform(
    decodes: Tokens, context: Tokens, prefill: Tokens, before: Tokens = 0.0, window_tokens: int = 0
) -> pd.DataFrame:
    """Composition of steps with `decodes` requests of `context` computed tokens each, and one prefill chunk
    of `prefill` tokens.

    Arrays of shape (steps,), or broadcast to it; prefill 0: no chunk; `before`: tokens of that prompt
    computed before; window_tokens: as in `compose`.
    """
    given = (np.asarray(values, float) for values in (decodes, context, prefill, before))
    requests, computed, new, done = np.broadcast_arrays(*given)
    table = pd.DataFrame(
        {
            "num_prefill_reqs": (new > 0).astype(float),
            "num_decode_reqs": requests,
            "prefill_tokens": new,
            "decode_tokens": requests,
            "decode_kv_tokens_sum": requests * (computed + 1),
            "prefill_kv_tokens_sum": np.where(new > 0, done, 0.0),
            "prefill_attended_tokens": attended(new, done),
        },
        columns=list(COMPOSITION),
    )
    if not window_tokens:
        return table
    within = requests * np.minimum(computed + 1, window_tokens)
    return table.assign(**dict(zip(WINDOWED, (within, attended(new, done, window_tokens)), strict=True)))
