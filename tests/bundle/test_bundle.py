"""A bundle predicts what the fit predicts, in Python and in Go, and nothing damaged is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import builders
import numpy as np
import pandas as pd
import pytest

from h3 import bundle
from h3.bundle import golden as bundle_golden
from h3.bundle import manifest as bundle_manifest
from h3.bundle import untrusted_json as bundle_json
from h3.common.errors import InputError
from h3.models import restore
from h3.models import trees as bundle_trees
from h3.models.peers.xgboost_raw import Params as RawParams
from h3.models.peers.xgboost_raw import XGBoostRaw
from h3.models.protocol import Context, digest
from h3.models.xgboost_residual import Params, XGBoostResidual

GOLDEN = Path(__file__).parents[1] / "golden" / "bundle"
PROVENANCE = {"data_digest": "d" * 32, "commit": "c" * 40, "folds": [{"fold": "lomo_mixtral", "mape": 5.0}]}


def truth_us(table: pd.DataFrame) -> np.ndarray:
    """A period with something for trees to find."""
    new, decodes = table["prefill_tokens"].to_numpy(), table["num_decode_reqs"].to_numpy()
    return 5000 + 30 * decodes + 4 * new * (new > 200)


@pytest.fixture(scope="module")
def steps() -> pd.DataFrame:
    models = ("llama-2-7b", "llama-2-70b", "mixtral-8x7b-v0-1")
    made = builders.Steps(seed=1)
    for model in models:
        made.run(model, rows=200)
    return made.timed(truth_us).table()


@pytest.fixture(scope="module")
def fitted(steps):
    return XGBoostResidual(Params(n_estimators=8, min_child_weight=0.0)).fit(steps, Context(group="workload"))


@pytest.fixture(scope="module")
def two(steps, fitted):
    dense = XGBoostResidual(Params(n_estimators=5, min_child_weight=0.0)).fit(
        steps[steps["num_experts"] == 0], Context(group="workload")
    )
    return {"dense": dense, "moe": fitted}


@pytest.fixture
def written(fitted, tmp_path):
    return bundle.write(
        {"dense": fitted, "moe": fitted}, tmp_path / "blis", PROVENANCE, bundle_manifest.Overheads()
    )


@pytest.fixture
def copied(tmp_path):
    return Path(shutil.copytree(GOLDEN, tmp_path / "golden"))


def test_a_bundle_predicts_exactly_what_the_fit_predicts(written, fitted, steps):
    np.testing.assert_array_equal(bundle.read(written).predict(steps), fitted.predict(steps))


def test_two_boosters_serve_dense_and_moe_rows_each(two, steps, tmp_path):
    read = bundle.read(bundle.write(two, tmp_path / "blis", PROVENANCE, bundle_manifest.Overheads()))
    moe = (steps["num_experts"] >= 2).to_numpy()
    shuffled = steps.sample(frac=1, random_state=0)
    predicted = pd.Series(read.predict(shuffled), index=shuffled.index).sort_index().to_numpy()
    np.testing.assert_array_equal(predicted[moe], two["moe"].predict(steps[moe]))
    np.testing.assert_array_equal(predicted[~moe], two["dense"].predict(steps[~moe]))


def test_a_written_bundle_verifies_with_edges_among_its_vectors(written):
    report = bundle.verify(written)
    assert report["vectors"] >= 500
    assert report["bytes"] < 2_000_000
    vectors = json.loads((written / "golden.json").read_text())["vectors"]
    assert any(not vector["requests"] for vector in vectors)
    assert any(vector["requests"] == [[32767, 1, 1024]] * 128 for vector in vectors)
    assert any(vector["tensor_parallelism"] == 8 for vector in vectors)


def test_the_committed_bundle_verifies():
    assert bundle.verify(GOLDEN)["vectors"] >= 500


def test_explained_parts_make_up_the_prediction(written, steps):
    explained = bundle.read(written).explain(steps)
    np.testing.assert_allclose(explained.filter(like="part_").sum(axis=1), explained["base_us"], rtol=1e-12)
    factor = np.exp(explained["trust"] * explained["margin"].astype(float))
    np.testing.assert_allclose(explained["base_us"] * factor, explained["us"], rtol=1e-6)


def test_the_tree_walker_adds_up_the_same_float32_as_xgboost(fitted, steps):
    matrix = fitted.inputs_matrix(steps)
    margin = bundle_golden.walk({"dense": fitted, "moe": fitted}, steps, matrix)
    np.testing.assert_array_equal(
        margin, bundle.predict({"dense": fitted, "moe": fitted}, steps)["margin"].to_numpy()
    )
    assert len(np.unique(margin)) > 5


def test_the_tree_walker_sends_missing_values_where_xgboost_does(fitted, steps):
    import xgboost as xgb

    matrix = fitted.inputs_matrix(steps)
    matrix = matrix.mask(np.random.default_rng(0).random(matrix.shape) < 0.3)
    trees = bundle_trees.Trees.of(
        bundle_trees.check_booster(fitted.describe()["booster"], list(matrix.columns), "fit")
    )
    np.testing.assert_array_equal(
        trees.margin(matrix.to_numpy(np.float32)), fitted.booster.predict(xgb.DMatrix(matrix))
    )


def test_a_description_restores_the_fit_through_json(fitted, steps):
    again = restore.from_description(json.loads(json.dumps(fitted.describe())))
    np.testing.assert_array_equal(again.predict(steps), fitted.predict(steps))
    assert digest(again) == digest(fitted)


def test_a_description_with_left_out_groups_restores(steps):
    fitted = XGBoostResidual(Params(n_estimators=3)).fit(
        steps, Context(group="workload", drop_groups=("communication",))
    )
    again = restore.from_description(fitted.describe())
    assert again.drop_groups == ("communication",)
    np.testing.assert_array_equal(again.predict(steps), fitted.predict(steps))


def test_no_trees_are_a_bundle_too(steps, tmp_path):
    fitted = XGBoostResidual(Params(n_estimators=0)).fit(steps, Context(group="workload"))
    read = bundle.read(
        bundle.write(
            {"dense": fitted, "moe": fitted}, tmp_path / "blis", PROVENANCE, bundle_manifest.Overheads()
        )
    )
    np.testing.assert_array_equal(read.predict(steps), fitted.base.predict(steps))


def test_other_predictors_are_not_exported(steps, tmp_path):
    raw = XGBoostRaw(RawParams()).fit(steps, Context(features="raw30"))
    with pytest.raises(InputError, match="only such can be exported"):
        bundle.write({"dense": raw, "moe": raw}, tmp_path / "blis", PROVENANCE, bundle_manifest.Overheads())
    assert not (tmp_path / "blis").exists()


def test_writing_replaces_a_bundle_and_nothing_else(written, fitted, tmp_path):
    (written / "old.txt").write_text("x")
    both = {"dense": fitted, "moe": fitted}
    bundle.write(both, written, PROVENANCE, bundle_manifest.Overheads(queueing_us=1.0))
    assert bundle.read(written).overheads.queueing_us == 1.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blis"]
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="is not a bundle"):
        bundle.write(both, precious, PROVENANCE, bundle_manifest.Overheads())
    assert (precious / "thesis.txt").exists()


def test_a_copy_is_the_bundle_byte_for_byte(written, tmp_path):
    copy = bundle.copy(written, tmp_path / "copy")
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == {
        path.name: path.read_bytes() for path in written.iterdir()
    }


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def sign(folder: Path) -> None:
    """Make the digests right after an edit, so that what lies behind them is tested."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        data = (folder / name).read_bytes()
        entry.update(sha256=bundle_json.sha256(data), bytes=len(data))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    sign_manifest(folder)


