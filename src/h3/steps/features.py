"""Named feature sets: step table → float32 frame, and the manifest that says what each column is.

    frame = features.build("scale_free", table)        # float32, columns in manifest order

>>> manifest("scale_free")[0]["name"], manifest("scale_free")[0]["formula"]
('kv_to_weights', 'kv_us / weights_us')

`scale_free` holds ratios that mean the same for any model, `peak_ratios` those of trees without a base
(peak.py), `raw30` the study's thirty raw features (raw30.py). The same functions serve training, serving and
export. None of them has a state: nothing is learned from rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from h3.common.errors import InputError
from h3.steps import base_shares, peak, physics, raw30


@dataclass(frozen=True)
class Feature:
    """One column of a feature set; `formula` is in terms of physics.py and the step table, `group` serves
    ablation.

    `rising`: whether a correction may only grow with it. It does for what grows with batch, context and
    prefill tokens, so that a step with more work never takes less time.
    """

    name: str
    group: str
    unit: str
    formula: str
    rising: bool = False


USUAL = "scale_free"  # of a run that asks for no other set

SCALE_FREE = (
    Feature("kv_to_weights", "memory", "ratio", "kv_us / weights_us", rising=True),
    Feature("compute_to_weights", "compute", "ratio", "gemm_us / weights_us", rising=True),
    Feature("compute_excess_to_weights", "compute", "ratio", "compute_excess_us / weights_us", rising=True),
    Feature(
        "prefill_attention_to_weights", "prefill", "ratio", "prefill_attention_us / weights_us", rising=True
    ),
    Feature("all_reduce_to_weights", "communication", "ratio", "all_reduce_us / weights_us", rising=True),
    Feature(
        "prefill_share", "prefill", "ratio", "prefill_tokens / (prefill_tokens + decode_tokens)", rising=True
    ),
    Feature("prefill_step_share", "prefill", "ratio", "min(1, num_prefill_reqs)", rising=True),
    Feature(
        "expert_coverage", "experts", "ratio", "1 - (1 - experts_per_token / num_experts)^tokens; 1 for dense"
    ),
    Feature(
        "tokens_per_expert", "experts", "tokens", "tokens * experts_per_token / num_experts; 0 for dense"
    ),
)


def _scale_free(table: pd.DataFrame, terms: pd.DataFrame | None) -> dict[str, np.ndarray]:
    terms = physics.terms_us(table) if terms is None else terms
    weights = terms["weights_us"].to_numpy()
    new, decode = physics.prefill_tokens(table), physics.decode_tokens(table)
    return {
        "kv_to_weights": terms["kv_us"] / weights,
        "compute_to_weights": physics.averaged(table, physics.gemm_us) / weights,
        "compute_excess_to_weights": terms["compute_excess_us"] / weights,
        "prefill_attention_to_weights": terms["prefill_attention_us"] / weights,
        "all_reduce_to_weights": terms["all_reduce_us"] / weights,
        "prefill_share": new / np.maximum(new + decode, 1e-12),
        "prefill_step_share": physics.prefill_share(table),
        "expert_coverage": physics.averaged(table, physics.expert_coverage),
        "tokens_per_expert": physics.averaged(table, physics.tokens_per_expert),
    }


@dataclass(frozen=True)
class FeatureSet:
    """A named list of features and the one function that computes them all."""

    name: str
    features: tuple[Feature, ...]
    compute: Callable[[pd.DataFrame, pd.DataFrame | None], dict[str, np.ndarray]]


SETS = {
    "scale_free": FeatureSet("scale_free", SCALE_FREE, _scale_free),
    base_shares.NAME: FeatureSet(
        base_shares.NAME, tuple(Feature(*row) for row in base_shares.FEATURES), base_shares.compute
    ),
    peak.NAME: FeatureSet(peak.NAME, tuple(Feature(*row) for row in peak.FEATURES), peak.compute),
    "raw30": FeatureSet(
        "raw30",
        tuple(Feature(*row) for row in raw30.FEATURES),
        lambda table, _: raw30.compute(table),
    ),
}


def feature_set(name: str) -> FeatureSet:
    """The feature set of that name; raises InputError listing the names."""
    if name not in SETS:
        raise InputError(f"unknown feature set {name!r}; expected one of {', '.join(SETS)}")
    return SETS[name]


def build(
    name: str, table: pd.DataFrame, drop_groups: tuple[str, ...] = (), terms: pd.DataFrame | None = None
) -> pd.DataFrame:
    """The features of a step table: float32 of shape (rows, features), columns in manifest order.

    `terms`: physics.terms_us(table) where it is known already.
    """
    chosen = feature_set(name)
    columns = chosen.compute(table, terms)
    names = [feature.name for feature in chosen.features if feature.group not in drop_groups]
    return pd.DataFrame({key: np.asarray(columns[key], dtype=np.float32) for key in names}, index=table.index)


def monotone_constraints(name: str, drop_groups: tuple[str, ...] = ()) -> dict[str, int]:
    """XGBoost's monotone_constraints: 1 for each feature of the set that is marked as rising."""
    return {
        feature.name: 1
        for feature in feature_set(name).features
        if feature.rising and feature.group not in drop_groups
    }


def manifest(name: str, drop_groups: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Order, name, dtype, unit, group and formula of each feature of the set."""
    kept = [feature for feature in feature_set(name).features if feature.group not in drop_groups]
    return [
        {
            "index": index,
            "name": feature.name,
            "dtype": "float32",
            "unit": feature.unit,
            "group": feature.group,
            "formula": feature.formula,
        }
        for index, feature in enumerate(kept)
    ]
