"""The step clock of a request log: how many steps the server had made at each moment.

>>> first_us = np.arange(0.0, 50e6, 1e6)        # a request a second, each decodes 200 steps in two seconds
>>> inversion = invert(Intervals(first_us, first_us + 2e6, np.full(50, 200.0)))
>>> first, last, period_us = inversion.clock.window_at(np.array([1000.0]))
>>> period_us.round()
array([10000.])

While a request decodes, every step gives it one token, and all running requests share one step counter N(t).
So request i says N(last_i) - N(first_i) = output_tokens_i - 1, and thousands of overlapping requests
determine N. N is piecewise linear between knots, found by least squares with a penalty on the change of its
slope (a P-spline: Eilers and Marx 1996, doi:10.1214/ss/1038425655) and a weak pull of its slope to one common
rate. The pull is for saturated servers: where a request starts exactly when another ends, the log cannot tell
a rate that swings once per request length from a constant one, and without the pull noise decides
(codellama-34b reasoning: swings of 18-36 ms).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

# Chosen on the shared H100 logs by the residual of requests left out of the inversion: it is smallest
# (0.016-0.05 %) at this pair on 11 of 12 logs; finer knots or a weaker penalty fit noise (EXPERIMENTS.md,
# clock).
KNOT_US = 100_000.0
SMOOTHNESS = 0.3
# Small against one observed interval (weight 1 over some 50 knots), large against what no interval sees.
RATE_PULL = 0.1
# The counter is pinned where a request starts or ends; a period is the mean over a window that holds so many
# of them.
EVENTS_IN_WINDOW = 12
# A request whose tokens miss the common clock by more than this was recorded wrongly (re-tokenised, merged
# chunks).
OFF_CLOCK_STEPS = 2.0
OFF_CLOCK_RATIO = 0.02
REWEIGHTINGS = 3
# A tiny pull to zero fixes the free constant of N without moving its slope measurably.
RIDGE = 1e-9


@dataclass(frozen=True)
class Intervals:
    """Observed intervals of the step counter: start_us < end_us and the steps made between, arrays of shape
    (n,).
    """

    start_us: np.ndarray
    end_us: np.ndarray
    steps: np.ndarray

    def where(self, mask: np.ndarray) -> Intervals:
        """The intervals that the boolean mask of shape (n,) keeps."""
        return Intervals(self.start_us[mask], self.end_us[mask], self.steps[mask])


@dataclass(frozen=True)
class BusyTime:
    """Time without its uncovered stretches: segments [start_us, end_us) laid end to end."""

    start_us: np.ndarray
    end_us: np.ndarray

    @property
    def total_us(self) -> float:
        """Length of all segments, us."""
        return float((self.end_us - self.start_us).sum())

    def _offsets(self) -> np.ndarray:
        return np.concatenate([[0.0], np.cumsum(self.end_us - self.start_us)])

    def from_wall(self, time_us: np.ndarray) -> np.ndarray:
        """Busy time at wall times; a time between segments maps to their border."""
        segment = np.clip(np.searchsorted(self.start_us, time_us, side="right") - 1, 0, None)
        inside = np.clip(time_us, self.start_us[segment], self.end_us[segment]) - self.start_us[segment]
        return self._offsets()[segment] + inside

    def to_wall(self, busy_us: np.ndarray) -> np.ndarray:
        """Wall times at busy times in [0, total_us]."""
        offsets = self._offsets()
        segment = np.clip(np.searchsorted(offsets, busy_us, side="right") - 1, 0, len(self.start_us) - 1)
        return self.start_us[segment] + (busy_us - offsets[segment])


@dataclass(frozen=True)
class StepClock:
    """The step counter N over busy time: `steps` at knots every `knot_us`, non-decreasing, 0 at the first
    knot.

    resolution_us is the width of the window over which a period is meaningful.
    """

    busy: BusyTime
    knot_us: float
    steps: np.ndarray
    resolution_us: float

    def steps_at(self, time_us: np.ndarray) -> np.ndarray:
        """Steps made (a real number) at the given wall times."""
        return np.interp(self.busy.from_wall(time_us), np.arange(len(self.steps)) * self.knot_us, self.steps)

    def _busy_at(self, steps: np.ndarray) -> np.ndarray:
        return np.interp(steps, self.steps, np.arange(len(self.steps)) * self.knot_us)

    def time_us_at(self, steps: np.ndarray) -> np.ndarray:
        """Wall time at which the counter reaches the given numbers."""
        return self.busy.to_wall(self._busy_at(steps))

    def between(self, running_sum: np.ndarray, window: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """What a running sum at the knots grows by from the first to the last step of each window."""
        knots = np.arange(len(self.steps)) * self.knot_us
        low, high = (np.interp(self._busy_at(bound), knots, running_sum) for bound in window)
        return high - low

    def window_at(self, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The window of `resolution_us` busy time around each given step: first step, last step and mean
        period in us.

        The period is NaN where the counter stands still in the window.
        """
        knots = np.arange(len(self.steps)) * self.knot_us
        centre = self._busy_at(steps + 0.5)
        half = self.resolution_us / 2
        low, high = np.clip(centre - half, 0, knots[-1]), np.clip(centre + half, 0, knots[-1])
        first, last = np.interp(low, knots, self.steps), np.interp(high, knots, self.steps)
        made = last - first
        return first, last, np.divide(high - low, made, out=np.full(len(made), np.nan), where=made > 0)


