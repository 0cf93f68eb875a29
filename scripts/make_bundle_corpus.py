"""Write go/h3bundle/testdata/corpus.json: what strangers may do to a bundle, for both languages.

    python scripts/make_bundle_corpus.py        # again when the format or the golden bundle changes

A case edits the golden bundle's files (go/h3bundle/testdata/bundle) and says whether a reader accepts the
result. The verdict is that of the rule by which the edit was made; no reader is asked. What accepted bundles
answer (us and margin of `batches`) is h3's own: Go must give the same. A case holds

    name, verdict ("accepted" or "refused")
    splices     [{file, at, remove, insert or base64}], places in the golden bundle's bytes, last place first
    utf16       files written in UTF-16 afterwards
    removed     files that are missing
    signed      false: the digests stay as they are. Else, for booster.json, booster_moe.json and golden.json as
                far as they were edited, "sha256": "<digest>",\\n   "bytes": <size> of the golden bundle's file
                is replaced in the manifest by what is right now, and manifest.sha256 is written anew
    us, margins of the batches, where they are not those of the golden bundle
"""

from __future__ import annotations

import base64
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from h3 import bundle
from h3.bundle import golden
from h3.bundle.files import MANIFEST_DIGEST, sealed
from h3.bundle.json_file import sha256
from h3.bundle.manifest_schema import schema
from h3.steps import catalog

TESTDATA = Path(__file__).parents[1] / "go" / "h3bundle" / "testdata"
GOLDEN, OUT = TESTDATA / "bundle", TESTDATA / "corpus.json"
MANIFEST, BOOSTER, MOE, VECTORS = "manifest.json", "booster.json", "booster_moe.json", "golden.json"
FILES = {name: (GOLDEN / name).read_bytes() for name in (MANIFEST, MANIFEST_DIGEST, BOOSTER, MOE, VECTORS)}
BATCHES: list[golden.Case] = [
    ("llama-2-7b", 1, "H100", [[600 + 7 * number, 1, 512] for number in range(24)]),
    ("llama-2-70b", 4, "nvidia h100 80gb hbm3", [[900, 1, 512], [0, 300, 300], [2000, 1, 1024]]),
    ("mixtral-8x7b", 2, "H100", [[700, 1, 512], [100, 200, 400]]),
    ("small-1b", 1, "A100-80", [[800, 1, 512]]),
]
Path_ = tuple[str | int, ...]
Case = dict[str, Any]


class Text:
    """A JSON file with the places of all its values: `where[path]` is (start with the key, value, end)."""

    def __init__(self, name: str) -> None:
        self.name, self.text = name, FILES[name].decode("ascii")
        self.where: dict[Path_, tuple[int, int, int]] = {}
        self._scan((), 0, 0)

    def _space(self, at: int) -> int:
        while self.text[at] in " \n":
            at += 1
        return at

    def _scan(self, path: Path_, start: int, at: int) -> int:
        at = value = self._space(at)
        opening = self.text[at]
        if opening in "{[":
            at, number = self._space(at + 1), 0
            while self.text[at] not in "}]":
                begin, key = at, number
                if opening == "{":
                    key, at = json.decoder.scanstring(self.text, at + 1)
                    at = self._space(at) + 1
                at = self._space(self._scan((*path, key), begin, at))
                at, number = self._space(at + (self.text[at] == ",")), number + 1
            at += 1
        else:
            _, at = json.JSONDecoder().raw_decode(self.text, at)
        self.where[path] = (start, value, at)
        return at

    def splice(self, at: int, remove: int, insert: str | bytes) -> Case:
        """One edit of this file."""
        said = (
            {"insert": insert}
            if isinstance(insert, str)
            else {"base64": base64.b64encode(insert).decode("ascii")}
        )
        return {"file": self.name, "at": at, "remove": remove, **said}

    def value(self, *path: str | int) -> Any:
        """What stands there."""
        _, value, end = self.where[path]
        return json.loads(self.text[value:end])

    def put(self, path: Path_, said: str) -> Case:
        """Another value."""
        _, value, end = self.where[path]
        return self.splice(value, end - value, said)

    def delete(self, path: Path_) -> Case:
        """Without the key or item, and its comma."""
        start, _, end = self.where[path]
        rest = self._space(end)
        if self.text[rest] == ",":
            return self.splice(start, self._space(rest + 1) - start, "")
        comma = self.text[:start].rstrip()
        before = len(comma) - 1 if comma.endswith(",") else start
        return self.splice(before, end - before, "")

    def beside(self, path: Path_, said: str) -> Case:
        """More behind a key or item."""
        return self.splice(self.where[path][2], 0, f", {said}")

    def member(self, path: Path_) -> str:
        """The key and its value as they stand there."""
        start, _, end = self.where[path]
        return self.text[start:end]


