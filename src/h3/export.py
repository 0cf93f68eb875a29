"""A model as files for BLIS: the bundle, its verification, or coefficients for an unmodified BLIS.

python -m h3.export model=champion out=dist/blis python -m h3.export verify=dist/blis python -m h3.export
format=trained_physics model=dist/blis model_config=config.json tp=2 hardware=H100 steps=steps.parquet
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Literal

import pandas as pd
from omegaconf import DictConfig
from pydantic import Field

from h3 import bundle
from h3.bundle import distil
from h3.bundle import files as bundle_files
from h3.bundle.distil import Distilled
from h3.common import cli
from h3.common.config import Strict, TrackingConfig, from_hydra
from h3.common.errors import InputError
from h3.latency import shipped_overheads as bundle_overheads
from h3.latency.shipped_overheads import OverheadsConfig
from h3.steps import catalog, schema
from h3.steps.batch import Deployment
from h3.tracking import find as bundle_find
from h3.tracking.find import ModelName


class ExportConfig(Strict):
    """What to export, or what to verify."""

    model: ModelName = ModelName()
    out: str = "dist/blis"
    verify: str | None = None
    format: Literal["bundle", "trained_physics"] = "bundle"
    model_config_path: str | None = Field(None, alias="model_config")
    steps: str | None = None
    tp: int = Field(1, ge=1)
    hardware: str = "H100"
    overheads: OverheadsConfig = OverheadsConfig()
    tracking: TrackingConfig = TrackingConfig()


def export(config: ExportConfig) -> dict:
    """Write the bundle of the model to `out` and verify it; the report of `copy_verified`."""
    model = str(config.model.name)
    if not bundle_find.RUN_ID.fullmatch(model):
        return copy_verified(bundle_find.folder(model, config.tracking), config.out)
    run = bundle_find.from_run(model, config.tracking)
    overheads, origin = bundle_overheads.resolve(config.overheads, run.source, run.held_out)
    bundle.write(
        {"dense": run.fitted, "moe": run.fitted},
        config.out,
        {**run.provenance, "overheads": origin},
        overheads,
    )
    return bundle.verify(config.out)


def copy_verified(source: Path, out: str) -> dict:
    """Copy a bundle and verify the copy: the report of bundle.verify.

    A bundle of other physics is copied too; the report then has only `digest`, `bytes` and, in
    `not_evaluated`, the reason.
    """
    bundle.copy(source, out)
    try:
        return bundle.verify(out)
    except bundle.OtherPhysics as error:
        files = bundle_files.inspect(out)
        return {
            "digest": files.digest,
            "bytes": sum(map(len, files.data.values())),
            "not_evaluated": str(error),
        }


def trained_physics(config: ExportConfig) -> tuple[Distilled, pd.DataFrame | None]:
    """The model distilled into BLIS's coefficients, for one deployment or for the four known models; errors
    on `steps`, if given.
    """
    found = bundle_find.find(str(config.model.name), config.tracking)
    if config.model_config_path is None:
        deployments = distil.known_deployments(config.hardware)
    else:
        arch = catalog.read_hf_config(config.model_config_path)
        deployments = {f"tp{config.tp}": Deployment(arch, config.tp, config.hardware)}
    distilled = distil.distil(found.predict, deployments, found.overheads)
    if config.steps is None:
        return distilled, None
    measured = distil.mape_on_steps(
        distilled.beta, found.predict, schema.read(Path(config.steps))[0], deployments
    )
    if measured.empty:
        raise InputError(
            f"steps={config.steps}: holds no step of {', '.join(deployments)}; expected a step table with"
            " some"
        )
    return distilled, measured


def main(cfg: DictConfig) -> None:
    """One Hydra job."""
    config = from_hydra(cfg, ExportConfig)
    if config.verify is not None:
        print(describe(config.verify, bundle.verify(config.verify)))
    elif config.format == "bundle":
        print(describe(config.out, export(config)))
    else:
        text = distil.as_yaml(*trained_physics(config))
        print(text, end="")
        if config.out.endswith((".yaml", ".yml")):
            _write(text, Path(config.out))


def describe(path: str, report: dict) -> str:
    """The report of `copy_verified` or bundle.verify in one line."""
    kept = f"{report['bytes'] / 1e6:.2f} MB, digest {report['digest'][:16]}"
    if "not_evaluated" in report:
        return f"{path}: digests agree, {kept}; not evaluated: {report['not_evaluated']}"
    agree = f"features {report['worst_feature']:.1e}, us {report['worst_us']:.1e} relative"
    return f"{path}: {report['vectors']} golden vectors agree ({agree}), {kept}"


def _write(text: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(text)
    os.replace(scratch, path)


if __name__ == "__main__":
    sys.argv[1:] = bundle_find.name_model(sys.argv[1:])
    cli.run(main, "export")
