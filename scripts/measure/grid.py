"""Steps for the physics rather than for a workload: batch sizes, contexts and prefill chunks on a grid, over
models and ranks.

    plan = with_grids(compositions.planned())          # adds the parts grid, shards and zeroshot
"""

from __future__ import annotations

from pathlib import Path

from h3.common.errors import InputError
from h3.sources.simulated import MODELS
from h3.steps import catalog
from h3.steps.catalog import Architecture
from measure.plan import Plan, Step

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONTEXTS = (128, 512, 1024, 2048, 4096, 8192, 16384, 32768)
CHUNKS = (
    (16, 0),
    (64, 0),
    (256, 0),
    (512, 0),
    (1024, 0),
    (2048, 0),
    (16, 1024),
    (256, 4096),
    (2048, 4096),
    (2048, 16384),
)
MIXED = ((16, 8), (16, 64), (256, 8), (256, 64), (1024, 32), (1920, 8), (1920, 128))
SHORT_BATCHES, SHORT_CONTEXTS, SHORT_CHUNKS, SHORT_MIXED = (
    (1, 8, 32, 128),
    (512, 4096),
    ((256, 0), (2048, 0)),
    ((256, 32),),
)
MIXED_CONTEXT = 1024
# Tokens of KV cache beyond which no card of today would hold a batch: not worth a row that says so.
MOST_KV_TOKENS = 600_000
DEGREES = (1, 2, 4, 8)

# Models outside the study (their published config.json): an 8B with a vocabulary of 128k, a 14B, an MoE with
# many small experts.
OUTSIDE = {
    "llama-3.1-8b": Architecture(32, 4096, 32, 8, 128, 128256, 14336, 0, 0, 0, 0, 0, 2.0),
    "qwen2.5-14b": Architecture(48, 5120, 40, 8, 128, 152064, 13824, 0, 0, 0, 0, 0, 2.0),
    "qwen3-30b-a3b": Architecture(48, 2048, 32, 4, 128, 151936, 0, 48, 128, 8, 768, 0, 2.0),
}


def with_grids(plan: Plan, configs: list[str] | None = None, degrees: list[int] | None = None) -> Plan:
    """The plan with the grid of its models, the other ranks of each, and models outside the study.

    configs, degrees: HuggingFace config.json of further models of the part zeroshot, and the degree of each
    (1 where not given).
    """
    further = [(Path(path).resolve().parent.name, catalog.read_hf_config(path)) for path in configs or []]
    wanted = [*(degrees or []), *[1] * (len(further) - len(degrees or []))]
    if len(wanted) > len(further):
        raise InputError(
            f"--tp is given {len(wanted)} times, --config {len(further)} times; expected a --config for each"
            " --tp"
        )
    taken = next((name for name, _ in further if name in {**plan.models, **OUTSIDE}), None)
    if taken:
        raise InputError(
            f"--config: a model {taken!r} is in the plan already; expected another name of the file's folder"
        )
    steps = list(plan.steps)
    for model, tp in MODELS.items():
        steps += full("grid", model, tp)
        steps += [step for degree in DEGREES if degree != tp for step in short("shards", model, degree)]
    for model in OUTSIDE:
        steps += full("zeroshot", model, 1)
    for (model, _), tp in zip(further, wanted, strict=True):
        steps += full("zeroshot", model, tp)
    return Plan({**plan.models, **OUTSIDE, **dict(further)}, tuple(steps))


def full(part: str, model: str, tp: int) -> list[Step]:
    """Decode, prefill and mixed steps over the whole grid."""
    return _steps(part, model, tp, (BATCHES, CONTEXTS, CHUNKS, MIXED))


def short(part: str, model: str, tp: int) -> list[Step]:
    """A few steps of each kind."""
    return _steps(part, model, tp, (SHORT_BATCHES, SHORT_CONTEXTS, SHORT_CHUNKS, SHORT_MIXED))


def _steps(part: str, model: str, tp: int, axes: tuple[tuple, tuple, tuple, tuple]) -> list[Step]:
    batches, contexts, chunks, mixed = axes
    decode = [
        Step(part, model, tp, (context,) * batch)
        for batch in batches
        for context in contexts
        if batch * context <= MOST_KV_TOKENS
    ]
    prefill = [Step(part, model, tp, (), (chunk,)) for chunk in chunks]
    return (
        decode
        + prefill
        + [Step(part, model, tp, (MIXED_CONTEXT,) * batch, ((new, 0),)) for new, batch in mixed]
    )
