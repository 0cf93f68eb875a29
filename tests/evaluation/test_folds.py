"""Folds: what is held out never reaches the training side, and every model weighs the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from builders import Steps
from hypothesis import given, settings
from hypothesis import strategies as st

from h3.common.config import GROUP_OF_KIND, Fold
from h3.common.errors import InputError
from h3.evaluation import folds
from h3.steps import catalog, schema
from h3.steps.weights import row_weights

# One model a shape: models of one shape are held out, and weigh, together, which tests of their own say.
MODELS = sorted({replace(arch, vocab_size=1): name for name, arch in catalog.MODELS.items()}.values())
WORKLOADS = ["codegen", "general", "reasoning", "roleplay"]
MIXTRAL = "mixtral-8x7b-v0-1"


@st.composite
def tables(draw):
    """Tables of several models and workloads with experiments of uneven size, rows in any order."""
    pairs = draw(
        st.lists(
            st.tuples(st.sampled_from(MODELS), st.sampled_from(WORKLOADS)),
            min_size=2,
            max_size=6,
            unique=True,
        )
    )
    built = Steps(seed=draw(st.integers(0, 99)))
    for model, workload in pairs:
        built.run(model, rows=draw(st.integers(1, 4)), workload=workload)
    return built.table().sample(frac=1, random_state=draw(st.integers(0, 99))).reset_index(drop=True)


def spec(kind, holdout, **more):
    return Fold(name=f"{kind}_test", kind=kind, holdout=holdout, **more)


def keys(table):
    return sorted(zip(table["experiment"], table["step_id"], strict=True))


@settings(max_examples=40, deadline=None)
@given(tables(), st.sampled_from(["lomo", "lowo"]), st.data())
def test_every_row_is_on_exactly_one_side_and_no_experiment_on_both(table, kind, data):
    group = GROUP_OF_KIND[kind]
    holdout = data.draw(st.sampled_from(sorted(table[group].unique())))
    if table[group].nunique() == 1:
        with pytest.raises(InputError, match="is all the data"):
            folds.make_split(table, spec(kind, holdout))
        return
    split = folds.make_split(table, spec(kind, holdout))
    assert keys(pd.concat([split.train, split.inputs])) == keys(table)
    assert not set(split.train["experiment"]) & set(split.inputs["experiment"])
    assert set(split.inputs[group]) == {holdout}
    assert holdout not in set(split.train[group])
    assert split.truth["experiment"].tolist() == split.inputs["experiment"].tolist()


def test_a_chat_model_is_held_out_with_the_model_that_it_steps_like():
    built = Steps().run("llama-2-70b", rows=3).run("llama-2-7b", rows=3).run("codellama-34b", rows=3).table()
    chat = built[built["model"] == "llama-2-70b"].assign(
        model="llama-2-70b-chat", experiment="chat", vocab_size=32016
    )
    table = pd.concat([built, chat], ignore_index=True)
    split = folds.make_split(table, spec("lomo", "llama-2-70b"))
    assert set(split.inputs["model"]) == {"llama-2-70b", "llama-2-70b-chat"}
    assert set(split.train["model"]) == {"llama-2-7b", "codellama-34b"}
    inner = folds.inner_folds(table, "model")
    assert [sorted(held["model"].unique()) for _, _, held in inner] == [
        ["codellama-34b"],
        ["llama-2-70b", "llama-2-70b-chat"],
        ["llama-2-7b"],
    ]


def test_the_known_models_are_eleven_groups_as_two_differ_in_the_vocabulary_only():
    built = Steps()
    for name in catalog.MODELS:
        built.run(name, rows=2)
    table = built.table()
    held = [set(part["model"]) for _, _, part in folds.inner_folds(table, "model")]
    assert len(catalog.MODELS) == 12 and len(held) == len(MODELS) == 11
    assert [group for group in held if len(group) > 1] == [{"llama-2-70b", "llama-3.1-70b-instruct"}]
    totals = pd.Series(row_weights(table)).groupby(table["model"].to_numpy()).sum()
    pair = totals.pop("llama-2-70b") + totals.pop("llama-3.1-70b-instruct")
    assert totals.to_numpy() == pytest.approx(pair)


def test_a_holdout_may_be_a_huggingface_id_with_dots():
    table = Steps().run("llama-2-70b", rows=2).run("llama-2-7b", rows=2).table()
    named = table.assign(model=table["model"].replace("llama-2-70b", "qwen2-5-72b"))
    assert set(folds.make_split(named, spec("lomo", "Qwen/Qwen2.5-72B")).inputs["model"]) == {"qwen2-5-72b"}


@settings(max_examples=25, deadline=None)
@given(tables(), st.data())
def test_held_out_inputs_have_no_target_and_truth_has_nothing_else(table, data):
    if table["model"].nunique() == 1:
        return
    holdout = data.draw(st.sampled_from(sorted(table["model"].unique())))
    split = folds.make_split(table, spec("lomo", holdout))
    targets = {"period_us", "gap_steps", "duration_us"}
    assert set(split.inputs.columns) == set(schema.NAMES) - targets
    assert set(split.truth.columns) == targets | {"experiment"}
    held = table[table["model"] == holdout].reset_index(drop=True)
    pd.testing.assert_frame_equal(split.truth, held[["experiment", "period_us", "gap_steps", "duration_us"]])


@settings(max_examples=40, deadline=None)
@given(tables())
def test_models_weigh_the_same_and_within_a_model_its_experiments(table):
    weights = row_weights(table)
    assert weights.mean() == pytest.approx(1)
    assert (weights > 0).all()
    for column, within in [("model", []), ("experiment", ["model"])]:
        totals = pd.Series(weights).groupby(table[column].to_numpy()).sum()
        groups = (
            table.drop_duplicates(column).set_index(column)[within[0]]
            if within
            else pd.Series("all", index=totals.index)
        )
        for _, same in totals.groupby(groups.reindex(totals.index)):
            assert same.to_numpy() == pytest.approx(same.iloc[0])


def test_within_an_experiment_a_mean_over_ten_steps_weighs_a_tenth():
    table = Steps().run("llama-2-7b", rows=3, gap_steps=[1, 10, 5]).table()
    weights = row_weights(table)
    assert weights / weights[0] == pytest.approx([1, 0.1, 0.2])


@settings(max_examples=30, deadline=None)
@given(tables(), st.sampled_from(["model", "workload"]))
def test_inner_folds_hold_each_group_out_once_and_share_no_experiment(table, group):
    parts = folds.inner_folds(table, group)
    names = sorted(table[group].unique())
    assert [name for name, _, _ in parts] == (names if len(names) > 1 else [])
    for name, train, held in parts:
        assert set(held[group]) == {name}
        assert name not in set(train[group])
        assert keys(pd.concat([train, held])) == keys(table)
        assert not set(train["experiment"]) & set(held["experiment"])


def test_an_experiment_on_both_sides_raises():
    table = Steps().run("llama-2-7b", rows=4).table()
    with pytest.raises(AssertionError, match=r"leak: experiments on both sides.*llama-2-7b"):
        folds.check_disjoint(table.iloc[:2], table.iloc[2:])
    mislabelled = table.assign(
        model=["llama-2-7b", "llama-2-7b", "llama-2-70b", "llama-2-70b"], num_layers=[32, 32, 80, 80]
    )
    with pytest.raises(AssertionError, match="leak"):
        folds.make_split(mislabelled, spec("lomo", "llama-2-70b"))


def both():
    return (
        Steps()
        .run("llama-2-7b")
        .run("llama-2-70b", workload="codegen")
        .run(MIXTRAL)
        .run(MIXTRAL, workload="codegen")
        .table()
    )


@pytest.mark.parametrize("name", ["llama-2-70b", "llama-2-70b-hf", "meta-llama/Llama-2-70b-hf"])
def test_a_model_is_held_out_by_its_name_or_its_huggingface_id(name):
    assert set(folds.make_split(both(), spec("lomo", name)).inputs["model"]) == {"llama-2-70b"}


def test_a_holdout_that_is_not_there_is_an_error_that_lists_what_is():
    with pytest.raises(
        InputError,
        match=r"fold lomo_test: model 'gpt-2' is not in the data; there are llama-2-70b, llama-2-7b, mixtral",
    ):
        folds.make_split(both(), spec("lomo", "gpt-2"))
    with pytest.raises(InputError, match="workload 'chat' is not in the data; there are codegen, general"):
        folds.make_split(both(), spec("lowo", "chat"))


def test_a_fold_within_one_model_sees_that_model_only():
    split = folds.make_split(both(), spec("within", "codegen"))
    assert set(split.train["model"]) == set(split.inputs["model"]) == {MIXTRAL}
    assert (set(split.train["workload"]), set(split.inputs["workload"])) == ({"general"}, {"codegen"})
    other = folds.make_split(
        both().assign(model="llama-2-7b"), spec("within", "codegen", within_model="meta-llama/Llama-2-7b-hf")
    )
    assert len(other.train) + len(other.inputs) == len(both())
    with pytest.raises(
        InputError, match="model 'mixtral-8x7b-v0-1' is not in the data; there are llama-2-7b"
    ):
        folds.make_split(Steps().run("llama-2-7b").table(), spec("within", "general"))


def test_splitting_leaves_the_table_as_it_was():
    table = both()
    before = schema.digest(table)
    split = folds.make_split(table, spec("lomo", MIXTRAL))
    split.train["period_us"] = 0.0
    assert schema.digest(table) == before
    assert np.array_equal(table.index, np.arange(len(table)))
