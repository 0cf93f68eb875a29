"""A step table in a folder is that of one file, is written experiment by experiment, and is there whole or
not at all.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from builders import Server, Steps
from processes import h3

from h3.common.config import Fold, SourceConfig, TrainConfig
from h3.common.errors import InputError
from h3.common.progress import Progress
from h3.evaluation import folds
from h3.evaluation.one_fold import run_fold
from h3.sources.load import load
from h3.steps import partitions, schema

LOWO = Fold(name="b", kind="lowo", holdout="general")


def filled(path: Path, tables: list[pd.DataFrame]) -> dict:
    with partitions.writing(path) as folder:
        for table in tables:
            folder.add(table, schema.empty_rejects())
        return folder.close({"source": "requests"})


@pytest.fixture
def tables() -> list[pd.DataFrame]:
    names = ("llama-2-7b", "llama-2-70b", "codellama-34b")
    return [Steps(seed=n).run(name, rows=300).table() for n, name in enumerate(names)]


def plain(table: pd.DataFrame) -> pd.DataFrame:
    """The table in the types of its columns; a folder is read with what repeats kept once."""
    return pd.DataFrame({each.name: schema.as_dtype(table[each.name], each) for each in schema.COLUMNS})


def test_parts_are_the_same_table_as_one_file(tables, tmp_path):
    index = filled(tmp_path / "steps", tables)
    whole = pd.concat(tables, ignore_index=True)
    read, record = partitions.read(tmp_path / "steps", None)
    pd.testing.assert_frame_equal(plain(read), schema.check(whole, "whole"))
    assert index["digest"] == record["digest"]


def test_a_step_takes_the_memory_of_what_differs_from_step_to_step(tables, tmp_path):
    filled(tmp_path / "steps", [pd.concat([table] * 10, ignore_index=True) for table in tables])
    read, _ = partitions.read(tmp_path / "steps", None)
    whole = schema.check(pd.concat(tables * 10, ignore_index=True), "whole")
    assert 2 * read.memory_usage(deep=True).sum() < whole.memory_usage(deep=True).sum()


def test_what_a_log_does_not_tell_in_one_part_is_null_beside_another(tables, tmp_path):
    tables[1]["running_reqs"] = 7.0
    filled(tmp_path / "steps", tables)
    read, _ = partitions.read(tmp_path / "steps", None)
    pd.testing.assert_frame_equal(plain(read), schema.check(pd.concat(tables, ignore_index=True), "whole"))


@pytest.mark.parametrize("held", ["codellama-34b", "llama-2-70b"])
def test_no_side_of_a_fold_on_a_folder_holds_a_value_of_the_other(tables, tmp_path, held):
    """A category that no row has would tell a held-out model's sizes."""
    filled(tmp_path / "steps", tables)
    read, _ = partitions.read(tmp_path / "steps", None)
    split = folds.make_split(read, Fold(name="a", kind="lomo", holdout=held))
    inner = folds.inner_folds(split.train, "model")
    for side in (split.train, split.inputs, split.truth, *(part for fold in inner for part in fold[1:])):
        for name in side.columns[side.dtypes == "category"]:
            assert set(side[name].cat.categories) == set(side[name].dropna()), name


def test_more_experiments_than_a_byte_counts_keep_their_names(tmp_path):
    one = Steps(seed=1).run("llama-2-7b", rows=2).table()
    many = [one.assign(experiment=f"run-{number:03d}") for number in range(300)]
    filled(tmp_path / "steps", [pd.concat(many[:100]), pd.concat(many[100:])])
    read, _ = partitions.read(tmp_path / "steps", None)
    assert read["experiment"].tolist() == [f"run-{number:03d}" for number in range(300) for _ in range(2)]


@pytest.mark.parametrize("fold", [Fold(name="a", kind="lomo", holdout="codellama-34b"), LOWO])
def test_a_fold_on_a_folder_ends_with_the_numbers_of_one_on_a_file(tmp_path, fold):
    steps = Steps(seed=0)
    for number, name in enumerate(("llama-2-7b", "llama-2-70b", "codellama-34b", "mixtral-8x7b-v0-1")):
        for workload in ("general", "codegen", "roleplay"):
            steps = steps.run(name, rows=60 + number, workload=workload)
    table = schema.check(steps.table(), "steps")
    filled(tmp_path / "steps", [rows for _, rows in table.groupby("experiment")])
    table = table.sort_values("experiment", kind="stable")
    schema.write(table, schema.empty_rejects(), tmp_path / "one.parquet", {})
    results = []
    for name in ("steps", "one.parquet"):
        source = SourceConfig(name="steps", path=str(tmp_path / name))
        known = {
            "model": {"name": "xgboost_residual"},
            "features": {"name": "scale_free"},
            "tune": {"trials": 3},
        }
        config = TrainConfig.model_validate({"source": source, "fold": fold, **known})
        results.append(run_fold(load(source), config, Progress("fold")).result)
    first, second = (each.model_dump(exclude={"left_out", "assumptions"}) for each in results)
    assert first.pop("data_digest") != "" and second.pop("data_digest") != ""
    assert first == second


def test_a_folder_is_read_as_a_source(tables, tmp_path):
    filled(tmp_path / "steps", tables)
    ingested = load(SourceConfig(name="steps", path=str(tmp_path / "steps")))
    assert ingested.table["model"].nunique() == 3


