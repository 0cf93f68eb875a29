"""The scheduler: laws that every run obeys, single cases worked by hand, and input it refuses."""

from __future__ import annotations

from itertools import count
from math import inf, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from h3.common.errors import InputError
from h3.server.requests import Limits, Requests
from h3.server.scheduler import simulate


def steady(batch):
    return 1000.0 + 10 * batch.num_decode_reqs + batch.prefill_tokens


@st.composite
def scenarios(draw):
    """Up to 25 requests on a small server; some are longer than its cache."""
    n = draw(st.integers(1, 25))

    def numbers(low, high):
        return np.array(draw(st.lists(st.integers(low, high), min_size=n, max_size=n)))

    seqs = draw(st.integers(1, 8))
    limits = Limits(
        draw(st.integers(4, 40)), seqs, draw(st.integers(seqs, 64)), draw(st.sampled_from([1, 4, 16]))
    )
    cached = draw(st.sampled_from([None, numbers(0, 90)]))
    return (
        Requests(
            numbers(0, 60_000),
            numbers(1, 90),
            numbers(0, 40),
            cached,
            draw(st.sampled_from([None, numbers(-1, 2)])),
        ),
        limits,
    )


class Ledger:
    """Counts the tokens that every request computes, as a step time sees them."""

    def __init__(self):
        self.prefill_tokens, self.cached_tokens, self.decode_tokens, self.batches = {}, {}, 0, []

    def __call__(self, batch):
        for request, new, before in batch.chunks:
            self.cached_tokens.setdefault(request, before)
            self.prefill_tokens[request] = self.prefill_tokens.get(request, 0) + new
        self.decode_tokens += batch.num_decode_reqs
        self.batches.append(
            (batch.num_decode_reqs + batch.num_prefill_reqs, batch.num_decode_reqs + batch.prefill_tokens)
        )
        return steady(batch)


