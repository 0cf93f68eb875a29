"""The constants of a request that a bundle carries for BLIS, and where each comes from: given, measured or
the study's.

    overheads, origin = resolve(OverheadsConfig(), source, held_out=set())

From request logs the time before a request can be scheduled is measured in BLIS's form
(replay_overheads.constant). What follows a request's last token is not in such a log, and the periods
recovered from it hold all that comes before: 0.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from h3.bundle.manifest import Overheads
from h3.common.config import SourceConfig, Strict
from h3.latency import overheads as replay_overheads
from h3.latency.fold import find_recorded
from h3.latency.recorded import Recorded

LOGS = ("requests", "logs")
STUDY = Overheads()


class OverheadsConfig(Strict):
    """Constants of a request, us; null: measured on the request logs that the model learned from, else the
    study's means.
    """

    queueing_us: float | None = Field(None, ge=0, le=1e9)
    post_decode_us: float | None = Field(None, ge=0, le=1e9)
    output_token_us: float = Field(0.0, ge=0, le=1e9)


def resolve(config: OverheadsConfig, source: SourceConfig, held_out: set[str]) -> tuple[Overheads, str]:
    """The overheads and where they come from, in words; `held_out`: experiments of the source that are not to
    be read.

    Raises InputError where the source's logs are to be read and are not there.
    """
    given = config.queueing_us is not None and config.post_decode_us is not None
    measured = (
        None if given or source.name not in LOGS else replay_overheads.constant(_training(source, held_out))
    )
    if measured is None:
        queueing_us, post_decode_us, origin = (
            STUDY.queueing_us,
            STUDY.post_decode_us,
            "default: means over the study's runs",
        )
    else:
        queueing_us, post_decode_us = measured.queueing_us, 0.0
        origin = (
            f"measured on {measured.requests} requests of {measured.experiments} request logs: time to first"
            f" token beyond {replay_overheads.OWN_STEPS} steps; nothing after the last token, where such"
            " logs end"
        )
    named = [name for name in ("queueing_us", "post_decode_us") if getattr(config, name) is not None]
    chosen = Overheads(
        _or(config.queueing_us, queueing_us),
        _or(config.post_decode_us, post_decode_us),
        config.output_token_us,
    )
    return chosen, "given" if given else origin + (f"; {', '.join(named)} given" if named else "")


def _or(value: float | None, usual: float) -> float:
    return usual if value is None else value


def _training(source: SourceConfig, held_out: set[str]) -> Iterator[Recorded]:
    """The source's request logs, without those held out and those that training leaves out for their failed
    requests.
    """
    for name, make in find_recorded(source, None).items():
        if name not in held_out:
            recorded = make()
            if recorded.record["failed"] <= source.max_failed_ratio * recorded.record["logged"]:
                yield recorded
