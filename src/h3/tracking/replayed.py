"""A model to replay with, and the overheads that come with it: a bundle's, a run's own, or the study's.

    fitted, overheads, origin = model_and_overheads("dist/blis", TrackingConfig())

`origin` says in words where the overheads come from.
"""

from __future__ import annotations

from h3.common.config import TrackingConfig
from h3.evaluation import result
from h3.models.protocol import Predicts
from h3.server.overheads import STUDY_IN_STEPS, Overheads
from h3.tracking.find import find, fit_of_run, is_run

FALLBACK = (
    "the run estimated none of its own: mean over the study's request logs, the held-out model's included, so"
    " the replay is not blind in this respect"
)


def model_and_overheads(name: str, tracking: TrackingConfig) -> tuple[Predicts, Overheads, str]:
    """The predictor of that name (a bundle's or a run's), its overheads, and their origin."""
    if is_run(name):
        return _of_run(name, tracking)
    read = find(name, tracking)
    origin = read.manifest.provenance.get("overheads", "constants as BLIS takes them")
    return read, read.overheads, f"the bundle's manifest: {origin}"


def _of_run(run_id: str, tracking: TrackingConfig) -> tuple[Predicts, Overheads, str]:
    """The fit and the overheads that the run's own fold estimated; the study's where it replayed nothing or
    had no log to estimate from.
    """
    from h3.tracking import artifacts
    from h3.tracking.store import open_store

    store = open_store(tracking.uri, tracking.experiment)
    fitted = fit_of_run(store, run_id)
    replay = result.read(artifacts.of_run(store, run_id, "result.json"), f"run {run_id}").replay
    if replay is None or replay.overheads is None:
        return fitted, STUDY_IN_STEPS, FALLBACK
    estimated = replay.overheads_estimated
    # Runs of before `overheads_estimated` have zeros where they estimated nothing.
    if estimated is None:
        estimated = any(replay.overheads.recorded().values())
    if not estimated:
        return fitted, STUDY_IN_STEPS, FALLBACK
    return fitted, replay.overheads, "estimated by the run from its training experiments"
