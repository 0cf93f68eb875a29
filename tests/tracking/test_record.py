"""A fold's record is complete on disk or none, and is sent once, however often it is tried."""

import builders
import pandas as pd
import pytest
import xgboost as xgb

from h3.common.errors import InputError
from h3.tracking import record, send
from h3.tracking.store import open_store


@pytest.fixture
def filled(tmp_path) -> record.Record:
    made = record.Record(tmp_path / "fold")
    made.frame(pd.DataFrame({"ape": [1.0, 2.0]}), "predictions.parquet")
    made.dataset(pd.DataFrame({"a": range(1000)}), "h100", "d" * 32, "training")
    return made


def test_a_record_is_none_before_it_is_sealed(filled):
    with pytest.raises(InputError, match=r"fold: no complete record of a fold: .*; expected record.json"):
        record.read(filled.folder)
    filled.seal(builders.fold_result(), "key")
    assert record.read(filled.folder).key == "key"


def test_filling_a_record_again_makes_it_incomplete_first(filled):
    filled.seal(builders.fold_result())
    record.Record(filled.folder)
    with pytest.raises(InputError, match="no complete record"):
        record.read(filled.folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"key": "k", "time_ms": "x", "datasets": []}', "\x00"])
def test_a_damaged_mark_is_refused(filled, content):
    filled.seal(builders.fold_result())
    (filled.folder / "record.json").write_text(content)
    with pytest.raises(InputError, match="no complete record"):
        record.read(filled.folder)


def test_sending_twice_is_sending_once(filled, tmp_path):
    store = open_store(f"sqlite:///{tmp_path / 'mlflow.db'}", "h3")
    table = pd.DataFrame({"x": [0.0, 1.0, 2.0, 3.0]})
    booster = xgb.train({"base_score": 0.0}, xgb.DMatrix(table, label=[1, 2, 3, 4]), 2)

    class Fitted:
        def __init__(self):
            self.booster = booster

    filled.booster(Fitted(), table, booster.predict(xgb.DMatrix(table)))
    sealed = filled.seal(builders.fold_result())
    with store.fold_run(store.start_parent("sweep", {}), "lomo") as run_id:
        send.fold(store, run_id, sealed)
        send.fold(store, run_id, record.read(filled.folder))
    run = store.client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert [each.dataset.digest for each in run.inputs.dataset_inputs] == ["d" * 32]
    assert '"num_rows": 1000' in run.inputs.dataset_inputs[0].dataset.profile
    assert len(store.client.get_metric_history(run_id, "mape")) == 1
    models = store.client.search_logged_models([store.experiment_id])
    assert len(models) == 1
    assert record.read(filled.folder).result.mlflow_run_id == run_id
