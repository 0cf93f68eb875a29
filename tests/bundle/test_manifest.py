"""The manifest's models: what they refuse, how they say it, and that file and JSON Schema agree with them."""

from __future__ import annotations

import copy
import json

import builders
import numpy as np
import pytest

from h3 import bundle
from h3.bundle import manifest_schema
from h3.bundle.json_file import checked
from h3.bundle.manifest import check, dump, make, restore_model
from h3.bundle.manifest_model import KnownDeployment, Manifest
from h3.common.errors import InputError
from h3.models.support import DEPLOYMENT_COLUMNS


@pytest.fixture
def content(golden) -> dict:
    return json.loads((golden / "manifest.json").read_text())


def test_a_manifest_that_was_read_is_written_byte_for_byte(golden):
    assert dump(bundle.read(golden).manifest) == (golden / "manifest.json").read_bytes()


def test_the_schema_file_is_current():
    path = manifest_schema.PATH
    said = f"python -m h3.bundle.manifest_schema > {path}"
    assert path.read_text() == manifest_schema.text(), said


def test_every_key_is_needed_but_four(content):
    """What may be absent: MoE's own booster, a support's deployments, coverage where not measured, and steps
    that a request waits for where a manifest counts in us alone.
    """
    may = {
        "Files": {"booster_moe.json"},
        "Support": {"deployments"},
        "Kind": {"coverage"},
        "RequestOverheads": {"pipeline_steps"},
    }
    schema = manifest_schema.schema()
    for name, part in {**schema["$defs"], "Manifest": schema}.items():
        optional = set(part["properties"]) - set(part["required"])
        assert optional == may.get(name, set())
        assert part["additionalProperties"] is False
    for key in schema["required"]:
        with pytest.raises(InputError, match=f"manifest: key '{key}' is missing"):
            checked({name: value for name, value in content.items() if name != key}, Manifest, "manifest")


def test_known_deployments_have_the_columns_of_the_step_table():
    assert tuple(KnownDeployment.model_fields) == DEPLOYMENT_COLUMNS


def at(content: dict, place: tuple) -> object:
    for key in place:
        content = content[key]
    return content


DENSE = ("models", "dense")
KNOWN = ("uncertainty", "kinds", "known")
WRONG = [
    (("target",), [], "m.target: holds list; expected object"),
    (("target", "unit"), "s", "m.target.unit: 's'; expected 'us'"),
    (("features", 2, "index"), 32, r"m.features\[2\].index: 32; expected at most 31"),
    (("features", 2, "index"), 1.0, r"m.features\[2\].index: holds float; expected integer"),
    (("features", 0, "name"), "Kv", r"m.features\[0\].name: 'Kv'; expected a match of \^"),
    (("features", 0), {}, r"m.features\[0\]: key 'index' is missing"),
    (("features",), [], "m.features: is empty"),
    (("terms",), ["a"] * 33, "m.terms: 33 items; expected at most 32"),
    (("terms",), "weights_us", "m.terms: holds str; expected array"),
    (("constants", "kv_bytes"), None, "m.constants.kv_bytes: holds NoneType; expected number"),
    (("constants", "two_shot_bytes"), [1], "m.constants.two_shot_bytes: 1 items; expected at least 2"),
    (("hardware",), {}, "m.hardware: is empty"),
    (("hardware", "H100", "memory_bytes"), "80", "m.hardware.H100.memory_bytes: holds str; expected number"),
    (("hardware_aliases", "h100"), "H900", "m: hardware_aliases.h100='H900'; expected a known al"),
    (("routing", "moe"), "other", "m: routing.moe='other'; expected one of dense, moe"),
    (("routing", "if"), "x", "m.routing: unknown key 'if'; expected some of rule, dense, moe"),
    ((*DENSE, "coefficients", 3), "x", r"m.models.dense.coefficients\[3\]: holds str; expected number"),
    ((*DENSE, "coefficients", 3), True, r"m.models.dense.coefficients\[3\]: holds bool; expected number"),
    ((*DENSE, "coefficients", 3), -1, r"m.models.dense.coefficients\[3\]: -1; expected at least 0"),
    ((*DENSE, "coefficients", 3), np.inf, r"m.models.dense.coefficients\[3\]: inf; expected a finite number"),
    ((*DENSE, "coefficients"), [1.0] * 11, "m: models.dense has 11 coefficients; expected 12"),
    ((*DENSE, "support", "low", 0), 1e39, r"m.models.dense.support.low\[0\]: 1e\+39; expected at most 3"),
    ((*DENSE, "support", "deployments"), None, "support.deployments: holds null; expected a value, or no su"),
    ((*DENSE, "support", "deployments", 0, "hardware"), "H" * 65, "expected at most 64 characters"),
    ((*DENSE, "a\nb"), 1, r"m.models.dense: unknown key 'a\\nb'; expected some of booster, trees"),
    (("models", "a\nb"), 1, r"m.models.'a\\nb': holds int; expected object"),
    ((*KNOWN, "low", 0), 1.5, r"m.uncertainty.kinds.known.low\[0\]: 1.5; expected at most 1"),
    ((*KNOWN, "high"), [1.1], "uncertainty: kinds.known: 1 numbers; expected 4"),
    ((*KNOWN, "coverage"), None, "kinds.known.coverage: holds null; expected a value, or no such key"),
    (("uncertainty", "levels"), [0.9, 0.5, 0.8, 0.95], "expected rising ones"),
    (("trained_on", "context_tokens"), [1.0], "m.trained_on.context_tokens"),
    (("trained_on", "context_tokens"), [9.0, 1.0], "expected the lower bound first"),
    ((*KNOWN, "high"), [1.5, 1.2, 1.6, 1.7], "kinds.known: an interval narrower than that of a lower level"),
    ((*KNOWN, "low"), [0.9, 0.8, 0.85, 0.7], "kinds.known: an interval narrower than that of a lower level"),
    (("xgboost_version",), "new", "m.xgboost_version: 'new'; expected a match of"),
    (("files", "golden.json", "bytes"), 0, "m.files.golden.json.bytes: 0; expected at least 1"),
    (("files", "other.json"), {}, "m.files: unknown key 'other.json'; expected some of booster.json, boost"),
    (("files", "booster_moe.json"), None, "m.files.booster_moe.json: holds null; expected a value"),
    (("provenance", "folds"), [1], r"m.provenance.folds\[0\]: holds int; expected object"),
    (("provenance",), [], "m.provenance: holds list; expected object"),
]


