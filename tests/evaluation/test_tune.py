"""The search over inner folds: seeded, resumable, in favour of no trees, and blind to what is held out."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import Steps
from joblib import Parallel, delayed

from h3 import steps
from h3.common.config import FeaturesConfig, Fold, ModelConfig, SourceConfig, TrainConfig, TuneConfig
from h3.common.progress import Progress
from h3.evaluation import tune
from h3.evaluation.one_fold import run_fold
from h3.models import boosting, physical_base, xgboost_residual, xgboost_scale_free, zoo
from h3.models.protocol import Context
from h3.models.xgboost_residual import Params
from h3.sources.experiment import Ingested
from h3.steps import schema

# Five models, so that four are left to train on: the known architectures and one made of them.
VARIANTS = {"wide-20b": {"num_layers": 40, "hidden_size": 6144, "num_heads": 48, "num_kv_heads": 48}}
MODELS = ["llama-2-7b", "llama-2-70b", "codellama-34b", "mixtral-8x7b-v0-1", *VARIANTS]
HELD_OUT = "llama-2-70b"
ROUNDS = (0, 1, 2, 4, 8, 16, 32)
FEW = TuneConfig(storage=None, trials=2, max_rows=400)


def physical_us(table):
    terms = physical_base.physics.terms_us(table)
    return sum(terms[name].to_numpy() * prior for name, (prior, _) in physical_base.PRIOR.items())


def bent_us(table):
    """A server whose large batches are slower than physics says, the same way for every model."""
    return physical_us(table) * np.where(table["num_decode_reqs"] > 60, 1.3, 0.8)


def served(truth_us, models=MODELS, rows=30, noise=0.02, workloads=("general", "codegen")):
    built = Steps(11)
    for model in models:
        for workload in workloads:
            built.run(model, rows, workload=workload, **VARIANTS.get(model, {}))
    return built.timed(truth_us, noise).table()


BENT = served(bent_us)


def training(table):
    return table[table["model"] != HELD_OUT].reset_index(drop=True)


@pytest.fixture(scope="module", autouse=True)
def few_trees():
    """At most 32 trees instead of 200: a search in a fraction of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boosting, "ROUNDS", ROUNDS)
        yield


@pytest.fixture(scope="module")
def found():
    return tune.search(training(BENT), Context(), TuneConfig(storage=None, trials=4, max_rows=400))


def test_trees_are_chosen_where_every_model_leaves_the_same_residual(found):
    assert found.params.n_estimators > 0
    assert str(found.params.n_estimators) in found.note
    assert found.trials["inner_error"].min() < 0.9 * found.trials["without_trees"].iloc[0]


@pytest.mark.parametrize("trials", [1, 2])
def test_as_many_trials_are_made_as_asked_for(trials):
    assert (
        len(
            tune.search(
                training(BENT), Context(), TuneConfig(storage=None, trials=trials, max_rows=400)
            ).trials
        )
        == trials
    )


def test_a_model_with_a_single_row_is_not_lost_where_long_experiments_are_thinned():
    table, lone = training(BENT), BENT[BENT["model"] == HELD_OUT].iloc[:1]
    table = pd.concat([table.iloc[:1], lone, table.iloc[1:]], ignore_index=True)
    searched = tune.search(table, Context(), TuneConfig(storage=None, trials=1, max_rows=100))
    assert HELD_OUT in searched.trials["inner_errors"].iloc[0]


def test_the_first_trial_is_the_usual_parameters(found):
    start = found.trials.iloc[0]
    assert (start["max_depth"], start["learning_rate"]) == (Params().max_depth, Params().learning_rate)
    assert (start["min_child_weight"], start["reg_lambda"], start["subsample"]) == (20, 10, 0.8)


def test_the_search_is_the_same_for_the_same_seed_and_not_for_another(found):
    again = tune.search(training(BENT), Context(threads=2), TuneConfig(storage=None, trials=3, max_rows=400))
    pd.testing.assert_frame_equal(again.trials, found.trials.iloc[:3])
    other = tune.search(training(BENT), Context(seed=1), TuneConfig(storage=None, trials=2, max_rows=400))
    assert not np.isin(other.trials["learning_rate"].iloc[1:], found.trials["learning_rate"]).any()


