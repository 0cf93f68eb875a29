"""How a verb talks to its user: Hydra composes the configuration, errors are one line, the status says the
rest.

    run(main, "config", sys.argv[1:])

main(cfg) ends with status 0 if all is well, 2 if the input is wrong (one line on stderr), 1 for a bug
(traceback).
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

import hydra
from hydra import version
from hydra._internal.utils import (  # hydra.main reads sys.argv only (hydra-core 1.3.8)
    _run_hydra,
    get_args_parser,
)
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from h3.common import interrupts, secrets
from h3.common.config import CONF
from h3.common.errors import InputError

Job = Callable[[DictConfig], object]
# What Hydra's launchers (joblib, submitit) raise where the process of a job was killed or ran out of time.
LOST_JOBS = ("TerminatedWorkerError", "UncompletedJobError", "FailedJobError")
BROKEN_PIPE = 141  # as of a command that SIGPIPE ends
_reported: list[str] = []


def run(
    main: Job,
    config_name: str,
    arguments: Sequence[str],
    literal: Sequence[str] = (),
    renamed: Mapping[str, str] | None = None,
) -> None:
    """Run `main` under Hydra with conf/<config_name>.yaml and end the process with the status of what
    happened.

    arguments: the command line without the program. literal: keys whose value is text to Hydra, whatever it
    looks like (1,2,4 is a sweep otherwise). renamed: keys of before and what they are called now.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then lets exceptions through to us
    interrupts.listen()
    _reported.clear()
    secrets.keep_out_of_logs()
    try:
        _compose_and_run(
            _reporting(main, config_name), config_name, prepared(arguments, literal, renamed or {})
        )
        interrupts.check()
        if _reported:
            fail("\nerror: ".join(_reported))
    except InputError as error:
        fail(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        fail(_explain(error, config_name))
    except OSError as error:
        fail(_unreachable(error))
    except KeyboardInterrupt:
        sys.exit(interrupts.STATUS["Ctrl-C"])
    except RuntimeError as error:
        if type(error).__name__ not in LOST_JOBS:
            raise
        fail(_lost_job(error))


def report(text: str) -> None:
    """Say at the end that something is wrong, and go on: the status will be 2."""
    _reported.append(text)


def prepared(arguments: Sequence[str], literal: Sequence[str], renamed: Mapping[str, str]) -> list[str]:
    """The arguments as Hydra takes them; raises InputError for a key of before, saying what it is called now.

    >>> prepared(["tp=1,2", "bundle=dist/blis", "-m"], ["tp", "bundle"], {})
    ["tp='1,2'", "bundle='dist/blis'", '-m']
    """
    return [_prepared(argument, literal, renamed) for argument in arguments]


def _prepared(argument: str, literal: Sequence[str], renamed: Mapping[str, str]) -> str:
    key, equals, value = argument.partition("=")
    if equals and (plain := key.lstrip("+")) in renamed:
        now = renamed[plain]
        raise InputError(f"config: {plain}={value}: this is called {now} now; expected {now}={value}")
    if equals and key in literal and not re.match(r"['\"]", value):
        quoted = value.replace("'", "\\'")
        return f"{key}='{quoted}'"
    return argument


def _reporting(main: Job, config_name: str) -> Job:
    """The job with input errors collected, so that the other jobs of a sweep go on."""
    process = os.getpid()

    @functools.wraps(main)
    def job(cfg: DictConfig) -> object:
        interrupts.check()
        try:
            return main(cfg)
        except BrokenPipeError:
            _end_without_reader()
        except (InputError, OSError) as error:
            if os.getpid() != process:
                raise
            report(_unreachable(error) if isinstance(error, OSError) else str(error))
            return None
        except OmegaConfBaseException as error:
            if os.getpid() != process:
                raise InputError(_explain(error, config_name)) from None
            report(_explain(error, config_name))
            return None

    return job


def _lost_job(error: RuntimeError) -> str:
    said = " ".join(str(error).split())[:200]
    return (
        f"a job of the sweep was lost: {said}; expected time and memory enough for each job: docs/cluster.md;"
        " resume=true goes on with the finished folds"
    )


def _end_without_reader() -> NoReturn:
    """End quietly where whoever read our output has gone, as `| head` does."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(BROKEN_PIPE)


def _unreachable(error: OSError) -> str:
    """One line for a place that cannot be read or written."""
    said = f"{error.filename}: {error.strerror}" if error.filename else " ".join(str(error).split())[:200]
    return f"{said}; expected a place that can be read and written"


def _compose_and_run(job: Job, config_name: str, arguments: list[str]) -> None:
    version.setbase("1.3")
    parser = get_args_parser()
    parser.error = _refused  # type: ignore[method-assign]  # argparse prints its usage, Hydra's own
    args = parser.parse_args(arguments)
    if args.experimental_rerun is not None:
        raise InputError("config: --experimental-rerun reads a pickle, which h3 does not; expected overrides")
    _run_hydra(
        args=args,
        args_parser=parser,
        task_function=job,
        config_path=str(CONF),
        config_name=config_name,
    )


def _refused(message: str) -> NoReturn:
    fail(f"{message}; expected KEY=VALUE (--help lists the keys)")


def fail(text: str) -> NoReturn:
    """End the process with one line on stderr and status 2."""
    print(f"error: {secrets.hidden(text)}", file=sys.stderr)
    sys.exit(2)


def _explain(error: Exception, config_name: str) -> str:
    """One line for a configuration that cannot be composed; an unknown key lists the valid ones."""
    text = " ".join(str(error).split()).split(" Config search path")[0]
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        there = ", ".join(_keys_beside(unknown[1], config_name))
        added = f"+{unknown[1]}=VALUE, which adds it"
        return f"config: unknown key {unknown[1]!r}; expected {f'one of {there}' if there else added}"
    garbled = re.match(r"Lexer\w+: (.*?) \^ See", text)
    if garbled:
        return f"config: {garbled[1]} cannot be read; expected KEY=VALUE, special characters in quotes"
    return f"config: {text}"


def _keys_beside(key: str, config_name: str) -> list[str]:
    """The keys that exist where `key` was looked for."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        node = hydra.compose(config_name)
    for part in key.split(".")[:-1]:
        node = OmegaConf.select(node, part) if OmegaConf.select(node, part) is not None else node
    return [str(name) for name in node] if isinstance(node, DictConfig) else []
