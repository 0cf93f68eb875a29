"""The model registry: versions of `blis-step-time`, the aliases champion and challenger, and the record of
every promotion.

    registry = open_registry(TrackingConfig())
    with lock(registry): ...                       # one promotion or rollback at a time
    bundle = load("champion")                      # or "challenger", or a version's number: a Bundle

A version's tag `state` is the journal: registered → gated → promoted, or refused; rolled_back; abandoned.
`recover` brings what a killed promotion left to one of the last four. The alias champion moves by one write
and is never taken away.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as package_version
from pathlib import Path

import mlflow
import pandas as pd
import yaml
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from h3 import bundle
from h3.bundle import Bundle
from h3.common.config import TrackingConfig
from h3.common.errors import InputError
from h3.steps import catalog
from h3.tracking import store as track

NAME = "blis-step-time"
CHAMPION, CHALLENGER = "champion", "challenger"
PACKAGES = ("mlflow", "xgboost", "pandas", "numpy", "scipy", "pyarrow")
MOST_DESCRIPTION = 4900


@dataclass(frozen=True)
class Registry:
    """An open registry: versions of the model NAME in the tracking store."""

    store: track.Store

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
    return Registry(track.open_store(tracking.uri, tracking.experiment))


@contextmanager
def reported(tracking: TrackingConfig) -> Iterator[None]:
    """What a store raises while the block runs, as an InputError of one line."""
    try:
        yield
    except (mlflow.MlflowException, OSError) as error:
        where = tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or "mlruns/mlflow.db"
        raise InputError(
            f"registry {where}: {' '.join(str(error).split())[:160]}; the champion is as it was, run it again"
        ) from None


@contextmanager
def lock(registry: Registry) -> Iterator[None]:
    """Held while the block runs; raises InputError if another process on this machine holds it.

    The file lies beside a SQLite store, else in the folder for temporary files; a process that dies lets go
    of it.
    """
    uri = registry.store.uri
    if uri.startswith("sqlite:///"):
        path = Path(uri.removeprefix("sqlite:///")).with_name("promote.lock")
    else:
        path = (
            Path(tempfile.gettempdir())
            / f"h3-promote-{os.getuid()}-{hashlib.sha256(uri.encode()).hexdigest()[:16]}.lock"
        )
    with open(path, "a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            process = handle.read() or "unknown"
            raise InputError(
                f"another promotion is running (process {process}); expected one at a time: wait until it is"
                " done"
            ) from None
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


@contextmanager
def entry(registry: Registry, action: str, intent: dict) -> Iterator[str]:
    """A run that records a promotion or rollback: intent.json first, then what the block logs; FAILED if the
    block raises.

    Entries are only ever added: each has a run of its own. `intent` also goes to the run's tags. Yields the
    run's id.
    """
    client = registry.store.client
    tags = {
        "h3.role": action,
        "git_commit": track.git_commit(),
        **{f"h3.{key}": str(value) for key, value in intent.items()},
    }
    run_id = client.create_run(registry.store.experiment_id, run_name=action, tags=tags).info.run_id
    client.log_dict(run_id, intent, "intent.json")
    status = "FAILED"
    try:
        mlflow.set_tracking_uri(registry.store.uri)
        with mlflow.start_run(run_id=run_id, log_system_metrics=False):
            yield run_id
        status = "FINISHED"
    finally:
        client.set_terminated(run_id, status)


def open_entries(registry: Registry) -> list[Run]:
    """Entries that never ended: their process was killed."""
    found = registry.store.client.search_runs([registry.store.experiment_id], "attributes.status = 'RUNNING'")
    return [run for run in found if run.data.tags.get("h3.role") in ("promotion", "rollback")]


def register(
    registry: Registry, run_id: str, folder: Path, rows: pd.DataFrame, record: tuple[dict[str, str], str]
) -> str:
    """Log a bundle's folder as a pyfunc to the active run and register it, state registered; the version's
    number.

    `rows`: steps, a few of which are the input example. `record`: the version's tags, and the model card
    (Markdown).
    """
    tags, card = record
    package = Path(__file__).parents[1]
    mlflow.log_text(card, "README.md")
    requirements = [f"{name}=={package_version(name)}" for name in PACKAGES]
    from h3.tracking import pyfunc as serving

    example = rows[serving.signature().inputs.input_names()].head(5).reset_index(drop=True)
    info = mlflow.pyfunc.log_model(
        name="model",
        python_model=str(package / "tracking" / "pyfunc.py"),
        artifacts={"bundle": str(folder)},
        code_paths=[str(package)],
        signature=serving.signature(),
        input_example=example,
        pip_requirements=requirements,
    )
    client = registry.store.client
    if not client.search_registered_models(f"name='{NAME}'"):
        client.create_registered_model(
            NAME, description="Step period of an LLM inference server in us; the default backend of BLIS."
        )
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


def folder(name: str, tracking: TrackingConfig | None = None) -> Path:
    """The folder with the files of a version, downloaded if need be, unread; raises InputError if there is no
    such version.
    """
    tracking = tracking or TrackingConfig()
    here = tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or Path("mlruns/mlflow.db").is_file()
    if not here:
        raise InputError(
            f"model={name}: no mlruns/mlflow.db here; expected a registry: python -m h3.promote, or"
            " MLFLOW_TRACKING_URI"
        )
    with reported(tracking):
        return folder_of(open_registry(tracking), str(name))


def folder_of(registry: Registry, name: str) -> Path:
    """The folder with the files of a version in an open registry."""
    found = registry.version(name)
    if found is None:
        there = ", ".join([*registry.aliases(), *(str(entry.version) for entry in registry.versions())])
        raise InputError(
            f"model={name}: no such alias or version of {NAME}; there are"
            f" {there or 'none: python -m h3.promote makes one'}"
        )
    uri = registry.store.client.get_model_version_download_uri(NAME, found.version)
    return Path(
        mlflow.artifacts.download_artifacts(
            artifact_uri=f"{uri}/artifacts/bundle", tracking_uri=registry.store.uri
        )
    )


def read_version(registry: Registry, name: str) -> Bundle:
    """The bundle of a version in an open registry."""
    return bundle.read(folder_of(registry, name))


def promote(registry: Registry, version: str) -> None:
    """Make a version that passed the gate the champion: one write moves the alias. May be repeated."""
    registry.set_alias(CHAMPION, version)
    registry.tag(version, state="promoted")
    registry.drop_challenger(version)


def rollback_versions(registry: Registry) -> tuple[str, str]:
    """The champion, and the version that was it before; raises InputError if there is none."""
    current = registry.version(CHAMPION)
    before = current.tags.get("previous_champion") if current else None
    if not before:
        raise InputError(
            f"rollback: there is no {'version before the champion' if current else 'champion'}; expected an"
            " earlier promotion"
        )
    return str(current.version), before


def roll_back(registry: Registry, export: Callable[[str], object] | None = None) -> tuple[str, str]:
    """Move champion to the version that was champion before, then call `export` with it: (from, to).

    The entry ends after the export, so that `recover` sees one that was killed before. Raises InputError if
    there is none.
    """
    current, before = rollback_versions(registry)
    with entry(registry, "rollback", {"from_version": current, "to_version": before}):
        registry.set_alias(CHAMPION, before)
        registry.tag(current, state="rolled_back")
        if export:
            export(before)
    return current, before


def recover(registry: Registry) -> dict[str, str]:
    """Finish or undo what killed promotions and rollbacks left, under the lock: {version: what became of it}.

    A version that had passed the gate becomes champion, one that had not been through it is abandoned; one
    that a rollback had already taken the alias from is rolled back.
    """
    done = {}
    for found in reversed(registry.versions()):
        version, state = str(found.version), found.tags.get("state")
        if state == "gated":
            promote(registry, version)
            done[version] = "promoted"
        elif state == "registered":
            registry.drop_challenger(version)
            registry.tag(version, state="abandoned")
            done[version] = "abandoned"
    champion = registry.aliases().get(CHAMPION)
    for run in open_entries(registry):
        tags = run.data.tags
        if tags["h3.role"] == "rollback" and tags["h3.to_version"] == champion:
            registry.tag(tags["h3.from_version"], state="rolled_back")
            done[tags["h3.from_version"]] = "rolled_back"
        registry.store.client.set_tag(
            run.info.run_id, "h3.outcome", f"killed; recovered: {done or 'nothing to do'}"
        )
        registry.store.client.set_terminated(run.info.run_id, "KILLED")
    return done


def sweeps(registry: Registry, only: str | None) -> list[str]:
    """Ids of the parent runs of sweeps that have ended, newest first; or the one asked for, ended or not."""
    client, where = (
        registry.store.client,
        "tags.`h3.role` = 'sweep'" + ("" if only else " and attributes.status != 'RUNNING'"),
    )
    found = client.search_runs(
        [registry.store.experiment_id], where, order_by=["attributes.start_time DESC"], max_results=1000
    )
    ids = [run.info.run_id for run in found]
    if only and only not in ids:
        raise InputError(
            f"sweep={only}: no such sweep; expected the id of a parent run, such as"
            f" {', '.join(ids[:3]) or 'none yet'}"
        )
    return [only] if only else ids


def ablation_override(registry: Registry, parent: str) -> str:
    """The override that makes a sweep an ablation, such as experiment=ablation, whichever of its runs
    finished; "" without one.
    """
    overrides = registry.store.client.get_run(parent).data.tags.get("overrides", "")
    return next((part for part in overrides.split() if "ablation" in part and part != "ablation=none"), "")


def finished_folds(registry: Registry, parent: str) -> Iterator[tuple[dict, dict]]:
    """Recorded configuration and result (evaluate.py, with mlflow_run_id) of each finished fold of a
    sweep.
    """
    for run in registry.store.children(parent):
        if run.info.status == "FINISHED":
            config = yaml.safe_load(mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/config.yaml"))
            yield config, recorded_json(run.info.run_id, "result.json")


def recorded_json(run_id: str, name: str) -> dict:
    """A JSON artifact of a run."""
    return json.loads(mlflow.artifacts.load_text(f"runs:/{run_id}/{name}"))


def log_json(name: str, content: object) -> None:
    """Log JSON to the active run."""
    mlflow.log_dict(content, name)


def card(table: pd.DataFrame, tags: dict[str, str], held_out: list[dict], recipe: list[dict]) -> str:
    """The model card, Markdown: what it is, data, folds with intervals, what it was not tested on, commit.

    held_out: the sweep's folds; recipe: the parameters that ship on the same folds (gate.row).
    """
    told = {
        name: ", ".join(str(value) for value in sorted(table[name].unique()))
        for name in ("model", "workload", "hardware")
    }
    return "\n".join(
        [
            f"# {NAME}: period of one step of an LLM inference server, us",
            "",
            (
                f"{tags['winner']}, {tags['routing']}, parameters {tags['params']}. Commit {tags['commit']},"
                f" sweep {tags['sweep']}."
            ),
            "",
            (
                f"Data: digest {tags['data_digest']}, {len(table)} steps; models {told['model']}; workloads"
                f" {told['workload']}."
            ),
            "",
            "Held-out folds of the sweep:",
            "",
            track.markdown(held_out),
            (
                "The parameters that ship, on the same folds. These hyperparameters are a consensus of the"
                " same folds' tuning, so only the first"
            ),
            "table is held out in every respect:",
            "",
            track.markdown(recipe),
            f"Not tested: {'; '.join(_untested(table, told['hardware']))}.",
            "",
        ]
    )


def _untested(table: pd.DataFrame, hardware: str) -> list[str]:
    other = ", ".join(sorted(set(catalog.HARDWARE) - set(table["hardware"])))
    moe = ", ".join(sorted(table.loc[table["num_experts"] >= 2, "model"].unique())) or "none"
    most = table[["tensor_parallelism", "num_decode_reqs", "decode_kv_tokens_mean", "prefill_tokens"]].max()
    weights = ", ".join(f"{value:g}" for value in sorted(table["bytes_per_parameter"].unique()))
    return [
        f"hardware other than {hardware} ({other})",
        f"weights of other than {weights} bytes",
        f"tensor parallelism above {most['tensor_parallelism']:.0f}",
        f"more than {most['num_decode_reqs']:.0f} decoding requests",
        f"mean contexts above {most['decode_kv_tokens_mean']:.0f} tokens",
        f"more than {most['prefill_tokens']:.0f} prompt tokens a step",
        f"MoE models other than: {moe}",
        "pipeline, data and expert parallelism",
        "speculative decoding",
    ]
