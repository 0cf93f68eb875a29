"""A model as files for BLIS: the bundle, its verification, or coefficients for an unmodified BLIS.

    python -m h3.export model=champion out=dist/blis
    python -m h3.export verify=dist/blis
    python -m h3.export format=trained_physics model=dist/blis model_config=config.json tp=2 hardware=H100
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Literal

from omegaconf import DictConfig
from pydantic import Field

from h3 import bundle, bundle_find, catalog, cli, distil
from h3.batch import Deployment
from h3.bundle_find import ModelName
from h3.bundle_manifest import Overheads
from h3.config import Strict, TrackingConfig, from_hydra
from h3.distil import Distilled


class OverheadsConfig(Strict):
    """Constants of a request, us."""

    queueing_us: float = Field(9300.0, ge=0, le=1e9)
    post_decode_us: float = Field(1850.0, ge=0, le=1e9)
    output_token_us: float = Field(0.0, ge=0, le=1e9)


class ExportConfig(Strict):
    """What to export, or what to verify."""

    model: ModelName = ModelName()
    out: str = "dist/blis"
    verify: str | None = None
    format: Literal["bundle", "trained_physics"] = "bundle"
    model_config_path: str | None = Field(None, alias="model_config")
    tp: int = Field(1, ge=1)
    hardware: str = "H100"
    overheads: OverheadsConfig = OverheadsConfig()
    tracking: TrackingConfig = TrackingConfig()


def export(config: ExportConfig) -> dict:
    """Write the bundle of the model to `out` and verify it; the report of bundle.verify."""
    model = str(config.model.name)
    if bundle_find.RUN_ID.fullmatch(model):
        fitted, provenance = bundle_find.from_run(model, config.tracking)
        path = bundle.write({"dense": fitted, "moe": fitted}, config.out, provenance, Overheads(**config.overheads.model_dump()))
    else:
        path = bundle.copy(bundle_find.find(model), config.out)
    return bundle.verify(path)


def trained_physics(config: ExportConfig) -> Distilled:
    """The model distilled into BLIS's coefficients, for one deployment or for the four known models."""
    found = bundle_find.find(str(config.model.name))
    if config.model_config_path is None:
        deployments = distil.known_deployments(config.hardware)
    else:
        arch = catalog.read_hf_config(config.model_config_path)
        deployments = {f"tp{config.tp}": Deployment(arch, config.tp, config.hardware)}
    return distil.distil(found.predict, deployments, found.overheads)


def main(cfg: DictConfig) -> None:
    """One Hydra job."""
    config = from_hydra(cfg, ExportConfig)
    if config.verify is not None:
        print(_verified(config.verify, bundle.verify(config.verify)))
    elif config.format == "bundle":
        print(_verified(config.out, export(config)))
    else:
        text = distil.as_yaml(trained_physics(config))
        print(text, end="")
        if config.out.endswith((".yaml", ".yml")):
            _write(text, Path(config.out))


def _verified(path: str, report: dict) -> str:
    return (
        f"{path}: {report['vectors']} golden vectors agree (features {report['worst_feature']:.1e}, us {report['worst_us']:.1e} relative), "
        f"{report['bytes'] / 1e6:.2f} MB, digest {report['digest'][:16]}"
    )


def _write(text: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(text)
    os.replace(scratch, path)


if __name__ == "__main__":
    sys.argv[1:] = bundle_find.name_model(sys.argv[1:])
    cli.run(main, "export")
