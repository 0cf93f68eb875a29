"""All-reduce between tensor-parallel ranks: how many, how large, and by which of vLLM's algorithms."""

from __future__ import annotations

import numpy as np
import pandas as pd

from h3.steps import cards, catalog

ACTIVATION_BYTES = 2.0
TWO_SHOT_FEW_RANKS = (
    4  # vLLM's custom all-reduce turns to two shots from so many bytes on, for up to so many ranks, and above
)
TWO_SHOT_BYTES = (524_288, 262_144)
LEAST_NVLINK_BYTES_S = catalog.LEAST_NVLINK_BYTES_S  # below, vLLM leaves more than two ranks to NCCL's ring


def _ranks(table: pd.DataFrame) -> np.ndarray:
    return table["tensor_parallelism"].to_numpy(float)


def all_reduces(table: pd.DataFrame) -> np.ndarray:
    """All-reduces of a step: two a layer (after attention and after the FFN) on more than one rank, else
    none.
    """
    return np.where(_ranks(table) > 1, 2 * table["num_layers"].to_numpy(float), 0.0)


def all_reduce_message_bytes(table: pd.DataFrame, tokens: np.ndarray) -> np.ndarray:
    """Bytes that one all-reduce sums over the ranks: the activations of all tokens."""
    return tokens * table["hidden_size"].to_numpy(float) * ACTIVATION_BYTES


def two_shot(table: pd.DataFrame, message_bytes: np.ndarray) -> np.ndarray:
    """Whether an all-reduce scatters and gathers (two shots) instead of reading all from everyone (one): by
    vLLM's custom all-reduce from some size on, by NCCL, which takes its place on PCIe, always.
    """
    ranks = _ranks(table)
    large = message_bytes >= np.where(ranks <= TWO_SHOT_FEW_RANKS, *TWO_SHOT_BYTES)
    return (ranks > 2) & (large | _over_pcie(table))


def _over_pcie(table: pd.DataFrame) -> np.ndarray:
    return cards.figure(table, "nvlink_bandwidth_bytes_s") < LEAST_NVLINK_BYTES_S


def two_shot_all_reduces(table: pd.DataFrame, tokens: np.ndarray) -> np.ndarray:
    """All-reduces of a step that go in two shots."""
    message_bytes = all_reduce_message_bytes(table, tokens)
    return np.where(two_shot(table, message_bytes), all_reduces(table), 0.0)


def all_reduce_wire_bytes(table: pd.DataFrame, message_bytes: np.ndarray) -> np.ndarray:
    """Bytes that pass a rank's link in one all-reduce: p-1 messages in one shot, 2 (p-1)/p of one in two.

    The latter is the least possible: Patarasuk and Yuan 2009, doi:10.1016/j.jpdc.2008.09.002. Over PCIe all p
    ranks' share one host bridge (L40S tables: 15 GB/s for 4 and for 8 ranks together).
    """
    ranks = _ranks(table)
    two_shots = 2 * (ranks - 1) / ranks * np.where(_over_pcie(table), ranks, 1.0)
    return np.where(two_shot(table, message_bytes), two_shots, ranks - 1) * message_bytes
