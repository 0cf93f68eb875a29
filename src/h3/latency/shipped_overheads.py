"""What a request waits beside its steps, as a bundle carries it for BLIS, and where it comes from: given,
estimated, or the study's.

    overheads, origin = resolve(OverheadsConfig(), source, held_out=set())

From request logs it is what a fold's replay estimates from its training logs (overheads.estimate): a constant
and the steps that are already scheduled when a request arrives. What follows a request's last token is not in
such a log, and the periods recovered from it hold all that comes before: 0. Constants
alone (9300 and 1850 us, the study's means) leave out the steps: with them first tokens are 30 % too early.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from h3.common.config import SourceConfig, Strict
from h3.common.errors import InputError
from h3.latency.fold import find_recorded
from h3.latency.overheads import OWN_STEPS, estimate, free
from h3.latency.recorded import Recorded
from h3.server.overheads import NONE, STUDY_IN_STEPS, Overheads
from h3.sources.load import holds_requests


class OverheadsConfig(Strict):
    """Overheads of a request, us, and pipeline_steps, in periods; null: estimated on the request logs that
    the model learned from, else the study's. A queueing_us that is given is BLIS's, which holds all of the
    wait: without pipeline_steps beside it there are none.
    """

    queueing_us: float | None = Field(None, ge=0, le=1e9)
    pipeline_steps: float | None = Field(None, ge=0, le=1000)
    post_decode_us: float | None = Field(None, ge=0, le=1e9)
    output_token_us: float = Field(0.0, ge=0, le=1e9)

    def given(self) -> dict[str, float]:
        """What is given instead of estimated."""
        values = self.model_dump(exclude={"output_token_us"}, exclude_none=True)
        return {"pipeline_steps": 0.0, **values} if "queueing_us" in values else values


def resolve(config: OverheadsConfig, source: SourceConfig, held_out: set[str]) -> tuple[Overheads, str]:
    """The overheads and where they come from, in words; `held_out`: experiments of the source that are not to
    be read.

    Raises InputError where the source's logs are to be read and are not there, and for pipeline_steps alone
    where there is no log to estimate the rest of the wait on.
    """
    given = config.given()
    told = ", ".join(f"{name}={value:g}" for name, value in given.items())
    if "queueing_us" in given:
        usual, origin = NONE, f"given: {told}"
    else:
        usual, origin = _estimated(config.pipeline_steps, source, held_out)
        origin += f"; given: {told}" if given else ""
    return usual.model_copy(update=given | {"output_token_us": config.output_token_us}), origin


def _estimated(steps: float | None, source: SourceConfig, held_out: set[str]) -> tuple[Overheads, str]:
    """What the source's logs say, with so many pipeline_steps where they are given; else the study's."""
    training = (
        [log for log in _training(source, held_out) if len(free(log))] if holds_requests(source) else []
    )
    found = estimate(training, steps)
    if found is not None:
        return found, (
            f"estimated on {len(training)} request logs: time to first token beyond {OWN_STEPS} steps, a"
            " constant and steps; nothing after the last token, where such logs end"
        )
    if steps is not None:
        raise InputError(
            f"overheads.pipeline_steps={steps:g}: no request log to estimate the rest of the wait; expected"
            " overheads.queueing_us beside it"
        )
    return STUDY_IN_STEPS, "default: estimated on the study's request logs of dense models"


def _training(source: SourceConfig, held_out: set[str]) -> Iterator[Recorded]:
    """The source's request logs, without those held out and those that training leaves out for their failed
    requests.
    """
    for name, make in find_recorded(source, None).items():
        if name not in held_out:
            recorded = make()
            if recorded.failed <= source.max_failed_ratio * recorded.logged:
                yield recorded
