"""What the tracking store has not got yet: folds that are complete on disk, and sweeps still to be closed.

    place = Place(uri, experiment, parent)
    note = unsent.fold(folder, place, run_id)   # before anything is sent
    note.unlink()                               # once it has all been sent
    for each in unsent.folds(): ...             # h3 sync

Each is a small file in mlruns/unsent; the record itself stays where the fold wrote it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from h3.common import files
from h3.common.errors import InputError

FOLDER = Path("mlruns/unsent")


@dataclass(frozen=True)
class Place:
    """Where in which store something belongs: the store's address (null: mlruns/mlflow.db), experiment and
    parent run.
    """

    uri: str | None
    experiment: str
    parent: str


@dataclass(frozen=True)
class Fold:
    """A fold's record that is not in the store: its folder, place, run ("": none yet) and name."""

    folder: Path
    place: Place
    run_id: str
    name: str
    note: Path


@dataclass(frozen=True)
class Sweep:
    """A sweep that could not be closed, and what stopped it ("": nothing)."""

    place: Place
    failed: bool
    stopped: str
    note: Path


def fold(folder: Path, place: Place, run_id: str, name: str) -> Path:
    """Write down that a complete record is to be sent; the note's path."""
    content = {"folder": str(folder.absolute()), "run_id": run_id, "name": name, "place": asdict(place)}
    return _written("fold", str(folder.absolute()), content)


def sweep(place: Place, failed: bool, stopped: str) -> Path:
    """Write down that a sweep is to be closed; the note's path."""
    return _written("sweep", place.parent, {"failed": failed, "stopped": stopped, "place": asdict(place)})


def folds(parent: str | None = None) -> list[Fold]:
    """The folds that wait, of one sweep or of all; raises InputError for a note that is none."""
    found = [_fold(path) for path in sorted(FOLDER.glob("fold-*.json"))]
    return [each for each in found if parent in (None, each.place.parent)]


def sweeps() -> list[Sweep]:
    """The sweeps that wait to be closed."""
    return [_sweep(path) for path in sorted(FOLDER.glob("sweep-*.json"))]


def _written(kind: str, of: str, content: Mapping[str, object]) -> Path:
    path = FOLDER / f"{kind}-{hashlib.sha256(of.encode()).hexdigest()[:16]}.json"
    files.write_text(path, json.dumps(content, indent=1))
    return path


def _fold(path: Path) -> Fold:
    content = _content(path)
    try:
        place = Place(**content["place"])
        return Fold(Path(content["folder"]), place, content["run_id"], content["name"], path)
    except (KeyError, TypeError):
        raise InputError(f"{path}: not a note of h3; expected folder, run_id, name and place") from None


def _sweep(path: Path) -> Sweep:
    content = _content(path)
    try:
        return Sweep(Place(**content["place"]), bool(content["failed"]), str(content["stopped"]), path)
    except (KeyError, TypeError):
        raise InputError(f"{path}: not a note of h3; expected place, failed and stopped") from None


def _content(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}; expected a note of h3") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: {type(found).__name__}; expected a note of h3")
    return found
