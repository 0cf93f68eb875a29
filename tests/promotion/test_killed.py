"""A promotion or rollback that is killed at any step: whatever runs next brings alias and folder in step
before it does anything else.
"""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import builders
import killed_promotion
import pytest

from h3 import bundle, promote
from h3.common.config import TrackingConfig
from h3.common.errors import InputError
from h3.export import ExportConfig, verify
from h3.promotion.config import PromoteConfig
from h3.tracking import journal, registry
from h3.tracking.registry import Registry

GOLDEN = Path(__file__).parents[2] / "go" / "h3bundle" / "testdata" / "bundle"
# Where it is killed, and which version is champion once the next one has run: (place, number of the call).
PROMOTION = {
    ("tag", 1): "2",  # which folder is to have its files is not yet written down
    ("tag", 2): "2",
    ("tag", 4): "2",  # between two tags of the gate
    ("tag", 5): "2",
    ("alias", 1): "3",
    ("tag", 6): "3",  # between alias and state
    ("challenger", 1): "3",
    ("export", 1): "3",
    ("file", 3): "3",  # half of the files lie beside the folder
    ("exchange", 1): "3",
    ("cleanup", 2): "3",  # the new files are in their place, the old ones beside it
    ("tag", 7): "3",  # the files are there, which is not yet written down
    ("end", 1): "3",
}
ROLLBACK = {
    ("tag", 1): "2",
    ("tag", 2): "2",
    ("alias", 1): "2",
    ("tag", 3): "1",
    ("export", 1): "1",
    ("file", 3): "1",
    ("exchange", 1): "1",
    ("cleanup", 2): "1",
    ("tag", 4): "1",
    ("end", 1): "1",
}
CASES = [
    *(("promote", *step, champion) for step, champion in PROMOTION.items()),
    *(("rollback", *step, champion) for step, champion in ROLLBACK.items()),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A registry with two versions, the second one champion, and the files of four more. Those of 1-4 are of
    other physics: they are copied without being evaluated, which takes a second.
    """
    folder = tmp_path_factory.mktemp("models")
    for number in "123456":
        if number in "56":
            shutil.copytree(GOLDEN, files_of(folder, number))
        else:
            builders.other_physics(files_of(folder, number))
        builders.edit_provenance(files_of(folder, number), note=number)
    opened = builders.empty_registry(folder)
    opened.store.client.create_registered_model(registry.NAME)
    for version, before in (("1", ""), ("2", "1")):
        tags = {"state": "promoted", "previous_champion": before, "sweep": "s"}
        opened.store.client.create_model_version(registry.NAME, str(folder / version), tags=tags)
    opened.set_alias("champion", "2")
    return folder


@pytest.fixture
def config(models, tmp_path) -> PromoteConfig:
    """A promotion in a copy of that registry; dist/blis holds the champion's files."""
    shutil.copy(models / "mlflow.db", tmp_path)
    bundle.copy(files_of(models, "2"), tmp_path / "dist" / "blis")
    tracking = {"uri": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    return PromoteConfig.model_validate({"out": str(tmp_path / "dist" / "blis"), "tracking": tracking})


@pytest.fixture
def opened(config) -> Registry:
    return registry.open_registry(config.tracking)


def files_of(models: Path, version: str) -> Path:
    return models / version / "artifacts" / "bundle"


def kill(config: PromoteConfig, models: Path, place: str, number: int) -> None:
    """A promotion of version 3, or a rollback, that dies there."""
    assert killed_promotion.killed(config, "t", models / "3", place, number) == -signal.SIGKILL


def refused(config: PromoteConfig, models: Path) -> None:
    """A promotion of another sweep into another folder, refused on purpose."""
    gate = config.gate.model_copy(update={"max_fold_mape": 1.0})
    elsewhere = str(Path(config.out).with_name("elsewhere"))
    other = config.model_copy(update={"action": "promote", "out": elsewhere, "gate": gate})
    assert killed_promotion.run(other, "u", models / "4") == 3
    assert not Path(elsewhere).exists()


def digest(folder: str | Path) -> str:
    return bundle.inspect(folder).digest


@pytest.mark.parametrize(("action", "place", "number", "champion"), CASES)
def test_killed_anywhere_a_promotion_that_is_refused_brings_alias_and_folder_in_step_first(
    action, place, number, champion, config, models, opened, capsys
):
    kill(config.model_copy(update={"action": action}), models, place, number)
    refused(config, models)
    assert opened.aliases()["champion"] == champion
    assert digest(config.out) == digest(files_of(models, champion))
    assert [left.name for left in Path(config.out).parent.iterdir()] == ["blis"]
    assert journal.open_entries(opened) == []
    said = capsys.readouterr().out
    written = f"champion is version {champion}, not yet in {config.out}: "
    assert said.count(written) == (champion != "2" and (place, number) != ("end", 1))
    assert written not in said[said.index("gate:") :]
    assert journal.recover(opened, config.out) == {}
    assert journal.unexported(opened) is None


@pytest.mark.parametrize(
    ("place", "number", "before"), [("tag", 3, False), ("export", 1, False), ("alias", 1, True)]
)
def test_a_rollback_after_a_killed_one_finishes_that_one_and_goes_no_further(
    place, number, before, config, models, opened, capsys
):
    rollback = config.model_copy(update={"action": "rollback"})
    kill(rollback, models, place, number)
    elsewhere = Path(config.out).with_name("elsewhere")
    assert promote.promote(rollback.model_copy(update={"out": str(elsewhere)})) == 0
    assert opened.aliases()["champion"] == "1"
    assert elsewhere.exists() == before  # nothing had moved: the rollback is this one's
    assert digest(elsewhere if before else config.out) == digest(files_of(models, "1"))
    said = capsys.readouterr().out
    assert ("version 2, left by a killed rollback: rolled_back" in said) != before
    assert opened.version("2").tags["state"] == "rolled_back"


@pytest.mark.parametrize(("place", "number"), [("alias", 1), ("challenger", 1), ("export", 1)])
def test_the_same_sweep_again_writes_the_files_and_makes_no_new_version(
    place, number, config, models, opened
):
    kill(config, models, place, number)
    assert killed_promotion.run(config, "t", models / "3") == 0
    assert (opened.aliases()["champion"], len(opened.versions())) == ("3", 3)
    assert digest(config.out) == digest(files_of(models, "3"))


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("alias", "version 3, left by a killed promotion, passed the gate; the next one makes it champion"),
        ("export", "champion is version 3, not yet in"),
    ],
)
def test_a_dry_run_tells_what_was_left_and_changes_nothing(place, said, config, models, opened, capsys):
    kill(config, models, place, 1)
    aliases, before = opened.aliases(), digest(config.out)
    other = config.model_copy(update={"dry_run": True, "action": "rollback", "out": "elsewhere"})
    assert promote.promote(other) == 0
    told = capsys.readouterr().out
    assert said in told
    assert f"{config.out}" in told
    assert (opened.aliases(), digest(config.out)) == (aliases, before)
    assert len(journal.open_entries(opened)) == 1