def test_of_an_experiment_of_more_rows_every_kth_is_read_and_said(tables, tmp_path):
    filled(tmp_path / "steps", [tables[0], pd.concat(tables[1:], ignore_index=True)])
    read, record = partitions.read(tmp_path / "steps", 75)
    assert sorted(set(record["every"].values())) == [4] and len(record["every"]) == 3
    expected = pd.concat([table.iloc[::4] for table in tables], ignore_index=True)
    pd.testing.assert_frame_equal(plain(read), schema.check(expected, "expected"))


def test_which_rows_of_an_experiment_are_read_does_not_depend_on_the_others(tables, tmp_path):
    """Else the size of what is held out would reach the rows that train."""
    filled(tmp_path / "alone", [tables[0].iloc[:50], tables[1]])
    filled(tmp_path / "beside", [tables[0], tables[1]])
    kept = [partitions.read(tmp_path / name, 100)[0] for name in ("alone", "beside")]
    mine = [table[table["model"] == "llama-2-70b"].reset_index(drop=True) for table in kept]
    pd.testing.assert_frame_equal(*map(plain, mine))
    assert len(mine[0]) == 100


def test_a_folder_that_is_there_is_not_overwritten(tables, tmp_path):
    filled(tmp_path / "steps", tables)
    with pytest.raises(InputError, match="steps: exists; expected a new folder for the steps"):
        filled(tmp_path / "steps", tables)


def test_a_block_that_fails_leaves_nothing(tables, tmp_path):
    with pytest.raises(ZeroDivisionError), partitions.writing(tmp_path / "steps") as folder:
        folder.add(tables[0], schema.empty_rejects())
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


DAMAGES = {
    "no index": lambda folder: (folder / "steps.json").unlink(),
    "an index that is no JSON": lambda folder: (folder / "steps.json").write_text("{"),
    "an index that is a list": lambda folder: (folder / "steps.json").write_text("[]"),
    "an index without parts": lambda folder: (folder / "steps.json").write_text('{"digest": "d", "rows": 1}'),
    "a part elsewhere": lambda folder: edit(
        folder, lambda index: index["parts"][0].update(file="../x.parquet")
    ),
    "another version": lambda folder: edit(folder, lambda index: index.update(format_version="0")),
    "another digest": lambda folder: edit(folder, lambda index: index.update(digest="0" * 32)),
    "a missing part": lambda folder: (folder / "00001.parquet").unlink(),
    "a damaged part": lambda folder: (folder / "00001.parquet").write_bytes(b"PAR1"),
    "a changed part": lambda folder: pq.write_table(
        pq.read_table(folder / "00001.parquet").slice(1), folder / "00001.parquet"
    ),
}


def edit(folder: Path, change) -> None:
    index = json.loads((folder / "steps.json").read_text())
    change(index)
    (folder / "steps.json").write_text(json.dumps(index))


@pytest.mark.parametrize("name", DAMAGES)
def test_a_folder_that_is_not_what_was_written_is_one_line(tables, tmp_path, name):
    filled(tmp_path / "steps", tables)
    DAMAGES[name](tmp_path / "steps")
    with pytest.raises(InputError, match=r"steps.*; expected|not readable") as error:
        partitions.read(tmp_path / "steps", None)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def logs(tmp_path_factory) -> Path:
    """Twelve logs of one server."""
    folder = tmp_path_factory.mktemp("logs")
    for number in range(12):
        server = Server([20_000.0] * 2000).serve(0, 2000, 50).serve_at_random(300, seed=number)
        server.write_tracev2(folder, f"20260101-{number:06d}-llama-2-7b-tp1-general", max_model_len=8192)
    return folder


def test_ingest_into_a_folder_says_what_ingest_into_a_file_says(logs, tmp_path):
    asked = ("source=requests", f"source.path={logs}", "source.sample_every=1")
    one, many = (h3(tmp_path, "ingest", *asked, f"out={out}") for out in ("steps.parquet", "steps"))
    assert one.returncode == many.returncode == 0, many.stderr
    assert "steps of 12 experiments" in one.stdout
    assert one.stdout.splitlines()[0].split(":")[0] == many.stdout.splitlines()[0].split(":")[0]
    table, _ = schema.read(tmp_path / "steps.parquet")
    read, _ = partitions.read(tmp_path / "steps", None)
    pd.testing.assert_frame_equal(plain(read), table)


def test_an_ingest_that_is_killed_leaves_no_table(logs, tmp_path):
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "h3.ingest", "source=requests", f"source.path={logs}", "out=steps"),
            "source.sample_every=1",
        ],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if "000003" in line:
            break
    time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "steps").exists()
    assert h3(tmp_path, "ingest", "source=requests", f"source.path={logs}", "out=steps").returncode == 0


MEMORY = """
import resource, sys
from pathlib import Path
from h3.common.config import Fold, SourceConfig, TrainConfig
from h3.ingest import IngestConfig, ingest
source = SourceConfig(name="requests", path=sys.argv[1:], sample_every=1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ingest(IngestConfig(source=source, out="steps"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_is_that_of_one_experiment_however_many_there_are(logs, tmp_path):
    grown = []
    for count in (3, 12):
        folder = tmp_path / str(count)
        folder.mkdir()
        asked = [str(path) for path in sorted(logs.iterdir())[:count]]
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, *asked], cwd=folder, capture_output=True, text=True, check=True
        )
        grown.append(int(done.stdout.splitlines()[-1]))
    assert grown[1] < 1.5 * grown[0] + 20_000  # KiB; the table of twelve is four times that of three
