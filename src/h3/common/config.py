"""The configuration of a run: small, typed, frozen, and checked when it is composed.

    config = from_hydra(cfg, TrainConfig)

Raises an InputError naming the key, what was found and what is valid. These objects are passed on as they
are: a fold is a `Fold` from Hydra's file to the model card. `study()` is conf/study.yaml, the one place of
the folds that a verdict needs and of its thresholds.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from h3.common.bounded import Bounds
from h3.common.errors import InputError

PACKAGE = Path(__file__).parents[1]
# A wheel carries conf/ inside the package; a checkout has it at the top level.
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parents[1] / "conf"

Kind = TypeVar("Kind", bound=BaseModel)


class Strict(BaseModel):
    """Unknown keys are errors; values are not coerced across kinds."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Assumptions(Strict):
    """What fills a quantity that a log does not hold; every run records the ones it used.

    hardware: accelerator of an experiment whose configuration names none.
    block_size_tokens: tokens of a KV block where the configuration names none.
    kv_tokens: traces without request snapshots; "blocks": used blocks x block size (shared prefixes count
    once), "none": null.
    prefill_tokens: request logs that record no prefix hits; "auto": decided from the log
    (sources.requests.caching), "repeat": prompts repeat, so all but the last partial block is cached;
    "uncached": every prompt token is computed; "none": null.
    shared_prefix_tokens: request logs, workload → cached tokens at the start of its prompts, where they share
    no more than that; goes before prefill_tokens for those workloads.
    sampling: of a model that h3 does not know, where neither exp-config.yaml nor a generation_config.json
    says; "truncated": by top-p or top-k, so that every step sorts its logits; "plain": not.
    """

    hardware: str = "H100"
    block_size_tokens: int = Field(16, gt=0)
    kv_tokens: Literal["blocks", "none"] = "blocks"
    prefill_tokens: Literal["auto", "repeat", "uncached", "none"] = "auto"
    shared_prefix_tokens: dict[str, int] = {}
    sampling: Literal["plain", "truncated"] = "plain"


class SourceConfig(Strict):
    """Where steps come from.

    name: one of sources.load.LOADERS.
    path: a folder or list of folders of experiment folders (steps, measured: a Parquet file).
    model_configs: folder of `<model>/config.json` for models that h3 does not know.
    sample_every, max_failed_ratio: request logs; every so many steps is a row, and a log in which more
    requests failed is left out.
    most_rows: steps, from a folder; of an experiment of more rows every k-th is read (null: all).
    max_file_gb, max_file_ratio: how large a log may be when unpacked, and how many times its packed size.
    seed, prefix_caching, scale: simulated; scale shortens every stage and the sample alike. workers (null:
    one a CPU core) and cache_dir change nothing in the result.
    parts, view: measured; rows to read, and whether a row is one rank's step or the server's.
    """

    name: str
    path: str | list[str] | None = None
    model_configs: str | None = None
    sample_every: int = Field(10, ge=1)
    max_failed_ratio: float = Field(0.1, ge=0, le=1)
    most_rows: int | None = Field(None, ge=100)
    max_file_gb: float = Field(2.0, gt=0)
    max_file_ratio: float = Field(200.0, ge=1)
    seed: int = Field(0, ge=0)
    prefix_caching: bool = True
    scale: float = Field(1.0, gt=0, le=1)
    workers: int | None = Field(None, ge=1)
    cache_dir: str | None = ".h3_cache"
    parts: list[Literal["compositions", "grid", "shards", "zeroshot"]] = ["compositions"]
    view: Literal["rank", "server"] = "rank"
    assume: Assumptions = Assumptions()

    def folders(self) -> list[str]:
        """The folders of `path`; raises InputError if it is not given."""
        if not self.path:
            raise InputError(
                f"source={self.name} needs source.path=DIR; expected a folder of experiment folders, or a"
                " list of such"
            )
        return [self.path] if isinstance(self.path, str) else self.path

    @property
    def bounds(self) -> Bounds:
        """How large a log may be."""
        return Bounds(int(self.max_file_gb * 1e9), self.max_file_ratio)

    @property
    def origin(self) -> str:
        """Path or name, as a data set's source is called in MLflow."""
        return str(self.path or self.name)


GROUP_OF_KIND: dict[str, Literal["model", "workload"]] = {
    "lomo": "model",
    "lowo": "workload",
    "within": "workload",
}


class Fold(Strict):
    """Which group is held out: kind "lomo" (a model), "lowo" (a workload) or "within" (a workload of one
    model).

    holdout: null in the generic folds lomo, lowo and within, which wait for fold.holdout=NAME.
    """

    name: str
    kind: Literal["lomo", "lowo", "within"]
    holdout: str | None = None
    within_model: str = "mixtral-8x7b-v0-1"

    @property
    def group(self) -> Literal["model", "workload"]:
        """The step table's column that holds the group."""
        return GROUP_OF_KIND[self.kind]

    def held_out(self, there: Iterable[str]) -> str:
        """The group's name; raises InputError listing what is there for a generic fold without one."""
        if self.holdout is None:
            raise InputError(
                f"fold={self.name} needs fold.holdout=NAME; there are {', '.join(sorted(there))}"
            )
        return self.holdout


Engine = Literal["memory", "external", "dask"]