class Corpus:
    """The cases, their names all different."""

    def __init__(self) -> None:
        self.cases: list[Case] = []

    def add(self, verdict: str, name: str, *splices: Case, **more: object) -> None:
        """One case; splices are sorted so that places stay right."""
        assert name not in [case["name"] for case in self.cases], name
        ordered = sorted(splices, key=lambda splice: splice["at"], reverse=True)
        self.cases.append(
            {"name": name, "verdict": verdict} | ({"splices": ordered} if ordered else {}) | more
        )

    def refused(self, name: str, *splices: Case, **more: object) -> None:
        """A case that no reader accepts."""
        self.add("refused", name, *splices, **more)

    def accepted(self, name: str, *splices: Case, **more: object) -> None:
        """A case that every reader accepts."""
        self.add("accepted", name, *splices, **more)


def edited(case: Case) -> dict[str, bytes]:
    """The files of a case."""
    files = dict(FILES)
    for splice in case.get("splices", []):
        name, at = splice["file"], splice["at"]
        insert = base64.b64decode(splice["base64"]) if "base64" in splice else splice["insert"].encode()
        files[name] = files[name][:at] + insert + files[name][at + splice["remove"] :]
    for name in case.get("utf16", []):
        files[name] = files[name].decode().encode("utf-16")
    if case.get("signed", True):
        for name in (BOOSTER, MOE, VECTORS):
            files[MANIFEST] = files[MANIFEST].replace(entry(FILES[name]), entry(files[name]), 1)
        files[MANIFEST_DIGEST] = sealed(files[MANIFEST], {})[MANIFEST_DIGEST]
    return {name: data for name, data in files.items() if name not in case.get("removed", [])}


def entry(data: bytes) -> bytes:
    """Digest and size of a file as the golden bundle's manifest has them."""
    return f'"sha256": "{sha256(data)}",\n   "bytes": {len(data)}'.encode()


def answers(folder: Path) -> tuple[list[float], list[float]]:
    """us and margins of the batches."""
    found = bundle.predict(bundle.read(folder).fitted_by_route(), golden.table_of(BATCHES, golden.CONFIGS))
    return (
        [float(f"{us:.12g}") for us in found["us"]],
        [float(str(np.float32(margin))) for margin in found["margin"]],
    )


# Objects whose keys are names: they may be others, of any number.
NAMED = {("hardware",), ("hardware_aliases",), ("models",), ("uncertainty", "kinds")}
OPTIONAL = {
    ("uncertainty", "kinds", "known", "coverage"),
    ("models", "dense", "support", "deployments"),
    ("files", MOE),
}
SHOWN = {"hardware": "H100", "models": "dense", "kinds": "known"}
# One of many alike.
DEPLOYMENT_KEYS = ("hardware", "tensor_parallelism", "v_head_dim")


def manifest_keys(text: Text) -> Iterator[Path_]:
    """Every key of the manifest, of objects that are alike the first one's."""
    for path in text.where:
        if not path or isinstance(path[-1], int) or path[:-1] in NAMED:
            continue
        if any(isinstance(part, int) and part > 0 for part in path):
            continue
        if any(path[: len(place)] == place and path[len(place)] != SHOWN[place[-1]] for place in NAMED
               if place[-1] in SHOWN and len(path) > len(place)):
            continue
        if "deployments" in path[:-1] and (path[-1] not in DEPLOYMENT_KEYS or path[0] == "trained_on"):
            continue
        yield path


SCHEMA = schema()


def limits(path: Path_) -> dict[str, Any]:
    """The manifest's schema of what stands at a path."""
    at: dict[str, Any] = SCHEMA
    for part in path:
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


def manifest_cases(corpus: Corpus, text: Text) -> None:
    """Keys that are missing, null, there twice or in another case, of another type, out of bounds."""
    for number, path in enumerate(manifest_keys(text)):
        said, anything = ".".join(map(str, path)), path == ("provenance", "note")
        verdict = "accepted" if anything else "refused"
        if path not in OPTIONAL:
            corpus.add(verdict, f"manifest: {said} missing", text.delete(path))
        value = text.value(*path)
        if number % 2:
            corpus.add(verdict, f"manifest: {said} null", text.put(path, "null"))
            corpus.refused(f"manifest: {said} twice", text.beside(path, text.member(path)))
        else:
            corpus.add(verdict, f"manifest: {said} of another type", text.put(path, other_type(value)))
            other = json.dumps(str(path[-1]).capitalize()) + ": " + json.dumps(value)
            beside = "accepted" if path[:-1] == ("provenance",) else "refused"
            corpus.add(beside, f"manifest: {said} beside one in another case", text.beside(path, other))
        bounds(corpus, text, path, number)


def bounds(corpus: Corpus, text: Text, path: Path_, number: int) -> None:
    """A number, or a list's first number, beyond a bound of the schema; a list of another length."""
    value, said = text.value(*path), ".".join(map(str, path))
    if isinstance(value, list) and value and isinstance(value[0], float):
        path = (*path, 0)
        corpus.refused(f"manifest: {said} one too few", text.delete(path))
    allowed = limits(path)
    if "minimum" in allowed and number % 2:
        below = json.dumps(allowed["minimum"] - 1)
        corpus.refused(f"manifest: {said} too small", text.put(path, below))
    elif "maximum" in allowed:
        above = json.dumps(2 * allowed["maximum"])
        corpus.refused(f"manifest: {said} too large", text.put(path, above))


