"""golden.json: the golden cases with features, base, margin and us, which any evaluator must give.

    content = make(predict, feature_names, evidence)              # at least 500 vectors
    golden = checked_file(parse(dump(content), "golden.json"), feature_names, hardware, "golden.json")
    compare(golden, golden.sample(), Evaluator(predict, evidence, margins), "golden.json")

A vector: {"config", "tensor_parallelism", "hardware", "requests": [[progress_index, new_tokens,
prompt_tokens], ...], "features", "base_us", "trust", "margin", "us", "low_us", "high_us", "kind"}; low_us and
high_us are null where there is no interval; `config` names one of the HuggingFace configs beside the vectors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import ConfigDict, Field

from h3.bundle.golden import CONFIGS, TOLERANCE, TRUNCATED, cases, relative, table_of
from h3.bundle.json_file import Array, Part, checked, shown
from h3.bundle.manifest import FitsByRoute
from h3.bundle.manifest_model import HardwareName
from h3.bundle.uncertainty import LEVEL, Evidence, intervals
from h3.common.errors import InputError
from h3.steps import catalog
from h3.steps.batch import MAX_TOKENS

LIMITS = {
    "feature": TOLERANCE["features"],
    "margin": 1e-5,
    "us": TOLERANCE["us"],
    "interval": TOLERANCE["us"],
}
MIN_VECTORS = 500
SAMPLED = 24  # vectors that are evaluated whenever a bundle is read
Tokens = Annotated[int, Field(ge=0, le=MAX_TOKENS)]
# Features, base_us, trust, margin and us of a step table.
Predict = Callable[[pd.DataFrame], pd.DataFrame]
# Margins of a step table and its predictions, float32 of shape (rows,), by each way to compute them.
Margins = Callable[[pd.DataFrame, pd.DataFrame], Sequence[np.ndarray]]


class Vector(Part):
    """A case and what is compared; a reader ignores the rest."""

    model_config = ConfigDict(extra="ignore")

    config: str
    tensor_parallelism: int = Field(ge=1, le=65536)
    hardware: HardwareName
    requests: Annotated[tuple[Annotated[tuple[Tokens, Tokens, Tokens], Array], ...], Array]
    features: Annotated[tuple[float, ...], Array]
    margin: float
    us: float
    low_us: float | None
    high_us: float | None
    kind: str


class Golden(Part):
    """The file, as far as it is read."""

    model_config = ConfigDict(extra="ignore")

    format: Literal["h3-golden"]
    feature_names: Annotated[tuple[str, ...], Array]
    configs: dict[str, dict[str, Any]]
    truncated_sampling: Annotated[tuple[str, ...], Array]
    vectors: Annotated[tuple[Vector, ...], Array, Field(min_length=MIN_VECTORS)]

    def sample(self) -> list[int]:
        """SAMPLED vectors, spread evenly, and the first of each accelerator."""
        spread = (number * (len(self.vectors) - 1) // (SAMPLED - 1) for number in range(SAMPLED))
        first: dict[str, int] = {}
        for number, vector in enumerate(self.vectors):
            first.setdefault(vector.hardware.lower(), number)
        return sorted({*spread, *first.values()})


@dataclass(frozen=True)
class Evaluator:
    """What vectors are compared with: predictions, what is known of their errors, and margins."""

    predict: Predict
    evidence: Evidence
    margins: Margins


@dataclass(frozen=True)
class Worst:
    """How many vectors agree, and the largest relative difference of each kind."""

    vectors: int
    feature: float
    margin: float
    us: float
    interval: float


def make(predict: Predict, names: list[str], evidence: Evidence) -> dict[str, Any]:
    """The file's content for trees on these features; intervals are of uncertainty.LEVEL."""
    chosen = cases()
    table = table_of(chosen, CONFIGS)
    found = predict(table)
    found = found.join(intervals(evidence, table, found["us"].to_numpy()))
    numbers = found.astype(object).where(found.notna(), None).to_dict("records")
    vectors = [
        {
            "config": name,
            "tensor_parallelism": degree,
            "hardware": hardware,
            "requests": [list(request) for request in batch],
            "features": [_short(row[feature]) for feature in names],
            "base_us": float(row["base_us"]),
            "trust": float(row["trust"]),
            "margin": _short(row["margin"]),
            "us": float(row["us"]),
            "low_us": row["low_us"],
            "high_us": row["high_us"],
            "kind": row["kind"],
        }
        for (name, degree, hardware, batch), row in zip(chosen, numbers, strict=True)
    ]
    return {
        "format": "h3-golden",
        "tolerance": TOLERANCE,
        "level": LEVEL,
        "feature_names": names,
        "configs": CONFIGS,
        "truncated_sampling": list(TRUNCATED),
        "vectors": vectors,
    }


