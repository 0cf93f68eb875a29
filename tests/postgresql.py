"""A real PostgreSQL for a test: a cluster of its own in a temporary folder, on 127.0.0.1.

    with running() as server:
        server.database("first")                # postgresql://h3:...@127.0.0.1:PORT/first

PostgreSQL refuses to run as root; it then runs as the user nobody.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import sqlalchemy
from servers import free_port

FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)  # Debian keeps them off the PATH


@dataclass(frozen=True)
class Server:
    """Where a test finds it, and as whom it runs."""

    address: str
    folder: Path
    options: dict[str, object]

    def database(self, name: str) -> str:
        """The address of a new, empty database."""
        engine = sqlalchemy.create_engine(f"{self.address}/postgres", isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
        return f"{self.address}/{name}"

    def control(self, *arguments: str) -> None:
        """`pg_ctl` on this cluster; the test fails where it does."""
        command = [_binary("pg_ctl"), "-D", str(self.folder / "data"), "-w", *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **self.options)


def _binary(name: str) -> str:
    found = [str(folder / name) for folder in FOLDERS if (folder / name).is_file()] or [shutil.which(name)]
    if found[0] is None:
        pytest.skip(f"{name} is not installed: a real PostgreSQL is tested (Debian: apt install postgresql)")
    return str(found[0])


@contextmanager
def running() -> Iterator[Server]:
    """A server while the block runs; skips where PostgreSQL is not installed."""
    port, password = free_port(), secrets.token_urlsafe(12)
    with TemporaryDirectory(prefix="h3-postgresql-") as name:
        folder = Path(name)
        server = Server(f"postgresql://h3:{password}@127.0.0.1:{port}", folder, _as_user(folder))
        (folder / "password").write_text(password)
        initialise = [_binary("initdb"), "-D", str(folder / "data"), "-U", "h3", "-A", "scram-sha-256"]
        initialise += ["--pwfile", str(folder / "password"), "--no-sync"]
        subprocess.run(initialise, check=True, stdout=subprocess.DEVNULL, **server.options)
        options = f"-p {port} -c listen_addresses=127.0.0.1 -k {folder} -c fsync=off"
        server.control("-l", str(folder / "log"), "-o", options, "start")
        try:
            yield server
        finally:
            server.control("-m", "immediate", "stop")


def _as_user(folder: Path) -> dict[str, object]:
    """What subprocess needs to run as a user that PostgreSQL accepts, who then owns the folder."""
    options: dict[str, object] = {"cwd": folder, "env": {**os.environ, "LC_ALL": "C.UTF-8"}}
    if os.geteuid() != 0:
        return options
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return {**options, "user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
