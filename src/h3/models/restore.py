"""A fitted predictor from what it said about itself: no pickles, nothing in the file is run.

    fitted = from_description(json.load(open("fit.json")))          # from a run or a bundle

The content is what FittedResidual.describe() gave.
"""

from __future__ import annotations

import numpy as np

from h3.common.errors import InputError
from h3.models.boosted import Boosted
from h3.models.physical_base import Base
from h3.models.residual import FittedResidual
from h3.models.support import DEPLOYMENT_COLUMNS, Deployed, Support
from h3.steps import features, physics


def from_description(content: object, where: str = "fit.json") -> FittedResidual:
    """The fit that FittedResidual.describe() describes: it predicts the same.

    Raises InputError for another model, unknown features or terms, trees that are none, numbers that are not
    finite.
    """
    if not isinstance(content, dict) or content.get("model") != "xgboost_residual":
        found = content.get("model") if isinstance(content, dict) else type(content).__name__
        raise InputError(
            f"{where}: model {found!r}; expected 'xgboost_residual', the only one with a base and scale-free"
            " features"
        )
    described = content.get("features")
    if not isinstance(described, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in described
    ):
        raise InputError(f"{where}: features are missing; expected a list of them with their names")
    names = [entry.get("name") for entry in described]
    feature_set, dropped = _feature_set(names, where)
    return FittedResidual(
        _base(content.get("base"), where),
        Boosted.read(content.get("booster"), names, where),
        _support(content.get("support"), len(names), where),
        feature_set,
        dropped,
    )


def _feature_set(names: list[str], where: str) -> tuple[str, tuple[str, ...]]:
    """The feature set and the groups left out of it that give exactly these names in this order."""
    for name, chosen in features.SETS.items():
        known = {feature.name for feature in chosen.features}
        if set(names) <= known:
            kept = {feature.group for feature in chosen.features if feature.name in names}
            dropped = tuple(sorted({feature.group for feature in chosen.features} - kept))
            if [entry["name"] for entry in features.manifest(name, dropped)] == names:
                return name, dropped
    known = {feature.name for chosen in features.SETS.values() for feature in chosen.features}
    unknown = [name for name in names if name not in known]
    raise InputError(
        f"{where}: "
        + (f"unknown feature {unknown[0]!r}" if unknown else f"features {names} are no feature set of h3")
    )


def _base(content: object, where: str) -> Base:
    terms = content.get("terms") if isinstance(content, dict) else None
    if not isinstance(content, dict) or terms != list(physics.TERMS):
        raise InputError(
            f"{where}: fitted with other physics (terms {terms}; expected {', '.join(physics.TERMS)}):"
            " train it anew, or export it with the version of h3 that made it"
        )
    coefficients = numbers(content.get("coefficients"), len(physics.TERMS), f"{where}: base coefficients")
    if (coefficients < 0).any():
        raise InputError(f"{where}: base coefficient {coefficients.min()}; expected none below 0")
    return Base(coefficients)


def _support(content: object, count: int, where: str) -> Support:
    if not isinstance(content, dict):
        raise InputError(f"{where}: support is missing; expected the low and high of each feature")
    low, high = (numbers(content.get(side), count, f"{where}: support {side}") for side in ("low", "high"))
    if (low > high).any():
        raise InputError(f"{where}: support has low > high for feature {int(np.flatnonzero(low > high)[0])}")
    return Support(
        low.astype(np.float32), high.astype(np.float32), _deployments(content.get("deployments"), where)
    )


def _deployments(content: object, where: str) -> tuple[Deployed, ...] | None:
    if content is None:
        return None
    if not isinstance(content, list) or not all(
        isinstance(entry, dict) and set(entry) == set(DEPLOYMENT_COLUMNS) for entry in content
    ):
        raise InputError(f"{where}: support deployments; expected a list of {', '.join(DEPLOYMENT_COLUMNS)}")
    for entry in content:
        numbers(
            [entry[name] for name in DEPLOYMENT_COLUMNS[1:]],
            len(DEPLOYMENT_COLUMNS) - 1,
            f"{where}: support deployments",
        )
    return tuple(
        {name: entry[name] if name == "hardware" else float(entry[name]) for name in DEPLOYMENT_COLUMNS}
        for entry in content
    )


def numbers(content: object, count: int, where: str) -> np.ndarray:
    """A JSON list as `count` finite float64; raises InputError if it is none."""
    values = content if isinstance(content, list) and len(content) == count else None
    plain = values is not None and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    )
    if not plain or values is None or not all(abs(value) <= 3.4e38 for value in values):
        raise InputError(f"{where}: {str(content)[:80]}; expected {count} finite numbers")
    return np.array(values, dtype=float)
