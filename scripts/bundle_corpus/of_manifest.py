"""How the manifest, its digest and encodings are edited, and whether readers accept the result."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from bundle_corpus.edits import (
    BOOSTER,
    FILES,
    MANIFEST,
    MANIFEST_DIGEST,
    MOE,
    VECTORS,
    Case,
    Corpus,
    Place,
    Text,
)
from bundle_corpus.places import place, put_all
from bundle_corpus.tables import (
    BAD_BYTES,
    BAD_ESCAPES,
    BAD_NAMES,
    BAD_NUMBERS,
    GOOD_CHARACTERS,
    GOOD_NUMBERS,
    ONE_MEANING,
    OTHER_PHYSICS,
)
from h3.bundle.manifest_schema import schema
from h3.steps import catalog

SCHEMA = schema()
# Objects whose keys are names, and the one of which every key is edited.
NAMED = {"hardware": "H100", "hardware_aliases": "", "models": "dense", "uncertainty/kinds": "known"}
OPTIONAL = ("uncertainty/kinds/known/coverage", "models/dense/support/deployments", "files/booster_moe.json")
DEPLOYMENT_KEYS = ("hardware", "tensor_parallelism", "v_head_dim")  # of many alike


def manifest_keys(text: Text) -> Iterator[str]:
    """Every key of the manifest; of what is alike, the first one's."""
    for where in text.where:
        path = "/".join(map(str, where))
        if not where or isinstance(where[-1], int) or any(part in range(1, 99) for part in where):
            continue
        if any(path.startswith(f"{named}/") and not path.startswith(f"{named}/{one}/")
               for named, one in NAMED.items()):  # fmt: skip
            continue
        if "deployments" not in where[:-1] or (where[-1] in DEPLOYMENT_KEYS and where[0] == "models"):
            yield path


def limits(where: Place) -> dict[str, Any]:
    """The manifest's schema of what stands at a place."""
    at: dict[str, Any] = SCHEMA
    for part in where:
        if isinstance(part, int):
            at = at["prefixItems"][part] if "prefixItems" in at else at["items"]
        elif part in at.get("properties", {}):
            at = at["properties"][part]
        else:
            at = at.get("additionalProperties") or next(iter(at["patternProperties"].values()))
            if at is True:
                return {}
        while "$ref" in at:
            at = SCHEMA["$defs"][at["$ref"].rsplit("/", 1)[1]]
    return at


def other_type(value: object) -> str:
    """A value of another kind than this one's."""
    if isinstance(value, bool):
        return "1"
    if isinstance(value, int):
        return f"{value}.0"
    if isinstance(value, float):
        return f'"{value}"'
    return {str: "7", list: "{}", dict: "[]"}[type(value)]


def of_every_key(corpus: Corpus, text: Text) -> None:
    """Keys that are missing, null, there twice or in another case, of another type, out of bounds."""
    for number, path in enumerate(manifest_keys(text)):
        where, anything = place(path), path == "provenance/note"
        verdict = "accepted" if anything else "refused"
        if path not in OPTIONAL:
            corpus.add(verdict, f"every key: {path} missing", text.delete(where))
        value = text.value(where)
        if number % 2:
            corpus.add(verdict, f"every key: {path} null", text.put(where, "null"))
            corpus.refused(f"every key: {path} twice", text.beside(where, f"{json.dumps(where[-1])}: 1"))
        else:
            corpus.add(verdict, f"every key: {path} of another type", text.put(where, other_type(value)))
            beside = "accepted" if where[:-1] == ("provenance",) else "refused"
            other = f"{json.dumps(str(where[-1]).capitalize())}: 1"
            corpus.add(beside, f"every key: {path} beside one in another case", text.beside(where, other))
        out_of_bounds(corpus, text, where, number)


