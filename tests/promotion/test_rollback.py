"""Rollback to a champion that an older h3 wrote: its files come back whole, and a kill in between is made
good.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import builders
import pytest

from h3 import bundle, export, promote
from h3.common.config import TrackingConfig
from h3.common.errors import InputError
from h3.export import ExportConfig
from h3.promotion.config import PromoteConfig
from h3.tracking import journal, registry

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "go" / "h3bundle" / "testdata" / "bundle"
OTHER = r"constants: gemm_efficiency: 0\.7; expected 0\.8"
# A promotion of version 3, or a rollback, that is killed in place of the n-th call of a function.
KILLED = """
import os, signal, sys
from h3 import promote
from h3.bundle import bundle, files
from h3.promotion.config import PromoteConfig
from h3.tracking import journal, registry
place, n, config = sys.argv[1], int(sys.argv[2]), PromoteConfig.model_validate_json(sys.argv[3])
module, name = {
    "before the export": (bundle, "copy"),
    "in the export": (files, "exchange"),
    "after the export": (journal, "exported"),
    "at a tag": (registry.Registry, "tag"),
    "at an alias": (registry.Registry, "set_alias"),
}[place]
real, calls = getattr(module, name), []
def killed(*arguments, **more):
    calls.append(name)
    if len(calls) == n:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **more)
setattr(module, name, killed)
if config.action == "rollback":
    promote.promote(config)
else:
    opened = registry.open_registry(config.tracking)
    with journal.lock(opened):
        journal.expect_export(opened, "3", config.out)
        opened.tag("3", gate="passed", previous_champion="2", state="gated")
        journal.promote(opened, "3")
        promote._export(opened, "3", config.out)
