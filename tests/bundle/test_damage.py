"""Nothing damaged is read, and the line that says so names file and place."""

from __future__ import annotations

import json
import os
from pathlib import Path

import builders
import numpy as np
import pytest

from h3 import bundle
from h3.bundle import json_file
from h3.bundle.json_file import sha256
from h3.common.errors import InputError


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def sign(folder: Path) -> None:
    """Make the digests right after an edit, so that what lies behind them is tested."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        data = (folder / name).read_bytes()
        entry.update(sha256=sha256(data), bytes=len(data))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    builders.sign_manifest(folder)


def truncate(folder: Path) -> None:
    (folder / "booster.json").write_bytes((folder / "booster.json").read_bytes()[:1000])


DAMAGE = {
    "truncated booster": (truncate, "1000 bytes; the manifest"),
    "edited booster": (
        lambda folder: edit(folder / "booster.json", "squarederror", "squarederroR"),
        "booster.json: sha256",
    ),
    "edited golden": (lambda folder: edit(folder / "golden.json", "1", "2"), "golden.json: sha256"),
    "edited manifest": (
        lambda folder: edit(folder / "manifest.json", "9300", "9301"),
        "manifest.json: sha256",
    ),
    "missing booster": (lambda folder: (folder / "booster.json").unlink(), "No such file"),
    "missing digest": (lambda folder: (folder / "manifest.sha256").unlink(), "manifest.sha256: No such file"),
    "rubbish behind the digest": (
        lambda folder: edit(folder / "manifest.sha256", "  manifest", "x  manifest"),
        "manifest.json: sha256 .*; manifest.sha256 says '.*x  manifest.json",
    ),
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
        ('"format_version": 2', '"format_version": 3', "format version 3; expected 2"),
        ('"format": "h3-bundle"', '"format": "onnx"', "format: 'onnx'"),
        ('"queueing_us": 9300.0', '"queueing_us": NaN', "the number NaN"),
        ('"queueing_us": 9300.0', '"queueing_us": 1e999', "the number 1e999"),
        ('"queueing_us": 9300.0', '"queueing_us": 1' + "0" * 400, "the number 1000"),
        (
            '"queueing_us": 9300.0',
            '"queueing_us": 1e12',
            "queueing_us: 1000000000000.0; expected at most 1000000000",
        ),
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
    builders.sign_manifest(copied)
    with pytest.raises(InputError, match=said) as error:
        bundle.read(copied)
    assert "\n" not in str(error.value)


def first_tree(content: dict) -> dict:
    return content["learner"]["gradient_booster"]["model"]["trees"][0]


def the_model(content: dict) -> dict:
    return content["learner"]["gradient_booster"]["model"]


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
    "version": (lambda content: content.update(version=[None]), "version=\\[None\\]; expected XGBoost's"),
    "rounds": (
        lambda content: the_model(content)["iteration_indptr"].pop(),
        "iteration_indptr=.*one tree a round",
    ),
    "outputs": (
        lambda content: the_model(content)["tree_info"].__setitem__(0, 1),
        "tree_info=.*one tree a round",
    ),
    "statistics": (lambda content: first_tree(content)["sum_hessian"].pop(), "sum_hessian has .* one a node"),
    "no statistics": (lambda content: first_tree(content).pop("base_weights"), "base_weights is NoneType"),
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


@pytest.mark.parametrize("kind", ["pipe", "folder"])
@pytest.mark.parametrize("name", ["manifest.json", "manifest.sha256", "booster.json", "golden.json"])
def test_only_regular_files_are_read(name, kind, copied):
    (copied / name).unlink()
    os.mkfifo(copied / name) if kind == "pipe" else (copied / name).mkdir()
    with pytest.raises(InputError, match=f"{name}: (no regular file|Is a directory); expected a file of"):
        bundle.read(copied)


def test_without_golden_vectors_a_bundle_is_read_and_copied_but_not_verified(copied, steps, tmp_path):
    expected = bundle.read(copied).predict(steps)
    (copied / "golden.json").unlink()
    copy = bundle.copy(copied, tmp_path / "copy")
    assert not (copy / "golden.json").exists()
    np.testing.assert_array_equal(bundle.read(copy).predict(steps), expected)
    with pytest.raises(InputError, match=r"golden\.json: no such file; expected the golden vectors"):
        bundle.verify(copy)


@pytest.mark.parametrize("number", [0, -1])
def test_reading_evaluates_some_of_the_golden_vectors(number, copied):
    golden = json.loads((copied / "golden.json").read_text())
    golden["vectors"][number]["us"] *= 1.001
    (copied / "golden.json").write_text(json.dumps(golden))
    sign(copied)
    said = number % len(golden["vectors"])
    with pytest.raises(InputError, match=rf"golden\.json: vector {said}: us differs by 0\.000999"):
        bundle.read(copied)


def test_vectors_on_an_accelerator_that_this_version_lacks_are_left_to_others(copied):
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["hardware"]["Newer"] = manifest["hardware"]["H200"]
    (copied / "manifest.json").write_text(json.dumps(manifest))
    golden = json.loads((copied / "golden.json").read_text())
    golden["vectors"][0]["hardware"] = "newer"
    (copied / "golden.json").write_text(json.dumps(golden))
    sign(copied)
    bundle.read(copied)
    with pytest.raises(InputError, match=r"golden\.json: vector 0: unknown hardware 'newer'"):
        bundle.verify(copied)


def test_a_wrong_golden_vector_is_named(copied):
    golden = json.loads((copied / "golden.json").read_text())
    golden["vectors"][7]["us"] *= 1.001
    (copied / "golden.json").write_text(json.dumps(golden))
    sign(copied)
    with pytest.raises(InputError, match=r"vector 7: us differs by 0\.000999"):
        bundle.verify(copied)


def test_files_are_bounded_in_size_and_depth(tmp_path, monkeypatch):
    monkeypatch.setattr(json_file, "MAX_BYTES", 1000)
    (tmp_path / "big.json").write_bytes(b" " * 1001)
    with pytest.raises(InputError, match="1001 bytes; expected at most 1000"):
        json_file.read_bytes(tmp_path / "big.json")
    for text in (b"[" * 10_000_000, b'{"a":' * 1_000_000, b'"' + b"[" * 10_000_000, b'"\\"' * 1_000_000):
        with pytest.raises(InputError, match=r"nested deeper|not JSON"):
            json_file.parse(text, "deep.json")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda golden: golden.update(format="other"), "json.format: 'other'; expected 'h3-golden'"),
        (lambda golden: golden.update(configs=[]), "configs: holds list; expected object"),
        (lambda golden: golden.pop("configs"), "key 'configs' is missing"),
        (lambda golden: golden.update(vectors=golden["vectors"][:9]), "9 items; expected at least 500"),
        (lambda golden: golden["vectors"][3].pop("us"), r"vectors\[3\]: key 'us' is missing"),
        (lambda golden: golden["vectors"][3].update(us="1"), r"vectors\[3\].us: holds str; expected number"),
        (lambda golden: golden["vectors"][3]["features"].pop(), "vector 3 has 8 features; expected 9"),
        (lambda golden: golden["vectors"][3].update(requests=[[1, 2]]), r"requests\[0\]: item 2 is missing"),
        (lambda golden: golden["vectors"][3].update(config="gpt"), "config 'gpt' is not among llama-2-7b"),
        (lambda golden: golden["feature_names"].pop(), "feature_names: kv_to_weights, .*; expected kv_to"),
    ],
)
def test_golden_files_that_are_none_are_refused(change, said, copied):
    golden = json.loads((copied / "golden.json").read_text())
    change(golden)
    (copied / "golden.json").write_text(json.dumps(golden))
    sign(copied)
    with pytest.raises(InputError, match=said) as error:
        bundle.verify(copied)
    assert "\n" not in str(error.value)