def sign_manifest(folder: Path) -> None:
    (folder / "manifest.sha256").write_text(
        bundle_json.sha256((folder / "manifest.json").read_bytes()) + "  manifest.json\n"
    )


def truncate(folder: Path) -> None:
    (folder / "booster.json").write_bytes((folder / "booster.json").read_bytes()[:1000])


def swap(folder: Path) -> None:
    one, other = folder / "booster.json", folder / "booster_moe.json"
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)


DAMAGE = {
    "truncated booster": (truncate, "1000 bytes; the manifest"),
    "edited booster": (
        lambda folder: edit(folder / "booster.json", "squarederror", "squarederroR"),
        "booster.json: sha256",
    ),
    "edited golden": (lambda folder: edit(folder / "golden.json", "1", "2"), "golden.json: sha256"),
    "swapped boosters": (swap, "booster.json: .* bytes; the manifest"),
    "edited manifest": (
        lambda folder: edit(folder / "manifest.json", "9300", "9301"),
        "manifest.json: sha256",
    ),
    "missing booster": (lambda folder: (folder / "booster.json").unlink(), "No such file"),
    "missing digest": (lambda folder: (folder / "manifest.sha256").unlink(), "manifest.sha256: No such file"),
    "empty": (lambda folder: [path.unlink() for path in folder.iterdir()], "No such file"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_files_are_refused(name, copied):
    damage, said = DAMAGE[name]
    damage(copied)
    with pytest.raises(InputError, match=said):
        bundle.read(copied)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"format_version": 1', '"format_version": 2', "format version 2; expected 1"),
        ('"format": "h3-bundle"', '"format": "onnx"', "format: 'onnx'"),
        ('"queueing_us": 9300.0', '"queueing_us": NaN', "the number NaN"),
        ('"queueing_us": 9300.0', '"queueing_us": 1e999', "the number 1e999"),
        ('"queueing_us": 9300.0', '"queueing_us": 1' + "0" * 400, "the number 1000"),
        ('"queueing_us": 9300.0', '"queueing_us": 1e12', "queueing_us: 1000000000000.0; expected 0 to"),
        ('"queueing_us": 9300.0', '"queueing_us": true', "queueing_us: holds bool; expected number"),
        (
            '"name": "kv_to_weights"',
            '"name": "queue_depth"',
            "unknown feature 'kv_to_weights'|unknown feature 'queue_depth'",
        ),
        ('"weights_us",', '"weights_ms",', "terms: .*weights_ms"),
        ('"gemm_efficiency": 0.8', '"gemm_efficiency": 0.7', "constants: gemm_efficiency: 0.7; expected 0.8"),
        ('"moe": "moe"', '"moe": "other"', "routing.moe='other'"),
        ('"booster": "booster.json"', '"booster": "../../etc/passwd"', "booster.json' or 'booster_moe.json"),
        ('"trees": 40', '"trees": 41', "40 trees; the manifest says 41"),
        ('"formula": "', '"code": "import os", "formula": "', "unknown key 'code'"),
        ('"provenance": {', '"provenance": {"x": ' + "[" * 100 + "]" * 100 + ",", "nested deeper than 32"),
        ('"provenance": {', '"provenance": {"x": ' + '"' + "[" * 100 + '"' + ",,", "not JSON"),
        ('"commit": "",', "", "provenance: key 'commit' is missing"),
    ],
)
def test_bad_manifests_are_refused_with_the_key(old, new, said, copied):
    edit(copied / "manifest.json", old, new)
    sign_manifest(copied)
    with pytest.raises(InputError, match=said) as error:
        bundle.read(copied)
    assert "\n" not in str(error.value)


