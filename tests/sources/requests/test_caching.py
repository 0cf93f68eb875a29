"""How much of its prompts a log's server computed: right or undecided, never silent, and an option
overrides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import Server, source

from h3.common.config import Assumptions, SourceConfig
from h3.ingest import Written
from h3.latency.recorded import from_log, from_simulation
from h3.server import scheduler
from h3.server.requests import Requests
from h3.sources import simulated
from h3.sources.experiment import REQUEST_FILES, describe, find, required_log
from h3.sources.requests import caching, files, steps

AUTO = Assumptions()
SHARED = Path(__file__).parents[4] / "shared" / "data" / "requests"
NEEDS_SHARED = pytest.mark.skipif(not SHARED.is_dir(), reason="no shared measured data beside the repository")
CELLS = {(cell.model, cell.workload.name): cell for cell in simulated.cells().values()}
SEVEN_B, SEVENTY_B = CELLS["llama-2-7b", "general"], CELLS["llama-2-70b", "general"]


def varied(rng, count):
    """Prompt lengths of mean 800, as of people who ask what they like."""
    return np.clip(rng.lognormal(np.log(800) - 0.32, 0.8, count), 16, 4000).astype(int)


def served(cell, prompt, cached=None, per_s=5.0, queueing_us=7_000.0, count=1200):
    """A log of the simulated server: Poisson arrivals of the given prompts."""
    arrival = np.cumsum(np.random.default_rng(1).exponential(1e6 / per_s, count))
    requests = Requests(arrival + queueing_us, prompt, np.full(count, 150), cached, np.arange(count))
    step_time = cell.step_time(SourceConfig(name="simulated"))
    run = scheduler.simulate(requests, cell.limits, step_time, iter(()), 1e12)
    return pd.DataFrame(
        {
            "prompt_tokens": prompt.astype(float),
            "cached_tokens": np.nan,
            "output_tokens": 150.0,
            "arrival_us": arrival,
            "first_us": run.first_token_us,
            "last_us": run.finish_us,
        }
    )


def prompts(count=1200):
    return varied(np.random.default_rng(0), count)


def whole_blocks(prompt):
    return (prompt - 1) // 16 * 16


def new_tokens(log, found, cell=SEVEN_B):
    return steps.new_prompt_tokens(log, found, cell.experiment)


@pytest.mark.parametrize("queueing_us", [0.0, 7_000.0, 80_000.0])
def test_an_uncached_log_is_read_as_such_and_keeps_its_prefill_tokens(queueing_us):
    log = served(SEVEN_B, prompts(), queueing_us=queueing_us)
    found = caching.decide(log, SEVEN_B.experiment, AUTO)
    assert (found.origin, found.mode) == ("log", "uncached")
    assert found.sentence.startswith("decided from the log: uncached")
    assert new_tokens(log, found).mean() == pytest.approx(log["prompt_tokens"].mean())


@pytest.mark.parametrize("queueing_us", [0.0, 7_000.0, 80_000.0])
def test_a_cached_log_is_read_as_cached(queueing_us):
    log = served(SEVEN_B, prompts(), whole_blocks(prompts()), queueing_us=queueing_us)
    found = caching.decide(log, SEVEN_B.experiment, AUTO)
    assert (found.origin, found.mode) == ("log", "repeat")
    assert new_tokens(log, found).max() <= 16


def test_a_log_with_half_of_each_prompt_cached_is_read_as_a_share():
    log = served(SEVEN_B, prompts(), prompts() // 2 // 16 * 16)
    found = caching.decide(log, SEVEN_B.experiment, AUTO)
    assert found.mode == "share"
    assert new_tokens(log, found).sum() / log["prompt_tokens"].sum() == pytest.approx(0.5, abs=0.2)


def test_prompts_that_come_in_rounds_show_their_hits_by_the_fall_after_the_first_round():
    lengths = np.random.default_rng(3).integers(540, 570, 60)
    prompt = np.tile(lengths, 20)
    cold = np.where(np.arange(1200) < 60, 0, whole_blocks(prompt))
    found = caching.decide(served(SEVENTY_B, prompt, cold), SEVENTY_B.experiment, AUTO)
    assert (found.origin, found.mode) == ("log", "repeat")
    assert "at the first round" in found.sentence


def test_prompts_of_one_length_on_a_small_model_are_undecided_and_that_is_said():
    for hits in (None, np.full(1200, 496)):
        found = caching.decide(served(SEVEN_B, np.full(1200, 512), hits), SEVEN_B.experiment, AUTO)
        assert (found.origin, found.mode) == ("undecided", caching.FALLBACK)
        assert "UNDECIDED" in found.sentence
        assert "source.assume.prefill_tokens=repeat" in found.sentence


def test_recorded_hits_go_first_and_need_no_decision():
    log = served(SEVEN_B, prompts())
    recorded = caching.decide(log.assign(cached_tokens=32.0), SEVEN_B.experiment, AUTO)
    assert recorded.sentence == "recorded"
    part = log.assign(cached_tokens=np.where(np.arange(1200) < 300, 16.0, np.nan))
    found = caching.decide(part, SEVEN_B.experiment, AUTO)
    assert found.mode == "uncached"
    new = new_tokens(part, found)
    assert (part["prompt_tokens"] - new)[:300].unique().tolist() in ([16.0], [15.0, 16.0], [16.0, 15.0])
    assert (new == part["prompt_tokens"])[300:].all()


@pytest.mark.parametrize("asked", ["repeat", "uncached", "none"])
def test_the_option_overrides(asked):
    log = served(SEVEN_B, prompts(200), count=200)
    found = caching.decide(log, SEVEN_B.experiment, Assumptions(prefill_tokens=asked))
    assert (found.origin, found.mode) == ("set", asked)
    shared = caching.decide(
        log, SEVEN_B.experiment, Assumptions(prefill_tokens=asked, shared_prefix_tokens={"general": 100})
    )
    assert shared.sentence == "assumed: shared_prefix_tokens=100"


def test_a_strangers_reasoning_workload_gets_no_shared_prefix_unasked():
    experiment = replace(SEVEN_B.experiment, workload="reasoning")
    assert caching.decide(served(SEVEN_B, prompts()), experiment, AUTO).mode == "uncached"


def test_overload_leaves_too_few_requests_and_that_is_said():
    log = served(SEVEN_B, prompts(), per_s=500.0)
    found = caching.decide(log, SEVEN_B.experiment, AUTO)
    assert found.origin == "undecided"
    assert "too few" in found.sentence


def test_the_decision_is_in_the_record_is_printed_and_is_the_replays(tmp_path):
    server = Server([20_000.0] * 600).serve(0, 600, 50).serve_at_random(60, seed=2)
    folder, config = server.write_tracev2(tmp_path), source("requests", tmp_path)
    ingested = steps.load(config)
    decided = ingested.record["experiments"][folder.name]["prefill"]
    line = f"prefill of {folder.name}: {decided['sentence']}"
    assert caching.lines(ingested.record) == [line]
    written = Written(1, 1, ingested.rejected(), ingested.record, tmp_path / "out.parquet")
    assert line in written.report().splitlines()
    assert from_log(*steps.read_experiment(folder, config), config.assume).prefix_hits == decided["sentence"]


@pytest.mark.parametrize("prefix_caching", [True, False])
@pytest.mark.parametrize("cell", CELLS.values(), ids=lambda cell: f"{cell.model}-{cell.workload.name}")
def test_no_simulated_log_is_read_as_what_it_is_not(cell, prefix_caching):
    config = SourceConfig(name="simulated", scale=0.12, prefix_caching=prefix_caching, cache_dir=None)
    requests = from_simulation(config, cell).requests
    requests = requests[np.isfinite(requests["last_us"])].assign(cached_tokens=np.nan)
    found = caching.decide(requests, cell.experiment, AUTO)
    assert found.origin == "undecided" or found.mode == ("repeat" if prefix_caching else "uncached")


@NEEDS_SHARED
def test_measured_logs_are_read_as_cached_from_the_second_round_on_or_left_undecided():
    read = {}
    for folder in find(SHARED, REQUEST_FILES):
        experiment = describe(folder, source("requests"))
        log = files.read(folder.name, required_log(folder, REQUEST_FILES), 16)
        found = caching.decide(log.requests, experiment, AUTO)
        read[experiment.model, experiment.workload] = (found.origin, found.mode)
    decided = [mode for origin, mode in read.values() if origin == "log"]
    assert decided == ["repeat"] * 14
    assert read["llama-2-7b", "reasoning"][0] == read["mixtral-8x7b-v0-1", "reasoning"][0] == "undecided"


@NEEDS_SHARED
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_measured_log_that_lost_a_tenth_of_its_requests_is_never_read_as_computed(seed):
    for folder in find(SHARED, REQUEST_FILES):
        experiment = describe(folder, source("requests"))
        log = files.read(folder.name, required_log(folder, REQUEST_FILES), 16)
        found = caching.decide(log.requests.sample(frac=0.9, random_state=seed), experiment, AUTO)
        assert found.origin == "undecided" or found.mode == "repeat"
