"""PostgreSQL under Patroni, with the server under test as its store: nodes of one Patroni cluster, and patronictl."""

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import yaml

from harness import clusters
from harness.servers import free_port

SCOPE = "pg"
NAMESPACE = "/service/"
_PROGRAMS = ("postgres", "initdb", "pg_ctl", "pg_basebackup", "pg_controldata", "pg_isready")
_CONTROL = "from patroni.ctl import ctl; ctl()"
_STOP_S = 30.0


@functools.cache
def programs() -> Path | None:
    """The directory of PostgreSQL's server programs, the newest if Debian has several; None without them."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name.zfill(4))
    found = shutil.which("pg_ctl")
    for directory in [*([Path(found).resolve().parent] if found else []), *reversed(installed)]:
        if all((directory / name).exists() for name in _PROGRAMS):
            return directory
    return None


@functools.cache
def disguise() -> list[str]:
    """What to put before a command that must not run as root: a namespace where what is root's is nobody's.

    Unlike setuid it leaves this Python and the checkout readable wherever they lie.
    """
    return [] if os.geteuid() else ["unshare", "--user", "--map-user=nobody", "--map-group=nogroup"]


@functools.cache
def obstacle() -> str:
    """Why no PostgreSQL can be run here; empty if it can."""
    if (found := programs()) is None:
        return f"PostgreSQL's server programs ({', '.join(_PROGRAMS)}) are not installed"
    try:
        subprocess.run([*disguise(), found / "postgres", "--version"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return "tests run as root, PostgreSQL does not, and there are no user namespaces"
    return ""


def wait_for(what: str, condition: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    """The first true result of `condition`; a database or store that does not answer counts as false."""

    def look() -> Any:
        try:
            return condition() or None
        except (psycopg2.Error, subprocess.CalledProcessError):
            return None

    return clusters.wait_for(what, look, timeout_s)


class Node:
    """One Patroni process and its PostgreSQL, with a directory of its own."""

    def __init__(self, name: str, endpoints: Sequence[str], directory: Path) -> None:
        self.name = name
        self.port = free_port()
        self.directory = directory / name
        self.directory.mkdir()
        self.config = self.directory / "patroni.yml"
        self.config.write_text(yaml.safe_dump(self._settings(endpoints)))
        self.log = self.directory / "patroni.log"
        self._process: subprocess.Popen[bytes] | None = None

    def _settings(self, endpoints: Sequence[str]) -> dict[str, Any]:
        api = f"127.0.0.1:{free_port()}"
        postgres = f"127.0.0.1:{self.port}"
        return {
            "scope": SCOPE,
            "namespace": NAMESPACE,
            "name": self.name,
            "restapi": {"listen": api, "connect_address": api},
            "etcd3": {"hosts": list(endpoints)},
            "bootstrap": {
                # Patient with a store that restarts on a busy machine: a leader steps down after retry_timeout.
                "dcs": {"ttl": 60, "loop_wait": 2, "retry_timeout": 28, "postgresql": {"use_pg_rewind": False}},
                "initdb": [{"encoding": "UTF8"}, {"auth": "trust"}, "no-sync"],
                "pg_hba": ["host replication all 127.0.0.1/32 trust", "host all all 127.0.0.1/32 trust"],
            },
            "postgresql": {
                "listen": postgres,
                "connect_address": postgres,
                "data_dir": str(self.directory / "data"),
                "bin_dir": str(programs()),
                "pgpass": str(self.directory / "pgpass"),
                "authentication": {
                    "superuser": {"username": "postgres", "password": "secret"},
                    "replication": {"username": "replicator", "password": "secret"},
                },
                "parameters": {
                    "fsync": "off",
                    "shared_buffers": "16MB",
                    "max_connections": 20,
                    "unix_socket_directories": str(self.directory),
                },
                "basebackup": ["no-sync", {"checkpoint": "fast"}],
            },
        }

    def start(self) -> None:
        """Start Patroni, which starts PostgreSQL in its own time."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PATRONI", "PG"))}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*disguise(), sys.executable, "-m", "patroni", self.config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={**environment, "HOME": str(self.directory)},
            )

    def endpoint(self) -> str:
        """The member of the store that Patroni has chosen."""
        return re.findall(r"Selected new etcd server http://(\S+)", self.log.read_text())[-1]

    def control(self, *arguments: str) -> str:
        """What patronictl prints."""
        return subprocess.run(
            [sys.executable, "-c", _CONTROL, "-c", str(self.config), *arguments],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout

    def listed(self) -> dict[str, tuple[str, str]]:
        """Role and state of each node, by name, as patronictl lists them."""
        return {row["Member"]: (row["Role"], row["State"]) for row in json.loads(self.control("list", "-f", "json"))}

    def query(self, statement: str) -> Any:
        """The first column of the first row, if the statement has rows."""
        with closing(
            psycopg2.connect(host="127.0.0.1", port=self.port, user="postgres", dbname="postgres", connect_timeout=5)
        ) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                row = cursor.fetchone() if cursor.description else None
                return row[0] if row else None

    def stop(self) -> None:
        """Stop Patroni, and by it PostgreSQL; what does not stop is killed."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            stop = [*disguise(), f"{programs()}/pg_ctl", "stop", "-m", "immediate", "-D", self.directory / "data"]
            subprocess.run(stop, cwd=self.directory, capture_output=True, timeout=_STOP_S)
