"""What stands behind a bundle: its data, its folds and their errors, in a line for whoever is given a number.

    print(told(bundle.read("dist/blis")))

A bundle says itself what it was made of (`provenance` of its manifest); one of an earlier version says less.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from h3.bundle.bundle import Bundle
from h3.bundle.uncertainty import WORDS
from h3.bundle.uncertainty_model import Uncertainty
from h3.common.config import PACKAGE

NO_TREES = "no trees, the physical base alone"
SHIPPED = PACKAGE / "data" / "champion"


def told(bundle: Bundle) -> str:
    """Which bundle, its data, its held-out folds with mean and worst error, and its note, if it has one."""
    said = bundle.manifest.provenance
    parts = [
        f"{_name(bundle)}: data {said.get('data') or 'not said'}",
        _folds(said.get("folds") or ()),
        "" if any(model.trees for model in bundle.manifest.models.values()) else NO_TREES,
        str(said.get("note") or ""),
    ]
    return "; ".join(part for part in parts if part)


def kinds_told(uncertainty: Uncertainty, words: Sequence[str], level: float) -> str:
    """Kinds in words, each with its number of held-out groups and the coverage that was measured."""
    at, names = uncertainty.levels.index(level), {told: name for name, told in WORDS.items()}
    said = []
    for word in words:
        kind = uncertainty.kinds[names[word]]
        covered = (
            "coverage not measured" if kind.coverage is None else f"covered {100 * kind.coverage[at]:.0f} %"
        )
        said.append(f"{word}, {kind.groups} held-out groups, {covered}")
    return " + ".join(said)


def _name(bundle: Bundle) -> str:
    return "the champion that ships with h3" if bundle.path == SHIPPED else f"bundle {bundle.digest[:16]}"


def _folds(folds: Any) -> str:
    """Number of folds with an error, its mean, and the worst one."""
    found = {str(fold.get("fold")): fold.get("mape") for fold in folds if isinstance(fold, dict)}
    known = {name: float(mape) for name, mape in found.items() if isinstance(mape, int | float)}
    if not known:
        return "no held-out fold"
    worst = max(known, key=lambda name: known[name])
    mean = sum(known.values()) / len(known)
    return (
        f"{len(known)} held-out folds, MAPE {mean:.1f} % in the mean, {known[worst]:.1f} % at worst ({worst})"
    )
