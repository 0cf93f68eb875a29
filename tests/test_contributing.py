"""The worked examples of CONTRIBUTING.md, applied to a copy of the code as they stand, and run."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from builders import simulated_source

from h3.sources import simulated

ROOT = Path(__file__).parents[1]
TITLES = ("A predictor", "A source of steps", "A feature set", "A GPU")
GOLDEN = ROOT / "go" / "h3bundle" / "testdata" / "bundle"
LLAMA = json.loads((GOLDEN / "golden.json").read_text())["configs"]["llama-2-7b"]


def blocks(title: str) -> list[tuple[str, str, str]]:
    """(path, language, text) of each block below a title that has a file's name above it."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (section,) = re.findall(rf"^### {title}\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    return re.findall(r"^`(\S+)`:\n```(\w+)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def applied(title: str, copy: Path) -> Path:
    """A copy of the code in which the example of that title is done."""
    shutil.copytree(ROOT / "src" / "h3", copy / "src" / "h3", ignore=shutil.ignore_patterns("*.pyc.*"))
    shutil.copytree(ROOT / "conf", copy / "conf")
    for path, language, text in blocks(title):
        if language == "diff":
            assert f"+++ b/{path}\n" in text
            settings = {**os.environ, "GIT_CEILING_DIRECTORIES": str(copy.parent)}
            subprocess.run(["git", "apply", "-"], input=text, text=True, cwd=copy, env=settings, check=True)
        else:
            assert not (copy / path).exists()
            (copy / path).write_text(text)
    return copy


def h3(copy: Path, verb: str, *arguments: str) -> None:
    """Run `python -m h3.<verb>` of the copy, in it."""
    done = subprocess.run(
        [sys.executable, "-m", f"h3.{verb}", *arguments],
        cwd=copy,
        env={**os.environ, "MLFLOW_TRACKING_URI": "", "PYTHONPATH": str(copy / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def trained(copy: Path, *arguments: str) -> dict:
    """What one quick fold of the copy says of itself."""
    h3(copy, "train", "debug=quick", "tune.trials=0", *arguments)
    (path,) = copy.glob("outputs/*/*/result.json")
    result = json.loads(path.read_text())
    assert math.isfinite(result["mape"])
    return result


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """The folder in which the quick fold's simulated steps are kept."""
    folder = tmp_path_factory.mktemp("data")
    table = simulated.load(simulated_source(0.02, cache_dir=folder)).table
    table.assign(log="csv").to_csv(folder / "steps.csv", index=False)
    return folder


@pytest.mark.parametrize("title", TITLES)
def test_an_example_has_at_most_forty_lines(title):
    lines = [line for *_, text in blocks(title) for line in text.splitlines() if line.strip()]
    assert 0 < len(lines) <= 40


def test_there_are_no_other_examples():
    assert tuple(re.findall(r"^### (.*)$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)) == TITLES


def test_the_predictor_learns_by_how_much_a_roofline_falls_short(tmp_path, data):
    copy = applied("A predictor", tmp_path)
    result = trained(copy, "model=scaled_roofline", "fold=lomo_mixtral", f"source.cache_dir={data}")
    assert result["model"] == "scaled_roofline"
    assert result["mape"] < 15  # the roofline as it is: 29


def test_the_source_reads_the_steps_and_rejects_one_without_a_period(tmp_path, data):
    copy = applied("A source of steps", tmp_path)
    steps = pd.read_csv(data / "steps.csv")
    steps.loc[5, "period_us"] = None
    steps.to_csv(copy / "steps.csv", index=False)
    result = trained(copy, "source=csv", "source.path=steps.csv", "fold=lomo_mixtral")
    assert (result["source"], result["n_train"] + result["n_test"]) == ("csv", len(steps) - 1)
    (rejects,) = copy.glob("mlruns/artifacts/*/artifacts/rejects.parquet")
    assert pd.read_parquet(rejects)[["line", "reason"]].values.tolist() == [[7, "no_period"]]


def test_the_trees_see_the_features_of_the_set(tmp_path, data):
    copy = applied("A feature set", tmp_path)
    trees = ("+model.params.n_estimators=20", f"source.cache_dir={data}")
    assert trained(copy, "features=shares", "fold=lowo_general", *trees)["features"] == "shares"
    (ranking,) = copy.glob("mlruns/artifacts/*/artifacts/shap_ranking.parquet")
    assert set(pd.read_parquet(ranking)["feature"]) >= {"weights_share", "kv_share", "all_reduce_share"}


def test_the_gpu_reads_weights_as_fast_as_its_memory(tmp_path):
    copy = applied("A GPU", tmp_path)
    (copy / "config.json").write_text(json.dumps(LLAMA))
    for name in ("H100", "H100-PCIe"):
        wanted = ("config=config.json", f"hardware={name}", "batch=8", f"out={name}.parquet")
        h3(copy, "predict", f"bundle={GOLDEN}", *wanted)
    fast, slow = (pd.read_parquet(copy / f"{name}.parquet").loc[0] for name in ("H100", "H100-PCIe"))
    assert slow["part_weights_us"] == pytest.approx(fast["part_weights_us"] * 3.35 / 2)
    assert slow["period_us"] > fast["period_us"]
