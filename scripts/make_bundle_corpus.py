"""Write go/h3bundle/testdata/corpus.json: what strangers may do to a bundle, for both languages.

    python scripts/make_bundle_corpus.py        # again when the format or the golden bundle changes

A case edits the golden bundle's files (go/h3bundle/testdata/bundle) and says whether readers accept the
result. The verdict is that of the rule by which the edit was made (bundle_corpus/rules.py); no reader is
asked. What accepted bundles answer to `batches`, us and margins, is h3's own: Go must give the same. A case:

    name, verdict     "accepted" or "refused"
    splices           [{file, at, remove, insert or base64}], places in the golden bundle's bytes, last first
    utf16             files written in UTF-16 afterwards
    removed           files that are missing
    signed            false: the digests stay as they are. Else the manifest's
                      "sha256": "<digest>",\\n   "bytes": <size> of booster.json, booster_moe.json and
                      golden.json, where they are those of the golden bundle, become right, and
                      manifest.sha256 is written anew
    us, margins       of the batches, where they are not those of the golden bundle
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from bundle_corpus.edits import GOLDEN, Case, edited
from bundle_corpus.rules import cases

from h3 import bundle
from h3.bundle import golden
from h3.steps import catalog

OUT = GOLDEN.with_name("corpus.json")
BATCHES: list[golden.Case] = [
    ("llama-2-7b", 1, "H100", [(600 + 7 * number, 1, 512) for number in range(24)]),
    ("llama-2-70b", 4, "nvidia h100 80gb hbm3", [(900, 1, 512), (0, 300, 300), (2000, 1, 1024)]),
    ("mixtral-8x7b", 2, "H100", [(700, 1, 512), (100, 200, 400)]),
    ("small-1b", 1, "A100-80", [(800, 1, 512)]),
]


def answers(folder: Path) -> dict[str, list[float]]:
    """us and margins of the batches."""
    found = bundle.predict(bundle.read(folder).fitted_by_route(), golden.table_of(BATCHES, golden.CONFIGS))
    return {
        "us": [float(f"{us:.12g}") for us in found["us"]],
        "margins": [float(str(np.float32(margin))) for margin in found["margin"]],
    }


def answered(case: Case, usual: dict[str, list[float]]) -> Case:
    """The case with its answers, if it is accepted and they are not the golden bundle's."""
    if case["verdict"] == "refused":
        return case
    with tempfile.TemporaryDirectory() as folder:
        for name, data in edited(case).items():
            (Path(folder) / name).write_bytes(data)
        found = answers(Path(folder))
    return case if found == usual else case | found


def text() -> str:
    """The file's text, a case a line."""
    usual = answers(GOLDEN)
    batches = [
        {
            "config": golden.CONFIGS[name],
            "tensor_parallelism": degree,
            "hardware": hardware,
            "truncated_sampling": name in golden.TRUNCATED,
            "requests": requests,
        }
        for name, degree, hardware, requests in BATCHES
    ]
    head = {"batches": batches, "aliases": catalog.HARDWARE_ALIASES, **usual}
    lines = ",\n".join(json.dumps(answered(case, usual), separators=(",", ":")) for case in cases())
    return f'{json.dumps(head, separators=(",", ":"))[:-1]},"cases":[\n{lines}\n]}}\n'


if __name__ == "__main__":
    OUT.write_text(text())
    print(f"{OUT}: {len(cases())} cases, {OUT.stat().st_size} bytes", file=sys.stderr)
