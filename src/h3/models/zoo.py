"""Predictors by name: the only place that knows them all.

>>> make("xgboost_residual", {"max_depth": 2}).name
'xgboost_residual'

A new one is a file in peers/ and a line here (CONTRIBUTING.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from h3.common.errors import InputError
from h3.common.shown import shown
from h3.models import xgboost_residual, xgboost_scale_free
from h3.models.boosting import Tuned
from h3.models.peers import (
    blackbox,
    habitat,
    ridge_per_experiment,
    roofline,
    roofline_layers,
    splitwise,
    trained_roofline,
    vidur,
    xgboost_raw,
)
from h3.models.protocol import InsidePredictor, Predictor


@dataclass(frozen=True)
class Entry:
    """A dataclass of parameters and the predictor made from it.

    tuned: how its trees are searched over inner folds (None: they are not). sees_held_out: it is trained on
    truth of the held-out group, and only scored on steps that it did not see.
    """

    params: type
    predictor: Callable[[Any], Predictor]
    tuned: Tuned | None = None
    sees_held_out: bool = False


PREDICTORS = {
    "xgboost_residual": Entry(
        xgboost_residual.Params, xgboost_residual.XGBoostResidual, xgboost_residual.TUNED
    ),
    "xgboost_scale_free": Entry(
        xgboost_scale_free.Params, xgboost_scale_free.XGBoostScaleFree, xgboost_scale_free.TUNED
    ),
    "xgboost_raw": Entry(xgboost_raw.Params, xgboost_raw.XGBoostRaw),
    "blackbox": Entry(blackbox.Params, blackbox.Blackbox),
    "roofline": Entry(roofline.Params, roofline.Roofline),
    "roofline_layers": Entry(roofline_layers.Params, roofline_layers.RooflineLayers),
    "trained_roofline": Entry(trained_roofline.Params, trained_roofline.TrainedRoofline),
    "vidur": Entry(vidur.Params, vidur.Vidur),
    "splitwise": Entry(splitwise.Params, splitwise.Splitwise),
    "habitat": Entry(habitat.Params, habitat.Habitat),
    "ridge_per_experiment": Entry(
        ridge_per_experiment.Params, ridge_per_experiment.RidgePerExperiment, sees_held_out=True
    ),
}


def make(name: str, params: Mapping[str, Any]) -> Predictor:
    """The predictor of that name with its parameters; raises InputError listing names, or the parameters it
    takes.
    """
    if name not in PREDICTORS:
        raise InputError(f"unknown model {name!r}; expected one of {', '.join(PREDICTORS)}")
    entry = PREDICTORS[name]
    known = {field.name for field in fields(entry.params)}
    unknown = sorted(set(params) - known)
    if unknown:
        raise InputError(f"model {name}: unknown parameter {unknown[0]!r}; expected {_some_of(known)}")
    try:
        return entry.predictor(TypeAdapter(entry.params).validate_python(dict(params)))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise InputError(f"model {name}: {where}={shown(problem['input'])}: {problem['msg']}") from None


def tuned(name: str) -> Tuned | None:
    """How the predictor's trees are searched over inner folds; None where its parameters are as given."""
    return PREDICTORS[name].tuned


def sees_held_out(name: str) -> bool:
    """Whether the predictor is trained on truth of the held-out group."""
    return PREDICTORS[name].sees_held_out


def inside(predictor: Predictor) -> InsidePredictor | None:
    """The predictor as one that is given held-out truth, if it is registered so."""
    if not sees_held_out(predictor.name):
        return None
    assert isinstance(predictor, InsidePredictor)
    return predictor


def _some_of(names: set[str]) -> str:
    return f"some of {', '.join(sorted(names))}" if names else "none"
