"""The measured tables inside the package: src/h3/data, whose README says where they come from.

    path = checked("h100_requests.parquet")          # or an InputError: the file is not what was packaged

SHA256SUMS beside them is what `sha256sum -c SHA256SUMS` reads.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from h3.common.config import PACKAGE
from h3.common.errors import InputError

FOLDER = PACKAGE / "data"
SUMS = "SHA256SUMS"


def checked(name: str) -> Path:
    """The path of a packaged table; raises InputError if it is missing or is not what SHA256SUMS says."""
    path, expected = FOLDER / name, _sums().get(name)
    if expected is None:
        raise InputError(f"{FOLDER / SUMS}: no line for {name}; expected the digests of the packaged tables")
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a table of the package") from None
    if found != expected:
        raise InputError(f"{path}: sha256 {found}; expected {expected}, as {SUMS} says")
    return path


def _sums() -> dict[str, str]:
    """File name → sha256, from SHA256SUMS."""
    try:
        lines = (FOLDER / SUMS).read_text().splitlines()
    except OSError as error:
        raise InputError(
            f"{FOLDER / SUMS}: {error.strerror}; expected digests of the packaged tables"
        ) from None
    return {name.strip(): digest for digest, _, name in (line.partition("  ") for line in lines)}


def write_sums() -> None:
    """Write SHA256SUMS of all tables that are packaged now."""
    tables = sorted(path for path in FOLDER.iterdir() if path.suffix in (".parquet", ".csv"))
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in tables]
    (FOLDER / SUMS).write_text("".join(lines))
