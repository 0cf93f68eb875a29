"""The gate before a model becomes champion: pure checks, each with its name, whether it passed, and its
numbers.

    checks = [limits(rows, Limits()), against_champion(rows, champion_rows), monotone(predict), positive(predict, 300, 0)]
    [check.line() for check in checks if not check.passed]

`rows`: the table of held-out folds (fold, mape, mape_low, mape_high in %, moe). `predict`: step table → us,
shape (rows,).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from h3 import bundle
from h3.bundle import golden as bundle_golden
from h3.common.config import FoldConfig, ModelConfig, TrainConfig
from h3.common.errors import InputError
from h3.common.progress import Progress
from h3.evaluation import folds
from h3.evaluation import one_fold as evaluate
from h3.models import zoo as models
from h3.models.protocol import Context
from h3.models.xgboost_residual import FittedResidual
from h3.sources.experiment import Ingested
from h3.steps import batch, catalog, physics
from h3.steps.batch import Deployment
from h3.steps.catalog import Architecture

Predict = Callable[[pd.DataFrame], np.ndarray]
# A step time that falls by less than the noise between repeats of one run (0.9-2 %) cannot be told from one
# that holds.
TOLERANCE_PERCENT = 1.0
BATCHES = (1, 2, 3, 4, 6, 8, *range(12, 129, 4), *range(136, 257, 8))
CONTEXTS = tuple(int(value) for value in np.geomspace(64, 32768, 37))
PREFILLS = (0, 1, *(int(value) for value in np.geomspace(8, 8192, 41)))
HELD = {
    "context": (1, 16, 64, 128),
    "batch": (128, 1024, 8192),
    "prefill": ((0, 512), (32, 1024), (128, 2048)),
}
PARAMETERS = (1e9, 400e9)


@dataclass(frozen=True)
class Limits:
    """Largest upper bound of a fold's error interval, %: a dense fold, and one that holds a MoE model out."""

    max_fold_mape: float = 20.0
    max_moe_fold_mape: float = 25.0


@dataclass(frozen=True)
class Check:
    """One check of the gate; `numbers` is JSON-serialisable."""

    name: str
    passed: bool
    numbers: dict

    def line(self) -> str:
        """The check in one line, numbers included."""
        said = "; ".join(f"{key}: {_short(value)}" for key, value in self.numbers.items())
        return f"{'passed' if self.passed else 'FAILED'} {self.name}" + (f" ({said})" if said else "")

    def describe(self) -> dict:
        """JSON: name, passed, numbers."""
        return asdict(self)


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_short(entry) for entry in value) or "none"
    if isinstance(value, dict):
        return " ".join(f"{key}={_short(entry)}" for key, entry in value.items())
    return str(value)


def limits(
    rows: list[dict], limit: Limits, name: str = "fold_limits", left_out: Sequence[dict] = ()
) -> Check:
    """The upper bound of every fold's interval is within its limit; a table without folds does not pass.

    left_out: folds that the data could not give (fold_rows), told in the numbers.
    """
    over = [
        {"fold": row["fold"], "mape_high": row["mape_high"], "limit": _limit(row, limit)}
        for row in rows
        if not row["mape_high"] <= _limit(row, limit)
    ]
    worst = max(rows, key=lambda row: row["mape"], default={"fold": "no fold", "mape": float("nan")})
    numbers = {"folds": len(rows), "worst": {"fold": worst["fold"], "mape": worst["mape"]}, "over": over}
    return Check(name, bool(rows) and not over, numbers | _told(left_out))


def _told(left_out: Sequence[dict]) -> dict:
    return {"not_in_the_data": list(left_out)} if left_out else {}


def _limit(row: dict, limit: Limits) -> float:
    return limit.max_moe_fold_mape if row["moe"] else limit.max_fold_mape


