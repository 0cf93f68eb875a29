"""The deployments that coefficients are asked for, each with the name of its file.

    asked = Asked(("a/config.json", "b/config.json"), tp=(1, 2), hardware=("H100",))
    deployments(asked)                    # {"a-tp1-H100": ("a", Deployment(...)), "b-tp2-H100": ...}

Lists pair up; one value stands for all. Without a config.json they are the four known models, on the tensor
parallelism that the study ran them with.
"""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from h3.bundle.distil import known_deployments
from h3.common.errors import InputError
from h3.steps import catalog, hardware_file, sampling
from h3.steps.batch import Deployment

MOST_OF_NAME = 80  # characters of a model's name that a file's has


@dataclass(frozen=True)
class Asked:
    """Paths of config.json, and what they are deployed on; `sampling`: of all, as in sampling.served."""

    model_config: tuple[str, ...] = ()
    tp: tuple[int, ...] = (1,)
    hardware: tuple[str, ...] = ("H100",)
    sampling: str = "auto"


def deployments(asked: Asked) -> dict[str, tuple[str, Deployment]]:
    """File name without its ending → name of the model and deployment.

    Raises InputError for lists that do not pair up, for one deployment asked for twice, and for options that
    say nothing without a config.json.
    """
    found: dict[str, tuple[str, Deployment]] = {}
    for model, each in _of_configs(asked) if asked.model_config else _known(asked):
        if (model, each) in found.values():
            raise InputError(f"model_config: {file_name(model, each)} twice; expected each deployment once")
        found[_free_name(file_name(model, each), found)] = (model, each)
    return found


def _free_name(name: str, taken: Container[str]) -> str:
    """The name, with a number where models of other sizes are called alike."""
    numbered = (f"{name}-{number}" for number in count(2))
    return next(each for each in chain([name], numbered) if each not in taken)


def _known(asked: Asked) -> list[tuple[str, Deployment]]:
    if asked.tp != Asked.tp or asked.sampling != Asked.sampling or len(asked.hardware) > 1:
        raise InputError(
            "model_config is missing; expected it beside tp, sampling or several hardware: the known models"
            " have their own"
        )
    return list(known_deployments(hardware_file.named(asked.hardware[0])).items())


def _of_configs(asked: Asked) -> list[tuple[str, Deployment]]:
    lists: dict[str, tuple[str, ...] | tuple[int, ...]] = {
        "model_config": asked.model_config,
        "tp": asked.tp,
        "hardware": asked.hardware,
    }
    longest = max(map(len, lists.values()))
    for key, values in lists.items():
        if len(values) not in (1, longest):
            raise InputError(
                f"{key}: {len(values)} values; expected 1 or {longest}, as the longest of"
                f" {', '.join(lists)} has"
            )
    columns = [values * (longest // len(values)) for values in lists.values()]
    return [
        _deployment(str(path), int(tp), str(hardware), asked.sampling)
        for path, tp, hardware in zip(*columns, strict=True)
    ]


def _deployment(path: str, tp: int, hardware: str, word: str) -> tuple[str, Deployment]:
    place = Path(path)
    named = place.resolve().parent.name if place.stem == "config" else place.stem
    truncated = sampling.served(word, place).truncated
    arch = catalog.read_hf_config(path)
    on = hardware_file.named(hardware)
    return catalog.model_name(named or "model"), Deployment(arch, tp, on, truncated)


def file_name(model: str, deployment: Deployment) -> str:
    """Name of a deployment's file, without its ending: letters, digits, dots and dashes.

    >>> file_name("a model/7b", known_deployments()["llama-2-7b"])
    'a-model-7b-tp1-H100'
    """
    safe = _safe(model)[:MOST_OF_NAME].lstrip(".-") or "model"
    return f"{safe}-tp{deployment.tensor_parallelism}-{_safe(deployment.hardware)}"


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)
