"""Two stores in one process."""

from __future__ import annotations

import mlflow

from h3.tracking.store import open_store


def test_a_run_begins_in_its_own_store_though_another_stores_experiment_was_the_active_one(tmp_path):
    open_store(f"sqlite:///{tmp_path / 'one.db'}", "before")
    one = open_store(f"sqlite:///{tmp_path / 'one.db'}", "h3")
    mlflow.set_tracking_uri(one.uri)
    mlflow.set_experiment(experiment_id=one.experiment_id)
    two = open_store(f"sqlite:///{tmp_path / 'two.db'}", "h3")
    assert two.experiment_id != one.experiment_id
    with two.active_run("entry", {}) as run_id:
        assert mlflow.active_run().info.run_id == run_id
    assert two.run(run_id).info.status == "FINISHED"
