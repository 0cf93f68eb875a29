"""Do the folds agree on which features matter? Rankings by mean |SHAP|, one a fold, compared.

    measure({"lowo_general": ranking, "lowo_codegen": other}).kendall_w  # 1: all rank alike, 0: no agreement

A ranking is the table of explain.ranking: feature, mean_abs_shap, rank. Folds without trees, or whose trees
contribute nothing, rank nothing; they are counted, not averaged. Source of W: Kendall and Babington Smith
1939, doi:10.1214/aoms/1177732186 (here with the correction for ties).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field
from scipy.stats import rankdata

from h3.common.records import Interval, Number, Record

TOP = 10
DRAWS = 1000
Rankings = Mapping[str, pd.DataFrame | None]


class Pair(Record):
    """Spearman's correlation of two folds with its 95 % interval."""

    folds: tuple[str, str]
    rho: Number
    interval: Interval


class Chance(Record):
    """What permuted ranks give: means, the best 5 %, and the share of draws that agree as much."""

    kendall_w_mean: Number
    kendall_w_95: Number
    rank_std_mean: Number
    rank_std_05: Number
    p_value: Number


class Stability(Record):
    """How much some folds agree; numbers are None where fewer than two folds have trees, or where these share
    no feature (trees with levels have features of their own).

    top: features by mean rank; ranks: fold → feature → rank, of those.
    """

    folds: list[str]
    folds_without_trees: list[str]
    n_folds: int
    top: tuple[str, ...] = ()
    ranks: dict[str, dict[str, float]] = Field(default={})
    rank_std: Number = None
    kendall_w: Number = None
    spearman: tuple[Pair, ...] = ()
    baseline: Chance | None = None


def ranks(rankings: Rankings) -> pd.DataFrame:
    """Ranks of the features that all folds with contributing trees share, shape (features, folds), 1 the most
    important.

    Ordered by mean rank; equal importance shares the mean of its ranks.
    """
    importance = {
        fold: ranking.set_index("feature")["mean_abs_shap"]
        for fold, ranking in rankings.items()
        if ranking is not None and (ranking["mean_abs_shap"] > 0).any()
    }
    if not importance:
        return pd.DataFrame()
    frame = pd.DataFrame(importance).dropna().rank(ascending=False, method="average")
    order = (
        frame.mean(axis=1)
        .rename("mean")
        .to_frame()
        .assign(name=frame.index)
        .sort_values(["mean", "name"])
        .index
    )
    return frame.loc[order]


def rank_std(table: np.ndarray) -> float:
    """Mean over the ten features of best mean rank of their standard deviation over folds (n - 1); NaN for
    one fold.
    """
    if table.shape[1] < 2:
        return float("nan")
    return float(_rank_stds(table[None])[0])


def _rank_stds(tables: np.ndarray) -> np.ndarray:
    """`rank_std` of each table of shape (tables, features, folds)."""
    top = np.argsort(tables.mean(axis=2), axis=1, kind="stable")[:, :TOP]
    return np.take_along_axis(tables.std(axis=2, ddof=1), top, axis=1).mean(axis=1)


def kendall_w(table: np.ndarray) -> float:
    """Kendall's coefficient of concordance of ranks of shape (features, folds), corrected for ties; NaN for
    one fold.

    W = 12 S / (m²(n³ - n) - m T): S the squared deviations of rank sums, T the sum of t³ - t over ties of
    each fold.
    """
    n, m = table.shape
    if m < 2 or n < 2:
        return float("nan")
    sums = table.sum(axis=1)
    ties = sum(
        (counts**3 - counts).sum()
        for counts in (np.unique(column, return_counts=True)[1] for column in table.T)
    )
    scale = m**2 * (n**3 - n) - m * ties
    return float(12 * ((sums - sums.mean()) ** 2).sum() / scale) if scale > 0 else float("nan")


def spearman(first: np.ndarray, second: np.ndarray, rng: np.random.Generator) -> tuple[float, float, float]:
    """Spearman's correlation of two rankings with its 95 % interval, features resampled with replacement."""
    draws = rng.integers(0, len(first), (DRAWS, len(first)))
    values = _correlation(rankdata(first[draws], axis=1), rankdata(second[draws], axis=1))
    point = _correlation(rankdata(first)[None], rankdata(second)[None])[0]
    if not np.isfinite(values).any():
        return float(point), float("nan"), float("nan")
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(point), float(low), float(high)


def _correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each row, NaN where a side is constant."""
    first, second = first - first.mean(axis=1, keepdims=True), second - second.mean(axis=1, keepdims=True)
    scale = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    return np.divide((first * second).sum(axis=1), scale, out=np.full(len(first), np.nan), where=scale > 0)


def baseline(table: np.ndarray, rng: np.random.Generator) -> Chance:
    """What chance gives: W and rank std with each fold's ranks permuted; p is the share of draws that agree
    as much.
    """
    draws = rng.permuted(np.broadcast_to(table, (DRAWS, *table.shape)), axis=1)
    spread = ((draws.sum(axis=2) - table.sum(axis=1).mean()) ** 2).sum(axis=1)
    observed = ((table.sum(axis=1) - table.sum(axis=1).mean()) ** 2).sum()
    # Ties and sizes stay: W goes with S.
    chance_w = spread * (kendall_w(table) / observed) if observed > 0 else np.zeros(DRAWS)
    chance_std = _rank_stds(draws)
    return Chance(
        kendall_w_mean=float(chance_w.mean()),
        kendall_w_95=float(np.quantile(chance_w, 0.95)),
        rank_std_mean=float(chance_std.mean()),
        rank_std_05=float(np.quantile(chance_std, 0.05)),
        p_value=float((1 + (chance_w >= kendall_w(table) - 1e-12).sum()) / (1 + DRAWS)),
    )


def measure(rankings: Rankings, seed: int = 0) -> Stability:
    """Everything about the agreement of some folds; rankings: fold → ranking, None for a fold without one."""
    table = ranks(rankings)
    known: dict[str, Any] = {
        "folds": list(table.columns),
        "folds_without_trees": sorted(set(rankings) - set(table.columns)),
        "n_folds": len(rankings),
        "top": tuple(table.index[:TOP]),
    }
    if table.empty or table.shape[1] < 2:
        return Stability(**known)
    rng, values = np.random.default_rng(seed), table.to_numpy(float)
    return Stability(
        **known,
        ranks={fold: table[fold].head(TOP).to_dict() for fold in table.columns},
        rank_std=rank_std(values),
        kendall_w=kendall_w(values),
        spearman=_pairs(table, rng),
        baseline=baseline(values, rng),
    )


def _pairs(table: pd.DataFrame, rng: np.random.Generator) -> tuple[Pair, ...]:
    pairs = []
    for first, second in combinations(table.columns, 2):
        rho, low, high = spearman(table[first].to_numpy(), table[second].to_numpy(), rng)
        pairs.append(Pair(folds=(first, second), rho=rho, interval=(low, high)))
    return tuple(pairs)
