"""Experiment folders: found by what they hold, described by their configuration, refused by name."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import yaml
from builders import Server, Steps, source, step

from h3.common.errors import InputError
from h3.sources.experiment import (
    REQUEST_FILES,
    TRACE_FILES,
    Ingested,
    combine,
    describe,
    find,
    log_file,
)
from h3.steps import catalog, schema

NAME = "20260101-000000-llama-2-7b-tp1-general"
OTHER = "20260102-000000-llama-2-70b-hf-tp4-codegen"


def server():
    return Server([20_000] * 50).serve(1, 40)


def folder_with(root, name=NAME, **config):
    return server().write_tracev2(root, name, **config)


def test_folders_are_found_below_a_folder_in_a_list_or_given_themselves_sorted_by_name(tmp_path):
    late, early = folder_with(tmp_path / "a", OTHER), folder_with(tmp_path / "b", NAME)
    (tmp_path / "a" / "notes").mkdir()
    assert find(tmp_path / "a", REQUEST_FILES) == [late]
    assert find([tmp_path / "a", str(tmp_path / "b")], REQUEST_FILES) == [early, late]
    assert find(str(early), REQUEST_FILES) == [early]


def test_a_path_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="nowhere: does not exist; expected a folder of experiment folders"):
        find(tmp_path / "nowhere", REQUEST_FILES)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: is a file; expected a folder"):
        find(tmp_path / "file", REQUEST_FILES)


def test_a_folder_without_experiments_is_refused_with_what_is_looked_for(tmp_path):
    with pytest.raises(
        InputError,
        match=r"no experiment folder in it; expected folders that hold one of data\.csv, data\.csv\.gz",
    ):
        find(tmp_path, REQUEST_FILES)
    folder_with(tmp_path)
    with pytest.raises(InputError, match=r"expected folders that hold one of traces\.json, traces\.json\.gz"):
        find(tmp_path, TRACE_FILES)


def test_the_same_experiment_in_two_places_is_refused_with_both(tmp_path):
    first, second = folder_with(tmp_path / "a"), folder_with(tmp_path / "b")
    with pytest.raises(InputError, match="is there twice, also as") as caught:
        find([tmp_path / "a", tmp_path / "b"], REQUEST_FILES)
    assert str(first) in str(caught.value)
    assert str(second) in str(caught.value)


def test_the_log_may_lie_in_a_results_folder(tmp_path):
    folder = server().write_lifecycle(tmp_path, below="results")
    assert log_file(folder, REQUEST_FILES) == folder / "results" / "per_request_lifecycle_metrics.json"
    assert log_file(folder, TRACE_FILES) is None


def test_an_experiment_is_what_its_configuration_and_name_say(tmp_path):
    experiment = describe(folder_with(tmp_path, OTHER), source())
    assert (experiment.name, experiment.model, experiment.workload) == (OTHER, "llama-2-70b", "codegen")
    assert (experiment.tensor_parallelism, experiment.max_num_seqs, experiment.max_num_batched_tokens) == (
        4,
        128,
        2048,
    )
    assert experiment.architecture == catalog.MODELS["llama-2-70b"]
    assert experiment.block_size_tokens == 16
    assert set(experiment.columns()) | {"log", "clock"} >= {
        c.name for group in ("setup", "architecture") for c in schema.GROUPS[group]
    }


def test_an_experiment_of_another_name_pattern_is_named_by_model_id_and_folder(tmp_path):
    experiment = describe(
        folder_with(tmp_path, "my-run", model="meta-llama/Llama-2-70b-hf", tensor_parallelism=4),
        source(),
    )
    assert (experiment.model, experiment.workload) == ("llama-2-70b", "my-run")
    named = describe(folder_with(tmp_path, "my-other-run", workload="chat"), source())
    assert named.workload == "chat"


def test_a_tracev2_header_stands_in_for_a_missing_configuration(tmp_path):
    folder = folder_with(tmp_path, "my-run")
    (folder / "exp-config.yaml").unlink()
    (folder / "header.yaml").write_text(
        yaml.safe_dump(
            {
                "server": {
                    "model": "meta-llama/Llama-2-7b-hf",
                    "tensor_parallel": 2,
                    "max_num_seqs": 64,
                    "block_size": 32,
                }
            }
        )
    )
    experiment = describe(folder, source())
    assert (experiment.model, experiment.tensor_parallelism, experiment.max_num_seqs) == ("llama-2-7b", 2, 64)
    assert experiment.block_size_tokens == 32
    assert math.isnan(experiment.max_num_batched_tokens)


def test_two_experiments_with_different_hardware_keep_their_own(tmp_path):
    slow = describe(folder_with(tmp_path, NAME, hardware="NVIDIA A100-SXM4-80GB"), source())
    fast = describe(folder_with(tmp_path, OTHER, gpu="h200"), source(hardware="L40S"))
    neither = describe(
        folder_with(tmp_path, "20260103-000000-llama-2-7b-tp1-codegen"), source(hardware="l40s")
    )
    assert [experiment.hardware for experiment in (slow, fast, neither)] == ["A100", "H200", "L40S"]


def test_a_limit_that_is_not_configured_is_null_and_a_block_size_assumed(tmp_path):
    folder = folder_with(tmp_path, max_num_seqs=None, max_num_batched_tokens=None)
    experiment = describe(folder, source(block_size_tokens=32))
    assert np.isnan([experiment.max_num_seqs, experiment.max_num_batched_tokens]).all()
    assert experiment.block_size_tokens == 32


def test_an_unknown_model_names_the_option_and_its_own_config_json_makes_it_known(tmp_path):
    folder = folder_with(tmp_path, "20260101-000000-new-1b-tp1-general", model="acme/New-1b")
    with pytest.raises(
        InputError, match=r"unknown model 'acme/New-1b'.*config\.json.*source\.model_configs=DIR"
    ):
        describe(folder, source())
    (folder / "config.json").write_text(
        json.dumps(
            {
                "num_hidden_layers": 5,
                "hidden_size": 64,
                "num_attention_heads": 4,
                "intermediate_size": 96,
                "vocab_size": 100,
            }
        )
    )
    assert describe(folder, source()).architecture.num_layers == 5


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"tensor_parallelism": "two"}, "tensor_parallelism='two'; expected a whole number"),
        ({"tensor_parallelism": 3}, "tensor parallelism 3 does not divide 32 heads"),
        ({"tensor_parallelism": 0}, "tensor_parallelism=0; expected a whole number from 1"),
        ({"max_num_seqs": "many"}, "max_num_seqs='many'; expected a number"),
        ({"max_num_seqs": True}, "max_num_seqs=True; expected a number"),
        ({"hardware": "TPU"}, "unknown hardware 'TPU'; expected one of H100"),
    ],
)
def test_a_bad_setting_is_refused_by_name(tmp_path, config, says):
    with pytest.raises(InputError, match=says):
        describe(folder_with(tmp_path, **config), source())


@pytest.mark.parametrize("degree", [2.5, True])
def test_a_degree_that_is_no_whole_number_is_refused(tmp_path, degree):
    with pytest.raises(InputError, match="tensor_parallelism"):
        describe(folder_with(tmp_path, tensor_parallelism=degree), source())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("model: [", "exp-config.yaml: not YAML"),
        ("- a\n- b\n", "exp-config.yaml: holds list; expected key: value lines"),
        ("just words", "holds str"),
    ],
)
def test_a_configuration_that_is_no_mapping_is_refused_by_path(tmp_path, content, says):
    folder = folder_with(tmp_path)
    (folder / "exp-config.yaml").write_text(content)
    with pytest.raises(InputError, match=says):
        describe(folder, source())


@pytest.mark.parametrize("config", [{"server": "vllm"}, {"server": ["model"]}])
def test_a_header_whose_server_is_no_mapping_is_refused(tmp_path, config):
    folder = folder_with(tmp_path)
    (folder / "header.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match=r"header\.yaml"):
        describe(folder, source())


def test_a_folder_without_any_configuration_is_refused(tmp_path):
    folder = folder_with(tmp_path)
    (folder / "exp-config.yaml").unlink()
    with pytest.raises(InputError, match=r"no exp-config\.yaml; expected model, tensor_parallelism"):
        describe(folder, source())


def test_a_configuration_without_a_model_is_refused(tmp_path):
    folder = folder_with(tmp_path, "my-run", model=None)
    with pytest.raises(InputError, match="key 'model' is missing"):
        describe(folder, source())


def test_parts_are_joined_row_by_row_and_their_records_key_by_key():
    first = Ingested(
        Steps().run("llama-2-7b", 3).table(),
        schema.rejects_frame([("a", "f", 1, "r", "d")]),
        {"left_out": [1], "experiments": {"a": 1}, "assumptions": {"hardware": "H100"}},
    )
    second = Ingested(
        step("llama-2-70b", decode=[9]),
        schema.empty_rejects(),
        {"left_out": [2], "experiments": {"b": 2}, "assumptions": {"hardware": "H100"}},
    )
    joined = combine([first, second])
    assert len(joined.table) == 4
    assert tuple(joined.table.columns) == schema.NAMES
    assert len(joined.rejects) == 1
    assert joined.record == {
        "left_out": [1, 2],
        "experiments": {"a": 1, "b": 2},
        "assumptions": {"hardware": "H100"},
    }


def test_joining_changes_none_of_the_parts():
    part = Ingested(step(decode=[9]), schema.empty_rejects(), {"left_out": [1], "experiments": {"a": 1}})
    combine([part, part])
    assert part.record == {"left_out": [1], "experiments": {"a": 1}}


def test_nothing_to_join_is_refused():
    with pytest.raises(InputError, match="no experiment left to read"):
        combine([])


def test_truncated_sampling_is_read_from_the_configuration_then_the_folder_then_the_model(tmp_path):
    def told(folder, **assumed):
        return describe(folder, source("requests", tmp_path, **assumed)).sampling.told()

    known = folder_with(tmp_path / "known")
    assert told(known) == "sampling with top-p or top-k (the model's published defaults)"
    (known / "generation_config.json").write_text(json.dumps({"temperature": 0}))
    assert told(known) == "sampling without top-p or top-k (generation_config.json)"
    asked = folder_with(tmp_path / "asked", sampling={"top_k": 20})
    (asked / "generation_config.json").write_text("{}")
    assert told(asked) == "sampling with top-p or top-k (exp-config.yaml)"
    assert describe(asked, source()).columns()["truncated_sampling"] == 1.0


@pytest.mark.parametrize(("assumed", "says"), [("plain", "without"), ("truncated", "with")])
def test_what_nobody_says_of_an_unknown_models_sampling_is_assumed_and_named(tmp_path, assumed, says):
    folder = folder_with(tmp_path, "20260101-000000-new-1b-tp1-general", model="acme/New-1b")
    config = {"num_hidden_layers": 5, "hidden_size": 64, "num_attention_heads": 4}
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 96, "vocab_size": 100}))
    found = describe(folder, source("requests", tmp_path, sampling=assumed)).sampling
    assert found.told() == f"sampling {says} top-p or top-k (assumed)"


@pytest.mark.parametrize("given", ["beam", 3, ["top_k"]])
def test_a_sampling_that_is_neither_a_word_nor_settings_is_refused(tmp_path, given):
    with pytest.raises(InputError, match=r"exp-config.yaml: sampling=.*; expected truncated or plain"):
        describe(folder_with(tmp_path, sampling=given), source())


def test_weights_and_cache_are_of_the_precision_that_the_configuration_names(tmp_path):
    folder = folder_with(tmp_path, dtype="fp8", kv_cache_dtype="fp8")
    architecture = describe(folder, source()).architecture
    assert (architecture.bytes_per_parameter, architecture.head_bytes_per_parameter) == (1.0, 2.0)
    assert architecture.kv_bytes_per_value == 1.0


@pytest.mark.parametrize(("key", "value"), [("dtype", "int3"), ("kv_cache_dtype", 8)])
def test_an_unknown_precision_is_refused_with_the_known(tmp_path, key, value):
    with pytest.raises(InputError, match=f"exp-config.yaml: {key}='{value}'; expected one of auto"):
        describe(folder_with(tmp_path, **{key: value}), source())