def in_the_way(folder: str) -> Path:
    """Put something into a folder that makes it no bundle's; the file."""
    shutil.rmtree(folder)
    Path(folder).mkdir()
    (Path(folder) / "thesis.txt").write_text("x")
    return Path(folder) / "thesis.txt"


def test_a_folder_that_cannot_be_written_keeps_the_entry_open_and_a_rollback_goes_no_further(
    config, models, opened, capsys
):
    assert killed_promotion.run(config, "t", models / "3") == 0
    thesis = in_the_way(config.out)
    again = config.model_copy(update={"action": "rollback"})
    for _ in range(2):
        with pytest.raises(InputError, match=r"is not a bundle.*champion is version 2 all the same") as error:
            promote.promote(again)
        assert "\n" not in str(error.value)
        assert f"python -m h3.promote action=export out={config.out} tracking.uri=" in str(error.value)
        assert [run.data.tags["h3.out"] for run in journal.open_entries(opened)] == [config.out]
    thesis.unlink()
    assert promote.promote(again) == 0
    assert opened.aliases()["champion"] == "2"
    assert digest(config.out) == digest(files_of(models, "2"))
    assert journal.open_entries(opened) == []


def test_the_champions_files_are_written_elsewhere_where_the_folder_is_lost(config, models, opened, tmp_path):
    kill(config, models, "export", 1)
    in_the_way(config.out)
    with pytest.raises(InputError, match="is not a bundle"):
        refused(config, models)
    elsewhere = str(tmp_path / "elsewhere")
    assert promote.promote(config.model_copy(update={"action": "export", "out": elsewhere})) == 0
    assert digest(elsewhere) == digest(files_of(models, "3"))
    assert journal.open_entries(opened) == []
    shutil.rmtree(elsewhere)
    refused(config, models)


def test_without_a_champion_there_are_no_files_to_write(config, opened):
    opened.store.client.delete_registered_model_alias(registry.NAME, "champion")
    with pytest.raises(InputError, match="action=export: there is no champion"):
        promote.promote(config.model_copy(update={"action": "export"}))


def test_verification_says_which_folder_of_a_promotion_is_the_champions_no_more(config, models):
    asked = ExportConfig(tracking=TrackingConfig(uri=config.tracking.uri))
    assert killed_promotion.run(config, "t", models / "5") == 0
    assert "\n" not in verify(asked, config.out)
    assert "\n" not in verify(asked, str(files_of(models, "6")))  # no promotion wrote it
    elsewhere = config.model_copy(update={"out": str(Path(config.out).with_name("elsewhere"))})
    assert killed_promotion.run(elsewhere, "v", models / "6") == 0
    champion = digest(files_of(models, "6"))[:16]
    assert (
        verify(asked, config.out)
        .splitlines()[1]
        .startswith(
            f"{config.out}: not the champion's: that is version 4, digest {champion}; python -m h3.promote"
        )
    )
    assert "\n" not in verify(asked, elsewhere.out)
