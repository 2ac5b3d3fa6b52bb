"""Damaged files: a member serves everything it ever acknowledged, or refuses to start, with words that help.

The table says, for each kind of damage, what ratifyd does and what etcd does (`RATIFYD_TEST_SERVER=etcd` checks that).
"""

import json
import os
import random
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.servers import EtcdServer
from tests.cluster.conftest import StartServer
from tests.cluster.damage import (
    FLAGS,
    OWN_FLAGS,
    PAGE,
    Content,
    Damage,
    Files,
    Outcome,
    content,
    copy,
    cut,
    damage_at_random,
    differing,
    exercise,
    fill,
    flip,
    overwrite,
    start,
    used_bytes,
)
from tests.cluster.workload import Client

Built = tuple[Path, Content]
MakeStopped = Callable[..., tuple[EtcdServer, Content]]
NOISE = random.Random(9).randbytes(PAGE)


@pytest.fixture(scope="session")
def build(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Built]:
    """Data directories of a stopped server, each made once: "small", and "big" with two log files."""
    built: dict[str, Built] = {}

    def make(name: str) -> Built:
        if name not in built:
            directory = tmp_path_factory.mktemp(name) / "data"
            flags = (*FLAGS, *(OWN_FLAGS if kind == "ratifyd" else ()))
            with EtcdServer(kind, flags, data_dir=directory) as server:
                expected = fill(server, big=name == "big")
                server.terminate()
            built[name] = directory, expected
        return built[name]

    return make


@pytest.fixture
def stopped(build: Callable[[str], Built], start_server: StartServer, tmp_path: Path, kind: str) -> MakeStopped:
    """A stopped server over a copy of a data directory."""

    def make(name: str = "small") -> tuple[EtcdServer, Content]:
        directory, expected = build(name)
        copy(directory, tmp_path / "data")
        flags = (*FLAGS, *(OWN_FLAGS if kind == "ratifyd" else ()))
        return start_server(*flags, data_dir=tmp_path / "data", start=False), expected

    return make


def newest_db_meta(files: Files) -> int:
    """Offset of the newer of the two meta pages: LMDB's, or bbolt's."""
    data = files.db.read_bytes()
    txn = 144 if data[16:20] == b"\xde\xc0\xef\xbe" else 64
    return max((0, PAGE), key=lambda at: int.from_bytes(data[at + txn : at + txn + 8], "little"))


def all_snaps(damage: Callable[[Path], None]) -> Damage:
    def do(files: Files) -> None:
        for path in files.snap:
            damage(path)

    return do


def flip_leaf_pointer(files: Files) -> None:
    """The place of a row within its page, in every leaf."""
    data = files.db.read_bytes()
    for at in range(2 * PAGE, len(data), PAGE):
        if data[at + 10 : at + 12] in (b"\2\0", b"\1\0"):
            flip(files.db, at + 17, 0x40)


def zero_leaves(files: Files) -> None:
    data = files.db.read_bytes()
    for at in range(2 * PAGE, len(data), PAGE):
        if data[at + 10 : at + 12] == b"\2\0":
            overwrite(files.db, at, bytes(PAGE))


def flip_last_record(files: Files) -> None:
    flip(files.wal[-1], used_bytes(files.wal[-1]) - 3)