@dataclass(frozen=True)
class Inversion:
    """A recovered clock; `residual_ratio` is (recovered - recorded) / recorded steps, `used` marks the
    intervals kept, `recovered` is the least-squares problem as it was last solved.
    """

    clock: StepClock
    residual_ratio: np.ndarray
    used: np.ndarray
    recovered: _Solved

    def seen(self, time_us: np.ndarray, amounts: np.ndarray) -> np.ndarray:
        """What the clock sees of amounts that fell at given wall times: their running sum at its knots, shape
        (knots,).

        The clock resolves what overlapping requests tell apart: in a saturated server, where one starts when
        another ends, no more than a request's length. Its period is then a mean over that stretch, and what
        a step held must be averaged over the same one. It is, if the true running sum goes through the same
        least squares as the steps do (the resolution matrix of an inversion: Backus and Gilbert 1968,
        doi:10.1111/j.1365-246X.1968.tb00216.x).
        """
        problem = self.recovered.problem
        order = np.argsort(time_us, kind="stable")
        running = np.concatenate([[0.0], np.cumsum(amounts[order])])
        knots = np.arange(problem.design.shape[1]) * problem.knot_us
        fallen = np.searchsorted(problem.busy.from_wall(time_us[order]), knots, side="right")
        return self.recovered.running_sum(
            problem.design @ running[fallen], running[-1] / problem.busy.total_us
        )


def covered(intervals: Intervals) -> BusyTime:
    """The union of the intervals as disjoint segments in order."""
    order = np.argsort(intervals.start_us, kind="stable")
    start, reach = intervals.start_us[order], np.maximum.accumulate(intervals.end_us[order])
    opens = np.concatenate([[True], start[1:] > reach[:-1]])
    last = np.concatenate([np.flatnonzero(opens)[1:] - 1, [len(start) - 1]])
    return BusyTime(start[opens], reach[last])


