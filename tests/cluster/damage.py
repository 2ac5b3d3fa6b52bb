"""A data directory with known content, ways to damage it, and what a server may make of it."""

import json
import random
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import stubs
from harness.servers import EtcdServer, StartFailed
from ratifyd.proto import rpc_pb2
from tests.cluster.workload import Client

START_S = 60.0
LOG_LOST = "lost?"
"""In the last words of a member whose leader counts on entries that it has acknowledged and lost; of etcd's, too."""
PAGE = 4096
FLAGS = ("--snapshot-count=60", "--max-snapshots=3", "--backend-batch-interval=50ms")
OWN_FLAGS = ("--experimental-snapshot-catchup-entries=20",)
ADVICE = ("restore", "--data-dir", "remove this member", "start the member again", "--wal-dir")


@dataclass(frozen=True, slots=True)
class Content:
    """Everything clients can see."""

    revision: int
    hash_kv: int
    rows: dict[bytes, bytes]
    leases: list[int]
    users: list[str]


def content(server: EtcdServer) -> Content:
    """What a server holds."""
    with Client(server.client_endpoint) as client, stubs.Client(server.client_endpoint) as other:
        revision = client.revision()
        return Content(
            revision,
            client.hash_kv(revision),
            {bytes(row.key): bytes(row.value) for row in client.rows()},
            sorted(lease.ID for lease in other.lease.LeaseLeases(rpc_pb2.LeaseLeasesRequest()).leases),
            sorted(other.auth.UserList(rpc_pb2.AuthUserListRequest()).users),
        )


def fill(server: EtcdServer, *, big: bool) -> Content:
    """Write a bit of everything; with `big`, more than one file of the log holds."""
    rng = random.Random(5)
    with Client(server.client_endpoint) as client, stubs.Client(server.client_endpoint) as other:
        for number in range(400):
            size = rng.choice((1, 20, 100, 1000, 9000))
            client.put(b"k%d" % rng.randrange(250), b"%d" % number + rng.randbytes(size))
            if number % 40 == 7:
                client.put(b"leased%d" % number, b"v", client.grant(3600))
            if number == 200:
                client.compact(client.revision() - 50, physical=True)
        for number in range(5):
            delete = rpc_pb2.DeleteRangeRequest(key=b"k%d" % number, range_end=b"k%d0" % number)
            client.txn(rpc_pb2.TxnRequest(success=[rpc_pb2.RequestOp(request_delete_range=delete)]))
            other.auth.UserAdd(rpc_pb2.AuthUserAddRequest(name=f"user{number}", password="p"))
        for number in range(90 if big else 0):
            client.put(b"big%d" % (number % 3), rng.randbytes(1_000_000))
    return content(server)


def copy(source: Path, target: Path) -> None:
    """Copy a data directory; what was preallocated becomes holes."""
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run(["cp", "-a", "--sparse=always", str(source), str(target)], check=True)


@dataclass(frozen=True, slots=True)
class Files:
    """The files of a data directory."""

    path: Path

    @property
    def wal(self) -> list[Path]:
        return sorted((self.path / "member" / "wal").glob("*.wal"))

    @property
    def snap(self) -> list[Path]:
        return sorted((self.path / "member" / "snap").glob("*-*.snap"))

    @property
    def db(self) -> Path:
        return self.path / "member" / "snap" / "db"


def used_bytes(path: Path) -> int:
    """Size up to the last byte that is not zero."""
    return len(path.read_bytes().rstrip(b"\0"))


def flip(path: Path, offset: int, mask: int = 4) -> None:
    """Change bits of one byte."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes((byte[0] ^ mask,)))


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def cut(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


def damage_at_random(files: Files, rng: random.Random) -> tuple[Path, str]:
    """One byte, a sector or a page of one file, or its end; what was done to which."""
    path = rng.choice((files.wal[-1], files.wal[-1], rng.choice(files.snap), files.db, files.db, files.db))
    end = used_bytes(path) if path in files.wal else path.stat().st_size
    at = rng.randrange(end)
    how = rng.choice(("bit", "bit", "byte", "sector", "zero page", "cut", "head of a page"))
    if how == "head of a page":
        at = min(end - 1, (at & -PAGE) + rng.randrange(160))
    if how in ("bit", "head of a page"):
        flip(path, at, 1 << rng.randrange(8))
    elif how == "byte":
        overwrite(path, at, rng.randbytes(1))
    elif how == "sector":
        overwrite(path, at & -512, rng.randbytes(min(512, end - (at & -512))))
    elif how == "zero page":
        overwrite(path, at & -PAGE, bytes(min(PAGE, end - (at & -PAGE))))
    else:
        cut(path, at)
    return path, how


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a start: it "serves", "refuses" by its own decision, "crashes", or ends since its "log is lost":
    the others know that it had more."""

    kind: str
    words: str = ""


def start(server: EtcdServer) -> Outcome:
    """Start a server over a damaged directory; neither serving nor ending within START_S is a failure."""
    server.start(wait=False)
    try:
        server.wait_ready(START_S)
        return Outcome("serves")
    except StartFailed:
        if server.running:
            raise
    log, status = server.log_text(), server.wait()
    if server.kind != "ratifyd":
        last = next(
            (line for line in log.splitlines() if '"fatal"' in line or '"panic"' in line or "panic" in line), log
        )
        return Outcome("refuses" if status == 1 and "goroutine" not in log else "crashes", last[:300])
    assert status == 1, f"ended with {status}:\n{log[-3000:]}"
    if LOG_LOST in log:
        return Outcome("log is lost")
    assert "Traceback" not in log, log[-3000:]
    fatal = [line for line in map(json.loads, log.splitlines()) if line["level"] == "fatal"]
    assert len(fatal) == 1, log[-3000:]
    words = f"{fatal[0]['msg']}: {fatal[0]['error']}"
    assert str(server.data_dir) in words, f"names no file: {words}"
    assert any(advice in words.lower() for advice in ADVICE), f"does not say what to do: {words}"
    return Outcome("refuses", words)


Damage = Callable[[Files], None]


def exercise(server: EtcdServer, expected: Content) -> None:
    """A server that serves has everything, and goes on: writes, a rewrite of its file, another start."""
    assert content(server) == expected
    with Client(server.client_endpoint) as client, stubs.Client(server.client_endpoint) as other:
        for number in range(30):
            client.put(b"after%d" % number, b"v" * 3000)
        other.maintenance.Defragment(rpc_pb2.DefragmentRequest(), timeout=20)
        revision = client.revision()
        hash_kv = client.hash_kv(revision)
    server.restart()
    with Client(server.client_endpoint) as client:
        assert client.hash_kv(revision) == hash_kv


def differing(found: Content, expected: Content) -> dict[str, Any]:
    """The parts that differ, for messages."""
    return {
        name: (getattr(found, name), getattr(expected, name))
        for name in ("revision", "hash_kv", "leases", "users")
        if getattr(found, name) != getattr(expected, name)
    }
