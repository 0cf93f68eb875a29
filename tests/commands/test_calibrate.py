"""The champion adapted to a server from a little of its log, validated on what came later."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from builders import Server, Steps, source
from processes import h3

from h3 import bundle
from h3.bundle import standing, uncertainty
from h3.evaluation.few_shot import adapt, mape
from h3.sources.requests import steps as requests

REPEAT = "source.assume.prefill_tokens=repeat"


def served(folder: Path, slowdown: float, count: int = 260) -> Path:
    """A log of a 7b server whose steps take what the champion says times `slowdown`."""
    champion = bundle.read(standing.SHIPPED)
    log = Server([10_000] * 6000).serve_at_random(count).write_tracev2(folder / "probe")

    experiment, read = requests.read_experiment(log, source(path=log, prefill_tokens="repeat"))
    table = requests.from_log(
        experiment, read, source(path=log, prefill_tokens="repeat", sample_every=1)
    ).table
    period_us = float(np.median(champion.predict(table))) * slowdown
    return Server([round(period_us)] * 6000).serve_at_random(count).write_tracev2(folder / "runs")


def test_a_slower_server_is_learned_from_few_requests_and_the_bundle_says_so(tmp_path):
    log = served(tmp_path, slowdown=1.25)
    done = h3(tmp_path, "calibrate", f"source.path={log.parent}", REPEAT, "requests=200", "out=mine")
    assert done.returncode == 0, done.stderr
    assert "calibrated on" in done.stdout and "(the first 200 requests)" in done.stdout
    found, champion = bundle.read(tmp_path / "mine"), bundle.read(standing.SHIPPED)
    said = found.manifest.provenance
    assert said["calibrated"]["from_bundle"] == champion.digest and said["folds"]
    assert "calibrated on" in standing.told(found)

    table = requests.load(source(path=log.parent, prefill_tokens="repeat")).table
    known = found.manifest.uncertainty.kinds["known"]
    assert known.high == champion.manifest.uncertainty.kinds["known"].high
    assert "later part of the logs of calibration" in known.words and known.coverage[0] <= known.coverage[-1]
    assert set(uncertainty.kinds(found.evidence, table)) <= {("known",), ("new_workload",)}
    assert mape(found, table) < 0.5 * mape(champion, table)
    assert json.loads((tmp_path / "mine" / "golden.json").read_text())


def test_a_server_that_is_as_the_champion_says_leaves_it_as_it_was():
    champion = bundle.read(standing.SHIPPED)
    fit = champion.fitted_by_route()["dense"]

    made = Steps(seed=5).run("llama-2-7b", rows=400).timed(lambda table: fit.predict(table)).table()
    found = adapt(fit, made)
    assert found.strength is None and found.fitted is fit and found.before < 1e-6


def test_what_comes_later_judges_a_drift_is_not_fitted_away():
    """The first part is slow, the last as the fit says: fitting the first would be wrong for what follows."""

    fit = bundle.read(standing.SHIPPED).fitted_by_route()["dense"]
    table = Steps(seed=5).run("llama-2-7b", rows=400).timed(lambda rows: fit.predict(rows)).table()
    place = table["step_id"].rank(pct=True)
    drifted = table.assign(period_us=table["period_us"] * np.where(place <= 0.65, 1.4, 1.0))
    assert adapt(fit, drifted).strength is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("requests=20",), "requests=20"),
        (("source=stage_means", "requests=200"), "source=stage_means holds no requests"),
        (("source.path=nowhere",), "nowhere: does not exist"),
    ],
)
def test_what_cannot_calibrate_is_one_line(tmp_path, arguments, said):
    done = h3(tmp_path, "calibrate", *arguments)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error: ")
    assert said in done.stderr and not (tmp_path / "dist").exists()


def test_a_log_that_is_too_short_is_refused(tmp_path):
    log = Server([10_000] * 300).serve(3, 50).write_tracev2(tmp_path / "runs")
    done = h3(tmp_path, "calibrate", f"source.path={log.parent}", REPEAT)
    assert done.returncode == 2 and "steps to calibrate on; expected at least 40" in done.stderr


def test_calibration_keeps_trees_and_moves_the_base_alone(tmp_path):
    golden = bundle.read(Path(__file__).parents[2] / "go" / "h3bundle" / "testdata" / "bundle")
    fit = golden.fitted_by_route()["dense"]

    table = Steps(seed=5).run("llama-2-7b", rows=400).timed(lambda rows: 1.3 * fit.predict(rows)).table()
    found = adapt(fit, table)
    assert found.after < 0.7 * found.before
    assert dataclasses.replace(found.fitted, base=fit.base) == fit
