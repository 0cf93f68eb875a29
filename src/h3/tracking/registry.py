"""The model registry: versions of `blis-step-time` and the aliases champion and challenger.

    registry = open_registry(TrackingConfig())
    bundle = load("champion")                      # or "challenger", or a version's number: a Bundle

journal.py moves the aliases and records every promotion.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as package_version
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.entities.model_registry import ModelVersion

from h3 import bundle
from h3.bundle import Bundle
from h3.common import secrets
from h3.common.config import PACKAGE, TrackingConfig
from h3.common.errors import InputError
from h3.tracking import connect, log
from h3.tracking.store import Store, open_store

NAME = "blis-step-time"
CHAMPION, CHALLENGER = "champion", "challenger"
PACKAGES = ("mlflow", "xgboost", "pandas", "numpy", "scipy", "pyarrow")
DESCRIPTION = "Step period of an LLM inference server in us; the default backend of BLIS."
MOST_DESCRIPTION = 4900


@dataclass(frozen=True)
class Registry:
    """An open registry: versions of the model NAME in the tracking store."""

    store: Store

    def versions(self) -> list[ModelVersion]:
        """All versions, newest first."""
        found = self.store.client.search_model_versions(f"name='{NAME}'")
        return sorted(found, key=lambda entry: -int(entry.version))

    def version(self, name: str) -> ModelVersion | None:
        """The version of that number or alias; None if there is none."""
        numbers = {str(entry.version): entry for entry in self.versions()}
        return numbers.get(name if name.isdigit() else self.aliases().get(name, ""))

    def aliases(self) -> dict[str, str]:
        """Alias → version number."""
        found = self.store.client.search_registered_models(f"name='{NAME}'")
        return {alias: str(number) for alias, number in found[0].aliases.items()} if found else {}

    def tag(self, version: str, **tags: str) -> None:
        """Set tags of a version."""
        for key, value in tags.items():
            self.store.client.set_model_version_tag(NAME, version, key, value)

    def set_alias(self, alias: str, version: str) -> None:
        """Move an alias in one write."""
        self.store.client.set_registered_model_alias(NAME, alias, version)

    def drop_challenger(self, version: str) -> None:
        """Take the alias challenger from a version, if it is there."""
        if self.aliases().get(CHALLENGER) == version:
            self.store.client.delete_registered_model_alias(NAME, CHALLENGER)


def open_registry(tracking: TrackingConfig) -> Registry:
    """The registry of a tracking store; raises InputError if it cannot be reached."""
    return Registry(open_store(tracking.uri, tracking.experiment))


@contextmanager
def reported(tracking: TrackingConfig) -> Iterator[None]:
    """What a store raises while the block runs, as an InputError of one line."""
    try:
        yield
    except connect.TROUBLES as error:
        where = tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or "mlruns/mlflow.db"
        said = f"registry {secrets.hidden(where)}: {connect.why(error, where)}"
        raise InputError(f"{said}; run it again: what was begun is finished then") from None


def register(
    registry: Registry, run_id: str, folder: Path, rows: pd.DataFrame, tags: Mapping[str, str], card: str
) -> str:
    """Log a bundle's folder as a pyfunc to the active run and register it, state registered; the version's
    number.

    `rows`: steps, a few of which are the input example. `tags`: the version's. `card`: the model card
    (Markdown).
    """
    from h3.tracking import pyfunc  # announces a model to MLflow when it is imported

    log.text("README.md", card)
    signature = pyfunc.signature()
    info = mlflow.pyfunc.log_model(
        name="model",
        python_model=str(Path(pyfunc.__file__)),
        artifacts={"bundle": str(folder)},
        code_paths=[str(PACKAGE)],
        signature=signature,
        input_example=rows[signature.inputs.input_names()].head(5).reset_index(drop=True),
        pip_requirements=[f"{name}=={package_version(name)}" for name in PACKAGES],
    )
    client = registry.store.client
    if not client.search_registered_models(f"name='{NAME}'"):
        client.create_registered_model(NAME, description=DESCRIPTION)
    made = client.create_model_version(
        NAME,
        info.model_uri,
        run_id=run_id,
        tags={"state": "registered", **tags},
        description=card[:MOST_DESCRIPTION],
        model_id=info.model_id,
    )
    return str(made.version)


def load(name: str, tracking: TrackingConfig | None = None) -> Bundle:
    """The bundle of a version: champion, challenger or a number; raises InputError if there is no such
    version.
    """
    return bundle.read(folder(name, tracking))


def number(alias: str, tracking: TrackingConfig | None = None) -> str | None:
    """The number of the version that has an alias; None if there is none."""
    tracking = tracking or TrackingConfig()
    with reported(tracking):
        return open_registry(tracking).aliases().get(alias)


def folder(name: str, tracking: TrackingConfig | None = None) -> Path:
    """The folder with the files of a version, downloaded if need be, unread; raises InputError if there is no
    such version.
    """
    tracking = tracking or TrackingConfig()
    here = tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or Path("mlruns/mlflow.db").is_file()
    if not here:
        raise InputError(
            f"bundle={name}: no mlruns/mlflow.db here; expected a registry: python -m h3.promote, or"
            " MLFLOW_TRACKING_URI"
        )
    with reported(tracking):
        return folder_of(open_registry(tracking), str(name))


def folder_of(registry: Registry, name: str) -> Path:
    """The folder with the files of a version in an open registry."""
    found = registry.version(name)
    if found is None:
        there = [*registry.aliases(), *(str(entry.version) for entry in registry.versions())]
        told = ", ".join(there) or "none: python -m h3.promote makes one"
        raise InputError(f"bundle={name}: no such alias or version of {NAME}; there are {told}")
    uri = registry.store.client.get_model_version_download_uri(NAME, found.version)
    return Path(
        mlflow.artifacts.download_artifacts(
            artifact_uri=f"{uri}/artifacts/bundle", tracking_uri=registry.store.uri
        )
    )


def read_version(registry: Registry, name: str) -> Bundle:
    """The bundle of a version in an open registry."""
    return bundle.read(folder_of(registry, name))
