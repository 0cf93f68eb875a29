"""A bundle predicts what the fit predicts, and says what it found when it was verified."""

from __future__ import annotations

import json
import subprocess
import sys

import builders
import numpy as np
import pandas as pd
import pytest

from h3 import bundle
from h3.bundle.golden_file import margins
from h3.common.config import FeaturesConfig
from h3.common.errors import InputError
from h3.models import restore
from h3.models.boosted import Boosted
from h3.models.peers.xgboost_raw import Params as RawParams
from h3.models.peers.xgboost_raw import XGBoostRaw
from h3.models.protocol import Context, digest
from h3.models.trees import Trees, check_booster
from h3.models.xgboost_residual import Params, XGBoostResidual
from h3.server.overheads import STUDY_IN_STEPS, Overheads
from h3.steps import catalog


def test_a_bundle_predicts_exactly_what_the_fit_predicts(written, fitted, steps):
    np.testing.assert_array_equal(bundle.read(written).predict(steps), fitted.predict(steps))


def test_two_boosters_serve_dense_and_moe_rows_each(two, steps, provenance, tmp_path):
    read = bundle.read(
        bundle.write(two, tmp_path / "blis", provenance, builders.CONSTANTS, builders.EVIDENCE)
    )
    moe = catalog.is_moe(steps)
    shuffled = steps.sample(frac=1, random_state=0)
    predicted = pd.Series(read.predict(shuffled), index=shuffled.index).sort_index().to_numpy()
    np.testing.assert_array_equal(predicted[moe], two["moe"].predict(steps[moe]))
    np.testing.assert_array_equal(predicted[~moe], two["dense"].predict(steps[~moe]))


def test_a_written_bundle_verifies_with_edges_among_its_vectors(written):
    report = bundle.verify(written)
    assert report.vectors >= 500
    assert report.bytes < 2_000_000
    vectors = json.loads((written / "golden.json").read_text())["vectors"]
    assert any(not vector["requests"] for vector in vectors)
    assert any(vector["requests"] == [[32767, 1, 1024]] * 128 for vector in vectors)
    assert any(vector["tensor_parallelism"] == 8 for vector in vectors)


def test_the_committed_bundle_verifies(golden):
    assert bundle.verify(golden).vectors >= 500


def test_explained_parts_make_up_the_prediction(written, steps):
    explained = bundle.read(written).explain(steps)
    np.testing.assert_allclose(explained.filter(like="part_").sum(axis=1), explained["base_us"], rtol=1e-12)
    factor = np.exp(explained["trust"] * explained["margin"].astype(float))
    np.testing.assert_allclose(explained["base_us"] * factor, explained["us"], rtol=1e-6)


def test_the_tree_walker_adds_up_the_same_float32_as_xgboost(two, steps):
    boosted, walked = margins(two, steps, two["moe"].inputs_matrix(steps))
    np.testing.assert_array_equal(walked, boosted)
    np.testing.assert_array_equal(walked, bundle.predict(two, steps)["margin"].to_numpy())
    assert len(np.unique(walked)) > 5


def test_the_tree_walker_sends_missing_values_where_xgboost_does(fitted, steps):
    import xgboost as xgb

    matrix = fitted.inputs_matrix(steps)
    matrix = matrix.mask(np.random.default_rng(0).random(matrix.shape) < 0.3)
    trees = Trees.of(check_booster(fitted.describe()["booster"], list(matrix.columns), "fit"))
    np.testing.assert_array_equal(
        trees.margin(matrix.to_numpy(np.float32)), fitted.booster.predict(xgb.DMatrix(matrix))
    )


def test_a_description_restores_the_fit_through_json(fitted, steps):
    again = restore.from_description(json.loads(json.dumps(fitted.describe())))
    np.testing.assert_array_equal(again.predict(steps), fitted.predict(steps))
    assert digest(again) == digest(fitted)


def test_a_description_with_left_out_groups_restores(steps):
    fitted = XGBoostResidual(Params(n_estimators=3)).fit(
        steps, Context(group="workload", features=FeaturesConfig(drop_groups=("communication",)))
    )
    again = restore.from_description(fitted.describe())
    assert again.drop_groups == ("communication",)
    np.testing.assert_array_equal(again.predict(steps), fitted.predict(steps))


def test_no_trees_are_a_bundle_too(steps, provenance, tmp_path):
    fitted = XGBoostResidual(Params(n_estimators=0)).fit(steps, Context(group="workload"))
    both = {"dense": fitted, "moe": fitted}
    read = bundle.read(
        bundle.write(both, tmp_path / "blis", provenance, builders.CONSTANTS, builders.EVIDENCE)
    )
    np.testing.assert_array_equal(read.predict(steps), fitted.base.predict(steps))


