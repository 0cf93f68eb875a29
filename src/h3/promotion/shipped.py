"""From a winner to a version: refit on everything, register as challenger, check.

    shipped = refit(opened.store, winner, config, folder, say)
    version = register(opened, run_id, winner, shipped)
    checks = check(opened, config, shipped, read_version(opened, version))

A dry run checks the bundle in `folder` and registers nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from h3 import bundle
from h3.bundle import Bundle
from h3.bundle.uncertainty_model import Uncertainty
from h3.common.errors import InputError
from h3.common.progress import Progress
from h3.evaluation.fold_table import FoldRow
from h3.evaluation.result import FoldResult
from h3.latency.shipped_overheads import resolve
from h3.promotion import gate
from h3.promotion.candidates import Candidate, consensus
from h3.promotion.card import card
from h3.promotion.config import PromoteConfig
from h3.promotion.gate import Check
from h3.promotion.recipe import NotInData, Recipe, evaluated, fold_rows, row
from h3.promotion.trees import Kept, kept_trees
from h3.promotion.uncertainty import gather
from h3.sources.experiment import Ingested
from h3.sources.load import load
from h3.steps import basis, schema
from h3.tracking import artifacts, log, record, registry, send
from h3.tracking.registry import CHALLENGER, CHAMPION, Registry
from h3.tracking.store import Store, git_commit


@dataclass(frozen=True)
class Shipped:
    """What ships: recipe, the sweep's folds and the recipe's errors on them, data and bundle's folder.

    left_out: folds that could not be cut from the recipe's data; trees_left_out: why none ship.
    """

    recipe: Recipe
    held_out: list[FoldRow]
    rows: list[FoldRow]
    ingested: Ingested
    digest: str
    folder: Path
    uncertainty: Uncertainty
    left_out: tuple[NotInData, ...] = ()
    trees_left_out: str = ""


def refit(store: Store, winner: Candidate, config: PromoteConfig, folder: Path, say: Progress) -> Shipped:
    """Fit the winner's recipe on all groups of its recorded source and write the bundle to `folder`.

    Raises InputError if the source gives other data now than the folds had.
    """
    first, expected = next(iter(winner.configs.values())), winner.results[0].data_digest
    say("data")
    ingested = load(first.source, lambda text: say("data", detail=text))
    digest = schema.digest(ingested.table)
    if digest != expected:
        raise InputError(
            f"source={first.source.name} has the data digest {digest}; expected {expected}, as the sweep's"
            " folds"
        )
    held_out = [row(result, ingested.table) for result in winner.results]
    kept = _recipe(winner, config, ingested.table, held_out, say)
    recipe = kept.recipe
    own, left_out = evaluated(recipe, ingested, say)
    say("intervals")
    rows = [each for each, _ in own]
    told = own if kept.why else as_it_ships(_recorded(store, held_out), own, winner.results)
    evidence = gather(recipe, ingested.table, told)
    say("fit on everything")
    overheads, origin = resolve(config.overheads, first.source, set())
    provenance = {
        "data": basis.described(ingested.table),
        "source": first.source.name,
        "data_digest": digest,
        "commit": git_commit(),
        "sweep": winner.sweep,
        "trees_left_out": kept.why,
        "params": recipe.params,
        # Without trees nothing that ships was tuned, so the recipe's own errors are the held-out ones.
        "folds": [each.model_dump() for each, _ in told],
        "overheads": origin,
    }
    bundle.write(recipe.fit(ingested.table), folder, provenance, overheads, evidence)
    widths = evidence.uncertainty
    return Shipped(recipe, held_out, rows, ingested, digest, folder, widths, tuple(left_out), kept.why)


Told = list[tuple[FoldRow, pd.DataFrame]]


def as_it_ships(recorded: Told, own: Told, results: Sequence[FoldResult]) -> Told:
    """The sweep's folds, but the recipe's own where a fold's trees learned levels, which do not ship: for a
    new model the base answers alone there, and nothing of it was tuned.
    """
    levels = {result.fold for result in results if _has_levels(result.params)}
    mine = {row.fold: (row, predictions) for row, predictions in own}
    return [mine.get(row.fold, (row, each)) if row.fold in levels else (row, each) for row, each in recorded]


def _has_levels(params: Mapping[str, Any]) -> bool:
    return bool(params.get("levels")) and bool(params.get("n_estimators"))


def _recorded(store: Store, held_out: list[FoldRow]) -> list[tuple[FoldRow, pd.DataFrame]]:
    """The sweep's folds with their held-out predictions; raises InputError for a run that has none."""
    found = []
    for each in held_out:
        uri = store.run(each.run_id).info.artifact_uri
        frame = artifacts.frame(uri, "predictions.parquet", ["experiment", "observed_us", "predicted_us"])
        if frame is None:
            raise InputError(f"run {each.run_id} ({each.fold}) has no predictions.parquet; expected a fold's")
        found.append((each, frame))
    return found


