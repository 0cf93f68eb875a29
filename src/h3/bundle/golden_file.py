"""golden.json: the golden cases with features, base, margin and us, which any evaluator must give.

    content = make(predict, feature_names, evidence)              # at least 500 vectors
    compare(parse(dump(content), "golden.json"), fitted_by_route, predict, evidence, "golden.json")

A vector: {"config", "tensor_parallelism", "hardware", "requests": [[progress_index, new_tokens,
prompt_tokens], ...], "features", "base_us", "trust", "margin", "us", "low_us", "high_us", "kind"}; low_us and
high_us are null where there is no interval; `config` names one of the HuggingFace configs beside the vectors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import ConfigDict, Field

from h3.bundle.golden import CONFIGS, TOLERANCE, TRUNCATED, cases, relative, table_of
from h3.bundle.json_file import Array, Part, checked, shown
from h3.bundle.manifest import FitsByRoute, feature_list
from h3.bundle.uncertainty import LEVEL, Evidence, intervals
from h3.common.errors import InputError
from h3.steps import catalog
from h3.steps.batch import Request

LIMITS = {
    "feature": TOLERANCE["features"],
    "margin": 1e-5,
    "us": TOLERANCE["us"],
    "interval": TOLERANCE["us"],
}
MIN_VECTORS = 500
# Features, base_us, trust, margin and us of a step table.
Predict = Callable[[pd.DataFrame], pd.DataFrame]


class Vector(Part):
    """A case and what is compared; a reader ignores the rest."""

    model_config = ConfigDict(extra="ignore")

    config: str
    tensor_parallelism: int
    hardware: str
    requests: Annotated[tuple[Annotated[Request, Array], ...], Array]
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


def compare(
    content: object, fitted_by_route: FitsByRoute, predict: Predict, evidence: Evidence, where: str
) -> Worst:
    """What differs between the vectors and what is computed now, the margin with XGBoost and with a plain
    tree walker.

    Raises InputError if the content is no golden file on the trees' features, and for the first vector off.
    """
    golden = checked(content, Golden, where)
    vectors, names = golden.vectors, [entry["name"] for entry in feature_list(fitted_by_route)]
    _check_features(golden, names, where)
    chosen = [(each.config, each.tensor_parallelism, each.hardware, each.requests) for each in vectors]
    table = table_of(chosen, golden.configs, golden.truncated_sampling)
    numbers = predict(table)
    features = np.array([each.features for each in vectors])
    margin = np.array([each.margin for each in vectors])
    found = margins(fitted_by_route, table, numbers[names])
    off = {
        "feature": relative(numbers[names].to_numpy(), features).max(axis=1),
        "margin": np.maximum(*(relative(each, margin) for each in found)),
        "us": relative(numbers["us"].to_numpy(), np.array([each.us for each in vectors])),
        "interval": _off_interval(intervals(evidence, table, numbers["us"].to_numpy()), vectors),
    }
    for name, limit in LIMITS.items():
        bad = np.flatnonzero(~(off[name] <= limit))
        if len(bad):
            raise InputError(
                f"{where}: vector {bad[0]}: {name} differs by {off[name][bad[0]]:.3g} relative; expected at"
                f" most {limit}"
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


def _check_features(golden: Golden, names: list[str], where: str) -> None:
    if list(golden.feature_names) != names:
        told = ", ".join(golden.feature_names)
        raise InputError(f"{where}: feature_names: {shown(told)}; expected {', '.join(names)}")
    for number, vector in enumerate(golden.vectors):
        if len(vector.features) != len(names):
            raise InputError(
                f"{where}: vector {number} has {len(vector.features)} features; expected {len(names)}"
            )


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
