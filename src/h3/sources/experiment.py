"""Experiment folders: what they are called, what ran in them, and what every log source returns.

    folders = find(["runs/"])                    # experiment folders below the given ones
    experiment = describe(folders[0], source)

An experiment folder holds a log (`traces.json[.gz]`, `data.csv[.gz]`, `per_request_lifecycle_metrics.json`,
or JSON of any name that is recognised by what it holds) and an `exp-config.yaml` (model, tensor_parallelism,
max_num_seqs, max_num_batched_tokens, ...), or a TraceV2 `header.yaml`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from h3.common import bounded
from h3.common.bounded import Bounds
from h3.common.config import SourceConfig
from h3.common.errors import InputError
from h3.common.shown import shown
from h3.sources.requests.formats.table import only_log
from h3.steps import catalog, hardware_file, sampling, schema
from h3.steps.batch import Deployment
from h3.steps.hf_config import Served
from h3.steps.sampling import Sampling

TRACE_FILES = ("traces.json", "traces.json.gz")
TRACEV2_FILES = ("data.csv", "data.csv.gz")
LIFECYCLE_FILES = ("per_request_lifecycle_metrics.json", "results/per_request_lifecycle_metrics.json")
# Files of any name, beside an exp-config.yaml: logs are recognised by what they hold.
JSON_FILES = ("*.json", "*.json.gz", "*.jsonl", "*.jsonl.gz")
USUAL = Bounds()
MOST_COUNT, MOST_NAME = 10**9, 250  # of tokens or requests; characters of a name
NO_LOGS = ("config.json", "generation_config.json")
REQUEST_FILES = TRACEV2_FILES + LIFECYCLE_FILES + JSON_FILES


@dataclass(frozen=True)
class Experiment:
    """One run of a server under one workload: names, setup and architecture."""

    name: str
    path: Path
    model: str
    workload: str
    hardware: str
    tensor_parallelism: int
    max_num_seqs: float
    max_num_batched_tokens: float
    block_size_tokens: float
    architecture: catalog.Architecture
    sampling: Sampling
    max_model_len: float = float("nan")

    @property
    def deployment(self) -> Deployment:
        """The model on its accelerators."""
        return Deployment(self.architecture, self.tensor_parallelism, self.hardware, self.sampling.truncated)

    def columns(self) -> dict[str, Any]:
        """The step table's columns that are the same for every row of this experiment (`clock` and `log`
        excepted).
        """
        return {
            "experiment": self.name,
            "model": self.model,
            "workload": self.workload,
            "hardware": self.hardware,
            "tensor_parallelism": self.tensor_parallelism,
            "max_num_seqs": self.max_num_seqs,
            "max_num_batched_tokens": self.max_num_batched_tokens,
            "block_size_tokens": self.block_size_tokens,
            "truncated_sampling": float(self.sampling.truncated),
            **self.architecture.columns(),
        }


@dataclass(frozen=True)
class Ingested:
    """What a source returns: step table, rejects, and a record of assumptions, exclusions and counts."""

    table: pd.DataFrame
    rejects: pd.DataFrame
    record: dict[str, Any] = field(default_factory=dict)

    def rejected(self) -> str:
        """The rejects by reason, in words."""
        return counted({str(k): int(n) for k, n in self.rejects.groupby("reason").size().items()})


def counted(reasons: Mapping[str, int]) -> str:
    """Rejects by reason, in words."""
    return "rejected rows: " + (", ".join(f"{reason} {count}" for reason, count in reasons.items()) or "none")


def combine(parts: Iterable[Ingested]) -> Ingested:
    """One Ingested from several; records are joined by experiment, lists appended."""
    parts = list(parts)
    if not parts:
        raise InputError(
            "no experiment left to read; expected at least one experiment folder with a usable log"
        )
    record: dict[str, Any] = {}
    for part in parts:
        add_record(record, part.record)
    table = pd.concat([part.table for part in parts], ignore_index=True)
    rejects = pd.concat([part.rejects for part in parts], ignore_index=True)
    return Ingested(schema.check(table, "ingested steps"), rejects, record)


def add_record(record: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Join the record of one more part to that of the parts before: lists are appended, mappings united."""
    for key, value in more.items():
        if isinstance(value, list):
            record.setdefault(key, []).extend(value)
        elif isinstance(value, dict):
            record.setdefault(key, {}).update(value)
        else:
            record[key] = value


