"""python -m h3.promote as a user runs it, on a quick sweep: one wins, a bad model does not, and no kill takes
the champion away.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import builders
import mlflow
import pytest
import yaml
from omegaconf import OmegaConf
from processes import h3

from h3 import bundle, promote
from h3.common.config import (
    AblationConfig,
    FeaturesConfig,
    Fold,
    ModelConfig,
    SourceConfig,
    TrackingConfig,
    TrainConfig,
)
from h3.common.errors import InputError
from h3.common.progress import Progress
from h3.promotion import candidates, gate, shipped
from h3.promotion.config import PromoteConfig
from h3.promotion.recipe import Recipe, fold_rows
from h3.promotion.trees import Kept
from h3.server.overheads import STUDY_IN_STEPS
from h3.sources.experiment import Ingested
from h3.steps import schema
from h3.tracking import artifacts, journal, registry
from h3.tracking.runs import Sweep, ended_sweeps
from h3.tracking.store import PARENT_TAG

ROOT = Path(__file__).parents[2]
FOLDS = "fold=glob([lomo_*,lowo_*])"
# A promotion that is killed where a patched function would be called.
KILLED = (
    "import os, signal, sys; from h3 import promote; from h3.common import cli; "
    "promote.check = lambda *_: os.kill(os.getpid(), signal.SIGKILL); "
    "cli.run(promote.main, 'promote', sys.argv[1:])"
)
OVERFITTED = {
    "n_estimators": 100,
    "max_depth": 6,
    "learning_rate": 0.3,
    "min_child_weight": 0.0,
    "subsample": 1.0,
    "colsample_bytree": 1.0,
    "reg_lambda": 0.0,
}


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    """Start Python in a folder of its own."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "MLFLOW_TRACKING_URI": ""},
    )


def configured(folder: Path, **changes: object) -> PromoteConfig:
    """A promotion as usual in the store of a folder, with few random architectures."""
    usual = {
        "gate": {"architectures": 5},
        "tracking": {"uri": f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}"},
        "out": str(folder / "dist" / "blis"),
    }
    return PromoteConfig.model_validate(usual | changes)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[Path, list[tuple[int, str, str]]]:
    """A folder with a sweep, promoted by two processes at once; status and texts of both, least status
    first.
    """
    folder = tmp_path_factory.mktemp("promote")
    done = h3(folder, "train", "-m", FOLDS, "debug=quick", "tune.trials=0")
    assert done.returncode == 0, done.stderr
    both = [start(folder, "-m", "h3.promote", "gate.architectures=5") for _ in range(2)]
    texts = [process.communicate(timeout=300) for process in both]
    return folder, sorted((process.returncode, *text) for process, text in zip(both, texts, strict=True))


@pytest.fixture
def opened(world, monkeypatch) -> registry.Registry:
    monkeypatch.chdir(world[0])
    return registry.open_registry(TrackingConfig(uri=f"sqlite:///{world[0] / 'mlruns' / 'mlflow.db'}"))


def test_the_newest_complete_sweep_is_promoted_and_exported(world, opened):
    status, out, err = world[1][0]
    assert status == 0, err
    assert "xgboost_residual: worst" in out
    assert "version 1 of blis-step-time is champion" in out
    assert bundle.verify(world[0] / "dist" / "blis").vectors >= 500
    found = opened.version("1")
    assert (found.tags["state"], found.tags["gate"]) == ("promoted", "passed")
    assert len(json.loads(found.tags["fold_runs"])) == 8
    kept = bundle.read(world[0] / "dist" / "blis")
    assert kept.manifest.provenance["data_digest"] == found.tags["data_digest"]
    assert kept.overheads == STUDY_IN_STEPS  # the simulated source has no request logs
    counted = {name: kind.groups for name, kind in kept.manifest.uncertainty.kinds.items()}
    assert (counted["known"], counted["new_workload"], counted["new_model"]) == (16, 4, 4)


def test_of_two_promotions_at_once_one_wins_and_the_other_says_so(world):
    status, _, err = world[1][1]
    assert status == 2
    assert [line for line in err.splitlines() if line.startswith("error:")] == [err.strip()]
    assert "another promotion is running (process " in err


def test_the_entry_of_a_promotion_holds_rule_gate_and_recipe(opened):
    run_id = opened.version("1").run_id
    assert json.loads(mlflow.artifacts.load_text(f"runs:/{run_id}/winner.json"))["rule"] == ["worst", "mean"]
    manifest = registry.read_version(opened, "1").manifest
    assert manifest.overheads.pipeline_steps == STUDY_IN_STEPS.pipeline_steps
    assert manifest.provenance["overheads"].startswith("default: ")
    checks = json.loads(mlflow.artifacts.load_text(f"runs:/{run_id}/gate.json"))
    assert {check["name"] for check in checks} == {
        "bundle_verified",
        "fold_limits",
        "recipe_limits",
        "against_champion",
        "real_trees",
        "monotone",
        "positive",
    }
    assert "| lomo_mixtral |" in mlflow.artifacts.load_text(f"runs:/{run_id}/README.md")


