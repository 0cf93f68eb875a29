"""Zero-shot: step periods of a model that was never trained on, from its HuggingFace config.json alone.

    python -m h3.predict config=config.json tp=2 hardware=H100 batch=64 context=4096
    python -m h3.predict config=config.json tp=1,2 batch=1:256 bundle=dist/blis out=grid.parquet
    python -m h3.predict config=config.json hardware=FILE.yaml          # steps/hardware_file.py has its keys

Lists (1,2,4) and ranges (1:256, 1:256:8, both ends included) give a row for each combination.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from omegaconf import DictConfig
from pydantic import Field

from h3.bundle import Bundle, zero_shot
from h3.bundle.uncertainty import LEVEL
from h3.common import cli, files
from h3.common.config import Strict, from_hydra
from h3.common.errors import InputError
from h3.steps import batch, catalog, hardware_file, kernels, sampling
from h3.steps.batch import Deployment
from h3.steps.hf_config import Served
from h3.tracking.find import find

NUMBERS = ("tp", "batch", "context", "prefill")
MAX_ROWS = 1_000_000


class PredictConfig(Strict):
    """conf/predict.yaml, a question: model configuration, deployment, and the steps to predict."""

    config: str | None = None
    tp: int | str = 1
    hardware: str = "H100"
    batch: int | str = 64
    context: int | str = 4096
    prefill: int | str = 0
    sampling: str = "auto"
    dtype: str = "auto"
    kv_cache_dtype: str = "auto"
    level: float = Field(100 * LEVEL, gt=0, lt=100)
    bundle: str = "champion"
    out: str | None = None


def predict(config: PredictConfig, bundle: Bundle) -> pd.DataFrame:
    """A row each step: tp, batch, context, prefill, and the columns of zero_shot.answer.

    Raises InputError for a config.json, hardware, degree or range that cannot be used.
    """
    if config.config is None:
        raise InputError("config is missing; expected config=PATH of a HuggingFace config.json")
    arch = catalog.read_hf_config(config.config, Served(config.dtype, config.kv_cache_dtype))
    axes = {name: whole_numbers(getattr(config, name), name) for name in NUMBERS}
    rows = int(np.prod([len(values) for values in axes.values()]))
    if rows > MAX_ROWS:
        raise InputError(f"{rows} combinations; expected at most {MAX_ROWS}")
    truncated = sampling.served(config.sampling, Path(config.config)).truncated
    hardware = hardware_file.named(config.hardware)
    level = config.level / 100
    frames = []
    for tp in axes["tp"]:
        levels = [[tp], *(axes[name] for name in NUMBERS[1:])]
        grid = pd.MultiIndex.from_product(levels, names=NUMBERS).to_frame(index=False)
        decodes, context, prefill = (grid[name].to_numpy() for name in NUMBERS[1:])
        composition = batch.uniform(decodes, context, prefill, window_tokens=arch.window_tokens)
        deployment = Deployment(arch, int(tp), hardware, truncated)
        table = batch.with_deployment(composition, deployment)
        frames.append(pd.concat([grid, zero_shot.answer(bundle, table, level)], axis=1))
    return pd.concat(frames, ignore_index=True)


def whole_numbers(text: int | str, name: str) -> list[int]:
    """The numbers that 64, "1,2,4", "1:256" or "1:256:8" stands for; raises InputError naming the option
    otherwise.

    >>> whole_numbers("1,4:10:3", "batch")
    [1, 4, 7, 10]
    """
    low = 1 if name == "tp" else 0
    found: list[int] = []
    for part in str(text).split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?::(\d{1,9})(?::(\d{1,9}))?)?\s*", part)
        first, last, step = (
            (int(value) if value else None for value in match.groups()) if match else (None,) * 3
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


def main(cfg: DictConfig) -> None:
    """One Hydra job."""
    config = from_hydra(cfg, PredictConfig)
    read = find(config.bundle)
    answer = predict(config, read)
    print(zero_shot.report(answer, read, config.level / 100))
    if told := kernels.told(catalog.hardware(answer["hardware"].iloc[0])):
        print(told)
    print(sampling.served(config.sampling, Path(str(config.config))).told())
    if config.out:
        files.write(Path(config.out), lambda scratch: answer.to_parquet(scratch, index=False))
        print(f"{len(answer)} rows: {config.out}")


if __name__ == "__main__":
    cli.run(main, "predict", sys.argv[1:], literal=(*NUMBERS, "bundle"), renamed={"model": "bundle"})
