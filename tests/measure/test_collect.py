"""The collector as it is run: real processes on the CPU, a toy plan, what they write and what they refuse.

make test-measure
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import measure_steps
import pytest
from measure import check, results, run, shard, timing, verify
from measure import plan as plans
from measure.plan import Plan, Step

from h3.common.errors import InputError

SCRIPT = Path(__file__).parents[2] / "scripts" / "measure_steps.py"
STEPS = (
    Step("grid", "dense", 1, (5, 70, 33)),
    Step("grid", "dense", 1, (), ((40, 0),)),
    Step("grid", "dense", 1, (20,), ((10, 16),)),
    Step("shards", "dense", 2, (9,)),
    Step("zeroshot", "experts", 1, (12, 30), ((3, 0),)),
    Step("grid", "dense", 1, (8,), (), (), 1),
)


def process(*arguments: object) -> subprocess.Popen:
    """The collector in a process of its own that sees no CUDA."""
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
    )


def collect(*arguments: object) -> None:
    """`measure_steps.py run` on the CPU, quick, in this process."""
    args = measure_steps.parser().parse_args(
        ["run", "--device", "cpu", "--replays", "2", *map(str, arguments)]
    )
    args.command(args)


@pytest.fixture
def plan(tmp_path) -> Path:
    plans.write(tmp_path / "plan.jsonl.gz", Plan(verify.TOYS, STEPS))
    return tmp_path / "plan.jsonl.gz"


def test_every_step_of_the_asked_parts_gets_a_row_with_its_times_and_the_session_its_provenance(
    tmp_path, plan, capsys
):
    out = tmp_path / "out" / "steps.jsonl"
    collect("--plan", plan, "--out", out, "--part", "grid", "--part", "zeroshot")
    assert "complete" in capsys.readouterr().out
    session, *rows = results.read(out)
    assert {row["key"] for row in rows} == {step.key for step in STEPS if step.part != "shards"}
    assert all(
        row["kind"] == "step" and 0 < row["device_p10_us"] <= row["device_us"] <= row["device_p90_us"]
        for row in rows
    )
    assert rows[-1]["model"] == "experts"  # each rank is built once, in the plan's order of models
    modes = {row["key"]: (row["mode"], row["padded_tokens"]) for row in rows}
    assert modes[STEPS[0].key] == ("full", 4)
    assert modes[STEPS[1].key] == ("piecewise", 40)
    assert session["card"] == "cpu" and session["versions"]["torch"] and len(session["script_digest"]) == 32
    assert {"mode", "padded_tokens", "replays", "session", "part", "tp", "repeat"} <= set(
        rows[0]
    )  # what packing reads
    assert (
        "4 of 4 steps measured, 0 skipped"
        in {entry.name: entry.text for entry in check.findings(plans.read(plan), [out])}["part grid"]
    )
    assert min(session["ceilings"].values()) > 0 and max(session["errors"].values()) < 0.02


def test_a_run_killed_in_the_middle_keeps_what_it_measured_and_is_continued(tmp_path):
    steps = tuple(
        Step("grid", "dense", 1, (5 + number % 90,) * 8, ((number % 7 + 1, 0),)) for number in range(60)
    )
    unique = {step.key for step in steps}
    plan, out = tmp_path / "plan.jsonl.gz", tmp_path / "steps.jsonl"
    plans.write(plan, Plan(verify.TOYS, steps))
    first = process("run", "--device", "cpu", "--plan", plan, "--out", out, "--replays", 20)
    limit = time.monotonic() + 60
    while not (out.exists() and out.read_bytes().count(b'"step"') >= 5):
        assert first.poll() is None and time.monotonic() < limit
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    with out.open("a") as file:
        file.write('{"kind":"step","key":"torn')  # as a cut in the middle of a write leaves it
    kept = [line for line in results.read(out) if line["kind"] == "step"]
    assert 5 <= len(kept) < len(unique)
    collect("--plan", plan, "--out", out)
    measured = [line for line in results.read(out) if line["kind"] == "step"]
    assert measured[: len(kept)] == kept
    assert sorted(line["key"] for line in measured) == sorted(unique)
    assert sum(line["kind"] == "session" for line in results.read(out)) == 2


def test_results_of_an_earlier_file_are_not_measured_again(tmp_path, plan):
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    collect("--plan", plan, "--out", first, "--part", "shards")
    collect("--plan", plan, "--out", second, "--done", first)
    keys = [{line["key"] for line in results.read(path) if "key" in line} for path in (first, second)]
    assert keys[0] == {STEPS[3].key} and keys[1] == {step.key for step in STEPS} - keys[0]


def test_a_budget_ends_the_run_cleanly_and_says_what_is_left(tmp_path, plan, capsys):
    collect("--plan", plan, "--out", tmp_path / "steps.jsonl", "--budget-s", 0)
    assert f"{len(STEPS)} steps left" in capsys.readouterr().out


def test_without_cuda_the_run_ends_with_one_line_unless_the_cpu_is_asked_for(tmp_path, plan):
    done = process("run", "--plan", plan, "--out", tmp_path / "steps.jsonl")
    _, errors = done.communicate(timeout=60)
    assert done.returncode == 2
    assert errors.splitlines() == [
        "error: PyTorch sees no CUDA device; expected an NVIDIA GPU, or --device cpu for a rehearsal on a toy"
        " plan"
    ]
    assert not (tmp_path / "steps.jsonl").exists()


def test_shapes_and_models_that_do_not_fit_are_skipped_with_a_row_that_says_so(tmp_path, plan):
    out = tmp_path / "steps.jsonl"
    small = shard.of(verify.TOYS["dense"], 1, "toy")
    memory_gb = (
        small.weight_bytes + 3 * 16 * small.kv_token_bytes + 100
    ) / 1e9  # the weights and three pages
    collect("--plan", plan, "--out", out, "--memory-gb", memory_gb)
    rows = {line["key"]: line for line in results.read(out) if "key" in line}
    assert set(rows) == {step.key for step in STEPS}
    assert (
        rows[STEPS[0].key]["kind"] == "skipped"
        and rows[STEPS[0].key]["reason"] == "too little memory: 9 KV pages, room for 3"
    )
    assert rows[STEPS[1].key]["kind"] == "step"
    assert rows[STEPS[4].key]["reason"].startswith(
        "too little memory: the weights of experts on 1 need 0.0 GB"
    )
    collect("--plan", plan, "--out", out, "--memory-gb", memory_gb)
    assert len([line for line in results.read(out) if "key" in line]) == len(STEPS)


@pytest.mark.parametrize("where", ["Decoder", "timing.measure"])
def test_memory_that_runs_out_while_building_or_running_skips_the_step_and_goes_on(
    monkeypatch, tmp_path, plan, where
):
    def fail(*arguments: object) -> None:
        raise run.torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")

    monkeypatch.setattr(run, "verify", lambda setup: {})
    monkeypatch.setattr(run.ceilings, "measure", lambda device, dtype: {"copy_bytes_s": 1.0})
    monkeypatch.setattr(run.timing if "." in where else run, where.split(".")[-1], fail)
    collect("--plan", plan, "--out", tmp_path / "steps.jsonl")
    rows = [line for line in results.read(tmp_path / "steps.jsonl") if "key" in line]
    assert len(rows) == len(STEPS) and all(
        row["kind"] == "skipped" and "too little memory" in row["reason"] for row in rows
    )


def test_a_model_that_the_collector_cannot_build_is_refused_before_anything_is_measured(tmp_path):
    plan, odd = tmp_path / "plan.jsonl.gz", replace(verify.TOYS["dense"], head_dim=24)
    plans.write(
        plan, Plan({"dense": verify.TOYS["dense"], "odd": odd}, (STEPS[0], replace(STEPS[0], model="odd")))
    )
    with pytest.raises(
        InputError,
        match=r"^odd on 1: head_dim=24; the collector's attention needs a power of two from 16 to 256$",
    ):
        collect("--plan", plan, "--out", tmp_path / "steps.jsonl")
    assert results.read(tmp_path / "steps.jsonl") == []


def test_a_decoder_that_is_wrong_is_not_timed(monkeypatch, tmp_path):
    monkeypatch.setattr(
        verify.reference, "logits", lambda weights, step, batch: 2 * run.torch.ones(len(step.contexts), 128)
    )
    log = results.Log(tmp_path / "steps.jsonl")
    with pytest.raises(
        InputError, match=r"the decoder is wrong on this machine: .* of the float32 reference"
    ):
        run.run(Plan(verify.TOYS, STEPS), log, run.RunOptions(("grid",), "cpu"))
    assert results.read(tmp_path / "steps.jsonl") == []


def test_timing_leaves_warm_ups_and_new_inputs_out():
    runs, clock = [], iter(range(100))
    taken = timing.measure(
        lambda: (runs.append(next(clock)), time.sleep(0.001)),
        lambda: time.sleep(0.01),
        run.torch.device("cpu"),
        timing.Repeats(2, 5),
    )
    assert len(runs) == 7 and taken.replays == 5
    assert 1000 <= taken.p10_us <= taken.median_us <= taken.p90_us and taken.median_us < 5000
    assert json.dumps(taken.spread)
