"""Edits of the golden bundle's files, as make_bundle_corpus.py writes them down and tests apply them.

text = Text("manifest.json")
corpus.refused("without formula", text.delete(("formula",)))      # a case, no longer a file
edited(corpus.cases[0])                                           # its files
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from h3.bundle.files import MANIFEST_DIGEST, sealed
from h3.bundle.json_file import sha256

GOLDEN = Path(__file__).parents[2] / "go" / "h3bundle" / "testdata" / "bundle"
MANIFEST, BOOSTER, MOE, VECTORS = "manifest.json", "booster.json", "booster_moe.json", "golden.json"
FILES = {name: (GOLDEN / name).read_bytes() for name in (MANIFEST, MANIFEST_DIGEST, BOOSTER, MOE, VECTORS)}
Place = tuple[str | int, ...]
Case = dict[str, Any]


class Text:
    """A JSON file with the places of all its values: `where[place]` is (start with the key, value, end)."""

    def __init__(self, name: str) -> None:
        self.name, self.text = name, FILES[name].decode("ascii")
        self.where: dict[Place, tuple[int, int, int]] = {}
        self._scan((), 0, 0)

    def _space(self, at: int) -> int:
        while self.text[at] in " \n":
            at += 1
        return at

    def _scan(self, place: Place, start: int, at: int) -> int:
        at = value = self._space(at)
        opening = self.text[at]
        if opening in "{[":
            at, number = self._space(at + 1), 0
            while self.text[at] not in "}]":
                begin, key = at, number
                if opening == "{":
                    key, at = json.decoder.scanstring(self.text, at + 1)
                    at = self._space(at) + 1
                at = self._space(self._scan((*place, key), begin, at))
                at, number = self._space(at + (self.text[at] == ",")), number + 1
            at += 1
        else:
            _, at = json.JSONDecoder().raw_decode(self.text, at)
        self.where[place] = (start, value, at)
        return at

    def splice(self, at: int, remove: int, insert: str | bytes) -> Case:
        """One edit of this file."""
        if isinstance(insert, str):
            return {"file": self.name, "at": at, "remove": remove, "insert": insert}
        told = base64.b64encode(insert).decode("ascii")
        return {"file": self.name, "at": at, "remove": remove, "base64": told}

    def value(self, place: Place) -> Any:
        """What stands there."""
        _, value, end = self.where[place]
        return json.loads(self.text[value:end])

    def member(self, place: Place) -> str:
        """The key and its value as they stand there."""
        start, _, end = self.where[place]
        return self.text[start:end]

    def put(self, place: Place, said: str) -> Case:
        """Another value."""
        _, value, end = self.where[place]
        return self.splice(value, end - value, said)

    def beside(self, place: Place, said: str) -> Case:
        """More behind a key or item."""
        return self.splice(self.where[place][2], 0, f", {said}")

    def delete(self, place: Place) -> Case:
        """Without the key or item, and its comma."""
        start, _, end = self.where[place]
        rest = self._space(end)
        if self.text[rest] == ",":
            return self.splice(start, self._space(rest + 1) - start, "")
        comma = self.text[:start].rstrip()
        before = len(comma) - 1 if comma.endswith(",") else start
        return self.splice(before, end - before, "")


class Corpus:
    """The cases, their names all different."""

    def __init__(self) -> None:
        self.cases: list[Case] = []
        self._names: set[str] = set()

    def add(self, verdict: str, name: str, *splices: Case, **more: object) -> None:
        """One case; the last place comes first, so that the others stay where they are."""
        assert name not in self._names, name
        self._names.add(name)
        ordered = sorted(splices, key=lambda splice: splice["at"], reverse=True)
        told = {"splices": ordered} if ordered else {}
        self.cases.append({"name": name, "verdict": verdict} | told | more)

    def refused(self, name: str, *splices: Case, **more: object) -> None:
        """A case that no reader accepts."""
        self.add("refused", name, *splices, **more)

    def accepted(self, name: str, *splices: Case, **more: object) -> None:
        """A case that every reader accepts."""
        self.add("accepted", name, *splices, **more)


def edited(case: Case) -> dict[str, bytes]:
    """The files of a case; what its keys mean is said in make_bundle_corpus.py."""
    files = dict(FILES)
    for splice in case.get("splices", []):
        name, at = splice["file"], splice["at"]
        insert = base64.b64decode(splice["base64"]) if "base64" in splice else splice["insert"].encode()
        files[name] = files[name][:at] + insert + files[name][at + splice["remove"] :]
    for name in case.get("utf16", []):
        files[name] = b"\xff\xfe" + files[name].decode().encode("utf-16-le")
    if case.get("signed", True):
        for name in (BOOSTER, MOE, VECTORS):
            files[MANIFEST] = files[MANIFEST].replace(_entry(FILES[name]), _entry(files[name]), 1)
        files[MANIFEST_DIGEST] = sealed(files[MANIFEST], {})[MANIFEST_DIGEST]
    return {name: data for name, data in files.items() if name not in case.get("removed", [])}


def _entry(data: bytes) -> bytes:
    """Digest and size of a file as the golden bundle's manifest has them."""
    return f'"sha256": "{sha256(data)}",\n   "bytes": {len(data)}'.encode()