def _short(value: float) -> float:
    """A float32 as the shortest decimal that rounds to it."""
    return float(str(np.float32(value)))


def dump(content: dict[str, Any]) -> bytes:
    """JSON with a vector a line."""
    head = json.dumps(
        {key: value for key, value in content.items() if key != "vectors"}, separators=(",", ":")
    )
    lines = ",\n".join(json.dumps(vector, separators=(",", ":")) for vector in content["vectors"])
    return f'{head[:-1]},"vectors":[\n{lines}\n]}}\n'.encode()


def checked_file(content: object, names: list[str], hardware: Collection[str], where: str) -> Golden:
    """The file of trees on these features, each vector on hardware (names in lower case) that is there;
    raises InputError for any other content.
    """
    golden = checked(content, Golden, where)
    if list(golden.feature_names) != names:
        told = ", ".join(golden.feature_names)
        raise InputError(f"{where}: feature_names: {shown(told)}; expected {', '.join(names)}")
    for number, vector in enumerate(golden.vectors):
        if len(vector.features) != len(names):
            raise InputError(
                f"{where}: vector {number} has {len(vector.features)} features; expected {len(names)}"
            )
        for kind, name, known in (
            ("config", vector.config, golden.configs),
            ("hardware", vector.hardware.lower(), hardware),
        ):
            if name not in known:
                raise InputError(
                    f"{where}: vector {number}: {kind} {shown(name)!r} is not among {', '.join(known)}"
                )
    return golden


def compare(golden: Golden, numbers: Sequence[int], evaluator: Evaluator, where: str) -> Worst:
    """What differs between the vectors of these numbers and what is computed now; raises InputError for the
    first vector off.
    """
    vectors, names = [golden.vectors[number] for number in numbers], list(golden.feature_names)
    chosen = [(each.config, each.tensor_parallelism, each.hardware, each.requests) for each in vectors]
    try:
        table = table_of(chosen, golden.configs, golden.truncated_sampling)
        computed = evaluator.predict(table)
        found = intervals(evaluator.evidence, table, computed["us"].to_numpy())
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    margin = np.array([each.margin for each in vectors])
    features = np.array([each.features for each in vectors])
    off = {
        "feature": relative(computed[names].to_numpy(), features).max(axis=1),
        "margin": np.max([relative(each, margin) for each in evaluator.margins(table, computed)], axis=0),
        "us": relative(computed["us"].to_numpy(), np.array([each.us for each in vectors])),
        "interval": _off_interval(found, vectors),
    }
    for name, limit in LIMITS.items():
        bad = np.flatnonzero(~(off[name] <= limit))
        if len(bad):
            raise InputError(
                f"{where}: vector {numbers[bad[0]]}: {name} differs by {off[name][bad[0]]:.3g} relative;"
                f" expected at most {limit}"
            )
    return Worst(len(vectors), **{name: float(values.max()) for name, values in off.items()})


def _off_interval(found: pd.DataFrame, vectors: Sequence[Vector]) -> np.ndarray:
    """Relative difference of the interval's ends, the larger; infinite where only one says that there is one,
    or kinds differ.
    """
    worst = np.array(
        [0.0 if each.kind == kind else np.inf for each, kind in zip(vectors, found["kind"], strict=True)]
    )
    for name in ("low_us", "high_us"):
        here, there = found[name].to_numpy(), np.array([getattr(each, name) for each in vectors], float)
        off = np.where(np.isnan(here) & np.isnan(there), 0.0, relative(here, there))
        worst = np.maximum(worst, np.nan_to_num(off, nan=np.inf))
    return worst


def margins(
    fitted_by_route: FitsByRoute, table: pd.DataFrame, matrix: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray]:
    """The sum of leaves by XGBoost, and by the walker of models/trees.py; float32 of shape (rows,) each."""
    moe = catalog.is_moe(table)
    boosted, walked = np.zeros(len(table), np.float32), np.zeros(len(table), np.float32)
    for route, rows in (("dense", ~moe), ("moe", moe)):
        trees = fitted_by_route[route].boosted
        if rows.any():
            boosted[rows] = trees.boosted_margin(matrix[rows])
            walked[rows] = trees.trees.margin(matrix[rows].to_numpy(np.float32))
    return boosted, walked
