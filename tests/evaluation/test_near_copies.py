"""What is held out cannot come back under another spelling, or as a copy with sizes a little off.

Names are the workload's and the model's, in tables and in fold.holdout; near is every size within 1 %.
"""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from builders import Server, Steps, source
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from processes import h3
from trace_builder import TraceBuilder

from h3.common.config import Fold
from h3.common.errors import InputError
from h3.evaluation import folds
from h3.sources import load
from h3.sources.requests import steps as requests
from h3.steps import catalog, schema, shapes
from h3.steps.weights import row_weights

KNOWN = Steps(seed=3)
for _model in ("llama-2-7b", "llama-2-70b", "codellama-34b", "mixtral-8x7b-v0-1"):
    KNOWN.run(_model, rows=3).run(_model, rows=3, workload="codegen")
TABLE = KNOWN.table()
ARCHITECTURES = sorted(catalog.MODELS)


def lomo(name: str) -> Fold:
    return Fold(name="lomo", kind="lomo", holdout=name)


def lowo(name: str) -> Fold:
    return Fold(name="lowo", kind="lowo", holdout=name)


def copied(model: str, tp: int = 1, copy: str = "its-copy", **sizes: float) -> pd.DataFrame:
    """Rows of a model under another name, with sizes of its own, at another degree."""
    columns = {**asdict(catalog.MODELS[model]), **sizes}
    return Steps(seed=8).run(copy, rows=4, tp=tp, **columns).table()


def joined(*tables: pd.DataFrame) -> pd.DataFrame:
    return pd.concat(tables, ignore_index=True)


