"""Damaged files: a member serves everything it ever acknowledged, or refuses to start, with words that help.

The table says, for each kind of damage, what ratifyd does and what etcd does (`RATIFYD_TEST_SERVER=etcd` checks that).
"""

import random
import shutil
from collections.abc import Callable
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
    content,
    copy,
    cut,
    exercise,
    fill,
    flip,
    overwrite,
    start,
    used_bytes,
)

Built = tuple[Path, Content]
NOISE = random.Random(9).randbytes(PAGE)


@pytest.fixture(scope="session")
def build(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Built]:
    """Data directories of a stopped server, each made once: "small", "big" (two log files), "killed"."""
    built: dict[str, Built] = {}

    def make(name: str) -> Built:
        if name not in built:
            directory = tmp_path_factory.mktemp(name) / "data"
            flags = (*FLAGS, *(OWN_FLAGS if kind == "ratifyd" else ()))
            with EtcdServer(kind, flags, data_dir=directory) as server:
                expected = fill(server, big=name == "big")
                if name == "killed":
                    server.kill()
                else:
                    server.terminate()
            built[name] = directory, expected
        return built[name]

    return make


@pytest.fixture
def stopped(
    build: Callable[[str], Built], start_server: StartServer, tmp_path: Path, kind: str
) -> Callable[..., tuple[EtcdServer, Content]]:
    """A stopped server over a copy of a data directory."""

    def make(name: str = "small") -> tuple[EtcdServer, Content]:
        directory, expected = build(name)
        copy(directory, tmp_path / "data")
        flags = (*FLAGS, *(OWN_FLAGS if kind == "ratifyd" else ()))
        return start_server(*flags, data_dir=tmp_path / "data", start=False), expected

    return make


def newest_db_meta(files: Files) -> int:
    """Offset of LMDB's newer meta page."""
    data = files.db.read_bytes()
    return max((0, PAGE), key=lambda at: int.from_bytes(data[at + 144 : at + 152], "little"))


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


# name: (directory, damage, what ratifyd does, a part of its words, what etcd 3.5.1 does)
DAMAGES: dict[str, tuple[str, Damage, str, str, str]] = {
    "wal: bit in the middle": (
        "small",
        lambda f: flip(f.wal[0], used_bytes(f.wal[0]) // 2),
        "refuses",
        "crc mismatch",
        "refuses",
    ),
    "wal: bit in the last record": ("small", flip_last_record, "refuses", "crc mismatch", "refuses"),
    "wal: noise behind the end": ("small", garbage_behind, "refuses", "impossible length word", "refuses"),
    "wal: empty file": ("small", lambda f: cut(f.wal[-1], 0), "refuses", "no metadata", "refuses"),
    "wal: half a file": (
        "small",
        lambda f: cut(f.wal[-1], used_bytes(f.wal[-1]) // 2),
        "refuses",
        "ends at index",
        "refuses",
    ),
    "wal: zeros in the middle": (
        "small",
        lambda f: overwrite(f.wal[-1], used_bytes(f.wal[-1]) // 2 & -PAGE, bytes(PAGE)),
        "refuses",
        "index",
        "refuses",
    ),
    "wal: no directory": ("small", lambda f: shutil.rmtree(f.wal[0].parent), "refuses", "is gone", "serves"),
    "wal: first file gone": ("big", lambda f: f.wal[0].unlink(), "serves", "", "serves"),
    "wal: last file gone": ("big", lambda f: f.wal[-1].unlink(), "refuses", "index", "refuses"),
    "wal: last file empty": ("big", lambda f: cut(f.wal[-1], 0), "refuses", "index", "refuses"),
    "snap: bit in the newest": ("small", lambda f: flip(f.snap[-1], 30), "serves", "", "serves"),
    "snap: newest cut": ("small", lambda f: cut(f.snap[-1], 20), "serves", "", "serves"),
    "snap: newest empty": ("small", lambda f: cut(f.snap[-1], 0), "serves", "", "serves"),
    "snap: newest gone": ("small", lambda f: f.snap[-1].unlink(), "serves", "", "serves"),
    "snap: all damaged": ("small", all_snaps(lambda path: flip(path, 30)), "serves", "", "serves"),
    "snap: all gone": ("small", all_snaps(Path.unlink), "serves", "", "serves"),
    "db: gone": ("small", lambda f: f.db.unlink(), "refuses", "is missing", "refuses"),
    "db: empty": ("small", lambda f: cut(f.db, 0), "refuses", "is missing", "refuses"),
    "db: one page": ("small", lambda f: cut(f.db, PAGE), "refuses", "", "refuses"),
    "db: half": ("small", lambda f: cut(f.db, f.db.stat().st_size // 2 & -PAGE), "refuses", "file ends", "refuses"),
    "db: last byte gone": ("small", lambda f: cut(f.db, f.db.stat().st_size - 1), "refuses", "", "refuses"),
    "db: noise": ("small", lambda f: f.db.write_bytes(NOISE * 9), "refuses", "meta page", "refuses"),
    "db: newer meta, magic": ("small", lambda f: flip(f.db, newest_db_meta(f) + 16), "serves", "", "serves"),
    "db: newer meta, root": ("small", lambda f: flip(f.db, newest_db_meta(f) + 128, 0x80), "serves", "", "serves"),
    "db: newer meta, zeros": (
        "small",
        lambda f: overwrite(f.db, newest_db_meta(f), bytes(PAGE)),
        "serves",
        "",
        "serves",
    ),
    "db: both metas": ("small", lambda f: overwrite(f.db, 0, bytes(2 * PAGE)), "refuses", "meta page", "refuses"),
    "db: places of rows": ("small", flip_leaf_pointer, "refuses", "is damaged", "refuses"),
    "db: zero pages": ("small", zero_leaves, "refuses", "is damaged", "refuses"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage(name: str, stopped: Callable[..., tuple[EtcdServer, Content]], kind: str) -> None:
    directory, damage, does, words, etcd_does = DAMAGES[name]
    server, expected = stopped(directory)
    damage(Files(server.data_dir))
    outcome = start(server)
    assert outcome.kind == (does if kind == "ratifyd" else etcd_does), outcome
    if kind == "ratifyd":
        assert words in outcome.words, outcome.words
    if outcome.kind == "serves" and kind == "ratifyd":
        exercise(server, expected)
    elif outcome.kind == "serves":
        assert content(server) == expected