def _recipe(
    winner: Candidate, config: PromoteConfig, table: pd.DataFrame, held_out: list[FoldRow], say: Progress
) -> Kept:
    """The recipe of a winner, without its trees where they may not ship."""
    say("trees")
    limit = config.gate.max_moe_fold_mape
    two = any(each.moe and each.mape_high is not None and each.mape_high > limit for each in held_out)
    folds = tuple(each.fold for each in winner.configs.values())
    asked = Recipe(next(iter(winner.configs.values())), consensus(winner.results), folds, two)
    kept = kept_trees(asked, table, config.gate.monotone_tolerance_percent)
    if kept.why:
        say.note(f"trees left out: {kept.why}; the physical base ships alone")
    return kept


def check(opened: Registry, config: PromoteConfig, shipped: Shipped, read: Bundle) -> list[Check]:
    """Every check of the gate; with two boosters nothing is claimed for a MoE model that was held out."""
    held_out = [each for each in shipped.held_out if not (shipped.recipe.two_boosters and each.moe)]
    return [
        gate.verified(read.path),
        gate.limits(held_out, config.gate, "fold_limits"),
        gate.limits(shipped.rows, config.gate, "recipe_limits", shipped.left_out),
        gate.against_champion(shipped.rows, *champion_rows(opened, shipped)),
        gate.real_trees(read, basis.described(shipped.ingested.table)),
        gate.monotone(read.predict, config.gate.monotone_tolerance_percent),
        gate.positive(read.predict, config.gate.architectures, config.gate.seed),
    ]


def champion_rows(opened: Registry, shipped: Shipped) -> tuple[list[FoldRow] | None, list[NotInData]]:
    """The champion's recipe on the folds of the same data, and its folds that these data cannot give; None:
    no champion.

    As recorded, or, if it was on other data, evaluated again on its own folds and on those of the new
    version.
    """
    champion = opened.version(CHAMPION)
    if champion is None:
        return None, []
    recorded = artifacts.content_of_run(opened.store, str(champion.run_id), "recipe.json")
    if recorded["data_digest"] == shipped.digest:
        return [FoldRow.model_validate(each) for each in recorded["rows"]], []
    recipe = Recipe.of(recorded["recipe"])
    both = (*recipe.folds, *shipped.recipe.folds)
    folds = {(fold.kind, fold.holdout, fold.within_model): fold for fold in both}
    champions = replace(recipe, folds=tuple(folds.values()))
    return fold_rows(champions, shipped.ingested, Progress("champion"))


def register(opened: Registry, run_id: str, winner: Candidate, shipped: Shipped) -> str:
    """Register the bundle as challenger with its record; the version's number."""
    recipe, digest, table = shipped.recipe, shipped.digest, shipped.ingested.table
    rows = [each.model_dump() for each in shipped.rows]
    log.json("recipe.json", {"recipe": recipe.describe(), "rows": rows, "data_digest": digest})
    tags = {
        "sweep": winner.sweep,
        "winner": winner.label,
        "data_digest": digest,
        "commit": git_commit(),
        "routing": "two boosters" if recipe.two_boosters else "one booster",
        "params": json.dumps(recipe.params),
        "trees_left_out": shipped.trees_left_out,
        "fold_runs": json.dumps([each.run_id for each in shipped.held_out]),
    }
    data = record.described(table, recipe.config.source.origin, digest, "training")
    send.inputs(opened.store, run_id, (data,))
    text = card(table, tags, shipped.held_out, shipped.rows, shipped.uncertainty)
    version = registry.register(opened, run_id, shipped.folder, table, tags, text)
    opened.set_alias(CHALLENGER, version)
    return version
