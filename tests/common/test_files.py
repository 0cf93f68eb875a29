"""Files are whole or not there; a lock is held by one, and where there can be none it says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from h3.common import files

HOLD = """import sys; from pathlib import Path; from h3.common import files
with files.lock(Path(sys.argv[1])): print(flush=True); input()"""


def test_a_file_that_cannot_be_filled_leaves_what_was_there(tmp_path):
    path = tmp_path / "result.json"
    files.write_text(path, "before")

    def fill(scratch: Path) -> None:
        scratch.write_text("half")
        raise ValueError("full disk")

    with pytest.raises(ValueError, match="full disk"):
        files.write(path, fill)
    assert path.read_text() == "before"
    assert [each.name for each in tmp_path.iterdir()] == ["result.json"]


def test_a_lock_that_another_process_holds_is_not_waited_for_and_its_death_frees_it(tmp_path):
    path = tmp_path / "lock"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    other.stdout.readline()
    with pytest.raises(BlockingIOError), files.lock(path, wait=False):
        pass
    other.kill()
    other.wait()
    with files.lock(path, wait=False):
        pass


def test_a_lock_where_no_file_can_be_made_is_an_error_and_a_link_is_not_followed(tmp_path):
    with pytest.raises(OSError), files.lock(Path("/proc/h3.lock")):
        pass
    (tmp_path / "target").write_text("kept")
    (tmp_path / "lock").symlink_to(tmp_path / "target")
    with pytest.raises(OSError), files.lock(tmp_path / "lock"):
        pass
    assert (tmp_path / "target").read_text() == "kept"
