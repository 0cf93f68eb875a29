"""Measures the steps of a plan on the device, within a budget of time, and writes each result as it is known.

    left = run(plan, Log("steps.jsonl"), RunOptions(parts=("compositions",), budget_s=540))

What the log holds is not measured again; `left` is how many steps the budget did not reach.
"""

from __future__ import annotations

import gc
import hashlib
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from h3.common.errors import InputError
from h3.sources.cost_model import padded_tokens
from measure import ceilings, shard, timing
from measure.batch import Buffers, Limits
from measure.decoder import Decoder, Setup
from measure.launch import Launcher
from measure.plan import PAGE_TOKENS, Plan, Step
from measure.results import Log
from measure.shard import Shard
from measure.verify import verify

RESERVE_BYTES = 3e9  # of a card: activations, graphs, the libraries' workspaces
CPU_MEMORY_BYTES = 2e9
SAY_S = 10.0


@dataclass(frozen=True)
class RunOptions:
    """What to measure and with what. memory_bytes: most to use (None: all that is free). budget_s: time to
    end by itself.
    """

    parts: tuple[str, ...]
    device: str = "cuda"
    budget_s: float = float("inf")
    memory_bytes: float | None = None
    repeats: timing.Repeats = field(default_factory=timing.Repeats)

    def setup(self) -> Setup:
        """The device's setup; raises InputError where there is no CUDA and none was declined."""
        if self.device == "cpu":
            return Setup(torch.device("cpu"), torch.bfloat16, "torch")
        if not torch.cuda.is_available():
            raise InputError(
                "PyTorch sees no CUDA device; expected an NVIDIA GPU, or --device cpu for a rehearsal on a"
                " toy plan"
            )
        return Setup(torch.device("cuda"), torch.bfloat16, "triton")


class Budget:
    """The time left, and progress told to stderr now and then."""

    def __init__(self, seconds: float) -> None:
        self.start, self.seconds, self.said, self.longest_s = time.monotonic(), seconds, 0.0, 0.0

    @property
    def spent_s(self) -> float:
        return time.monotonic() - self.start

    def allows_another(self, began_s: float | None = None) -> bool:
        """Whether one more piece of work fits, taking the longest so far; began_s: when the last one
        began.
        """
        if began_s is not None:
            self.longest_s = max(self.longest_s, self.spent_s - began_s)
        return self.spent_s + self.longest_s < self.seconds

    def say(self, text: str) -> None:
        """Tell, at most every SAY_S seconds."""
        if self.spent_s - self.said >= SAY_S:
            self.said = self.spent_s
            print(f"{self.spent_s:.0f} s: {text}", file=sys.stderr, flush=True)


def run(plan: Plan, log: Log, options: RunOptions) -> int:
    """Measure what the log does not hold yet; the number of steps left when the budget ended.

    Every rank is checked before the first is built: raises InputError for a model that the collector cannot
    build, and where the decoder does not agree with the float32 reference on this machine.
    """
    setup, budget = options.setup(), Budget(options.budget_s)
    groups = [
        (shard.of(plan.models[model], tp, f"{model} on {tp}"), steps)
        for model, tp, steps in plan.groups(options.parts)
    ]
    total = sum(len(steps) for _, steps in groups)
    if not total:
        raise InputError(f"the plan has no step of {', '.join(options.parts)}; expected at least one")
    session = describe(setup)
    log.add("session", **session, errors=verify(setup), ceilings=ceilings.measure(setup.device, setup.dtype))
    for own, steps in groups:
        todo = [step for step in steps if step.key not in log.done]
        if todo and budget.allows_another():
            Group(own, setup, options).measure(todo, log, budget, session["session"])
            release(setup)
    return sum(step.key not in log.done for _, steps in groups for step in steps)


