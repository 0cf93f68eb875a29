"""All-reduce between tensor-parallel ranks: how many, how large, and by which of vLLM's algorithms."""

from __future__ import annotations

import numpy as np
import pandas as pd

ACTIVATION_BYTES = 2.0
TWO_SHOT_FEW_RANKS = (
    4  # vLLM's custom all-reduce turns to two shots from so many bytes on, for up to so many ranks, and above
)
TWO_SHOT_BYTES = (524_288, 262_144)


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
    """Whether vLLM's custom all-reduce scatters and gathers (two shots) instead of reading all from everyone
    (one).
    """
    ranks = _ranks(table)
    return (ranks > 2) & (message_bytes >= np.where(ranks <= TWO_SHOT_FEW_RANKS, *TWO_SHOT_BYTES))


def two_shot_all_reduces(table: pd.DataFrame, tokens: np.ndarray) -> np.ndarray:
    """All-reduces of a step that go in two shots."""
    message_bytes = all_reduce_message_bytes(table, tokens)
    return np.where(two_shot(table, message_bytes), all_reduces(table), 0.0)


def all_reduce_wire_bytes(table: pd.DataFrame, message_bytes: np.ndarray) -> np.ndarray:
    """Bytes that a rank receives in one all-reduce: p-1 messages in one shot, 2 (p-1)/p of one in two shots.

    The latter is the least possible: Patarasuk and Yuan 2009, doi:10.1016/j.jpdc.2008.09.002.
    """
    ranks = _ranks(table)
    return np.where(two_shot(table, message_bytes), 2 * (ranks - 1) / ranks, ranks - 1) * message_bytes