def find(paths: str | Path | Iterable[str | Path], names: tuple[str, ...]) -> list[Path]:
    """Experiment folders directly below the given folders that hold one of the log files `names`, sorted by
    name.

    Raises InputError for a path that is no folder, a folder without experiments, and the same experiment name
    twice.
    """
    roots = [paths] if isinstance(paths, str | Path) else list(paths)
    found: dict[str, Path] = {}
    for root in map(Path, roots):
        for folder in _experiments_below(root, names):
            if folder.name in found:
                raise InputError(
                    f"{folder}: experiment {folder.name!r} is there twice, also as {found[folder.name]};"
                    " expected one"
                )
            found[folder.name] = folder
    return [found[name] for name in sorted(found)]


def _experiments_below(root: Path, names: tuple[str, ...]) -> list[Path]:
    if not root.is_dir():
        state = "is a file" if root.exists() else "does not exist"
        raise InputError(f"{root}: {state}; expected a folder of experiment folders")
    folders = (
        [root]
        if log_file(root, names)
        else sorted(bounded.named(path) for path in root.iterdir() if path.is_dir() and log_file(path, names))
    )
    if not folders:
        raise InputError(
            f"{root}: no experiment folder in it; expected folders that hold one of {', '.join(names)}"
        )
    return folders