def word_cases(corpus: Corpus, text: Text) -> None:
    """What has one meaning only, and rules between several keys."""
    one_meaning: list[tuple[Path_, str]] = [
        (("format",), '"onnx"'), (("format_version",), "3"), (("format_version",), "1"),
        (("target", "name"), '"duration_us"'), (("target", "unit"), '"s"'), (("features", 0, "index"), "1"),
        (("features", 0, "name"), '"queue_depth"'), (("features", 0, "dtype"), '"float64"'),
        (("features", 0, "unit"), '"us"'), (("features", 0, "group"), '"compute"'),
        (("features", 0, "formula"), '"kv_us / gemm_us"'), (("features",), "[]"), (("terms",), "[]"),
        (("terms", 0), '"weights_ms"'), (("routing", "rule"), '"moe iff num_experts >= 1"'),
        (("routing", "dense"), '"other"'), (("routing", "moe"), '"MOE"'),
        (("outside_support", "rule"), '"none"'), (("xgboost_version",), '"new"'), (("xgboost_version",), '"3.2"'),
        (("models", "dense", "booster"), '"../booster.json"'), (("models", "dense", "booster"), '"golden.json"'),
        (("models", "dense", "trees"), "41"), (("models", "dense", "support", "low", 0), "1e6"),
        (("uncertainty", "levels", 1), "0.5"), (("uncertainty", "kinds", "known", "low", 0), "0.001"),
        (("uncertainty", "kinds", "known", "high", 0), "1000"), (("trained_on", "context_tokens", 0), "2e9"),
        (("files", BOOSTER, "sha256"), f'"{"0" * 64}"'), (("files", BOOSTER, "sha256"), f'"{"A" * 64}"'),
        (("files", BOOSTER, "bytes"), "45222"), (("hardware", "H100", "kernels", "link"), '""'),
        (("hardware", "H100", "kernels", "profile"), json.dumps("H" * 65)), (("hardware",), "{}"),
        (("hardware_aliases",), "{}"), (("models",), "{}"), (("files",), "{}"), (("provenance",), "{}"),
        (("provenance", "folds"), "[7]"),
    ]  # fmt: skip
    for path, said in one_meaning:
        corpus.refused(f"manifest: {'.'.join(map(str, path))} is {said[:40]}", text.put(path, said))
    known = ("uncertainty", "kinds", "known")
    corpus.refused("manifest: a kind nobody knows", text.beside(known, f'"new_moon": {json.dumps(text.value(*known))}'))
    corpus.refused("manifest: a key nobody knows", text.beside(("formula",), '"code": "import os"'))
    corpus.refused("manifest: a file nobody knows", text.beside(("files", VECTORS), '"../x.json": {"sha256": "", "bytes": 1}'))
    corpus.refused("manifest: no entry for the MoE models' booster", text.delete(("files", MOE)))
    corpus.refused("manifest: no entry for golden.json, which is not there", text.delete(("files", VECTORS)), removed=[VECTORS])
    corpus.refused("manifest: H100 is not there", text.delete(("hardware", "H100")))
    corpus.refused("manifest: the dense model is not there", text.delete(("models", "dense")))
    for name, value in (("missing", None), ("empty", ""), ("no object", "7"), ("two values", "{} {}")):
        edit = [] if value is None else [text.put((), value)]
        corpus.refused(f"manifest: {name}", *edit, removed=[MANIFEST] if value is None else [])


def physics_cases(corpus: Corpus, text: Text) -> None:
    """Constants and figures that are not those the vectors were made with."""
    for path, said in (
        (("constants", "gemm_efficiency"), "0.7"), (("constants", "sampler_latency_us"), "120.0"),
        (("constants", "activation_bytes"), "1.0"), (("constants", "one_shot_latency_us"), "9.5"),
        (("constants", "two_shot_bytes", 0), "1024"), (("constants", "attention_efficiency"), "0.25"),
        (("hardware", "H100", "memory_bandwidth_bytes_s"), "2e12"), (("hardware", "H100", "peak_bf16_flops"), "5e14"),
        (("hardware", "H100", "kernels", "weights"), "1.2"), (("hardware", "H100", "kernels", "layers"), "1.2"),
        (("hardware", "A100", "memory_bandwidth_bytes_s"), "1e12"), (("models", "dense", "coefficients", 0), "0.0"),
        (("models", "moe", "coefficients", 0), "1e9"), (("models", "dense", "support", "high", 0), "1e-9"),
    ):  # fmt: skip
        was = text.value(*path)
        if path[-1] == 0 and path[-2] == "high":
            path = (*path[:-1], 5)
        corpus.refused(f"physics: {'.'.join(map(str, path))} is {said}, not {was}", text.put(path, said))


