"""A model as files for BLIS: the bundle, its verification, a service, or coefficients for an unmodified BLIS.

    python -m h3.export bundle=champion out=dist/blis
    python -m h3.export verify=dist/blis
    python -m h3.export format=service out=dist/service              # for `mlflow models serve -m`
    python -m h3.export format=trained_physics model_config=[a/config.json,b/config.json] tp=[1,2]
    python -m h3.export verify=dist/trained_physics/a-tp1-H100.yaml model_config=a/config.json

A bundle is named by its folder, by alias or version in the registry, or by the id of a fold's run.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import DictConfig
from pydantic import Field

from h3 import bundle
from h3.bundle import coefficients, distil, standing
from h3.bundle.bundle import Report
from h3.bundle.coefficients import FittedFor
from h3.bundle.uncertainty import Evidence
from h3.common import cli
from h3.common.config import Strict, TrackingConfig, from_hydra
from h3.common.errors import InputError
from h3.latency.shipped_overheads import OverheadsConfig, resolve
from h3.steps import catalog, hardware_file, sampling, schema
from h3.steps.batch import Deployment
from h3.tracking.find import find, folder, from_run, is_run, overtaken

OUT = {"bundle": "dist/blis", "service": "dist/service", "trained_physics": "dist/trained_physics"}
Degree = Annotated[int, Field(ge=1)]
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


def trained_physics(config: ExportConfig) -> Iterator[tuple[Path, str]]:
    """The bundle distilled into BLIS's coefficients: a YAML file and its text for each deployment, with the
    error on `steps`, if given.
    """
    read, table = find(config.bundle, config.tracking), None
    if config.steps is not None:
        table, _ = schema.read(Path(config.steps))
    chosen = deployments(config)
    for name, (model, deployment) in chosen.items():
        distilled = distil.distil(read.predict, deployment, read.overheads)
        measured = None
        if table is not None:
            measured = distil.mape_on_steps(distilled.beta, read.predict, table, deployment)
            if measured is None:
                raise InputError(
                    f"steps={config.steps}: holds no step of {name}; expected a step table with some"
                )
        fitted_for = FittedFor.of(model, deployment, read.digest)
        text = coefficients.as_yaml(distilled, fitted_for, measured)
        yield coefficients.write(_file(config.target, name, len(chosen)), text), text


def _lost(text: str) -> str:
    """The line of a file that says what was lost."""
    return text.splitlines()[2].removeprefix("# ")


def _file(out: str, name: str, count: int) -> Path:
    """The file of one deployment: `out` itself where it is the only one and named as such, else in `out`."""
    if not out.endswith(coefficients.ENDINGS):
        return Path(out) / f"{name}.yaml"
    if count > 1:
        raise InputError(f"out={out}: one file for {count} deployments; expected a folder")
    return Path(out)


def deployments(config: ExportConfig) -> dict[str, tuple[str, Deployment]]:
    """File name → name of the model and deployment: of each model_config, else of the four known models.

    Raises InputError for lists that do not pair up, and for one deployment asked for twice.
    """
    paths = _several(config.model_config_path)
    if not paths:
        known = distil.known_deployments(hardware_file.named(_several(config.hardware)[0]))
        return {_file_name(name, each): (name, each) for name, each in known.items()}
    asked = {"model_config": paths, "tp": _several(config.tp), "hardware": _several(config.hardware)}
    count = max(map(len, asked.values()))
    for key, values in asked.items():
        if len(values) not in (1, count):
            raise InputError(
                f"{key}: {len(values)} values; expected 1 or {count}, as the longest of"
                f" {', '.join(asked)} has"
            )
    found: dict[str, tuple[str, Deployment]] = {}
    columns = [values * (count // len(values)) for values in asked.values()]
    for path, tp, hardware in zip(*columns, strict=True):
        model, each = _deployment(path, tp, hardware, config.sampling)
        name = _file_name(model, each)
        if name in found:
            raise InputError(f"model_config: {name} twice; expected each deployment once")
        found[name] = (model, each)
    return found


def _several(value: object) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, tuple | list) else [value]


def _deployment(path: str, tp: int, hardware: str, asked: str) -> tuple[str, Deployment]:
    place = Path(path)
    named = place.resolve().parent.name if place.stem == "config" else place.stem
    truncated = sampling.served(asked, place).truncated
    arch = catalog.read_hf_config(path)
    return catalog.model_name(named or "model"), Deployment(
        arch, tp, hardware_file.named(hardware), truncated
    )


def _file_name(model: str, deployment: Deployment) -> str:
    name = f"{model}-tp{deployment.tensor_parallelism}-{deployment.hardware}"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:120].lstrip(".-")


def verify(config: ExportConfig, path: str) -> str:
    """What verification of a bundle's folder or of a file of coefficients found, in words; in a second line
    that the folder is the champion's no more.
    """
    if not path.endswith(coefficients.ENDINGS):
        report = bundle.verify(path)
        other = overtaken(path, report.digest, config.tracking)
        return bundle.describe(path, report) + (f"\n{other}" if other else "")
    if config.model_config_path is None:
        return f"{path}: fitted for {coefficients.read(Path(path)).told()}"
    (model, deployment), *others = deployments(config).values()
    if others:
        raise InputError("verify: several deployments; expected one")
    return coefficients.check(Path(path), model, deployment)


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
        written = list(trained_physics(config))
        for path, text in written:
            print(text if len(written) == 1 else f"{path}: {_lost(text)}\n", end="")
        print(f"written: {', '.join(str(path) for path, _ in written)}", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main, "export", sys.argv[1:], literal=("bundle",), renamed={"model": "bundle"})
