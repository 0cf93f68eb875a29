"""How far off a prediction may be: intervals from held-out groups' errors, their coverage measured on groups
that did not set them.

    groups = [residuals("llama-2-7b", predictions), ...]     # a group (model, workload) each, held out
    half_width(groups, 0.9)                                  # |log(observed / predicted)| of 90 % of steps
    coverage(groups, 0.9)                                    # each group under the others' width

A group is the exchangeable unit and its steps are not independent (two-layer data: Dunn, Wasserman and
Ramdas 2023, JASA 118, arXiv:1809.07441). Their pooled distribution, every group weighing the same, gives the
shape: a group has thousands of steps, whose errors have longer tails than the normal distribution's. What is
uncertain is the groups' bias, seen a few times only. A distribution-free bound for it needs at least
L / (1 - L) groups at level L, 9 for 90 %, more than there are: Student's t pays for it instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

LEVELS = (0.5, 0.8, 0.9, 0.95)
LEAST_GROUPS = 2  # from one group no spread between groups is seen, nor coverage
ONE_SIGMA = 0.6827  # share of a normal distribution within one standard deviation, which tails do not move
LEAST_STEPS = 9  # of an experiment that is cut into THIRDS, so that a third is more than an accident


@dataclass(frozen=True)
class Group:
    """One held-out group's steps: log(observed / predicted) and weights, shape (steps,) each; weights sum to
    1.
    """

    name: str
    logs: np.ndarray
    weights: np.ndarray

    @property
    def bias(self) -> float:
        """Weighted mean of the log ratios."""
        return float(self.weights @ self.logs)

    def covered(self, half_width: float) -> float:
        """Share of the steps inside ± half_width, by weight."""
        return float(self.weights @ (np.abs(self.logs) <= half_width))


def residuals(name: str, predictions: pd.DataFrame) -> Group:
    """The group of a fold's predictions (experiment, observed_us, predicted_us): experiments weigh the same,
    and in each its steps.
    """
    logs = np.log(predictions["observed_us"].to_numpy(float) / predictions["predicted_us"].to_numpy(float))
    experiment = predictions["experiment"]
    size = experiment.map(experiment.value_counts()).to_numpy(float)
    return Group(name, logs, 1.0 / (size * experiment.nunique()))


def half_width(groups: Sequence[Group], level: float) -> float:
    """Half width in log of the interval of that level for a step of another group; needs LEAST_GROUPS groups.

    The quantile of |log ratio|, pooled with groups weighing the same, times t / z for few groups: bias and
    spread within a group add, A + B in variance, where only A is uncertain, with one degree of freedom a
    group (0 is the centre; no mean is fitted). Satterthwaite's degrees of freedom (1946, Biometrics Bulletin
    2) are then groups x ((A + B) / A)^2: as many as groups where bias rules, the normal distribution where
    spread does.
    """
    between = float(np.mean([group.bias**2 for group in groups]))
    pooled = quantile(groups, level, centred=False)
    if between == 0:
        return pooled
    within = quantile(groups, ONE_SIGMA, centred=True) ** 2
    freedom = len(groups) * ((between + within) / between) ** 2
    middle = (1 + level) / 2
    return pooled * float(stats.t.ppf(middle, freedom) / stats.norm.ppf(middle))


def quantile(groups: Sequence[Group], level: float, centred: bool) -> float:
    """The smallest |log ratio| (from the group's bias, if centred) that a share `level` of the steps does not
    exceed, groups weighing the same.
    """
    size = np.concatenate([np.abs(group.logs - centred * group.bias) for group in groups])
    weights = np.concatenate([group.weights for group in groups]) / len(groups)
    order = np.argsort(size)
    at = int(np.searchsorted(np.cumsum(weights[order]), level))
    return float(size[order][min(at, len(size) - 1)])


def coverage(groups: Sequence[Group], level: float) -> float | None:
    """Mean over groups of the share of steps inside the interval that the other groups set; None if those
    are too few.
    """
    if len(groups) <= LEAST_GROUPS:
        return None
    shares = [
        group.covered(half_width([*groups[:number], *groups[number + 1 :]], level))
        for number, group in enumerate(groups)
    ]
    return float(np.mean(shares))


def thirds(table: pd.DataFrame) -> list[np.ndarray]:
    """Held-out rows of three parts of the table, bool of shape (rows,) each: the first, middle and last third
    in time of each experiment that has LEAST_STEPS.

    Steps beside each other have the same error, so steps drawn at random would be known from their
    neighbours; a third has neighbours only at its ends.
    """
    ordered = table.sort_values(["experiment", "clock", "step_id"], kind="stable")
    place = ordered.groupby("experiment", sort=False).cumcount()
    size = ordered.groupby("experiment", sort=False)["step_id"].transform("size")
    part = (3 * place // size).where(size >= LEAST_STEPS, -1).reindex(table.index).to_numpy()
    return [part == number for number in range(3)]
