"""Zero-shot: step periods of a model that was never trained on, from its HuggingFace config.json alone.

    python -m h3.predict config=config.json tp=2 hardware=H100 batch=64 context=4096
    python -m h3.predict config=config.json tp=1,2 batch=1:256 context=512,4096 model=dist/blis out=grid.parquet

Lists (1,2,4) and ranges (1:256, 1:256:8, both ends included) give a row for each combination.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from omegaconf import DictConfig

from h3.bundle import Bundle
from h3.common import cli
from h3.common.config import Strict, from_hydra
from h3.common.errors import InputError
from h3.steps import batch, catalog
from h3.steps.batch import Deployment
from h3.tracking import find as bundle_find
from h3.tracking.find import ModelName

NUMBERS = ("tp", "batch", "context", "prefill")
MAX_ROWS = 1_000_000
SHOWN_ROWS = 20
DEPLOYMENT = "deployment"


class PredictConfig(Strict):
    """A question: model configuration, deployment, and the steps to predict."""

    config: str | None = None
    tp: int | str = 1
    hardware: str = "H100"
    batch: int | str = 64
    context: int | str = 4096
    prefill: int | str = 0
    model: ModelName = ModelName()
    out: str | None = None


def predict(config: PredictConfig, bundle: Bundle) -> pd.DataFrame:
    """A row each step: tp, hardware, batch, context, prefill, period_us, base_us, correction, trust, outside,
    `part_<term>` (us of the base) and features. `outside` names the features that lie outside the range of
    training, and "deployment" where the trees serve the training deployments only and this is none of them.

    Raises InputError for a config.json, hardware, degree or range that cannot be used.
    """
    if config.config is None:
        raise InputError("config is missing; expected config=PATH of a HuggingFace config.json")
    arch = catalog.read_hf_config(config.config)
    axes = {name: whole_numbers(getattr(config, name), name) for name in NUMBERS}
    rows = int(np.prod([len(values) for values in axes.values()]))
    if rows > MAX_ROWS:
        raise InputError(f"{rows} combinations; expected at most {MAX_ROWS}")
    frames = []
    for tp in axes["tp"]:
        grid = pd.MultiIndex.from_product(
            [[tp], *(axes[name] for name in NUMBERS[1:])], names=NUMBERS
        ).to_frame(index=False)
        composition = batch.uniform(grid["batch"], grid["context"], grid["prefill"])
        table = batch.with_deployment(composition, Deployment(arch, int(tp), config.hardware))
        frames.append(pd.concat([grid, _answer(bundle, table)], axis=1))
    return pd.concat(frames, ignore_index=True)


def _answer(bundle: Bundle, table: pd.DataFrame) -> pd.DataFrame:
    numbers = bundle.explain(table)
    route = "moe" if table["num_experts"].iloc[0] >= 2 else "dense"
    support = bundle.fitted_by_route()[route].support
    names = [entry["name"] for entry in bundle.manifest["features"]]
    matrix = numbers[names].to_numpy()
    off = np.column_stack([(matrix < support.low) | (matrix > support.high), ~support.serves(table)])
    return (
        pd.DataFrame(
            {
                "hardware": table["hardware"],
                "period_us": np.maximum(1.0, numbers["us"]),
                "base_us": numbers["base_us"],
                "correction": numbers["us"] / numbers["base_us"],
                "trust": numbers["trust"],
                "outside": [", ".join(np.array([*names, DEPLOYMENT])[row]) for row in off],
            }
        )
        .join(numbers.filter(like="part_"))
        .join(numbers[names])
    )


def whole_numbers(text: int | str, name: str) -> list[int]:
    """The numbers that 64, "1,2,4", "1:256" or "1:256:8" stands for; raises InputError naming the option
    otherwise.
    """
    low = 1 if name == "tp" else 0
    found: list[int] = []
    for part in str(text).split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?::(\d{1,9})(?::(\d{1,9}))?)?\s*", part)
        first, last, step = (
            (int(value) if value else None for value in match.groups()) if match else (None, None, None)
        )
        if first is None or first < low or (last is not None and last < first) or step == 0:
            raise InputError(
                f"{name}={text}: {part!r}; expected numbers from {low} on, as 64 or 1,2,4 or 1:256 or 1:256:8"
            )
        values = range(first, (first if last is None else last) + 1, step or 1)
        if len(found) + len(values) > MAX_ROWS:
            raise InputError(f"{name}={text}: more than {MAX_ROWS} numbers")
        found += values
    return found


def report(answer: pd.DataFrame, bundle: Bundle) -> str:
    """A short table, and how far outside the tested range the question is."""
    shown = answer[
        ["tp", "batch", "context", "prefill", "period_us", "base_us", "correction", "trust", "outside"]
    ].head(SHOWN_ROWS)
    lines = [
        shown.to_string(
            index=False, float_format=lambda value: f"{value:.4g}" if value < 100 else f"{value:.1f}"
        )
    ]
    if len(answer) > SHOWN_ROWS:
        lines.append(f"... {len(answer) - SHOWN_ROWS} more rows")
    outside = int((answer["outside"] != "").sum())
    if not outside:
        return "\n".join([*lines, "every row lies inside the range of the training steps"])
    lines.append(
        f"{outside} of {len(answer)} rows lie outside the range of the training steps; trust"
        f" {answer['trust'].min():.2f} at least"
    )
    if answer["outside"].str.contains(DEPLOYMENT).any():
        lines.append(
            "  deployment: another architecture, TP degree or hardware than in training: the physical base"
            " answers alone"
        )
    return "\n".join(lines + [f"  {line}" for line in _ranges(answer, bundle)])


def _ranges(answer: pd.DataFrame, bundle: Bundle) -> list[str]:
    """Each feature that is outside somewhere: its range here and in training."""
    named = {name for text in answer["outside"].unique() for name in text.split(", ") if name}
    support = bundle.fitted_by_route()["moe" if answer["part_moe_layers"].max() > 0 else "dense"].support
    return [
        f"{entry['name']}: {answer[entry['name']].min():.4g} to {answer[entry['name']].max():.4g}, "
        f"training {support.low[number]:.4g} to {support.high[number]:.4g}"
        for number, entry in enumerate(bundle.manifest["features"])
        if entry["name"] in named
    ]


def write(answer: pd.DataFrame, path: Path) -> None:
    """Write the answer as Parquet, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    answer.to_parquet(scratch, index=False)
    os.replace(scratch, path)


def quote_lists(arguments: list[str]) -> list[str]:
    """Command-line arguments with lists and ranges quoted: Hydra takes `tp=1,2` for a sweep otherwise."""
    return [re.sub(rf"^({'|'.join(NUMBERS)})=([^'\"].*)$", r"\1='\2'", argument) for argument in arguments]


def main(cfg: DictConfig) -> None:
    """One Hydra job."""
    config = from_hydra(cfg, PredictConfig)
    bundle = bundle_find.find(str(config.model.name))
    answer = predict(config, bundle)
    print(report(answer, bundle))
    if config.out:
        write(answer, Path(config.out))
        print(f"{len(answer)} rows: {config.out}")


if __name__ == "__main__":
    sys.argv[1:] = bundle_find.name_model(quote_lists(sys.argv[1:]))
    cli.run(main, "predict")