def against_champion(rows: list[dict], champion: list[dict] | None, left_out: Sequence[dict] = ()) -> Check:
    """No fold's error exceeds the upper bound of the champion's interval on that fold.

    Both tables must be on the same data; None: there is no champion. Folds that only one of them has are
    listed, and those of the champion that the data could not give (left_out, fold_rows).
    """
    if champion is None:
        return Check("against_champion", True, {"champion": "none yet"})
    old = {row["fold"]: row for row in champion}
    both = [(row, old[row["fold"]]) for row in rows if row["fold"] in old]
    worse = [
        {
            "fold": new["fold"],
            "mape": new["mape"],
            "champion": before["mape"],
            "champion_high": before["mape_high"],
        }
        for new, before in both
        if not new["mape"] <= before["mape_high"]
    ]
    numbers = {
        "folds": len(both),
        "worse": worse,
        "not_compared": sorted(set(old) ^ {row["fold"] for row in rows}),
    }
    return Check("against_champion", bool(both) and not worse, numbers | _told(left_out))


@dataclass(frozen=True)
class Recipe:
    """What a version was fitted with: a fold's configuration (source, features, seed), parameters, folds and
    boosters.
    """

    config: TrainConfig
    params: dict
    folds: tuple[FoldConfig, ...]
    two_boosters: bool = False

    def describe(self) -> dict:
        """JSON that `Recipe.of` reads."""
        folds = [fold.model_dump() for fold in self.folds]
        return {
            "config": self.config.model_dump(),
            "params": self.params,
            "folds": folds,
            "two_boosters": self.two_boosters,
        }

    @classmethod
    def of(cls, content: dict) -> Recipe:
        """The recipe that `describe` described."""
        folds = tuple(FoldConfig(**fold) for fold in content["folds"])
        return cls(
            TrainConfig.model_validate(content["config"]), content["params"], folds, content["two_boosters"]
        )

    def fit(self, table: pd.DataFrame) -> dict[str, FittedResidual]:
        """The fits by route, on all rows (one booster), or on dense and on MoE rows apart."""
        config = self.config
        context = Context(
            target=config.target_column,
            group="model",
            seed=config.seed,
            threads=config.threads,
            features=config.features.name,
            drop_groups=tuple(config.features.drop_groups),
        )
        table = evaluate.with_target(table, config.target_column)
        predictor = models.make(config.model.name, self.params)
        if not self.two_boosters:
            return dict.fromkeys(("dense", "moe"), predictor.fit(table, context))
        moe = table["num_experts"].to_numpy() >= 2
        return {
            route: predictor.fit(table[rows].reset_index(drop=True), context)
            for route, rows in (("dense", ~moe), ("moe", moe))
        }


def fold_rows(recipe: Recipe, ingested: Ingested, say: Progress) -> tuple[list[dict], list[dict]]:
    """The recipe, parameters fixed, on its folds of the given data: a row a fold, as the checks take them;
    {fold, why} left out.

    With two boosters dense models are held out among dense ones, and MoE models, of which nothing is claimed
    for an unseen one, a workload at a time. Folds whose group the data does not hold, or holds alone, are
    left out.
    """
    table = evaluate.with_target(ingested.table, recipe.config.target_column)
    experts, whole = table["num_experts"].to_numpy() >= 2, Ingested(table, ingested.rejects, ingested.record)
    jobs = [(fold, whole) for fold in recipe.folds]
    if recipe.two_boosters:
        dense = Ingested(table[~experts].reset_index(drop=True), ingested.rejects, ingested.record)
        jobs = [(fold, dense) for fold in recipe.folds]
        for model, rows in table[experts].groupby("model"):
            names = sorted(rows["workload"].unique())
            within = [
                FoldConfig(name=f"within_{model}", kind="within", holdout=name, within_model=model)
                for name in names
            ]
            jobs += [(fold, whole) for fold in within if len(names) > 1]
    rows, left_out = [], []
    for number, (fold, data) in enumerate(jobs):
        config = recipe.config.model_copy(
            update={"fold": fold, "model": ModelConfig(name=recipe.config.model.name, params=recipe.params)}
        )
        spec = evaluate.fold_spec(config, data.table)
        if why := _missing(spec, data.table):
            left_out.append(
                {"fold": spec.name, "why": why if data is whole else f"dense models alone: {why}"}
            )
            continue
        say("evaluate the recipe", number, len(jobs))
        rows.append(row(evaluate.run_fold(data, config, Progress(fold.name, io.StringIO())).result, table))
    return rows, left_out


