"""The gate lets nothing through that it should stop, and says which check failed with its numbers."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import builders
import numpy as np
import pandas as pd
import pytest

from h3.bundle import golden
from h3.common.config import FeaturesConfig, Fold, ModelConfig, SourceConfig, TrainConfig
from h3.common.progress import Progress
from h3.evaluation import folds
from h3.evaluation.fold_table import FoldRow
from h3.promotion import gate, probes
from h3.promotion.config import GateConfig
from h3.promotion.recipe import Recipe, fold_rows
from h3.sources.experiment import Ingested
from h3.steps import catalog, schema

GOLDEN = Path(__file__).parents[2] / "go" / "h3bundle" / "testdata" / "bundle"
PARAMS = {"n_estimators": 2, "min_child_weight": 0.0}


def row(fold: str, mape: float, half: float = 0.5, moe: bool = False) -> FoldRow:
    return FoldRow(fold=fold, mape=mape, mape_low=mape - half, mape_high=mape + half, moe=moe)


def limits(dense: float = 20.0, moe: float = 25.0) -> GateConfig:
    return GateConfig(max_fold_mape=dense, max_moe_fold_mape=moe)


def rising_us(table: pd.DataFrame) -> np.ndarray:
    """A step time that grows with everything."""
    return (
        1000
        + 10 * table["num_decode_reqs"]
        + 1e-3 * table["decode_kv_tokens_sum"]
        + 0.5 * table["prefill_tokens"]
    )


def recipe(two: bool = False) -> Recipe:
    config = TrainConfig(
        source=SourceConfig(name="simulated"),
        fold=Fold(name="lowo_codegen", kind="lowo", holdout="codegen"),
        model=ModelConfig(name="xgboost_residual"),
        features=FeaturesConfig(name="scale_free"),
    )
    moe = Fold(name="lomo_mixtral", kind="lomo", holdout="mixtral-8x7b-v0-1")
    return Recipe(config, PARAMS, (config.fold, moe), two)


@pytest.fixture(scope="module")
def ingested() -> Ingested:
    made = builders.Steps(seed=3)
    for model in ("llama-2-7b", "llama-2-70b", "mixtral-8x7b-v0-1"):
        made.run(model, rows=40, workload="general").run(model, rows=40, workload="codegen")
    return Ingested(made.timed(rising_us, noise=0.02).table(), schema.empty_rejects(), {})


def test_the_upper_bound_of_the_interval_decides_not_the_estimate():
    check = gate.limits([row("a", 19.8, 0.1), row("b", 19.8, 0.3)], limits(20.0))
    assert not check.passed
    assert check.numbers["over"] == [{"fold": "b", "mape_high": pytest.approx(20.1), "limit": 20.0}]
    assert check.line().startswith(
        "FAILED fold_limits (folds: 2; worst: fold=a mape=19.8; over: fold=b mape_high=20.1 limit=20"
    )


def test_a_held_out_moe_model_has_a_limit_of_its_own():
    assert gate.limits([row("lomo_mixtral", 24.0, moe=True)], limits(20.0, 25.0)).passed
    assert not gate.limits([row("lomo_llama2_7b", 24.0)], limits(20.0, 25.0)).passed


@pytest.mark.parametrize("rows", [[], [row("a", float("nan"))]])
def test_no_folds_and_no_numbers_do_not_pass(rows):
    assert not gate.limits(rows, limits()).passed


def test_a_fold_worse_than_the_champions_interval_is_named_with_both_numbers():
    check = gate.against_champion([row("a", 5.6), row("b", 3.0)], [row("a", 5.0), row("b", 9.0)])
    assert not check.passed
    assert check.numbers["worse"] == [{"fold": "a", "mape": 5.6, "champion": 5.0, "champion_high": 5.5}]
    assert gate.against_champion([row("a", 5.4)], [row("a", 5.0)]).passed


def test_without_a_champion_nothing_is_compared_and_with_other_folds_nothing_passes():
    assert gate.against_champion([row("a", 5.0)], None).passed
    check = gate.against_champion([row("a", 5.0)], [row("b", 5.0)])
    assert (check.passed, check.numbers["not_compared"]) == (False, ["a", "b"])


def test_a_time_that_grows_is_monotone_on_every_line():
    check = gate.monotone(rising_us)
    assert check.passed
    assert check.numbers["worst"]["percent"] == 0
    assert check.numbers["lines"] > 500


def test_a_time_that_falls_is_refused_with_axis_place_and_size():
    check = gate.monotone(lambda table: rising_us(table) * np.where(table["prefill_tokens"] > 4000, 0.5, 1.0))
    assert not check.passed
    assert set(check.numbers["over"]) == {"prefill"}
    assert check.numbers["worst"]["axis"] == "prefill"
    assert check.numbers["worst"]["percent"] > 10


def test_a_time_that_is_no_number_is_not_monotone():
    assert not gate.monotone(lambda table: np.full(len(table), np.nan)).passed


def test_the_lines_hold_the_known_models_and_others_and_grow_along_one_axis():
    lines = probes.lines()
    named = {line.where.split(" ")[0] for line in lines}
    assert named == set(golden.CONFIGS)
    for axis, column in (
        ("context", "decode_kv_tokens_sum"),
        ("batch", "num_decode_reqs"),
        ("prefill", "prefill_tokens"),
    ):
        assert all(
            line.steps[column].is_monotonic_increasing and line.steps[column].nunique() > 30
            for line in lines
            if line.axis == axis
        )


def test_a_negative_or_infinite_time_anywhere_in_the_corpus_is_refused():
    for bad in (0.0, -1.0, np.inf, np.nan):
        check = gate.positive(lambda table, bad=bad: np.where(table["num_experts"] > 100, bad, 1.0), 40, 0)
        assert not check.passed
        assert check.numbers["bad"] > 0
        assert "num_experts=" in check.numbers["first"]
    assert gate.positive(rising_us, 10, 0).passed


def test_the_corpus_spans_sizes_experts_and_degrees_and_is_the_same_for_a_seed():
    generator, again = np.random.default_rng(0), np.random.default_rng(0)
    drawn = [probes.random_deployment(generator) for _ in range(300)]
    assert drawn[:20] == [probes.random_deployment(again) for _ in range(20)]
    sizes = [probes.parameters(each.architecture) for each in drawn]
    assert 1e9 <= min(sizes) < 5e9
    assert 100e9 < max(sizes) <= 400e9
    assert {each.tensor_parallelism for each in drawn} == {1, 2, 4, 8}
    assert 0.3 < np.mean([each.architecture.num_experts >= 2 for each in drawn]) < 0.7
    assert all(each.architecture.num_heads % each.tensor_parallelism == 0 for each in drawn)


@pytest.mark.parametrize(
    ("name", "published"), [("llama-2-7b", 6.74e9), ("llama-2-70b", 69.0e9), ("mixtral-8x7b-v0-1", 46.7e9)]
)
def test_parameters_are_those_that_the_models_publish(name, published):
    assert probes.parameters(catalog.MODELS[name]) == pytest.approx(published, rel=0.005)


def test_a_bundle_verifies_and_a_damaged_one_says_what_is_wrong(tmp_path):
    assert gate.verified(GOLDEN).passed
    damaged = Path(shutil.copytree(GOLDEN, tmp_path / "bundle"))
    (damaged / "golden.json").write_bytes((damaged / "golden.json").read_bytes()[:-10])
    check = gate.verified(damaged)
    assert not check.passed
    assert "golden.json" in check.numbers["error"]


def test_a_recipe_is_the_same_after_json():
    assert Recipe.of(json.loads(json.dumps(recipe(True).describe()))) == recipe(True)


def test_a_recipe_is_scored_on_each_of_its_folds_with_its_own_parameters(ingested):
    rows, left_out = fold_rows(recipe(), ingested, Progress("test"))
    assert left_out == []
    assert [(each.fold, each.moe) for each in rows] == [("lowo_codegen", False), ("lomo_mixtral", True)]
    train = folds.make_split(
        ingested.table, Fold(name="lomo_mixtral", kind="lomo", holdout="mixtral-8x7b-v0-1")
    )
    assert rows[1].n_test == len(train.truth)
    assert all(0 < each.mape_low <= each.mape <= each.mape_high for each in rows)


def test_with_two_boosters_dense_and_moe_models_are_scored_apart(ingested):
    rows, left_out = fold_rows(recipe(two=True), ingested, Progress("test"))
    assert [(each.fold, each.why.split("; ")[0]) for each in left_out] == [
        ("lomo_mixtral", "dense models alone: model 'mixtral-8x7b-v0-1' is not in the data"),
    ]
    within = [f"within_mixtral-8x7b-v0-1_{workload}" for workload in ("codegen", "general")]
    assert {each.fold: each.moe for each in rows} == {
        "lowo_codegen": False,
        within[0]: True,
        within[1]: True,
    }
    assert {each.fold: each.n_test for each in rows} == {
        "lowo_codegen": 80,
        within[0]: 40,
        within[1]: 40,
    }


@pytest.mark.parametrize(
    ("kept", "two", "scored", "why"),
    [
        (
            "workload != 'codegen'",
            False,
            ["lomo_mixtral"],
            "workload 'codegen' is not in the data; there are general",
        ),
        (
            "workload == 'codegen'",
            False,
            ["lomo_mixtral"],
            "workload 'codegen' is all the data; expected another workload to train on",
        ),
        (
            "num_experts < 2",
            False,
            ["lowo_codegen"],
            "model 'mixtral-8x7b-v0-1' is not in the data; there are llama-2-70b, llama-2-7b",
        ),
        (
            "num_experts >= 2",
            True,
            ["within_mixtral-8x7b-v0-1_codegen", "within_mixtral-8x7b-v0-1_general"],
            "dense models alone: workload 'codegen' is not in the data",
        ),
        (
            "workload == 'codegen' or num_experts >= 2",
            True,
            ["within_mixtral-8x7b-v0-1_codegen", "within_mixtral-8x7b-v0-1_general"],
            "dense models alone: workload 'codegen' is all the data",
        ),
    ],
)
def test_folds_that_the_data_cannot_give_are_left_out_and_said_to_be(ingested, kept, two, scored, why):
    data = Ingested(ingested.table.query(kept).reset_index(drop=True), ingested.rejects, ingested.record)
    rows, left_out = fold_rows(recipe(two), data, Progress("test"))
    assert [each.fold for each in rows] == scored
    assert {each.fold for each in left_out} == {"lowo_codegen", "lomo_mixtral"} - set(scored)
    assert left_out[0].why.startswith(why)
    said = gate.against_champion(rows, rows, left_out)
    assert said.passed
    assert f"fold={left_out[0].fold} why={why}" in said.line()
    assert f"why={why}" in gate.limits(rows, limits(1e3, 1e3), "recipe_limits", left_out).line()


def test_with_one_dense_model_left_nothing_is_held_out_of_it(ingested):
    one = Ingested(
        ingested.table.query("model != 'llama-2-70b'").reset_index(drop=True),
        ingested.rejects,
        ingested.record,
    )
    held = Fold(name="lomo_llama2_7b", kind="lomo", holdout="llama-2-7b")
    rows, left_out = fold_rows(replace(recipe(two=True), folds=(held,)), one, Progress("test"))
    assert {each.kind for each in rows} == {"within"}
    assert left_out[0].why.startswith("dense models alone: model 'llama-2-7b' is all the data")


def test_a_fold_of_each_of_two_moe_models_is_compared_with_its_own():
    builder = builders.Steps(seed=4)
    for model in ("mixtral-8x7b-v0-1", "other-moe"):
        experts = {
            name: catalog.MODELS["mixtral-8x7b-v0-1"].columns()[name] for name in schema.ARCHITECTURE_NAMES
        }
        for workload in ("general", "codegen"):
            builder.run(model, rows=40, workload=workload, **experts)
    data = Ingested(builder.timed(rising_us, noise=0.02).table(), schema.empty_rejects(), {})
    rows, _ = fold_rows(recipe(two=True), data, Progress("test"))
    assert len({each.fold for each in rows}) == 4
    first = rows[0].model_copy(update={"mape": rows[0].mape_high + 1})
    check = gate.against_champion([first, *rows[1:]], rows)
    assert (check.numbers["folds"], [each["fold"] for each in check.numbers["worse"]]) == (4, [first.fold])


def test_one_booster_is_fitted_on_everything_and_two_on_their_own_rows(ingested):
    one, two = recipe().fit(ingested.table), recipe(two=True).fit(ingested.table)
    assert one["dense"] is one["moe"]
    moe = ingested.table["num_experts"] >= 2
    alone = recipe().fit(ingested.table[moe].reset_index(drop=True))["moe"]
    assert two["moe"].describe() == alone.describe()
    assert two["dense"].describe() != one["dense"].describe()