@pytest.mark.parametrize("stopped_after", [1, 3])
def test_a_stopped_search_resumes_and_ends_where_an_uninterrupted_one_does(found, tmp_path, stopped_after):
    stored = {"storage": str(tmp_path / "tune"), "max_rows": 400}
    tune.search(training(BENT), Context(), TuneConfig(trials=stopped_after, **stored))
    told = []
    second = tune.search(
        training(BENT),
        Context(),
        TuneConfig(trials=4, **stored),
        progress=lambda done, total: told.append((done, total)),
    )
    pd.testing.assert_frame_equal(second.trials, found.trials)
    assert second.params == found.params
    assert told == [(number, 4) for number in range(stopped_after + 1, 5)]


def test_a_search_interrupted_within_a_trial_resumes_and_ends_where_an_uninterrupted_one_does(
    found, tmp_path
):
    options = TuneConfig(trials=4, max_rows=400, storage=str(tmp_path))
    calls = []

    def interrupted(*arguments):
        whole = xgboost_residual.learning_curve(*arguments)

        def curve(params):
            calls.append(1)
            if len(calls) == 11:  # four inner folds a trial: within the third
                raise KeyboardInterrupt
            return whole(params)

        return curve

    with pytest.raises(KeyboardInterrupt):
        tune.search(
            training(BENT), Context(), options, replace(xgboost_residual.TUNED, learning_curve=interrupted)
        )
    resumed = tune.search(training(BENT), Context(), options)
    assert resumed.params == found.params
    pd.testing.assert_frame_equal(resumed.trials.drop(columns="trial"), found.trials.drop(columns="trial"))


def test_a_search_that_asks_for_fewer_trials_than_are_stored_answers_as_if_no_more_were_made(tmp_path):
    stored = {"storage": str(tmp_path), "max_rows": 400}
    tune.search(training(BENT), Context(), TuneConfig(trials=4, **stored))
    fewer = tune.search(training(BENT), Context(), TuneConfig(trials=2, **stored))
    fresh = tune.search(training(BENT), Context(), TuneConfig(storage=None, trials=2, max_rows=400))
    assert fewer.params == fresh.params
    pd.testing.assert_frame_equal(fewer.trials, fresh.trials)


def counted_search(options):
    told = []
    outcome = tune.search(training(BENT), Context(), options, progress=lambda done, total: told.append(done))
    return outcome.trials, len(told)


def test_two_processes_on_one_fold_share_its_trials(tmp_path):
    options = TuneConfig(trials=4, max_rows=400, storage=str(tmp_path))
    (first, made), (second, made_too) = Parallel(n_jobs=2)(delayed(counted_search)(options) for _ in range(2))
    pd.testing.assert_frame_equal(first, second)
    assert made + made_too == 4


@pytest.mark.parametrize("name", ["features.py", "counts.py", "kernels.py", "hf_config/ffn.py"])
def test_trials_made_by_other_code_are_not_taken_over(tmp_path, monkeypatch, name):
    options = TuneConfig(trials=1, max_rows=400, storage=str(tmp_path / "tune"))
    tune.search(training(BENT), Context(), options)
    edited = Path(shutil.copytree(steps.__path__[0], tmp_path / "steps"))
    (edited / name).write_text((edited / name).read_text() + "# edited")
    monkeypatch.setattr(steps, "__path__", [str(edited)])
    tune.search(training(BENT), Context(), options)
    assert len(list((tmp_path / "tune").glob("*.log"))) == 2


def test_a_stored_search_is_not_resumed_for_other_data(tmp_path):
    options = TuneConfig(trials=1, max_rows=400, storage=str(tmp_path))
    tune.search(training(BENT), Context(), options)
    tune.search(training(BENT.assign(period_us=BENT["period_us"] * 1.01)), Context(), options)
    tune.search(training(BENT), Context(seed=1), options)
    assert len(list(tmp_path.glob("*.log"))) == 3


def test_no_trees_are_chosen_when_the_residual_is_noise():
    noise = served(physical_us, noise=0.05)
    found = tune.search(training(noise), Context(), FEW)
    assert found.params.n_estimators == 0
    assert found.note.startswith("0 trees")


