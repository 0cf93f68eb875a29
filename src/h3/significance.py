"""Is one predictor better than another, or is the difference noise? Paired block bootstrap on the same steps.

    compare(ours, rival, seed=0)       # {"difference": -3.1, "interval": [-3.6, -2.7], "verdict": "better", "n_steps": 9000}

A resample draws the same blocks of consecutive steps for both, so what makes a step hard for both cancels. As the mean is
linear, that is the bootstrap of the difference of the errors (metrics.bootstrap_means).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from h3 import metrics
from h3.errors import InputError

KEYS = ["experiment", "clock", "step_id"]
COLUMNS = [*KEYS, "observed_us", "ape"]


def paired(ours: pd.DataFrame, rival: pd.DataFrame) -> pd.DataFrame:
    """Steps that both predicted, in time order: KEYS, ape_ours, ape_rival (%).

    A predictor that is scored on some of the steps only is compared on those. Raises InputError if the two have no step in
    common, or different truths for one.
    """
    both = _numbered(ours).merge(_numbered(rival), on=[*KEYS, "nth"], suffixes=("_ours", "_rival"), validate="one_to_one")
    if both.empty:
        raise InputError("no step in common; expected predictions of the same fold")
    different = np.flatnonzero(~np.isclose(both["observed_us_ours"], both["observed_us_rival"]))
    if len(different):
        row = both.iloc[different[0]]
        raise InputError(
            f"step {row['step_id']} of {row['experiment']} took {row['observed_us_ours']:.0f} us in one run and "
            f"{row['observed_us_rival']:.0f} us in the other; expected the same target"
        )
    return both.sort_values([*KEYS, "nth"], kind="stable").reset_index(drop=True)


def _numbered(predictions: pd.DataFrame) -> pd.DataFrame:
    """Rows with the same key are told apart by their order."""
    kept = predictions[COLUMNS]
    return kept.assign(nth=kept.groupby(KEYS).cumcount())


def compare(ours: pd.DataFrame, rival: pd.DataFrame, seed: int = 0) -> dict:
    """Macro MAPE of ours minus the rival's on the same steps, points, with its 95 % interval; negative: ours is better.

    verdict: better, worse, or noise where the interval holds 0.
    """
    both = paired(ours, rival)
    difference = (both["ape_ours"] - both["ape_rival"]).to_numpy()
    experiment = both["experiment"].to_numpy()
    means = metrics.bootstrap_means(difference, experiment, seed)
    low, high = (float(value) for value in np.quantile(means, [0.025, 0.975]))
    verdict = "noise" if low <= 0 <= high else ("better" if high < 0 else "worse")
    point = float(pd.Series(difference).groupby(experiment).mean().mean())
    return {"difference": point, "interval": [low, high], "verdict": verdict, "n_steps": len(both)}


def table(predictions: dict[tuple[str, str], pd.DataFrame], model: str, seed: int = 0) -> list[dict]:
    """Ours against every other predictor on every fold: fold, predictor, and what `compare` says.

    predictions: (fold, predictor) → predictions. A fold where ours or the rival has none gives no row.
    """
    rows = []
    for (fold, predictor), rival in sorted(predictions.items()):
        if predictor != model and (fold, model) in predictions:
            rows.append({"fold": fold, "predictor": predictor, **compare(predictions[fold, model], rival, seed)})
    return rows
