"""What Python, h3eval and BLIS's adapter say of a place, and where they differ.

with tempfile.TemporaryDirectory() as folder:
    told = bliseval(places, built(Path(folder)))
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blis_coverage.places import GO, Place
from h3.bundle import Bundle, standing, zero_shot
from h3.common.errors import InputError
from h3.steps import batch, catalog
from h3.steps.batch import Deployment

DECODE = [(1024, 1, 1024)] * 32
PREFILL = [(0, 2048, 2048)]
BATCHES = (DECODE, PREFILL)
AGREE = 1e-6
GIB = 2.0**30


@dataclass(frozen=True)
class Said:
    """Periods of BATCHES in us with the kinds of their intervals, or the reason of a refusal."""

    us: tuple[float, ...] = ()
    kinds: tuple[str, ...] = ()
    reason: str = ""


def python(place: Place, champion: Bundle) -> Said:
    """What h3 itself says."""
    try:
        arch = catalog.from_hf_config(place.config, "config.json")
        deployment = Deployment(arch, place.tp, place.gpu["Name"])
    except InputError as error:
        return Said(reason=str(error))
    told = zero_shot.answer(champion, batch.step_table(deployment, BATCHES))
    return Said(tuple(told["period_us"]), tuple(told["kind"]))


def own_cards(places: Iterable[Place]) -> list[catalog.Hardware]:
    """GPUs of the list that h3 has no figures of, by those of the list; known to Python from then on."""
    names = {place.gpu["Name"]: place.gpu for place in places}
    own = [
        catalog.Hardware(
            name,
            gpu["TFlopsPeak"] * 1e12,
            gpu["TFlopsFP8"] * 1e12,
            gpu["BwPeakTBs"] * 1e12,
            gpu["NVLinkGBps"] * 1e9,
            gpu["MemoryGiB"] * GIB,
            gpu["StreamingMultiprocessors"],
        )
        for name, gpu in names.items()
        if "NVLinkGBps" in gpu
    ]
    for card in own:
        catalog.add_hardware(card)
    return own


def built(folder: Path) -> Path:
    """The folder with h3eval and bliseval in it."""
    command = ["go", "build", "-o", f"{folder}/", "./cmd/h3eval", "./cmd/bliseval"]
    subprocess.run(command, cwd=GO, check=True)
    return folder


def h3eval(places: Sequence[Place], folder: Path, card: catalog.Hardware | None) -> list[Said]:
    """What Go says of cases: a config, a degree, the name of a GPU, a batch."""
    lines = [
        {"config": p.config, "tensor_parallelism": p.tp, "hardware": p.gpu["Name"], "requests": requests}
        for p in places
        for requests in BATCHES
    ]
    options = ["-bundle", str(standing.SHIPPED), "-cases", "-"]
    if card is not None:
        (folder / "card.json").write_text(json.dumps(_card(card)))
        options += ["-card", str(folder / "card.json")]
    told = _answers([str(folder / "h3eval"), *options], lines)
    pairs = [told[i : i + len(BATCHES)] for i in range(0, len(told), len(BATCHES))]
    return [
        Said(reason=pair[0]["error"])
        if "error" in pair[0]
        else Said(tuple(max(1.0, each["us"]) for each in pair), tuple(each["kind"] for each in pair))
        for pair in pairs
    ]


def _card(own: catalog.Hardware) -> dict[str, Any]:
    same = ("name", "peak_bf16_flops", "peak_fp8_flops", "memory_bandwidth_bytes_s", "memory_bytes")
    others = {"link_bytes_s": own.nvlink_bandwidth_bytes_s}
    return others | {key: getattr(own, key) for key in (*same, "streaming_multiprocessors")}


def bliseval(places: Sequence[Place], folder: Path) -> list[Said]:
    """What BLIS gets: its own figures of the GPU, TP, DP and EP through the adapter."""
    lines = [
        {
            "config": p.config,
            "gpu": p.gpu,
            "tp": p.tp,
            "dp": p.dp,
            "expert_parallel": p.expert_parallel,
            "batches": BATCHES,
        }
        for p in places
    ]
    told = _answers([str(folder / "bliseval")], lines)
    return [Said(tuple(each.get("us", ())), reason=each.get("error", "")) for each in told]


def _answers(command: list[str], lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    text = "\n".join(json.dumps(line) for line in lines)
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def problems(place: Place, answers: Sequence[Said]) -> list[str]:
    """What is not as expected, or differs between the answers, in a line each."""
    where = f"{place.model} on {place.gpu['Name']}, TP {place.degrees}"
    expected = f"a reason with {place.refused!r}" if place.refused else "an answer"
    found = [
        f"{where}: {said.reason or 'answered'}; expected {expected}"
        for said in answers
        if bool(said.reason) != bool(place.refused) or place.refused not in said.reason
    ]
    if found or place.refused:
        return found
    for said in answers[1:]:
        if not np.allclose(said.us, answers[0].us, rtol=AGREE, atol=0):
            found.append(f"{where}: {said.us} us in one language, {answers[0].us} in another")
    if len(answers) > 1 and answers[0].kinds != answers[1].kinds:
        found.append(f"{where}: intervals of {answers[0].kinds} and of {answers[1].kinds}")
    return found
