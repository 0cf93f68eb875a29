"""Whether the trees of a consensus may ship: what a real server asks of them, not what a fold's error says.

    kept = kept_trees(recipe, table, tolerance_percent=1.0)
    kept.recipe, kept.why                        # the recipe that ships; "" or why its trees were left out

The base alone is what a deployment outside the data gets anyway, so a version without trees is a version; one
whose step times fall where work grows, or whose trees learned a simulator, is not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd

from h3 import bundle
from h3.promotion import gate
from h3.promotion.recipe import Recipe
from h3.steps import base_shares, basis

ROUNDS = "n_estimators"


@dataclass(frozen=True)
class Kept:
    """The recipe that ships, and why its trees were left out ("": they were not, or there were none)."""

    recipe: Recipe
    why: str = ""


def kept_trees(recipe: Recipe, table: pd.DataFrame, tolerance_percent: float) -> Kept:
    """The recipe as it is if its trees may ship, else without trees, and why."""
    if not recipe.params.get(ROUNDS):
        return Kept(recipe)
    why = _levels(recipe) or _simulated(table) or _falling(recipe, table, tolerance_percent)
    without = {**recipe.params, ROUNDS: 0, "levels": False}
    return Kept(replace(recipe, params=without), why) if why else Kept(recipe)


def _levels(recipe: Recipe) -> str:
    if not recipe.params.get("levels"):
        return ""
    return f"they learn levels between models from {base_shares.NAME}, which a bundle does not hold"


def _simulated(table: pd.DataFrame) -> str:
    data = basis.described(table)
    return "" if basis.is_measured(data) else f"they were learned from {basis.short(data)} steps"


def _falling(recipe: Recipe, table: pd.DataFrame, tolerance_percent: float) -> str:
    """Why the gate's check of growing work would refuse them."""
    fits = recipe.fit(table)
    check = gate.monotone(lambda steps: bundle.predict(fits, steps)["us"].to_numpy(), tolerance_percent)
    if check.passed:
        return ""
    worst = check.numbers["worst"]
    return (
        f"with them a step takes up to {worst['percent']:.1f} % less time where {worst['axis']} grows"
        f" ({worst['where']})"
    )