def test_other_predictors_are_not_exported(steps, provenance, tmp_path):
    raw = XGBoostRaw(RawParams()).fit(steps, Context(features=FeaturesConfig(name="raw30")))
    with pytest.raises(InputError, match="only such can be exported"):
        bundle.write(
            {"dense": raw, "moe": raw}, tmp_path / "blis", provenance, builders.CONSTANTS, builders.EVIDENCE
        )
    assert not (tmp_path / "blis").exists()


def test_writing_replaces_a_bundle_and_nothing_else(written, both, provenance, tmp_path):
    (written / "old.txt").write_text("x")
    bundle.write(both, written, provenance, Overheads(queueing_us=1.0), builders.EVIDENCE)
    assert bundle.read(written).overheads.queueing_us == 1.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blis"]
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="is not a bundle"):
        bundle.write(both, precious, provenance, builders.CONSTANTS, builders.EVIDENCE)
    assert (precious / "thesis.txt").exists()


def test_a_copy_is_the_bundle_byte_for_byte(written, tmp_path):
    copy = bundle.copy(written, tmp_path / "copy")
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == {
        path.name: path.read_bytes() for path in written.iterdir()
    }


@pytest.mark.parametrize(
    ("model", "route"), [("llama-2-7b", "dense"), ("mixtral-8x7b-v0-1", "moe"), ("codellama-34b", "dense")]
)
def test_an_architecture_is_served_by_the_fit_of_its_route(model, route, golden):
    read = bundle.read(golden)
    assert read.fit_for(catalog.MODELS[model]) is read.models[route]


@pytest.mark.parametrize("overheads", [builders.CONSTANTS, STUDY_IN_STEPS])
def test_overheads_are_constants_and_steps(overheads, both, provenance, tmp_path):
    folder = bundle.write(both, tmp_path / "blis", provenance, overheads, builders.EVIDENCE)
    assert bundle.read(folder).overheads == overheads


def test_a_manifest_without_pipeline_steps_has_none(copied):
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["overheads"].pop("pipeline_steps", None)
    (copied / "manifest.json").write_text(json.dumps(manifest))
    builders.sign_manifest(copied)
    assert bundle.read(copied).overheads.pipeline_steps == 0


def test_fits_on_different_features_are_not_exported(fitted, steps, provenance, tmp_path):
    fewer = XGBoostResidual(Params(n_estimators=1)).fit(
        steps, Context(group="workload", features=FeaturesConfig(drop_groups=("communication",)))
    )
    with pytest.raises(InputError, match="have different features; expected the same list"):
        bundle.write(
            {"dense": fitted, "moe": fewer},
            tmp_path / "blis",
            provenance,
            builders.CONSTANTS,
            builders.EVIDENCE,
        )


@pytest.mark.parametrize("broken", ["boosted_margin", "trees"])
def test_vectors_are_verified_with_xgboost_and_with_the_walker(broken, golden, monkeypatch):
    if broken == "trees":
        real = Trees.margin
        monkeypatch.setattr(Trees, "margin", lambda self, matrix: real(self, matrix) + np.float32(0.5))
    else:
        of = Boosted.boosted_margin
        monkeypatch.setattr(Boosted, broken, lambda self, matrix: of(self, matrix) + np.float32(0.5))
    with pytest.raises(InputError, match=r"golden\.json: vector 0: margin differs by"):
        bundle.verify(golden)


def test_a_verified_copy_is_described_in_a_line(golden, tmp_path):
    report = bundle.copy_verified(golden, tmp_path / "copy")
    size = sum(path.stat().st_size for path in golden.iterdir())
    assert (report.digest, report.bytes, report.not_evaluated) == (bundle.read(golden).digest, size, "")
    assert report == bundle.verify(golden)
    said = bundle.describe("copy", report)
    assert said.startswith(f"copy: {report.vectors} golden vectors agree (features ")
    assert said.endswith(f"{size / 1e6:.2f} MB, digest {report.digest[:16]}")


def test_a_first_answer_needs_none_of_the_heavy_packages(golden):
    heavy = ("xgboost", "mlflow", "matplotlib", "sklearn", "scipy.optimize")
    code = (
        "import sys; from h3 import bundle; from h3.steps import batch, catalog\n"
        "deployment = batch.Deployment(catalog.MODELS['llama-2-7b'], 1, 'H100')\n"
        f"us = bundle.read({str(golden)!r}).predict(batch.step_table(deployment, [[(600, 1, 512)]]))\n"
        f"print(len(us), set({heavy}) & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1 set()\n"