def test_an_overfitted_model_is_refused_by_name_and_number_and_stays_challenger(
    world, opened, monkeypatch, capsys
):
    champion = opened.aliases()["champion"]
    before = bundle.read(world[0] / "dist" / "blis").digest
    monkeypatch.setattr(shipped, "consensus", lambda results: OVERFITTED)
    monkeypatch.setattr(shipped, "kept_trees", lambda recipe, *_: Kept(recipe))  # the gate alone must stop it
    assert promote.promote(configured(world[0])) == 3
    said = capsys.readouterr().out
    assert "FAILED against_champion" in said
    assert "FAILED monotone" in said
    assert "FAILED real_trees (trees: " in said and "data: simulated H100" in said
    assert "champion_high=" in said
    assert "percent=" in said
    refused = opened.aliases()["challenger"]
    assert opened.aliases()["champion"] == champion
    assert opened.version(refused).tags["state"] == "refused"
    assert "monotone" in opened.version(refused).tags["gate"]
    assert bundle.read(world[0] / "dist" / "blis").digest == before


def test_trees_from_simulated_data_are_left_out_before_they_ship_and_the_version_says_why(
    world, opened, monkeypatch, capsys
):
    monkeypatch.setattr(shipped, "consensus", lambda results: OVERFITTED)
    assert promote.promote(configured(world[0], dry_run=True)) == 0
    told = capsys.readouterr()
    assert "trees left out: they were learned from simulated H100 steps" in told.err
    assert "passed real_trees (trees: 0; data: simulated H100" in told.out


def test_a_dry_run_ends_with_status_3_where_the_gate_would_refuse_and_writes_nothing(world, opened, capsys):
    before = [(entry.version, dict(entry.tags)) for entry in opened.versions()]
    config = configured(world[0], dry_run=True, gate={"max_fold_mape": 0.5, "architectures": 5})
    with pytest.raises(SystemExit) as ended:
        promote.main(OmegaConf.create(config.model_dump()))
    assert ended.value.code == 3
    said = capsys.readouterr().out
    assert "FAILED fold_limits (folds: 8" in said
    assert "limit=0.5" in said
    assert [(entry.version, dict(entry.tags)) for entry in opened.versions()] == before


def test_killed_before_the_gate_the_champion_stays_and_the_next_call_goes_on_and_rolls_back(
    world, opened, monkeypatch, capsys
):
    champion = opened.aliases()["champion"]
    process = start(world[0], "-c", KILLED, "gate.architectures=5")
    process.communicate(timeout=200)
    assert process.returncode == -9
    left = str(opened.versions()[0].version)
    assert opened.version(left).tags["state"] == "registered"
    assert opened.aliases() == {"champion": champion, "challenger": left}
    monkeypatch.setattr(gate, "monotone", lambda *_: gate.Check("monotone", True, {}))
    assert promote.promote(configured(world[0])) == 0
    assert f"version {left}, left by a killed promotion: abandoned" in capsys.readouterr().out
    assert opened.version(left).tags["state"] == "abandoned"
    promoted = opened.aliases()["champion"]
    assert int(promoted) == int(left) + 1
    assert promote.promote(configured(world[0], action="rollback")) == 0
    assert opened.aliases()["champion"] == champion
    assert f"champion is version {champion} again (was {promoted})" in capsys.readouterr().out


def test_killed_before_the_alias_the_next_call_finishes_without_a_new_version(world, opened, capsys):
    first = opened.version("1")
    made = opened.store.client.create_model_version(
        registry.NAME,
        first.source,
        run_id=first.run_id,
        tags={"state": "gated", "sweep": first.tags["sweep"], "previous_champion": "1"},
    )
    assert promote.promote(configured(world[0])) == 0
    assert opened.aliases()["champion"] == str(made.version)
    assert opened.versions()[0].version == made.version
    journal.roll_back(opened, "dist/blis")


def test_a_sweep_that_is_unknown_or_not_complete_is_one_line(world, opened):
    with pytest.raises(InputError, match="sweep=nope: no such sweep"):
        promote.promote(configured(world[0], sweep="nope"))
    winner = {"rule": ["worst"], "folds": ["lomo_mixtral", "lomo_gpt"]}
    with pytest.raises(InputError, match="lacks one finished run each of lomo_gpt") as error:
        promote.promote(configured(world[0], winner=winner))
    assert "\n" not in str(error.value)


