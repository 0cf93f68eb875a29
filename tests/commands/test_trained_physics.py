"""Coefficients for an unmodified BLIS as files: one for each deployment asked for, which says for which it
holds; any other is refused.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import builders
import numpy as np
import pandas as pd
import pytest
import yaml
from processes import h3

from h3 import bundle, export
from h3.bundle import coefficients, distil
from h3.bundle.coefficients import FittedFor
from h3.bundle.deployments import Asked, deployments
from h3.common.errors import InputError
from h3.export import ExportConfig
from h3.steps import schema

GOLDEN = Path(__file__).parents[2] / "go" / "h3bundle" / "testdata" / "bundle"
CONFIG = {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "intermediate_size": 11008,
    "vocab_size": 32000,
}


@pytest.fixture
def models(tmp_path) -> Path:
    """A folder with two models, seven/config.json and small.json."""
    (tmp_path / "seven").mkdir()
    (tmp_path / "seven" / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "small.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": 16}))
    return tmp_path


@pytest.fixture
def written(models) -> Path:
    """Coefficients of the small model."""
    (_, (model, deployment)), *_ = deployments(Asked((str(models / "small.json"),))).items()
    grid = distil.Grid(batch=(1, 8, 64), context=(512, 1024), prefill=(0, 16), before=(0,))
    made = distil.distil(lambda table: np.full(len(table), 9e3), deployment, builders.CONSTANTS, grid)
    path = models / "blis.yaml"
    said = FittedFor.of(model, deployment, "d" * 64)
    coefficients.write({path: coefficients.as_yaml(made, said)})
    return path


def distilled(folder: Path, *options: str) -> subprocess.CompletedProcess:
    return h3(folder, "export", "format=trained_physics", f"bundle={GOLDEN}", *options)


def test_the_command_line_prints_and_writes_what_defaults_yaml_holds(models):
    done = distilled(models, "model_config=seven/config.json", "tp=2", "out=blis.yaml")
    assert done.returncode == 0, done.stderr
    content = yaml.safe_load(done.stdout)["trained_physics_coefficients"]
    assert (len(content["alpha_coeffs"]), len(content["beta_coeffs"])) == (3, 11)
    assert "differs from the model by" in done.stdout
    assert "on batches between them" in done.stdout
    assert (models / "blis.yaml").read_text() == done.stdout
    assert done.stderr == "written: blis.yaml\n"


def test_a_list_of_deployments_is_a_file_each_and_each_says_for_what_it_holds(models):
    done = distilled(models, "model_config=[seven/config.json,small.json]", "tp=[1,2]", "out=files")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (models / "files").iterdir()) == [
        "seven-tp1-H100.yaml",
        "small-tp2-H100.yaml",
    ]
    assert len(done.stdout.splitlines()) == 2
    said = coefficients.read(models / "files" / "small-tp2-H100.yaml")
    assert (said.model, said.tensor_parallelism, said.architecture["num_layers"]) == ("small", 2, 16)
    assert said.bundle == bundle.inspect(GOLDEN).digest
    assert 0 < said.lost_percent["fitted"] < 5
    assert f"{said.lost_percent['between']:.2f} % on batches between them" in done.stdout.splitlines()[1]


def test_without_a_config_the_four_known_models_have_a_file_each(tmp_path):
    done = distilled(tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "dist" / "trained_physics").iterdir()) == [
        "codellama-34b-tp2-H100.yaml",
        "llama-2-70b-tp4-H100.yaml",
        "llama-2-7b-tp1-H100.yaml",
        "mixtral-8x7b-v0-1-tp2-H100.yaml",
    ]


def test_coefficients_of_another_deployment_are_refused(models):
    distilled(models, "model_config=seven/config.json", "out=blis.yaml")
    asked = ("export", "verify=blis.yaml", "model_config=seven/config.json")
    assert "fitted for seven, tp 1, H100, as asked" in h3(models, *asked).stdout
    done = h3(models, *asked, "tp=2")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "tensor_parallelism 1, not 2" in done.stderr


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"hardware": "A100"}, "(hardware H100, not A100); expected coefficients of small, tp 1, A100"),
        ({"sampling": "truncated"}, "truncated_sampling False, not True"),
        ({"model_config": "seven/config.json"}, "num_layers 16, not 32"),
        ({"model_config": ("small.json", "seven/config.json")}, "2 deployments asked for; expected the one"),
        ({"model_config": None, "tp": 2}, "model_config is missing; expected it beside tp"),
    ],
)
def test_a_refusal_names_what_differs(option, said, written, models, monkeypatch):
    monkeypatch.chdir(models)
    config = ExportConfig.model_validate({"model_config": "small.json"} | option)
    with pytest.raises(InputError, match=re.escape(said)):
        export.verify(config, str(written))


def test_a_file_says_for_what_it_holds_and_under_another_name_a_model_is_the_same(
    written, models, monkeypatch
):
    monkeypatch.chdir(models)
    assert export.verify(ExportConfig(), str(written)) == f"{written}: fitted for small, tp 1, H100"
    (models / "renamed.json").write_text((models / "small.json").read_text())
    renamed = ExportConfig.model_validate({"model_config": "renamed.json"})
    assert "fitted for small, tp 1, H100, as asked" in export.verify(renamed, str(written))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["model_config=[a,b]", "tp=[1,2,4]"], "model_config: 2 values; expected 1 or 3"),
        (["model_config=[small.json,small.json]"], "small-tp1-H100 twice"),
        (["model_config=small.json", "tp=[1,2]", "out=one.yaml"], "one file for 2 deployments"),
        (["model_config=[small.json,seven/config.json]", "tp=[1,3]"], "does not divide 32 heads"),
        (
            ["model_config=small.json", "hardware=[H100,H200,A100]", "tp=[1,2]"],
            "tp: 2 values; expected 1 or 3",
        ),
        (["model_config=[small.json,huge.json]"], "tensor parallelism 1 on H100: weights take"),
        (["tp=2"], "model_config is missing; expected it beside tp"),
        (["hardware=[H100,A100]"], "model_config is missing"),
        (["model_config=small.json", "hardware=GPU9"], "GPU9"),
        (["model_config=small.json", "out=precious.yaml"], "0 lines begin with '# fitted for:'"),
        (["model_config=small.json", "out=precious.yaml/under"], "expected a file that can be written"),
    ],
)
def test_what_cannot_be_written_is_one_line_and_nothing_is_lost(options, said, models):
    (models / "precious.yaml").write_text("mine: 1\n")
    (models / "huge.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": 1000}))
    done = distilled(models, *options)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert said in done.stderr
    assert (models / "precious.yaml").read_text() == "mine: 1\n"
    assert not (models / "dist").exists()


def test_steps_of_other_deployments_are_refused_by_name(models):
    made = builders.Steps(seed=1).run("llama-2-7b", rows=20)
    steps = made.timed(lambda table: np.full(len(table), 9e3)).table()
    schema.write(steps, pd.DataFrame(), models / "steps.parquet", {})
    asked = ("model_config=seven/config.json", "steps=steps.parquet", "out=blis.yaml")
    assert "# MAPE on 20 measured steps: " in distilled(models, *asked).stdout
    done = distilled(models, *asked, "tp=2")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no step of seven, tp 2, H100; expected some beside those of llama-2-7b, tp 1, H100" in done.stderr


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("beta_coeffs", "gamma_coeffs"),
        lambda text: text + "  alpha_coeffs: [0, 0, 0]\n",
        lambda text: text.replace("alpha_coeffs: [", "alpha_coeffs: [-"),
        lambda text: text.replace("alpha_coeffs: [", "alpha_coeffs: [nan, "),
        lambda text: text.replace('"hardware"', '"software"'),
        lambda text: text.replace('"tensor_parallelism": 1', '"tensor_parallelism": "1"'),
        lambda text: text + text,
        lambda text: text + "#" * 200_000,
    ],
)
def test_a_file_that_is_not_as_it_was_written_is_neither_checked_nor_replaced(change, written, models):
    path = written
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=r"blis\.yaml.*expected"):
        coefficients.read(path)
    with pytest.raises(InputError, match=r"blis\.yaml.*expected"):
        coefficients.write({models / "other.yaml": "", path: ""})
    assert not (models / "other.yaml").exists()


def test_names_of_files_are_safe_and_differ_where_deployments_do(tmp_path):
    paths = []
    for folder, layers in (("one", 32), ("two", 16)):
        paths.append(tmp_path / folder / ("..a model ü" + "x" * 100) / "config.json")
        paths[-1].parent.mkdir(parents=True)
        paths[-1].write_text(json.dumps(CONFIG | {"num_hidden_layers": layers}))
    one, two = map(str, paths)
    names = list(deployments(Asked((one, two, one, one), (1, 1, 2, 1), ("H100", "H100", "H100", "A100"))))
    long = "a-model-" + "x" * 70
    assert names == [f"{long}-tp1-H100", f"{long}-tp1-H100-2", f"{long}-tp2-H100", f"{long}-tp1-A100"]
