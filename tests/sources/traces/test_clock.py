"""The clock of sampled steps: constant periods are found, time is conserved, restarts and idle gaps are kept
apart.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from h3.sources.traces import clock as trace_clock

GAPS = st.lists(st.integers(1, 60), min_size=1, max_size=80)


def sampled(gaps, first=3):
    return first + np.concatenate([[0], np.cumsum(gaps)])


@given(GAPS, st.floats(100, 1e6))
def test_a_constant_period_is_found_whatever_the_sampling(gaps, period):
    ids = sampled(gaps)
    clock = trace_clock.read(ids, (ids - ids[0]) * period)
    np.testing.assert_allclose(clock.period_us[:-1], period, rtol=1e-9)
    np.testing.assert_array_equal(clock.gap_steps[:-1], gaps)
    assert list(clock.reason) == [""] * len(gaps) + ["last_of_clock"]


@given(GAPS, st.data())
def test_the_time_of_a_clock_is_conserved(gaps, data):
    times = data.draw(st.lists(st.floats(1, 1e7), min_size=len(gaps), max_size=len(gaps)))
    ids, start = sampled(gaps), np.concatenate([[0.0], np.cumsum(times)])
    clock = trace_clock.read(ids, start)
    assert np.nansum(clock.period_us * clock.gap_steps) == pytest.approx(start[-1] - start[0])


@given(st.lists(GAPS, min_size=2, max_size=5), st.booleans())
def test_a_restart_never_joins_two_clocks(servers, time_goes_back):
    ids = np.concatenate([sampled(gaps, first=1) for gaps in servers])
    owner = np.repeat(np.arange(len(servers)), [len(gaps) + 1 for gaps in servers])
    start = np.arange(len(ids)) * 1e4 - (owner * 1e8 if time_goes_back else 0)
    clock = trace_clock.read(ids, start)
    np.testing.assert_array_equal(clock.clock, owner)
    for number in range(len(servers)):
        mine = clock.clock == number
        span = start[mine][-1] - start[mine][0]
        assert np.nansum(clock.period_us[mine] * clock.gap_steps[mine]) == pytest.approx(span)
        assert np.isnan(clock.period_us[mine][-1])


def test_a_time_that_goes_back_is_a_restart_even_if_step_ids_go_on():
    clock = trace_clock.read([1, 2, 3, 4], [1000.0, 2000.0, 500.0, 1500.0])
    assert list(clock.clock) == [0, 0, 1, 1]
    assert list(clock.reason) == ["", "last_of_clock", "", "last_of_clock"]


def test_duplicates_are_rejected_and_change_nothing_else():
    clock = trace_clock.read([1, 2, 2, 4, 1, 2, 5], [0.0, 10.0, 11.0, 30.0, 0.0, 10.0, 40.0])
    assert list(clock.reason) == [
        "",
        "",
        "duplicate_step",
        "",
        "duplicate_step",
        "duplicate_step",
        "last_of_clock",
    ]
    assert list(clock.clock) == [0] * 7
    np.testing.assert_array_equal(clock.period_us[[0, 1, 3]], [10.0, 10.0, 10.0])


def test_two_steps_at_one_time_have_no_period():
    assert list(trace_clock.read([1, 2, 3], [0.0, 0.0, 10.0]).reason) == ["zero_period", "", "last_of_clock"]


def test_a_long_pause_between_decode_steps_is_an_idle_gap():
    start = np.arange(300) * 20_000.0
    start[150:] += 2_000_000
    clock = trace_clock.read(np.arange(300), start, tokens=np.full(300, 8))
    assert list(np.flatnonzero(clock.reason == "idle_gap")) == [149]


def test_a_long_prefill_is_no_idle_gap():
    period, tokens = np.full(300, 7_000.0), np.full(300, 8)
    period[100], tokens[100] = 45_000.0, 2048  # seven billion parameters and 2048 tokens at 0.6 PFLOP/s
    clock = trace_clock.read(
        np.arange(301), np.concatenate([[0], np.cumsum(period)]), tokens=np.append(tokens, 8)
    )
    assert not (clock.reason == "idle_gap").any()


def test_a_prefill_between_the_samples_is_no_idle_gap():
    start = np.arange(200) * 2 * 7_000.0
    start[101:] += 38_000.0
    clock = trace_clock.read(np.arange(200) * 2, start, tokens=np.full(200, 8))
    assert not (clock.reason == "idle_gap").any()


def test_a_drained_server_is_idle_however_short_the_pause():
    drained = np.zeros(10, dtype=bool)
    drained[4] = True
    clock = trace_clock.read(np.arange(10), np.arange(10) * 20_000.0, drained=drained)
    assert list(np.flatnonzero(clock.reason == "idle_gap")) == [4]


def test_a_slow_phase_of_the_server_is_not_idle():
    period = np.concatenate([np.full(500, 10_000.0), np.full(500, 90_000.0)])
    clock = trace_clock.read(
        np.arange(1001), np.concatenate([[0], np.cumsum(period)]), tokens=np.full(1001, 8)
    )
    assert (clock.reason == "").mean() > 0.9


@pytest.mark.parametrize("count", [0, 1])
def test_no_step_or_one_step_gives_no_period(count):
    clock = trace_clock.read(np.arange(count), np.zeros(count))
    assert list(clock.reason) == ["last_of_clock"] * count