def test_other_data_than_the_folds_had_is_refused(world, opened, monkeypatch):
    (real,) = ended_sweeps(opened.store, None)
    (winner,) = candidates.candidates_of(opened.store, real, configured(world[0]).winner.folds)
    config = winner.configs["lomo_mixtral"]
    changed = {
        "lomo_mixtral": config.model_copy(update={"source": config.source.model_copy(update={"seed": 1})})
    }
    moved = candidates.Candidate(winner.sweep, winner.label, changed, winner.results, "")
    monkeypatch.setattr(promote, "pick", lambda *_: (moved, []))
    with pytest.raises(InputError, match=r"has the data digest .*; expected"):
        promote.promote(configured(world[0]))


def test_a_registry_that_cannot_be_reached_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"tracking store http://127\.0\.0\.1:9 cannot be reached") as error:
        promote.promote(configured(tmp_path, tracking={"uri": "http://127.0.0.1:9"}))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_champion_of_other_data_is_evaluated_again_on_the_folds_that_those_can_give(opened):
    recorded = artifacts.content_of_run(opened.store, opened.version("1").run_id, "recipe.json")
    built = builders.Steps(seed=6)
    for model in ("llama-2-7b", "llama-2-70b"):
        built.run(model, workload="general").run(model, workload="chat")
    own = Ingested(built.table(), schema.empty_rejects(), {})
    chat = Fold(name="lowo_chat", kind="lowo", holdout="chat")
    recipe = replace(Recipe.of(recorded["recipe"]), folds=(chat,))
    own_rows, _ = fold_rows(recipe, own, Progress("test"))
    made = shipped.Shipped(recipe, [], own_rows, own, "another digest", Path(), builders.EVIDENCE.uncertainty)
    rows, left_out = shipped.champion_rows(opened, made)
    assert {each.fold for each in rows} == {
        "lomo_llama2_7b",
        "lomo_llama2_70b",
        "lowo_general",
        "lowo_chat",
    }
    why = {each.fold: each.why for each in left_out}
    assert why["lowo_codegen"] == "workload 'codegen' is not in the data; there are chat, general"
    assert len(why) == 5
    check = gate.against_champion(made.rows, rows, left_out)
    assert (check.passed, check.numbers["folds"]) == (True, 1)


def test_a_champion_of_the_same_data_is_as_recorded(opened):
    recorded = artifacts.content_of_run(opened.store, opened.version("1").run_id, "recipe.json")
    told, digest = builders.EVIDENCE.uncertainty, recorded["data_digest"]
    same = shipped.Shipped(None, [], [], "the same data", digest, Path(), told)
    rows, left_out = shipped.champion_rows(opened, same)
    assert ([each.model_dump() for each in rows], left_out) == (recorded["rows"], [])


def test_trees_are_used_only_if_most_folds_wanted_some():
    chosen = ((0, 3), (0, 3), (8, 1), (16, 2))
    folds = [
        tuned("lowo", n_estimators=rounds, max_depth=depth, reg_lambda=10.0 * depth)
        for rounds, depth in chosen
    ]
    assert candidates.consensus(folds) == {"n_estimators": 0, "max_depth": 1, "reg_lambda": 15.0}
    assert candidates.consensus(folds[1:])["n_estimators"] == 8


def tuned(kind, **params):
    return builders.fold_result(kind=kind, params=params)


def test_trees_tested_on_workloads_ship_for_known_deployments_unless_held_out_models_wanted_some_too():
    workloads = [tuned("lowo", n_estimators=rounds, known_only=True) for rounds in (24, 48, 96)]
    none, some = (
        tuned("lomo", n_estimators=0, known_only=False),
        tuned("lomo", n_estimators=16, known_only=False),
    )
    assert candidates.consensus([none, none, some, *workloads]) == {"n_estimators": 48, "known_only": True}
    assert candidates.consensus([none, some, some, *workloads]) == {"n_estimators": 16, "known_only": False}
    assert candidates.consensus([none, none]) == {"n_estimators": 0, "known_only": False}


def test_without_trees_anywhere_the_parameters_are_those_of_the_folds():
    same = {"n_estimators": 0, "max_depth": 3, "reg_lambda": 10.0}
    assert candidates.consensus([tuned("lomo", **same), tuned("lowo", **same)] * 4) == same


