"""python -m h3.compare on tracked sweeps: what it says, what it writes, and what it refuses.

Which runs of a sweep it takes: tests/verdict/test_make.py.
"""

import json
import re

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from processes import h3
from verdict.sweeps import FOLDS, INSIDE, OURS, RIVAL, Sweeps

from h3.common.config import CONF, TrainConfig, from_hydra, study
from h3.common.errors import InputError
from h3.models import zoo
from h3.models.peers import roofline
from h3.tracking.store import open_store
from h3.tracking.sweep import PARENT_VARIABLE
from h3.train import train
from h3.verdict.content import Verdict


@pytest.fixture
def sweeps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Sweeps(tmp_path)


def test_a_whole_sweep_with_small_errors_supports_the_hypothesis_and_leaves_three_files(sweeps):
    parent = sweeps.sweep(errors={OURS: 5.0, RIVAL: 8.0, INSIDE: 2.0})
    verdict = sweeps.compare()
    assert verdict.hypothesis == "supported"
    assert Verdict.model_validate_json(sweeps.written("verdict.json")) == verdict
    assert tuple(row.fold for row in verdict.folds) == study().folds
    assert all(row.interval[0] <= row.mape <= row.interval[1] for row in verdict.folds)
    assert (verdict.study.lomo_mean_mape, verdict.study.lowo_mean_mape) == (2559.7, 109.7)
    assert verdict.provenance.data_digest == "d1"
    assert f"python -m h3.compare sweep={parent}" in verdict.provenance.commands
    assert {item.path for item in sweeps.store.client.list_artifacts(parent)} >= {
        "verdict.json",
        "report.md",
        "report.html",
    }


def test_the_report_opens_with_the_verdict_and_needs_no_network(sweeps):
    sweeps.sweep()
    verdict = sweeps.compare()
    html = sweeps.written("report.html")
    assert html.index(verdict.sentence) < html.index("<h2")
    assert not re.search(r"(src|href)=\"(?!data:|#)", html)
    assert "<script" not in html
    assert "data:image/svg+xml;base64," in html
    assert sweeps.written("report.md").startswith("**supported**: " + verdict.sentence)


def test_a_predictor_that_saw_the_held_out_group_is_marked_everywhere(sweeps):
    sweeps.sweep(errors={OURS: 5.0, RIVAL: 8.0, INSIDE: 2.0})
    verdict = sweeps.compare()
    for rows in (verdict.predictors, verdict.significance):
        assert {row.predictor for row in rows if row.sees_held_out} == {INSIDE}
    for name in ("report.html", "report.md"):
        text = sweeps.written(name)
        assert text.count(f"{INSIDE} †") == text.count(INSIDE) > 0
    assert "No rival that has not seen the held-out group is ahead on any fold." in sweeps.written(
        "report.md"
    )


def test_a_rival_that_is_ahead_is_said_to_be(sweeps):
    sweeps.sweep(errors={OURS: 5.0, RIVAL: 3.0})
    verdict = sweeps.compare()
    assert {row.verdict for row in verdict.significance} == {"worse"}
    assert "Rivals that are ahead: roofline_layers on lomo_llama2_7b by 2.0 points" in sweeps.written(
        "report.md"
    )


def test_the_same_question_can_be_asked_of_a_rival(sweeps):
    sweeps.sweep(errors={OURS: 5.0, RIVAL: 30.0})
    assert sweeps.compare(predictor=RIVAL).hypothesis == "not_supported"


class Broken:
    """A predictor that has no answer for the fourth row."""

    name = "broken"

    def fit(self, train, context):
        return self

    def predict(self, inputs):
        return np.where(np.arange(len(inputs)) == 3, np.nan, 1e4)

    def describe(self):
        return {"model": self.name}