def first_tree(content: dict) -> dict:
    return content["learner"]["gradient_booster"]["model"]["trees"][0]


def at(name: str, value: object):
    def change(content: dict) -> None:
        first_tree(content)[name][0] = value

    return change


TREES = {
    "cycle": (lambda content: first_tree(content)["left_children"].__setitem__(1, 0), "reached twice"),
    "child out of range": (at("left_children", 10_000), "has child 10000"),
    "one child": (at("left_children", -1), "has child -1"),
    "huge number": (at("split_conditions", 1e39), "split_conditions holds 1e\\+39"),
    "huge leaf": (
        lambda content: first_tree(content)["split_conditions"].__setitem__(-1, 1e6),
        "leaves add up to",
    ),
    "text": (at("split_conditions", "0.5"), "split_conditions holds 0.5"),
    "feature out of range": (at("split_indices", 10), "splits on feature 10"),
    "short list": (lambda content: first_tree(content)["split_indices"].pop(), "other lengths"),
    "categories": (at("split_type", 1), "categorical"),
    "unknown feature": (
        lambda content: content["learner"]["feature_names"].__setitem__(0, "queue_depth"),
        "unknown feature 'queue_depth'",
    ),
    "offset": (
        lambda content: content["learner"]["learner_model_param"].update(base_score="[5E-1]"),
        "base_score",
    ),
    "objective": (
        lambda content: content["learner"]["objective"].update(name="reg:gamma"),
        "objective='reg:gamma'",
    ),
    "dart": (
        lambda content: content["learner"]["gradient_booster"].update(name="dart"),
        "'dart'; expected 'gbtree'",
    ),
    "no trees": (
        lambda content: content["learner"]["gradient_booster"]["model"].pop("trees"),
        "trees is NoneType",
    ),
    "list": (lambda content: content.update(learner=[]), "learner is list"),
}


@pytest.mark.parametrize("name", TREES)
def test_trees_that_are_none_are_refused(name, copied):
    damage, said = TREES[name]
    content = json.loads((copied / "booster.json").read_text())
    damage(content)
    (copied / "booster.json").write_text(json.dumps(content))
    sign(copied)
    with pytest.raises(InputError, match=said):
        bundle.read(copied)


def test_a_wrong_golden_vector_is_named(copied):
    golden = json.loads((copied / "golden.json").read_text())
    golden["vectors"][7]["us"] *= 1.001
    (copied / "golden.json").write_text(json.dumps(golden))
    sign(copied)
    with pytest.raises(InputError, match=r"vector 7: us differs by 0\.000999"):
        bundle.verify(copied)


def test_files_are_bounded_in_size_and_depth(tmp_path, monkeypatch):
    monkeypatch.setattr(bundle_json, "MAX_BYTES", 1000)
    (tmp_path / "big.json").write_bytes(b" " * 1001)
    with pytest.raises(InputError, match="1001 bytes; expected at most 1000"):
        bundle_json.read_bytes(tmp_path / "big.json")
    for text in (b"[" * 10_000_000, b'{"a":' * 1_000_000, b'"' + b"[" * 10_000_000, b'"\\"' * 1_000_000):
        with pytest.raises(InputError, match=r"nested deeper|not JSON"):
            bundle_json.parse(text, "deep.json")


def test_the_schema_says_what_the_manifest_is():
    schema = json.loads(bundle_manifest.SCHEMA.read_text())
    manifest = json.loads((GOLDEN / "manifest.json").read_text())
    bundle_json.check(manifest, schema, "manifest")
    for key in schema["required"]:
        with pytest.raises(InputError, match=f"key '{key}' is missing"):
            bundle_json.check(
                {name: value for name, value in manifest.items() if name != key}, schema, "manifest"
            )
