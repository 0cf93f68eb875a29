"""A bundle's folder: replaced in one step, found again after a kill at any point, copied without being
evaluated.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import builders
import pytest

from h3 import bundle
from h3.bundle import files
from h3.common.errors import InputError

GOLDEN = Path(__file__).parents[2] / "go" / "h3bundle" / "testdata" / "bundle"
# Copies a bundle in a process that is killed in place of its n-th call of a function.
KILLED = """
import os, shutil, signal, sys
from h3 import bundle
from h3.bundle import files
source, target, swaps, place, number = sys.argv[1:]
if swaps == "no":
    files.exchange = lambda *_: False
owner = {"replace": os, "fsync": os, "rmtree": shutil, "exchange": files}[place]
real, calls = getattr(owner, place), []
def killing(*arguments, **keywords):
    calls.append(arguments)
    if len(calls) == int(number):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **keywords)
setattr(owner, place, killing)
bundle.copy(source, target)
"""
WRITER = """
import sys
from h3 import bundle
one, other, target = sys.argv[1:]
for source in [one, other] * 20:
    bundle.copy(source, target)
"""


def changed(folder: Path, **keys: object) -> Path:
    """A copy of the golden bundle with other keys in its manifest, digests right."""
    shutil.copytree(GOLDEN, folder)
    manifest = json.loads((folder / "manifest.json").read_text()) | keys
    (folder / "manifest.json").write_text(json.dumps(manifest))
    builders.sign_manifest(folder)
    return folder


@pytest.fixture
def two(tmp_path) -> tuple[Path, Path]:
    """A bundle at its place, and another one that is to replace it."""
    new = changed(
        tmp_path / "other", overheads={"queueing_us": 1.0, "post_decode_us": 2.0, "output_token_us": 0.0}
    )
    return bundle.copy(GOLDEN, tmp_path / "dist" / "blis"), new


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# The two renames of the fallback are calls 1 and 2 of os.replace; the third rmtree removes what was replaced.
@pytest.mark.parametrize(
    ("swaps", "place", "number", "found"),
    [
        ("yes", "rmtree", 1, "old"),
        ("yes", "fsync", 1, "old"),
        ("yes", "fsync", 5, "old"),
        ("yes", "exchange", 1, "old"),
        ("yes", "rmtree", 3, "new"),
        ("yes", "rmtree", 4, "new"),
        ("no", "fsync", 2, "old"),
        ("no", "replace", 1, "old"),
        ("no", "replace", 2, "new"),
        ("no", "rmtree", 3, "new"),
        ("no", "rmtree", 4, "new"),
    ],
)
def test_killed_anywhere_a_whole_bundle_is_found_and_the_next_call_cleans_up(
    swaps, place, number, found, two, tmp_path
):
    path, new = two
    expected = {"old": content(path), "new": content(new)}[found]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(new), str(path), swaps, place, str(number)],
        env=os.environ,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    bundle.read(path)
    assert content(path) == expected
    bundle.copy(new, path)
    assert content(path) == content(new)
    assert [left.name for left in path.parent.iterdir()] == ["blis"]


def test_a_successor_that_was_not_finished_is_no_bundle(two):
    path, new = two
    shutil.copytree(new, path.with_name(".blis.new"))
    (path.with_name(".blis.new") / "booster.json").write_text("{}")
    os.replace(path, path.with_name(".blis.old"))
    assert bundle.read(path).digest == bundle.read(GOLDEN).digest
    assert not path.with_name(".blis.new").exists()


def test_a_folder_that_cannot_be_exchanged_is_replaced_all_the_same(two, monkeypatch):
    path, new = two
    monkeypatch.setattr(files, "exchange", lambda *_: False)
    bundle.copy(new, path)
    assert content(path) == content(new)
    assert [left.name for left in path.parent.iterdir()] == ["blis"]


def test_a_write_that_fails_leaves_what_was_there(two, monkeypatch):
    path, new = two
    before = content(path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        InputError, match=r"blis: No space left on device; expected a folder that can be written"
    ):
        bundle.copy(new, path)
    assert content(path) == before
    assert [left.name for left in path.parent.iterdir()] == ["blis"]


def test_a_link_to_a_bundle_stays_a_link(two, tmp_path):
    path, new = two
    link = tmp_path / "link"
    link.symlink_to(path)
    bundle.copy(new, link)
    assert link.is_symlink()
    assert content(path) == content(new)


def test_a_reader_of_a_folder_that_is_replaced_meanwhile_reads_the_new_one(two, monkeypatch):
    path, new = two
    real, replaced = files.read_bytes, []

    def replacing(place: Path) -> bytes:
        if place.name == "manifest.sha256" and not replaced:
            replaced.append(place)
            bundle.copy(new, path)
        return real(place)

    monkeypatch.setattr(files, "read_bytes", replacing)
    assert bundle.inspect(path).data == content(new)
    assert replaced


def test_readers_and_writers_at_once_meet_whole_bundles_only(two):
    path, new = two
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(GOLDEN), str(new), str(path)]) for _ in range(2)
    ]
    expected, met = (content(GOLDEN), content(new)), []
    while any(writer.poll() is None for writer in writers):
        met.append(expected.index(bundle.inspect(path).data))
    assert [writer.returncode for writer in writers] == [0, 0]
    assert set(met) == {0, 1}
    assert [left.name for left in path.parent.iterdir()] == ["blis"]


OTHER_PHYSICS = {
    "constants": json.loads((GOLDEN / "manifest.json").read_text())["constants"] | {"gemm_efficiency": 0.7},
    "terms": ["something", "else"],
    "format_version": 7,
    "features": [{"name": "kv_to_weights", "formula": "kv / weights"}],
}


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("constants", r"constants: gemm_efficiency: 0\.7; expected 0\.8"),
        ("terms", "terms: .*something"),
        ("format_version", "format version 7; expected"),
        ("features", "features: kv_to_weights: kv / weights; expected kv_us / weights_us"),
    ],
)
def test_a_bundle_of_other_physics_is_copied_but_not_evaluated(key, said, tmp_path):
    provenance = {"commit": "abcdef0123456789", "data_digest": "", "folds": []}
    made = changed(tmp_path / "made", **{key: OTHER_PHYSICS[key]}, provenance=provenance)
    copy = tmp_path / "copy"
    report = bundle.copy_verified(made, copy)
    assert content(copy) == content(made)
    assert (report.digest, report.vectors) == (bundle.inspect(made).digest, None)
    assert re.search(f"digests agree, .*; not evaluated: .*{said}", bundle.describe(copy, report))
    with pytest.raises(
        bundle.OtherPhysics, match=f"{said}.*the version that made it .commit abcdef012345.; export"
    ) as error:
        bundle.read(copy)
    assert "\n" not in str(error.value)


def test_what_is_damaged_is_not_copied(tmp_path):
    made = changed(tmp_path / "made")
    (made / "booster.json").write_text("{}")
    with pytest.raises(InputError, match=r"booster\.json: 2 bytes; the manifest says"):
        bundle.copy(made, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (
            {"../booster.json": {"sha256": "0" * 64, "bytes": 1}},
            "files: '../booster.json'; expected names such as",
        ),
        ({"/etc/passwd": {"sha256": "0" * 64, "bytes": 1}}, "files: '/etc/passwd'"),
        ({"manifest.json": {"sha256": "0" * 64, "bytes": 1}}, "files: 'manifest.json'"),
        (
            {"booster.json": {"sha256": "0", "bytes": 1}},
            r"manifest\.json\.files\.booster\.json\.sha256: '0'; expected a match of",
        ),
        ({"booster.json": {"sha256": "0" * 64, "bytes": -1}}, "bytes: -1; expected at least 0"),
        ({"booster.json": {"sha256": "0" * 64}}, r"files\.booster\.json: key 'bytes' is missing"),
        ([], r"manifest\.json\.files: holds list; expected object"),
        ({}, "files: is empty"),
    ],
)
def test_files_that_cannot_be_a_bundles_are_refused(told, said, tmp_path):
    with pytest.raises(InputError, match=said):
        bundle.inspect(changed(tmp_path / "made", files=told))
