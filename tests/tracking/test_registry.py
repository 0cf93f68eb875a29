"""The registry: a version is found by alias and number, serves raw step rows, and no killed promotion takes
the champion away.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import builders
import mlflow
import numpy as np
import pandas as pd
import pytest

from h3 import bundle
from h3.common.config import TrackingConfig
from h3.common.errors import InputError
from h3.evaluation.fold_table import FoldRow
from h3.evaluation.folds import without_targets
from h3.promotion.card import card
from h3.tracking import journal, pyfunc, registry

OUT = "dist/blis"
GOLDEN = Path(__file__).parents[2] / "go" / "h3bundle" / "testdata" / "bundle"
TAGS = {
    "sweep": "s" * 32,
    "winner": "xgboost_residual",
    "data_digest": "d" * 32,
    "commit": "c" * 40,
    "routing": "one booster",
    "params": "{}",
}
ROW = FoldRow(
    fold="lomo_mixtral",
    model="xgboost_residual",
    mape=5.0,
    mape_low=4.0,
    mape_high=6.0,
    mape_base=7.0,
    bias=1.0,
    n_test=10,
    status="FINISHED",
)


@pytest.fixture(scope="module")
def steps() -> pd.DataFrame:
    return builders.Steps(seed=5).run("llama-2-7b").run("mixtral-8x7b-v0-1").table()


@pytest.fixture(scope="module")
def opened(tmp_path_factory, steps) -> registry.Registry:
    """A registry in which version 1, the golden bundle, was promoted."""
    found = builders.empty_registry(tmp_path_factory.mktemp("store"))
    with journal.entry(found, "promotion", {"sweep": TAGS["sweep"]}) as run_id:
        text = card(steps, TAGS, [ROW], [ROW], builders.EVIDENCE.uncertainty)
        assert registry.register(found, run_id, GOLDEN, steps, TAGS, text) == "1"
        assert found.version("1").tags["state"] == "registered"
        journal.promote(found, "1")
    return found


@pytest.fixture
def tracking(opened) -> TrackingConfig:
    mlflow.set_tracking_uri(opened.store.uri)
    return TrackingConfig(uri=opened.store.uri)


def another(opened: registry.Registry, **tags: str) -> str:
    """One more version of the same files, challenger; its number."""
    first = opened.version("1")
    made = opened.store.client.create_model_version(
        registry.NAME, first.source, run_id=first.run_id, tags=tags
    )
    opened.set_alias("challenger", str(made.version))
    return str(made.version)


@pytest.fixture(autouse=True)
def champion_is_version_1(request):
    """Every test that has the registry starts with version 1 as champion, its files in their folder, and no
    challenger.
    """
    if "opened" in request.fixturenames:
        opened = request.getfixturevalue("opened")
        opened.set_alias("champion", "1")
        journal.exported(opened, "1")
        opened.drop_challenger(opened.aliases().get("challenger", ""))


def test_alias_and_number_give_the_bundle_that_was_registered(opened, tracking):
    expected = bundle.read(GOLDEN).digest
    assert registry.load("champion", tracking).digest == expected
    assert registry.load("1", tracking).digest == expected


def test_load_follows_the_environment(opened, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", opened.store.uri)
    assert registry.load("champion").digest == bundle.read(GOLDEN).digest


def test_a_version_that_is_not_there_is_one_line_with_those_that_are(opened, tracking):
    with pytest.raises(
        InputError, match="bundle=99: no such alias or version of blis-step-time; there are champion"
    ) as error:
        registry.load("99", tracking)
    assert "\n" not in str(error.value)


def test_without_a_store_nothing_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    with pytest.raises(InputError, match=r"no mlruns/mlflow\.db here"):
        registry.load("champion")
    assert not list(tmp_path.iterdir())


def test_an_unreachable_registry_is_one_line(tmp_path):
    with pytest.raises(InputError, match="cannot be reached") as error:
        registry.load("champion", TrackingConfig(uri="http://127.0.0.1:9"))
    assert "\n" not in str(error.value)


def test_a_store_that_fails_later_is_one_line_too(opened, tracking):
    with (
        pytest.raises(InputError, match="run it again: what was begun is finished then"),
        registry.reported(tracking),
    ):
        opened.tag("99", state="promoted")


def test_the_pyfunc_predicts_from_raw_step_rows_what_the_bundle_predicts(opened, tracking, steps):
    model = mlflow.pyfunc.load_model("models:/blis-step-time@champion")
    answer = model.predict(without_targets(steps))
    assert list(answer.columns) == ["period_us", "low_us", "high_us", "kind"]
    np.testing.assert_array_equal(answer["period_us"], bundle.read(GOLDEN).predict(steps))


def test_the_pyfunc_needs_no_nullable_column_and_names_one_that_it_needs(opened, tracking, steps):
    model = mlflow.pyfunc.load_model("models:/blis-step-time@champion")
    needed = list(pyfunc.REQUIRED)
    assert set(needed) < {column.name for column in model.metadata.signature.inputs}
    assert {"hardware", "tensor_parallelism", "num_layers", "num_decode_reqs"} <= set(needed)
    assert not {"decode_kv_tokens_sum", "waiting_reqs", "period_us"} & set(needed)
    unknown = steps.assign(
        prefill_tokens=np.nan, decode_tokens=np.nan, decode_kv_tokens_sum=np.nan, prefill_kv_tokens_sum=np.nan
    )
    expected = bundle.read(GOLDEN).predict(unknown.assign(prefill_attended_tokens=np.nan))
    np.testing.assert_array_equal(model.predict(steps[needed])["period_us"], expected)
    with pytest.raises(mlflow.MlflowException, match="hidden_size"):
        model.predict(steps[needed].drop(columns="hidden_size"))


def test_the_registered_files_hold_no_pickle_and_the_code_that_serves_them(opened, tracking):
    folder = Path(mlflow.artifacts.download_artifacts(artifact_uri="models:/blis-step-time/1"))
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {
        "pyfunc.py",
        "artifacts/bundle/manifest.json",
        "code/h3/bundle/bundle.py",
        "serving_input_example.json",
        "MLmodel",
    } <= names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".joblib"))]
    assert "xgboost==" in (folder / "requirements.txt").read_text()


def test_the_card_names_data_folds_intervals_commit_and_what_was_not_tested(opened):
    text = opened.version("1").description
    for said in (
        "d" * 32,
        "c" * 40,
        "lomo_mixtral",
        "4.00–6.00",
        "A100",
        "MoE models other than: mixtral-8x7b-v0-1",
    ):
        assert said in text


def test_the_card_says_that_only_the_sweeps_own_folds_are_held_out_in_every_respect(steps):
    text = card(steps, TAGS, [ROW], [ROW.model_copy(update={"mape": 4.25})], builders.EVIDENCE.uncertainty)
    said = (
        "hyperparameters are a consensus of the same folds' tuning, so only the first table is held out in"
        " every respect"
    )
    assert text.index("5.00") < " ".join(text.split("\n")).index(said) < text.index("4.25")


def test_promotion_moves_the_alias_and_takes_the_challengers(opened):
    version = another(opened, state="gated", previous_champion="1")
    journal.promote(opened, version)
    assert opened.aliases() == {"champion": version}
    assert opened.version(version).tags["state"] == "promoted"


def test_rollback_makes_the_version_before_champion_and_leaves_an_entry(opened):
    version = another(opened, state="gated", previous_champion="1")
    journal.promote(opened, version)
    before = len(entries(opened, "rollback"))
    assert journal.roll_back(opened, OUT) == (version, "1")
    assert opened.aliases()["champion"] == "1"
    assert opened.version(version).tags["state"] == "rolled_back"
    found = entries(opened, "rollback")
    assert len(found) == before + 1
    text = mlflow.artifacts.load_text(f"runs:/{found[0].info.run_id}/intent.json")
    assert json.loads(text) == {"from_version": version, "to_version": "1", "out": os.path.abspath(OUT)}


def test_rollback_without_a_version_before_changes_nothing(opened):
    with pytest.raises(InputError, match="no version before the champion"):
        journal.roll_back(opened, OUT)
    assert opened.aliases()["champion"] == "1"


def test_a_version_killed_before_the_gate_is_abandoned(opened):
    version = another(opened, state="registered")
    assert journal.recover(opened, OUT) == {version: "abandoned"}
    assert opened.aliases() == {"champion": "1"}
    assert opened.version(version).tags["state"] == "abandoned"
    assert journal.recover(opened, OUT) == {}


@pytest.mark.parametrize("moved", [False, True])
def test_a_version_killed_after_the_gate_becomes_champion(opened, moved):
    version = another(opened, state="gated", previous_champion="1")
    if moved:
        opened.set_alias("champion", version)
    assert journal.recover(opened, OUT) == {version: "promoted"}
    assert opened.aliases() == {"champion": version}
    # The record of an older h3 names no folder: the one at hand is to have the files.
    assert journal.unexported(opened) == (version, os.path.abspath(OUT))


def test_a_rollback_killed_after_the_alias_moved_is_finished_and_its_entry_closed(opened):
    version = another(opened, state="promoted", previous_champion="1")
    client = opened.store.client
    tags = {"h3.role": "rollback", "h3.from_version": version, "h3.to_version": "1"}
    run_id = client.create_run(opened.store.experiment_id, tags=tags).info.run_id
    done = journal.recover(opened, OUT)
    assert opened.version(version).tags["state"] == "rolled_back"
    assert client.get_run(run_id).info.status == "RUNNING"  # until the files are there
    journal.end_entries(opened, done)
    assert client.get_run(run_id).info.status == "KILLED"


def test_a_refused_version_stays_challenger_through_recovery(opened):
    version = another(opened, state="refused")
    assert journal.recover(opened, OUT) == {}
    assert opened.aliases() == {"champion": "1", "challenger": version}


def test_an_entry_that_raises_is_failed_and_stays(opened):
    before = len(entries(opened, "promotion"))
    with pytest.raises(RuntimeError), journal.entry(opened, "promotion", {"sweep": "x"}):
        raise RuntimeError
    found = entries(opened, "promotion")
    assert (len(found), found[0].info.status) == (before + 1, "FAILED")


def test_the_lock_is_held_by_one_and_let_go(opened):
    with (
        journal.lock(opened),
        pytest.raises(InputError, match=r"another promotion is running \(process \d+\)"),
        journal.lock(opened),
    ):
        pass
    with journal.lock(opened):
        pass


def entries(opened: registry.Registry, role: str) -> list:
    """The record's entries, newest first."""
    return list(opened.store.client.search_runs([opened.store.experiment_id], f"tags.`h3.role` = '{role}'"))
