"""A BLIS maintainer takes the Go module: fetched by its path, copied as a folder, or by the patch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GO = ROOT / "go"
PATCH = ROOT / "docs" / "blis" / "patch" / "apply.py"
MODULE = "github.com/inference-sim/h3/go"
pytestmark = pytest.mark.skipif(shutil.which("go") is None, reason="go is not installed")


def run(folder: Path, *command: str, status: int = 0, **variables: str) -> str:
    """What a command prints, errors too; fails unless it ends with the status."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local"} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout
    return done.stdout


def test_the_module_is_fetched_by_its_path(tmp_path):
    """By `go get`, where git finds a repository with the folder `go` under the module's address."""
    home = tmp_path / "home"
    home.mkdir()
    origin = tmp_path / "origin"
    shutil.copytree(GO, origin / "go")
    for command in ("init -q", "add .", "-c user.name=h3 -c user.email=h3@localhost commit -q -m all"):
        run(origin, "git", *command.split())
    commit = run(origin, "git", "rev-parse", "HEAD").strip()
    address = f"https://{MODULE.removesuffix('/go')}"
    (home / "gitconfig").write_text(
        f'[url "file://{origin}"]\n\tinsteadOf = {address}\n[safe]\n\tdirectory = *\n'
    )
    user = tmp_path / "user"
    user.mkdir()
    (user / "go.mod").write_text("module user\n\ngo 1.24\n")
    (user / "main.go").write_text(
        f'package main\n\nimport "{MODULE}/blis"\n\n'
        "func main() {\n\tb, err := blis.Champion()\n\tif err != nil {\n\t\tpanic(err)\n\t}\n"
        "\tprintln(b.Digest())\n}\n"
    )
    git = {"GIT_CONFIG_GLOBAL": str(home / "gitconfig"), "GOPRIVATE": MODULE, "GOVCS": "*:all"}
    modules = {"GOMODCACHE": str(tmp_path / "modules"), "GOFLAGS": "-mod=mod -modcacherw"}
    run(user, "go", "get", f"{MODULE}@{commit}", **git, **modules)
    digest = (GO / "h3bundle" / "champion" / "manifest.sha256").read_text().split()[0]
    assert run(user, "go", "run", ".", **git, **modules).strip() == digest


def test_a_copied_package_passes_its_own_tests(tmp_path):
    shutil.copytree(GO / "h3bundle", tmp_path / "sim" / "h3bundle")
    (tmp_path / "go.mod").write_text("module elsewhere\n\ngo 1.24\n")
    # The corpus is read by the tests of the module itself.
    assert "ok" in run(tmp_path, "go", "test", "-skip", "OfTheCorpus", "./...")


def test_the_module_needs_the_standard_library_only():
    assert "require" not in (GO / "go.mod").read_text()


@pytest.fixture
def checkout(tmp_path) -> Path:
    """What stands in for a BLIS checkout: its names and types where a backend meets them."""
    return Path(shutil.copytree(GO / "blis" / "testdata" / "blis", tmp_path / "inference-sim"))


def test_a_patched_blis_has_h3_as_its_default(checkout):
    said = run(checkout, sys.executable, str(PATCH), ".")
    assert "sim/latency/h3.go: the backend" in said
    assert run(checkout, sys.executable, str(PATCH), ".") == "nothing to change\n"
    run(checkout, "go", "mod", "edit", "-require", f"{MODULE}@v0.0.0", "-replace", f"{MODULE}={GO}")
    run(checkout, "go", "vet", "./...")
    assert "ok" in run(checkout, "go", "test", "-count=1", "./...")


def test_another_blis_is_changed_as_a_whole_or_not_at_all(checkout):
    place = checkout / "sim" / "batch.go"
    place.write_text(place.read_text().replace("startIndex", "from"))
    before = {path: path.read_bytes() for path in checkout.rglob("*") if path.is_file()}
    said = run(checkout, sys.executable, str(PATCH), ".", status=1)
    assert "no place for: where a waiting request is scheduled" in said
    assert {path: path.read_bytes() for path in checkout.rglob("*") if path.is_file()} == before


def test_what_would_change_is_said_without_changing_it(checkout):
    said = run(checkout, sys.executable, str(PATCH), ".", "--check")
    assert "cmd/root.go" in said
    assert not (checkout / "sim" / "latency" / "h3.go").exists()
