"""The constants of a request that a bundle carries for BLIS, and where each comes from: given, measured or
the study's.

    overheads, origin = resolve(OverheadsConfig(), source, held_out=set())

From request logs the time before a request can be scheduled is measured in BLIS's form (overheads.constant).
What follows a request's last token is not in such a log, and the periods recovered from it hold all that
comes before: 0.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from h3.common.config import SourceConfig, Strict
from h3.latency.fold import find_recorded
from h3.latency.overheads import OWN_STEPS, constant
from h3.latency.recorded import Recorded
from h3.server.overheads import STUDY_CONSTANTS, Overheads
from h3.sources.load import holds_requests


class OverheadsConfig(Strict):
    """Constants of a request, us; null: measured on the request logs that the model learned from, else the
    study's means.
    """

    queueing_us: float | None = Field(None, ge=0, le=1e9)
    post_decode_us: float | None = Field(None, ge=0, le=1e9)
    output_token_us: float = Field(0.0, ge=0, le=1e9)

    def given(self) -> dict[str, float]:
        """The constants that are given instead of measured."""
        values = {"queueing_us": self.queueing_us, "post_decode_us": self.post_decode_us}
        return {name: value for name, value in values.items() if value is not None}


def resolve(config: OverheadsConfig, source: SourceConfig, held_out: set[str]) -> tuple[Overheads, str]:
    """The overheads and where they come from, in words; `held_out`: experiments of the source that are not to
    be read.

    Raises InputError where the source's logs are to be read and are not there.
    """
    given = config.given()
    if len(given) == 2:
        return Overheads(**given, output_token_us=config.output_token_us), "given"
    measured = constant(_training(source, held_out)) if holds_requests(source) else None
    if measured is None:
        usual, origin = STUDY_CONSTANTS, "default: means over the study's runs"
    else:
        usual = Overheads(queueing_us=measured.queueing_us)
        origin = (
            f"measured on {measured.requests} requests of {measured.experiments} request logs: time to first"
            f" token beyond {OWN_STEPS} steps; nothing after the last token, where such logs end"
        )
    chosen = usual.model_copy(update=given | {"output_token_us": config.output_token_us})
    return chosen, origin + (f"; {', '.join(given)} given" if given else "")


def _training(source: SourceConfig, held_out: set[str]) -> Iterator[Recorded]:
    """The source's request logs, without those held out and those that training leaves out for their failed
    requests.
    """
    for name, make in find_recorded(source, None).items():
        if name not in held_out:
            recorded = make()
            if recorded.failed <= source.max_failed_ratio * recorded.logged:
                yield recorded
