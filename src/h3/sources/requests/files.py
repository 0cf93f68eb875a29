"""Request logs as they lie on disk: TraceV2 and inference-perf, read into one table of requests.

    log = read("20260217-...", Path("data.csv.gz"), block_size_tokens=16)        # RequestLog

Requests: request (str), line, prompt_tokens, cached_tokens (NaN: not recorded), output_tokens, arrival_us,
first_us, last_us, and token_times_us (array or None) where the log has a time for each token.
"""

from __future__ import annotations

import csv
import io
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from h3.common.errors import InputError
from h3.sources.experiment import Experiment
from h3.steps import schema

TRACEV2_COLUMNS = (
    "request_id",
    "client_id",
    "tenant_id",
    "slo_class",
    "session_id",
    "round_index",
    "prefix_group",
    "prefix_length",
    "streaming",
    "input_tokens",
    "output_tokens",
    "text_tokens",
    "image_tokens",
    "audio_tokens",
    "video_tokens",
    "reason_ratio",
    "model",
    "deadline_us",
    "server_input_tokens",
    "arrival_time_us",
    "send_time_us",
    "first_chunk_time_us",
    "last_chunk_time_us",
    "num_chunks",
    "status",
    "error_message",
    "finish_reason",
)
REQUIRED = (
    "request_id",
    "input_tokens",
    "output_tokens",
    "arrival_time_us",
    "first_chunk_time_us",
    "last_chunk_time_us",
    "status",
)
NUMBERS = ("prompt_tokens", "output_tokens", "arrival_us", "first_us", "last_us")


Reject = tuple[str, str, int, str, str]
Raw = tuple[pd.DataFrame, list[Reject], int]  # requests that ended well, rejects, how many failed


@dataclass(frozen=True)
class RequestLog:
    """Usable requests of one experiment, the rejected ones, and how many the log held and how many failed."""

    requests: pd.DataFrame
    rejects: pd.DataFrame
    total: int
    failed: int


Logged = tuple[Experiment, RequestLog]


def read(name: str, path: Path, block_size_tokens: float) -> RequestLog:
    """Read a request log of either format.

    Requests that failed (status other than ok, or an error) are counted in `failed`; malformed ones are
    rejected with file and line. Raises InputError for a file that is no request log.
    """
    reader = _lifecycle if path.name.endswith(".json") else _tracev2
    raw, rejects, failed = reader(name, path, block_size_tokens)
    requests, bad = _usable(raw, name, path)
    return RequestLog(requests, schema.rejects_frame(rejects + bad), len(raw) + len(rejects) + failed, failed)


def _usable(raw: pd.DataFrame, name: str, path: Path) -> tuple[pd.DataFrame, list[Reject]]:
    """Split requests into usable ones and rejects; the first rule that a request breaks is its reason."""
    whole = [(raw[c] >= 0) & (raw[c] == np.floor(raw[c])) for c in ("prompt_tokens", "output_tokens")]
    rules = {
        "not_finite": ~np.isfinite(raw[list(NUMBERS)].to_numpy(float)).all(axis=1),
        "not_whole_tokens": ~(whole[0] & whole[1]).to_numpy(),
        "no_prompt_tokens": (raw["prompt_tokens"] < 1).to_numpy(),
        "no_output_tokens": (raw["output_tokens"] < 1).to_numpy(),
        "ends_before_start": (
            ((raw["last_us"] < raw["first_us"]) | (raw["first_us"] < raw["arrival_us"])).to_numpy()
        ),
        "no_time_between_tokens": (
            ((raw["output_tokens"] > 1) & (raw["last_us"] <= raw["first_us"])).to_numpy()
        ),
    }
    reason = np.full(len(raw), "", dtype=object)
    for code, broken in rules.items():
        reason[(reason == "") & broken] = code
    lines = raw["line"].to_numpy()
    rejects = [
        (
            name,
            str(path),
            int(lines[index]),
            reason[index],
            f"request {row.request}: " + ", ".join(f"{c}={getattr(row, c)}" for c in NUMBERS),
        )
        for index, row in enumerate(raw.itertuples())
        if reason[index]
    ]
    return raw[reason == ""].reset_index(drop=True), rejects


def read_bytes(path: Path) -> tuple[bytes, bool]:
    """The content of a file, unpacked if it ends in .gz, and whether its gzip stream is whole."""
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content, True
    parts, whole = [], True
    while content:
        unpack = zlib.decompressobj(wbits=31)
        try:
            parts.append(unpack.decompress(content))
        except zlib.error as error:
            if not parts:
                raise InputError(f"{path}: not gzip ({error}); expected a gzip file") from None
            whole = False
            break
        whole, content = unpack.eof, unpack.unused_data
    return b"".join(parts), whole