def invert(intervals: Intervals, knot_us: float = KNOT_US, smoothness: float = SMOOTHNESS) -> Inversion:
    """Recover the step clock from at least one interval.

    Requires finite intervals with start_us < end_us and steps > 0. Guarantees a non-decreasing counter.
    Intervals off the common clock (OFF_CLOCK_*) lose their weight round by round, so that they bend the clock
    no more and take no good ones with them; they are left out of the last fit and marked in `used`.
    """
    problem = _Problem(intervals, knot_us, smoothness)
    tolerance = np.maximum(OFF_CLOCK_STEPS, OFF_CLOCK_RATIO * intervals.steps)
    solved = problem.solve(np.ones(len(intervals.steps)))
    for _ in range(REWEIGHTINGS):
        miss = np.abs(_misses(solved.clock(), intervals))
        if (miss <= tolerance).all():
            break
        solved = problem.solve(1 / np.maximum(1.0, miss / tolerance) ** 2)
    used = np.abs(_misses(solved.clock(), intervals)) <= tolerance
    if used.any() and not used.all():
        solved = problem.solve(used.astype(float))
    clock = solved.clock()
    return Inversion(clock, _misses(clock, intervals) / intervals.steps, used, solved)


def _misses(clock: StepClock, intervals: Intervals) -> np.ndarray:
    return clock.steps_at(intervals.end_us) - clock.steps_at(intervals.start_us) - intervals.steps


class _Problem:
    """The least-squares problem of one log: its matrices are built once and solved under changing weights."""

    def __init__(self, intervals: Intervals, knot_us: float, smoothness: float) -> None:
        self.intervals, self.busy, self.knot_us = intervals, covered(intervals), knot_us
        knots = max(3, int(np.ceil(self.busy.total_us / knot_us)) + 1)
        ends, starts = (
            _hat(self.busy.from_wall(time), knots, knot_us) for time in (intervals.end_us, intervals.start_us)
        )
        self.design = ends - starts
        bend = sparse.diags_array([1.0, -2.0, 1.0], offsets=[0, 1, 2], shape=(knots - 2, knots), dtype=float)
        self.slope = sparse.diags_array([-1.0, 1.0], offsets=[0, 1], shape=(knots - 1, knots), dtype=float)
        self.penalty = (
            smoothness * (bend.T @ bend)
            + RATE_PULL * (self.slope.T @ self.slope)
            + RIDGE * sparse.eye_array(knots)
        )

    def solve(self, weights: np.ndarray) -> _Solved:
        """The problem under weights of shape (intervals,)."""
        return _Solved(self, weights)


class _Solved:
    """The problem factored under one set of weights: what each interval counted gives the running sum at the
    knots.
    """

    def __init__(self, problem: _Problem, weights: np.ndarray) -> None:
        self.problem, self.intervals = problem, problem.intervals
        self._weighted = problem.design.T @ sparse.diags_array(weights)
        self._factor = splu(sparse.csc_matrix(self._weighted @ problem.design + problem.penalty))

    def running_sum(self, counted: np.ndarray, per_us: float) -> np.ndarray:
        """The non-decreasing sum at the knots, 0 at the first, from what each interval counted; pulled to a
        rate.
        """
        slope = self.problem.slope
        pull = RATE_PULL * (slope.T @ np.full(slope.shape[0], self.problem.knot_us * per_us))
        found = self._factor.solve(self._weighted @ counted + pull)
        return np.maximum.accumulate(found - found[0])

    def clock(self) -> StepClock:
        """The step clock: the sum of the steps that the intervals counted."""
        busy, given = self.problem.busy, self.intervals
        steps = given.steps.astype(float)
        resolution_us = max(self.problem.knot_us, busy.total_us * EVENTS_IN_WINDOW / (2 * len(steps)))
        per_us = float(np.median(steps / (given.end_us - given.start_us)))
        return StepClock(busy, self.problem.knot_us, self.running_sum(steps, per_us), resolution_us)


def _hat(busy_us: np.ndarray, knots: int, knot_us: float) -> sparse.csr_array:
    """Matrix (times, knots) that interpolates linearly between knots."""
    position = busy_us / knot_us
    left = np.clip(position.astype(int), 0, knots - 2)
    share = position - left
    data, columns = np.stack([1 - share, share], axis=1), np.stack([left, left + 1], axis=1)
    starts = 2 * np.arange(len(busy_us) + 1)
    return sparse.csr_array((data.ravel(), columns.ravel(), starts), shape=(len(busy_us), knots))