# How a workload "general" may be spelled in another experiment.
SPELLINGS = {
    "capital": "General",
    "capitals": "GENERAL",
    "space_after": "general ",
    "space_before": " general",
    "tab": "general\t",
    "line_end": "general\n",
    "no_break_space": "general\u00a0",
    "zero_width_space": "gen\u200beral",
    "byte_order_mark": "\ufeffgeneral",
    "full_width": "\uff47\uff45\uff4e\uff45\uff52\uff41\uff4c",
    "ligature_free": "Gene\u00adral",  # a soft hyphen
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_workload_is_held_out_in_every_spelling(spelling):
    other = TABLE[(TABLE["model"] == "llama-2-7b") & (TABLE["workload"] == "general")]
    other = other.assign(workload=SPELLINGS[spelling], experiment="another")
    table = joined(TABLE, other)
    for asked in ("general", SPELLINGS[spelling]):
        split = folds.make_split(table, lowo(asked))
        assert set(split.train["workload"]) == {"codegen"}
        assert "another" in set(split.inputs["experiment"])


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_log_gives_the_workload_as_it_is_compared(tmp_path, spelling):
    folder = TraceBuilder().steps(4).write(tmp_path)
    with (folder / "exp-config.yaml").open("a") as config:
        config.write(f"workload: {json.dumps(SPELLINGS[spelling])}\n")
    assert set(load.load(source("traces", tmp_path)).table["workload"]) == {"general"}


@pytest.mark.parametrize("separated", ["code gen", "code_gen", "code-gen", "Code  Gen", "CODE.GEN"])
def test_separators_of_a_name_are_alike_to_the_wall(separated):
    table = joined(TABLE.assign(workload=TABLE["workload"].replace("codegen", "code-gen")))
    other = table[table["workload"] == "code-gen"].assign(workload=separated, experiment="another")
    split = folds.make_split(joined(table, other), lowo("code-gen"))
    assert set(split.train["workload"]) == {"general"}


@pytest.mark.parametrize("name", ["\u200b", "\ufeff\u00a0"])
def test_a_workload_whose_name_shows_nothing_is_that_of_its_folder(tmp_path, name):
    folder = TraceBuilder().steps(4).write(tmp_path, name="My-Run")
    with (folder / "exp-config.yaml").open("a") as config:
        config.write(f"workload: {json.dumps(name)}\n")
    assert set(load.load(source("traces", tmp_path)).table["workload"]) == {"my-run"}


def test_workloads_of_other_letters_stay_apart():
    table = joined(
        TABLE.assign(workload=TABLE["workload"].map({"general": "会话", "codegen": "代码"})),
    )
    assert set(folds.make_split(table, lowo("会话")).train["workload"]) == {"代码"}
    with pytest.raises(InputError, match="workload '其他' is not in the data; there are 代码, 会话"):
        folds.make_split(table, lowo("其他"))


MODEL_SPELLINGS = [
    "Llama-2-7B",
    "meta-llama/Llama-2-7b-hf",
    " llama-2-7b",
    "llama_2_7b",
    "llama-2.7b",
    "LLAMA 2 7B",
]


@pytest.mark.parametrize("spelling", MODEL_SPELLINGS)
def test_a_model_is_held_out_in_every_spelling(spelling):
    # Sizes of its own, so that the name alone tells.
    other = copied("llama-2-7b", copy=spelling, num_layers=20).assign(experiment="another")
    for asked in ("llama-2-7b", spelling):
        split = folds.make_split(joined(TABLE, other), lomo(asked))
        assert set(split.train["model"]) == {"llama-2-70b", "codellama-34b", "mixtral-8x7b-v0-1"}
        assert "another" in set(split.inputs["experiment"])


def test_a_saved_table_of_before_is_read_with_names_as_they_are_compared(tmp_path):
    table = TABLE.assign(
        workload=TABLE["workload"].replace("general", "General "),
        model=TABLE["model"].replace("llama-2-7b", "meta-llama/Llama-2-7b-hf"),
    )
    schema.write(table, schema.empty_rejects(), tmp_path / "steps.parquet", {})
    read = load.load(source("steps", tmp_path / "steps.parquet")).table
    pd.testing.assert_frame_equal(read, TABLE)


def test_stages_of_ones_own_have_workloads_as_they_are_compared(tmp_path):
    path = tmp_path / "stages.csv"
    head = "experiment,model,hardware,workload,tensor_parallelism,requests_per_s,prompt_tokens,output_tokens,"
    path.write_text(
        f"{head}e2e_mean_ms,ttft_mean_ms\nmine,llama-2-7b,H100,General-Lite,1,1,100,100,1000,50\n"
    )
    assert set(load.load(source("stage_means", path)).table["workload"]) == {"general"}


def test_an_assumption_on_a_workload_holds_in_any_spelling(tmp_path):
    server = Server(periods_us=[20_000] * 400)
    for first in range(3, 200, 2):
        server = server.serve(first_step=first, output_tokens=50, prompt_tokens=90)
    server.write_tracev2(tmp_path)
    read = [
        requests.load(source("requests", tmp_path, shared_prefix_tokens={name: 64})).table[
            "prefill_kv_tokens_sum"
        ]
        for name in ("general", "General ", "other")
    ]
    assert read[0].equals(read[1]) and not read[0].equals(read[2])


def test_the_command_holds_out_what_is_asked_in_another_spelling(tmp_path):
    other = TABLE[TABLE["workload"] == "general"].assign(workload="General", experiment="another")
    schema.write(joined(TABLE, other), schema.empty_rejects(), tmp_path / "steps.parquet", {})
    done = h3(
        *(
            tmp_path,
            "train",
            "source=steps",
            "source.path=steps.parquet",
            "fold=lowo",
            "fold.holdout=GENERAL",
        ),
        *("tune.trials=0", "model=roofline_layers"),
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(next((tmp_path / "outputs").rglob("result.json")).read_text())
    assert (result["holdout"], result["n_test"], result["n_train"]) == ("general", 12 + len(other), 12)


# Sizes of a copy of llama-2-70b: (hidden 8192, ffn 28672, 80 layers, 64 and 8 heads of 128).
COPIES = {
    "one_more_ffn": {"dense_ffn_size": 28673},
    "one_less_ffn": {"dense_ffn_size": 28671},
    "one_percent_ffn": {"dense_ffn_size": 28958},
    "a_wider_stream": {"hidden_size": 8256},
    "a_wider_head": {"head_dim": 129},
    "all_a_little": {"dense_ffn_size": 28600, "hidden_size": 8200, "head_dim": 127},
    "another_vocabulary": {"vocab_size": 256_000},
    "eight_bits": {"bytes_per_parameter": 1.0},
    "another_name_only": {},
}


@pytest.mark.parametrize("tp", [1, 4, 8])
@pytest.mark.parametrize("copy", COPIES)
def test_a_near_copy_is_held_out_with_its_model_at_any_degree(copy, tp):
    table = joined(TABLE, copied("llama-2-70b", tp, **COPIES[copy]))
    for asked in ("llama-2-70b", "its-copy"):
        split = folds.make_split(table, lomo(asked))
        assert set(split.inputs["model"]) == {"llama-2-70b", "its-copy"}
        assert set(split.train["model"]) == {"llama-2-7b", "codellama-34b", "mixtral-8x7b-v0-1"}
    for _, train, held in folds.inner_folds(table, "model"):
        assert not set(train["model"]) & set(held["model"])
        assert ("its-copy" in set(train["model"])) == ("llama-2-70b" in set(train["model"]))


OTHERS = {
    "two_percent_ffn": {"dense_ffn_size": 29_246},
    "a_layer_more": {"num_layers": 81},
    "half_the_kv_heads": {"num_kv_heads": 4},
    "with_experts": {
        "num_experts": 8,
        "num_moe_layers": 80,
        "experts_per_token": 2,
        "expert_ffn_size": 28672,
    },
    "with_a_window": {"window_tokens": 4096.0, "num_window_layers": 40.0},
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_model_stays_in_training(other):
    split = folds.make_split(joined(TABLE, copied("llama-2-70b", **OTHERS[other])), lomo("llama-2-70b"))
    assert "its-copy" in set(split.train["model"])


def test_a_copy_of_a_copy_is_of_the_group():
    chain = [
        copied("llama-2-70b", copy=f"copy-{step}", dense_ffn_size=round(28672 * 1.009**step))
        for step in (1, 2, 3)
    ]
    split = folds.make_split(joined(TABLE, *chain[::-1]), lomo("llama-2-70b"))
    assert set(split.inputs["model"]) == {"llama-2-70b", "copy-1", "copy-2", "copy-3"}


def test_a_model_of_which_one_row_is_a_near_copy_is_held_out_whole():
    mixed = joined(
        copied("llama-2-70b"), copied("codellama-34b", num_layers=30).assign(experiment="its-other-run")
    )
    split = folds.make_split(joined(TABLE, mixed), lomo("llama-2-70b"))
    assert "its-copy" not in set(split.train["model"])
    assert {"its-other-run"} <= set(split.inputs["experiment"])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_row_of_a_copy_within_one_percent_is_in_training(data):
    name = data.draw(st.sampled_from(ARCHITECTURES))
    sizes = catalog.MODELS[name].columns()
    changed = {}
    for size in schema.SHAPE_NAMES:
        most = int(0.01 * sizes[size])
        changed[size] = sizes[size] + data.draw(st.integers(-most, most), label=size)
    changed["vocab_size"] = data.draw(st.integers(1000, 300_000))
    copy = copied(name, tp=data.draw(st.sampled_from([1, 2, 4])), **changed)
    others = [other for other in ("llama-2-7b", "codellama-34b") if other != name]
    table = joined(Steps().run(name, rows=2).run(others[0], rows=2).table(), copy)
    table = table.sample(frac=1, random_state=data.draw(st.integers(0, 9))).reset_index(drop=True)
    for asked in (name, "its-copy"):
        split = folds.make_split(table, lomo(asked))
        assert set(split.train["model"]) == {others[0]}
        assert len(split.inputs) == 6


@settings(max_examples=40, deadline=None)
@given(st.integers(10, 10**6), st.floats(1.0101, 3.0), st.booleans())
def test_a_size_more_than_one_percent_off_is_another_model(size, factor, smaller):
    other = round(size / factor) if smaller else round(size * factor)
    assume(abs(other - size) > 0.0101 * max(size, other) and 0 < other <= 10**6)
    pair = joined(
        copied("llama-2-7b", dense_ffn_size=size), copied("llama-2-7b", copy="another", dense_ffn_size=other)
    )
    assert len(set(shapes.groups(pair))) == 2


def test_near_copies_weigh_as_one_model():
    copies = [
        copied("llama-2-70b", copy=f"copy-{number}", dense_ffn_size=28672 + number) for number in range(5)
    ]
    table = joined(TABLE, *copies)
    weight = pd.Series(row_weights(table)).groupby(table["model"].to_numpy()).sum()
    assert weight[weight.index.str.startswith("copy-")].sum() + weight["llama-2-70b"] == pytest.approx(
        weight["llama-2-7b"]
    )


def test_the_known_models_have_no_near_copy_but_the_one_that_differs_in_the_vocabulary():
    built = Steps()
    for name in ARCHITECTURES:
        built.run(name, rows=1)
    table = built.table()
    number = pd.Series(shapes.groups(table), index=table["model"])
    assert number.nunique() == len(ARCHITECTURES) - 1
    assert number["llama-2-70b"] == number["llama-3.1-70b-instruct"]


def test_thousands_of_architectures_are_told_apart_in_seconds():
    sizes = np.arange(3000)
    table = joined(*[copied("llama-2-7b").iloc[:1]] * len(sizes)).assign(
        hidden_size=1000 + 100 * sizes, dense_ffn_size=1 + sizes**2, model=[f"m{size}" for size in sizes]
    )
    assert len(set(shapes.groups(table))) > 10


@pytest.mark.parametrize("kind", ["lomo", "lowo"])
def test_a_fold_whose_group_is_all_the_data_under_two_spellings_says_so(kind):
    one = Steps().run("llama-2-7b", rows=2).table()
    table = joined(one, one.assign(experiment="another", workload="General", model="Llama-2-7B"))
    with pytest.raises(InputError, match="is all the data; expected another"):
        folds.make_split(
            table, Fold(name=kind, kind=kind, holdout={"lomo": "llama-2-7b", "lowo": "general"}[kind])
        )


def test_within_one_model_its_other_spellings_are_that_model():
    named = (TABLE["model"] == "mixtral-8x7b-v0-1") & (TABLE["workload"] == "codegen")
    other = TABLE[named].assign(model="Mixtral-8x7B-v0.1", experiment="another")
    split = folds.make_split(joined(TABLE, other), Fold(name="within", kind="within", holdout="CodeGen"))
    assert set(split.train["workload"]) == {"general"}
    assert set(split.inputs["experiment"]) == {"another", "20260101-000000-mixtral-8x7b-v0-1-tp2-codegen"}
