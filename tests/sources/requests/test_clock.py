"""The step clock of a request log: recovered from servers whose every step is known, and held against
measured traces."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import Server, source
from hypothesis import given, settings
from hypothesis import strategies as st

from h3.sources.experiment import REQUEST_FILES, find
from h3.sources.requests import clock
from h3.sources.requests import steps as requests
from h3.sources.traces import steps as traces

SHARED = Path(__file__).parents[4] / "shared" / "data"
NEEDS_SHARED = pytest.mark.skipif(not SHARED.is_dir(), reason="no shared measured data beside the repository")


def periods_us(recovered, numbers):
    """The recovered period around each step."""
    return recovered.window_at(np.asarray(numbers, float))[2]


@settings(max_examples=30, deadline=None)
@given(st.floats(4_000, 80_000), st.integers(20, 200), st.integers(0, 10_000))
def test_a_constant_server_is_recovered_within_one_percent_from_random_requests(period_us, count, seed):
    server = Server([period_us] * 1000).serve_at_random(count, seed)
    recovered = clock.invert(server.intervals())
    assert recovered.used.all()
    assert np.abs(recovered.residual_ratio).max() < 1e-3
    assert periods_us(recovered.clock, range(0, 990, 7)) == pytest.approx(period_us, rel=0.01)
    first, last = recovered.clock.steps_at(
        recovered.clock.busy.to_wall(np.array([0.0, recovered.clock.busy.total_us]))
    )
    assert (last - first) * period_us == pytest.approx(recovered.clock.busy.total_us, rel=0.01)


@settings(max_examples=30, deadline=None)
@given(st.floats(8_000, 40_000), st.floats(0.6, 1.7), st.integers(0, 10_000))
def test_a_server_that_changes_its_rate_is_recovered_away_from_the_change(period_us, factor, seed):
    server = Server([period_us] * 1500 + [period_us * factor] * 1500).serve_at_random(900, seed)
    recovered = clock.invert(server.intervals()).clock
    away_us = 2e6  # the penalty on the change of the rate rounds the corner
    for expected_us, first, last in ((period_us, 0, 1500), (period_us * factor, 1500, 3000)):
        numbers = np.arange(first + away_us / expected_us, last - away_us / expected_us, 13)
        error = np.abs(periods_us(recovered, numbers) / expected_us - 1)
        assert np.median(error) < 0.003
        assert error.max(initial=0) < 0.03  # single windows: 250 random servers, 1.7 % at most


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 5e6), st.floats(1, 2e6), st.integers(1, 300)), min_size=1, max_size=30)
)
def test_the_counter_never_goes_back_whatever_the_log_claims(entries):
    start, length, steps = (np.array(values, dtype=float) for values in zip(*entries, strict=True))
    recovered = clock.invert(clock.Intervals(start, start + length, steps))
    assert (np.diff(recovered.clock.steps) >= 0).all()
    assert recovered.clock.steps[0] == 0
    assert np.isfinite(recovered.clock.steps).all()
    assert len(recovered.residual_ratio) == len(recovered.used) == len(entries)


def test_one_request_gives_its_own_mean_period():
    server = Server([15_000] * 100).serve(0, 101)
    recovered = clock.invert(server.intervals())
    assert periods_us(recovered.clock, [50])[0] == pytest.approx(15_000, rel=0.01)


def test_steps_and_times_are_each_others_inverse():
    server = Server([12_000, 18_000] * 300).serve_at_random(200, seed=3)
    recovered = clock.invert(server.intervals()).clock
    numbers = np.linspace(1, recovered.steps[-1] - 1, 50)
    assert recovered.steps_at(recovered.time_us_at(numbers)) == pytest.approx(numbers, abs=1e-6)


def test_idle_gaps_are_left_out_of_the_clock():
    morning = Server([20_000] * 400).serve_at_random(80, seed=1)
    evening = Server([20_000] * 400, start_us=morning.times_us[-1] + 3_600e6).serve_at_random(80, seed=2)
    both = clock.Intervals(
        *(
            np.concatenate([getattr(part.intervals(), name) for part in (morning, evening)])
            for name in ("start_us", "end_us", "steps")
        )
    )
    recovered = clock.invert(both).clock
    assert recovered.busy.total_us == pytest.approx(800 * 20_000, rel=0.01)
    assert periods_us(recovered, range(0, 790, 5)) == pytest.approx(20_000, rel=0.01)
    wall = recovered.time_us_at(np.arange(0.0, 795))
    idle = (wall > morning.times_us[-1] + 1) & (wall < evening.times_us[0] - 1)
    assert not idle.any()


def test_busy_time_is_the_union_of_the_intervals():
    rng = np.random.default_rng(4)
    start = rng.integers(0, 500, 40)
    end = start + rng.integers(1, 12, 40)
    seen = np.zeros(600, dtype=bool)
    for low, high in zip(start, end, strict=True):
        for moment in range(low, high):
            seen[moment] = True
    busy = clock.covered(clock.Intervals(start.astype(float), end.astype(float), np.ones(40)))
    assert busy.total_us == seen.sum()
    assert len(busy.start_us) == (np.diff(np.concatenate([[0], seen.astype(int)])) == 1).sum()
    inside = np.flatnonzero(seen) + 0.5
    assert busy.to_wall(busy.from_wall(inside)) == pytest.approx(inside)
    assert busy.from_wall(inside) == pytest.approx(np.arange(len(inside)) + 0.5)


def with_one_wrong_count(claimed, index=17):
    """A log in which one request claims so many times the steps that it took."""
    good = Server([20_000] * 1500).serve_at_random(300, seed=5, tokens=(60, 160)).intervals()
    return replace(
        good, steps=np.where(np.arange(len(good.steps)) == index, np.rint(claimed * good.steps), good.steps)
    )


@pytest.mark.parametrize("claimed", [0.5, 1.5, 4.0])
def test_a_request_off_the_common_clock_is_marked_unused_and_does_not_bend_it(claimed):
    recovered = clock.invert(with_one_wrong_count(claimed))
    assert not recovered.used[17]
    assert recovered.residual_ratio[17] == pytest.approx(1 / claimed - 1, abs=0.02)
    assert np.abs(recovered.residual_ratio[recovered.used]).max() < 1e-3
    assert periods_us(recovered.clock, range(0, 1490, 11)) == pytest.approx(20_000, rel=0.01)


@pytest.mark.parametrize("claimed", [0.5, 1.5, 4.0, 8.0])
def test_only_the_request_that_is_off_the_common_clock_is_marked_unused(claimed):
    recovered = clock.invert(with_one_wrong_count(claimed))
    assert np.flatnonzero(~recovered.used).tolist() == [17]


@pytest.mark.parametrize("claimed", [4.0, 8.0])
def test_one_wrong_count_takes_no_steps_from_the_clock(claimed):
    log = with_one_wrong_count(claimed)
    recovered = clock.invert(log).clock
    assert recovered.busy.total_us == pytest.approx(log.end_us.max() - log.start_us.min())
    made = recovered.steps_at(log.end_us) - recovered.steps_at(log.start_us)
    good = np.arange(len(made)) != 17
    assert made[good] == pytest.approx(log.steps[good], abs=0.5)


SATURATED_LENGTH = 1400


def saturated_server(seed=7, lanes=60, count=4, jitter_us=4_000):
    """A full server as its log sees it: in each lane a request starts exactly when another ends; steps take
    20 ms each.
    """
    rng = np.random.default_rng(seed)
    starts, ends = [], []
    for lane in range(lanes):
        borders = (lane * 7 + SATURATED_LENGTH * np.arange(count + 1)) * 20_000.0 + rng.uniform(
            0, jitter_us, count + 1
        )
        starts.append(borders[:-1])
        ends.append(borders[1:])
    starts, ends = np.concatenate(starts), np.concatenate(ends)
    return clock.Intervals(starts, ends, np.full(len(starts), float(SATURATED_LENGTH)))


def swing(recovered):
    """Largest deviation of the recovered period from 20 ms, off the ends of the run."""
    middle = np.arange(SATURATED_LENGTH, recovered.steps[-1] - SATURATED_LENGTH, 5)
    return np.abs(periods_us(recovered, middle) / 20_000 - 1).max()


def test_a_saturated_server_of_constant_period_shows_no_swings():
    assert swing(clock.invert(saturated_server()).clock) < 0.02


def test_without_the_pull_to_a_common_rate_a_saturated_server_would_swing(monkeypatch):
    monkeypatch.setattr(clock, "RATE_PULL", 0.0)
    assert swing(clock.invert(saturated_server()).clock) > 0.1


def test_the_window_of_a_period_holds_at_least_twelve_starts_or_ends():
    few = clock.invert(Server([20_000] * 3000).serve_many(every=100, output_tokens=150).intervals()).clock
    many = clock.invert(Server([10_000] * 3000).serve_many(every=1, output_tokens=150).intervals()).clock
    assert many.resolution_us == clock.KNOT_US
    events_per_us = 2 * 29 / few.busy.total_us
    assert few.resolution_us * events_per_us == pytest.approx(12, rel=0.02)
    first, last, period = few.window_at(np.array([1500.0]))
    assert (last - first)[0] * period[0] == pytest.approx(few.resolution_us)


@NEEDS_SHARED
def test_the_clock_of_every_measured_log_agrees_with_its_requests_to_a_thousandth():
    logs, read = source("requests"), 0
    for folder in find(SHARED / "requests", REQUEST_FILES):
        record = requests.from_log(*requests.read_experiment(folder, logs), logs).record
        if not record["left_out"]:
            entry = record["experiments"][folder.name]
            assert entry["clock_residual_ratio"] <= 0.001, folder.name
            assert entry["off_clock_intervals"] == 0, folder.name
            read += 1
    assert read == 13


def median_by_batch(table):
    """Median period by bins of ten decode requests that hold at least 200 steps."""
    decoding = table[table["num_decode_reqs"] > 0]
    bins = decoding.groupby(decoding["num_decode_reqs"] // 10)["period_us"].agg(["size", "median"])
    return bins.loc[bins["size"] >= 200, "median"]


@NEEDS_SHARED
@pytest.mark.parametrize("workload", ["general", "codegen"])
def test_periods_from_a_request_log_are_within_one_and_a_half_percent_of_the_traces(workload):
    (folder,) = (SHARED / "traces").glob(f"*llama-2-70b*-{workload}")
    from_trace = median_by_batch(traces.load(source("traces", folder)).table)
    log = SHARED / "requests" / folder.name
    from_log = median_by_batch(requests.load(source("requests", log, sample_every=1)).table)
    error = (from_log / from_trace - 1).dropna()
    assert len(error) >= 4
    assert error.abs().max() <= 0.015, pd.Series(error).to_string()


def saturated(seed, us_per_token, output_tokens=120, slots=16, step_count=6000):
    """A server whose slots are never free, each request starting when another ends; prompts differ from
    stretch to stretch, and computing them takes time.
    """
    rng = np.random.default_rng(seed)
    first = np.sort(
        np.concatenate(
            [
                np.arange(int(rng.integers(1, output_tokens)), step_count - output_tokens, output_tokens)
                for _ in range(slots)
            ]
        )
    )
    tokens = np.where(first // 300 % 2 == 0, 200.0, 900.0) * rng.uniform(0.5, 1.5, len(first))
    prefill = np.bincount(first - 1, weights=tokens, minlength=step_count)
    server = Server(20_000 + us_per_token * prefill)
    for step in first:
        server.serve(int(step), output_tokens)
    return server, tokens


@pytest.mark.parametrize("seed", range(4))
def test_what_a_prefill_token_costs_is_found_in_a_saturated_server(seed):
    server, tokens = saturated(seed, us_per_token=20.0)
    recovered = clock.invert(server.intervals())
    first, last, period_us = recovered.clock.window_at(np.arange(300.0, 5500.0, 7.0))
    seen = recovered.clock.between(recovered.seen(server.first_us(), tokens), (first, last)) / (last - first)
    assert np.polyfit(seen, period_us, 1)[0] == pytest.approx(20.0, rel=0.05)


@settings(max_examples=30, deadline=None)
@given(st.integers(60, 200), st.integers(0, 10_000))
def test_all_of_an_amount_is_seen_and_nowhere_less_than_none(count, seed):
    server = Server([20_000.0] * 1000).serve_at_random(count, seed)
    recovered = clock.invert(server.intervals())
    amounts = np.random.default_rng(seed).uniform(1, 900, len(server.requests))
    seen = recovered.seen(server.first_us(), amounts)
    assert (np.diff(seen) >= 0).all()
    assert seen[-1] == pytest.approx(amounts.sum(), rel=0.05)  # what falls at the ends is not overlapped
