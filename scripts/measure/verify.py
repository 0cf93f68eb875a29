"""The decoder against the float32 reference on small shapes, on the device and in the ways that the steps
will run.

    errors = verify(Setup(torch.device("cuda"), torch.bfloat16, "triton"))       # {"dense full": 0.004, ...}
"""

from __future__ import annotations

import torch

from h3.common.errors import InputError
from h3.steps.catalog import Architecture
from measure import reference, shard
from measure.batch import Buffers, Limits
from measure.decoder import Decoder, Setup
from measure.launch import Launcher
from measure.plan import Step

# Two layers each: grouped heads and a dense FFN; full heads, a dense layer and one with routed and shared
# experts.
TOYS = {
    "dense": Architecture(2, 64, 8, 2, 16, 128, 96, 0, 0, 0, 0, 0, 2.0),
    "experts": Architecture(2, 64, 4, 4, 16, 128, 96, 1, 8, 2, 32, 48, 2.0),
}
STEPS = {
    "decode": Step("grid", "toy", 1, decodes=(5, 70, 1)),
    "mixed": Step("grid", "toy", 1, decodes=(40,), chunks=((5, 0), (4, 37))),
    "prefill": Step("grid", "toy", 1, chunks=((19, 13),)),
}
LIMITS = Limits(max_tokens=64, max_requests=16, max_context=128, kv_pages=40)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def verify(setup: Setup) -> dict[str, float]:
    """Relative error of the logits (norm of the difference over norm) by toy model and step; InputError where
    one is too large.
    """
    errors = {}
    for model, arch in TOYS.items():
        small = shard.of(arch, 1, f"the toy model {model!r}")
        decoder, buffers = Decoder(small, setup, LIMITS), Buffers(LIMITS, setup.device, small.vocab)
        launcher = Launcher(decoder, buffers)
        for name, step in STEPS.items():
            launch = launcher.prepare(step)
            weights = reference.copied(decoder)
            launch.run()
            found = decoder.logits(launch.batch).float().cpu()
            expected = reference.logits(weights, step, launch.batch)
            errors[f"{model} {name}"] = float((found - expected).norm() / expected.norm())
    worst = max(errors, key=lambda name: (errors[name] != errors[name], errors[name]))
    if not errors[worst] <= TOLERANCE[setup.dtype]:
        raise InputError(
            f"the decoder is wrong on this machine: {worst} is off by {errors[worst]:.2g} of the float32"
            f" reference; expected at most {TOLERANCE[setup.dtype]:g}"
        )
    return errors