def out_of_bounds(corpus: Corpus, text: Text, where: Place, number: int) -> None:
    """A number, or a list's first number, beyond a bound of the schema; a list without its first number."""
    value, said = text.value(where), "/".join(map(str, where))
    if isinstance(value, list) and value and isinstance(value[0], float):
        where = (*where, 0)
        corpus.refused(f"every key: {said} one too few", text.delete(where))
    allowed = limits(where)
    if "minimum" in allowed and number % 2:
        least = allowed["minimum"]
        corpus.refused(
            f"every key: {said} too small", text.put(where, json.dumps(least - max(1, abs(least))))
        )
    elif "maximum" in allowed:
        corpus.refused(f"every key: {said} too large", text.put(where, json.dumps(2 * allowed["maximum"])))


def of_the_manifest(corpus: Corpus, text: Text) -> None:
    """What has one meaning only, other physics, numbers, and rules between several keys."""
    put_all(corpus, "refused", text, ONE_MEANING)
    put_all(corpus, "refused", text, OTHER_PHYSICS)
    put_all(corpus, "refused", text, BAD_NUMBERS)
    put_all(corpus, "accepted", text, GOOD_NUMBERS)
    known = json.dumps(text.value(place("KNOWN")))
    for said, path, more in (
        ("a kind nobody knows", "KNOWN", f'"new_moon": {known}'),
        ("a key nobody knows", "formula", '"code": "import os"'),
        ("a constant nobody knows", "constants/kv_bytes", '"more": null'),
        ("a file nobody knows", "files/golden.json", '"../x.json": {"sha256": "", "bytes": 1}'),
    ):
        corpus.refused(f"manifest: {said}", text.beside(place(path), more))
    for path in ("files/booster_moe.json", "H100", "DENSE"):
        corpus.refused(f"manifest: without {path}, which is named", text.delete(place(path)))
    corpus.refused(
        "manifest: golden.json without entry", text.delete(place("files/golden.json")), removed=[VECTORS]
    )
    for value in ("", "7", "{} {}", "null"):
        corpus.refused(f"manifest: {value!r} is all", text.put((), value))


def of_encodings(corpus: Corpus, text: Text) -> None:
    """Bytes, characters and spaces."""
    start, note = text.where["uncertainty", "words"][1] + 1, ("provenance", "note")
    for said, raw in BAD_BYTES.items():
        corpus.refused(f"encoding: {said} in a string", text.splice(start, 0, raw))
    for escape in BAD_ESCAPES:
        corpus.refused(f"encoding: {escape} in a string", text.splice(start, 0, escape))
    for said, characters in GOOD_CHARACTERS.items():
        corpus.accepted(f"encoding: {said} in a string", text.splice(start, 0, characters))
    corpus.refused("encoding: half a pair as a key", text.beside(note, r'"\udead": 1'))
    corpus.refused("encoding: a key twice, once escaped", text.beside(("formula",), r'"f\u006frmula": ""'))
    key = text.where["formula",][0]
    corpus.accepted("encoding: a key escaped", text.splice(key, len('"formula"'), r'"\u0066ormula"'))
    corpus.accepted("encoding: spaces, tabs and line ends", text.splice(0, 1, " \t\r\n{\t \r\n"))
    for said, opening in (("a form feed", "{\f"), ("a hard space", "{\u00a0"), ("a comment", "// bundle\n{")):
        corpus.refused(f"encoding: {said} between", text.splice(0, 1, opening))
    corpus.refused("encoding: a comma too many", text.beside(note, ""))
    for depth, verdict in ((30, "accepted"), (31, "refused"), (1000, "refused")):
        corpus.add(verdict, f"encoding: {depth + 2} levels", text.put(note, "[" * depth + "]" * depth))
    for file in map(Text, (MANIFEST, BOOSTER, VECTORS)):
        end = len(file.text)
        corpus.refused(f"encoding: {file.name} with a byte-order mark", file.splice(0, 0, b"\xef\xbb\xbf"))
        corpus.refused(f"encoding: {file.name} in UTF-16", utf16=[file.name])
        corpus.refused(f"encoding: {file.name} cut off", file.splice(1000, end - 1000, ""))
        corpus.refused(f"encoding: {file.name} with a second value", file.splice(end, 0, "{}"))
        corpus.accepted(f"encoding: {file.name} with line ends behind it", file.splice(end, 0, "\r\n\n"))