def _missing(fold: folds.FoldSpec, table: pd.DataFrame) -> str:
    """What the table lacks for the fold: its group, or another one to train on; "": nothing."""
    try:
        folds.make_split(table, fold)
    except InputError as error:
        return str(error).removeprefix(f"fold {fold.name}: ")
    return ""


def row(result: dict, table: pd.DataFrame) -> dict:
    """A fold's result as a row of the fold table: fold, kind, holdout, n_test, errors in %, and whether it
    holds a MoE model out.
    """
    held = table["model"] == (
        result["holdout"] if result["kind"] == "lomo" else result["experiments"][0]["model"]
    )
    moe = result["kind"] != "lowo" and bool((table.loc[held, "num_experts"] >= 2).any())
    low, high = result["mape_interval"]
    kept = {
        name: result[name]
        for name in ("fold", "kind", "holdout", "model", "n_test", "mape", "mape_base", "bias")
    }
    return {
        **kept,
        "mape_low": low,
        "mape_high": high,
        "moe": moe,
        "status": "FINISHED",
        "run_id": result.get("mlflow_run_id", ""),
    }


def monotone(predict: Predict, tolerance_percent: float = TOLERANCE_PERCENT) -> Check:
    """Step times never fall by more than the tolerance as batch, context or prefill tokens grow, all else
    held.

    Zero-shot configurations (bundle_golden.CONFIGS: the four known models and others) at every degree that
    divides the heads, on H100 and A100. A fall is measured from the largest time before it on the same line.
    """
    tested = lines()
    times = predict(pd.concat([table for *_, table in tested], ignore_index=True))
    ends = np.cumsum([len(table) for *_, table in tested])
    frame = pd.DataFrame(
        [
            {"axis": axis, "where": where, **_fall(line)}
            for (axis, where, _), line in zip(tested, np.split(times, ends[:-1]), strict=True)
        ]
    )
    worst = frame.loc[frame["percent"].idxmax()].to_dict()
    over = frame[frame["percent"] > tolerance_percent]
    numbers = {
        "lines": len(frame),
        "tolerance_percent": tolerance_percent,
        "worst": worst,
        "over": {str(axis): int(count) for axis, count in over["axis"].value_counts().items()},
    }
    return Check("monotone", over.empty, numbers)


@cache
def lines() -> tuple[tuple[str, str, pd.DataFrame], ...]:
    """Lines of steps to test: (axis, configuration and what is held, step table in growing order)."""
    made = []
    for name, config in bundle_golden.CONFIGS.items():
        arch = catalog.from_hf_config(config, name)
        for degree, hardware in product((1, 2, 4, 8), ("H100", "A100")):
            if arch.num_heads % degree == 0:
                deployment = Deployment(arch, degree, hardware)
                for axis, held, composition in _compositions():
                    made.append(
                        (
                            axis,
                            f"{name} tp{degree} {hardware}, {held}",
                            batch.with_deployment(composition, deployment),
                        )
                    )
    return tuple(made)


def _compositions() -> list[tuple[str, str, pd.DataFrame]]:
    made = [
        ("context", f"batch {size}", batch.uniform(size, np.array(CONTEXTS), 0)) for size in HELD["context"]
    ]
    made += [
        ("batch", f"context {context}", batch.uniform(np.array(BATCHES), context, 0))
        for context in HELD["batch"]
    ]
    return made + [
        ("prefill", f"batch {size} context {context}", batch.uniform(size, context, np.array(PREFILLS)))
        for size, context in HELD["prefill"]
    ]


def _fall(times: np.ndarray) -> dict:
    """Largest fall below the largest time before, %, and at which step; infinite where a time is no positive
    number.
    """
    if not (np.isfinite(times) & (times > 0)).all():
        return {"step": 0, "percent": float("inf")}
    percent = 100 * (1 - times / np.maximum.accumulate(times))
    return {"step": int(np.argmax(percent)), "percent": float(percent.max())}


