"""A bundle's files as one thing: checked by their digests without evaluating anything, and replaced in one
step.

    found = inspect("dist/blis")  # or an InputError; what it holds may be of any version of h3
    write_folder(found.data, Path("elsewhere"))     # whole or not at all; a bundle that is there is replaced

A folder is replaced by exchanging it with its successor, one operation of the file system (Linux). Where that
cannot be done the old folder is first moved to `.<name>.old` and the new one then from `.<name>.new` to its
place; a process killed in between leaves both there, and the next `inspect` or `write_folder` puts the new
one, whose digests agree, into place.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from h3.bundle import untrusted_json as bundle_json
from h3.bundle.manifest import FORMAT
from h3.common.errors import InputError

MANIFEST, MANIFEST_DIGEST = "manifest.json", "manifest.sha256"
FILE_NAME = re.compile(r"[a-z0-9_]{1,60}\.json")
# What any version of the manifest must have for its files to be found and checked.
ENVELOPE = {
    "type": "object",
    "required": ["format", "format_version", "files"],
    "properties": {
        "format": {"const": FORMAT},
        "format_version": {"type": "integer"},
        "files": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {
                "type": "object",
                "required": ["sha256", "bytes"],
                "properties": {
                    "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
                    "bytes": {"type": "integer", "minimum": 0},
                },
            },
        },
    },
}
AT_WORKING_DIRECTORY, EXCHANGE = -100, 2  # of renameat2(2)


@dataclass(frozen=True)
class Files:
    """A bundle's files whose digests agree: the manifest's content, its digest (which names all others),
    bytes by name, folder.
    """

    manifest: dict
    digest: str
    data: dict[str, bytes]
    path: Path


def inspect(path: str | Path) -> Files:
    """The files of a bundle of any version; raises InputError naming the file and what is wrong with it."""
    path = Path(path)
    real = path.resolve()
    if not real.exists() and any(left.exists() for left in _beside(real)):
        with _locked(real.parent):
            _repair(real)
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; expected a bundle")
    return _inspect(path)


def _inspect(path: Path) -> Files:
    data = bundle_json.read_bytes(path / MANIFEST)
    signature = bundle_json.read_bytes(path / MANIFEST_DIGEST)
    said, digest = signature[:64].decode(errors="replace"), bundle_json.sha256(data)
    if digest != said:
        raise InputError(f"{path / MANIFEST}: sha256 {digest}; expected {said}, as {MANIFEST_DIGEST} says")
    manifest = bundle_json.parse(data, str(path / MANIFEST))
    bundle_json.check(manifest, ENVELOPE, str(path / MANIFEST))
    found = {MANIFEST: data, MANIFEST_DIGEST: signature}
    for name, entry in manifest["files"].items():
        if not FILE_NAME.fullmatch(name) or name in found:
            raise InputError(f"{path / MANIFEST}: files: {name[:80]!r}; expected names such as booster.json")
        found[name] = _checked_bytes(path / name, entry)
    return Files(manifest, digest, found, path)


def _checked_bytes(path: Path, entry: dict) -> bytes:
    data = bundle_json.read_bytes(path)
    if len(data) != entry["bytes"]:
        raise InputError(f"{path}: {len(data)} bytes; the manifest says {entry['bytes']}")
    digest = bundle_json.sha256(data)
    if digest != entry["sha256"]:
        raise InputError(f"{path}: sha256 {digest}; the manifest says {entry['sha256']}")
    return data


def write_folder(files: dict[str, bytes], path: Path) -> Path:
    """Write a bundle's folder whole or not at all, replacing a bundle that is there; its path.

    Raises InputError if something else than a bundle is in the way or the folder cannot be written.
    """
    real = path.resolve()
    new, old = _beside(real)
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        with _locked(real.parent):
            _repair(real)
            if real.exists() and not (
                real.is_dir() and (not any(real.iterdir()) or (real / MANIFEST).is_file())
            ):
                raise InputError(
                    f"{path}: exists and is not a bundle; expected a new folder, an empty one or a bundle to"
                    " replace"
                )
            try:
                _fill(new, files)
                _replace(real, new, old)
            finally:
                _repair(real)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a folder that can be written") from None
    return path


def _fill(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir()
    for name, data in files.items():
        with open(folder / name, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def _replace(path: Path, new: Path, old: Path) -> None:
    if not path.exists() or not any(path.iterdir()):
        os.replace(new, path)
    elif not exchange(new, path):
        os.replace(path, old)
        os.replace(new, path)


def exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step; False where the system or the file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    return (
        rename(AT_WORKING_DIRECTORY, os.fsencode(one), AT_WORKING_DIRECTORY, os.fsencode(other), EXCHANGE)
        == 0
    )


def _beside(path: Path) -> tuple[Path, Path]:
    """Where the successor of a folder is made, and where the folder goes where the two cannot be
    exchanged.
    """
    return path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")


def _repair(path: Path) -> None:
    """Put what a replacement left beside a missing folder into its place, the new one if it is whole; remove
    the rest.
    """
    for left in _beside(path):
        if left.exists() and not path.exists():
            try:
                _inspect(left)
            except InputError:
                continue
            os.replace(left, path)
    for left in _beside(path):
        shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Held while the block runs, where the file system has locks for folders; one process at a time replaces
    and repairs.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
