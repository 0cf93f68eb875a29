"""The one type of what a request waits beside its steps: estimated, shipped in a manifest, and replayed with.

>>> Overheads(queueing_us=9300.0, post_decode_us=1850.0)         # constants alone
Overheads(queueing_us=9300.0, pipeline_steps=0.0, post_decode_us=1850.0, output_token_us=0.0)
>>> Overheads(queueing_us=4268.0, pipeline_steps=1.31)           # as an asynchronous scheduler waits
Overheads(queueing_us=4268.0, pipeline_steps=1.31, post_decode_us=0.0, output_token_us=0.0)
"""

from __future__ import annotations

from pydantic import AliasChoices, ConfigDict, Field

from h3.common.config import Strict


class Overheads(Strict):
    """queueing_us: arrival to wait queue. pipeline_steps: steps made between queue and admission, in periods
    of the request. post_decode_us: once a request, E2E only. output_token_us: added to TTFT and to every ITL;
    steps run back to back and their period holds all work of a token, so it is 0 unless given.

    Records of replays call the last one per_token_us.
    """

    model_config = ConfigDict(populate_by_name=True)

    queueing_us: float = Field(0.0, ge=0, le=1e9)
    pipeline_steps: float = Field(0.0, ge=0, le=1e6)
    post_decode_us: float = Field(0.0, ge=0, le=1e9)
    output_token_us: float = Field(
        0.0, ge=0, le=1e9, validation_alias=AliasChoices("output_token_us", "per_token_us")
    )

    def recorded(self) -> dict[str, float]:
        """As result.json keeps them."""
        return {
            "queueing_us": self.queueing_us,
            "pipeline_steps": self.pipeline_steps,
            "post_decode_us": self.post_decode_us,
            "per_token_us": self.output_token_us,
        }


NONE = Overheads()
# Estimated from the study's nine request logs of dense models without a growing queue (vLLM 0.15.1, H100):
# for a model that brings no estimate of its own. Not blind: none of the study's models is left out of it.
STUDY_IN_STEPS = Overheads(queueing_us=4268.0, pipeline_steps=1.31)
