"""Go gives the same numbers as Python: on random batches, on every kind of config, from the command line."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from h3 import bundle
from h3.bundle import golden, standing
from h3.common.errors import InputError
from h3.steps import catalog
from h3.steps.batch import Deployment, step_table

GOLDEN = Path(__file__).parents[2] / "go" / "h3bundle" / "testdata" / "bundle"
GO = Path(__file__).parents[2] / "go"


def test_go_gives_the_same_features_and_us_on_random_batches(h3eval, tmp_path):
    generator = np.random.default_rng(5)
    places = golden.deployments(generator)
    chosen = [(*next(places), golden.random_batch(generator)) for _ in range(2000)]
    answers = evaluate(h3eval, GOLDEN, chosen, tmp_path)
    read = bundle.read(GOLDEN)
    expected = bundle.predict(read.fitted_by_route(), golden.table_of(chosen, golden.CONFIGS))
    names = [feature.name for feature in read.manifest.features]
    assert (
        golden.relative(
            np.array([answer["features"] for answer in answers]), expected[names].to_numpy(float)
        ).max()
        < 1e-6
    )
    assert (
        golden.relative(np.array([answer["us"] for answer in answers]), expected["us"].to_numpy()).max()
        < 1e-5
    )
    np.testing.assert_array_equal(
        np.array([answer["margin"] for answer in answers], np.float32), expected["margin"].to_numpy()
    )


CONFIG = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 100,
}


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": None},
        {"vocab_size": 0},
        {"head_dim": 16.0},
        {"num_key_value_heads": "4"},
        {"torch_dtype": "int3"},
        {"kv_lora_rank": 512},
        {"text_config": 3},
        {"text_config": {}},
        {"text_config": CONFIG},
        {"quantization_config": {"bits": 0}},
        {"quantization_config": 4},
        {"num_experts": 4, "top_k": 2, "moe_layer_freq": [0, 1]},
        {"torch_dtype": ["float16"]},
        {"num_experts": 8},
        {"num_experts": 8, "top_k": 9},
        {"num_attention_heads": 3},
        {},
        {"num_experts": 1},
        {"num_experts": 4, "top_k": 2},
        {
            "n_routed_experts": 6,
            "moe_topk": 2,
            "n_shared_experts": 2,
            "first_k_dense_replace": 1,
            "moe_intermediate_size": 32,
        },
        {"num_experts": 4, "top_k": 2, "decoder_sparse_step": 2, "shared_expert_intermediate_size": 48},
        {"dtype": "float32"},
        {"quantization_config": {"quant_method": "FP8"}},
        {"quantization_config": {"load_in_4bit": True}},
        {"quantization_config": {"bits": 3}},
    ],
)
def test_go_and_python_read_a_config_alike(change, h3eval, tmp_path):
    config = CONFIG | change
    answer = evaluate(h3eval, GOLDEN, [(config, 2, "H100", [[50, 1, 40], [0, 30, 60]])], tmp_path)[0]
    try:
        deployment = Deployment(catalog.from_hf_config(config, "config.json"), 2, "H100")
    except InputError:
        assert "error" in answer
        return
    expected = bundle.read(GOLDEN).predict(step_table(deployment, [[(50, 1, 40), (0, 30, 60)]]))[0]
    assert answer["us"] == pytest.approx(expected, rel=1e-9)


@pytest.fixture(scope="session")
def h3eval(tmp_path_factory) -> Path:
    if shutil.which("go") is None:
        pytest.skip("go is not installed")
    path = tmp_path_factory.mktemp("go") / "h3eval"
    subprocess.run(["go", "build", "-o", str(path), "./cmd/h3eval"], cwd=GO, check=True)
    return path


def evaluate(h3eval: Path, folder: Path, chosen: list, tmp_path: Path) -> list[dict]:
    """What Go answers to (config or its name, tensor parallelism, hardware, requests)."""
    keys = ("config", "tensor_parallelism", "hardware", "requests", "truncated_sampling")
    cases = [
        (golden.CONFIGS[config] if isinstance(config, str) else config, *rest, config in golden.TRUNCATED)
        for config, *rest in chosen
    ]
    (tmp_path / "cases.jsonl").write_text(
        "\n".join(json.dumps(dict(zip(keys, case, strict=True))) for case in cases)
    )
    done = subprocess.run(
        [h3eval, "-bundle", folder, "-cases", tmp_path / "cases.jsonl"],
        check=True,
        capture_output=True,
        text=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_h3eval_prints_the_period_and_its_parts(h3eval, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(golden.CONFIGS["mixtral-8x7b"]))
    (tmp_path / "batch.json").write_text(
        '{"requests": [{"progress_index": 600, "new_tokens": 1, "prompt_tokens": 512}]}'
    )
    options = [
        "-bundle",
        GOLDEN,
        "-config",
        tmp_path / "config.json",
        "-tp",
        "2",
        "-batch",
        tmp_path / "batch.json",
    ]
    printed = subprocess.run([h3eval, *options], check=True, capture_output=True, text=True).stdout
    deployment = Deployment(catalog.from_hf_config(golden.CONFIGS["mixtral-8x7b"], ""), 2, "H100")
    expected = bundle.read(GOLDEN).predict(step_table(deployment, [[(600, 1, 512)]]))[0]
    assert printed.splitlines()[0].split() == ["period", f"{expected:.2f}", "us"]
    assert "weights_us" in printed
    refused = subprocess.run([h3eval, *options[:-3], "3", *options[-2:]], capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr == "error: tensor parallelism 3 does not divide 32 heads\n"


def test_without_a_bundle_the_shipped_champion_answers_as_in_python_and_says_its_data(h3eval, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "batch.json").write_text("[[600, 1, 512], [40, 1, 30]]")
    files = ["-config", str(tmp_path / "config.json"), "-batch", str(tmp_path / "batch.json")]
    done = subprocess.run([h3eval, *files], cwd=GO, capture_output=True, text=True, check=True)
    deployment = Deployment(catalog.from_hf_config(CONFIG, "config"), 1, "H100")
    steps = step_table(deployment, [[(600, 1, 512), (40, 1, 30)]])
    expected = bundle.read(standing.SHIPPED).predict(steps)[0]
    lines = {line[:28].strip(): line[28:].strip() for line in done.stdout.splitlines()}
    assert float(lines["period"].split()[0]) == pytest.approx(expected, abs=0.01)
    assert lines["learned from data"].startswith("measured on H100: request logs")
