"""Request logs as they lie on disk, read into one table of requests: TraceV2, and the JSON logs of `formats`.

    log = read("20260217-...", Path("data.csv.gz"), block_size_tokens=16)        # RequestLog

Requests: request (str), line, prompt_tokens, cached_tokens (NaN: not recorded), output_tokens, arrival_us,
first_us, last_us, and token_times_us (array or None) where the log has a time for each token.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from h3.common import bounded
from h3.common.bounded import Bounds
from h3.common.errors import InputError
from h3.sources.experiment import Experiment
from h3.sources.requests.formats import inference_perf
from h3.sources.requests.formats.content import load
from h3.sources.requests.formats.raw import Raw, Reject
from h3.sources.requests.formats.table import recognise
from h3.steps import limits, schema

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
TIMES = ("arrival_us", "first_us", "last_us")
NUMBERS = ("prompt_tokens", "output_tokens", *TIMES)
# What is read of a line, beside the number of the line.
READ = (*REQUIRED, "prefix_group", "prefix_length", "server_input_tokens", "send_time_us")
MOST_BROKEN = 100_000
USUAL = Bounds()
LIFECYCLE = "per_request_lifecycle_metrics.json"


@dataclass(frozen=True)
class RequestLog:
    """Usable requests of one experiment, the rejected ones, and how many the log held and how many failed;
    impossible: why the log cannot be used ("": it can).
    """

    requests: pd.DataFrame
    rejects: pd.DataFrame
    total: int
    failed: int
    impossible: str = ""


Logged = tuple[Experiment, RequestLog]


def read(name: str, path: Path, block_size_tokens: float, bounds: Bounds = USUAL) -> RequestLog:
    """Read a request log of any format: a CSV file is TraceV2, a JSON file is what it holds.

    Requests that failed (status other than ok, or an error) are counted in `failed`; malformed ones are
    rejected with file and line (of an array: the entry's number). Raises InputError for a file that is no
    request log.
    """
    if path.name.removesuffix(".gz").endswith(".csv"):
        raw, rejects, failed = _tracev2(name, path, block_size_tokens, bounds)
    else:
        raw, rejects, failed = _json(name, path, bounds)
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
        "not_in_this_century": (raw[list(TIMES)].abs() > limits.CENTURY_US).all(axis=1).to_numpy(),
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


def _json(name: str, path: Path, bounds: Bounds) -> Raw:
    """A JSON log; inference-perf's own name says what it must be."""
    content = load(path, bounds)
    if path.name == LIFECYCLE:
        return inference_perf.read(name, content)
    return recognise(content).read(name, content)


def _tracev2(name: str, path: Path, block_size_tokens: float, bounds: Bounds) -> Raw:
    unpacked = bounded.read(path, bounds)
    text = unpacked.content.decode("utf-8", errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    rejects: list[Reject] = []
    if unpacked.damage:
        text = text[: text.rfind("\n") + 1]
        rejects.append((name, str(path), text.count("\n"), unpacked.damage, "the lines before are kept"))
    frame = _rows(name, path, csv.reader(io.StringIO(text, newline="")), rejects)
    status = frame["status"].astype("str").str.strip().str.lower()
    ok = frame[status == "ok"].reset_index(drop=True)
    return _from_tracev2(ok, block_size_tokens), rejects, len(frame) - len(ok)


def _rows(name: str, path: Path, lines: Any, rejects: list[Reject]) -> pd.DataFrame:
    """The lines as a table of texts, with their numbers; those of another number of fields become rejects.

    Only the columns that are read are kept. Raises InputError for a header that is none, and for a file that
    is no table.
    """
    try:
        header = [cell.strip() for cell in next(lines, [])]
        _check_header(header, path)
        places = [(column, header.index(column)) for column in READ if column in header]
        kept: dict[str, list[Any]] = {column: [] for column in ("line", *(column for column, _ in places))}
        for cells in lines:
            if len(cells) == len(header):
                kept["line"].append(lines.line_num)
                for column, place in places:
                    kept[column].append(cells[place])
            else:
                said = f"{len(cells)} fields; expected {len(header)}"
                rejects.append((name, str(path), lines.line_num, "broken_line", said))
                if len(rejects) > MOST_BROKEN:
                    where = f"{path}: line {lines.line_num}"
                    raise InputError(f"{where}: more than {MOST_BROKEN} broken lines, this one of {said}")
    except csv.Error as error:
        raise InputError(f"{path}: line {lines.line_num}: {error}; expected a line of TraceV2") from None
    return pd.DataFrame(kept)


def _check_header(header: list[str], path: Path) -> None:
    expected = f"expected a TraceV2 header with {', '.join(REQUIRED)}"
    if not header:
        raise InputError(f"{path}: empty; {expected}")
    unknown = [column for column in header if column not in TRACEV2_COLUMNS]
    if unknown:
        raise InputError(
            f"{path}: unknown column {unknown[0][:60]!r}; TraceV2 has {', '.join(TRACEV2_COLUMNS)}"
        )
    missing = [column for column in REQUIRED if column not in header]
    if missing:
        raise InputError(f"{path}: column {missing[0]!r} is missing; {expected}")
    twice = next((column for column in header if header.count(column) > 1), None)
    if twice:
        raise InputError(f"{path}: column {twice!r} is there twice; expected one")


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