class Group:
    """All steps of one rank of one model."""

    def __init__(self, own: Shard, setup: Setup, options: RunOptions) -> None:
        self.shard, self.setup, self.options = own, setup, options

    def measure(self, steps: list[Step], log: Log, budget: Budget, session: str) -> None:
        """Build the rank, then time one step after the other."""
        limits = fitting(self.shard, steps, free_bytes(self.setup, self.options))
        launcher = self._launcher(limits, budget) if limits else None
        if launcher is None:
            reason = (
                f"too little memory: the weights of {self.shard.name} need"
                f" {self.shard.weight_bytes / 1e9:.1f} GB"
            )
            for step in steps:
                log.add("skipped", **named(step), reason=reason)
            return
        for number, step in enumerate(steps):
            if not budget.allows_another():
                return
            began_s = budget.spent_s
            budget.say(f"{self.shard.name}: step {number} of {len(steps)}")
            self._one(step, launcher, log, session)
            budget.allows_another(began_s)

    def _launcher(self, limits: Limits, budget: Budget) -> Launcher | None:
        """The rank, built; None where the memory does not hold it after all."""
        budget.say(f"building {self.shard.name}, {limits.kv_pages} KV pages")
        try:
            decoder = Decoder(self.shard, self.setup, limits)
            return Launcher(decoder, Buffers(limits, self.setup.device, self.shard.vocab))
        except torch.OutOfMemoryError:
            return None

    def _one(self, step: Step, launcher: Launcher, log: Log, session: str) -> None:
        reason = launcher.buffers.misfit(step)
        if reason is None:
            try:
                launch = launcher.prepare(step)
                taken = timing.measure(
                    launch.run,
                    lambda: launcher.buffers.refresh(launch.batch),
                    self.setup.device,
                    self.options.repeats,
                )
                log.add(
                    "step",
                    **named(step),
                    mode=launch.mode,
                    padded_tokens=launch.batch.padded_tokens,
                    device_us=taken.median_us,
                    device_p10_us=taken.p10_us,
                    device_p90_us=taken.p90_us,
                    replays=taken.replays,
                    session=session,
                )
                return
            except torch.OutOfMemoryError as error:
                reason = f"too little memory: {str(error).split('. ')[0]}"
                release(self.setup)
        log.add("skipped", **named(step), reason=reason)


def named(step: Step) -> dict:
    """What a line of results says of its step."""
    return {"key": step.key, "part": step.part, "model": step.model, "tp": step.tp, "repeat": step.repeat}


def free_bytes(setup: Setup, options: RunOptions) -> float:
    """Memory that a model may take."""
    free = torch.cuda.mem_get_info()[0] - RESERVE_BYTES if setup.device.type == "cuda" else CPU_MEMORY_BYTES
    return free if options.memory_bytes is None else min(free, options.memory_bytes)


def fitting(own: Shard, steps: Iterable[Step], memory_bytes: float) -> Limits | None:
    """Buffers for all steps that the memory holds beside the weights; None where it holds not even one page
    of KV cache.
    """
    page_bytes = own.kv_token_bytes * PAGE_TOKENS
    room = int((memory_bytes - own.weight_bytes) // page_bytes)
    if room < 1:
        return None
    steps = list(steps)
    needs = np.array([step.pages for step in steps])
    kept = [step for step, need in zip(steps, needs, strict=True) if need <= room]
    return Limits(
        max_tokens=max((padded_tokens(step.tokens) for step in kept), default=1),
        max_requests=max(
            (max(len(step.contexts), padded_tokens(len(step.decodes))) + len(step.chunks) for step in kept),
            default=1,
        ),
        max_context=max((max(step.contexts) for step in kept), default=PAGE_TOKENS),
        kv_pages=int(max(needs[needs <= room], default=1)),
    )


def release(setup: Setup) -> None:
    """Give a model's memory back before the next one is built."""
    gc.collect()
    if setup.device.type == "cuda":
        torch.cuda.empty_cache()


def describe(setup: Setup) -> dict:
    """Where and with what a session measures; the digest is that of the collector's own code."""
    sha = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        sha.update(path.read_bytes())
    on_card = setup.device.type == "cuda"
    versions = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda}
    return {
        "session": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "card": torch.cuda.get_device_name() if on_card else "cpu",
        "driver": driver() if on_card else None,
        "versions": versions,
        "script_digest": sha.hexdigest()[:32],
    }


def driver() -> str | None:
    """Version of the NVIDIA driver, or None where nobody says."""
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return (
            subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
            .stdout.split("\n")[0]
            .strip()
            or None
        )
    except (OSError, subprocess.SubprocessError):
        return None
