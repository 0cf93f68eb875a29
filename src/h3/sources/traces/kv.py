"""KV tokens of traced steps, from request snapshots, from journeys, or by assumption. This file owns the
three ways.

    sums = snapshot_sums(batch.snapshots)               # per batch of a trace file: memory is per step
    kv = from_snapshots(pd.concat(parts), steps)        # exact: every request's computed tokens are logged
    kv = from_journeys(journeys, steps)                 # exact: requests are placed in steps by their events
    kv = from_blocks(used, num_decode_reqs, 16)         # assumed: used blocks x block size

`steps` has a row per sampled step: line, clock, step_id, num_prefill_reqs, num_decode_reqs, prefill_tokens,
scheduled_tokens. Each way gives columns of that length: NaN where the log does not tell.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from h3.sources.traces.journeys import Decodes, Journey, active, decodes, longest, prefills
from h3.steps.batch import WINDOWED, attended

KV_COLUMNS = (
    "decode_kv_tokens_sum",
    "decode_kv_tokens_mean",
    "decode_kv_tokens_max",
    "prefill_kv_tokens_sum",
    "prefill_attended_tokens",
)
SUMS = ("decode_kv_tokens_sum", "prefill_kv_tokens_sum", "prefill_attended_tokens")
COMPOSITION = ("num_prefill_reqs", "num_decode_reqs", "prefill_tokens", "decode_tokens")
Columns = dict[str, np.ndarray]


def snapshot_sums(snapshots: np.ndarray, window_tokens: int = 0) -> pd.DataFrame:
    """Sums over the scheduled requests of steps, a row per run of snapshots of one step; those of layers with
    a window (WINDOWED) where it has any tokens.

    snapshots: float64[n, 5], (line, step id, 1 if decoding, tokens computed before, tokens scheduled). A
    decode request attends to the tokens computed before and the new one; t new prompt tokens after s computed
    ones attend to t*s + t(t+1)/2 (query, key) pairs.
    """
    line, step, decodes_, before, new = snapshots.T
    decode, prefill = decodes_ * (new > 0), (1 - decodes_) * (new > 0)
    context = decode * (before + new)
    values = (
        prefill,
        decode,
        prefill * new,
        decode * new,
        context,
        prefill * before,
        prefill * attended(new, before),
    )
    named = dict(zip((*COMPOSITION, *SUMS), values, strict=True))
    if window_tokens:
        pairs = prefill * attended(new, before, window_tokens)
        named |= dict(zip(WINDOWED, (np.minimum(context, window_tokens), pairs), strict=True))
    heads = np.flatnonzero(np.diff(step, prepend=-1))
    sums = {name: np.add.reduceat(column, heads) for name, column in named.items()}
    place = {"line": line[heads].astype(np.int64), "step_id": step[heads].astype(np.int64)}
    return pd.DataFrame({**place, **sums, "decode_kv_tokens_max": np.maximum.reduceat(context, heads)})


def _merged(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    sums = [name for name in (*COMPOSITION, *SUMS, *WINDOWED) if name in rows]
    how = {"line": "first", **dict.fromkeys(sums, "sum"), "decode_kv_tokens_max": "max"}
    return rows.groupby(keys, sort=False).agg(how).reset_index()


def from_snapshots(sums: pd.DataFrame, steps: pd.DataFrame) -> Columns:
    """KV and composition columns of the steps whose snapshots cover the whole batch (requests and scheduled
    tokens).
    """
    sums = sums.assign(clock=clock_at(sums["line"].to_numpy(), steps))
    known = _merged(sums, ["clock", "step_id"]).set_index(["clock", "step_id"])
    found = known.reindex(pd.MultiIndex.from_frame(steps[["clock", "step_id"]])).set_index(steps.index)
    requests = (
        found["num_prefill_reqs"] + found["num_decode_reqs"]
        == steps["num_prefill_reqs"] + steps["num_decode_reqs"]
    )
    tokens = steps["scheduled_tokens"].isna() | (
        found["prefill_tokens"] + found["decode_tokens"] == steps["scheduled_tokens"]
    )
    found["decode_kv_tokens_mean"] = found["decode_kv_tokens_sum"] / found["num_decode_reqs"].clip(lower=1)
    names = (*COMPOSITION, *KV_COLUMNS, *(name for name in WINDOWED if name in found))
    return {name: found[name].where(requests & tokens).to_numpy() for name in names}


def clock_at(lines: np.ndarray, steps: pd.DataFrame) -> np.ndarray:
    """The clock that wrote each line: a restarted server writes its lines after those of the one before."""
    first_lines = steps.groupby("clock")["line"].first().to_numpy()
    return np.maximum(np.searchsorted(first_lines, lines, side="right") - 1, 0)


def from_journeys(events: list[Journey], steps: pd.DataFrame) -> Columns:
    """KV columns of the steps in which the journeys place as many requests as the log counts.

    Prefill columns are known where every prefill of the step took one step and the tokens add up to the
    log's.
    """
    columns = unknown(len(steps))
    clock = clock_at(np.array([event[0] for event in events], dtype=np.int64), steps)
    owner = steps["clock"].to_numpy()
    for number in np.unique(owner).tolist():  # events and steps are in order of lines, and so of clocks
        first, end = np.searchsorted(clock, [number, number + 1]).tolist()
        rows = slice(*np.searchsorted(owner, [number, number + 1]).tolist())
        mine, part = events[first:end], steps.iloc[rows]
        for name, values in {**_decode(decodes(mine), part), **_prefill(prefills(mine), part)}.items():
            columns[name][rows] = values
    return columns


def _decode(spans: Decodes, steps: pd.DataFrame) -> Columns:
    at, expected = steps["step_id"].to_numpy(), steps["num_decode_reqs"].to_numpy()
    count, offsets = active(spans.first, spans.last, spans.offset, at)
    total = np.where(count == expected, offsets + count * at, np.nan)
    top = np.where(count == expected, longest(spans, at), np.nan)
    return dict(zip(KV_COLUMNS[:3], (total, total / np.maximum(count, 1), top), strict=True))


def _prefill(spans: pd.DataFrame, steps: pd.DataFrame) -> Columns:
    """Prefill columns from spans (first, last, before, new); NaN unless the step's prefills are all
    single-step ones.
    """
    at = steps["step_id"].to_numpy()
    count, _ = active(spans["first"].to_numpy(), spans["last"].to_numpy(), np.zeros(len(spans)), at)
    single = spans[spans["first"] == spans["last"]]
    single = single.assign(
        pairs=single["new"] * single["before"] + single["new"] * (single["new"] + 1) / 2, one=1
    )
    sums = single.groupby("first")[["one", "new", "before", "pairs"]].sum().reindex(at, fill_value=0)
    whole = (count == sums["one"].to_numpy()) & (count == steps["num_prefill_reqs"].to_numpy())
    whole &= sums["new"].to_numpy() == steps["prefill_tokens"].to_numpy()
    return {
        name: np.where(whole, sums[key].to_numpy(float), np.nan)
        for name, key in zip(KV_COLUMNS[3:], ("before", "pairs"), strict=True)
    }


def from_blocks(used_blocks: np.ndarray, num_decode_reqs: np.ndarray, block_size_tokens: float) -> Columns:
    """Decode KV tokens as used blocks x block size, under the assumption kv_tokens="blocks".

    Blocks that requests share (prefix cache) count once, so a shared prefix makes this too low; half-filled
    last blocks and the blocks of prefilling requests make it too high. Longest request and prefill columns
    stay NaN.
    """
    used = np.maximum(used_blocks, 0) * block_size_tokens
    mean = used / np.maximum(num_decode_reqs, 1)
    return {**unknown(len(used)), "decode_kv_tokens_sum": used, "decode_kv_tokens_mean": mean}


def unknown(size: int) -> Columns:
    """All KV columns as NaN."""
    return {name: np.full(size, np.nan) for name in KV_COLUMNS}


def with_empty_sides(kv: Columns, num_prefill_reqs: np.ndarray, num_decode_reqs: np.ndarray) -> Columns:
    """Zeros where the batch has no decode, or no prefill request: nothing is attended to, whatever the log
    tells.
    """
    decode = {name: np.where(num_decode_reqs == 0, 0.0, kv[name]) for name in KV_COLUMNS[:3]}
    return {
        **kv,
        **decode,
        **{name: np.where(num_prefill_reqs == 0, 0.0, kv[name]) for name in KV_COLUMNS[3:]},
    }
