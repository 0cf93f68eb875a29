"""The scenario that the Go side is tested against holds what h3's own replay gives today."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import make_blis_scenario


@pytest.fixture(scope="module")
def scenarios():
    return json.loads(make_blis_scenario.OUT.read_text()), make_blis_scenario.content()


def test_requests_and_deployments_are_those_of_the_script(scenarios):
    kept, now = ({**each, "deployments": [without(d) for d in each["deployments"]]} for each in scenarios)
    assert kept == now


def without(deployment):
    return {name: value for name, value in deployment.items() if name != "expected"}


@pytest.mark.parametrize("index", range(len(make_blis_scenario.DEPLOYMENTS)))
def test_expected_times_are_those_of_the_replay(scenarios, index):
    kept, now = (each["deployments"][index]["expected"] for each in scenarios)
    assert (kept["steps"], kept["preemptions"]) == (now["steps"], now["preemptions"])
    assert kept["ttft_us"] == pytest.approx(now["ttft_us"], rel=1e-5)
    assert kept["e2e_us"] == pytest.approx(now["e2e_us"], rel=1e-6)
