"""Whether sampling is truncated: read as vLLM reads it."""

from __future__ import annotations

import json

import pytest

from h3.common.errors import InputError
from h3.steps import catalog, sampling


@pytest.mark.parametrize(
    ("settings", "truncated"),
    [
        ({}, False),
        ({"top_p": 1.0, "top_k": 0}, False),
        ({"top_k": -1}, False),
        ({"top_p": None, "top_k": None}, False),
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9}, True),
        ({"do_sample": False, "top_p": 0.9}, True),  # vLLM does not look at do_sample
        ({"top_k": 20}, True),
        ({"temperature": 0, "top_k": 20, "top_p": 0.8}, False),
    ],
)
def test_top_p_and_top_k_truncate_unless_sampling_is_greedy(settings, truncated):
    assert sampling.truncates(settings, "here") is truncated


@pytest.mark.parametrize("value", ["0.9", True, [0.9]])
def test_a_setting_that_is_no_number_is_refused_by_name(value):
    with pytest.raises(InputError, match=r"here: top_p=.*; expected a number"):
        sampling.truncates({"top_p": value}, "here")


def test_the_generation_config_beside_a_config_is_read(tmp_path):
    config = tmp_path / "config.json"
    assert sampling.beside(config) is None
    (tmp_path / "generation_config.json").write_text(json.dumps({"top_k": 20}))
    assert sampling.beside(config).truncated
    assert sampling.served("auto", config).told() == "sampling with top-p or top-k (generation_config.json)"
    assert not sampling.served("plain", config).truncated


def test_without_one_plain_sampling_is_assumed_and_said_to_be(tmp_path):
    assert sampling.served("auto", tmp_path / "config.json").told() == (
        "sampling without top-p or top-k (assumed, there is no generation_config.json beside config.json)"
    )


@pytest.mark.parametrize(("content", "says"), [("{", "not JSON"), ("[1]", "holds a list")])
def test_a_damaged_generation_config_is_refused_by_path(tmp_path, content, says):
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(InputError, match=f"generation_config.json: {says}"):
        sampling.beside(tmp_path / "config.json")


def test_another_word_is_refused_with_those_that_there_are(tmp_path):
    with pytest.raises(InputError, match="sampling='beam'; expected auto, truncated, plain"):
        sampling.served("beam", tmp_path / "config.json")


def test_every_model_with_published_defaults_is_one_that_h3_knows():
    assert set(catalog.MODELS) >= sampling.TRUNCATED
    assert sampling.of_model("meta-llama/Llama-2-7b-hf").truncated
    assert not sampling.of_model("codellama-34b").truncated
    assert sampling.of_model("somebodys-own") is None
