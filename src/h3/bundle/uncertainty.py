"""Which kinds of novelty a step has for a bundle, and the interval that follows.

    evidence = Evidence(trained_on(table), uncertainty)                  # for bundle.write
    intervals(bundle.evidence, table, period_us)                         # low_us, high_us, kind a row

A deployment (model shape, TP degree, GPU) of training is known; any other is a new model, or a new MoE model.
A step is of a new workload where its decoding requests, their mean context or its new prompt tokens lie
outside the range of training. Errors of several novelties are taken as independent: their half widths in log
add in quadrature. A known deployment's interval already holds what a workload's steps add, so a new workload
there replaces it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from h3.bundle.manifest_model import TrainedOn
from h3.bundle.uncertainty_model import KindName, Uncertainty
from h3.common.errors import InputError
from h3.models.support import deployments_of, listed
from h3.steps import catalog, physics

WORKLOAD = ("decode_requests", "context_tokens", "prefill_tokens")
LEVEL = 0.9  # of golden vectors, and where none is asked for
WORDS: dict[KindName, str] = {
    "known": "known deployment",
    "new_workload": "new workload",
    "new_model": "new model",
    "new_moe": "new MoE model",
    "new_gpu": "new GPU",
    "new_gpu_no_kernels": "new GPU without kernel measurements",
}


@dataclass(frozen=True)
class Evidence:
    """What a bundle's fits were trained on, and how far off they may be."""

    trained_on: TrainedOn
    uncertainty: Uncertainty

    @classmethod
    def none(cls, words: str) -> Evidence:
        """Of fits of which no table and no other folds are at hand; `words` say why."""
        nothing = (0.0, 0.0)
        trained = TrainedOn(
            deployments=(), decode_requests=nothing, context_tokens=nothing, prefill_tokens=nothing
        )
        return cls(trained, Uncertainty(levels=(LEVEL,), kinds={}, kernels_measured=(), words=words))


def workload(table: pd.DataFrame) -> pd.DataFrame:
    """What tells workloads apart in a step: decode_requests, context_tokens (mean over them; null where none
    decodes), prefill_tokens; a row a step.
    """
    requests = table["num_decode_reqs"].to_numpy(float)
    tokens = np.nan_to_num(table["decode_kv_tokens_sum"].to_numpy(float))
    mean = np.divide(tokens, requests, out=np.full(len(table), np.nan), where=requests > 0)
    return pd.DataFrame(
        {
            "decode_requests": requests,
            "context_tokens": mean,
            "prefill_tokens": physics.prefill_tokens(table),
        },
        index=table.index,
    )


def trained_on(table: pd.DataFrame) -> TrainedOn:
    """The deployments and ranges of a training table."""
    found = workload(table)
    ranges = {name: (float(found[name].min()), float(found[name].max())) for name in found}
    whole = {name: tuple(np.nan_to_num(values)) for name, values in ranges.items()}
    return TrainedOn.model_validate({"deployments": deployments_of(table), **whole})


def merged(one: TrainedOn, other: TrainedOn) -> TrainedOn:
    """What both were trained on together."""
    more = tuple(each for each in other.deployments if each not in one.deployments)
    ranges = {
        name: (
            min(getattr(one, name)[0], getattr(other, name)[0]),
            max(getattr(one, name)[1], getattr(other, name)[1]),
        )
        for name in WORKLOAD
    }
    return TrainedOn(deployments=one.deployments + more, **ranges)


def kinds(evidence: Evidence, table: pd.DataFrame) -> list[tuple[KindName, ...]]:
    """The kinds of novelty of each row."""
    trained, measured = evidence.trained_on, evidence.uncertainty.kernels_measured
    known = listed(table, tuple(each.model_dump() for each in trained.deployments))
    moe, found = catalog.is_moe(table), workload(table)
    outside = np.zeros(len(table), bool)
    for name in WORKLOAD:
        low, high = getattr(trained, name)
        outside |= ((found[name] < low) | (found[name] > high)).to_numpy()
    seen = {each.hardware for each in trained.deployments}
    gpus: list[tuple[KindName, ...]] = []
    for given in table["hardware"]:
        name = catalog.hardware(str(given)).name
        gpus.append(() if name in seen else ("new_gpu",) if name in measured else ("new_gpu_no_kernels",))
    return [
        _of_row(bool(is_known), bool(is_moe), bool(new), gpu)
        for is_known, is_moe, new, gpu in zip(known, moe, outside, gpus, strict=True)
    ]


def _of_row(known: bool, moe: bool, outside: bool, gpu: tuple[KindName, ...]) -> tuple[KindName, ...]:
    if known:
        return ("new_workload",) if outside else ("known",)
    model: tuple[KindName, ...] = ("new_moe" if moe else "new_model",)
    return model + (("new_workload",) if outside else ()) + gpu


def factors(
    uncertainty: Uncertainty, names: tuple[KindName, ...], level: float
) -> tuple[float, float] | None:
    """Low and high factor of a step of these kinds; None if one of them has no interval.

    Raises InputError for a level that the bundle does not hold.
    """
    if uncertainty.kinds and level not in uncertainty.levels:
        told = ", ".join(f"{100 * each:g}" for each in uncertainty.levels)
        raise InputError(f"level={100 * level:g} %; expected one that the bundle holds: {told}")
    if any(name not in uncertainty.kinds for name in names):
        return None
    at = uncertainty.levels.index(level)
    parts = [uncertainty.kinds[name] for name in names]
    low = np.sqrt(sum(np.log(part.low[at]) ** 2 for part in parts))
    high = np.sqrt(sum(np.log(part.high[at]) ** 2 for part in parts))
    return float(np.exp(-low)), float(np.exp(high))


def intervals(
    evidence: Evidence, table: pd.DataFrame, period_us: np.ndarray, level: float = LEVEL
) -> pd.DataFrame:
    """low_us, high_us (null: no interval) and kind (in words, with what has no interval) a row."""
    found = kinds(evidence, table)
    by_kinds = {names: factors(evidence.uncertainty, names, level) for names in set(found)}
    low, high = np.array([by_kinds[names] or (np.nan, np.nan) for names in found], float).reshape(-1, 2).T
    return pd.DataFrame(
        {
            "low_us": period_us * low,
            "high_us": period_us * high,
            "kind": [_told(evidence.uncertainty, names, by_kinds[names]) for names in found],
        },
        index=table.index,
    )


def _told(uncertainty: Uncertainty, names: tuple[KindName, ...], found: tuple[float, float] | None) -> str:
    """The kinds in words; where no kind has an interval, why."""
    words = " + ".join(WORDS[name] for name in names)
    if found:
        return words
    return f"no interval: {words if uncertainty.kinds else uncertainty.words}"