def candidate(model: str, errors: list[float], fold: str = "f", **changes: str) -> candidates.Candidate:
    """A candidate with folds f0, f1, ... of these errors."""
    config = TrainConfig(
        source=SourceConfig(name="simulated"),
        fold=Fold(name="f", kind="lowo", holdout="x"),
        model=ModelConfig(name=model),
        features=FeaturesConfig(name=changes.get("features", "scale_free")),
        ablation=AblationConfig(name=changes.get("ablation", "none")),
    )
    results = [
        builders.fold_result(
            f"{fold}{number}", kind="lowo", mape=error, data_digest="d" * 32, ablation=config.ablation.name
        )
        for number, error in enumerate(errors)
    ]
    return candidates._candidate("sweep", [(config, result) for result in results], ["f0", "f1"])


def swept(opened: registry.Registry, overrides: str, *made: candidates.Candidate) -> str:
    """A finished sweep of these candidates' folds; its id."""
    client, parent = opened.store.client, opened.store.start_parent("sweep", {"overrides": overrides})
    for each in made:
        for config, result in zip(each.configs.values(), each.results, strict=True):
            run = client.create_run(
                opened.store.experiment_id, tags={PARENT_TAG: parent, "h3.role": "fold"}
            ).info.run_id
            client.log_text(run, yaml.safe_dump(config.model_dump()), "config.yaml")
            client.log_dict(run, result.recorded(), "result.json")
            client.set_terminated(run, "FINISHED")
    client.set_terminated(parent, "FINISHED")
    time.sleep(0.002)  # sweeps are ordered by their start, in milliseconds
    return parent


class PickedError(Exception):
    """The winner's sweep, in place of fitting it."""


@pytest.mark.parametrize(
    ("overrides", "variants", "of"),
    [
        ("experiment=ablation", ["none", "no_base"], "experiment=ablation"),
        ("experiment=ablation", ["none"], "experiment=ablation"),
        ("experiment=mine", ["none", "no_base"], "ablation=no_base"),
    ],
)
def test_nothing_is_promoted_from_an_ablation(tmp_path, monkeypatch, overrides, variants, of):
    def stop(store, winner, *_):
        raise PickedError(winner.sweep)

    opened = builders.empty_registry(tmp_path)
    monkeypatch.setattr(promote, "refit", stop)
    config = configured(
        tmp_path,
        tracking={"uri": opened.store.uri},
        dry_run=True,
        winner={"rule": ["worst"], "folds": ["f0", "f1"]},
    )
    ablated = swept(
        opened, overrides, *(candidate("xgboost_residual", [1.0, 2.0], ablation=name) for name in variants)
    )
    with pytest.raises(
        InputError, match=rf"no complete sweep to promote from; .* newest sweep={ablated} is an ablation"
    ) as error:
        promote.promote(config)
    assert "\n" not in str(error.value)
    whole = swept(opened, "ablation=none", candidate("xgboost_residual", [3.0, 4.0]))
    ablated = swept(
        opened, overrides, *(candidate("xgboost_residual", [1.0, 2.0], ablation=name) for name in variants)
    )
    with pytest.raises(PickedError, match=whole):
        promote.promote(config)
    with pytest.raises(
        InputError,
        match=rf"^sweep={ablated} is an ablation \({of}\), tuned to compare variants; expected a sweep",
    ):
        promote.promote(config.model_copy(update={"sweep": ablated}))


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (candidate("xgboost_residual", [1.0, 2.0]), ""),
        (candidate("roofline", [1.0, 2.0]), "not exportable"),
        (candidate("xgboost_scale_free", [1.0, 2.0]), "not exportable"),
        (candidate("xgboost_residual", [1.0, 2.0], features="raw30"), "not exportable"),
        (candidate("xgboost_residual", [1.0, 2.0], ablation="no_base"), "not exportable"),
        (candidate("xgboost_residual", [1.0]), "lacks one finished run each of f1"),
    ],
)
def test_only_complete_folds_of_what_a_bundle_can_hold_are_eligible(made, said):
    assert made.against.startswith(said)
    assert bool(made.against) == bool(said)


def test_the_rule_puts_the_worst_fold_before_the_mean(monkeypatch, capsys):
    even, uneven = candidate("xgboost_residual", [5.0, 5.0]), candidate("xgboost_residual", [1.0, 6.0])
    other = candidate("roofline", [0.1, 0.1])
    monkeypatch.setattr(
        candidates, "ended_sweeps", lambda *_: [Sweep("sweep", "", "simulated", "", "FINISHED", "")]
    )
    monkeypatch.setattr(candidates, "candidates_of", lambda *_: [uneven, other, even])
    config = configured(Path("nowhere"))
    assert candidates.pick(None, config)[0] is even
    assert "roofline: worst 0.10 %, mean 0.10 % not exportable" in capsys.readouterr().out
    by_mean = configured(Path("nowhere"), winner={"rule": ["mean", "worst"], "folds": ["f0", "f1"]})
    assert candidates.pick(None, by_mean)[0] is uneven