@pytest.mark.parametrize("group", ["model", "workload"])
def test_too_few_training_groups_get_the_base_alone_with_a_note(group):
    names = [f"group-{number}" for number in range(tune.LEAST_GROUPS[group])]
    for count in (1, len(names) - 1):
        part = training(BENT).iloc[:40]
        table = pd.concat(
            [part.assign(**{group: name, "experiment": name}) for name in names[:count]], ignore_index=True
        )
        found = tune.search(table, Context(group=group), FEW)
        assert found.params == Params(n_estimators=0, known_only=group == "workload")
        assert found.note.startswith(f"{count} training {group}")
        assert "no trees" in found.note
        assert found.trials.empty


def test_enough_training_groups_are_searched():
    table = BENT[BENT["model"].isin(MODELS[:3])]
    three = pd.concat(
        [table.assign(workload=name, experiment=table["experiment"] + name) for name in "abc"],
        ignore_index=True,
    )
    assert (
        len(
            tune.search(
                three, Context(group="workload"), TuneConfig(storage=None, trials=1, max_rows=300)
            ).trials
        )
        == 1
    )


def test_no_trials_are_the_base_alone():
    found = tune.search(training(BENT), Context(), TuneConfig(storage=None, trials=0))
    assert (found.params.n_estimators, found.note) == (0, "tuning off: no trees")


# Trees that are all that there is


def test_a_predictor_without_a_base_searches_from_two_groups_on_and_takes_trees_that_gain_little():
    two = BENT[BENT["model"].isin(MODELS[:2])].reset_index(drop=True)
    found = tune.search(two, Context(), FEW, xgboost_scale_free.TUNED)
    assert len(found.trials) == 2 and found.params.n_estimators > 0
    assert "level alone" in found.note
    one = tune.search(two[two["model"] == MODELS[0]], Context(), FEW, xgboost_scale_free.TUNED)
    usual = xgboost_scale_free.Params()
    assert (one.params, one.note) == (
        usual,
        f"1 training model, fewer than 2: {usual.n_estimators} trees of the usual parameters",
    )
    off = tune.search(two, Context(), TuneConfig(storage=None, trials=0), xgboost_scale_free.TUNED)
    assert off.params == usual and off.note.startswith("tuning off: ")


def test_two_predictors_do_not_share_trials(tmp_path):
    options = TuneConfig(trials=1, max_rows=300, storage=str(tmp_path))
    for tuned in (xgboost_residual.TUNED, xgboost_scale_free.TUNED):
        tune.search(training(BENT), Context(), options, tuned)
    assert len(list(tmp_path.glob("*.log"))) == 2


def test_the_search_without_a_base_resumes_and_ends_where_an_uninterrupted_one_does(tmp_path):
    stored = {"storage": str(tmp_path), "max_rows": 300}
    tune.search(training(BENT), Context(), TuneConfig(trials=1, **stored), xgboost_scale_free.TUNED)
    resumed = tune.search(training(BENT), Context(), TuneConfig(trials=3, **stored), xgboost_scale_free.TUNED)
    whole = tune.search(
        training(BENT), Context(), TuneConfig(trials=3, storage=None, max_rows=300), xgboost_scale_free.TUNED
    )
    assert resumed.params == whole.params
    pd.testing.assert_frame_equal(resumed.trials, whole.trials)


def curves(*rows):
    """Errors after 0, 1, 2, ... trees of each inner fold; the last value goes on."""
    return np.array([list(row) + [row[-1]] * (len(ROUNDS) - len(row)) for row in rows])


@pytest.mark.parametrize(
    ("rows", "best"),
    [
        ([(0.10, 0.08, 0.05, 0.07), (0.10, 0.09, 0.06, 0.08)], 2),
        ([(0.10, 0.11, 0.12), (0.10, 0.11, 0.12)], 0),
        ([(0.10, 0.02, 0.02), (0.10, 0.12, 0.12)], 0),
        ([(0.10, 0.02, 0.02), (0.10, 0.101, 0.12)], 1),
        ([(0.10, 0.099, 0.098), (0.10, 0.099, 0.098)], 0),
    ],
    ids=["least mean", "trees harm", "one group is harmed", "harm within the tolerance", "gain too small"],
)
def test_the_number_of_trees_must_gain_and_harm_no_inner_group(rows, best):
    assert tune.best_rounds(curves(*rows)) == best


