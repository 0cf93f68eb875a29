"""The benchmark's table says what changed, and a stage runs end to end; no time is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from bench import figures, go, inversion, table  # noqa: E402
from bench.figures import Figure  # noqa: E402

TIME = Figure("inversion", "1x", 2.0, "s")
RATE = Figure("replay", "alone", 800_000.0, "steps/s", more_is_better=True)
RATIO = Figure("sweep", "wall time / bare", 6.254, "x", target=1.25)
HEADING = "| stage | what | value | last | change | target |\n| --- | --- | ---: | ---: | --- | --- |\n"


def at(figure, value):
    return replace(figure, value=value)


def run(*arguments, out):
    return subprocess.run(
        [sys.executable, SCRIPTS / "bench.py", *arguments, "--out", out],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def rows_of(text, stage):
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    return [row for row in cells if row and row[0] == stage]


def span(given):
    return given.end_us.max() - given.start_us.min()


@pytest.mark.parametrize(
    ("now", "last", "said"),
    [
        (TIME, at(TIME, 2.0), "same"),
        (TIME, at(TIME, 1.0), "**2.00x worse !**"),
        (TIME, at(TIME, 4.0), "2.00x better"),
        (TIME, at(TIME, 1.6), "1.25x worse"),
        (RATE, at(RATE, 400_000.0), "2.00x better"),
        (RATE, at(RATE, 1_600_000.0), "**2.00x worse !**"),
        (TIME, at(TIME, 1.97), "same"),
        (TIME, None, "new"),
        (TIME, at(TIME, 0.0), "**infx worse !**"),
    ],
)
def test_a_change_is_told_by_what_is_better_for_that_figure(now, last, said):
    assert table.change(now, last) == said


@pytest.mark.parametrize(("value", "marked"), [(2.5, False), (2.7, True)])
def test_only_what_is_more_than_1_3_times_worse_is_marked(value, marked):
    assert bool(table.flagged([at(TIME, value)], [TIME, RATE])) is marked


def test_another_stage_of_the_same_name_is_not_taken_for_the_last_value():
    assert table.flagged([at(TIME, 99.0)], [replace(TIME, stage="ingest")]) == []


@pytest.mark.parametrize(
    ("figure", "said"),
    [
        (RATE, "800,000 steps/s"),
        (RATIO, "6.25x"),
        (TIME, "2 s"),
        (at(TIME, 0.00123), "0.00123 s"),
        (Figure("inversion", "exponent", 0.987, ""), "0.987"),
    ],
)
def test_a_number_has_three_digits_and_its_unit(figure, said):
    assert table.number(figure) == said


@pytest.mark.parametrize(
    ("figure", "said"),
    [
        (TIME, ""),
        (RATIO, "**≤ 1.25: missed**"),
        (at(RATIO, 1.25), "≤ 1.25"),
        (replace(RATE, target=9e5), "**≥ 900000: missed**"),
        (replace(RATE, target=5e5), "≥ 500000"),
    ],
)
def test_a_target_says_whether_it_is_kept(figure, said):
    assert table.target(figure) == said


def test_the_table_has_a_row_a_figure_beside_the_run_before():
    assert table.markdown([TIME, RATIO], [at(TIME, 1.0)]) == HEADING + (
        "| inversion | 1x | 2 s | 1 s | **2.00x worse !** |  |\n"
        "| sweep | wall time / bare | 6.25x |  | new | **≤ 1.25: missed** |\n"
    )


def test_a_first_run_has_no_columns_of_a_run_before():
    assert table.markdown([TIME]).splitlines() == [
        "| stage | what | value | target |",
        "| --- | --- | ---: | --- |",
        "| inversion | 1x | 2 s |  |",
    ]


def test_a_run_is_read_as_it_was_saved(tmp_path):
    figures.write(tmp_path / "new" / "last.json", "a machine", [TIME, RATE, RATIO])
    assert figures.read(tmp_path / "new" / "last.json") == ("a machine", [TIME, RATE, RATIO])


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"machine": "m", "figures": [{"other": 1}]}'])
def test_what_is_no_saved_run_counts_as_none(text, tmp_path):
    if text is not None:
        (tmp_path / "last.json").write_text(text)
    assert figures.read(tmp_path / "last.json") == ("", [])


def test_a_stage_measured_alone_leaves_the_others_of_the_last_run():
    old = at(TIME, 1.0)
    gone = replace(TIME, name="of before")
    assert figures.merged([old, gone, RATE], [TIME]) == [RATE, TIME]


def test_the_fastest_of_gos_counts_is_taken_step_by_step():
    printed = (
        "goos: linux\nBenchmarkDense/step/without_trees-2  100  411.5 ns/op  0 B/op  0 allocs/op\n"
        "BenchmarkDense/step/without_trees-2  100  399 ns/op  0 B/op\n"
        "BenchmarkMoE/step/200_trees  9  1298 ns/op\nPASS\n"
    )
    assert [(figure.name, figure.value, figure.unit) for figure in go.figures(printed)] == [
        ("Dense/step/without trees", 399.0, "ns"),
        ("MoE/step/200 trees", 1298.0, "ns"),
    ]


def test_a_log_of_four_times_the_requests_is_as_busy_and_four_times_as_long():
    short, long = inversion.intervals(400), inversion.intervals(1600)
    busy = [given.steps.sum() / span(given) for given in (short, long)]
    assert busy[1] == pytest.approx(busy[0], rel=0.3)
    assert span(long) > 3 * span(short)


def test_a_stage_runs_alone_and_the_next_run_stands_beside_it(tmp_path):
    first = run("inversion", "--tiny", out=tmp_path)
    assert first.returncode == 0, first.stderr
    names = ["1x (336 requests)", "4x (1,344 requests)", "16x (5,376 requests)"]
    names += ["exponent of time against requests", "peak memory"]
    assert [row[1] for row in rows_of(first.stdout, "inversion")] == names
    second = run("inversion", "--tiny", out=tmp_path)
    rows = rows_of(second.stdout, "inversion")
    before = {row[1]: row[2] for row in rows_of(first.stdout, "inversion")}
    assert {row[1]: row[3] for row in rows} == before
    assert "new" not in [row[4] for row in rows]
    assert rows_of((tmp_path / "tiny" / "table.md").read_text(), "inversion") == rows
    saved = json.loads((tmp_path / "tiny" / "last.json").read_text())["figures"]
    peak = next(entry["value"] for entry in saved if entry["name"] == "peak memory")
    assert 20 < peak < 2000


def test_a_stage_that_does_not_exist_is_one_line_with_those_that_do(tmp_path):
    done = run("memory", out=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(
        "no stage memory; there are ingest, inversion, sweep, replay, predict, compare, go"
    )
    assert not list(tmp_path.iterdir())