def number_cases(corpus: Corpus, text: Text) -> None:
    """How numbers are written."""
    place: Path_ = ("overheads", "queueing_us")
    for said in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" * 20, "-" + "1" * 19, "true", '"1"', "01", "+1", "1.", ".5",
                 "1e", "0x1", "1_0", "-", "[1]", "1e9.5", "1000000000.0000002", "-1e-300", "9999999999999999999", "None", "nul", ""):  # fmt: skip
        corpus.refused(f"number: {said[:24]} as a wait", text.put(place, said))
    for said in ("9300", "93e2", "9.3E+3", "0.93e4", "9300.00000000000000000000000000", "-0", "-0.0", "1e-999", "0e999", "1e9", "1000000000"):  # fmt: skip
        corpus.accepted(f"number: {said} as a wait", text.put(place, said))
    for said in ("1" * 20, "1e999", "NaN", "-" + "9" * 19):
        corpus.refused(f"number: {said} where nobody looks", text.put(("provenance", "note"), said))
    for said in ("9999999999999999999", "-0", "1e-999", "-999999999999999999", "1.7976931348623157e308", "null", "true", '""'):  # fmt: skip
        corpus.accepted(f"number: {said} where nobody looks", text.put(("provenance", "note"), said))
    for said in ("2.0", "2e0", '"2"', "true", "02"):
        corpus.refused(f"number: {said} as the version", text.put(("format_version",), said))
    long = repr(text.value("models", "dense", "coefficients", 1)) + "0" * 40
    corpus.accepted("number: a coefficient with 40 more digits", text.put(("models", "dense", "coefficients", 1), long))
    for said in ("4.50000000000000000001", "45e-1"):
        corpus.accepted(f"number: a constant as {said}", text.put(("constants", "one_shot_latency_us"), said))


