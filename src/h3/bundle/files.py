"""A bundle's files as one thing: checked by their digests without evaluating anything, and replaced in one
step.

    found = inspect("dist/blis")                    # of any version of h3; or an InputError
    write_folder(found.data, Path("elsewhere"))     # whole or not at all; a bundle that is there is replaced

A bundle is a plain folder, not a link to one of several versions: Go embeds no links (`cannot embed irregular
file`), and `cp -r`, tar and git take the link without what it points to. The folder is replaced by exchanging
it with its successor, one operation of the file system (Linux). Where that cannot be done the old folder is
first moved to `.<name>.old` and the new one then from `.<name>.new` to its place; a process killed in between
leaves both there, and the next `inspect` or `write_folder` puts the new one, whose digests agree, into place.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from h3.bundle.json_file import checked, parse, read_bytes, sha256
from h3.bundle.manifest import GOLDEN, MANIFEST
from h3.bundle.manifest_model import AnyFile, Envelope
from h3.common.errors import InputError
from h3.common.files import lock

MANIFEST_DIGEST = "manifest.sha256"
FILE_NAME = re.compile(r"[a-z0-9_]{1,60}\.json")
AT_WORKING_DIRECTORY, EXCHANGE = -100, 2  # of renameat2(2)


@dataclass(frozen=True)
class Files:
    """A bundle's files whose digests agree: the manifest's content, its digest (which names all others),
    bytes by name, folder.
    """

    manifest: dict[str, Any]
    digest: str
    data: dict[str, bytes]
    path: Path

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(map(len, self.data.values()))


def sealed(manifest: bytes, others: dict[str, bytes]) -> dict[str, bytes]:
    """All files of a bundle by name: the others, the manifest, and the digest of the manifest."""
    return {
        **others,
        MANIFEST: manifest,
        MANIFEST_DIGEST: _signature(sha256(manifest)),
    }


def _signature(digest: str) -> bytes:
    """The line that sha256sum writes for the manifest."""
    return f"{digest}  {MANIFEST}\n".encode()


def inspect(path: str | Path) -> Files:
    """The files of a bundle of any version; raises InputError naming the file and what is wrong with it.

    golden.json may be missing, since nothing is predicted from it.
    """
    path = Path(path)
    while True:
        _find(path)
        before = _identity(path)
        try:
            return _inspect(path)
        except InputError:
            if _identity(path) == before:
                raise  # else it was replaced while it was read


def _find(path: Path) -> None:
    """Raises InputError if there is no folder, nor one that a replacement left beside its place."""
    real = path.resolve()
    if not real.exists() and any(left.exists() for left in _beside(real)):
        with _reported(path), _alone(real):
            _repair(real)
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; expected a bundle")


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _inspect(path: Path) -> Files:
    where = str(path / MANIFEST)
    data, signature = read_bytes(path / MANIFEST), read_bytes(path / MANIFEST_DIGEST)
    digest = sha256(data)
    if signature.removesuffix(b"\n") != _signature(digest).removesuffix(b"\n"):
        said = ascii(signature[:80].decode(errors="replace"))
        raise InputError(f"{where}: sha256 {digest}; {MANIFEST_DIGEST} says {said}")
    manifest = parse(data, where)
    found = {MANIFEST: data, MANIFEST_DIGEST: signature}
    for name, entry in checked(manifest, Envelope, where).files.items():
        if not FILE_NAME.fullmatch(name) or name in found:
            raise InputError(f"{where}: files: {name[:80]!r}; expected names such as booster.json")
        if name != GOLDEN or (path / name).exists():
            found[name] = _checked_bytes(path / name, entry)
    return Files(manifest, digest, found, path)


def _checked_bytes(path: Path, entry: AnyFile) -> bytes:
    data = read_bytes(path)
    if len(data) != entry.bytes:
        raise InputError(f"{path}: {len(data)} bytes; the manifest says {entry.bytes}")
    digest = sha256(data)
    if digest != entry.sha256:
        raise InputError(f"{path}: sha256 {digest}; the manifest says {entry.sha256}")
    return data


def write_folder(files: dict[str, bytes], path: Path) -> Path:
    """Write a bundle's folder whole or not at all, replacing a bundle that is there; its path.

    A link is followed. Raises InputError if something else than a bundle is in the way or the folder cannot
    be written.
    """
    real = path.resolve()
    new, old = _beside(real)
    with _reported(path), _alone(real):
        _repair(real)
        if real.exists() and not _may_be_replaced(real):
            raise InputError(
                f"{path}: exists and is not a bundle; expected a new folder, an empty one or a bundle to"
                " replace"
            )
        try:
            _fill(new, files)
            _replace(real, new, old)
        finally:
            _repair(real)
    return path


def _may_be_replaced(folder: Path) -> bool:
    return folder.is_dir() and ((folder / MANIFEST).is_file() or not any(folder.iterdir()))


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
    here = AT_WORKING_DIRECTORY
    done: int = rename(here, os.fsencode(one), here, os.fsencode(other), EXCHANGE)
    return done == 0


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
def _alone(path: Path) -> Iterator[None]:
    """One process at a time replaces or repairs a folder. The lock's file goes while the lock is held: who
    waits for it sees that, and takes a new one.
    """
    place = path.with_name(f".{path.name}.lock")
    with lock(place):
        try:
            yield
        finally:
            place.unlink(missing_ok=True)


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a folder that can be written") from None
