"""A model as files for BLIS: the bundle, its verification, a service, or coefficients for an unmodified BLIS.

    python -m h3.export bundle=champion out=dist/blis
    python -m h3.export verify=dist/blis
    python -m h3.export format=service out=dist/service              # for `mlflow models serve -m`
    python -m h3.export format=trained_physics model_config=[a/config.json,b/config.json] tp=[1,2]
    python -m h3.export verify=dist/trained_physics/a-tp1-H100.yaml model_config=a/config.json

A bundle is named by its folder, by alias or version in the registry, or by the id of a fold's run.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import pandas as pd
from omegaconf import DictConfig
from pydantic import Field

from h3 import bundle
from h3.bundle import coefficients, distil, standing
from h3.bundle.bundle import Report
from h3.bundle.coefficients import MOST_TOLD, FittedFor
from h3.bundle.deployments import Asked, deployments
from h3.bundle.json_file import shown
from h3.bundle.uncertainty import Evidence
from h3.common import cli
from h3.common.config import Strict, TrackingConfig, from_hydra
from h3.common.errors import InputError
from h3.latency.shipped_overheads import OverheadsConfig, resolve
from h3.steps import schema
from h3.tracking.find import find, folder, from_run, is_run, overtaken

OUT = {"bundle": "dist/blis", "service": "dist/service", "trained_physics": "dist/trained_physics"}
Degree = Annotated[int, Field(ge=1)]
T = TypeVar("T", str, int)
NO_FOLDS = "one fold's fit: no other folds whose errors could tell"


class ExportConfig(Strict):
    """conf/export.yaml: what to export, or what to verify."""

    bundle: str = "champion"
    out: str | None = None
    verify: str | None = None
    format: Literal["bundle", "service", "trained_physics"] = "bundle"
    model_config_path: str | tuple[str, ...] | None = Field(None, alias="model_config")
    steps: str | None = None
    tp: Degree | Annotated[tuple[Degree, ...], Field(min_length=1)] = 1
    hardware: str | Annotated[tuple[str, ...], Field(min_length=1)] = "H100"
    sampling: str = "auto"
    overheads: OverheadsConfig = OverheadsConfig()
    tracking: TrackingConfig = TrackingConfig()

    @property
    def target(self) -> str:
        """Where it is written: `out`, else the format's folder."""
        return self.out or OUT[self.format]


def export(config: ExportConfig) -> Report:
    """Write the bundle to `out` and verify it."""
    if not is_run(config.bundle):
        return bundle.copy_verified(folder(config.bundle, config.tracking), config.target)
    run = from_run(config.bundle, config.tracking)
    overheads, origin = resolve(config.overheads, run.source, run.held_out)
    provenance = {**run.provenance, "overheads": origin}
    bundle.write(
        {"dense": run.fitted, "moe": run.fitted},
        config.target,
        provenance,
        overheads,
        Evidence.none(NO_FOLDS),
    )
    return bundle.verify(config.target)


def serve(config: ExportConfig) -> str:
    """Write the bundle as a model that MLflow serves; how to serve it, in words."""
    from h3.tracking import service  # imports MLflow

    service.write(folder(config.bundle, config.tracking), Path(config.target))
    return f"mlflow models serve -m {config.target} --env-manager local -h 127.0.0.1 -p 5001"


@dataclass(frozen=True)
class Written:
    """A file of coefficients: where, what, and what was lost in words."""

    path: Path
    text: str
    lost: str


def trained_physics(config: ExportConfig) -> list[Written]:
    """The bundle distilled into BLIS's coefficients: a YAML file for each deployment, with the error on
    `steps`, if given. All are written or, where one deployment cannot be distilled, none.
    """
    chosen = deployments(_asked(config))
    paths = _files(config.target, list(chosen))
    coefficients.check_free(paths)
    read = find(config.bundle, config.tracking)
    table = None if config.steps is None else schema.read(Path(config.steps))[0]
    made = []
    for path, (model, deployment) in zip(paths, chosen.values(), strict=True):
        distilled = distil.distil(read.predict, deployment, read.overheads)
        fitted_for = FittedFor.of(model, deployment, read.digest)
        measured = None
        if table is not None:
            measured = distil.mape_on_steps(distilled.beta, read.predict, table, deployment)
            if measured is None:
                raise InputError(f"steps={config.steps}: {_other_steps(table, fitted_for)}")
        text = coefficients.as_yaml(distilled, fitted_for, measured)
        made.append(Written(path, text, coefficients.lost_in_words(distilled)))
    coefficients.write({each.path: each.text for each in made})
    return made


def _other_steps(table: pd.DataFrame, asked: FittedFor) -> str:
    """That a step table has no step of a deployment, and of which it has some."""
    rows = table[["model", "tensor_parallelism", "hardware"]].drop_duplicates().head(MOST_TOLD)
    there = "; ".join(f"{shown(model)}, tp {tp}, {shown(name)}" for model, tp, name in rows.to_numpy())
    return f"holds no step of {asked.told()}; expected some beside those of {there or 'none'}"


def _files(out: str, names: list[str]) -> list[Path]:
    """The file of each name: in the folder `out`, or `out` itself where it is the only one and called so."""
    if not out.endswith(coefficients.ENDINGS):
        return [Path(out) / f"{name}.yaml" for name in names]
    if len(names) > 1:
        raise InputError(f"out={out}: one file for {len(names)} deployments; expected a folder")
    return [Path(out)]


def _asked(config: ExportConfig) -> Asked:
    return Asked(
        _several(config.model_config_path or ()),
        _several(config.tp),
        _several(config.hardware),
        config.sampling,
    )


def _several(value: T | tuple[T, ...]) -> tuple[T, ...]:
    return value if isinstance(value, tuple) else (value,)


def verify(config: ExportConfig, path: str) -> str:
    """What verification of a bundle's folder or of a file of coefficients found, in words; in a second line
    that the folder is the champion's no more.
    """
    if not path.endswith(coefficients.ENDINGS):
        report = bundle.verify(path)
        other = overtaken(path, report.digest, config.tracking)
        return bundle.describe(path, report) + (f"\n{other}" if other else "")
    asked = _asked(config)
    if asked == Asked():
        return f"{path}: fitted for {coefficients.read(Path(path)).told()}"
    chosen = list(deployments(asked).values())
    if len(chosen) > 1:
        raise InputError(f"verify={path}: {len(chosen)} deployments asked for; expected the one of the file")
    return coefficients.check(Path(path), *chosen[0])


def main(cfg: DictConfig) -> None:
    """One Hydra job."""
    config = from_hydra(cfg, ExportConfig)
    if config.verify is not None:
        print(verify(config, config.verify))
    elif config.format == "service":
        print(serve(config))
    elif config.format == "bundle":
        report = export(config)
        print(bundle.describe(config.target, report))
        if not report.not_evaluated:
            print(standing.told(bundle.read(config.target)))
    else:
        written = trained_physics(config)
        for each in written:
            print(each.text if len(written) == 1 else f"{each.path}: {each.lost}\n", end="")
        print(f"written: {', '.join(str(each.path) for each in written)}", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main, "export", sys.argv[1:], literal=("bundle",), renamed={"model": "bundle"})
