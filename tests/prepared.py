"""A Python that has imported what h3's verbs need and waits: each line of its input is a command that a fork
of it becomes. Every command is a process of its own, from its arguments to its exit; only the seconds of
importing are spent once.

A line is JSON: verb, arguments, folder, environment, and the files for stdout and stderr. Answered with the
process's id as it starts, and with its exit status as it has ended.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import sys

VERBS = ("train", "ingest", "compare", "promote", "replay", "export", "predict", "calibrate", "sync")


def load() -> dict[str, str]:
    """Import all that the verbs import, but not themselves: they are run as `__main__`. Returns the
    environment variables that importing has set."""
    before, package = dict(os.environ), importlib.import_module("h3")
    for verb in VERBS:
        importlib.import_module(f"h3.{verb}")
    for verb in VERBS:
        del sys.modules[f"h3.{verb}"]
        delattr(package, verb)
    return {name: value for name, value in os.environ.items() if name not in before}


def wait() -> dict | None:
    """Fork for every line that comes; in a fork the line's content, None as the lines end."""
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            return json.loads(line)
        print(process, file=answers, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), file=answers, flush=True)
    return None


def become(asked: dict, variables: dict[str, str]) -> None:
    """`python -m h3.VERB` in its folder."""
    for number, (path, flags) in enumerate(
        [
            (os.devnull, os.O_RDONLY),
            (asked["stdout"], os.O_WRONLY | os.O_CREAT),
            (asked["stderr"], os.O_WRONLY | os.O_CREAT),
        ]
    ):
        os.dup2(os.open(path, flags), number)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(variables | asked["environment"])
    sys.path[0] = asked["folder"]
    sys.argv = ["-m", *asked["arguments"]]
    runpy.run_module(f"h3.{asked['verb']}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    set_by_imports = load()
    command = wait()
    if command is not None:
        become(command, set_by_imports)
