"""exp-config.yaml, header.yaml and config.json as strangers write them: one line that names file and key."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from builders import LLAMA_CONFIG, Server, source

from h3.common.errors import InputError
from h3.sources.experiment import describe, find
from h3.sources.requests import steps

NAME = "20260101-000000-llama-2-7b-tp1-general"
USUAL = {
    "model": "meta-llama/Llama-2-7b-hf",
    "tensor_parallelism": "1",
    "max_model_len": "4096",
    "max_num_seqs": "128",
    "max_num_batched_tokens": "2048",
}
ALIASES = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)


@pytest.fixture
def folder(tmp_path) -> Path:
    made = Server([20_000.0] * 60).serve(0, 60).serve_at_random(10).write_tracev2(tmp_path, NAME)
    write(made)
    return made


def write(folder: Path, **changed: str | None) -> None:
    """An exp-config.yaml whose values are YAML text; None leaves a key out."""
    kept = {key: value for key, value in (USUAL | changed).items() if value is not None}
    (folder / "exp-config.yaml").write_text("".join(f"{key}: {value}\n" for key, value in kept.items()))


WHOLE = r"expected a whole number from 1 to 1000000000"
NUMBER = r"expected a number from 1 to 1000000000"
NO_WHOLE = [
    "0",
    "-1",
    "1.5",
    "two",
    "[1]",
    "{a: 1}",
    "true",
    "1e3",
    "'0x10'",
    "2000000000",
    "9" * 400,
    ".inf",
    ".nan",
]
NO_NUMBER = ["0", "-1", "many", "[1]", "{a: 1}", "true", "9" * 400, ".inf", ".nan", "1e300", "2000000000"]
NO_NAME = ["7", "[a]", "true", "{a: b}", "2026-01-01", "''", "' '", "1.5"]
KEYS = [
    *(("tensor_parallelism", value, WHOLE) for value in NO_WHOLE),
    *(("max_num_seqs", value, NUMBER) for value in NO_NUMBER),
    *(("max_num_batched_tokens", value, NUMBER) for value in NO_NUMBER),
    *(("max_model_len", value, NUMBER) for value in NO_NUMBER),
    *(("block_size", value, NUMBER) for value in NO_NUMBER),
    *(("model", value, "expected a name") for value in NO_NAME),
    *(("workload", value, "expected a name") for value in NO_NAME if value != "' '"),
    *(("hardware", value, "expected a name") for value in NO_NAME),
    ("gpu", "[H100]", "expected a name"),
    ("model", "x" * 300, "expected a name"),
]


@pytest.mark.parametrize(("key", "value", "expected"), KEYS)
def test_a_value_that_is_none_is_one_line_with_file_key_value_and_what_was_expected(
    folder, key, value, expected
):
    write(folder, **{key: value})
    with pytest.raises(InputError) as error:
        steps.load(source("requests", folder.parent))
    said = str(error.value)
    assert re.search(rf"exp-config\.yaml: {key}=.{{1,90}}; {expected}", said), said
    assert "\n" not in said


WORDS = [
    ("tensor_parallelism", "3", r"exp-config\.yaml: tensor parallelism 3 does not divide 32 heads"),
    ("hardware", "golden_hw", r"exp-config\.yaml: unknown hardware 'golden_hw'; expected one of H100"),
    ("hardware", "none.yaml", r"exp-config\.yaml: none\.yaml: .*; expected"),
    ("dtype", "int3", r"exp-config\.yaml.*int3"),
    ("kv_cache_dtype", "fp3", r"exp-config\.yaml.*fp3"),
    ("sampling", "wild", r"exp-config\.yaml.*wild"),
    ("model", "nobody/knows-this", r"unknown model 'nobody/knows-this'; h3 knows .*config\.json"),
]


@pytest.mark.parametrize(("key", "value", "expected"), WORDS)
def test_a_word_that_is_not_known_is_one_line(folder, key, value, expected):
    write(folder, **{key: value})
    with pytest.raises(InputError, match=expected) as error:
        steps.load(source("requests", folder.parent))
    assert "\n" not in str(error.value)


# The whole file: what it holds, and the line.
FILES = {
    "nested 10000 deep": ("[" * 10_000, r"not YAML \((nested too deep|.*)\); expected key: value lines"),
    "a date that is none": ("date: 2026-99-99\n", r"not YAML \(month must be in 1\.\.12.*\); expected"),
    "digits without end": ("n: " + "9" * 5000 + "\n", r"not YAML \(Exceeds the limit .*\); expected"),
    "binary digits that are none": ("n: 0b_\n", r"not YAML \(.*\); expected key: value lines"),
    "a list": ("- a\n- b\n", r"holds list; expected key: value lines"),
    "a text": ("hello\n", r"holds str; expected key: value lines"),
    "nothing": ("", r"holds NoneType; expected key: value lines"),
    "a tab": ("model:\tx\n\ta: b\n", r"not YAML \(.*\); expected key: value lines"),
    "python object": (
        "a: !!python/object/apply:os.system ['true']\n",
        r"not YAML \(could not determine .*\)",
    ),
    "unclosed": ("model: [a\n", r"not YAML \(.*\); expected key: value lines"),
    "two documents": ("a: 1\n---\nb: 2\n", r"not YAML \(expected a single document.*\); expected"),
    "an alias of nothing": ("a: *b\n", r"not YAML \(found undefined alias.*\); expected"),
    "a megabyte": ("a: " + "x" * (1 << 20) + "\n", r"more than 1048576 bytes; expected a configuration"),
}


@pytest.mark.parametrize("place", ["exp-config.yaml", "header.yaml"])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_configuration_is_one_short_line(folder, name, place):
    content, expected = FILES[name]
    (folder / place).write_text(content)
    with pytest.raises(InputError, match=rf"{re.escape(place)}: {expected}") as error:
        steps.load(source("requests", folder.parent))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


BYTES = {
    "no UTF-8": (b"model: \xff\xfe\xfd\n", r"not YAML \(.*\); expected key: value lines"),
    "UTF-16": ("model: a\n".encode("utf-16"), r"UTF-16; expected UTF-8"),
    "NUL": (b"model: \0\n", r"not YAML \(.*\); expected key: value lines"),
}


@pytest.mark.parametrize("name", BYTES)
def test_bytes_that_are_no_text_are_one_line(folder, name):
    content, expected = BYTES[name]
    (folder / "exp-config.yaml").write_bytes(content)
    with pytest.raises(InputError, match=rf"exp-config\.yaml: {expected}"):
        describe(folder, source("requests", folder.parent))


@pytest.mark.parametrize("key", ["tensor_parallelism", "model", "max_num_seqs"])
def test_a_list_of_lists_of_itself_is_a_short_line(folder, key):
    kept = {name: value for name, value in USUAL.items() if name != key}
    lines = "".join(f"{name}: {value}\n" for name, value in kept.items())
    (folder / "exp-config.yaml").write_text(ALIASES + lines + f"{key}: *a8\n")
    with pytest.raises(InputError, match=rf"{key}=\[.*\]; expected") as error:
        describe(folder, source("requests", folder.parent))
    assert len(str(error.value)) < 600


def test_a_byte_order_mark_is_harmless(folder):
    path = folder / "exp-config.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert describe(folder, source("requests", folder.parent)).model == "llama-2-7b"


def test_a_header_whose_server_is_no_mapping_is_named(folder):
    (folder / "header.yaml").write_text("server: [1]\n")
    with pytest.raises(InputError, match=r"header\.yaml: server=\[1\]; expected key: value lines below it"):
        describe(folder, source("requests", folder.parent))


def test_a_folder_whose_name_is_no_text_is_named(tmp_path):
    made = Server([20_000.0] * 60).serve(0, 60).write_tracev2(tmp_path, NAME)
    os.rename(made, os.path.join(os.fsencode(tmp_path), b"\xff\xfe-tp1-general"))
    with pytest.raises(InputError, match=r"the name is not UTF-8; expected a name that is"):
        find(tmp_path, ("data.csv",))


def test_a_log_that_is_no_file_is_named(folder):
    (folder / "data.csv").unlink()
    os.mkfifo(folder / "data.csv")
    with pytest.raises(InputError, match=r"no (regular file|experiment folder)"):
        steps.load(source("requests", folder.parent))


SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size")
NO_SIZE = [0, -1, 1.5, "32", True, [32], {"a": 1}, 10**400, 2**31 - 1, 1e300]
MOE = {"num_local_experts": 8, "num_experts_per_tok": 2}
ARCHITECTURES = [
    *((LLAMA_CONFIG | {key: value}, rf"{key}=") for key in SIZES for value in NO_SIZE),
    *(
        (LLAMA_CONFIG | {"num_key_value_heads": value}, "num_key_value_heads=")
        for value in (0, -8, 64, 5, "8", 8.0)
    ),
    *(
        (LLAMA_CONFIG | MOE | {"num_local_experts": value}, "num_local_experts=")
        for value in ("8", 8.0, -8, [8], 10**9)
    ),
    *(
        (LLAMA_CONFIG | MOE | {"num_experts_per_tok": value}, "num_experts_per_tok=")
        for value in ("2", 2.0, 9, -1)
    ),
    (LLAMA_CONFIG | {"quantization_config": {"quant_method": "gptq", "bits": 2**30}}, "bits=1073741824"),
    (LLAMA_CONFIG | {"quantization_config": {"quant_method": "gptq", "bits": 0}}, "bits=0"),
    (LLAMA_CONFIG | {"quantization_config": {"quant_method": "gptq", "bits": "4"}}, "bits='4'"),
    (LLAMA_CONFIG | {"quantization_config": [1]}, "quantization_config="),
    (LLAMA_CONFIG | {"torch_dtype": "float7"}, "torch_dtype='float7'"),
    (LLAMA_CONFIG | {"layer_types": "full"}, "layer_types="),
    (LLAMA_CONFIG | {"head_dim": 10**8}, "head_dim="),
]


@pytest.mark.parametrize(("config", "expected"), ARCHITECTURES)
def test_a_model_that_cannot_be_is_one_line_with_the_key(folder, config, expected):
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=rf"config\.json: {expected}.*expected") as error:
        describe(folder, source("requests", folder.parent))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


JSONS = {
    "empty": ("", "not JSON"),
    "a list": ("[]", "holds a list; expected a JSON object"),
    "nested 100000 deep": ("[" * 100_000, "not JSON"),
    "digits without end": ('{"num_hidden_layers": ' + "9" * 5000 + "}", "not JSON"),
    "17 MB": ('{"a": "' + "x" * 17_000_000 + '"}', "more than 16000000 bytes"),
}


@pytest.mark.parametrize("name", JSONS)
def test_a_config_that_is_no_json_object_is_one_short_line(folder, name):
    content, expected = JSONS[name]
    (folder / "config.json").write_text(content)
    with pytest.raises(InputError, match=rf"config\.json: {expected}") as error:
        describe(folder, source("requests", folder.parent))
    assert len(str(error.value)) < 400