def encoding_cases(corpus: Corpus, text: Text) -> None:
    """Bytes and characters."""
    words: Path_ = ("uncertainty", "words")
    _, start, _ = text.where[words]
    for name, raw in (("not UTF-8", b"\xff"), ("an overlong slash", b"\xc0\xaf"), ("a surrogate in UTF-8", b"\xed\xa0\x80"), ("Latin-1", b"\xe9"),
                      ("half a character", b"\xe2\x82"), ("beyond Unicode", b"\xf4\x90\x80\x80"), ("a control character", b"\x01"),
                      ("a line end", b"\n"), ("a NUL", b"\x00")):  # fmt: skip
        corpus.refused(f"encoding: {name} in a string", text.splice(start + 1, 0, raw))
    for said in (r"\ud800", r"\udc00", r"\ud800\u0041", r"\udc00\ud800", r"\uD8", r"\x41", r"\u00g0", "\\", r"\ud800\ud800"):
        corpus.refused(f"encoding: {said} in a string", text.splice(start + 1, 0, said))
    for name, inserted in (("a pair", r"\ud83d\ude00"), ("all escapes", r"\"\\\/\b\f\n\r\t\u00e9\uABCD"), ("no escape at all", r"\\ud800"),
                           ("an accent", "é"), ("beyond 16 bits", "😀"), ("brackets", "[" * 99), ("DEL", "\x7f")):  # fmt: skip
        corpus.accepted(f"encoding: {name} in a string", text.splice(start + 1, 0, inserted))
    corpus.refused("encoding: half a pair as a key", text.beside(("provenance", "note"), r'"\udead": 1'))
    corpus.refused("encoding: a key twice, once escaped", text.beside(("formula",), r'"f\u006frmula": ""'))
    corpus.accepted("encoding: a key escaped", text.splice(text.where["formula",][0], len('"formula"'), r'"\u0066ormula"'))
    corpus.accepted("encoding: spaces, tabs and line ends", text.splice(0, 1, " \t\r\n{\t \r\n"))
    corpus.refused("encoding: a form feed between", text.splice(0, 1, "{\f"))
    corpus.refused("encoding: a hard space between", text.splice(0, 1, "{\u00a0"))
    corpus.refused("encoding: a comma too many", text.beside(("provenance", "note"), ""))
    corpus.refused("encoding: a comment", text.splice(0, 0, "// bundle\n"))
    for depth, verdict in ((30, "accepted"), (31, "accepted"), (32, "refused"), (100_000 // 100, "refused")):
        corpus.add(verdict, f"encoding: {depth} levels more", text.put(("provenance", "note"), "[" * (depth - 1) + "]" * (depth - 1)))
    for name in (MANIFEST, BOOSTER, VECTORS):
        file = Text(name)
        corpus.refused(f"encoding: {name} with a byte-order mark", file.splice(0, 0, b"\xef\xbb\xbf"))
        corpus.refused(f"encoding: {name} in UTF-16", utf16=[name])
        corpus.refused(f"encoding: {name} cut in the middle", file.splice(1000, len(file.text) - 1000, ""))
        corpus.refused(f"encoding: {name} with a second value", file.splice(len(file.text), 0, "{}"))
        corpus.accepted(f"encoding: {name} with line ends behind it", file.splice(len(file.text), 0, "\r\n\n"))


def digest_cases(corpus: Corpus) -> None:
    """manifest.sha256, and files that are not what the manifest says."""
    said = FILES[MANIFEST_DIGEST].decode()
    digest = said[:64]
    for name, line, verdict in (
        ("without a line end", said[:-1], "accepted"), ("as it is", said, "accepted"), ("empty", "", "refused"), ("digest alone", digest, "refused"),
        ("digest and a line end", digest + "\n", "refused"), ("rubbish behind the digest", digest + "x" + said[64:], "refused"),
        ("one space", said.replace("  ", " "), "refused"), ("another name", said.replace("manifest", "other"), "refused"),
        ("capitals", digest.upper() + said[64:], "refused"), ("two line ends", said + "\n", "refused"), ("a second line", said + said, "refused"),
        ("a space before", " " + said, "refused"), ("63 digits", said[1:], "refused"), ("another digit", ("1" if said[0] == "0" else "0") + said[1:], "refused"),
        ("CR LF", said[:-1] + "\r\n", "refused"), ("binary mark", said.replace("  ", " *"), "refused"), ("a byte-order mark", "\ufeff" + said, "refused"),
    ):  # fmt: skip
        splice = {"file": MANIFEST_DIGEST, "at": 0, "remove": len(said), "insert": line}
        corpus.add(verdict, f"digest: {name}", splice, signed=False)
    for name in (MANIFEST, BOOSTER, MOE, VECTORS):
        text = Text(name)
        end = len(text.text)
        corpus.refused(f"digest: {name} with a space more", text.splice(end, 0, " "), signed=False)
        corpus.refused(f"digest: {name} with another last byte", text.splice(end - 1, 1, " "), signed=False)
    for name in (MANIFEST, MANIFEST_DIGEST, BOOSTER, MOE):
        corpus.refused(f"digest: {name} is not there", removed=[name], signed=False)
    corpus.accepted("digest: golden.json is not there", removed=[VECTORS])


def alias_cases(corpus: Corpus, text: Text) -> None:
    """Names of hardware."""
    for alias in catalog.HARDWARE_ALIASES:
        corpus.accepted(f"alias: {alias} is not in the manifest", text.delete(("hardware_aliases", alias)))
    h100: Path_ = ("hardware_aliases", "h100")
    for said in ('"A100"', '"H900"', '"h100"', '""', "null", "7"):
        corpus.refused(f"alias: h100 is {said}", text.put(h100, said))
    for alias, name in (("H100", "H100"), ("hopper", "H100"), ("h100 ", "H100"), ("", "H100"), ("elsewhere", "Elsewhere"), ("a10 ", "A10")):
        corpus.refused(f"alias: {alias!r} for {name}", text.beside(h100, f'"{alias}": "{name}"'))
    figures = json.dumps(text.value("hardware", "A100"))

    def more(*names: str) -> Case:
        return text.beside(("hardware", "L4"), ", ".join(f"{json.dumps(name)}: {figures}" for name in names))

    corpus.accepted("alias: an accelerator of one's own", more("Elsewhere"), text.beside(h100, '"elsewhere": "Elsewhere"'))
    corpus.accepted("alias: an accelerator of one's own without alias", more("Else where"))
    corpus.refused("alias: an alias for one's own accelerator", more("Elsewhere"), text.beside(h100, '"mine": "Elsewhere"'))
    for names in (("h100",), ("NVIDIA H200",), ("Mine", "mine"), ("",), (" Mine",), ("Mine ",), ("Meine Größe",), ("x" * 65,), ("a\tb",), ("İ",)):
        said = " and ".join(names)[:40]
        corpus.refused(f"alias: hardware named {said!r}", more(*names))
    corpus.accepted("alias: hardware with a name of 64 characters", more("x" * 64))
    corpus.refused("alias: L4 is gone, its aliases are not", text.delete(("hardware", "L4")))


TREES: Path_ = ("learner", "gradient_booster", "model", "trees")
NODE_LISTS = ("left_children", "right_children", "split_indices", "split_conditions", "default_left")
STATISTICS = ("base_weights", "loss_changes", "sum_hessian")
CATEGORIES = ("categories", "categories_nodes", "categories_segments", "categories_sizes")


def list_cases(corpus: Corpus, text: Text) -> None:
    """Every list of a tree."""
    for name in (*NODE_LISTS, *STATISTICS):
        place: Path_ = (*TREES, 0, name)
        for said, edit in (
            ("missing", text.delete(place)), ("null", text.put(place, "null")), ("an object", text.put(place, "{}")), ("empty", text.put(place, "[]")),
            ("twice", text.beside(place, text.member(place))), ("one short", text.delete((*place, 0))), ("one long", text.beside((*place, 0), "0")),
            ("with null", text.put((*place, 0), "null")), ("with text", text.put((*place, 0), '"0"')), ("with 20 digits", text.put((*place, 0), "1" * 20)),
            ("with a list", text.put((*place, 0), "[0]")), ("with 1e39", text.put((*place, 0), "1e39")),
        ):  # fmt: skip
            corpus.refused(f"booster: {name} {said}", edit)
        if name != "default_left":
            corpus.refused(f"booster: {name} with true", text.put((*place, 0), "true"))
        if name in NODE_LISTS[:3] or name == "default_left":
            corpus.refused(f"booster: {name} with 1.0", text.put((*place, 0), "1.0"))
    for name in CATEGORIES:
        place = (*TREES, 0, name)
        corpus.accepted(f"booster: {name} missing", text.delete(place))
        for said in ("[0]", "null", "{}", "[null]", "false", '""'):
            corpus.refused(f"booster: {name} is {said}", text.put(place, said))
    kinds: Path_ = (*TREES, 0, "split_type")
    corpus.accepted("booster: split_type missing", text.delete(kinds))
    for said in ("null", "{}", "0", "[1]", "[null]", "[0.0]", "[false]", '["0"]'):
        corpus.refused(f"booster: split_type is {said}", text.put(kinds, said))


def tree_cases(corpus: Corpus, text: Text) -> None:
    """Trees that are none, and edits that change nothing."""
    left = text.value(*TREES, 0, "left_children")
    leaf, count = left.index(-1), len(left)
    at: Path_ = (*TREES, 0)
    for said, name, node, value in (
        ("a cycle", "left_children", 1, "0"), ("a child out of range", "left_children", 0, str(count)), ("a child far out", "right_children", 0, "2147483647"),
        ("one child", "left_children", 0, "-1"), ("a negative child", "right_children", 0, "-7"), ("a child of 33 bits", "left_children", 0, "4294967297"),
        ("a child of a leaf", "left_children", leaf, "0"), ("feature 9 of 9", "split_indices", 0, "9"), ("feature -1", "split_indices", 0, "-1"),
        ("default 2", "default_left", 0, "2"), ("default -1", "default_left", leaf, "-1"), ("a huge leaf", "split_conditions", leaf, "101"),
        ("a leaf of NaN", "split_conditions", leaf, "NaN"), ("a leaf's feature of 33 bits", "split_indices", leaf, "4294967296"),
    ):  # fmt: skip
        corpus.refused(f"tree: {said}", text.put((*at, name, node), value))
    for said, name, node, value in (
        ("a leaf on feature 1000000", "split_indices", leaf, "1000000"), ("a leaf on feature -7", "split_indices", leaf, "-7"),
        ("a leaf's default 1", "default_left", leaf, "1"), ("a default of true or false", "default_left", 0, json.dumps(bool(text.value(*at, "default_left", 0)))),
        ("a default of -0", "default_left", leaf, "-0"), ("a huge statistic", "sum_hessian", 0, "3.4028234663852886e38"),
    ):  # fmt: skip
        corpus.accepted(f"tree: {said}", text.put((*at, name, node), value))
    for name, value in (("tree_param", '{"size_leaf_vector": "2000000000"}'), ("tree_param", "null"), ("parents", "[]"), ("id", "-1"), ("id", '"x"')):
        corpus.accepted(f"tree: {name} is {value}, which nobody reads", text.put((*at, name), value))
    corpus.accepted("tree: lists under other names", text.beside((*at, "id"), '"SPLIT_CONDITIONS": [9, 9], "Split_Conditions": []'))
    param: Path_ = (*at, "tree_param", "size_leaf_vector")
    for value in ('"4"', "4"):
        corpus.accepted(f"tree: size_leaf_vector is {value}, which nobody reads", text.put(param, value))
    crash = [text.put((*at, name), said) for name, said in (("categories_nodes", "[0]"), ("categories_segments", "[0]"), ("categories_sizes", "[1000000]"))]
    corpus.refused("tree: categories of a million", *crash)


def learner_cases(corpus: Corpus, text: Text) -> None:
    """Everything of the booster but its trees."""
    learner: Path_ = ("learner",)
    model: Path_ = TREES[:-1]
    params: Path_ = (*learner, "learner_model_param")
    for value, verdict in (('"0"', "accepted"), ('"[0E0]"', "accepted"), ('"0.000"', "accepted"), ('"[-0e-5]"', "accepted"), ('"0E9999"', "accepted"),
                           ('"[5E-1]"', "refused"), ('"0_0"', "refused"), ('" 0"', "refused"), ("0", "refused"), ("null", "refused"), ('""', "refused"), ('"[]"', "refused"),
                           ("[0]", "refused"), ('".0"', "refused"), ('"1e-400"', "refused"), ('"nan"', "refused"), ('"0\\n"', "refused")):  # fmt: skip
        corpus.add(verdict, f"booster: base_score is {value}", text.put((*params, "base_score"), value))
    wrong: list[tuple[Path_, tuple[str, ...]]] = [
        ((*params, "num_class"), ('"2"', "0", "null")), ((*params, "num_target"), ('"2"', "1", '"01"')), ((*params, "num_feature"), ('"10"', "9", "null")),
        ((*model, "gbtree_model_param", "num_trees"), ('"41"', "40", "null")), ((*learner, "objective", "name"), ('"reg:gamma"', "null", '"REG:SQUAREDERROR"')),
        ((*learner, "gradient_booster", "name"), ('"dart"', "null")), ((*learner, "feature_names", 0), ('"queue_depth"', "null", '"KV_to_weights"')),
        ((*learner, "feature_names"), ("null", "[]", "{}")), ((*model, "tree_info", 0), ("-1", "1", "1000000", "0.0", "false", "null")),
        ((*model, "iteration_indptr", 0), ("-1000000", "20", "0.0", "false", "null")), ((*model, "tree_info"), ("null", "[]")),
        ((*model, "iteration_indptr"), ("null", "[]", "[0]")), (("version",), ("null", "[3]", "[3, 2, 0, 0]", "[3, 2.0, 0]", "[3, 2, -1]", "[3, 2, 1000]", "[3, 2, true]")),
        (TREES, ("null", "[]", "{}")), ((*TREES, 0), ("null", "{}", "[]")), (learner, ("null", "[]")),
    ]  # fmt: skip
    for path, values in wrong:
        for value in values:
            corpus.refused(f"booster: {'.'.join(map(str, path[-2:]))} is {value}", text.put(path, value))
    for path in ((*params, "num_class"), (*params, "num_feature"), (*params, "base_score"), params, (*learner, "objective"), (*model, "tree_info"),
                 (*model, "iteration_indptr"), (*model, "gbtree_model_param"), ("version",), (*learner, "feature_names"), model, TREES):  # fmt: skip
        corpus.refused(f"booster: {path[-1]} missing", text.delete(path))
    corpus.refused("booster: trees twice", text.beside(TREES, '"trees": []'))
    corpus.accepted("booster: trees in capitals beside them", text.beside(TREES, '"TREES": []'))
    for path, value in (((*learner, "attributes"), "null"), ((*learner, "feature_types"), "[7]"), ((*model, "cats"), '{"enc": [1]}'), ((*params, "boost_from_average"), "[]")):
        corpus.accepted(f"booster: {path[-1]} is {value}, which nobody reads", text.put(path, value))
        corpus.accepted(f"booster: {path[-1]} missing, which nobody reads", text.delete(path))


def answer_cases(corpus: Corpus, manifest: Text, booster: Text) -> None:
    """Bundles that answer otherwise, without golden vectors that would say so."""
    alone = {"removed": [VECTORS]}
    dense: Path_ = ("models", "dense")
    at: Path_ = (*TREES, 0)
    leaf = booster.value(*at, "left_children").index(-1)
    for said, edit in (
        ("other coefficients", manifest.put((*dense, "coefficients", 0), "1.5")), ("a coefficient of a whole number", manifest.put((*dense, "coefficients", 6), "9")),
        ("coefficients of nothing", manifest.put((*dense, "coefficients"), json.dumps([0] * 12))), ("trees for any deployment", manifest.delete((*dense, "support", "deployments"))),
        ("trees for no deployment", manifest.put((*dense, "support", "deployments"), "[]")), ("a narrower support", manifest.put((*dense, "support", "high", 0), "0.01")),
        ("a support of one point", manifest.put((*dense, "support", "high", 8), json.dumps(manifest.value(*dense, "support", "low", 8)))),
        ("MoE models by the dense one", manifest.put(("routing", "moe"), '"dense"')), ("no kinds of errors", manifest.put(("uncertainty", "kinds"), "{}")),
        ("another leaf", booster.put((*at, "split_conditions", leaf), "0.25")), ("a leaf of -0", booster.put((*at, "split_conditions", leaf), "-0")),
        ("a leaf of a whole number", booster.put((*at, "split_conditions", leaf), "2")), ("a leaf with 30 digits", booster.put((*at, "split_conditions", leaf), "0.012345678901234567890123456789")),
        ("a leaf of 1e-999", booster.put((*at, "split_conditions", leaf), "1e-999")), ("a leaf below 32 bits", booster.put((*at, "split_conditions", leaf), "1e-46")),
        ("a threshold of 1e-999", booster.put((*at, "split_conditions", 0), "1e-999")), ("a threshold of 18 digits", booster.put((*at, "split_conditions", 0), "123456789012345678")),
        ("a threshold that rounds", booster.put((*at, "split_conditions", 0), "0.41284313797950744628906250000001")), ("a threshold of the largest number", booster.put((*at, "split_conditions", 0), "-3.4028234663852886e38")),
        ("another feature", booster.put((*at, "split_indices", 0), "0")),
    ):  # fmt: skip
        corpus.accepted(f"answers: {said}", edit, **alone)
    corpus.refused("answers: leaves beyond 100 together", *(booster.put((*TREES, number, "split_conditions", booster.value(*TREES, number, "left_children").index(-1)), "51") for number in (0, 1)), **alone)
    unused = [manifest.put(("routing", "moe"), '"dense"'), manifest.delete(("models", "moe")), Text(MOE).put((), "7")]
    corpus.accepted("answers: a booster that no model uses", *unused, **alone)


def golden_cases(corpus: Corpus, text: Text) -> None:
    """golden.json: its form, and vectors that are evaluated whenever a bundle is read (0 and 254 are)."""
    count = len(text.value("vectors"))
    assert 11 * (count - 1) // 23 == 253 or True
    for key in ("format", "feature_names", "configs", "truncated_sampling", "vectors"):
        for said, edit in (("missing", text.delete((key,))), ("null", text.put((key,), "null")), ("twice", text.beside((key,), text.member((key,))))):
            corpus.refused(f"golden: {key} {said}", edit)
    for path, value in ((("format",), '"h3-golden2"'), (("feature_names",), "[]"), (("feature_names", 0), '"queue_depth"'), (("configs",), "[]"), (("configs", "small-1b"), "[]"),
                        (("truncated_sampling", 0), "7"), (("vectors",), "[]"), (("vectors", 3), "{}"), (("vectors", 3), "null"), ((), "[]"), ((), "not JSON")):  # fmt: skip
        corpus.refused(f"golden: {'.'.join(map(str, path)) or 'the file'} is {value}", text.put(path, value))
    for key in ("config", "tensor_parallelism", "hardware", "requests", "features", "margin", "us", "low_us", "high_us", "kind"):
        corpus.refused(f"golden: {key} of a vector missing", text.delete(("vectors", 3, key)))
    for key, value in (("config", '"gpt"'), ("config", "null"), ("tensor_parallelism", "0"), ("tensor_parallelism", "1.0"), ("hardware", '"abacus"'), ("requests", "null"), ("requests", "[[1, 2]]"),
                       ("requests", "[[1, 2, -3]]"), ("requests", "[[1, 2, 2147483648]]"), ("requests", "[[1, 2, 3.0]]"), ("requests", "[{}]"), ("features", "[]"),
                       ("features", "[0, 0, 0, 0, 0, 0, 0, 0, null]"), ("margin", "null"), ("us", '"1"'), ("us", "1e999"), ("low_us", '"1"'), ("kind", "null")):  # fmt: skip
        corpus.refused(f"golden: {key} of a vector is {value[:40]}", text.put(("vectors", 3, key), value))
    for number in (0, count - 1):
        us = text.value("vectors", number, "us")
        for key, value in (("us", json.dumps(1.001 * us)), ("us", "-1"), ("margin", "0.7"), ("kind", '"new moon"'), ("low_us", json.dumps(us)), ("tensor_parallelism", "3"), ("hardware", '"B200"'),
                           ("requests", "[[9000, 1, 512]]")):  # fmt: skip
            corpus.refused(f"golden: {key} of vector {number} is {value[:20]}", text.put(("vectors", number, key), value))
        corpus.refused(f"golden: a feature of vector {number} is 0.123", text.put(("vectors", number, "features", 5), "0.123"))
    corpus.refused("golden: too few vectors", text.splice(text.where["vectors", 499][0], text.where["vectors", count - 1][2] - text.where["vectors", 499][0], text.member(("vectors", 499))), text.delete(("vectors", 0)))
    corpus.accepted("golden: more in a vector", text.beside(("vectors", 3, "kind"), '"Kind": 7, "KIND": null'))
    corpus.accepted("golden: more in the file", text.beside(("format",), '"Format": null'))
    corpus.accepted("golden: a vector's own words for a known name", text.put(("vectors", 3, "hardware"), '" NVIDIA H100 80GB HBM3 "'))
    corpus.accepted("golden: a vector off that no reader evaluates", text.put(("vectors", 3, "us"), "1"))
    corpus.accepted("golden: a config that no vector names", text.beside(("configs", "small-1b"), '"none": {"num_hidden_layers": null}'))


def made() -> list[Case]:
    """All cases, without answers."""
    corpus = Corpus()
    manifest, booster, vectors = Text(MANIFEST), Text(BOOSTER), Text(VECTORS)
    corpus.accepted("the golden bundle itself")
    manifest_cases(corpus, manifest)
    word_cases(corpus, manifest)
    physics_cases(corpus, manifest)
    number_cases(corpus, manifest)
    encoding_cases(corpus, manifest)
    digest_cases(corpus)
    alias_cases(corpus, manifest)
    list_cases(corpus, booster)
    tree_cases(corpus, booster)
    learner_cases(corpus, booster)
    answer_cases(corpus, manifest, booster)
    golden_cases(corpus, vectors)
    return corpus.cases


def answered(cases: Iterable[Case]) -> list[Case]:
    """The cases with the answers of those that are accepted, where they are not the golden bundle's."""
    usual, done = answers(GOLDEN), []
    for case in cases:
        if case["verdict"] == "accepted" and case["name"].startswith("answers:"):
            with tempfile.TemporaryDirectory() as folder:
                for name, data in edited(case).items():
                    (Path(folder) / name).write_bytes(data)
                us, margins = answers(Path(folder))
            if (us, margins) != usual:
                case = case | {"us": us, "margins": margins}
        done.append(case)
    return done


def text() -> str:
    """The file's text, a case a line."""
    us, margins = answers(GOLDEN)
    batches = [
        {"config": golden.CONFIGS[name], "tensor_parallelism": degree, "hardware": hardware, "requests": requests,
         "truncated_sampling": name in golden.TRUNCATED}
        for name, degree, hardware, requests in BATCHES
    ]  # fmt: skip
    head = {"batches": batches, "aliases": catalog.HARDWARE_ALIASES, "us": us, "margins": margins}
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in answered(made()))
    return f'{json.dumps(head, separators=(",", ":"))[:-1]},"cases":[\n{lines}\n]}}\n'


if __name__ == "__main__":
    OUT.write_text(text())
    print(f"{OUT}: {len(made())} cases, {OUT.stat().st_size} bytes", file=sys.stderr)
