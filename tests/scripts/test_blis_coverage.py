"""Every model of BLIS's list is answered or refused as expected, in both languages, and the table says so."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from h3 import bundle
from h3.bundle import standing
from h3.common.errors import InputError
from h3.steps import catalog

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import make_blis_coverage as coverage  # noqa: E402
from blis_coverage import asked, places  # noqa: E402
from blis_coverage.asked import Said  # noqa: E402

LISTED = json.loads(places.LIST.read_text())
MODELS = LISTED["models"]
CONFIGS = places.config_of(MODELS)
needs_go = pytest.mark.skipif(shutil.which("go") is None, reason="go is not installed")


@pytest.fixture(scope="module")
def evaluated():
    return coverage.rows(places.listed())


@needs_go
def test_every_row_is_answered_or_refused_as_expected_and_alike_in_both_languages(evaluated):
    rows, problems = evaluated
    assert problems == []
    assert all(bool(row.said.reason) == bool(row.place.refused) for row in rows)
    assert sum(not row.said.reason for row in rows) >= 100


def cells(text: str) -> list[list[str]]:
    """The table's rows without its head."""
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][2:]


@needs_go
def test_the_committed_table_is_what_the_script_writes(evaluated):
    """Its numbers and intervals, too, where it was written for the champion that ships."""
    committed, written = coverage.OUT.read_text(), coverage.document(evaluated[0])
    there, here = cells(committed), cells(written)
    assert [row[:4] for row in there] == [row[:4] for row in here]
    assert re.findall(r"\d+ models, .* refused", committed) == re.findall(r"\d+ models, .* refused", written)
    if bundle.read(standing.SHIPPED).digest not in committed:
        return
    assert [row[7:] for row in there] == [row[7:] for row in here]
    numbers = [[float(cell) for row in table for cell in row[4:7] if cell] for table in (there, here)]
    assert numbers[0] == pytest.approx(numbers[1], rel=0.01)


def test_the_list_has_blis_models_once_each():
    names = [model["name"] for model in MODELS]
    assert len(names) == len(set(names)) >= 40
    assert sum(model["of"] == "defaults.yaml" for model in MODELS) >= 28


@pytest.mark.parametrize(
    "model", [model for model in MODELS if "weights_gb" in model], ids=lambda model: model["name"]
)
def test_weights_are_the_published_parameters_times_their_bytes(model):
    assert re.fullmatch(r"[0-9.+*/()-]+", model["weights_how"])
    assert eval(model["weights_how"]) == pytest.approx(model["weights_gb"], abs=0.005)
    counted = coverage.weight_bytes(CONFIGS[model["name"]], 1)
    assert counted / 1e9 == pytest.approx(model["weights_gb"], rel=0.03)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model["name"])
def test_a_model_without_a_count_of_weights_is_refused_by_its_key(model):
    if "weights_gb" in model:
        assert model["expected"] == "answered"
        return
    with pytest.raises(InputError, match=model["expected"]["refused"]):
        catalog.from_hf_config(CONFIGS[model["name"]], "config.json")


PLACE = places.Place("llama", {}, {"Name": "H100", "MemoryGiB": 80}, 2)
ANSWER = Said((8000.0, 40000.0), ("known deployment", "new workload"))


@pytest.mark.parametrize(
    ("place", "answers", "told"),
    [
        (PLACE, [ANSWER, ANSWER, Said(ANSWER.us)], []),
        (PLACE, [ANSWER, replace(ANSWER, us=(8000.0, 40000.1))], ["us in one language"]),
        (PLACE, [ANSWER, replace(ANSWER, kinds=("new model",) * 2)], ["intervals of"]),
        (PLACE, [ANSWER, Said(reason="no such GPU")], ["no such GPU; expected an answer"]),
        (replace(PLACE, refused="DP"), [Said(reason="DP 2 is not measured")], []),
        (replace(PLACE, refused="DP"), [ANSWER], ["answered; expected a reason with 'DP'"]),
        (replace(PLACE, refused="DP"), [Said(reason="no such GPU")], ["expected a reason with 'DP'"]),
    ],
)
def test_what_differs_or_was_not_expected_is_told(place, answers, told):
    found = asked.problems(place, answers)
    assert len(found) == len(told)
    assert all(words in line for words, line in zip(told, found, strict=True))


def test_weights_beyond_a_gpus_memory_are_answered_with_the_warning():
    row = coverage.Row(PLACE, ANSWER, 85e9)
    assert coverage.verdict(row) == "answered; the weights do not fit"
    assert coverage.verdict(replace(row, weight_bytes=70e9)) == "answered"
    assert "| 8 | 40 | 85 | known deployment |" in coverage.line(row)
