"""Habitat: measured steps of the nearest training configuration, each operator's time scaled by its roofline;
unfitted.

    fitted = Habitat(Params()).fit(train, Context())      # keeps the training steps
    fitted.predict(inputs)

Source: Yu et al. 2021, Habitat, arXiv:2102.00527: a measured kernel's time goes from the source GPU to the
target GPU by wave scaling, the ratio of what bounds it (bandwidth or FLOP/s). Simplified: step logs hold no
kernel times, so a measured period splits into GEMMs, attention and all-reduce at their peak times and a rest
(launches, small kernels, host), and the rest scales with the number of layers. Source and target differ in
model and TP here, where Habitat's differ in GPU only.

A configuration is hardware, TP and architecture; this file also says which one is nearest (vidur and
splitwise ask too).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.neighbors import NearestNeighbors

from h3.models.peers.blackbox import SMALLEST_PREDICTION_US
from h3.models.protocol import Context
from h3.models.support import DEPLOYMENT_COLUMNS
from h3.steps import physics

TYPICAL_BATCH = {
    "num_prefill_reqs": 0.0,
    "num_decode_reqs": 64.0,
    "prefill_tokens": 0.0,
    "decode_tokens": 64.0,
    "decode_kv_tokens_sum": 64_000.0,
    "prefill_kv_tokens_sum": 0.0,
    "prefill_attended_tokens": 0.0,
}


def configurations(table: pd.DataFrame) -> list[tuple[pd.DataFrame, np.ndarray]]:
    """One (row of configuration columns, positions of its steps) for each configuration, in the order of
    their values.
    """
    numbers = table.groupby(list(DEPLOYMENT_COLUMNS), sort=True, dropna=False).ngroup().to_numpy()
    positions = [np.flatnonzero(numbers == number) for number in range(numbers.max(initial=-1) + 1)]
    return [(table.iloc[at[:1]][list(DEPLOYMENT_COLUMNS)].reset_index(drop=True), at) for at in positions]


def as_if(table: pd.DataFrame, configuration: pd.DataFrame) -> pd.DataFrame:
    """The same batches on another configuration (a frame of one row)."""
    return table.assign(**{str(name): value for name, value in configuration.iloc[0].items()})


def coordinates(configuration: pd.DataFrame) -> np.ndarray:
    """Logs of what bounds a step: weight, GEMM and KV time of a typical decode batch, layers and TP degree;
    shape (5,).
    """
    batch = configuration.assign(**TYPICAL_BATCH)
    tokens = physics.decode_tokens(batch)
    counts = configuration[["num_layers", "tensor_parallelism"]].to_numpy(float)[0]
    return np.log(
        [
            physics.weight_us(batch, tokens)[0],
            physics.gemm_us(batch, tokens)[0],
            physics.kv_us(batch)[0],
            *counts,
        ]
    )


def nearest(sources: list[pd.DataFrame], target: pd.DataFrame) -> int:
    """Index of the source configuration nearest to the target one in `coordinates`; the first of equally near
    ones.
    """
    distances = [np.linalg.norm(coordinates(source) - coordinates(target)) for source in sources]
    return int(np.argmin(distances))


def record(configuration: pd.DataFrame) -> dict[str, Any]:
    """A configuration as JSON content."""
    return json.loads(configuration.to_json(orient="records"))[0]


def sha256(*arrays: np.ndarray) -> str:
    """sha256 of the arrays' bytes, dtypes and shapes."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def composition(table: pd.DataFrame) -> np.ndarray:
    """What makes two steps alike: prefill and decode requests, prefill tokens, query-key pairs, KV tokens;
    shape (rows, 5).
    """
    known = (
        np.nan_to_num(table[name].to_numpy(float))
        for name in ("prefill_attended_tokens", "decode_kv_tokens_sum")
    )
    return np.column_stack(
        [table["num_prefill_reqs"], table["num_decode_reqs"], physics.prefill_tokens(table), *known]
    ).astype(float)


