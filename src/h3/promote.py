"""From a sweep to the champion: pick by the held-out folds, refit on everything, register, gate, move the
alias, export.

    python -m h3.promote                                     # newest complete sweep
    python -m h3.promote sweep=ID gate.max_fold_mape=15 dry_run=true
    python -m h3.promote action=rollback                     # champion back to the version before
    python -m h3.promote action=export out=dist/blis         # the champion's files into its folder, once more

Whichever runs first finishes what a killed one left: alias and folder are in step before anything else is
done. Status 0: promoted; 3: the gate refused, the version stays challenger; 2: nothing could be promoted, one
line says why.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from h3 import bundle
from h3.common import cli
from h3.common.config import from_hydra
from h3.common.errors import InputError
from h3.common.progress import Progress
from h3.promotion.candidates import pick
from h3.promotion.config import PromoteConfig
from h3.promotion.gate import Check
from h3.promotion.shipped import check, refit, register
from h3.tracking import journal, log, registry
from h3.tracking.find import write_again
from h3.tracking.registry import CHAMPION, Registry


def promote(config: PromoteConfig) -> int:
    """Run the configured action and print what came of it; the exit status (0 or 3).

    Raises InputError if there is nothing to promote, the registry cannot be reached or another promotion is
    running.
    """
    with registry.reported(config.tracking):
        opened = registry.open_registry(config.tracking)
        if config.dry_run:
            return _dry_run(opened, config)
        with journal.lock(opened):
            recovered = _recover(opened, config)
            if config.action == "export":
                return 0
            if config.action == "rollback":
                return 0 if "rolled_back" in recovered.values() else _roll_back(opened, config)
            finished = [version for version, state in recovered.items() if state == "promoted"]
            return _promote(opened, config, finished)


def _recover(opened: Registry, config: PromoteConfig) -> dict[str, str]:
    """What became of versions that killed promotions and rollbacks left, printed; the champion's files are
    where they were to be, with action=export in `out`.
    """
    recovered = journal.recover(opened, config.out)
    for version, state in recovered.items():
        killed = "rollback" if state == "rolled_back" else "promotion"
        print(f"version {version}, left by a killed {killed}: {state}")
    if config.action == "export":
        journal.expect_export(opened, _champion(opened), config.out)
    owed = journal.unexported(opened)
    if owed is not None:
        print(f"champion is version {owed[0]}, not yet in {owed[1]}: {_export(opened, *owed, config)}")
        if "rolled_back" not in recovered.values():
            recovered.setdefault(owed[0], "promoted")
    journal.end_entries(opened, recovered)
    return recovered


def _champion(opened: Registry) -> str:
    champion = opened.aliases().get(CHAMPION)
    if champion is None:
        raise InputError("action=export: there is no champion; expected an earlier promotion")
    return champion


def _tell_left(opened: Registry, config: PromoteConfig) -> None:
    """What a killed promotion or rollback left, and what the next one does about it first."""
    passed, owed = journal.passed(opened), journal.unexported(opened)
    for version, out in passed.items():
        print(
            f"dry run: version {version}, left by a killed promotion, passed the gate; the next one makes it"
            f" champion and writes {out or config.out} first"
        )
    if owed is not None and not passed:
        print(f"dry run: champion is version {owed[0]}, not yet in {owed[1]}; the next one writes it first")


def _dry_run(opened: Registry, config: PromoteConfig) -> int:
    _tell_left(opened, config)
    if config.action == "export":
        print(f"dry run: champion {_champion(opened)} would be written to {config.out}")
        return 0
    if config.action == "rollback":
        current, before = journal.rollback_versions(opened)
        print(f"dry run: champion {current}; rollback would make it {before}")
        return 0
    winner, _ = pick(opened.store, config)
    say = Progress("promote")
    with tempfile.TemporaryDirectory() as scratch:
        shipped = refit(opened.store, winner, config, Path(scratch) / "bundle", say)
        say("gate")
        checks = check(opened, config, shipped, bundle.read(shipped.folder))
    say.finish()
    passed = _print_checks(checks)
    would = "let it pass" if passed else "refuse it"
    print(f"dry run: the gate would {would}; registry and {config.out} are as they were")
    return 0 if passed else 3


def _roll_back(opened: Registry, config: PromoteConfig) -> int:
    _, after = journal.rollback_versions(opened)
    bundle.inspect(registry.folder_of(opened, after))  # its files are whole, before anything moves
    said: list[str] = []
    before, after = journal.roll_back(
        opened, config.out, lambda version: said.append(_export(opened, version, config.out, config))
    )
    print(f"champion is version {after} again (was {before});", *said)
    return 0


def _promote(opened: Registry, config: PromoteConfig, finished: Sequence[str]) -> int:
    """Promote the winner, unless recovery has just promoted a version of the same sweep."""
    winner, picked = pick(opened.store, config)
    for version in finished:
        known = opened.version(version)
        if known is not None and known.tags["sweep"] == winner.sweep:
            return 0
    say = Progress("promote")
    intent = {"sweep": winner.sweep, "out": os.path.abspath(config.out)}
    with tempfile.TemporaryDirectory() as scratch, journal.entry(opened, "promotion", intent) as run_id:
        shipped = refit(opened.store, winner, config, Path(scratch) / "bundle", say)
        say("register")
        log.json("winner.json", {"rule": config.winner.rule, "candidates": picked})
        version = register(opened, run_id, winner, shipped)
        say("gate")
        checks = check(opened, config, shipped, registry.read_version(opened, version))
        say.finish()
        log.json("gate.json", [each.describe() for each in checks])
        if not _print_checks(checks):
            return _refused(opened, version, checks)
        journal.expect_export(opened, version, config.out)
        opened.tag(
            version, gate="passed", previous_champion=opened.aliases().get(CHAMPION, ""), state="gated"
        )
        journal.promote(opened, version)
        said = _export(opened, version, config.out, config)
    print(f"version {version} of {registry.NAME} is champion; {said}")
    return 0


def _refused(opened: Registry, version: str, checks: Sequence[Check]) -> int:
    failed = ", ".join(each.name for each in checks if not each.passed)
    opened.tag(version, gate=f"failed: {failed}", state="refused")
    print(f"version {version} stays challenger: the gate refused it ({failed}); the champion is as it was")
    return 3


def _print_checks(checks: Sequence[Check]) -> bool:
    print("\n".join(["gate:", *(f"  {each.line()}" for each in checks)]))
    return all(each.passed for each in checks)


def _export(opened: Registry, version: str, out: str, config: PromoteConfig) -> str:
    """Copy a version's bundle to `out`, where it can be evaluated with its golden vectors, and write that
    down; what came of it, in words.
    """
    try:
        said = bundle.describe(out, bundle.copy_verified(registry.folder_of(opened, version), out))
    except InputError as error:
        raise InputError(
            f"{error}; champion is version {version} all the same: once it can be written, or with another"
            f" out, {write_again(out, config.tracking)}"
        ) from None
    journal.exported(opened, version)
    return said


def main(cfg: DictConfig) -> None:
    """One Hydra job."""
    if status := promote(from_hydra(cfg, PromoteConfig)):
        sys.exit(status)


if __name__ == "__main__":
    cli.run(main, "promote", sys.argv[1:])
