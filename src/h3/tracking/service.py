"""A bundle as a model folder that MLflow serves, without a registry.

write(Path("dist/blis"), Path("dist/service"))
# mlflow models serve -m dist/service --env-manager local -h 127.0.0.1 -p 5001
"""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from pathlib import Path

import mlflow

from h3 import bundle
from h3.common.config import PACKAGE
from h3.common.errors import InputError
from h3.tracking.registry import PACKAGES


def write(folder: Path, out: Path) -> Path:
    """Write the bundle in `folder` as an MLflow model to the new folder `out`, whole or not at all; its path.

    Raises InputError if the bundle is none or something is at `out` already.
    """
    from h3.tracking import pyfunc  # announces a model to MLflow when it is imported

    bundle.read(folder)
    if out.exists():
        raise InputError(f"{out}: exists; expected a new folder for the service")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".h3-service-") as scratch:
        made = Path(scratch) / "service"
        mlflow.pyfunc.save_model(
            path=str(made),
            python_model=str(Path(pyfunc.__file__)),
            artifacts={"bundle": str(folder)},
            code_paths=[str(PACKAGE)],
            signature=pyfunc.signature(),
            pip_requirements=[f"{name}=={version(name)}" for name in PACKAGES],
        )
        made.rename(out)
    return out
