"""What a request waits beside its steps, as a bundle carries it for BLIS, and where it comes from: given,
estimated, or the study's.

    overheads, origin = resolve(OverheadsConfig(), source, held_out=set())

From request logs it is what a fold's replay estimates from its training logs (overheads.estimate): a constant
and the steps that are already scheduled when a request arrives. What follows a request's last token is not in
such a log, and the periods recovered from it hold all that comes before: 0.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from h3.common.config import SourceConfig, Strict
from h3.latency.fold import find_recorded
from h3.latency.overheads import estimate
from h3.latency.recorded import Recorded
from h3.server.overheads import STUDY_IN_STEPS, Overheads
from h3.sources.load import holds_requests


class OverheadsConfig(Strict):
    """Overheads of a request, us, and pipeline_steps, in periods; null: estimated on the request logs that
    the model learned from, else the study's. A queueing_us that is given holds all of the wait: without
    pipeline_steps beside it there are none.
    """

    queueing_us: float | None = Field(None, ge=0, le=1e9)
    pipeline_steps: float | None = Field(None, ge=0, le=1000)
    post_decode_us: float | None = Field(None, ge=0, le=1e9)
    output_token_us: float = Field(0.0, ge=0, le=1e9)

    def given(self) -> dict[str, float]:
        """What is given instead of estimated."""
        values = {
            "queueing_us": self.queueing_us,
            "pipeline_steps": self.pipeline_steps,
            "post_decode_us": self.post_decode_us,
        }
        return {name: value for name, value in values.items() if value is not None}


def resolve(config: OverheadsConfig, source: SourceConfig, held_out: set[str]) -> tuple[Overheads, str]:
    """The overheads and where they come from, in words; `held_out`: experiments of the source that are not to
    be read.

    Raises InputError where the source's logs are to be read and are not there.
    """
    given = config.given()
    wait = {"pipeline_steps": 0.0} if "queueing_us" in given else {}
    if {"queueing_us", "post_decode_us"} <= set(given):
        return Overheads(**wait | given, output_token_us=config.output_token_us), "given"
    training = list(_training(source, held_out)) if holds_requests(source) else []
    estimated = estimate(training)
    if estimated is None:
        usual, origin = STUDY_IN_STEPS, "default: estimated on the study's request logs of dense models"
    else:
        usual, origin = (
            estimated,
            (
                f"estimated on {len(training)} request logs: time to first token beyond 1.5 steps, a constant"
                " and steps; nothing after the last token, where such logs end"
            ),
        )
    chosen = usual.model_copy(update=wait | given | {"output_token_us": config.output_token_us})
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
