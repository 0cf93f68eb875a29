"""Shares of a step's expected time by cause: features that say what a base may leave out.

>>> from h3.steps import batch, catalog
>>> llama = batch.Deployment(catalog.architecture("llama-2-7b"), 1, "H100")
>>> shares = compute(batch.step_table(llama, [[(600, 1, 512)]]), None)
>>> {name: round(float(value[0]), 2) for name, value in shares.items() if value[0] > 0.005}
{'kv_share': 0.02, 'layers_share': 0.17}

The expected time is the terms of the base (physics.terms_us) at what kernels and documentation say of each
(priors.PRIOR), so nothing is learned from rows. Where a model's step is mostly small kernels, sampling or
all-reduce, the base may miss it as a whole; a level between models can be learned from that, while batch, TP
degree or sizes would name the model. The share of the weights is what the others leave.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from h3.steps import physics
from h3.steps.priors import PRIOR

NAME = "base_shares"
# Terms that count nothing of their own (a constant a step) or follow from the others have no share.
CAUSES = {
    "kv_share": ("kv_us", "memory"),
    "compute_excess_share": ("compute_excess_us", "compute"),
    "prefill_attention_share": ("prefill_attention_us", "prefill"),
    "all_reduce_share": ("all_reduce_us", "communication"),
    "attention_waves_share": ("attention_waves", "memory"),
    "layers_share": ("layers", "overhead"),
    "moe_layers_share": ("moe_layers", "experts"),
    "requests_share": ("requests", "overhead"),
    "two_shots_share": ("two_shots", "communication"),
    "sampler_share": ("sampler_us", "sampling"),
}
# Name, group, unit and formula of each feature.
FEATURES = tuple(
    (name, group, "ratio", f"expected {term} / expected step") for name, (term, group) in CAUSES.items()
)


def compute(table: pd.DataFrame, terms: pd.DataFrame | None) -> dict[str, np.ndarray]:
    """Share of each cause in the expected time of a step, 0 to 1, arrays of shape (rows,); `terms`: as in
    features.build.
    """
    terms = physics.terms_us(table) if terms is None else terms
    expected = {name: PRIOR[name][0] * terms[name].to_numpy() for name in physics.TERMS}
    step_us = np.maximum(sum(expected.values()), 1e-12)
    return {name: expected[term] / step_us for name, (term, _) in CAUSES.items()}
