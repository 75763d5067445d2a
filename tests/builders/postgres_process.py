"""A real PostgreSQL of a test's own: its own data, loopback port, gone when the test ends."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

USER = "overspill"
PASSWORD = "of-this-test"


@dataclass(frozen=True)
class RunningPostgres:
    port: int
    _programs: Path
    _data: Path

    def url(self, database: str, password: str = PASSWORD) -> str:
        return f"postgresql+asyncpg://{USER}:{password}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        """A new database; its URL."""
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, database)
        return self.url(database)

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        log = str(self._data / "log")
        self._run("pg_ctl", "start", "-w", "-t", "30", "-D", str(self._data), "-l", log, "-o", options)

    def stop(self) -> None:
        """At once, as in a crash of the machine."""
        self._run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", str(self._data))

    def _run(self, program: str, *args: str) -> None:
        _as_nobody_special([str(self._programs / program), *args])


@contextmanager
def running_postgres() -> Iterator[RunningPostgres]:
    """Skips the test where there is no PostgreSQL."""
    programs = _programs()
    folder = Path(tempfile.mkdtemp(prefix="overspill-postgres-"))
    try:
        secret, data = folder / "password", folder / "data"
        secret.write_text(PASSWORD)
        data.mkdir()
        if os.geteuid() == 0:
            for path in (folder, secret, data):
                shutil.chown(path, _UNPRIVILEGED)
        made = ["-D", str(data), "-U", USER, "--auth=scram-sha-256", "--pwfile", str(secret), "--no-sync", "-E", "UTF8"]
        _as_nobody_special([str(programs / "initdb"), *made, "--locale=C"])
        server = RunningPostgres(_free_port(), programs, data)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


_UNPRIVILEGED = "nobody"


def _as_nobody_special(command: list[str]) -> None:
    """PostgreSQL will not be run by root."""
    user = _UNPRIVILEGED if os.geteuid() == 0 else None
    env = {"PATH": os.environ.get("PATH", ""), "PGPASSWORD": PASSWORD, "LC_ALL": "C", **_libraries(Path(command[0]))}
    done = subprocess.run(
        command, user=user, env=env, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"


def _libraries(program: Path) -> dict[str, str]:
    """Of packages that were unpacked, not installed."""
    root = Path(sys.prefix) / "servers" / "postgresql-15"
    if root not in program.parents:
        return {}
    return {"LD_LIBRARY_PATH": ":".join(str(one.parent) for one in root.glob("usr/lib/*-linux-gnu/libpq.so.5"))}


def _programs() -> Path:
    """Debian's, as `make servers` unpacks it or as the machine has it."""
    for root in (Path(sys.prefix) / "servers" / "postgresql-15", Path("/")):
        for found in sorted(root.glob("usr/lib/postgresql/*/bin/postgres"), reverse=True):
            return found.parent
    found_on_path = shutil.which("postgres")
    if found_on_path is None:
        pytest.skip("no PostgreSQL here: run `make servers`, or install Debian's package postgresql")
    return Path(found_on_path).resolve().parent


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
