"""Is one predictor better than another, or is the difference noise? Paired block bootstrap on the same steps.

    # Difference(difference=-3.1, interval=(-3.6, -2.7), verdict="better", n_steps=9000)
    compare(ours, rival, seed=0)

A resample draws the same blocks of consecutive steps for both, so what makes a step hard for both cancels. As
the mean is linear, that is the bootstrap of the difference of the errors (metrics.bootstrap_means).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import pandas as pd

from h3.common.errors import InputError
from h3.common.records import Record
from h3.steps import metrics

KEYS = ["experiment", "clock", "step_id"]
VALUES = ["observed_us", "ape"]
COLUMNS = [*KEYS, *VALUES]
WORKERS = 2


def paired(ours: pd.DataFrame, rival: pd.DataFrame) -> pd.DataFrame:
    """Steps that both predicted, in time order: KEYS, observed_us_ours, observed_us_rival, ape_ours,
    ape_rival (%).

    A predictor that is scored on some of the steps only is compared on those. Raises InputError if the two
    have no step in common, or different truths for one.
    """
    both = _beside(ours, rival) if _same_steps(ours, rival) else _merged(ours, rival)
    if both.empty:
        raise InputError("no step in common; expected predictions of the same fold")
    different = np.flatnonzero(~np.isclose(both["observed_us_ours"], both["observed_us_rival"]))
    if len(different):
        row = both.iloc[different[0]]
        raise InputError(
            f"step {row['step_id']} of {row['experiment']} took {row['observed_us_ours']:.0f} us in one run"
            f" and {row['observed_us_rival']:.0f} us in the other; expected the same target"
        )
    return both if _in_time_order(both) else both.sort_values(KEYS, kind="stable").reset_index(drop=True)


def _same_steps(ours: pd.DataFrame, rival: pd.DataFrame) -> bool:
    """Whether both have the same steps in the same order, as the folds of one sweep do."""
    return len(ours) == len(rival) and all(
        np.array_equal(ours[key].to_numpy(), rival[key].to_numpy()) for key in KEYS
    )


def _in_time_order(rows: pd.DataFrame) -> bool:
    """Whether KEYS never fall, the first before the second before the third."""
    rises = np.zeros(max(len(rows) - 1, 0), dtype=bool)
    for key in KEYS:
        values = rows[key]
        change = np.diff(
            values.to_numpy() if values.dtype.kind in "iuf" else pd.factorize(values, sort=True)[0]
        )
        if (change[~rises] < 0).any():
            return False
        rises |= change > 0
    return True


def _beside(ours: pd.DataFrame, rival: pd.DataFrame) -> pd.DataFrame:
    values = {
        f"{name}_{side}": frame[name].to_numpy()
        for side, frame in (("ours", ours), ("rival", rival))
        for name in VALUES
    }
    return ours[KEYS].reset_index(drop=True).assign(**values)


def _merged(ours: pd.DataFrame, rival: pd.DataFrame) -> pd.DataFrame:
    """Rows with the same keys are told apart by their order."""
    left, right = (frame[COLUMNS].assign(nth=frame.groupby(KEYS).cumcount()) for frame in (ours, rival))
    both = left.merge(right, on=[*KEYS, "nth"], suffixes=("_ours", "_rival"), validate="one_to_one")
    return both.sort_values([*KEYS, "nth"]).drop(columns="nth").reset_index(drop=True)


class Difference(Record):
    """Macro MAPE of ours minus the rival's on the same steps, points, with its 95 % interval.

    Negative: ours is better.
    verdict: better, worse, or noise where the interval holds 0.
    """

    difference: float
    interval: tuple[float, float]
    verdict: Literal["better", "worse", "noise"]
    n_steps: int
    predictor: str = ""
    fold: str = ""
    sees_held_out: bool = False


def compare(ours: pd.DataFrame, rival: pd.DataFrame, seed: int = 0) -> Difference:
    """The difference between two predictors on the steps that both predicted."""
    both = paired(ours, rival)
    difference = (both["ape_ours"] - both["ape_rival"]).to_numpy()
    experiment = both["experiment"].to_numpy()
    means = metrics.bootstrap_means(difference, experiment, seed)
    low, high = (float(value) for value in np.quantile(means, [0.025, 0.975]))
    verdict: Literal["better", "worse", "noise"] = (
        "noise" if low <= 0 <= high else ("better" if high < 0 else "worse")
    )
    point = float(pd.Series(difference).groupby(experiment).mean().mean())
    return Difference(difference=point, interval=(low, high), verdict=verdict, n_steps=len(both))


def table(
    ours: pd.DataFrame, rivals: Mapping[str, Callable[[], pd.DataFrame | None]], seed: int = 0
) -> list[Difference]:
    """Ours against each rival on one fold: predictor, and what `compare` says, in the order of the rivals.

    rivals: name → what reads its predictions (COLUMNS); a rival that has none (None) gives no row. Two are
    read at a time.
    """

    def row(name: str) -> Difference | None:
        rival = rivals[name]()
        return None if rival is None else compare(ours, rival, seed).model_copy(update={"predictor": name})

    with ThreadPoolExecutor(WORKERS) as pool:
        return [found for found in pool.map(row, rivals) if found]
