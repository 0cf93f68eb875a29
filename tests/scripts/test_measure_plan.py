"""What the collector is told to measure: the simulated experiments request by request, grids, and the plan's
file."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from builders import simulated_source

from h3.common.errors import InputError
from h3.sources import simulated
from h3.steps import catalog, physics

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "measure_steps.py"
sys.path.insert(0, str(ROOT / "scripts"))

from measure import compositions, grid, plan, shard  # noqa: E402
from measure.plan import Plan, Step  # noqa: E402

SCALE = 0.01


def run(*arguments: object) -> subprocess.CompletedProcess:
    """The collector's command line in a process of its own."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def planned() -> Plan:
    return compositions.planned(steps=20, scale=SCALE)


def test_every_simulated_experiment_gives_as_many_steps_as_asked_and_every_tenth_twice(planned):
    counts = Counter((step.row["experiment"], step.repeat) for step in planned.steps)
    assert len({name for name, _ in counts}) == 16
    assert {count for (_, repeat), count in counts.items() if not repeat} == {20}
    assert {count for (_, repeat), count in counts.items() if repeat} == {2}
    assert len({step.key for step in planned.steps}) == len(planned.steps)


def test_requests_listed_one_by_one_add_up_to_the_simulated_row(planned):
    table = simulated.load(simulated_source(scale=SCALE)).table.set_index(["experiment", "step_id"])
    for step in planned.steps:
        row = table.loc[(step.row["experiment"], step.row["step_id"])]
        for name, value in step.composition().items():
            assert value == row[name], name
        assert step.pages == row["kv_blocks_total"] - row["kv_blocks_free"]
        assert step.row["start_us"] == row["start_us"]


def test_a_stratified_sample_has_each_kind_of_step_in_its_share():
    table = simulated.load(simulated_source(scale=0.05)).table
    rows = table[table["experiment"] == table["experiment"].iloc[0]]
    sample = compositions.stratified(rows, 100, seed=0)
    assert len(sample) == 100 and not sample.duplicated("step_id").any()
    assert set(sample["step_id"]) <= set(rows["step_id"])
    assert (sample["num_prefill_reqs"] > 0).mean() == pytest.approx(
        (rows["num_prefill_reqs"] > 0).mean(), abs=0.03
    )
    assert sample["num_decode_reqs"].quantile([0.1, 0.5, 0.9]).to_numpy() == pytest.approx(
        rows["num_decode_reqs"].quantile([0.1, 0.5, 0.9]).to_numpy(), abs=3
    )
    assert len(compositions.stratified(rows, 10**6, seed=0)) == len(rows)


def test_a_cut_measurement_has_as_many_steps_of_each_experiment_of_a_model(planned):
    first = Counter(step.row["workload"] for step in planned.steps[:40])
    assert set(first.values()) == {10}


def test_grids_hold_decode_prefill_and_mixed_steps_for_every_rank_and_outside_models(planned):
    whole = grid.with_grids(planned)
    parts = {part: [step for step in whole.steps if step.part == part] for part in plan.PARTS}
    assert {(step.model, step.tp) for step in parts["grid"]} == set(simulated.MODELS.items())
    assert {(step.model, step.tp) for step in parts["shards"]} == {
        (model, tp) for model in simulated.MODELS for tp in (1, 2, 4, 8)
    } - set(simulated.MODELS.items())
    assert {step.model for step in parts["zeroshot"]} == set(grid.OUTSIDE)
    decode = {(len(step.decodes), step.decodes[0]) for step in parts["grid"] if not step.chunks}
    assert {batch for batch, _ in decode} >= {1, 256} and {context for _, context in decode} >= {128, 32768}
    assert {
        sum(new for new, _ in step.chunks) for step in parts["grid"] if step.chunks and not step.decodes
    } >= {16, 2048}
    assert any(step.chunks and step.decodes for step in parts["grid"])
    for model, tp, _ in whole.groups(plan.PARTS):
        shard.of(whole.models[model], tp, model)


def test_each_rank_is_built_once_and_repeats_come_last(planned):
    groups = list(grid.with_grids(planned).groups(plan.PARTS))
    assert len({(model, tp) for model, tp, _ in groups}) == len(groups) == 19
    for _, _, steps in groups:
        repeats = [step.repeat for step in steps if step.part == "compositions"]
        assert repeats == sorted(repeats)
    assert [model for model, _, _ in planned.groups(("grid",))] == []


@pytest.mark.parametrize(("model", "tp"), simulated.MODELS.items())
def test_a_ranks_bytes_are_those_of_the_physics(model, tp):
    own = shard.of(catalog.MODELS[model], tp, model)
    frame = simulated.load(simulated_source(scale=SCALE)).table.query("model == @model").head(1)
    assert own.kv_token_bytes == physics.kv_bytes_per_token(frame)[0]
    router = 2 * own.moe_layers * own.experts * own.hidden  # the physics leaves it out
    assert own.single_token_bytes - router == pytest.approx(physics.weight_bytes(frame, 1.0)[0], rel=1e-6)
    assert 0 < own.weight_bytes < 80e9


