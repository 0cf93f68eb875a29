"""The batch of a step as a latency model is given it, and the composition columns that physics and features
count on.

    llama, h100 = catalog.architecture("llama-2-7b"), "H100"
    row = step_row([(600, 1, 512), (0, 512, 512)])  # one decoding request, one that prefills its whole prompt
    table = step_table(Deployment(llama, 1, h100), [[(600, 1, 512)], [(0, 512, 512)]])

A request is (progress_index, new_tokens, prompt_tokens): tokens computed before this step, tokens of this
step, length of the prompt. It prefills iff progress_index < prompt_tokens, else it decodes. A request without
new tokens is not in the step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from h3.common.errors import InputError
from h3.steps import catalog
from h3.steps.catalog import Architecture

Request = tuple[int, int, int]
COMPOSITION = (
    "num_prefill_reqs",
    "num_decode_reqs",
    "prefill_tokens",
    "decode_tokens",
    "decode_kv_tokens_sum",
    "prefill_kv_tokens_sum",
    "prefill_attended_tokens",
)
MAX_TOKENS = 2**31 - 1


@dataclass(frozen=True)
class Deployment:
    """A model on so many accelerators; raises InputError for unknown hardware or a degree that does not
    divide the heads.
    """

    architecture: Architecture
    tensor_parallelism: int
    hardware: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "hardware", catalog.hardware(self.hardware).name)
        if isinstance(self.tensor_parallelism, bool) or not isinstance(self.tensor_parallelism, int):
            raise InputError(
                f"tensor parallelism {self.tensor_parallelism!r}; expected a whole number of at least 1"
            )
        catalog.check_tensor_parallelism(self.architecture, self.tensor_parallelism, "deployment")

    def columns(self) -> dict:
        """The setup and architecture columns that physics needs."""
        return {
            "hardware": self.hardware,
            "tensor_parallelism": self.tensor_parallelism,
            **self.architecture.columns(),
        }


def step_row(requests: Sequence[Request]) -> dict[str, int]:
    """Composition columns of one step, counted request by request.

    A decoding request attends to its context and its new tokens; t new prompt tokens after s old ones attend
    to t*s + t*(t+1)/2 tokens. Raises InputError for anything but three whole numbers from 0 to 2^31-1 a
    request.
    """
    row = dict.fromkeys(COMPOSITION, 0)
    for number, request in enumerate(requests):
        progress, new, prompt = _checked(request, number)
        if new == 0:
            continue
        if progress < prompt:
            row["num_prefill_reqs"] += 1
            row["prefill_tokens"] += new
            row["prefill_kv_tokens_sum"] += progress
            row["prefill_attended_tokens"] += new * progress + new * (new + 1) // 2
        else:
            row["num_decode_reqs"] += 1
            row["decode_tokens"] += new
            row["decode_kv_tokens_sum"] += progress + new
    return row


def _checked(request: Request, number: int) -> Request:
    values = tuple(request)
    whole = all(isinstance(value, int | np.integer) and not isinstance(value, bool) for value in values)
    if len(values) != 3 or not whole or not all(0 <= value <= MAX_TOKENS for value in values):
        raise InputError(
            f"request {number} of the batch is {list(values)}; "
            "expected [progress_index, new_tokens, prompt_tokens], whole numbers from 0 to 2^31-1"
        )
    return tuple(int(value) for value in values)


def compose(requests: np.ndarray, lengths: np.ndarray) -> pd.DataFrame:
    """Composition columns of many batches at once, float64 of shape (batches, len(COMPOSITION)).

    `requests`: all batches' requests under one another, shape (sum(lengths), 3); `lengths`: requests of each
    batch.
    """
    progress, new, prompt = np.asarray(requests, dtype=float).reshape(-1, 3).T
    prefill, decode = (new > 0) & (progress < prompt), (new > 0) & (progress >= prompt)
    batch = np.repeat(np.arange(len(lengths)), lengths)

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(batch, weights=values, minlength=len(lengths))

    return pd.DataFrame(
        {
            "num_prefill_reqs": total(prefill),
            "num_decode_reqs": total(decode),
            "prefill_tokens": total(prefill * new),
            "decode_tokens": total(decode * new),
            "decode_kv_tokens_sum": total(decode * (progress + new)),
            "prefill_kv_tokens_sum": total(prefill * progress),
            "prefill_attended_tokens": total(prefill * (new * progress + new * (new + 1) / 2)),
        },
        columns=list(COMPOSITION),
    )


def flatten(batches: Iterable[Sequence[Request]]) -> tuple[np.ndarray, np.ndarray]:
    """Batches as `compose` takes them; raises InputError as `step_row` does."""
    checked = [[_checked(request, number) for number, request in enumerate(batch)] for batch in batches]
    rows = [request for batch in checked for request in batch]
    return np.array(rows, dtype=float).reshape(-1, 3), np.array([len(batch) for batch in checked], dtype=int)


def step_table(deployment: Deployment, batches: Iterable[Sequence[Request]]) -> pd.DataFrame:
    """One row a batch with every column that physics.py and the scale-free features need."""
    return with_deployment(compose(*flatten(batches)), deployment)


def with_deployment(composition: pd.DataFrame, deployment: Deployment) -> pd.DataFrame:
    """Composition rows of one deployment with its setup and architecture columns."""
    return composition.assign(**deployment.columns())


def uniform(
    decodes: np.ndarray, context: np.ndarray, prefill: np.ndarray, before: np.ndarray | float = 0.0
) -> pd.DataFrame:
    """Composition of steps with `decodes` requests of `context` computed tokens each, and one prefill chunk
    of `prefill` tokens.

    Arrays of shape (steps,), or broadcast to it; prefill 0: no chunk; `before`: tokens of that prompt
    computed before.
    """
    decodes, context, prefill, before = np.broadcast_arrays(
        *(np.asarray(values, float) for values in (decodes, context, prefill, before))
    )
    return pd.DataFrame(
        {
            "num_prefill_reqs": (prefill > 0).astype(float),
            "num_decode_reqs": decodes,
            "prefill_tokens": prefill,
            "decode_tokens": decodes,
            "decode_kv_tokens_sum": decodes * (context + 1),
            "prefill_kv_tokens_sum": np.where(prefill > 0, before, 0.0),
            "prefill_attended_tokens": prefill * before + prefill * (prefill + 1) / 2,
        },
        columns=list(COMPOSITION),
    )
