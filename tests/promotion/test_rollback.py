"""Rollback to a champion that an older h3 wrote: its files come back whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import builders
import pytest

from h3 import bundle, export, promote
from h3.common.config import TrackingConfig
from h3.common.errors import InputError
from h3.export import ExportConfig
from h3.promotion.config import PromoteConfig
from h3.tracking import registry

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "go" / "h3bundle" / "testdata" / "bundle"
OTHER = r"constants: gemm_efficiency: 0\.7; expected 0\.8"


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
        match=r"is not a bundle.*champion is version 1 all the same: .*python -m h3\.promote action=export",
    ):
        promote.promote(config.model_copy(update={"out": str(precious)}))
    assert champion(config) == "1"
