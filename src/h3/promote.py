"""From a sweep to the champion: pick by the held-out folds, refit on everything, register, gate, move the
alias, export.

    python -m h3.promote                                     # newest complete sweep
    python -m h3.promote sweep=ID gate.max_fold_mape=15 dry_run=true
    python -m h3.promote action=rollback                     # champion back to the version before

Status 0: promoted; 3: the gate refused, the version stays challenger; 2: nothing could be promoted, one line
says why.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from omegaconf import DictConfig, OmegaConf
from pydantic import Field

from h3 import bundle, export
from h3.bundle import Bundle
from h3.bundle import files as bundle_files
from h3.common import cli
from h3.common.config import Strict, TrackingConfig, TrainConfig, from_hydra
from h3.common.errors import InputError
from h3.common.progress import Progress
from h3.latency import shipped_overheads as bundle_overheads
from h3.latency.shipped_overheads import OverheadsConfig
from h3.promotion import gate
from h3.promotion.gate import Check, Recipe
from h3.sources import load
from h3.sources.experiment import Ingested
from h3.steps import schema
from h3.tracking import registry
from h3.tracking import store as track
from h3.tracking.registry import CHALLENGER, CHAMPION, Registry


class WinnerConfig(Strict):
    """Statistics of the fold errors that are compared, first one first, and the folds of a complete sweep."""

    rule: list[Literal["worst", "mean"]] = Field(["worst", "mean"], min_length=1)
    folds: list[str] = Field(min_length=1)


class GateConfig(Strict):
    """What gate.py checks against."""

    max_fold_mape: float = Field(20.0, gt=0)
    max_moe_fold_mape: float = Field(25.0, gt=0)
    monotone_tolerance_percent: float = Field(gate.TOLERANCE_PERCENT, ge=0)
    architectures: int = Field(300, ge=1)
    seed: int = Field(0, ge=0)


class PromoteConfig(Strict):
    """conf/promote.yaml."""

    action: Literal["promote", "rollback"] = "promote"
    sweep: str | None = None
    dry_run: bool = False
    out: str = "dist/blis"
    winner: WinnerConfig
    gate: GateConfig = GateConfig()
    overheads: OverheadsConfig = OverheadsConfig()
    tracking: TrackingConfig = TrackingConfig()


def promote(config: PromoteConfig) -> int:
    """Run the configured action and print what came of it; the exit status (0 or 3).

    Raises InputError if there is nothing to promote, the registry cannot be reached or another promotion is
    running.
    """
    with registry.reported(config.tracking):
        opened = registry.open_registry(config.tracking)
        if config.dry_run:
            return _dry_run(opened, config)
        with registry.lock(opened):
            recovered = registry.recover(opened)
            for version, state in recovered.items():
                print(
                    f"version {version}, left by a killed"
                    f" {'rollback' if state == 'rolled_back' else 'promotion'}: {state}"
                )
            if "rolled_back" in recovered.values():
                _export(opened, config, opened.aliases()[CHAMPION])
            if config.action == "rollback":
                return 0 if "rolled_back" in recovered.values() else _roll_back(opened, config)
            return _promote(
                opened, config, [version for version, state in recovered.items() if state == "promoted"]
            )


def _dry_run(opened: Registry, config: PromoteConfig) -> int:
    if config.action == "rollback":
        print("dry run: champion {}; rollback would make it {}".format(*registry.rollback_versions(opened)))
        return 0
    winner, _ = _pick(opened, config)
    say = Progress("promote")
    with tempfile.TemporaryDirectory() as scratch:
        shipped = refit(winner, config, Path(scratch) / "bundle", say)
        say("gate")
        checks = check(opened, config, shipped, bundle.read(shipped.folder))
    say.finish()
    passed = _print_checks(checks)
    print(
        f"dry run: the gate would {'let it pass' if passed else 'refuse it'}; registry and {config.out} are"
        " as they were"
    )
    return 0 if passed else 3


def _roll_back(opened: Registry, config: PromoteConfig) -> int:
    _, after = registry.rollback_versions(opened)
    folder, said = registry.folder_of(opened, after), []
    bundle_files.inspect(folder)  # its files are whole, before anything moves
    before, after = registry.roll_back(
        opened, lambda version: said.append(_copied(folder, config.out, version))
    )
    print(f"champion is version {after} again (was {before});", *said)
    return 0


def _promote(opened: Registry, config: PromoteConfig, finished: list[str]) -> int:
    """Promote the winner, unless recovery has just promoted a version of the same sweep."""
    winner, picked = _pick(opened, config)
    for version in finished:
        if opened.version(version).tags["sweep"] == winner.sweep:
            return _export(opened, config, version)
    say = Progress("promote")
    with (
        tempfile.TemporaryDirectory() as scratch,
        registry.entry(opened, "promotion", {"sweep": winner.sweep}) as run_id,
    ):
        shipped = refit(winner, config, Path(scratch) / "bundle", say)
        say("register")
        registry.log_json("winner.json", {"rule": config.winner.rule, "candidates": picked})
        version = _register(opened, run_id, winner, shipped)
        say("gate")
        checks = check(opened, config, shipped, registry.read_version(opened, version))
        say.finish()
        registry.log_json("gate.json", [each.describe() for each in checks])
        if not _print_checks(checks):
            failed = ", ".join(each.name for each in checks if not each.passed)
            opened.tag(version, gate=f"failed: {failed}", state="refused")
            print(
                f"version {version} stays challenger: the gate refused it ({failed}); the champion is as"
                " it was"
            )
            return 3
        opened.tag(
            version, gate="passed", previous_champion=opened.aliases().get(CHAMPION, ""), state="gated"
        )
        registry.promote(opened, version)
    return _export(opened, config, version)


@dataclass(frozen=True)
class Candidate:
    """One predictor's folds in a sweep: label, configurations by fold, results, and what stands against it
    ("": nothing).
    """

    sweep: str
    label: str
    configs: dict[str, TrainConfig]
    results: list[dict]
    against: str

    def describe(self) -> dict:
        """Label, worst and mean MAPE over the held-out folds, %, and what stands against it."""
        errors = [result["mape"] for result in self.results]
        return {
            "label": self.label,
            "worst": max(errors),
            "mean": sum(errors) / len(errors),
            "against": self.against,
        }


def _pick(opened: Registry, config: PromoteConfig) -> tuple[Candidate, list[dict]]:
    """The winner and all candidates with their scores, of the sweep asked for or the newest complete one that
    is no ablation.
    """
    newest = ""
    for parent in registry.sweeps(opened, config.sweep):
        try:
            candidates = candidates_of(opened, parent, config.winner.folds)
        except InputError as error:
            if config.sweep:
                raise
            newest = newest or str(error)
            continue
        eligible = [each for each in candidates if not each.against]
        if eligible:
            winner = min(eligible, key=lambda each: [each.describe()[name] for name in config.winner.rule])
            print(f"sweep {parent}, {' then '.join(config.winner.rule)} of the held-out folds' MAPE:")
            picked = [each.describe() | {"winner": each is winner} for each in candidates]
            for entry in picked:
                print(
                    "  {label}: worst {worst:.2f} %, mean {mean:.2f} %".format(**entry),
                    entry["against"] or "winner" * entry["winner"],
                )
            return winner, picked
        newest = newest or f"{parent}: " + (
            "; ".join(f"{each.label}: {each.against}" for each in candidates) or "no finished fold"
        )
    raise InputError(
        f"no complete sweep to promote from; expected all of {len(config.winner.folds)} folds; newest"
        f" {newest or 'none'}"
    )


def candidates_of(opened: Registry, parent: str, names: list[str]) -> list[Candidate]:
    """The predictors of a sweep that have finished at least one fold, with what keeps each from being
    promoted.

    Raises InputError for an ablation: what it compares with is tuned briefly, on a part of the rows.
    """
    groups: dict[str, list[tuple[TrainConfig, dict]]] = {}
    _refuse_ablation(parent, registry.ablation_override(opened, parent))
    for content, result in registry.finished_folds(opened, parent):
        config = from_hydra(OmegaConf.create(content))
        _refuse_ablation(parent, "" if config.ablation.name == "none" else f"ablation={config.ablation.name}")
        apart = (
            config.model.model_dump(),
            config.features.model_dump(),
            config.target,
            config.seed,
            config.ablation.name,
        )
        groups.setdefault(json.dumps(apart), []).append((config, result))
    return [_candidate(parent, folds, names) for folds in groups.values()]


def _refuse_ablation(sweep: str, of: str) -> None:
    if of:
        raise InputError(
            f"sweep={sweep} is an ablation ({of}), tuned to compare variants; expected a sweep of h3 as it is"
        )


def _candidate(sweep: str, finished: list[tuple[TrainConfig, dict]], names: list[str]) -> Candidate:
    first, there = finished[0][0], [result["fold"] for _, result in finished]
    usual = ((first.features.name, "scale_free"), (first.target, "period"), (first.ablation.name, "none"))
    label = "/".join([first.model.name, *(found for found, expected in usual if found != expected)])
    lacks = [name for name in names if there.count(name) != 1]
    against = ""
    if label != "xgboost_residual":
        against = "not exportable: a bundle holds xgboost_residual on scale_free features of the period"
    elif lacks:
        against = f"lacks one finished run each of {', '.join(lacks)}"
    elif len({result["data_digest"] for _, result in finished}) != 1:
        against = "its folds are on different data"
    kept = [(config, result) for config, result in finished if result["fold"] in names] or finished
    return Candidate(
        sweep,
        label,
        {result["fold"]: config for config, result in kept},
        [result for _, result in kept],
        against,
    )


def consensus(results: list[dict]) -> dict:
    """One set of boosting parameters from the results of the folds.

    Where most folds that held a model out chose trees, theirs, for any deployment. Else those of the folds
    that held a workload out: their trees serve the deployments in the data, and a new model gets the base
    alone, as in its test. n_estimators: the lower median, a number that a fold chose, so trees are used only
    if most folds wanted some. Others: the median over the folds that use trees (all where none does), whole
    where they are whole.
    """
    models = [result["params"] for result in results if result["kind"] == "lomo"]
    params = (
        models
        if models and _rounds(models) > 0
        else [result["params"] for result in results if result["kind"] != "lomo"] or models
    )
    used = [each for each in params if each["n_estimators"] > 0] or params
    made = {}
    for name, value in params[0].items():
        values = sorted(each[name] for each in used)
        made[name] = values[(len(values) - 1) // 2] if isinstance(value, int) else float(np.median(values))
    return made | {"n_estimators": _rounds(params)}


def _rounds(params: list[dict]) -> int:
    """The lower median of n_estimators."""
    rounds = sorted(int(each["n_estimators"]) for each in params)
    return rounds[(len(rounds) - 1) // 2]


@dataclass(frozen=True)
class Refit:
    """What ships: recipe, the sweep's folds and the recipe's errors on them (gate.row), data and bundle's
    folder.

    left_out: folds that could not be cut from the recipe's data (gate.fold_rows).
    """

    recipe: Recipe
    held_out: list[dict]
    rows: list[dict]
    ingested: Ingested
    digest: str
    folder: Path
    left_out: tuple[dict, ...] = ()


def refit(winner: Candidate, config: PromoteConfig, folder: Path, say: Progress) -> Refit:
    """Fit the winner's recipe on all groups of its recorded source and write the bundle to `folder`.

    Raises InputError if the source gives other data now than the folds had.
    """
    first, expected = next(iter(winner.configs.values())), winner.results[0]["data_digest"]
    say("data")
    ingested = load.load(first.source, lambda text: say("data", detail=text))
    digest = schema.digest(ingested.table)
    if digest != expected:
        raise InputError(
            f"source={first.source.name} has the data digest {digest}; expected {expected}, as the sweep's"
            " folds"
        )
    held_out = [gate.row(result, ingested.table) for result in winner.results]
    two = any(row["moe"] and row["mape_high"] > config.gate.max_moe_fold_mape for row in held_out)
    params = consensus(winner.results)
    recipe = Recipe(first, params, tuple(each.fold for each in winner.configs.values()), two)
    rows, left_out = gate.fold_rows(recipe, ingested, say)
    say("fit on everything")
    overheads, origin = bundle_overheads.resolve(config.overheads, first.source, set())
    provenance = {
        "data_digest": digest,
        "commit": track.git_commit(),
        "sweep": winner.sweep,
        "params": params,
        "folds": held_out,
        "overheads": origin,
    }
    bundle.write(recipe.fit(ingested.table), folder, provenance, overheads)
    return Refit(recipe, held_out, rows, ingested, digest, folder, tuple(left_out))


def check(opened: Registry, config: PromoteConfig, shipped: Refit, read: Bundle) -> list[Check]:
    """Every check of the gate; with two boosters nothing is claimed for a MoE model that was held out."""
    limits = gate.Limits(config.gate.max_fold_mape, config.gate.max_moe_fold_mape)
    held_out = [row for row in shipped.held_out if not (shipped.recipe.two_boosters and row["moe"])]
    return [
        gate.verified(read.path),
        gate.limits(held_out, limits, "fold_limits"),
        gate.limits(shipped.rows, limits, "recipe_limits", shipped.left_out),
        gate.against_champion(shipped.rows, *champion_rows(opened, shipped)),
        gate.monotone(read.predict, config.gate.monotone_tolerance_percent),
        gate.positive(read.predict, config.gate.architectures, config.gate.seed),
    ]


def champion_rows(opened: Registry, shipped: Refit) -> tuple[list[dict] | None, list[dict]]:
    """The champion's recipe on the folds of the same data, and its folds that these data cannot give; None:
    no champion.

    As recorded, or, if it was on other data, evaluated again on its own folds and on those of the new
    version.
    """
    champion = opened.version(CHAMPION)
    if champion is None:
        return None, []
    recorded = registry.recorded_json(champion.run_id, "recipe.json")
    if recorded["data_digest"] == shipped.digest:
        return recorded["rows"], []
    recipe = Recipe.of(recorded["recipe"])
    folds = {
        (fold.kind, fold.holdout, fold.within_model): fold for fold in (*recipe.folds, *shipped.recipe.folds)
    }
    return gate.fold_rows(
        replace(recipe, folds=tuple(folds.values())), shipped.ingested, Progress("champion")
    )


def _print_checks(checks: list[Check]) -> bool:
    print("\n".join(["gate:", *(f"  {each.line()}" for each in checks)]))
    return all(each.passed for each in checks)


def _register(opened: Registry, run_id: str, winner: Candidate, shipped: Refit) -> str:
    """Register the bundle as challenger with its record; the version's number."""
    recipe, digest, routing = (
        shipped.recipe,
        shipped.digest,
        "two boosters" if shipped.recipe.two_boosters else "one booster",
    )
    registry.log_json(
        "recipe.json", {"recipe": recipe.describe(), "rows": shipped.rows, "data_digest": digest}
    )
    tags = {
        "sweep": winner.sweep,
        "winner": winner.label,
        "data_digest": digest,
        "commit": track.git_commit(),
        "routing": routing,
        "params": json.dumps(recipe.params),
        "fold_runs": json.dumps([row["run_id"] for row in shipped.held_out]),
    }
    table = shipped.ingested.table
    track.log_dataset(table, str(recipe.config.source.path or recipe.config.source.name), digest, "training")
    version = registry.register(
        opened,
        run_id,
        shipped.folder,
        table,
        (tags, registry.card(table, tags, shipped.held_out, shipped.rows)),
    )
    opened.set_alias(CHALLENGER, version)
    return version


def _export(opened: Registry, config: PromoteConfig, version: str) -> int:
    said = _copied(registry.folder_of(opened, version), config.out, version)
    print(f"version {version} of {registry.NAME} is champion; {said}")
    return 0


def _copied(folder: Path, out: str, version: str) -> str:
    """Copy a version's bundle to `out`, where it can be evaluated with its golden vectors; what came of it,
    in words.
    """
    try:
        return export.describe(out, export.copy_verified(folder, out))
    except InputError as error:
        raise InputError(
            f"{error}; champion is version {version} all the same: python -m h3.export model=champion"
            f" out={out}"
        ) from None


def main(cfg: DictConfig) -> None:
    """One Hydra job."""
    if status := promote(from_hydra(cfg, PromoteConfig)):
        sys.exit(status)


if __name__ == "__main__":
    cli.run(main, "promote")
