"""The configuration of a run: small, typed, and checked when it is composed.

config = from_hydra(cfg)          # TrainConfig, or an InputError naming the key, what was found and what is
valid
"""

from __future__ import annotations

from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from h3.common.errors import InputError


class Strict(BaseModel):
    """Unknown keys are errors; values are not coerced across kinds."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class AssumeConfig(Strict):
    """What fills a quantity that a log does not hold (sources/experiment.py: Assumptions)."""

    hardware: str = "H100"
    block_size_tokens: int = Field(16, gt=0)
    kv_tokens: Literal["blocks", "none"] = "blocks"
    prefill_tokens: Literal["repeat", "uncached", "none"] = "repeat"
    shared_prefix_tokens: dict[str, int] = {}


class SourceConfig(Strict):
    """Where steps come from; `path` is a folder or list of folders of experiment folders (steps, measured: a
    Parquet file).
    """

    name: Literal["simulated", "measured", "traces", "requests", "logs", "steps"]
    path: str | list[str] | None = None
    model_configs: str | None = None
    sample_every: int = Field(10, ge=1)
    max_failed_ratio: float = Field(0.1, ge=0, le=1)
    seed: int = 0
    prefix_caching: bool = True
    scale: float = Field(1.0, gt=0, le=1)
    workers: int | None = Field(None, ge=1)
    cache_dir: str | None = ".h3_cache"
    parts: list[Literal["compositions", "grid", "shards", "zeroshot"]] = ["compositions"]
    view: Literal["rank", "server"] = "rank"
    assume: AssumeConfig = AssumeConfig()


class FoldConfig(Strict):
    """Which group is held out (folds.FoldSpec)."""

    name: str
    kind: Literal["lomo", "lowo", "within"]
    holdout: str | None = None
    within_model: str = "mixtral-8x7b-v0-1"


class ModelConfig(Strict):
    """Predictor and its parameters; parameters given here are not tuned."""

    name: str
    params: dict[str, Any] = {}


class FeaturesConfig(Strict):
    """Feature set, and feature groups left out of it."""

    name: str
    drop_groups: list[str] = []


class TuneConfig(Strict):
    """Search over inner folds: trials (0: off), most rows used, folder of resumable studies (null: not
    kept).
    """

    trials: int = Field(20, ge=0)
    max_rows: int = Field(24_000, ge=100)
    storage: str | None = "mlruns/tune"


class TrackingConfig(Strict):
    """MLflow: experiment name, and the store (null: MLFLOW_TRACKING_URI, else mlruns/mlflow.db)."""

    experiment: str = "h3"
    uri: str | None = None


class ReplayConfig(Strict):
    """Replay of held-out experiments: on or off (null: on for requests and simulated), biases of the step
    time in %.
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
    """One fold of one predictor on one source."""

    source: SourceConfig
    fold: FoldConfig
    model: ModelConfig
    features: FeaturesConfig
    tune: TuneConfig = TuneConfig()
    tracking: TrackingConfig = TrackingConfig()
    replay: ReplayConfig = ReplayConfig()
    ablation: AblationConfig = AblationConfig()
    target: Literal["period", "duration"] = "period"
    seed: int = Field(0, ge=0)
    threads: int = Field(1, ge=1)

    @property
    def replays(self) -> bool:
        """Whether the fold's held-out experiments are replayed."""
        on = self.replay.enabled
        return self.source.name in ("requests", "simulated") if on is None else on

    @property
    def target_column(self) -> str:
        """The step table's column of the target, us."""
        return {"period": "period_us", "duration": "duration_us"}[self.target]


class IngestConfig(Strict):
    """Ingest without training: the step table goes to `out`, its rejects beside it."""

    source: SourceConfig
    out: str


def from_hydra(cfg: DictConfig, kind: type[Strict] = TrainConfig) -> Any:
    """The typed configuration; raises InputError with one line for the first thing that is wrong."""
    try:
        return kind.model_validate(OmegaConf.to_container(cfg, resolve=True))
    except ValidationError as error:
        raise InputError(_explain(error.errors()[0], kind)) from None


def _explain(problem: dict, kind: type[Strict]) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return (
            f"config: unknown key {where!r}; expected one of"
            f" {', '.join(valid_keys(kind, problem['loc'][:-1]))}"
        )
    if problem["type"] == "value_error":
        return f"config: {where}: {problem['msg'].removeprefix('Value error, ')}"
    return f"config: {where}={problem['input']!r}: {problem['msg']}"


def valid_keys(kind: type[Strict], path: tuple) -> list[str]:
    """The keys that are valid below a path of the configuration."""
    for part in path:
        annotation = kind.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, Strict)):
            return ["anything"]
        kind = annotation
    return list(kind.model_fields)
