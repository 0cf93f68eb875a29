"""What is to be measured: models, and steps known request by request. This file owns the plan's format.

    write("plan.jsonl.gz", Plan({"llama-2-7b": catalog.architecture("llama-2-7b")}, steps))
    plan = read("plan.jsonl.gz")

The first line is the header (format, models); each further line is a step.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from h3.common.errors import InputError
from h3.steps.catalog import Architecture

FORMAT = "h3-measure-plan-1"
PAGE_TOKENS = 16  # vLLM's default block of the KV cache
PARTS = ("compositions", "grid", "shards", "zeroshot")


@dataclass(frozen=True)
class Step:
    """One step of one model on one of `tp` ranks.

    decodes: tokens that each decoding request attends to, its new one included. chunks: (new tokens, tokens
    before) of each prefilling request. prefixes: (number of the prefix, its full pages) of each request,
    decoding ones first, where requests share pages of their prompts (empty: none do). repeat: 0, or 1 where
    the same step is measured once more. row: columns of the step table that a simulated experiment gives
    (empty: none).
    """

    part: str
    model: str
    tp: int
    decodes: tuple[int, ...] = ()
    chunks: tuple[tuple[int, int], ...] = ()
    prefixes: tuple[tuple[int, int], ...] = ()
    repeat: int = 0
    row: dict = field(default_factory=dict)

    @property
    def key(self) -> str:
        """What tells this step from every other: a digest of all of it but columns that follow from the
        rest.
        """
        own = [self.part, self.model, self.tp, self.decodes, self.chunks, self.prefixes, self.repeat]
        own += [self.row.get("experiment"), self.row.get("step_id")]
        return hashlib.sha256(json.dumps(own).encode()).hexdigest()[:16]

    @property
    def tokens(self) -> int:
        """New tokens of the step."""
        return len(self.decodes) + sum(new for new, _ in self.chunks)

    @property
    def contexts(self) -> tuple[int, ...]:
        """Tokens of KV cache that each request holds after the step, decoding ones first."""
        return (*self.decodes, *(new + before for new, before in self.chunks))

    @property
    def pages(self) -> int:
        """Pages of KV cache that the requests hold, shared ones counted once."""
        shared = set(self.prefixes)
        return (
            sum(-(-context // PAGE_TOKENS) for context in self.contexts)
            - sum(pages for _, pages in self.prefixes)
            + sum(pages for _, pages in shared)
        )

    def composition(self) -> dict[str, float]:
        """The composition columns of the step table, counted request by request."""
        decodes = len(self.decodes)
        return {
            "num_prefill_reqs": float(len(self.chunks)),
            "num_decode_reqs": float(decodes),
            "prefill_tokens": float(sum(new for new, _ in self.chunks)),
            "decode_tokens": float(decodes),
            "decode_kv_tokens_sum": float(sum(self.decodes)),
            "decode_kv_tokens_mean": sum(self.decodes) / max(decodes, 1),
            "decode_kv_tokens_max": float(max(self.decodes, default=0)),
            "prefill_kv_tokens_sum": float(sum(before for _, before in self.chunks)),
            "prefill_attended_tokens": float(
                sum(new * before + new * (new + 1) // 2 for new, before in self.chunks)
            ),
        }


@dataclass(frozen=True)
class Plan:
    """Architectures by model name, and the steps in the order in which they are measured."""

    models: dict[str, Architecture]
    steps: tuple[Step, ...]

    def groups(self, parts: tuple[str, ...]) -> Iterator[tuple[str, int, list[Step]]]:
        """(model, tp, steps) for each rank to build, over the given parts; each rank once."""
        kept = [step for step in self.steps if step.part in parts]
        ranks = sorted(
            {(step.model, step.tp) for step in kept},
            key=lambda rank: (list(self.models).index(rank[0]), rank[1]),
        )
        for model, tp in ranks:
            own = [step for step in kept if (step.model, step.tp) == (model, tp)]
            yield model, tp, sorted(own, key=lambda step: (PARTS.index(step.part), step.repeat))


def write(path: str | Path, plan: Plan) -> None:
    """Write a plan, gzip-compressed JSON lines."""
    header = {"format": FORMAT, "models": {name: asdict(arch) for name, arch in plan.models.items()}}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with gzip.GzipFile(path, "wb", mtime=0) as file:
        for entry in (header, *(asdict(step) for step in plan.steps)):
            file.write(json.dumps(entry, separators=(",", ":")).encode() + b"\n")


def read(path: str | Path) -> Plan:
    """A plan; raises InputError with the line for a file that is none."""
    try:
        with gzip.open(path, "rt") as file:
            lines = file.read().splitlines()
        header, *rest = [json.loads(line) for line in lines]
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; expected a plan, written by: measure_steps.py plan --out {path}"
        ) from None
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{path}: not a plan ({error}); expected gzip-compressed JSON lines") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InputError(f"{path}: line 1 is no header of format {FORMAT}; write the plan anew")
    try:
        models = {name: Architecture(**fields) for name, fields in header["models"].items()}
        steps = tuple(_step(entry) for entry in rest)
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(
            f"{path}: a step or model of the plan is malformed ({error}); write the plan anew"
        ) from None
    unknown = next((step for step in steps if step.model not in models or step.part not in PARTS), None)
    if unknown:
        raise InputError(
            f"{path}: a step of part {unknown.part!r} and model {unknown.model!r}; expected {PARTS} and"
            f" {sorted(models)}"
        )
    return Plan(models, steps)


def _step(entry: dict) -> Step:
    chunks = tuple((int(new), int(before)) for new, before in entry["chunks"])
    prefixes = tuple((int(number), int(pages)) for number, pages in entry["prefixes"])
    return Step(**{**entry, "decodes": tuple(entry["decodes"]), "chunks": chunks, "prefixes": prefixes})
