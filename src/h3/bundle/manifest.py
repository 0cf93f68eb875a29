"""The manifest of a bundle: everything but trees that an evaluator needs, as JSON.

    manifest = make({"dense": fitted, "moe": fitted}, provenance, overheads, evidence, files)
    check(json.loads(dump(manifest)), "manifest.json")                    # the same, or an InputError

The manifest carries physics.py's constants and the hardware table, so that another program computes the same
features; h3 itself computes with its own and refuses a manifest that has others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from h3.bundle.json_file import checked, sha256, shown
from h3.bundle.manifest_model import Constants, Manifest, RequestOverheads
from h3.bundle.uncertainty import Evidence
from h3.common import strict_json
from h3.common.errors import InputError
from h3.models import restore
from h3.models.residual import FittedResidual
from h3.server.overheads import Overheads
from h3.steps import catalog, features, kernels, physics

MANIFEST = "manifest.json"
GOLDEN = "golden.json"
FORMAT_VERSION = 2
FEATURE_SET = "scale_free"
ROUTES = ("dense", "moe")
BOOSTER_FILES = {"dense": "booster.json", "moe": "booster_moe.json"}
TARGET = {"name": "period_us", "unit": "us", "meaning": "start of a step to the start of the next one"}
FORMULA = (
    "period_us = sum_i coefficients[i] * terms[i] * exp(trust(x) * sum(leaves(x))); x: features as float32;"
    " left iff x < threshold"
)
TRUST = (
    "1 inside the range [low, high] that each feature had in training, falling linearly to 0 one range width"
    " (at least 2^-126) outside, the least over all features; 0 for a deployment that `deployments` does not"
    " list (absent: any); at 0 the base answers alone"
)

FitsByRoute = Mapping[str, FittedResidual]


class OtherPhysics(InputError):
    """The bundle's files are whole, but this version of h3 computes with other physics than they were made
    with.
    """


def make(
    fitted_by_route: FitsByRoute,
    provenance: Mapping[str, Any],
    overheads: Overheads,
    evidence: Evidence,
    files: dict[str, bytes],
) -> Manifest:
    """The manifest of fits by route ("dense", "moe"; the same object twice: one booster for all) and of the
    files beside it.

    `provenance` has at least data_digest, commit and folds (a list of rows). Raises InputError for fits or
    overheads that cannot be exported.
    """
    names = model_names(fitted_by_route)
    content = {
        "format": "h3-bundle",
        "format_version": FORMAT_VERSION,
        "target": TARGET,
        "formula": FORMULA,
        "features": feature_list(fitted_by_route),
        **_physics(),
        "hardware_aliases": _aliases(),
        "routing": {"rule": "moe iff num_experts >= 2"}
        | {route: names.get(route, names["dense"]) for route in ROUTES},
        "models": {name: _model(fitted_by_route[route], route) for route, name in names.items()},
        "outside_support": {"rule": "linear_trust", "meaning": TRUST},
        "trained_on": evidence.trained_on.model_dump(mode="json", exclude_unset=True),
        "uncertainty": evidence.uncertainty.model_dump(mode="json", exclude_unset=True),
        "overheads": overheads.model_dump(include=set(RequestOverheads.model_fields)),
        "xgboost_version": version("xgboost"),
        "files": {name: {"sha256": sha256(data), "bytes": len(data)} for name, data in files.items()},
        "provenance": strict_json.plain(provenance),
    }
    return checked(content, Manifest, MANIFEST)


def dump(manifest: Manifest) -> bytes:
    """The manifest as its file has it."""
    content = manifest.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def model_names(fitted_by_route: FitsByRoute) -> dict[str, str]:
    """Route → model name, for the routes that bring a model of their own; raises InputError for fits that
    cannot be exported: another predictor, or features that an engine cannot see before the step.
    """
    if set(fitted_by_route) != set(ROUTES):
        raise InputError(f"bundle: routes {sorted(fitted_by_route)}; expected {', '.join(ROUTES)}")
    for route, fit in fitted_by_route.items():
        if not isinstance(fit, FittedResidual) or fit.features != FEATURE_SET:
            raise InputError(
                f"bundle: the {route} fit is no xgboost_residual on {FEATURE_SET!r} features; only such can"
                " be exported"
            )
    shared = fitted_by_route["dense"] is fitted_by_route["moe"]
    return {"dense": "all"} if shared else {"dense": "dense", "moe": "moe"}


def feature_list(fitted_by_route: FitsByRoute) -> list[dict[str, Any]]:
    """The features of the fits' trees as the manifest lists them; raises InputError if they have not the
    same ones.
    """
    dense, moe = (
        features.manifest(fitted_by_route[route].features, fitted_by_route[route].drop_groups)
        for route in ROUTES
    )
    if dense != moe:
        raise InputError("bundle: the dense and the MoE fit have different features; expected the same list")
    return dense


def _model(fitted: FittedResidual, route: str) -> dict[str, Any]:
    return {
        "booster": BOOSTER_FILES[route],
        "trees": fitted.boosted.count,
        "coefficients": fitted.base.describe()["coefficients"],
        "support": fitted.support.describe(),
    }


def _physics() -> dict[str, Any]:
    """What a manifest must agree with for h3 to evaluate it: this version's terms, constants and hardware, as
    JSON.
    """
    return {
        "terms": list(physics.TERMS),
        "constants": {
            name: strict_json.plain(getattr(physics, name.upper())) for name in Constants.model_fields
        },
        "hardware": {entry.name: _accelerator(entry) for entry in _known_hardware()},
    }


def _known_hardware() -> list[catalog.Hardware]:
    return [*catalog.HARDWARE.values(), *catalog.added_hardware()]


def _accelerator(entry: catalog.Hardware) -> dict[str, Any]:
    """Figures of the data sheet, and the factors by which the terms of the base are scaled."""
    figures = {key: value for key, value in asdict(entry).items() if key not in ("name", "kernels")}
    measured = {"measured": kernels.has_tables(entry)}
    return {**figures, "kernels": measured | asdict(kernels.of(entry))}


def _aliases() -> dict[str, str]:
    added = {entry.name.lower(): entry.name for entry in catalog.added_hardware()}
    return dict(sorted((catalog.HARDWARE_ALIASES | added).items()))


def check(content: dict[str, Any], where: str) -> Manifest:
    """The manifest in the content of its file, if this version of h3 can evaluate it.

    Raises InputError naming the place that is not as it should be; OtherPhysics, an InputError, for one that
    only another version of h3 can evaluate.
    """
    difference = _other_physics(content)
    if difference:
        made = content.get("provenance")
        commit = shown(made.get("commit") or "unknown", 12) if isinstance(made, dict) else "unknown"
        raise OtherPhysics(
            f"{where}: {difference}, as this version of h3 computes: evaluate it with the version that made"
            f" it (commit {commit}); export and rollback copy it as it is"
        )
    return checked(content, Manifest, where)


def _other_physics(content: dict[str, Any]) -> str:
    """The first of format version, terms, constants, hardware and features that is not this version's, found
    and expected; "" if none.
    """
    if content.get("format_version") != FORMAT_VERSION:
        return f"format version {shown(content.get('format_version'))}; expected {FORMAT_VERSION}"
    for key, own in _physics().items():
        found = content.get(key)
        if key == "hardware" and isinstance(found, dict):
            # An accelerator that came after the bundle changes nothing for those that it has, nor does one
            # that somebody described in a file of his own: whoever asks for it must have that file.
            own = {name: figures for name, figures in own.items() if name in found}
            found = {name: figures for name, figures in found.items() if name in own}
        if found != own:
            return f"{key}: {_difference(found, own)}"
    formulas = {feature.name: feature.formula for feature in features.feature_set(FEATURE_SET).features}
    told = content.get("features")
    for entry in told if isinstance(told, list) else []:
        name, formula = (entry.get("name"), entry.get("formula")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or name not in formulas:
            return f"unknown feature {str(name)[:80]!r}; expected some of {', '.join(formulas)}"
        if formula != formulas[name]:
            return f"features: {name}: {shown(formula, 120)}; expected {formulas[name]}"
    return ""


def _difference(found: object, own: object) -> str:
    if isinstance(found, dict) and isinstance(own, dict):
        other = (
            key for key in found.keys() | own if (key in found, found.get(key)) != (key in own, own.get(key))
        )
        key = min(other)
        return f"{shown(key)}: {_difference(found.get(key), own.get(key))}"
    return f"{shown(found, 120)}; expected {shown(own, 120)}"


def restore_model(manifest: Manifest, name: str, booster: object, where: str) -> FittedResidual:
    """The fit that manifest and booster JSON describe.

    Raises InputError as models.restore does, for features in another order, unit or group than this
    version's, and for another number of trees.
    """
    content, model = manifest.model_dump(mode="json", exclude_unset=True), manifest.models[name]
    described = {
        "model": "xgboost_residual",
        "base": {"terms": content["terms"], "coefficients": content["models"][name]["coefficients"]},
        "booster": booster,
        "features": content["features"],
        "support": content["models"][name]["support"],
    }
    fitted = restore.from_description(described, where)
    if features.manifest(fitted.features, fitted.drop_groups) != content["features"]:
        raise InputError(f"{where}: the features' order, units or groups are not those of this version of h3")
    if fitted.boosted.count != model.trees:
        raise InputError(f"{where}: {fitted.boosted.count} trees; the manifest says {model.trees}")
    return fitted
