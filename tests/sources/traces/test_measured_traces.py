"""Step traces measured on H100 GPUs: rows, rejects and periods are those of the runs."""

from pathlib import Path

import pytest
from builders import source

from h3.sources.traces import steps

SHARED = Path(__file__).parents[4] / "shared" / "data" / "traces"


@pytest.fixture(scope="module")
def shared():
    if not SHARED.is_dir():
        pytest.skip("the measured data (../shared/data/traces) is not on this machine")
    told = []
    ingested = steps.load(source("traces", SHARED), told.append)
    assert told == sorted(ingested.record["experiments"])
    return ingested


def test_every_event_of_the_measured_traces_is_a_row_or_a_reject(shared):
    events = {name: counts["events"] for name, counts in shared.record["experiments"].items()}
    assert events == {
        "20260217-202857-llama-2-70b-tp4-general": 5992,
        "20260217-203421-llama-2-70b-hf-tp4-codegen": 6679,
    }
    assert len(shared.table) + len(shared.rejects) == 5992 + 6679
    assert dict(shared.rejects["reason"].value_counts()) == {"idle_gap": 3, "last_of_clock": 2}


def test_the_measured_periods_are_those_of_a_70b_model(shared):
    decode = shared.table[(shared.table["num_prefill_reqs"] == 0) & (shared.table["num_decode_reqs"] >= 10)]
    medians = decode.groupby(["experiment", decode["num_decode_reqs"] // 10])["period_us"].median()
    assert medians.between(15_000, 25_000).all()
    assert (shared.table["duration_us"].median()) < 5_000  # the scheduler's time, not the step's
    weighted = (
        (shared.table["period_us"] * shared.table["gap_steps"]).groupby(shared.table["experiment"]).sum()
    )
    assert weighted.between(1.2e9, 1.211e9).all()  # 20 minutes each