@settings(max_examples=200, deadline=None)
@given(scenarios())
def test_no_request_is_lost_and_every_one_that_fits_finishes(scenario):
    requests, limits = scenario
    run = simulate(requests, limits, steady)
    tokens = requests.prompt_tokens + np.maximum(requests.output_tokens, 1) - 1
    too_long = -(-tokens // limits.block_size_tokens) > limits.kv_blocks
    assert run.rejected.tolist() == too_long.tolist()
    assert np.isfinite(run.finish_us).tolist() == (~too_long).tolist()
    assert run.num_unfinished == 0


@settings(max_examples=200, deadline=None)
@given(scenarios())
def test_every_token_is_computed_exactly_once_unless_a_request_is_preempted(scenario):
    requests, limits = scenario
    ledger = Ledger()
    run = simulate(requests, limits, ledger)
    served = np.flatnonzero(~run.rejected)
    outputs = np.maximum(requests.output_tokens, 1)
    for request in served[run.preemptions[served] == 0]:
        assert (
            ledger.prefill_tokens[request] + ledger.cached_tokens[request] == requests.prompt_tokens[request]
        )
    if not run.preemptions.any():
        assert ledger.decode_tokens == (outputs[served] - 1).sum()
    assert all(
        1 <= seqs <= limits.max_num_seqs and tokens <= limits.max_num_batched_tokens
        for seqs, tokens in ledger.batches
    )


@settings(max_examples=200, deadline=None)
@given(scenarios())
def test_blocks_are_conserved_and_the_clock_never_goes_back(scenario):
    requests, limits = scenario
    steps = simulate(requests, limits, steady).steps
    assert ((steps["kv_blocks_free"] >= 0) & (steps["kv_blocks_free"] < limits.kv_blocks)).all()
    assert (np.diff(steps["start_us"]) >= steps["period_us"][:-1] - 1e-6).all()
    assert steps["step_id"].tolist() == list(range(len(steps["step_id"])))


@settings(max_examples=100, deadline=None)
@given(scenarios(), st.integers(0, 10_000))
def test_all_blocks_are_free_again_once_the_server_is_empty(scenario, seed):
    requests, limits = scenario
    late = Requests(
        *(
            np.append(values, extra)
            for values, extra in (
                (requests.arrival_us, 1e12 + seed),
                (requests.prompt_tokens, 1),
                (requests.output_tokens, 1),
            )
        )
    )
    steps = simulate(late, limits, steady).steps
    assert steps["kv_blocks_free"][-1] == limits.kv_blocks - 1


@settings(max_examples=100, deadline=None)
@given(scenarios())
def test_requests_are_first_scheduled_in_the_order_of_their_arrival(scenario):
    requests, limits = scenario
    run = simulate(requests, limits, steady)
    order = np.argsort(requests.arrival_us, kind="stable")
    scheduled = run.scheduled_us[order][~run.rejected[order]]
    assert (np.diff(scheduled) >= 0).all()
    assert (scheduled >= requests.arrival_us[order][~run.rejected[order]]).all()


@settings(max_examples=60, deadline=None)
@given(scenarios())
def test_decode_context_is_the_sum_over_the_requests_that_a_naive_count_finds(scenario):
    requests, limits = scenario
    run = simulate(requests, limits, steady)
    if run.preemptions.any():
        return
    steps = run.steps
    ends = np.append(steps["start_us"] + steps["period_us"], inf)
    for column, reduce in (("decode_kv_tokens_sum", sum), ("decode_kv_tokens_max", max)):
        contexts = [[] for _ in steps["step_id"]]
        for request in np.flatnonzero(~run.rejected & (requests.output_tokens > 1)):
            first = int(np.searchsorted(ends, run.first_token_us[request] - 1e-6))
            for token in range(1, requests.output_tokens[request]):
                contexts[first + token].append(requests.prompt_tokens[request] + token)
        assert steps[column].tolist() == [reduce(values) if values else 0 for values in contexts]


def test_a_long_prompt_is_computed_in_chunks_of_what_the_budget_leaves():
    run = simulate(Requests([0, 0], [20, 150], [10, 3]), Limits(100, 4, 64), steady)
    assert run.steps["prefill_tokens"].tolist()[:4] == [64, 63, 43, 0]
    assert run.steps["prefill_attended_tokens"][1] == sum(range(45, 108))


def test_when_blocks_run_out_the_latest_is_preempted_and_recomputed():
    run = simulate(Requests([0, 1], [16, 16], [40, 40]), Limits(5, 4, 64), steady)
    assert run.preemptions.tolist() == [0, 1]
    assert run.finish_us[0] < run.finish_us[1]
    assert run.steps["num_preempted"].sum() == 1
    resumed = run.steps["prefill_tokens"][run.steps["prefill_tokens"] > 0][-1]
    assert resumed > 16  # the prompt and the output so far


def test_cached_prefix_blocks_are_neither_computed_nor_held_twice():
    limits = Limits(100, 4, 2048)
    shared = simulate(Requests([0, 0], [100, 100], [5, 5], [96, 96], [7, 7]), limits, steady)
    alone = simulate(Requests([0, 0], [100, 100], [5, 5], [96, 96]), limits, steady)
    assert shared.steps["prefill_tokens"][0] == alone.steps["prefill_tokens"][0] == 8
    assert shared.steps["kv_blocks_free"][0] == 100 - 6 - 2
    assert alone.steps["kv_blocks_free"][0] == 100 - 14


def test_a_fully_cached_prompt_still_computes_its_last_token():
    run = simulate(Requests([0], [32], [1], lambda request: 32), Limits(10), steady)
    assert run.steps["prefill_tokens"].tolist() == [16]


@pytest.mark.parametrize(("output", "has_token"), [(0, False), (1, True)])
def test_an_output_of_none_or_one_token_ends_with_the_prefill(output, has_token):
    run = simulate(Requests([5.0], [40], [output]), Limits(10), steady)
    assert run.num_steps == 1
    assert run.finish_us[0] == 5.0 + 1040
    assert np.isfinite(run.first_token_us[0]) == has_token


def test_unsorted_arrivals_are_served_by_time_and_reported_in_the_order_given():
    run = simulate(Requests([9e6, 0.0], [10, 10], [4, 4]), Limits(10), steady)
    assert run.finish_us[1] < 9e6 < run.finish_us[0]


def test_requests_unfinished_at_the_horizon_are_counted():
    run = simulate(Requests([0, 0, 5e9], [10, 10, 10], [4, 400, 4]), Limits(100), steady, horizon_us=50_000)
    assert (run.num_unfinished, run.end_us >= 50_000) == (2, True)


def test_only_the_asked_steps_are_recorded_and_recording_changes_nothing():
    requests = Requests([0, 0], [10, 10], [40, 60])
    everything, some = (
        simulate(requests, Limits(100), steady),
        simulate(requests, Limits(100), steady, count(3, 10)),
    )
    assert some.steps["step_id"].tolist() == [3, 13, 23, 33, 43, 53]
    assert some.finish_us.tolist() == everything.finish_us.tolist()
    assert some.steps["period_us"].tolist() == everything.steps["period_us"][3::10].tolist()


@pytest.mark.parametrize("bad", [0, -1.0, nan, inf, -inf])
def test_a_step_time_that_is_none_is_an_error_that_names_the_batch(bad):
    with pytest.raises(InputError, match=r"num_prefill_reqs=1.*prefill_tokens=10"):
        simulate(Requests([0], [10], [4]), Limits(100), lambda batch: bad)


def test_input_that_cannot_run_is_refused_with_the_field_and_the_request():
    with pytest.raises(InputError, match="prompt_tokens of request 1 is 0"):
        Requests([0, 0], [10, 0], [4, 4])
    with pytest.raises(InputError, match="arrival_us of request 0 is nan"):
        Requests([nan], [10], [4])
    with pytest.raises(InputError, match="output_tokens has shape"):
        Requests([0], [10], [4, 4])
    with pytest.raises(InputError, match="max_num_batched_tokens=64 is below max_num_seqs=128"):
        Limits(10, 128, 64)


def test_no_requests_make_no_steps():
    run = simulate(Requests(np.array([]), np.array([], int), np.array([], int)), Limits(10), steady)
    assert (run.num_steps, len(run.steps["step_id"]), run.num_unfinished) == (0, 0, 0)
