"""Coefficients for an unmodified BLIS as a file: for which deployment they hold, and the check that it is the
one that is asked for.

    write({path: as_yaml(distilled, FittedFor.of("llama-2-7b", deployment, bundle.digest))})
    check(path, "llama-2-7b", deployment)         # or an InputError: what differs

BLIS reads the YAML strictly, so what it does not know stands in comments; one of them is JSON. It has the
architecture's sizes instead of a digest of them, so that a refusal can say which differ.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from h3.bundle.blis_terms import BETA
from h3.bundle.distil import Distilled, Measured
from h3.bundle.json_file import Part, checked, parse, read_bytes, shown
from h3.common import files
from h3.common.errors import InputError
from h3.steps.batch import Deployment

MARK = "# fitted for: "
BLOCK, ALPHA, BETAS = "trained_physics_coefficients", "alpha_coeffs", "beta_coeffs"
NUMBERS = {ALPHA: 3, BETAS: len(BETA)}
ENDINGS = (".yaml", ".yml")
MOST_BYTES, MOST_TOLD = 100_000, 4  # of a file; of the differences in a refusal
UNREADABLE = "expected coefficients that h3 wrote"


class FittedFor(Part):
    """The one deployment that coefficients hold for: the model's name and sizes, and the digest of the bundle
    that was distilled; what was lost, %, on the batches that were fitted and on those between them.
    """

    model: str
    hardware: str
    tensor_parallelism: int
    truncated_sampling: bool
    architecture: dict[str, float]
    bundle: str
    lost_percent: dict[str, float]

    @classmethod
    def of(cls, model: str, deployment: Deployment, digest: str) -> FittedFor:
        """What a file says of a deployment."""
        return cls(
            model=model,
            hardware=deployment.hardware,
            tensor_parallelism=deployment.tensor_parallelism,
            truncated_sampling=deployment.truncated_sampling,
            architecture={name: float(value) for name, value in deployment.architecture.columns().items()},
            bundle=digest,
            lost_percent={},
        )

    def told(self) -> str:
        """In words, on one line."""
        return f"{shown(self.model)}, tp {self.tensor_parallelism}, {shown(self.hardware)}"

    def differs(self, asked: FittedFor) -> list[str]:
        """Each thing that is not as asked. Names do not count: a folder is called anything."""
        ours, theirs = self._facts(), asked._facts()
        return [
            f"{name} {_value(ours.get(name))}, not {_value(theirs.get(name))}"
            for name in dict.fromkeys([*theirs, *ours])
            if ours.get(name) != theirs.get(name)
        ]

    def _facts(self) -> dict[str, object]:
        named = ("hardware", "tensor_parallelism", "truncated_sampling")
        return {name: getattr(self, name) for name in named} | self.architecture


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else shown(value)


def as_yaml(distilled: Distilled, fitted_for: FittedFor, measured: Measured | None = None) -> str:
    """The block of BLIS's defaults.yaml; comments say for what it holds and what was lost."""
    loss = distilled.loss
    lost = {"fitted": round(loss.grid, 4), "between": round(loss.held_out, 4)}
    said = fitted_for.model_copy(update={"lost_percent": lost})
    ranges = ", ".join(f"{name}: {value:.2f}" for name, value in loss.by_requests.items())
    lines = [
        MARK + json.dumps(said.model_dump(mode="json")),
        "# and for nothing else: python -m h3.export verify=FILE model_config=... tp=... checks it",
        f"# {lost_in_words(distilled)}",
        f"# by decoding requests, %: {ranges}",
        "# BLIS has no term for the sampler (requests x vocabulary) nor for all-reduces in two shots: what",
        "# they take lies in us_per_request and us_per_layer, as right as one number can be; nor has it one",
        f"# for queueing in steps, which counts with the median period, {distilled.period_us:.0f} us.",
    ]
    if measured is not None:
        lines.append(
            f"# MAPE on {measured.steps} measured steps: {measured.distilled:.2f} %, the model's own"
            f" {measured.model:.2f} %"
        )
    lines += [
        f"{BLOCK}:",
        f"  {ALPHA}: [{_numbers(distilled.alpha)}] # us: queueing, post-decode, per output token",
        f"  {BETAS}: [{_numbers(distilled.beta)}]",
        f"  # beta: {', '.join(BETA)}",
    ]
    return "\n".join(lines) + "\n"


def lost_in_words(distilled: Distilled) -> str:
    """How many batches were fitted and what was lost."""
    return (
        f"distilled over {distilled.batches} batches; differs from the model by {distilled.loss.grid:.2f} %"
        f" there, {distilled.loss.held_out:.2f} % on batches between them"
    )


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)


def write(texts: Mapping[Path, str]) -> None:
    """Write files of coefficients, each whole or not at all.

    Raises InputError if one cannot be written or, before any is, if something else is in its place.
    """
    check_free(texts)
    for path, text in texts.items():
        try:
            files.write_text(path, text)
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}; expected a file that can be written") from None


def check_free(paths: Iterable[Path]) -> None:
    """Raises InputError unless each file is absent or such a file, which may be written anew."""
    for path in paths:
        if path.exists():
            read(path)


def read(path: Path) -> FittedFor:
    """For what a file's coefficients hold; raises InputError if it is no such file."""
    data = read_bytes(path)
    if len(data) > MOST_BYTES:
        raise InputError(f"{path}: {len(data)} bytes; {UNREADABLE}, at most {MOST_BYTES}")
    text = data.decode(errors="replace")
    found = [line for line in text.splitlines() if line.startswith(MARK)]
    if len(found) != 1:
        raise InputError(f"{path}: {len(found)} lines begin with {MARK.strip()!r}; {UNREADABLE}")
    _check_numbers(path, text)
    return checked(parse(found[0].removeprefix(MARK).encode(), str(path)), FittedFor, str(path))


def _check_numbers(path: Path, text: str) -> None:
    """Raises InputError unless a text is one block of as many numbers as BLIS takes, none below 0."""
    for key, expected in NUMBERS.items():
        lists = re.findall(rf"^  {key}: \[([^\]\n]*)\]", text, re.MULTILINE)
        values = [_number(part) for part in lists[0].split(",")] if len(lists) == 1 else []
        if len(values) != expected or None in values:
            raise InputError(f"{path}: {key} is no list of {expected} numbers from 0 on; {UNREADABLE}")


def _number(text: str) -> float | None:
    match = re.fullmatch(r" *(\d+(?:\.\d+)?(?:e[+-]?\d+)?)", text)
    return float(match[1]) if match else None


def check(path: Path, model: str, deployment: Deployment) -> str:
    """That a file's coefficients hold for a deployment, in words; raises InputError naming what differs."""
    said, asked = read(path), FittedFor.of(model, deployment, "")
    differ = said.differs(asked)
    if differ:
        more = f" and {len(differ) - MOST_TOLD} more" if len(differ) > MOST_TOLD else ""
        raise InputError(
            f"{path}: fitted for {said.told()} ({'; '.join(differ[:MOST_TOLD])}{more}); expected coefficients"
            f" of {asked.told()}: python -m h3.export format=trained_physics"
        )
    return f"{path}: fitted for {said.told()}, as asked; bundle {shown(said.bundle, 16)}"
