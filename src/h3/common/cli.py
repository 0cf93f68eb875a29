"""How an entry point talks to its user: Hydra composes the configuration, errors are one line, the status
says the rest.

run(main, "config")          # main(cfg): 0 all well, 2 the input is wrong (one line on stderr), 1 a bug
(traceback)
"""

from __future__ import annotations

import functools
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from h3.common.errors import InputError

CONF = Path(__file__).parents[3] / "conf"


def run(main: Callable[[DictConfig], object], config_name: str) -> None:
    """Run `main` under Hydra with conf/<config_name>.yaml and end the process with the status of what
    happened.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then lets exceptions through to us
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    process, errors = os.getpid(), []

    @functools.wraps(main)
    def job(cfg: DictConfig) -> object:
        try:
            return main(cfg)
        except InputError as error:
            if os.getpid() != process:
                raise
            errors.append(str(error))  # the other jobs of a sweep go on
            return None

    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(job)()
        if errors:
            _fail("\nerror: ".join(errors))
    except InputError as error:
        _fail(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        _fail(_explain(error, config_name))
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(text: str) -> None:
    print(f"error: {text}", file=sys.stderr)
    sys.exit(2)


def _explain(error: Exception, config_name: str) -> str:
    """One line for a configuration that cannot be composed; an unknown key lists the valid ones."""
    text = " ".join(str(error).split()).split(" Config search path")[0]
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        return (
            f"config: unknown key {unknown[1]!r}; expected one of"
            f" {', '.join(_keys_beside(unknown[1], config_name))}"
        )
    return f"config: {text}"


def _keys_beside(key: str, config_name: str) -> list[str]:
    """The keys that exist where `key` was looked for."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        node = hydra.compose(config_name)
    for part in key.split(".")[:-1]:
        node = OmegaConf.select(node, part) if OmegaConf.select(node, part) is not None else node
    return [str(name) for name in node] if isinstance(node, DictConfig) else []
