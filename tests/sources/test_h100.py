"""The built-in measurements: what they are, that nothing else is taken for them, and that they run whole."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from builders import source

from h3.common import packaged
from h3.common.config import TrainConfig
from h3.common.errors import InputError
from h3.common.progress import Progress
from h3.evaluation.one_fold import run_fold
from h3.latency.fold import find_recorded, replays
from h3.sources import h100
from h3.sources.load import load
from h3.steps import basis, schema

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data" / "requests"
STUDY = {"prefill_tokens": "repeat", "shared_prefix_tokens": {"reasoning": 100}}


@pytest.fixture(scope="module")
def ingested():
    return load(source("h100", **STUDY))


def test_thirteen_of_sixteen_runs_count_and_the_overloaded_ones_are_left_out_with_the_reason(ingested):
    assert ingested.table["experiment"].nunique() == 13
    left_out = {entry["experiment"][16:]: entry["reason"] for entry in ingested.record["left_out"]}
    assert left_out["llama-2-7b-tp1-reasoning"].startswith("4068 of 4800 requests failed")
    assert len(left_out) == 3 and all("reasoning" in name for name in left_out)
    assert set(h100.experiment_names()) == {*ingested.table["experiment"].unique(), *_names(ingested)}


def _names(ingested):
    return [entry["experiment"] for entry in ingested.record["left_out"]]


def test_all_four_models_are_there_and_it_says_that_they_were_measured(ingested):
    assert ingested.table["model"].nunique() == 4 and ingested.table["workload"].nunique() == 4
    said = basis.described(ingested.table)
    assert said == "measured on H100: request logs, 13 experiments" and basis.is_measured(said)


def test_the_package_is_small_and_is_what_sha256sums_says():
    files = [path for path in packaged.FOLDER.iterdir() if path.suffix in (".parquet", ".csv")]
    assert sum(path.stat().st_size for path in files) < 4e6
    checked = subprocess.run(
        ["sha256sum", "-c", packaged.SUMS], cwd=packaged.FOLDER, capture_output=True, text=True
    )
    assert checked.returncode == 0 and len(checked.stdout.splitlines()) == len(files)


def test_a_table_whose_digest_differs_is_refused_by_name(tmp_path, monkeypatch):
    shutil.copytree(packaged.FOLDER, tmp_path / "data")
    with open(tmp_path / "data" / h100.EXPERIMENTS, "a") as file:
        file.write("\n")
    monkeypatch.setattr(packaged, "FOLDER", tmp_path / "data")
    with pytest.raises(InputError, match=r"h100_experiments.csv: sha256 .*; expected .*, as SHA256SUMS says"):
        load(source("h100"))
    (tmp_path / "data" / h100.EXPERIMENTS).unlink()
    with pytest.raises(
        InputError, match=r"h100_experiments.csv: No such file .* expected a table of the package"
    ):
        load(source("h100"))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the request logs that the table was made from are not here")
def test_the_packaged_table_gives_the_same_steps_as_the_logs_it_was_made_from(ingested, tmp_path):
    logs = load(source("requests", SHARED, **STUDY))
    assert schema.digest(logs.table) == schema.digest(ingested.table)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the request logs that the table was made from are not here")
def test_the_script_makes_the_packaged_bytes_again(tmp_path):
    code = (
        "import runpy, sys; from pathlib import Path; from h3.common import packaged\n"
        f"packaged.FOLDER = Path({str(tmp_path)!r}); sys.argv = ['pack', {str(SHARED)!r}]\n"
        f"runpy.run_path({str(ROOT / 'scripts' / 'pack_h100.py')!r}, run_name='__main__')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    for name in (h100.REQUESTS, h100.EXPERIMENTS):
        assert (tmp_path / name).read_bytes() == (packaged.FOLDER / name).read_bytes()


def test_a_fold_runs_and_replays_from_the_package_alone():
    config = TrainConfig(
        source=source("h100", **STUDY).model_dump(),
        fold={"name": "lomo_mixtral", "kind": "lomo", "holdout": "mixtral-8x7b-v0-1"},
        model={"name": "xgboost_residual"},
        features={},
        tune={"trials": 0, "storage": None},
    )
    assert replays(config)
    result = run_fold(load(config.source), config, Progress("test")).result
    assert result.title == "lomo_mixtral (measured on H100)"
    assert result.mape < 4 and json.loads(json.dumps(result.recorded()))["data"].startswith(
        "measured on H100"
    )
    (make,) = find_recorded(config.source, {"20260218-155500-codellama-34b-tp2-roleplay"}).values()
    recorded = make()
    assert (recorded.logged, recorded.failed, len(recorded.requests)) == (7200, 0, 7200)