def positive(predict: Predict, architectures: int, seed: int) -> Check:
    """Step times are finite and above 0 on random architectures (1B-400B, dense and MoE, TP 1-8) and random
    batches.
    """
    generator = np.random.default_rng(seed)
    tables, named = [], []
    for _ in range(architectures):
        deployment = random_deployment(generator)
        batches = [
            [],
            [(0, 1, 1)],
            [(32767, 1, 1024)] * 128,
            *(bundle_golden.random_batch(generator) for _ in range(5)),
        ]
        tables.append(batch.step_table(deployment, batches))
        named += [deployment] * len(batches)
    times = predict(pd.concat(tables, ignore_index=True))
    bad = np.flatnonzero(~(np.isfinite(times) & (times > 0)))
    numbers = {"architectures": architectures, "steps": len(times), "bad": len(bad)}
    if len(bad):
        return Check(
            "positive", False, numbers | {"first_us": float(times[bad[0]]), "first": str(named[bad[0]])}
        )
    return Check("positive", True, numbers | {"least_us": float(times.min()), "most_us": float(times.max())})


def random_deployment(generator: np.random.Generator) -> Deployment:
    """A random architecture of 1B to 400B parameters, every other one MoE, on 1, 2, 4 or 8 accelerators."""
    while True:
        arch = _random_architecture(generator)
        if PARAMETERS[0] <= parameters(arch) <= PARAMETERS[1]:
            degrees = [degree for degree in (1, 2, 4, 8) if arch.num_heads % degree == 0]
            return Deployment(
                arch, int(generator.choice(degrees)), str(generator.choice(list(catalog.HARDWARE)))
            )


def _random_architecture(generator: np.random.Generator) -> Architecture:
    head_dim, heads = (
        int(generator.choice([64, 96, 128, 256])),
        int(generator.choice([8, 12, 16, 28, 32, 40, 48, 64, 96, 128])),
    )
    kv_heads = int(generator.choice([count for count in (1, 2, 4, 8, heads) if heads % count == 0]))
    hidden, layers = 64 * int(generator.integers(16, 257)), int(generator.integers(12, 127))
    ffn, moe = int(hidden * generator.uniform(1, 5)), bool(generator.integers(2))
    experts = int(generator.choice([2, 8, 16, 64, 128, 256])) if moe else 0
    dense_first = int(generator.integers(0, 4)) if moe else layers
    return Architecture(
        num_layers=layers,
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=int(generator.integers(16_000, 260_000)),
        dense_ffn_size=ffn if dense_first else 0,
        num_moe_layers=layers - dense_first,
        num_experts=experts,
        experts_per_token=int(generator.integers(1, min(9, experts + 1))) if moe else 0,
        expert_ffn_size=max(64, ffn // int(generator.choice([1, 4, 8, 16]))) if moe else 0,
        shared_ffn_size=int(generator.choice([0, ffn // 8])) if moe else 0,
        bytes_per_parameter=float(generator.choice([0.5, 1.0, 2.0])),
    )


def parameters(arch: Architecture) -> float:
    """Weights of a model: layers with all experts, LM head and embedding."""
    table = batch.step_table(Deployment(arch, 1, "H100"), [[]]).assign(bytes_per_parameter=1.0)
    everything = physics.weight_bytes(table.assign(experts_per_token=table["num_experts"]), np.ones(1))[0]
    return float(everything + arch.vocab_size * arch.hidden_size)


def verified(folder: Path) -> Check:
    """The bundle's digests, versions and golden vectors agree (bundle.verify)."""
    try:
        report = bundle.verify(folder)
    except InputError as error:
        return Check("bundle_verified", False, {"error": str(error)})
    return Check(
        "bundle_verified",
        True,
        {key: report[key] for key in ("vectors", "worst_feature", "worst_us", "bytes", "digest")},
    )