def log_file(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The first of the files `names` that the folder holds, or None."""
    return next(iter(_logs(folder, names)), None)


def required_log(folder: Path, names: tuple[str, ...], bounds: Bounds = USUAL) -> Path:
    """The log of a folder: the first of the files `names`, or the JSON file that is a log by what it holds.

    Raises InputError if the folder holds none, and for several logs under names of their own.
    """
    found = _logs(folder, names)
    if not found:
        raise InputError(f"{folder}: no log in it; expected one of {', '.join(names)}")
    return found[0] if len(found) == 1 else only_log(found, bounds)


def _logs(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """The first of the files that have a name of their own, else all JSON files that may be a log."""
    own = (folder / name for name in names if "*" not in name)
    named = next((path for path in own if path.is_file()), None)
    if named:
        return [named]
    if not (folder / "exp-config.yaml").is_file() or any((folder / name).is_file() for name in TRACE_FILES):
        return []
    found = {path for name in names if "*" in name for path in folder.glob(name) if path.is_file()}
    return sorted(path for path in found if path.name not in NO_LOGS and not path.name.startswith("."))


def describe(folder: Path, source: SourceConfig) -> Experiment:
    """What ran in an experiment folder, from its exp-config.yaml, header.yaml and name.

    Raises InputError for a missing or malformed configuration and for an unknown model.
    """
    config = _configuration(folder)
    parsed = catalog.parse_experiment(folder.name) or {}
    model_id = _name(folder, config, "model", parsed.get("model"))
    if not model_id:
        raise InputError(
            f"{folder}/exp-config.yaml: key 'model' is missing; expected the name of the served model"
        )
    tp = _whole(folder, config, "tensor_parallelism", parsed.get("tp"))
    own_config, served = folder / "config.json", _served(folder, config)
    arch = (
        catalog.read_hf_config(own_config, served)
        if own_config.is_file()
        else catalog.architecture(model_id, source.model_configs, served)
    )
    catalog.check_tensor_parallelism(arch, tp, f"{folder}/exp-config.yaml")
    return Experiment(
        name=folder.name,
        path=folder,
        model=catalog.model_name(parsed.get("model", model_id)),
        workload=_workload(folder, config, parsed),
        hardware=_hardware(folder, config, source),
        tensor_parallelism=tp,
        max_num_seqs=_limit(folder, config, "max_num_seqs"),
        max_num_batched_tokens=_limit(folder, config, "max_num_batched_tokens"),
        block_size_tokens=_limit(folder, config, "block_size", source.assume.block_size_tokens),
        architecture=arch,
        sampling=_sampling(folder, config, model_id, source),
        max_model_len=_limit(folder, config, "max_model_len"),
    )


def _workload(folder: Path, config: dict[str, Any], parsed: dict[str, str]) -> str:
    """The workload of the configuration, else of the folder's name, as workloads are compared."""
    given = _name(folder, config, "workload", parsed.get("workload"))
    return catalog.workload_name(given or "") or catalog.workload_name(folder.name)


def _hardware(folder: Path, config: dict[str, Any], source: SourceConfig) -> str:
    """The accelerator that the configuration names, else the assumed one."""
    key = "gpu" if config.get("hardware") is None and config.get("gpu") is not None else "hardware"
    name = _name(folder, config, key, None)
    try:
        return hardware_file.named(name or source.assume.hardware, folder)
    except InputError as error:
        where = f"{folder}/exp-config.yaml: " if name else ""
        raise InputError(f"{where}{error}") from None


def _served(folder: Path, config: dict[str, Any]) -> Served:
    """How the server held weights and KV cache: `dtype` and `kv_cache_dtype` of its configuration."""
    return Served.checked(
        str(config.get("dtype", "auto")),
        str(config.get("kv_cache_dtype", "auto")),
        f"{folder}/exp-config.yaml",
    )


def _sampling(folder: Path, config: dict[str, Any], model: str, source: SourceConfig) -> Sampling:
    """Whether sampling was truncated: exp-config.yaml, else the generation_config.json beside it, else what
    is known of the model, else the assumption.
    """
    if "sampling" in config:
        where = f"{folder}/exp-config.yaml"
        return Sampling(sampling.given(config["sampling"], where), "exp-config.yaml")
    assumed = Sampling(sampling.WORDS[source.assume.sampling], "assumed")
    return sampling.beside(folder / "config.json") or sampling.of_model(model) or assumed


def _configuration(folder: Path) -> dict[str, Any]:
    """exp-config.yaml over header.yaml's server section, as one mapping with exp-config's key names."""
    header = _yaml(folder / "header.yaml")
    server = header.get("server") or {}
    if not isinstance(server, dict):
        raise InputError(f"{folder}/header.yaml: server={server!r}; expected key: value lines below it")
    merged = {**server, "tensor_parallelism": server.get("tensor_parallel")}
    merged.update(_yaml(folder / "exp-config.yaml"))
    if not any(value is not None for value in merged.values()):
        raise InputError(
            f"{folder}: no exp-config.yaml; expected model, tensor_parallelism, max_num_seqs,"
            " max_num_batched_tokens"
        )
    return {key: value for key, value in merged.items() if value is not None}


def _yaml(path: Path) -> dict[str, Any]:
    return bounded.yaml_of(path) if path.is_file() else {}


def _name(folder: Path, config: dict[str, Any], key: str, default: str | None) -> str | None:
    """A text of the configuration; a number is one where a name may be a number."""
    value = config.get(key, default)
    if value is None or (isinstance(value, str) and 0 < len(value.strip()) <= MOST_NAME):
        return value
    raise InputError(f"{folder}/exp-config.yaml: {key}={shown(value)}; expected a name")


def _whole(folder: Path, config: dict[str, Any], key: str, fallback: str | None) -> int:
    value = config.get(key, fallback)
    known = value
    if isinstance(value, str) and value.isdecimal() and len(value) < len(str(MOST_COUNT)):
        known = int(value)
    if isinstance(known, bool) or not isinstance(known, int) or not 0 < known <= MOST_COUNT:
        raise InputError(
            f"{folder}/exp-config.yaml: {key}={shown(value)}; expected a whole number from 1 to {MOST_COUNT}"
        )
    return known


def _limit(folder: Path, config: dict[str, Any], key: str, default: float = float("nan")) -> float:
    """An optional limit of the server, a number from 1 on; NaN where it names none."""
    if config.get(key) is None:
        return default
    value = config[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= MOST_COUNT:
        raise InputError(
            f"{folder}/exp-config.yaml: {key}={shown(value)}; expected a number from 1 to {MOST_COUNT}"
        )
    return float(value)


def assumptions_record(source: SourceConfig) -> dict[str, Any]:
    """The assumptions as a part of a source's record."""
    return {"assumptions": {**source.assume.model_dump(), "model_configs": source.model_configs}}