def of_digests(corpus: Corpus) -> None:
    """manifest.sha256, and files that are not what the manifest says."""
    said = FILES[MANIFEST_DIGEST].decode()
    digest, name = said[:64], said[64:]
    lines = {
        "digest alone": digest,
        "digest and line end": f"{digest}\n",
        "rubbish behind the digest": f"{digest}x{name}",
        "one space": f"{digest} {name.lstrip()}",
        "another name": f"{digest}  other.json\n",
        "nothing": "",
        "capitals": digest.upper() + name,
        "two line ends": f"{said}\n",
        "a second line": said + said,
        "a space before": f" {said}",
        "63 digits": said[1:],
        "another digit": f"{int(said[0], 16) ^ 1:x}{said[1:]}",
        "CR LF": f"{said[:-1]}\r\n",
        "a binary mark": f"{digest} *manifest.json\n",
        "a byte-order mark": f"\ufeff{said}",
    }
    for what, line in lines.items():
        splice = {"file": MANIFEST_DIGEST, "at": 0, "remove": len(said), "insert": line}
        corpus.refused(f"digest: {what}", splice, signed=False)
    cut = {"file": MANIFEST_DIGEST, "at": len(said) - 1, "remove": 1, "insert": ""}
    corpus.accepted("digest: without a line end", cut, signed=False)
    for file in map(Text, (MANIFEST, BOOSTER, MOE, VECTORS)):
        end = len(file.text)
        corpus.refused(f"digest: {file.name} with a space more", file.splice(end, 0, " "), signed=False)
        corpus.refused(f"digest: {file.name} with another byte", file.splice(end - 1, 1, " "), signed=False)
    for missing in (MANIFEST, MANIFEST_DIGEST, BOOSTER, MOE):
        corpus.refused(f"digest: {missing} is not there", removed=[missing], signed=False)
    corpus.accepted("digest: golden.json is not there", removed=[VECTORS])


def of_names(corpus: Corpus, text: Text) -> None:
    """Names of hardware."""
    h100: Place = ("hardware_aliases", "h100")
    figures = json.dumps(text.value(place("hardware/A100")))

    def more(*names: str) -> Case:
        said = ", ".join(f"{json.dumps(name)}: {figures}" for name in names)
        return text.beside(("hardware", "L4"), said)

    for alias in catalog.HARDWARE_ALIASES:
        corpus.accepted(f"names: {alias} is no alias", text.delete(("hardware_aliases", alias)))
    put_all(corpus, "refused", text, 'hardware_aliases/h100  "A100" | "H900" | "h100" | "" | null | 7')
    for alias, name in (
        ("H100", "H100"),
        ("hopper", "H100"),
        ("h100 ", "H100"),
        ("", "H100"),
        ("own", "Own"),
    ):
        corpus.refused(f"names: {alias!r} for {name}", text.beside(h100, f'"{alias}": "{name}"'))
    corpus.accepted("names: an accelerator of one's own", more("Own"), text.beside(h100, '"own": "Own"'))
    corpus.accepted("names: one without an alias", more("Own one"))
    corpus.accepted("names: one of 64 characters", more("x" * 64))
    corpus.refused("names: another alias for one's own", more("Own"), text.beside(h100, '"mine": "Own"'))
    for names in (*([name] for name in BAD_NAMES), ["Own", "own"]):
        corpus.refused(f"names: hardware named {' and '.join(names)[:30]!r}", more(*names))
    corpus.refused("names: L4 is gone, its aliases are not", text.delete(("hardware", "L4")))