@pytest.mark.parametrize(("place", "value", "said"), WRONG)
def test_what_is_wrong_is_named_with_its_place_in_a_line(place, value, said, content):
    wrong = copy.deepcopy(content)
    at(wrong, place[:-1])[place[-1]] = value
    with pytest.raises(InputError, match=said) as error:
        checked(wrong, Manifest, "m")
    assert "\n" not in str(error.value)


def test_a_moe_booster_that_is_no_file_is_refused(content):
    del content["files"]["booster_moe.json"]
    with pytest.raises(InputError, match=r"models.moe.booster='booster_moe.json' is not among files"):
        checked(content, Manifest, "m")


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("constants", "gemm_efficiency"), 0.7, "constants: gemm_efficiency: 0.7; expected 0.8"),
        (("constants",), "a\nb", r"constants: 'a\\nb'; expected {"),
        (
            ("hardware", "H100", "memory_bytes"),
            8e10 + 1,
            "hardware: H100: memory_bytes: 80000000001.0; expec",
        ),
        (("hardware", "B200"), {}, "hardware: B200: kernels: None; expected {"),
        (("features", 0, "name"), [], r"unknown feature '\[\]'; expected some of kv_to_weights"),
        (("features", 0), 7, "unknown feature 'None'; expected some of"),
    ],
)
def test_other_physics_is_found_whatever_stands_there(place, value, said, content):
    at(content, place[:-1])[place[-1]] = value
    content["provenance"]["commit"] = "a\nb"
    with pytest.raises(bundle.OtherPhysics, match=f"m: {said}.*the version that made it") as error:
        check(content, "m")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("key", "value"), [("unit", "s"), ("group", "other")])
def test_features_of_another_meaning_are_refused(key, value, golden, content):
    content["features"][0][key] = value
    manifest = check(content, "m")
    booster = json.loads((golden / "booster.json").read_text())
    with pytest.raises(InputError, match="order, units or groups are not those of this version"):
        restore_model(manifest, "dense", booster, "b")


def test_provenance_is_an_open_mapping_of_json(both, provenance):
    more = {"rows": np.int64(5), "worst": float("nan"), "folds": [{"mape": np.float32(0.5)}]}
    files = {"booster.json": b"{}", "golden.json": b"{}"}
    made = make(both, provenance | more, builders.CONSTANTS, builders.EVIDENCE, files)
    assert made.provenance["commit"] == provenance["commit"]
    assert (made.provenance["rows"], made.provenance["worst"]) == (5, None)
    assert made.provenance["folds"] == [{"mape": 0.5}]
    with pytest.raises(InputError, match=r"manifest.json.provenance: key 'data_digest' is missing"):
        make(both, {"commit": "", "folds": []}, builders.CONSTANTS, builders.EVIDENCE, files)


def test_a_card_that_this_process_does_not_know_stands_in_nobodys_way(content):
    """Whoever fitted on a card of his own has it in the bundle, which others read all the same."""
    content["hardware"]["Elsewhere"] = content["hardware"]["A100"]
    content["hardware_aliases"]["elsewhere"] = "Elsewhere"
    assert "Elsewhere" in check(content, "m").hardware


def test_a_gpus_kernel_factors_must_be_this_versions(content):
    content["hardware"]["L40S"]["kernels"]["weights"] = 1.0
    with pytest.raises(bundle.OtherPhysics, match=r"hardware: L40S: kernels: weights: 1.0; expected 1.1"):
        check(content, "m")


def test_golden_vectors_are_of_every_gpu_with_tables(golden):
    vectors = json.loads((golden / "golden.json").read_text())["vectors"]
    assert {each["hardware"] for each in vectors} >= {"H100", "H200", "A100", "L40S"}