"""


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def old(tmp_path) -> Path:
    return builders.other_physics(tmp_path / "models" / "1" / "artifacts" / "bundle")


@pytest.fixture
def config(tmp_path, old) -> PromoteConfig:
    """A rollback in a registry whose champion, version 2, followed version 1 of an older h3; dist/blis holds
    version 2.
    """
    new = Path(shutil.copytree(GOLDEN, tmp_path / "models" / "2" / "artifacts" / "bundle"))
    opened = builders.empty_registry(tmp_path)
    tracking = TrackingConfig(uri=opened.store.uri)
    opened.store.client.create_registered_model(registry.NAME)
    for version, before in (("1", ""), ("2", "1")):
        tags = {"state": "promoted", "previous_champion": before, "sweep": "s"}
        opened.store.client.create_model_version(registry.NAME, str(tmp_path / "models" / version), tags=tags)
    opened.set_alias("champion", "2")
    bundle.copy(new, tmp_path / "dist" / "blis")
    asked = {"action": "rollback", "out": str(tmp_path / "dist" / "blis"), "tracking": tracking.model_dump()}
    return PromoteConfig.model_validate(asked)


def champion(config: PromoteConfig) -> str:
    return registry.open_registry(config.tracking).aliases()["champion"]


def test_rollback_brings_back_the_files_of_a_champion_that_this_h3_cannot_evaluate(config, old, capsys):
    assert promote.promote(config) == 0
    assert champion(config) == "1"
    assert content(Path(config.out)) == content(old)
    said = capsys.readouterr().out
    assert "champion is version 1 again (was 2)" in said
    assert "not evaluated: " in said
    assert "gemm_efficiency: 0.7; expected 0.8" in said


def test_such_a_champion_is_exported_and_refused_by_what_evaluates_it(config, old, tmp_path):
    promote.promote(config)
    asked = {
        "bundle": "champion",
        "out": str(tmp_path / "blis"),
        "tracking": config.tracking.model_dump(),
    }
    report = export.export(ExportConfig.model_validate(asked))
    assert report.digest == bundle.inspect(old).digest
    assert content(tmp_path / "blis") == content(old)
    with pytest.raises(InputError, match=f"{OTHER}.*evaluate it with the version that made it") as error:
        registry.load("champion", config.tracking)
    assert "\n" not in str(error.value)


def test_rollback_to_damaged_files_moves_nothing(config, old):
    (old / "booster.json").write_text("{}")
    before = content(Path(config.out))
    with pytest.raises(InputError, match=r"booster\.json: 2 bytes; the manifest says"):
        promote.promote(config)
    assert champion(config) == "2"
    assert content(Path(config.out)) == before


def test_rollback_that_cannot_write_says_who_is_champion_and_how_to_export(config, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("x")
    with pytest.raises(
        InputError,
        match=r"is not a bundle.*champion is version 1 all the same: python -m h3\.export bundle=champion",
    ):
        promote.promote(config.model_copy(update={"out": str(precious)}))
    assert champion(config) == "1"


def in_step(config: PromoteConfig) -> bool:
    """Whether the folder that the champion was last told to be in has its files."""
    version = registry.open_registry(config.tracking).version("champion")
    folder = Path(version.source) / "artifacts" / "bundle"
    return content(folder) == content(Path(version.tags.get("out", config.out)))


PLACES = [
    ("before the export", 1),
    ("in the export", 1),
    ("after the export", 1),
    *(("at a tag", n) for n in (1, 2, 3)),
    ("at an alias", 1),
]


@pytest.mark.parametrize("next_action", ["rollback", "promote"])
@pytest.mark.parametrize(("place", "n"), PLACES)
@pytest.mark.parametrize("action", ["rollback", "promote"])
def test_killed_anywhere_the_next_call_brings_champion_and_folder_in_step(
    action, place, n, next_action, config, tmp_path
):
    third = Path(shutil.copytree(GOLDEN, tmp_path / "models" / "3" / "artifacts" / "bundle"))
    builders.edit_provenance(third, note="a third")
    opened = registry.open_registry(config.tracking)
    opened.store.client.create_model_version(
        registry.NAME, str(tmp_path / "models" / "3"), tags={"state": "refused", "sweep": "t"}
    )
    asked = config.model_copy(update={"action": action})
    done = subprocess.run(
        [sys.executable, "-c", KILLED, place, str(n), asked.model_dump_json()], env=os.environ, check=False
    )
    assert done.returncode == -signal.SIGKILL
    again = config.model_copy(update={"action": next_action, "out": str(tmp_path / "elsewhere")})
    if next_action == "promote":
        with pytest.raises(InputError, match="no complete sweep"):
            promote.promote(again)
    else:
        promote.promote(again)
    assert in_step(config)
    assert journal.unexported(opened) is None


@pytest.mark.parametrize("action", ["rollback", "promote"])
def test_killed_between_alias_and_files_the_next_call_writes_the_files_and_rolls_back_no_further(
    action, config, old, capsys
):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, "before the export", "1", config.model_dump_json()],
        env=os.environ,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert champion(config) == "1"
    assert content(Path(config.out)) != content(old)
    again = config.model_copy(update={"action": action, "out": str(Path(config.out).parent / "other")})
    if action == "rollback":
        assert promote.promote(again) == 0
    else:
        with pytest.raises(InputError, match="no complete sweep"):
            promote.promote(again)
    said = capsys.readouterr().out
    assert "version 2, left by a killed rollback: rolled_back" in said
    assert f"champion is version 1, not yet in {config.out}: " in said
    assert champion(config) == "1"
    assert content(Path(config.out)) == content(old)
    assert not Path(again.out).exists()


def test_a_folder_that_cannot_be_written_is_said_each_time_until_it_can(config, tmp_path):
    opened = registry.open_registry(config.tracking)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("x")
    journal.expect_export(opened, "2", str(precious))
    for _ in range(2):
        with pytest.raises(InputError, match=r"is not a bundle.*python -m h3\.export bundle=champion"):
            promote.promote(config.model_copy(update={"action": "promote"}))
    (precious / "thesis.txt").unlink()
    with pytest.raises(InputError, match="no complete sweep"):
        promote.promote(config.model_copy(update={"action": "promote"}))
    assert journal.unexported(opened) is None


def test_a_dry_run_tells_and_changes_nothing(config, tmp_path, capsys):
    opened = registry.open_registry(config.tracking)
    journal.expect_export(opened, "2", str(tmp_path / "elsewhere"))
    assert promote.promote(config.model_copy(update={"dry_run": True})) == 0
    assert "champion is version 2, not yet in" in capsys.readouterr().out
    assert not (tmp_path / "elsewhere").exists()
