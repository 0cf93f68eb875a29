"""Predictors by name: the only place that knows them all.

predictor = make("xgboost_residual", {"max_depth": 2})
"""

from __future__ import annotations

from dataclasses import fields

from h3.common.errors import InputError
from h3.models import xgboost_residual
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
from h3.models.protocol import Predictor

# name: (class of its parameters, predictor from parameters, whether its trees are tuned over inner folds)
PREDICTORS = {
    "xgboost_residual": (xgboost_residual.Params, xgboost_residual.XGBoostResidual, True),
    "xgboost_raw": (xgboost_raw.Params, xgboost_raw.XGBoostRaw, False),
    "blackbox": (blackbox.Params, blackbox.Blackbox, False),
    "roofline": (roofline.Params, roofline.Roofline, False),
    "roofline_layers": (roofline_layers.Params, roofline_layers.RooflineLayers, False),
    "trained_roofline": (trained_roofline.Params, trained_roofline.TrainedRoofline, False),
    "vidur": (vidur.Params, vidur.Vidur, False),
    "splitwise": (splitwise.Params, splitwise.Splitwise, False),
    "habitat": (habitat.Params, habitat.Habitat, False),
    "ridge_per_experiment": (ridge_per_experiment.Params, ridge_per_experiment.RidgePerExperiment, False),
}


def make(name: str, params: dict) -> Predictor:
    """The predictor of that name with its parameters; raises InputError listing names, or the parameters it
    takes.
    """
    if name not in PREDICTORS:
        raise InputError(f"unknown model {name!r}; expected one of {', '.join(PREDICTORS)}")
    params_class, predictor, _ = PREDICTORS[name]
    known = {field.name for field in fields(params_class)}
    unknown = sorted(set(params) - known)
    if unknown:
        raise InputError(f"model {name}: unknown parameter {unknown[0]!r}; expected {_some_of(known)}")
    return predictor(params_class(**params))


def is_tuned(name: str) -> bool:
    """Whether the predictor's parameters are searched over inner folds."""
    return PREDICTORS[name][2]


def _some_of(names: set[str]) -> str:
    return f"some of {', '.join(sorted(names))}" if names else "none"


def sees_held_out(name: str) -> bool:
    """Whether the predictor is trained on truth of the held-out group (and only scored on steps that it did
    not see).
    """
    return getattr(PREDICTORS[name][1], "sees_held_out", False)
