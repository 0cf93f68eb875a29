"""A run belongs to a process, and is an orphan once that process is gone."""

import subprocess
import sys
import time

from h3.tracking import owner


def tags_of(process: subprocess.Popen) -> dict[str, str]:
    """The tags that a process gives its runs."""
    return dict(line.split("=", 1) for line in process.stdout.read().splitlines())


TELLS = "from h3.tracking import owner\nfor pair in owner.tags().items(): print('='.join(pair))"


def test_a_run_of_a_living_process_is_no_orphan():
    assert owner.gone(owner.tags()) == ""


def test_a_run_of_a_process_that_ended_is_one_and_says_which():
    process = subprocess.Popen([sys.executable, "-c", TELLS], stdout=subprocess.PIPE, text=True)
    tags = tags_of(process)
    process.wait()
    assert owner.gone(tags).startswith(f"process {process.pid} on ")
    assert owner.gone(tags).endswith(" is gone")


def test_another_process_of_the_same_number_does_not_keep_a_run_alive():
    tags = owner.tags()
    host, number, started = tags[owner.OWNER_TAG].rsplit(":", 2)
    earlier = {**tags, owner.OWNER_TAG: f"{host}:{number}:{float(started) - 60:.2f}"}
    assert owner.gone(earlier).endswith("is gone")


def test_a_process_of_another_machine_lives_while_it_says_so():
    elsewhere = {owner.OWNER_TAG: "node3:4711:1700000000.00"}
    now = time.time()
    assert owner.gone({**elsewhere, owner.ALIVE_TAG: f"{now - 120:.0f}"}) == ""
    silent = owner.gone({**elsewhere, owner.ALIVE_TAG: f"{now - 3600:.0f}"})
    assert silent.startswith("process 4711 on node3 has not been heard of for 36")


def test_a_run_of_before_belongs_to_nobody_and_stays():
    assert owner.gone({}) == ""
