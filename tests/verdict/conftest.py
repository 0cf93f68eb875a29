"""A verdict to report on, small and whole."""

import pytest

from h3.common.config import study
from h3.verdict import replays, stability
from h3.verdict.content import Means, Provenance, Source, Verdict
from h3.verdict.evidence import PredictorRow
from h3.verdict.hypothesis import STUDY, judge


@pytest.fixture
def verdict_of():
    """Makes a verdict on "ours" from results of fold "a" by predictor; keywords replace parts of it."""

    def made(results, source="requests", **changed):
        said = judge([], study())
        empty = {"folds": {}, "mean": None, "lomo_mean": None, "lowo_mean": None, "n_folds": 0}
        inside = {name: name == "inside" for name in results}
        rows = [PredictorRow(predictor=name, sees_held_out=saw, **empty) for name, saw in inside.items()]
        parts = {
            "hypothesis": said.hypothesis,
            "sentence": said.sentence,
            "model": "ours",
            "source": Source(name=source, data=provenance(source).data),
            **study().model_dump(exclude={"folds"}),
            "sees_held_out": False,
            "folds": said.folds,
            "study": STUDY,
            "ours": Means(**dict.fromkeys(MEANS)),
            "predictors": rows,
            "left_out": [],
            "provenance": provenance(source),
            "ablation": None,
            "within": [],
            "replay": replays.compared({("a", name): found for name, found in results.items()}, "ours"),
            "significance": [],
            "diagnostics": {},
            "stability": {"ours": dict.fromkeys(("lomo", "lowo", "all"), stability.measure({}))},
        }
        return Verdict(**(parts | changed))

    return made


MEANS = ("lomo_mean_mape", "lowo_mean_mape", "lomo_worst_mape", "lowo_worst_mape")


def provenance(source):
    return Provenance(
        sweep="5eed",
        started="2026-01-01 00:00:00",
        source=source,
        data="measured on H100: request logs, 13 experiments",
        data_digest="d1",
        commits=["c0ffee"],
        versions={"h3": "0.1"},
        seeds=[0],
        assumptions={},
        n_runs=1,
        n_finished=1,
        commands=["python -m h3.compare sweep=5eed"],
    )
