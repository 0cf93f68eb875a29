"""What a bundle ships as a request's overheads: estimated on training logs, given, or the study's; and the
words that say which.
"""

from __future__ import annotations

from pathlib import Path

import builders
import pytest

from h3.common.config import SourceConfig
from h3.common.errors import InputError
from h3.latency.shipped_overheads import OverheadsConfig, resolve
from h3.server.overheads import STUDY_IN_STEPS, Overheads

QUEUEING_US, PIPELINE_STEPS = 4_000.0, 1.3
PERIODS_US = (8_000, 16_000, 24_000)
NO_LOGS = builders.simulated_source()


def write(folder: Path, number: int, period_us: int, requests: int = 200) -> str:
    """A log of requests that wait for a constant and for steps, and for nothing else; its experiment."""
    name = f"20260101-00000{number}-llama-2-7b-tp1-general"
    server = builders.Server([period_us] * 1500).serve_at_random(requests)
    waited_us = QUEUEING_US + (1.5 + PIPELINE_STEPS) * period_us
    server.changes = {
        index: {"arrival_time_us": first - waited_us, "input_tokens": 8}
        for index, first in enumerate(server.first_us())
    }
    server.write_tracev2(folder, name)
    return name


@pytest.fixture
def logs(tmp_path) -> SourceConfig:
    """Three logs whose periods differ."""
    for number, period_us in enumerate(PERIODS_US):
        write(tmp_path, number, period_us)
    return builders.source(path=tmp_path)


def test_logs_whose_periods_differ_give_the_constant_and_the_steps(logs):
    found, origin = resolve(OverheadsConfig(), logs, set())
    assert found.queueing_us == pytest.approx(QUEUEING_US, rel=0.1)
    assert found.pipeline_steps == pytest.approx(PIPELINE_STEPS, abs=0.03)
    assert (found.post_decode_us, found.output_token_us) == (0, 0)
    assert origin.startswith("estimated on 3 request logs: ")


def test_a_log_that_says_nothing_is_not_counted_and_one_that_is_held_out_not_read(logs):
    write(Path(str(logs.path)), 3, 40_000, requests=20)
    assert resolve(OverheadsConfig(), logs, set())[1].startswith("estimated on 3 request logs: ")
    held_out = {"20260101-000000-llama-2-7b-tp1-general"}
    assert resolve(OverheadsConfig(), logs, held_out)[1].startswith("estimated on 2 request logs: ")


def test_given_steps_leave_the_rest_of_the_wait_to_the_constant(logs):
    found, origin = resolve(OverheadsConfig(pipeline_steps=0.0), logs, set())
    in_a_constant = QUEUEING_US + PIPELINE_STEPS * sum(PERIODS_US) / len(PERIODS_US)
    assert found.queueing_us == pytest.approx(in_a_constant, rel=0.03)
    assert found.pipeline_steps == 0
    assert origin.endswith("; given: pipeline_steps=0")


@pytest.mark.parametrize(
    ("given", "shipped", "origin"),
    [
        (
            {"queueing_us": 5.0},
            Overheads(queueing_us=5),
            "given: pipeline_steps=0, queueing_us=5",
        ),
        (
            {"queueing_us": 5.0, "pipeline_steps": 2.0, "post_decode_us": 7.0, "output_token_us": 1.0},
            Overheads(queueing_us=5, pipeline_steps=2, post_decode_us=7, output_token_us=1),
            "given: pipeline_steps=2, queueing_us=5, post_decode_us=7",
        ),
        (
            {"post_decode_us": 7.0},
            STUDY_IN_STEPS.model_copy(update={"post_decode_us": 7.0}),
            "default: estimated on the study's request logs of dense models; given: post_decode_us=7",
        ),
        ({}, STUDY_IN_STEPS, "default: estimated on the study's request logs of dense models"),
    ],
)
def test_what_is_given_goes_before_and_a_given_constant_is_all_of_the_wait(given, shipped, origin):
    assert resolve(OverheadsConfig(**given), NO_LOGS, set()) == (shipped, origin)


def test_steps_alone_without_logs_are_refused():
    with pytest.raises(InputError, match=r"pipeline_steps=0: .* expected overheads.queueing_us beside it"):
        resolve(OverheadsConfig(pipeline_steps=0.0), NO_LOGS, set())
