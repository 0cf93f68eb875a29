"""Write docs/blis/coverage.md: what h3 answers for every model, GPU and degree that BLIS ships.

    python scripts/make_blis_coverage.py          # a few seconds; `make champion` runs it, too

go/blis/testdata/models.json has the list, with what is expected of each row. A row is asked of Python, of
h3eval, and of bliseval, which goes the way that BLIS goes (go/blis). What they say must be as expected and
agree, else nothing is written and every disagreement is printed. Data and expert parallelism are bliseval's
alone.
"""

from __future__ import annotations

import math
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from blis_coverage.asked import DECODE, GIB, Said, bliseval, built, h3eval, own_cards, problems, python
from blis_coverage.places import Config, Place, listed

from h3 import bundle
from h3.bundle import standing
from h3.bundle.uncertainty import LEVEL, WORDS
from h3.bundle.uncertainty_model import Uncertainty
from h3.steps import batch, catalog, counts
from h3.steps.batch import Deployment

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "blis" / "coverage.md"
ALL_EXPERTS = np.array([1e9])  # so many tokens visit every expert
EMBEDDING_BYTES = 2.0
SHARE_OF_MEMORY = 0.9  # vLLM's --gpu-memory-utilization


@dataclass(frozen=True)
class Row:
    """A place, what is said of it, and the bytes of weights that a GPU holds (NaN where it is refused)."""

    place: Place
    said: Said
    weight_bytes: float


def weight_bytes(config: Config, tp: int) -> float:
    """Bytes of all weights of the language model on one of tp GPUs, embeddings included."""
    arch = catalog.from_hf_config(config, "config.json")
    table = batch.step_table(Deployment(arch, tp, "H100"), [DECODE])
    tied = config.get("text_config", config).get("tie_word_embeddings", config.get("tie_word_embeddings"))
    embedding = 0.0 if tied else EMBEDDING_BYTES * arch.hidden_size * arch.vocab_size / tp
    return float(counts.weight_bytes(table, ALL_EXPERTS)[0]) + embedding


def rows(places: Sequence[Place]) -> tuple[list[Row], list[str]]:
    """The table's rows, and the problems."""
    champion = bundle.read(standing.SHIPPED)
    card = next(iter(own_cards(places)), None)
    with tempfile.TemporaryDirectory() as scratch:
        folder = built(Path(scratch))
        by_go, by_blis = h3eval(places, folder, card), bliseval(places, folder)
    found, wrong = [], []
    for place, go, adapter in zip(places, by_go, by_blis, strict=True):
        answers = [adapter] if place.by_adapter_alone else [python(place, champion), go, adapter]
        wrong += problems(place, answers)
        said = Said(adapter.us, answers[0].kinds, adapter.reason)
        found.append(Row(place, said, math.nan if said.reason else weight_bytes(place.config, place.tp)))
    return found, wrong


HEAD = """# What h3 answers of BLIS's models

Written by `python scripts/make_blis_coverage.py` (`make champion` runs it, too) from
`go/blis/testdata/models.json`: the models of BLIS's `defaults.yaml`, on the GPUs and at the TP degrees of its
coefficients, those of its docs and `model_configs`, and single deployments for GPUs that are not in its
table, for data and for expert parallelism. Asked: the champion that ships, `{digest}`,
{data}.

{models} models, {rows} rows: {answered} answered, {refused} refused. Python, `h3eval` and BLIS's adapter
(`go/blis`, with the figures of BLIS's hardware table) agree on every row to 1e-6; rows with DP or EP are the
adapter's alone, which gives no intervals.

- **decode**: ms of a step of 32 requests at context 1024; **prefill**: ms of one prompt of 2048 tokens. No
  sampling with top-p or top-k.
- **GB**: weights of the language model that a GPU holds, embeddings included. "do not fit": more than
  {share:.0f} % of its memory.
- **interval**: what is new for the champion in the decode step; the prompt of 2048 tokens in one step is a
  new workload beside that. Of {level:.0f} % of steps: {widths}
  (see [the bundle](../blis.md)).

| model | GPU | TP | verdict | decode | prefill | GB | interval |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""


def document(found: Sequence[Row]) -> str:
    """The text of coverage.md."""
    champion = bundle.read(standing.SHIPPED)
    refused = sum(bool(row.said.reason) for row in found)
    head = HEAD.format(
        digest=champion.digest,
        data=str(champion.manifest.provenance.get("data")),
        models=len({row.place.model for row in found}),
        rows=len(found),
        answered=len(found) - refused,
        refused=refused,
        share=100 * SHARE_OF_MEMORY,
        level=100 * LEVEL,
        widths=widths(champion.manifest.uncertainty),
    )
    return head + "".join(line(row) + "\n" for row in found)


def widths(uncertainty: Uncertainty) -> str:
    """How far from the prediction the interval of each kind reaches, in words."""
    at = uncertainty.levels.index(LEVEL)
    return ", ".join(
        f"{WORDS[name]} {100 * (kind.low[at] - 1):+.0f} to {100 * (kind.high[at] - 1):+.0f} %"
        for name, kind in sorted(uncertainty.kinds.items(), key=lambda each: each[1].high[at])
    )


def line(row: Row) -> str:
    """A row of the table."""
    place, said = row.place, row.said
    cells = [place.model, place.gpu["Name"], place.degrees, verdict(row)]
    if said.reason:
        cells += [""] * 4
    else:
        cells += [f"{us / 1000:.3g}" for us in said.us]
        cells += [f"{row.weight_bytes / 1e9:.3g}", said.kinds[0] if said.kinds else "none"]
    return "| " + " | ".join(cells) + " |"


def verdict(row: Row) -> str:
    """Answered or refused, and what there is to know."""
    if row.said.reason:
        return "refused: " + row.said.reason.removeprefix("h3: ").removeprefix("config.json: ")
    notes = [row.place.note] if row.place.note else []
    if row.weight_bytes > SHARE_OF_MEMORY * row.place.gpu["MemoryGiB"] * GIB:
        notes.insert(0, "the weights do not fit")
    return "; ".join(["answered", *notes])


def main() -> None:
    """Ask, compare, write."""
    if shutil.which("go") is None:
        sys.exit("go is not installed: docs/blis/coverage.md stays as it is; expected Go 1.24 or newer")
    found, wrong = rows(listed())
    if wrong:
        sys.exit("\n".join(wrong))
    OUT.write_text(document(found))
    print(f"{len(found)} rows: {OUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
