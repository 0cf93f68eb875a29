"""A step table in a folder: a Parquet file an experiment, its rejects beside, and an index. It is written as
it comes, so that one experiment is in memory at a time, and appears whole or not at all.

    with writing(Path("steps")) as folder:
        folder.add(table, rejects)              # experiment after experiment
        index = folder.close({"source": "requests"})
    table, record = read(Path("steps"), most_rows=None)

Each part has the digest of its rows, and the folder that of its parts' digests: rows are read once, to write
them or to use them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from h3.common import files
from h3.common.errors import InputError
from h3.steps import schema, stored
from h3.steps.compact import Growing

INDEX = "steps.json"


@dataclass
class Folder:
    """A folder while it is filled: its parts in order, and how many rows were rejected for what."""

    path: Path
    parts: list[dict[str, Any]] = field(default_factory=list)
    rejected: dict[str, int] = field(default_factory=dict)

    def add(self, table: pd.DataFrame, rejects: pd.DataFrame) -> None:
        """Write the steps of one more experiment, and its rejects."""
        number = f"{len(self.parts):05d}"
        for reason, count in rejects.groupby("reason").size().items():
            self.rejected[str(reason)] = self.rejected.get(str(reason), 0) + int(count)
        if len(rejects):
            _write(rejects, self.path / f"{number}.rejects.parquet")
        if len(table):
            table = schema.check(table, str(self.path))
            names = sorted(table["experiment"].unique())
            _write(table, self.path / f"{number}.parquet")
            part = {"file": f"{number}.parquet", "rows": len(table), "experiments": names}
            self.parts.append({**part, "digest": schema.digest(table)})

    def close(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Write the index; its content. Raises InputError if there is no row."""
        if not self.parts:
            raise InputError("no step in any experiment; expected at least one usable log")
        index = {
            **metadata,
            "format_version": schema.FORMAT_VERSION,
            "digest": _digest(self.parts),
            "rows": sum(part["rows"] for part in self.parts),
            "parts": self.parts,
            "rejected": self.rejected,
        }
        files.write_text(self.path / INDEX, json.dumps(index, indent=1, sort_keys=True, default=str))
        return index


@contextmanager
def writing(path: Path) -> Iterator[Folder]:
    """A new folder, at `path` once the block has ended well; raises InputError if something is there."""
    if path.exists():
        raise InputError(f"{path}: exists; expected a new folder for the steps")
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.mkdir()
    try:
        yield Folder(scratch)
        scratch.rename(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _digest(parts: list[dict[str, Any]]) -> str:
    """First 32 hex digits of the sha256 over the parts' digests, in order."""
    return hashlib.sha256("".join(str(part.get("digest")) for part in parts).encode()).hexdigest()[:32]


def read(path: Path, most_rows: int | None) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The steps in a folder and its record; of an experiment of more than `most_rows` every k-th row, which
    the record says.

    k follows from that experiment alone: how many rows another has, held out or not, changes none of its own.

    Raises InputError for a folder that is none, has another format version, or whose rows are not those of
    its digest.
    """
    index = _index(path)
    paths = [path / part["file"] for part in index["parts"]]
    rows = sum(stored.check(each, "a part of a step table") for each in paths)
    if not rows or rows != index["rows"]:
        raise InputError(f"{path}: {rows} rows, {INDEX} says {index['rows']}; expected what h3 wrote")
    if _digest(index["parts"]) != index["digest"]:
        raise InputError(f"{path}: rows of another digest than {INDEX} says; expected what h3 wrote")
    growing = Growing(rows)
    every: dict[str, int] = {}
    try:
        for part in index["parts"]:
            table, steps = _part(path, part, most_rows)
            growing.add(table)
            every |= steps
    except stored.DAMAGED as error:
        raise stored.unreadable(path, error) from None
    return growing.table(), {**index, "every": every} if every else index


def _index(path: Path) -> dict[str, Any]:
    if not (path / INDEX).is_file():
        raise InputError(f"{path}: is a folder without {INDEX}; expected a step table")
    try:
        index = json.loads((path / INDEX).read_text(encoding="utf-8"))
        known = {"digest": str, "rows": int, "parts": list}
        whole = isinstance(index, dict) and all(
            isinstance(index.get(key), kind) for key, kind in known.items()
        )
        parts = index["parts"] if whole else []
        names = [Path(str(part["file"])).name for part in parts]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        said = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: no step table ({said}); expected a folder with {INDEX}") from None
    if not whole or names != [part["file"] for part in parts]:
        raise InputError(f"{path}/{INDEX}: not an index of steps; expected what h3.ingest wrote")
    if index.get("format_version") != schema.FORMAT_VERSION:
        found = index.get("format_version")
        raise InputError(f"{path}: step-table format {found!r}; expected {schema.FORMAT_VERSION!r}")
    return index


def _part(
    folder: Path, part: Mapping[str, Any], most_rows: int | None
) -> tuple[pd.DataFrame, dict[str, int]]:
    """The rows of a part that are used, and by experiment of how many rows one is where that is not 1; raises
    InputError where its rows are not those of its digest.
    """
    path = folder / part["file"]
    table = pq.read_table(path).to_pandas()
    if schema.digest(table) != part.get("digest"):
        raise InputError(f"{path}: rows of another digest than {INDEX} says; expected what h3 wrote")
    names = table["experiment"]
    number, size = names.groupby(names).cumcount(), names.groupby(names).transform("size")
    every = np.maximum(1, -(-size.to_numpy() // (most_rows or len(names))))
    steps = {name: k for name, k in zip(names, every.tolist(), strict=True) if k > 1}
    kept = table[number.to_numpy() % every == 0].reset_index(drop=True)
    return schema.check(kept, str(path)), steps


def _write(frame: pd.DataFrame, path: Path) -> None:
    arrow = pa.Table.from_pandas(frame, preserve_index=False)
    files.write(path, lambda scratch: pq.write_table(arrow, scratch, compression="zstd"))
