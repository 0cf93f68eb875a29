"""Coefficients for an unmodified BLIS as a file: for which deployment they hold, and the check that it is the
one that is asked for.

    write(path, as_yaml(distilled, FittedFor.of("llama-2-7b", deployment, bundle.digest)))
    check(path, deployment)                       # or an InputError: what differs

BLIS reads the YAML strictly, so what it does not know stands in comments; one of them is JSON.
"""

from __future__ import annotations

import json
from pathlib import Path

from h3.bundle.blis_terms import BETA
from h3.bundle.distil import Distilled, Measured
from h3.bundle.json_file import MAX_BYTES, Part, checked, parse, read_bytes, shown
from h3.common import files
from h3.common.errors import InputError
from h3.steps.batch import Deployment

MARK = "# fitted for: "
ENDINGS = (".yaml", ".yml")


class FittedFor(Part):
    """The one deployment that coefficients hold for: the model's name and sizes, and the digest of the bundle
    that was distilled.
    """

    model: str
    hardware: str
    tensor_parallelism: int
    truncated_sampling: bool
    architecture: dict[str, float]
    bundle: str

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
        )

    def told(self) -> str:
        """In words."""
        return f"{self.model}, tp {self.tensor_parallelism}, {self.hardware}"


def as_yaml(distilled: Distilled, fitted_for: FittedFor, measured: Measured | None = None) -> str:
    """The block of BLIS's defaults.yaml; comments say for what it holds and what was lost."""
    loss = distilled.loss
    ranges = ", ".join(f"{name}: {value:.2f}" for name, value in loss.by_requests.items())
    lines = [
        MARK + json.dumps(fitted_for.model_dump(mode="json")),
        "# and for nothing else: python -m h3.export verify=FILE model_config=... tp=... checks it",
        f"# distilled over {distilled.batches} batches; differs from the model by {loss.grid:.2f} % there,"
        f" {loss.held_out:.2f} % on batches between them",
        f"# by decoding requests, %: {ranges}",
        "# BLIS has no term for the sampler (requests x vocabulary) nor for all-reduces in two shots: what",
        "# they take lies in us_per_request and us_per_layer, as right as one number can be; nor has it one",
        f"# for queueing in steps, which counts with the mean period, {distilled.period_us:.0f} us.",
    ]
    if measured is not None:
        lines.append(
            f"# MAPE on {measured.steps} measured steps: {measured.distilled:.2f} %, the model's own"
            f" {measured.model:.2f} %"
        )
    lines += [
        "trained_physics_coefficients:",
        f"  alpha_coeffs: [{_numbers(distilled.alpha)}] # us: queueing, post-decode, per output token",
        f"  beta_coeffs: [{_numbers(distilled.beta)}]",
        f"  # beta: {', '.join(BETA)}",
    ]
    return "\n".join(lines) + "\n"


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)


def write(path: Path, text: str) -> Path:
    """Write a file of coefficients, in place of another such file only; its path.

    Raises InputError if something else is in the way or it cannot be written.
    """
    if path.exists():
        read(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, text)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a file that can be written") from None
    return path


def read(path: Path) -> FittedFor:
    """For what a file's coefficients hold; raises InputError if it is no such file."""
    text = read_bytes(path).decode(errors="replace")
    found = [line for line in text.splitlines() if line.startswith(MARK)]
    if len(found) != 1 or len(text) > MAX_BYTES:
        raise InputError(
            f"{path}: {len(found)} lines begin with {MARK.strip()!r}; expected coefficients that h3 wrote"
        )
    return checked(parse(found[0].removeprefix(MARK).encode(), str(path)), FittedFor, str(path))


def check(path: Path, model: str, deployment: Deployment) -> str:
    """That a file's coefficients hold for a deployment, in words; raises InputError naming what differs."""
    said, asked = read(path), FittedFor.of(model, deployment, "")
    differ = [
        f"{name} {shown(getattr(said, name))}, not {shown(getattr(asked, name))}"
        for name in ("hardware", "tensor_parallelism", "truncated_sampling")
        if getattr(said, name) != getattr(asked, name)
    ]
    sizes = [
        f"{name} {said.architecture.get(name, 0):g}, not {value:g}"
        for name, value in asked.architecture.items()
        if said.architecture.get(name) != value
    ]
    if differ or sizes:
        raise InputError(
            f"{path}: fitted for {said.told()} ({'; '.join([*differ, *sizes[:3]])}); expected coefficients of"
            f" {asked.told()}: python -m h3.export format=trained_physics"
        )
    return f"{path}: fitted for {said.told()}, as asked; bundle {said.bundle[:16]}"