def _tracev2(name: str, path: Path, block_size_tokens: float) -> Raw:
    content, whole = read_bytes(path)
    text = content.decode("utf-8", errors="replace")
    rejects = []
    if not whole:
        text = text[: text.rfind("\n") + 1]
        rejects.append(
            (
                name,
                str(path),
                text.count("\n"),
                "truncated_gzip",
                "the file ends early; the lines before are kept",
            )
        )
    lines = csv.reader(io.StringIO(text))
    header = next(lines, [])
    _check_header(header, path)
    rows = []
    for cells in lines:
        if len(cells) != len(header):
            rejects.append(
                (
                    name,
                    str(path),
                    lines.line_num,
                    "broken_line",
                    f"{len(cells)} fields; expected {len(header)}",
                )
            )
        else:
            rows.append((lines.line_num, *cells))
    frame = pd.DataFrame(rows, columns=["line", *header])
    ok = frame[frame["status"] == "ok"].reset_index(drop=True)
    return _from_tracev2(ok, block_size_tokens), rejects, len(frame) - len(ok)


def _check_header(header: list[str], path: Path) -> None:
    unknown = [column for column in header if column not in TRACEV2_COLUMNS]
    if unknown:
        raise InputError(f"{path}: unknown column {unknown[0]!r}; TraceV2 has {', '.join(TRACEV2_COLUMNS)}")
    missing = [column for column in REQUIRED if column not in header]
    if missing:
        raise InputError(
            f"{path}: column {missing[0]!r} is missing; expected a TraceV2 header with {', '.join(REQUIRED)}"
        )


def _from_tracev2(ok: pd.DataFrame, block_size_tokens: float) -> pd.DataFrame:
    def number(column: str, default: float = 0.0) -> pd.Series:
        if column not in ok:
            return pd.Series(default, index=ok.index)
        return pd.to_numeric(ok[column], errors="coerce")

    shared = number("prefix_length").fillna(0.0)
    grouped = (
        (ok["prefix_group"] != "") & (shared > 0)
        if "prefix_group" in ok
        else pd.Series(False, index=ok.index)
    )
    server_count = number("server_input_tokens")
    prompt = np.where(server_count > 0, server_count, number("input_tokens") + np.where(grouped, shared, 0.0))
    send = number("send_time_us")
    return pd.DataFrame(
        {
            "request": ok["request_id"],
            "line": ok["line"].astype("int64"),
            "prompt_tokens": prompt,
            "cached_tokens": np.where(grouped, shared // block_size_tokens * block_size_tokens, np.nan),
            "output_tokens": number("output_tokens"),
            "arrival_us": np.where(send > 0, send, number("arrival_time_us")),
            "first_us": number("first_chunk_time_us"),
            "last_us": number("last_chunk_time_us"),
            "token_times_us": None,
        }
    )


def _lifecycle(name: str, path: Path, block_size_tokens: float) -> Raw:
    try:
        entries = json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not JSON ({error}); expected inference-perf's array of requests") from None
    if not isinstance(entries, list):
        raise InputError(
            f"{path}: holds {type(entries).__name__}; expected inference-perf's array of requests"
        )
    rows, rejects, failed = [], [], 0
    for index, entry in enumerate(entries, start=1):
        if isinstance(entry, dict) and entry.get("error"):
            failed += 1
            continue
        try:
            rows.append((str(index), index, *_lifecycle_row(entry)))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            rejects.append(
                (name, str(path), index, "broken_entry", f"entry {index}: {type(error).__name__} {error}")
            )
    columns = [
        "request",
        "line",
        "prompt_tokens",
        "cached_tokens",
        "output_tokens",
        "arrival_us",
        "first_us",
        "last_us",
        "token_times_us",
    ]
    return pd.DataFrame(rows, columns=columns), rejects, failed


def _lifecycle_row(entry: dict[str, Any]) -> tuple[Any, ...]:
    """One request of inference-perf; its times are seconds, ours are microseconds."""
    info = entry["info"]
    times = np.asarray(info.get("output_token_times") or [], dtype=float) * 1e6
    arrival, end = float(entry["start_time"]) * 1e6, float(entry["end_time"]) * 1e6
    first, last = (times[0], times[-1]) if len(times) else (np.nan, end)
    tokens = float(info["output_tokens"])
    exact = times if len(times) == tokens and len(times) > 1 and np.all(np.diff(times) >= 0) else None
    return float(info["input_tokens"]), np.nan, tokens, arrival, first, last, exact
