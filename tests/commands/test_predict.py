"""Zero-shot predictions from a config.json: the literal command lines work, and say how far off the question
is.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from processes import h3

from h3 import bundle, predict
from h3.bundle import golden, zero_shot
from h3.common import cli
from h3.common.errors import InputError
from h3.predict import PredictConfig
from h3.steps import catalog
from h3.steps.batch import Deployment, step_table

GOLDEN = Path(__file__).parents[2] / "go" / "h3bundle" / "testdata" / "bundle"
CONFIG = {
    "num_hidden_layers": 28,
    "hidden_size": 3584,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "vocab_size": 152064,
    "torch_dtype": "bfloat16",
}


@pytest.fixture
def config(tmp_path) -> str:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))
    return str(path)


@pytest.fixture(scope="module")
def read():
    return bundle.read(GOLDEN)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (64, [64]),
        ("1,2,4", [1, 2, 4]),
        ("1:4", [1, 2, 3, 4]),
        ("1:10:4", [1, 5, 9]),
        ("8,1:3", [8, 1, 2, 3]),
        ("5:5", [5]),
    ],
)
def test_lists_and_ranges_hold_both_ends(text, expected):
    assert predict.whole_numbers(text, "batch") == expected


@pytest.mark.parametrize(
    "text", ["", "a", "1:", ":4", "4:1", "1:4:0", "-1", "1.5", "1,,2", "1:999999999", "99999999999999"]
)
def test_what_is_no_list_of_numbers_is_refused_by_name(text):
    with pytest.raises(InputError, match="batch="):
        predict.whole_numbers(text, "batch")


def test_a_tensor_parallel_degree_starts_at_one():
    with pytest.raises(InputError, match="numbers from 1 on"):
        predict.whole_numbers("0", "tp")


def test_every_combination_gets_a_row_that_equals_its_batch(config, read):
    answer = predict.predict(
        PredictConfig(config=config, tp="1,2", batch="0,3", context="500,900", prefill="0,64"), read
    )
    assert len(answer) == 16
    arch = catalog.from_hf_config(CONFIG, "")
    for row in answer.to_dict("records"):
        requests = [(row["context"], 1, row["context"])] * row["batch"] + [
            (0, row["prefill"], row["prefill"])
        ] * (row["prefill"] > 0)
        expected = read.predict(step_table(Deployment(arch, row["tp"], "H100"), [requests]))[0]
        assert row["period_us"] == pytest.approx(expected, rel=1e-12)


def test_parts_and_correction_make_up_the_period(config, read):
    answer = predict.predict(PredictConfig(config=config, batch="1:64", prefill=100), read)
    np.testing.assert_allclose(
        answer.filter(like="part_").sum(axis=1) * answer["correction"], answer["period_us"], rtol=1e-9
    )


def test_a_question_far_outside_names_the_features_and_rests_on_the_base(config, read):
    answer = predict.predict(PredictConfig(config=config, batch=2000, context=100_000), read)
    assert answer["trust"][0] == 0
    assert answer["correction"][0] == 1
    assert "kv_to_weights" in answer["outside"][0]
    said = zero_shot.report(answer, read)
    assert "1 of 1 rows lie outside the range" in said
    assert "kv_to_weights: " in said


def test_a_question_inside_says_so(tmp_path, read):
    (tmp_path / "known.json").write_text(json.dumps(golden.CONFIGS["llama-2-7b"]))
    answer = predict.predict(PredictConfig(config=str(tmp_path / "known.json"), batch=32, context=700), read)
    assert answer["trust"][0] == 1
    assert "every row lies inside" in zero_shot.report(answer, read)


def test_a_deployment_that_the_trees_do_not_serve_gets_the_base_and_is_told(config, read):
    answer = predict.predict(PredictConfig(config=config, batch=32, context=700), read)
    assert (answer["trust"][0], answer["correction"][0], answer["outside"][0]) == (0, 1, "deployment")
    said = zero_shot.report(answer, read)
    assert "1 of 1 rows lie outside the range" in said
    assert "the physical base answers alone" in said


def test_too_many_combinations_are_refused(config, read):
    with pytest.raises(InputError, match="expected at most"):
        predict.predict(PredictConfig(config=config, batch="1:2000", context="1:2000"), read)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[]", "JSON object"),
        ('{"hidden_size": 3}', "num_hidden_layers"),
        ("", "not JSON"),
    ],
)
def test_a_config_that_is_none_is_refused_in_one_line(text, said, tmp_path, read):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(InputError, match=said) as error:
        predict.predict(PredictConfig(config=str(tmp_path / "bad.json")), read)
    assert "\n" not in str(error.value)


def test_lists_are_quoted_for_hydra_and_others_left_alone():
    given = ["tp=1,2", "batch=1:256", "config=a,b.json", "context='1,2'"]
    assert cli.prepared(given, predict.NUMBERS, {}) == [
        "tp='1,2'",
        "batch='1:256'",
        "config=a,b.json",
        "context='1,2'",
    ]


def test_the_command_line_prints_a_table_and_writes_parquet(config, tmp_path):
    done = h3(
        tmp_path,
        "predict",
        f"config={config}",
        "tp=1,2",
        "batch=1:256",
        "context=512,4096",
        f"bundle={GOLDEN}",
        "out=grid.parquet",
    )
    assert done.returncode == 0, done.stderr
    assert "period_us" in done.stdout
    table = pd.read_parquet(tmp_path / "grid.parquet")
    assert len(table) == 2 * 256 * 2
    assert (table["period_us"] > 0).all()


def test_the_command_line_fails_in_one_line(config, tmp_path):
    done = h3(tmp_path, "predict", f"config={config}", "tp=3", f"bundle={GOLDEN}")
    assert (done.returncode, done.stderr) == (
        2,
        "error: deployment: tensor parallelism 3 does not divide 28 heads\n",
    )


def test_a_card_of_ones_own_is_answered_for_and_the_answer_says_whose_kernels_it_takes(config, tmp_path):
    (tmp_path / "card.yaml").write_text(
        "name: Mine\npeak_bf16_tflops: 312\nmemory_bandwidth_gb_s: 2039\nmemory_gb: 80\nlink_gb_s: 300\n"
        "streaming_multiprocessors: 108\n"
    )
    asked = (f"config={config}", "tp=1", "batch=8", f"bundle={GOLDEN}")
    mine = h3(tmp_path, "predict", *asked, "hardware=card.yaml", "out=mine.parquet")
    a100 = h3(tmp_path, "predict", *asked, "hardware=A100", "out=a100.parquet")
    assert mine.returncode == a100.returncode == 0, mine.stderr + a100.stderr
    assert "Mine: no kernel of it was measured" in mine.stdout and "no kernel" not in a100.stdout
    found, expected = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("mine", "a100"))
    assert found["period_us"].equals(expected["period_us"])
