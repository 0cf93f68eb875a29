"""The rows of the table: go/blis/testdata/models.json, models where BLIS has them, then deployments.

places = listed()
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GO = Path(__file__).parents[2] / "go"
LIST = GO / "blis" / "testdata" / "models.json"
PUBLISHED = GO / "h3bundle" / "testdata" / "architectures.json"

Config = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """A row of the table: a model on GPUs as BLIS's hardware table has them. `refused`: words that the reason
    must have; "" where an answer is expected.
    """

    model: str
    config: Config
    gpu: dict[str, Any]
    tp: int
    dp: int = 1
    expert_parallel: bool = False
    refused: str = ""
    note: str = ""

    @property
    def degrees(self) -> str:
        """TP, and what there is beside it."""
        more = [f"DP {self.dp}"] * (self.dp > 1) + ["EP"] * self.expert_parallel
        return ", ".join([str(self.tp), *more])

    @property
    def by_adapter_alone(self) -> bool:
        """Whether only BLIS's adapter knows what is asked."""
        return self.dp > 1 or self.expert_parallel


def listed() -> list[Place]:
    """The rows of models.json: every model where BLIS has it, then single deployments."""
    found = json.loads(LIST.read_text())
    gpus = {gpu["Name"]: gpu for gpu in found["gpus"]}
    models = {model["name"]: model for model in found["models"]}
    configs = config_of(found["models"])
    places = [
        Place(name, configs[name], gpus[gpu], tp, refused=_refused(model), note=model.get("note", ""))
        for name, model in models.items()
        for gpu, degrees in model["on"].items()
        for tp in degrees
    ]
    return places + [
        Place(
            one["model"],
            configs[one["model"]],
            gpus[one["gpu"]],
            one["tp"],
            one.get("dp", 1),
            one.get("expert_parallel", False),
            _refused(one),
            one.get("note", ""),
        )
        for one in found["deployments"]
    ]


def _refused(entry: dict[str, Any]) -> str:
    expected = entry["expected"]
    return "" if expected == "answered" else str(expected["refused"])


def config_of(models: Iterable[dict[str, Any]]) -> dict[str, Config]:
    """Model → its config.json: its own, or another's with changes put over it."""
    known = {case["name"]: case["config"] for case in json.loads(PUBLISHED.read_text())["cases"]}
    found: dict[str, Config] = {}
    for model in models:
        same = model.get("same_as")
        base = found.get(same) or known[same] if same else model["config"]
        found[model["name"]] = base | model.get("changes", {})
    return found