def garbage_behind(files: Files) -> None:
    end = used_bytes(files.wal[-1])
    overwrite(files.wal[-1], (end + 7) // 8 * 8, NOISE)


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of damage, what ratifyd makes of it, a part of its words, and what etcd 3.5.1 makes of it."""

    damage: Damage
    does: str
    words: str = ""
    etcd_does: str = "serves"
    directory: str = "small"
    often: bool = False
    """Whether it belongs to the default run."""


STUCK = "serves, but not that"

CASES = {
    "log: bit in the middle": Case(
        lambda f: flip(f.wal[0], used_bytes(f.wal[0]) // 2), "refuses", "crc mismatch", "refuses"
    ),
    "log: bit in the last record": Case(flip_last_record, "refuses", "crc mismatch", "refuses", often=True),
    "log: noise behind the end": Case(garbage_behind, "refuses", "impossible length word", "refuses"),
    "log: empty file": Case(lambda f: cut(f.wal[-1], 0), "refuses", "no metadata", "crashes"),
    # etcd starts on a log that its backend is ahead of, then answers no linearizable read: they time out
    "log: half a file": Case(lambda f: cut(f.wal[-1], used_bytes(f.wal[-1]) // 2), "refuses", "ends at index", STUCK),
    "log: zeros in the middle": Case(
        lambda f: overwrite(f.wal[-1], used_bytes(f.wal[-1]) // 2 & -PAGE, bytes(PAGE)),
        "refuses",
        "ends at index",
        STUCK,
    ),
    "log: gone": Case(lambda f: shutil.rmtree(f.wal[0].parent), "refuses", "is gone", STUCK),
    "log: first file gone": Case(
        lambda f: f.wal[0].unlink(), "refuses", "no file holds the log", "refuses", directory="big"
    ),
    "log: last file gone": Case(lambda f: f.wal[-1].unlink(), "refuses", "ends at index", STUCK, directory="big"),
    "log: last file empty": Case(lambda f: cut(f.wal[-1], 0), "refuses", "ends at index", STUCK, directory="big"),
    "snapshots: bit in the newest": Case(lambda f: flip(f.snap[-1], 30), "serves"),
    "snapshots: newest cut": Case(lambda f: cut(f.snap[-1], 20), "serves"),
    "snapshots: newest empty": Case(lambda f: cut(f.snap[-1], 0), "serves"),
    "snapshots: newest gone": Case(lambda f: f.snap[-1].unlink(), "serves"),
    "snapshots: all damaged": Case(all_snaps(lambda path: flip(path, 30)), "serves", often=True),
    "snapshots: all gone": Case(all_snaps(Path.unlink), "serves"),
    "backend: gone": Case(lambda f: f.db.unlink(), "refuses", "is missing", "crashes"),
    "backend: empty": Case(lambda f: cut(f.db, 0), "refuses", "is missing", "crashes"),
    "backend: one page": Case(lambda f: cut(f.db, PAGE), "refuses", "damaged", "crashes"),
    "backend: half": Case(
        lambda f: cut(f.db, f.db.stat().st_size // 2 & -PAGE), "refuses", "the file ends", "crashes", often=True
    ),
    "backend: noise": Case(lambda f: f.db.write_bytes(NOISE * 9) and None, "refuses", "meta page", "crashes"),
    "backend: newer meta page, a bit": Case(lambda f: flip(f.db, newest_db_meta(f) + 16), "serves"),
    "backend: newer meta page, zeros": Case(
        lambda f: overwrite(f.db, newest_db_meta(f), bytes(PAGE)), "serves", often=True
    ),
    "backend: both meta pages": Case(lambda f: overwrite(f.db, 0, bytes(2 * PAGE)), "refuses", "meta page", "crashes"),
    "backend: places of rows": Case(flip_leaf_pointer, "refuses", "is damaged", "", often=True),
    "backend: zero pages": Case(zero_leaves, "refuses", "is damaged", "crashes"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if case.often else pytest.mark.slow) for name, case in CASES.items()]
)
def test_damage(name: str, stopped: MakeStopped, kind: str) -> None:
    case = CASES[name]
    expected_kind = case.does if kind == "ratifyd" else case.etcd_does
    if not expected_kind:
        pytest.skip("bbolt's pages are others")
    server, expected = stopped(case.directory)
    case.damage(Files(server.data_dir))
    outcome = start(server)
    assert outcome.kind == expected_kind.split(",")[0], outcome
    if kind == "ratifyd":
        assert case.words in outcome.words, outcome.words
    if expected_kind == "serves" and kind == "ratifyd":
        exercise(server, expected)
    elif expected_kind == "serves":
        assert content(server) == expected


def test_an_older_backend_is_brought_up_to_date(stopped: MakeStopped, kind: str) -> None:
    """As long as the log reaches back to it; with a log that has been cut since, it is refused (etcd panics)."""
    server, _ = stopped()
    files = Files(server.data_dir)
    before = files.db.read_bytes()
    server.start()
    with Client(server.client_endpoint) as client:
        for number in range(20):
            client.put(b"later%d" % number, b"v")
    expected = content(server)
    server.terminate()
    files.db.write_bytes(before)
    assert start(server).kind == "serves"
    assert content(server) == expected
    with Client(server.client_endpoint) as client:
        for number in range(200):
            client.put(b"even-later%d" % number, b"v")
    server.terminate()
    files.db.write_bytes(before)
    outcome = start(server)
    assert outcome.kind == ("refuses" if kind == "ratifyd" else "crashes")
    if kind == "ratifyd":
        assert "older than the snapshot" in outcome.words


def test_a_directory_in_use(stopped: MakeStopped, start_server: StartServer, kind: str) -> None:
    """The second is refused at once, the first does not notice. (etcd's second waits for the first to end.)"""
    if kind != "ratifyd":
        pytest.skip("etcd waits")
    server, expected = stopped()
    server.start()
    second = start_server(data_dir=server.data_dir, start=False)
    assert "in use by another process" in start(second).words
    assert content(server) == expected


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="not installed: setpriv")
@pytest.mark.parametrize("name", ["db", "wal", "member"])
def test_files_that_may_not_be_read(name: str, stopped: MakeStopped, kind: str) -> None:
    """Also for root, without the right to look past permissions."""
    if kind != "ratifyd":
        pytest.skip("what is to be read is ratifyd's log")
    server, _ = stopped()
    files = Files(server.data_dir)
    path = {"db": files.db, "wal": files.wal[-1], "member": server.data_dir / "member"}[name]
    path.chmod(0)
    narrow = ("--bounding-set", "-dac_override,-dac_read_search") if not os.geteuid() else ()
    done = subprocess.run(
        ["setpriv", *narrow, "--", *server.command()], capture_output=True, text=True, timeout=60, cwd=server.data_dir
    )
    path.chmod(0o700)
    assert done.returncode == 1
    (fatal,) = [line for line in map(json.loads, done.stderr.splitlines()) if line["level"] == "fatal"]
    assert str(path) in fatal["error"] and "Permission denied" in fatal["error"], fatal
    assert "needs to own its data directory" in fatal["error"]


# --- at random --------------------------------------------------------------------------------------------------------


def test_damage_at_random_is_served_right_or_refused(stopped: MakeStopped, kind: str) -> None:
    random_damage(stopped, range(2), kind)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_damage_at_random_many_times(stopped: MakeStopped, kind: str) -> None:
    first = int(os.environ.get("RATIFYD_TEST_SEED", "100"))
    random_damage(stopped, range(first, first + int(os.environ.get("RATIFYD_TEST_ROUNDS", "30"))), kind)


def random_damage(stopped: MakeStopped, rounds: range, kind: str) -> None:
    """A member alone, stopped in good order: nothing may be missing. Only bytes of stored keys and values may be
    wrong unnoticed, as in bbolt: then HashKV differs from that of other members, unless no client sees them."""
    counts: Counter[str] = Counter()
    for number in rounds:
        rng = random.Random(number)
        server, expected = stopped()
        path, how = damage_at_random(Files(server.data_dir), rng)
        outcome = start(server)
        if outcome.kind == "serves":
            found = content(server)
            if found == expected:
                if kind == "ratifyd" and number % 4 == 0:
                    exercise(server, expected)
            else:
                outcome = Outcome("serves other bytes")
                assert path.name == "db", f"round {number}, {how} of {path.name}: {differing(found, expected)}"
                assert found.revision == expected.revision, f"round {number}: {differing(found, expected)}"
                assert found.rows == expected.rows or found.hash_kv != expected.hash_kv, f"round {number}"
        counts[f"{path.suffix or path.name} {outcome.kind}"] += 1
        if server.running:
            server.kill()
    print(dict(counts))  # noqa: T201 (what a long run is worth)