@pytest.mark.parametrize(
    ("change", "tp", "message"),
    [
        ({"bytes_per_parameter": 1.0}, 1, "16-bit weights only"),
        ({"head_dim": 80}, 1, "head_dim=80"),
        ({"num_heads": 12, "num_kv_heads": 8}, 1, "do not divide over 1 ranks"),
        ({"dense_ffn_size": 11009}, 1, "dense_ffn_size=11009"),
        ({}, 3, "does not divide 32 heads"),
    ],
)
def test_what_the_collector_cannot_build_is_named(change, tp, message):
    with pytest.raises(InputError, match=message):
        shard.of(replace(catalog.MODELS["llama-2-7b"], **change), tp, "mine")


def test_a_plan_is_read_back_as_it_was_written(tmp_path, planned):
    plan.write(tmp_path / "plan.jsonl.gz", planned)
    back = plan.read(tmp_path / "plan.jsonl.gz")
    assert back.models == planned.models
    assert [step.key for step in back.steps] == [step.key for step in planned.steps]
    assert back.steps == planned.steps


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (None, "no such file; expected a plan"),
        ("nothing", "not a plan"),
        ([{"format": "other"}], "line 1 is no header"),
        ([{"format": plan.FORMAT, "models": {"m": {"layers": 2}}}], "malformed"),
        ([{"format": plan.FORMAT, "models": {}}, {"part": "grid"}], "malformed"),
        (
            [{"format": plan.FORMAT, "models": {}}, asdict(Step("grid", "m", 1, (3,)))],
            "of part 'grid' and model 'm'",
        ),
    ],
)
def test_a_file_that_is_no_plan_is_one_line(tmp_path, lines, message):
    path = tmp_path / "plan.jsonl.gz"
    if isinstance(lines, str):
        path.write_text(lines)
    elif lines:
        path.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    with pytest.raises(InputError, match=message) as caught:
        plan.read(path)
    assert "\n" not in str(caught.value)


def test_the_command_line_writes_a_plan_with_a_model_of_ones_own(tmp_path):
    config = {
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "vocab_size": 128,
    }
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text(json.dumps(config))
    out = tmp_path / "plan.jsonl.gz"
    done = run(
        "plan",
        "--out",
        out,
        "--steps",
        2,
        "--scale",
        0.005,
        "--config",
        tmp_path / "mine" / "config.json",
        "--tp",
        2,
    )
    assert done.returncode == 0, done.stderr
    assert "compositions" in done.stdout
    own = [step for step in plan.read(out).steps if step.model == "mine"]
    assert own and {(step.part, step.tp) for step in own} == {("zeroshot", 2)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plan", "--out", "p", "--steps", 0), "--steps 0; expected at least 1"),
        (
            ("plan", "--out", "p", "--steps", 2, "--scale", 0.005, "--config", "absent.json"),
            "absent.json: No such file",
        ),
        (("run", "--plan", "absent.gz", "--out", "o"), "absent.gz: no such file; expected a plan"),
        (("check", "--plan", "absent.gz", "o"), "absent.gz: no such file; expected a plan"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(tmp_path, arguments, message):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}") and done.stderr.count("\n") == 1


def test_without_pytorch_the_collector_says_what_to_install(tmp_path):
    plan.write(tmp_path / "plan.jsonl.gz", Plan(catalog.MODELS, (Step("grid", "llama-2-7b", 1, (5,)),)))
    arguments = [
        "measure_steps.py",
        "run",
        "--plan",
        str(tmp_path / "plan.jsonl.gz"),
        "--out",
        str(tmp_path / "steps.jsonl"),
    ]
    absent = (
        f"sys.modules['torch'] = None; sys.argv = {arguments}; sys.path.insert(0, {str(SCRIPT.parent)!r})"
    )
    code = f"import runpy, sys; {absent}; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2
    assert (
        done.stderr
        == "error: PyTorch is not installed; expected it in the environment that runs the collector (extra"
        " 'measure')\n"
    )


def test_the_collector_is_imported_where_only_numpy_and_pytorch_are_installed():
    """What else h3 needs is not there."""
    absent = "sys.modules.update(dict.fromkeys(['pandas', 'pydantic', 'pyarrow', 'hydra', 'yaml']))"
    path = f"sys.path.insert(0, {str(SCRIPT.parent)!r})"
    code = f"import runpy, sys; {absent}; {path}; runpy.run_path({str(SCRIPT)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