def test_a_predictor_that_returns_nan_is_named_with_fold_and_row_and_its_fold_is_failed(sweeps, monkeypatch):
    monkeypatch.setitem(zoo.PREDICTORS, "broken", zoo.Entry(roofline.Params, lambda params: Broken()))
    parent = sweeps.sweep(
        errors={"broken": 5.0}, folds=[each for each in FOLDS if each.name != "lowo_general"]
    )
    monkeypatch.setenv(PARENT_VARIABLE, parent)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = from_hydra(
            compose(
                "config",
                [
                    "fold=lowo_general",
                    "debug=quick",
                    "model.name=broken",
                    f"tracking.uri={sweeps.uri}",
                    "source.workers=1",
                ],
            ),
            TrainConfig,
        )
    with pytest.raises(
        InputError,
        match=r"^broken on lowo_general, held-out rows: predicted nan us in row 3 \(step \d+ of .*-general\)",
    ):
        train(config, sweeps.folder)
    verdict = sweeps.compare(predictor="broken")
    assert verdict.hypothesis == "inconclusive"
    assert "no result for lowo_general (failed)" in verdict.sentence
    (row,) = (row for row in verdict.folds if row.fold == "lowo_general")
    assert row.status == "failed"
    assert "InputError: broken on lowo_general, held-out rows: predicted nan us in row 3" in row.reason
    assert row.reason in {entry.why for entry in verdict.left_out}


def test_an_empty_store_says_how_to_fill_it(sweeps):
    with pytest.raises(
        InputError,
        match=r"no sweep in the tracking store sqlite:.*mlflow.db; expected one made by python -m h3.train",
    ):
        sweeps.compare()


def test_a_store_that_is_no_database_is_refused_with_its_name(tmp_path):
    (tmp_path / "mlflow.db").write_text("no database")
    with pytest.raises(
        InputError,
        match=r"tracking store sqlite:.*mlflow.db cannot be reached: .*file is not a database; expected",
    ):
        open_store(f"sqlite:///{tmp_path / 'mlflow.db'}", "h3")


def test_an_unknown_predictor_lists_the_known_ones(sweeps):
    with pytest.raises(InputError, match="predictor=nope: unknown; expected one of xgboost_residual"):
        sweeps.compare(predictor="nope")


def test_two_comparisons_of_one_sweep_write_the_same(sweeps):
    sweeps.sweep()
    sweeps.compare()
    first = [sweeps.written(name) for name in ("verdict.json", "report.md", "report.html")]
    sweeps.compare()
    assert [sweeps.written(name) for name in ("verdict.json", "report.md", "report.html")] == first


def test_a_trained_sweep_is_compared_from_the_command_line(tmp_path):
    done = h3(
        tmp_path,
        "train",
        "-m",
        "fold=lowo_general",
        "model=xgboost_residual,ridge_per_experiment",
        "debug=quick",
        "tune.trials=1",
        "replay.enabled=false",
    )
    assert done.returncode == 0, done.stderr
    done = h3(tmp_path, "compare", "out=report")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Inconclusive (simulated H100): no result for ")
    assert "\n\n| held out | MAPE % | 95 % over steps | over experiments |" in done.stdout
    assert done.stdout.endswith("report: report/report.html\n")
    content = json.loads((tmp_path / "report" / "verdict.json").read_text())
    scored = {row["fold"]: row for row in content["folds"] if row["mape"] is not None}
    assert set(scored) == {"lowo_general"}
    assert all(row["mape_train"] > 0 for row in scored.values())
    ridge = next(
        row for row in content["significance"] if row["predictor"] == INSIDE and row["fold"] == "lowo_general"
    )
    assert 0 < ridge["n_steps"] < scored["lowo_general"]["n_test"] / 3
    done = h3(tmp_path, "compare", f"predictor={INSIDE}", "out=rival")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "rival" / "verdict.json").read_text())["model"] == INSIDE


def test_the_word_of_before_for_the_predictor_is_answered_with_the_new_one(tmp_path):
    done = h3(tmp_path, "compare", f"model={RIVAL}")
    assert done.returncode == 2, done.stderr
    (error,) = [line for line in done.stderr.splitlines() if line]
    assert error == (
        f"error: config: model={RIVAL}: this is called predictor now; expected predictor={RIVAL}"
    )
    assert not list(tmp_path.iterdir())


def test_a_store_that_cannot_be_reached_is_one_line_and_status_2(tmp_path):
    done = h3(tmp_path, "compare", "tracking.uri=http://127.0.0.1:9")
    assert done.returncode == 2, done.stderr
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "tracking store http://127.0.0.1:9 cannot be reached" in error
    assert "Traceback" not in done.stderr
