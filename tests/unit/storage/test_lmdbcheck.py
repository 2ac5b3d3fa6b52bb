"""The check of a backend file: it lets every sound file pass, and no file that LMDB would stumble over."""

import multiprocessing
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ratifyd import schema
from ratifyd.ports import Rows
from ratifyd.storage.exchange import export_image
from ratifyd.storage.lmdb import LmdbBackend
from ratifyd.storage.lmdbcheck import BackendDamaged, BackendOfEtcd, check_backend
from ratifyd.storage.worker import SoonWorker

PAGE = 4096
TXN_OFFSET = 144
ROUNDS = int(os.environ.get("RATIFYD_TEST_ROUNDS", "0"))


def at_once(callback: Callable[..., object], *args: object) -> None:
    callback(*args)


def open_backend(path: Path) -> LmdbBackend:
    return LmdbBackend(str(path), worker=SoonWorker(at_once), fsync=False)


def must(error: BaseException | None) -> None:
    if error is not None:
        raise error


def batch(rng: random.Random, revision: int, live: list[bytes]) -> dict[bytes, dict[bytes, bytes | None]]:
    """Rows as a member writes them, of all sizes, with deletions as by compaction."""
    rows: dict[bytes, dict[bytes, bytes | None]] = {name: {} for name in schema.BUCKETS}
    for at in range(rng.choice((0, 1, 5, 200))):
        row = schema.encode_revision(revision + at, 0)
        size = rng.choice((1, 20, 200, rng.randrange(5000), 30_000 if at % 20 == 3 else 10))
        rows[schema.KEY][row] = rng.randbytes(size)
        live.append(row)
    if rng.random() < 0.2:
        for row in rng.sample(live, len(live) // 2):
            rows[schema.KEY][row] = None
        live[:] = [row for row in live if rows[schema.KEY].get(row, b"") is not None]
    rows[schema.META][schema.CONSISTENT_INDEX] = schema.encode_u64(revision)
    rows[schema.LEASE][rng.randbytes(8)] = rng.randbytes(rng.randrange(30))
    rows[schema.AUTH_USERS][rng.randbytes(rng.randrange(1, 600))] = rng.randbytes(rng.randrange(30))
    return rows


def build(path: Path, *, batches: int, seed: int = 1, checked: bool = False) -> None:
    rng, live = random.Random(seed), list[bytes]()
    backend = open_backend(path)
    for number in range(batches):
        if checked and rng.random() < 0.1:
            backend.defragment(must)
        backend.commit(batch(rng, 2 + 1000 * number, live), must)
        if checked:
            assert check_backend(str(path)) == ""
    backend.close()


def rows_of(path: Path) -> Rows:
    backend = open_backend(path)
    found = {name: dict(backend.range(name, b"", None)) for name in schema.BUCKETS}
    backend.close()
    return found


def newer_meta(path: Path) -> int:
    data = path.read_bytes()
    return max((0, PAGE), key=lambda at: int.from_bytes(data[at + TXN_OFFSET : at + TXN_OFFSET + 8], "little"))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "db"
    build(path, batches=25)
    return path


@pytest.fixture
def copied(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(sound, tmp_path / "db"))


@pytest.mark.parametrize("seed", range(4))
def test_sound_files_pass(tmp_path: Path, seed: int) -> None:
    build(tmp_path / "db", batches=40, seed=seed, checked=True)


def test_a_new_and_an_empty_file_pass(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert check_backend(str(tmp_path / "empty")) == ""
    open_backend(tmp_path / "db").close()
    assert check_backend(str(tmp_path / "db")) == ""


@pytest.mark.parametrize("offset", [8, 16, 20, 40, 94, 104, 128, 136], ids=str)
def test_a_damaged_newer_meta_page_is_given_up(copied: Path, offset: int) -> None:
    """The commit before is as good, with what the log has; afterwards LMDB opens the file and goes on from there."""
    at = newer_meta(copied)
    with copied.open("r+b") as file:
        file.seek(at + offset)
        file.write(b"\xee" * 4)
    assert check_backend(str(copied)) != ""
    assert check_backend(str(copied)) == ""
    index = schema.decode_u64(rows_of(copied)[schema.META][schema.CONSISTENT_INDEX] or b"")
    assert index == 2 + 1000 * 23, "the last commit but one"
    backend = open_backend(copied)
    for number in range(3):
        backend.commit(batch(random.Random(number), 100_000 + 1000 * number, []), must)
        assert check_backend(str(copied)) == ""
    backend.close()


@pytest.mark.parametrize("at", [0, PAGE])
def test_one_zeroed_meta_page_is_survived(copied: Path, at: int) -> None:
    with copied.open("r+b") as file:
        file.seek(at)
        file.write(bytes(PAGE))
    assert f"meta page {at // PAGE}" in check_backend(str(copied))
    assert len(rows_of(copied)[schema.KEY]) > 100


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("both meta pages", lambda data: bytes(2 * PAGE) + data[2 * PAGE :]),
        ("cut in half", lambda data: data[: len(data) // 2]),
        ("one page", lambda data: data[:PAGE]),
        ("a few bytes", lambda data: data[:100]),
        ("noise", lambda data: random.Random(1).randbytes(10 * PAGE)),
        ("zeros but for the meta pages", lambda data: data[: 2 * PAGE] + bytes(len(data) - 2 * PAGE)),
        ("pages swapped", lambda data: data[: 2 * PAGE] + data[:1:-1][: len(data) - 2 * PAGE]),
    ],
)
def test_refused_with_words(copied: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    copied.write_bytes(damage(copied.read_bytes()))
    before = copied.read_bytes()
    with pytest.raises(BackendDamaged) as refused:
        check_backend(str(copied))
    assert str(copied) in str(refused.value)
    assert "restore the cluster from a snapshot" in str(refused.value)
    assert copied.read_bytes() == before, "what was refused was left alone"


def use(path: str) -> None:
    """Everything a member does with a file: read all rows, write, delete, rewrite. Runs in a process of its own."""
    backend = open_backend(Path(path))
    live = [row for row, _ in backend.range(schema.KEY, b"", None)]
    for name in schema.BUCKETS:
        sum(sum(value) for _, value in backend.range(name, b"", None))
    first = schema.decode_revision(max(live))[0] + 1 if live else 2
    for number in range(6):
        backend.commit(batch(random.Random(number), first + 1000 * number, live), must)
    backend.defragment(must)
    backend.commit({schema.KEY: dict.fromkeys(live)}, must)
    backend.close()


def damaged(data: bytes, rng: random.Random) -> bytes:
    """One byte, a few, a sector or a page of something else, or a cut."""
    at, kind = rng.randrange(len(data)), rng.randrange(8)
    if kind == 0:
        return data[:at]
    if kind == 1:
        at &= -PAGE
        return data[:at] + bytes(PAGE) + data[at + PAGE :]
    if kind == 2:
        at &= -512
        return data[:at] + rng.randbytes(512) + data[at + 512 :]
    if kind < 5:  # heads of pages, where it hurts
        at = (at & -PAGE) + rng.randrange(64)
    if kind == 5:
        at = rng.randrange(2 * PAGE)
    size = rng.choice((1, 1, 4))
    new = bytes((data[at] ^ 1 << rng.randrange(8),)) if size == 1 else rng.randbytes(size)
    return data[:at] + new + data[at + size :]


def survives(sound: Path, path: Path, rounds: range) -> int:
    """Damage at random; how many files passed the check. Each of them must be usable."""
    processes = multiprocessing.get_context("fork")
    passed = 0
    for number in rounds:
        path.write_bytes(damaged(sound.read_bytes(), random.Random(number)))
        try:
            check_backend(str(path))
        except BackendDamaged:
            continue
        passed += 1
        process = processes.Process(target=use, args=(str(path),))
        process.start()
        process.join(30)
        assert process.exitcode == 0, f"round {number} ended with {process.exitcode}"
    return passed


def test_what_passes_can_be_used(sound: Path, tmp_path: Path) -> None:
    passed = survives(sound, tmp_path / "damaged", range(30))
    assert 3 < passed < 30


@pytest.mark.slow
def test_what_passes_can_be_used_many_times(sound: Path, tmp_path: Path) -> None:
    survives(sound, tmp_path / "damaged", range(1000, 1000 + (ROUNDS or 500)))


def test_a_file_of_etcds_is_not_called_damaged(tmp_path: Path) -> None:
    source = open_backend(tmp_path / "lmdb")
    image = b"".join(export_image(source.own_view()).chunks)
    source.close()
    (tmp_path / "db").write_bytes(image)
    with pytest.raises(BackendOfEtcd, match="not damaged"):
        check_backend(str(tmp_path / "db"))
    assert (tmp_path / "db").read_bytes() == image
