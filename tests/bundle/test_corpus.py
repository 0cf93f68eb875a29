"""Bundles that strangers edited: each is read or refused by its rule, in Go as well (corpus_test.go)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from h3 import bundle
from h3.bundle import golden as cases
from h3.bundle.golden_file import margins
from h3.common.errors import InputError
from h3.steps import catalog

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import make_bundle_corpus as made

CORPUS = json.loads(made.OUT.read_text())
BY_NAME = {case["name"]: case for case in CORPUS["cases"]}


def written(case: dict, folder: Path) -> Path:
    for name, data in made.edited(case).items():
        (folder / name).write_bytes(data)
    return folder


def named(verdict: str) -> list[str]:
    return [name for name, case in BY_NAME.items() if case["verdict"] == verdict]


@pytest.mark.parametrize("name", named("refused"))
def test_what_breaks_a_rule_is_refused_in_a_line(name, tmp_path):
    with pytest.raises(InputError) as error:
        bundle.read(written(BY_NAME[name], tmp_path))
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("name", named("accepted"))
def test_what_keeps_the_rules_is_read_and_answers_as_in_go(name, tmp_path):
    case = BY_NAME[name]
    fits = bundle.read(written(case, tmp_path)).fitted_by_route()
    table = cases.table_of(made.BATCHES, cases.CONFIGS)
    found = bundle.predict(fits, table)
    np.testing.assert_allclose(found["us"], case.get("us", CORPUS["us"]), rtol=1e-9)
    expected = np.array(case.get("margins", CORPUS["margins"]), np.float32)
    np.testing.assert_array_equal(found["margin"], expected)
    if any(splice["file"].startswith("booster") for splice in case.get("splices", [])):
        names = fits["dense"].inputs_matrix(table).columns
        for each in margins(fits, table, found[names]):  # by XGBoost and by the walker
            np.testing.assert_array_equal(each, expected)


def test_the_corpus_is_large_and_its_file_is_current():
    assert len(named("refused")) >= 300 and len(named("accepted")) >= 100
    assert made.OUT.stat().st_size < 400_000
    assert made.cases() == [
        {key: value for key, value in case.items() if key not in ("us", "margins")}
        for case in CORPUS["cases"]
    ], "python scripts/make_bundle_corpus.py"
    assert CORPUS["aliases"] == catalog.HARDWARE_ALIASES