def operators_us(table: pd.DataFrame) -> np.ndarray:
    """Roofline time of GEMMs, attention and all-reduce of each step, shape (rows, 3)."""
    gemms = physics.averaged(
        table,
        lambda steps, tokens: np.maximum(physics.weight_us(steps, tokens), physics.gemm_us(steps, tokens)),
    )
    attention = np.maximum(physics.kv_us(table), physics.prefill_attention_us(table))
    return np.column_stack([gemms, attention, physics.averaged(table, physics.all_reduce_us)])


@dataclass(frozen=True)
class Source:
    """Measured steps of one configuration.

    spread: of each composition column, (5,); points: composition / spread, (rows, 5); efficiency: measured
    over roofline time of the operators, at most 1 (a step measured below its roofline), (rows,); rest_us:
    what they leave, (rows,).
    """

    configuration: pd.DataFrame
    spread: np.ndarray
    points: np.ndarray
    efficiency: np.ndarray
    rest_us: np.ndarray
    index: NearestNeighbors

    @classmethod
    def of(cls, configuration: pd.DataFrame, steps: pd.DataFrame, target: str, neighbours: int) -> Source:
        """The measured steps, indexed by composition."""
        values = composition(steps)
        spread = values.std(axis=0)
        spread[spread == 0] = 1.0
        operators, measured = operators_us(steps).sum(axis=1), steps[target].to_numpy(float)
        efficiency = np.minimum(1.0, measured / operators)
        index = NearestNeighbors(n_neighbors=min(neighbours, len(steps)), algorithm="kd_tree").fit(
            values / spread
        )
        return cls(
            configuration, spread, values / spread, efficiency, measured - efficiency * operators, index
        )

    def transfer(self, targets: pd.DataFrame) -> np.ndarray:
        """Times of the target steps in us: mean over the nearest measured steps of operators and rest, each
        scaled.
        """
        alike = self.index.kneighbors(composition(targets) / self.spread, return_distance=False)
        layers_ratio = targets["num_layers"].to_numpy(float) / float(self.configuration["num_layers"].iloc[0])
        operators = operators_us(targets).sum(axis=1) * self.efficiency[alike].mean(axis=1)
        return operators + self.rest_us[alike].mean(axis=1) * layers_ratio

    def describe(self) -> dict[str, Any]:
        """JSON: the configuration, number of measured steps, and sha256 of what is kept of them."""
        digest = sha256(self.spread, self.points, self.efficiency, self.rest_us)
        return {"configuration": record(self.configuration), "rows": len(self.points), "sha256": digest}


@dataclass(frozen=True)
class Params:
    """neighbours: measured steps that a target step's time is a mean of."""

    neighbours: int = 8


@dataclass(frozen=True)
class FittedHabitat:
    """The measured steps of every training configuration."""

    sources: list[Source]

    def predict(self, inputs: pd.DataFrame) -> np.ndarray:
        """Predicted target in us, shape (rows,)."""
        predicted = np.empty(len(inputs))
        for configuration, at in configurations(inputs):
            source = self.sources[nearest([each.configuration for each in self.sources], configuration)]
            predicted[at] = source.transfer(inputs.iloc[at])
        return np.maximum(predicted, SMALLEST_PREDICTION_US)

    def describe(self) -> dict[str, Any]:
        """JSON: model, and each training configuration's source."""
        return {"model": "habitat", "sources": [source.describe() for source in self.sources]}


@dataclass(frozen=True)
class Habitat:
    """The unfitted predictor."""

    params: Params
    name: str = "habitat"

    def fit(self, train: pd.DataFrame, context: Context) -> FittedHabitat:
        """Keep and index the training steps; nothing is fitted."""
        parts = configurations(train)
        return FittedHabitat(
            [Source.of(key, train.iloc[at], context.target, self.params.neighbours) for key, at in parts]
        )
