"""A model as files for BLIS: the bundle, its verification, a service, or coefficients for an unmodified BLIS.

    python -m h3.export bundle=champion out=dist/blis
    python -m h3.export verify=dist/blis
    python -m h3.export format=service out=dist/service              # for `mlflow models serve -m`
    python -m h3.export format=trained_physics bundle=dist/blis model_config=config.json tp=2

A bundle is named by its folder, by alias or version in the registry, or by the id of a fold's run.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from omegaconf import DictConfig
from pydantic import Field

from h3 import bundle
from h3.bundle import distil, standing
from h3.bundle.bundle import Report
from h3.bundle.uncertainty import Evidence
from h3.common import cli, files
from h3.common.config import Strict, TrackingConfig, from_hydra
from h3.common.errors import InputError
from h3.latency.shipped_overheads import OverheadsConfig, resolve
from h3.steps import catalog, hardware_file, sampling, schema
from h3.steps.batch import Deployment
from h3.tracking.find import find, folder, from_run, is_run

NO_FOLDS = "one fold's fit: no other folds whose errors could tell"


class ExportConfig(Strict):
    """conf/export.yaml: what to export, or what to verify."""

    bundle: str = "champion"
    out: str = "dist/blis"
    verify: str | None = None
    format: Literal["bundle", "service", "trained_physics"] = "bundle"
    model_config_path: str | None = Field(None, alias="model_config")
    steps: str | None = None
    tp: int = Field(1, ge=1)
    hardware: str = "H100"
    sampling: str = "auto"
    overheads: OverheadsConfig = OverheadsConfig()
    tracking: TrackingConfig = TrackingConfig()


def export(config: ExportConfig) -> Report:
    """Write the bundle to `out` and verify it."""
    if not is_run(config.bundle):
        return bundle.copy_verified(folder(config.bundle, config.tracking), config.out)
    run = from_run(config.bundle, config.tracking)
    overheads, origin = resolve(config.overheads, run.source, run.held_out)
    provenance = {**run.provenance, "overheads": origin}
    bundle.write(
        {"dense": run.fitted, "moe": run.fitted}, config.out, provenance, overheads, Evidence.none(NO_FOLDS)
    )
    return bundle.verify(config.out)


def serve(config: ExportConfig) -> str:
    """Write the bundle as a model that MLflow serves; how to serve it, in words."""
    from h3.tracking import service  # imports MLflow

    service.write(folder(config.bundle, config.tracking), Path(config.out))
    return f"mlflow models serve -m {config.out} --env-manager local -h 127.0.0.1 -p 5001"


def trained_physics(config: ExportConfig) -> str:
    """The bundle distilled into BLIS's coefficients, as YAML, for one deployment or for the four known
    models; with the error on `steps`, if given.
    """
    read, hardware = find(config.bundle, config.tracking), hardware_file.named(config.hardware)
    if config.model_config_path is None:
        deployments = distil.known_deployments(hardware)
    else:
        arch = catalog.read_hf_config(config.model_config_path)
        truncated = sampling.served(config.sampling, Path(config.model_config_path)).truncated
        deployments = {f"tp{config.tp}": Deployment(arch, config.tp, hardware, truncated)}
    distilled = distil.distil(read.predict, deployments, read.overheads)
    if config.steps is None:
        return distil.as_yaml(distilled)
    table, _ = schema.read(Path(config.steps))
    measured = distil.mape_on_steps(distilled.beta, read.predict, table, deployments)
    if measured.empty:
        there = ", ".join(deployments)
        raise InputError(f"steps={config.steps}: holds no step of {there}; expected a step table with some")
    return distil.as_yaml(distilled, measured)


def main(cfg: DictConfig) -> None:
    """One Hydra job."""
    config = from_hydra(cfg, ExportConfig)
    if config.verify is not None:
        print(bundle.describe(config.verify, bundle.verify(config.verify)))
    elif config.format == "service":
        print(serve(config))
    elif config.format == "bundle":
        report = export(config)
        print(bundle.describe(config.out, report))
        if not report.not_evaluated:
            print(standing.told(bundle.read(config.out)))
    else:
        text = trained_physics(config)
        print(text, end="")
        if config.out.endswith((".yaml", ".yml")):
            files.write_text(Path(config.out), text)


if __name__ == "__main__":
    cli.run(main, "export", sys.argv[1:], literal=("bundle",), renamed={"model": "bundle"})
