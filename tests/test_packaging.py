"""h3 as a package: a wheel that works outside the checkout, commands, versions, imports that cost nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import h3

ROOT = Path(__file__).parents[1]
BUNDLE = ROOT / "go" / "h3bundle" / "testdata" / "bundle"
LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
    "torch_dtype": "float16",
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder that holds what the wheel holds, and nothing of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("h3-*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder / "site")
    return folder / "site"


def run(site: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, env=environment
    )


def test_a_wheel_carries_package_configuration_templates_and_licence(installed):
    held = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    conf = {f"h3/conf/{path.relative_to(ROOT / 'conf')}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert conf and conf <= held
    assert {"h3/py.typed", "h3/bundle/manifest.schema.json", "h3/verdict/report/templates/html.j2"} <= held
    assert any(name.endswith("licenses/LICENSE") for name in held)
    assert not [name for name in held if not name.startswith(("h3/", "h3-"))]


def test_an_installed_wheel_predicts_and_trains_without_the_checkout(installed, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    where = run(installed, tmp_path, "-c", "import h3; print(h3.__file__)")
    assert Path(where.stdout.strip()).is_relative_to(installed)
    done = run(installed, tmp_path, "-m", "h3", "predict", "config=config.json", f"bundle={BUNDLE}")
    assert done.returncode == 0, done.stderr
    assert "period_us" in done.stdout
    done = run(installed, tmp_path, "-m", "h3", "train", "fold=lomo_mixtral", "--cfg", "job")
    assert done.returncode == 0, done.stderr
    assert "holdout: mixtral-8x7b-v0-1" in done.stdout


def test_the_version_is_one_and_every_verb_is_named(tmp_path):
    assert run(ROOT / "src", tmp_path, "-m", "h3", "--version").stdout == f"h3 {h3.__version__}\n"
    assert f"## {h3.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    verbs = {path.stem for path in (ROOT / "src" / "h3").glob("[!_]*.py")}
    told = run(ROOT / "src", tmp_path, "-m", "h3", "--help").stdout
    assert verbs == {
        line.split()[0] for line in told.splitlines() if line.startswith("  ") and "--" not in line
    }


def test_an_unknown_verb_is_one_line(tmp_path):
    done = run(ROOT / "src", tmp_path, "-m", "h3", "forecast")
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown verb 'forecast'; expected one of train, ")
    assert done.stderr.count("\n") == 1


def test_importing_predict_loads_nothing_that_only_training_needs(tmp_path):
    heavy = {"mlflow", "matplotlib", "fastapi", "xgboost", "sklearn", "shap", "optuna", "joblib", "scipy"}
    done = run(
        ROOT / "src", tmp_path, "-c", f"import sys, h3.predict; print(sorted({heavy} & set(sys.modules)))"
    )
    assert done.stdout == "[]\n", done.stderr