def test_the_rows_used_are_spread_over_the_table_and_no_more_than_allowed():
    seen = []

    def record(usual, train, held, context):
        seen.append(pd.concat([train, held]))
        return lambda params: np.ones(len(ROUNDS))

    tune.search(
        training(BENT),
        Context(),
        TuneConfig(storage=None, trials=1, max_rows=150),
        replace(xgboost_residual.TUNED, learning_curve=record),
    )
    for rows in seen:
        assert 80 <= len(rows) <= 150
        assert set(rows["experiment"]) == set(training(BENT)["experiment"])


# What may be done to held-out rows. None of it may reach the model.
RNG = np.random.default_rng(5)
BATCH = [
    "num_decode_reqs",
    "num_prefill_reqs",
    "prefill_tokens",
    "decode_tokens",
    "decode_kv_tokens_sum",
    "prefill_attended_tokens",
]
TAMPER = {
    "times scaled": lambda held: held.assign(
        period_us=held["period_us"] * 100, duration_us=held["duration_us"] * 1e-3
    ),
    "times shuffled": lambda held: held.assign(period_us=RNG.permutation(held["period_us"])),
    "times noise": lambda held: held.assign(
        period_us=RNG.lognormal(9, 3, len(held)), gap_steps=RNG.integers(1, 99, len(held))
    ),
    "features scaled": lambda held: held.assign(**{name: held[name] * 50 for name in BATCH}),
    "features shuffled": lambda held: held.assign(**{name: RNG.permutation(held[name]) for name in BATCH}),
    "features noise": lambda held: held.assign(**{name: RNG.uniform(0, 1e6, len(held)) for name in BATCH}),
    "another architecture": lambda held: held.assign(
        num_layers=7, hidden_size=128, num_experts=64, experts_per_token=1, hardware="L40S"
    ),
    "half of the rows": lambda held: held.iloc[::2],
}
FOLDS = {
    "lomo": Fold(name="lomo_test", kind="lomo", holdout=HELD_OUT),
    "lowo": Fold(name="lowo_test", kind="lowo", holdout="general"),
}
FOUR_WORKLOADS = served(
    bent_us, MODELS[:3], rows=25, workloads=("general", "codegen", "roleplay", "reasoning")
)


def model_digest(table, fold, name):
    """Digest of the predictor of that name that a run of the fold tunes, fits and reports."""
    config = TrainConfig(
        source=SourceConfig(name="simulated"),
        fold=Fold(name=fold.name, kind=fold.kind, holdout=fold.holdout),
        model=ModelConfig(name=name),
        features=FeaturesConfig(name="scale_free"),
        tune=TuneConfig(trials=2, max_rows=300, storage=None),
    )
    result = run_fold(
        Ingested(table, schema.empty_rejects(), {}), config, Progress(fold.name, io.StringIO())
    ).result
    assert result.params["n_estimators"] > 0, "the proof needs trees"
    return result.model_digest


def data_of(kind):
    table = BENT if kind == "lomo" else FOUR_WORKLOADS
    return table, (table[FOLDS[kind].group] == FOLDS[kind].holdout).to_numpy()


def on(table, rows, change):
    """The table with a change to some of its rows, in the same order."""
    return pd.concat([change(table[rows]), table[~rows]]).sort_index().reset_index(drop=True)


TUNED = [name for name, entry in zoo.PREDICTORS.items() if entry.tuned]


@pytest.fixture(scope="module")
def untouched():
    return {
        (kind, name): model_digest(data_of(kind)[0], fold, name)
        for kind, fold in FOLDS.items()
        for name in TUNED
    }


@pytest.mark.parametrize("name", TUNED)
@pytest.mark.parametrize(
    ("kind", "how"),
    [
        *[("lomo", how) for how in TAMPER],
        *[("lowo", how) for how in ("times scaled", "times shuffled", "times noise", "features noise")],
    ],
)
def test_whatever_is_done_to_held_out_rows_the_model_stays_the_same(kind, how, name, untouched):
    table, held = data_of(kind)
    assert model_digest(on(table, held, TAMPER[how]), FOLDS[kind], name) == untouched[kind, name]


@pytest.mark.parametrize("name", TUNED)
@pytest.mark.parametrize("kind", FOLDS)
def test_a_change_to_one_training_row_changes_the_model(kind, name, untouched):
    table, held = data_of(kind)
    one = np.arange(len(table)) == np.flatnonzero(~held)[3]
    changed = on(table, one, lambda row: row.assign(period_us=row["period_us"] * 1.5))
    assert model_digest(changed, FOLDS[kind], name) != untouched[kind, name]