class ModelConfig(Strict):
    """Predictor and its parameters; parameters given here are not tuned.

    engine: where trees are trained: in memory, from batches on disk, or by Dask's worker processes.
    dask_address: of the Dask scheduler, such as tcp://HOST:8786 (null: two processes on this machine).
    """

    name: str
    params: dict[str, Any] = {}
    engine: Engine = "memory"
    dask_address: str | None = None

    @model_validator(mode="after")
    def _addressed(self) -> ModelConfig:
        if self.dask_address is not None and self.engine != "dask":
            raise ValueError(f"dask_address={self.dask_address} needs engine=dask, not engine={self.engine}")
        return self


class FeaturesConfig(Strict):
    """Feature set, and feature groups left out of it."""

    name: str = "scale_free"
    drop_groups: tuple[str, ...] = ()


class TuneConfig(Strict):
    """Search over inner folds: trials (0: off), most rows used (experiments of a few rows are kept beyond
    it).

    storage: folder of resumable studies, or sqlite:///FILE or postgresql://HOST/DATABASE; null: not kept.
    generation: trials that are drawn at once, from those of the generations before; it decides what is drawn.
    workers: processes of this command that share them; it decides nothing. Other commands may share them too.
    """

    trials: int = Field(20, ge=0)
    max_rows: int = Field(24_000, ge=100)
    storage: str | None = "mlruns/tune"
    generation: int = Field(1, ge=1)
    workers: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _shareable(self) -> TuneConfig:
        if self.workers > self.generation:
            raise ValueError(
                f"{self.workers} workers, and tune.generation={self.generation} trials are drawn at once;"
                f" expected tune.generation={self.workers} or more"
            )
        return self


class TrackingConfig(Strict):
    """MLflow: experiment name, and the store (null: MLFLOW_TRACKING_URI, else mlruns/mlflow.db)."""

    experiment: str = "h3"
    uri: str | None = None


class ReplayConfig(Strict):
    """Replay of held-out experiments: on or off (null: on where the source holds requests), biases of the
    step time in %.
    """

    enabled: bool | None = None
    biases_percent: list[float] = []


class AblationConfig(Strict):
    """One idea switched off (conf/ablation): no base, inner folds cut at random, rows weighing the same;
    defaults are h3 whole.
    """

    name: str = "none"
    base: bool = True
    inner: Literal["group", "random"] = "group"
    equal_weights: bool = True

    @model_validator(mode="after")
    def _named(self) -> AblationConfig:
        if self.name == "none" and not (self.base and self.inner == "group" and self.equal_weights):
            raise ValueError("an ablation needs a name other than none, such as ablation.name=mine")
        return self


class TrainConfig(Strict):
    """One fold of one predictor on one source.

    resume: go on with the newest sweep of the same code and configuration: its finished folds are kept.
    """

    source: SourceConfig
    fold: Fold
    model: ModelConfig
    features: FeaturesConfig
    tune: TuneConfig = TuneConfig()
    tracking: TrackingConfig = TrackingConfig()
    replay: ReplayConfig = ReplayConfig()
    ablation: AblationConfig = AblationConfig()
    target: Literal["period", "duration"] = "period"
    seed: int = Field(0, ge=0)
    threads: int = Field(1, ge=1)
    resume: bool = False

    @property
    def target_column(self) -> str:
        """The step table's column of the target, us."""
        return {"period": "period_us", "duration": "duration_us"}[self.target]


class Study(Strict):
    """conf/study.yaml: folds that a verdict needs, by the name of their file in conf/fold, and MAPE in %.

    threshold: what every fold's upper bound must stay below; moe_threshold: the same where a MoE model is
    held out; refute: a fold's lower bound above it refutes.
    """

    folds: tuple[str, ...] = Field(min_length=1)
    threshold: float = Field(gt=0)
    moe_threshold: float = Field(gt=0)
    refute: float = Field(gt=0)


@cache
def study() -> Study:
    """The study as conf/study.yaml has it."""
    return Study.model_validate(OmegaConf.to_container(OmegaConf.load(CONF / "study.yaml")))


@cache
def fold(name: str) -> Fold:
    """The fold that conf/fold/<name>.yaml defines; raises InputError listing the names if there is none."""
    path = CONF / "fold" / f"{name}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(each.stem for each in path.parent.glob("*.yaml")))
        raise InputError(f"fold {name!r} is not defined; expected one of {there}")
    return Fold.model_validate(OmegaConf.to_container(OmegaConf.load(path)))


def fold_with_group(name: str) -> Fold:
    """A fold by its name; raises InputError also if its file leaves open what it holds out."""
    found = fold(name)
    if found.holdout is None:
        raise InputError(f"fold {name!r} names no group; expected one whose file in conf/fold does")
    return found


def from_hydra(cfg: DictConfig, kind: type[Kind]) -> Kind:
    """The typed configuration; raises InputError with one line for the first thing that is wrong."""
    return validated(OmegaConf.to_container(cfg, resolve=True), kind)


def validated(content: object, kind: type[Kind]) -> Kind:
    """Plain content as a typed configuration; raises InputError with one line for the first thing that is
    wrong.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise InputError(_explain(error, kind)) from None


def _explain(error: ValidationError, kind: type[BaseModel]) -> str:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        valid = ", ".join(valid_keys(kind, problem["loc"][:-1]))
        return f"config: unknown key {where!r}; expected one of {valid}"
    if problem["type"] == "value_error":
        return f"config: {where}: {problem['msg'].removeprefix('Value error, ')}"
    return f"config: {where}={problem['input']!r}: {problem['msg']}"


def valid_keys(kind: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The keys that are valid below a path of the configuration."""
    for part in path:
        annotation = kind.model_fields[str(part)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return ["anything"]
        kind = annotation
    return list(kind.model_fields)
