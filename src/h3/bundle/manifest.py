"""The manifest of a bundle: everything but trees that an evaluator needs, as JSON.

    content = make({"dense": fitted, "moe": fitted}, provenance, overheads)     # without digests of files
    check(content, "manifest.json")                                             # or an InputError

The manifest carries physics.py's constants and the hardware table, so that another program computes the same
features; h3 itself computes with its own and refuses a manifest that has others.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import xgboost as xgb

from h3.bundle import untrusted_json as bundle_json
from h3.common.errors import InputError
from h3.models import restore
from h3.models.xgboost_residual import FittedResidual
from h3.steps import catalog, features, physics

FORMAT, FORMAT_VERSION = "h3-bundle", 1
FEATURE_SET = "scale_free"
ROUTES = ("dense", "moe")
ROUTING_RULE = "moe iff num_experts >= 2"
BOOSTER_FILES = {"dense": "booster.json", "moe": "booster_moe.json"}
SCHEMA = Path(__file__).with_name("manifest.schema.json")
FORMULA = (
    "period_us = sum_i coefficients[i] * terms[i] * exp(trust(x) * sum(leaves(x))); x: features as float32;"
    " left iff x < threshold"
)
TRUST = (
    "1 inside the range [low, high] that each feature had in training, falling linearly to 0 one range width"
    " (at least 2^-126) outside, the least over all features; 0 for a deployment that `deployments` does not"
    " list (absent: any); at 0 the base answers alone"
)


@dataclass(frozen=True)
class Overheads:
    """What a request waits beside its steps, us: arrival to queue, last token to response, and a share of
    every token.

    The first two are means over the study's request logs; steps run back to back and their period holds all
    work of a token, so the last is 0.
    """

    queueing_us: float = 9300.0
    post_decode_us: float = 1850.0
    output_token_us: float = 0.0


def make(fitted_by_route: dict[str, FittedResidual], provenance: dict, overheads: Overheads) -> dict:
    """The manifest of fits by route ("dense", "moe"; the same object twice: one booster for all), `files`
    left empty.

    `provenance` has at least data_digest, commit and folds (a list of rows). Raises InputError for fits that
    cannot be exported: another predictor, features that an engine cannot see before the step, or two feature
    lists.
    """
    names = model_names(fitted_by_route)
    models = {name: _model(fitted_by_route[route], route) for route, name in names.items()}
    lists = {json.dumps(features.manifest(fit.features, fit.drop_groups)) for fit in fitted_by_route.values()}
    if len(lists) != 1:
        raise InputError("bundle: the dense and the MoE fit have different features; expected the same list")
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "target": {
            "name": "period_us",
            "unit": "us",
            "meaning": "start of a step to the start of the next one",
        },
        "formula": FORMULA,
        "features": json.loads(lists.pop()),
        "terms": list(physics.TERMS),
        "constants": constants(),
        "hardware": hardware(),
        "hardware_aliases": dict(sorted(catalog.HARDWARE_ALIASES.items())),
        "routing": {"rule": ROUTING_RULE, **{route: names.get(route, names["dense"]) for route in ROUTES}},
        "models": models,
        "outside_support": {"rule": "linear_trust", "meaning": TRUST},
        "overheads": asdict(overheads),
        "xgboost_version": xgb.__version__,
        "files": {},
        "provenance": json.loads(json.dumps(provenance, default=str)),
    }


def model_names(fitted_by_route: dict[str, FittedResidual]) -> dict[str, str]:
    """Route → model name, for the routes that bring a model of their own."""
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


def _model(fitted: FittedResidual, route: str) -> dict:
    return {
        "booster": BOOSTER_FILES[route],
        "trees": fitted.booster.num_boosted_rounds(),
        "coefficients": [float(value) for value in fitted.base.coefficients],
        "support": fitted.support.describe(),
    }


def constants() -> dict:
    """The constants of physics.py that features and base are computed with."""
    return {
        "activation_bytes": physics.ACTIVATION_BYTES,
        "kv_bytes": physics.KV_BYTES,
        "attention_tile_queries": physics.ATTENTION_TILE_QUERIES,
        "gemm_efficiency": physics.GEMM_EFFICIENCY,
        "attention_efficiency": physics.ATTENTION_EFFICIENCY,
        "one_shot_latency_us": physics.ONE_SHOT_LATENCY_US,
        "one_shot_efficiency": physics.ONE_SHOT_EFFICIENCY,
        "two_shot_latency_us": physics.TWO_SHOT_LATENCY_US,
        "two_shot_rank_us": physics.TWO_SHOT_RANK_US,
        "two_shot_efficiency": physics.TWO_SHOT_EFFICIENCY,
        "two_shot_few_ranks": physics.TWO_SHOT_FEW_RANKS,
        "two_shot_bytes": list(physics.TWO_SHOT_BYTES),
    }


def hardware() -> dict[str, dict]:
    """The hardware table by name."""
    return {
        name: {key: value for key, value in asdict(entry).items() if key != "name"}
        for name, entry in catalog.HARDWARE.items()
    }


def check(content: object, where: str) -> dict:
    """The manifest, if it is one that this version of h3 can evaluate; raises InputError that says what is
    not.
    """
    if (
        isinstance(content, dict)
        and content.get("format") == FORMAT
        and content.get("format_version") != FORMAT_VERSION
    ):
        raise InputError(
            f"{where}: format version {content.get('format_version')!r}; expected {FORMAT_VERSION}"
        )
    bundle_json.check(content, json.loads(SCHEMA.read_text()), where)
    for key, own in (("terms", list(physics.TERMS)), ("constants", constants()), ("hardware", hardware())):
        if content[key] != own:
            raise InputError(
                f"{where}: {key}: {_difference(content[key], own)}; this version of h3 computes with other"
                " physics"
            )
    _check_references(content, where)
    return content


def _check_references(content: dict, where: str) -> None:
    for route in ROUTES:
        if content["routing"][route] not in content["models"]:
            raise InputError(
                f"{where}: routing.{route}={content['routing'][route]!r}; expected one of"
                f" {', '.join(content['models'])}"
            )
    for name, model in content["models"].items():
        if model["booster"] not in content["files"]:
            raise InputError(f"{where}: models.{name}.booster={model['booster']!r} is not among files")
        if len(model["coefficients"]) != len(content["terms"]):
            raise InputError(
                f"{where}: models.{name} has {len(model['coefficients'])} coefficients; expected"
                f" {len(content['terms'])}"
            )
    for alias, name in content["hardware_aliases"].items():
        if name not in content["hardware"]:
            raise InputError(
                f"{where}: hardware_aliases.{alias}={name!r}; expected one of"
                f" {', '.join(content['hardware'])}"
            )


def _difference(found: object, own: object) -> str:
    if isinstance(found, dict) and isinstance(own, dict):
        key = next(key for key in sorted({*found, *own}) if found.get(key) != own.get(key))
        return f"{key}: {_difference(found.get(key), own.get(key))}"
    return f"{str(found)[:120]}; expected {str(own)[:120]}"


def restore_model(content: dict, name: str, booster: dict, where: str) -> FittedResidual:
    """The fit that manifest and booster JSON describe; raises InputError as models.restore does, or for
    another number of trees.
    """
    model = content["models"][name]
    fitted = restore.from_description(
        {
            "model": "xgboost_residual",
            "base": {"terms": content["terms"], "coefficients": model["coefficients"]},
            "booster": booster,
            "features": content["features"],
            "support": model["support"],
        },
        where,
    )
    if features.manifest(fitted.features, fitted.drop_groups) != content["features"]:
        raise InputError(f"{where}: the features' formulas are not those of this version of h3")
    trees = fitted.booster.num_boosted_rounds()
    if trees != model["trees"]:
        raise InputError(f"{where}: {trees} trees; the manifest says {model['trees']}")
    return fitted
