"""What only the LMDB backend can do: survive, be locked, be replaced, fail."""

from pathlib import Path

import pytest

from ratifyd import schema
from ratifyd.storage.lmdb import BackendBroken, BackendInUse, LmdbBackend
from simulation.disk import StepWorker


def open_backend(path: Path, worker: StepWorker, map_bytes: int = 1 << 30) -> LmdbBackend:
    return LmdbBackend(str(path), worker=worker, map_bytes=map_bytes)


def commit(backend: LmdbBackend, worker: StepWorker, rows: dict[bytes, dict[bytes, bytes | None]]) -> None:
    answers: list[BaseException | None] = []
    backend.commit(rows, answers.append)
    worker.run()
    assert answers == [None]


def revisions(count: int, size: int) -> dict[bytes, bytes | None]:
    return {schema.encode_revision(main, 0): b"x" * size for main in range(1, count + 1)}


def test_rows_survive_a_reopening(tmp_path: Path) -> None:
    worker = StepWorker()
    backend = open_backend(tmp_path / "db", worker)
    commit(backend, worker, {schema.KEY: revisions(1000, 100)})
    backend.close()
    backend = open_backend(tmp_path / "db", worker)
    assert len(backend.range(schema.KEY, b"\0", None)) == 1000
    assert (tmp_path / "db").stat().st_mode & 0o777 == 0o600
    backend.close()


def test_a_second_opening_is_refused(tmp_path: Path) -> None:
    worker = StepWorker()
    backend = open_backend(tmp_path / "db", worker)
    with pytest.raises(BackendInUse, match="db is in use"):
        open_backend(tmp_path / "db", worker)
    commit(backend, worker, {schema.META: {b"k": b"v"}})
    backend.close()


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(b"this is no database" * 1000)
    with pytest.raises(BackendBroken, match="not usable"):
        open_backend(tmp_path / "db", StepWorker())


def test_the_file_of_an_etcd_is_told_from_a_broken_one(tmp_path: Path) -> None:
    path = tmp_path / "db"
    path.write_bytes(bytes(16) + 0xED0CDAED.to_bytes(4, "little") + bytes(32_000))
    with pytest.raises(BackendBroken, match="the bbolt file of an etcd"):
        open_backend(path, StepWorker())


def test_defragment_shrinks_the_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    worker = StepWorker()
    backend = open_backend(tmp_path / "db", worker)
    commit(backend, worker, {schema.KEY: revisions(2000, 2000)})
    commit(backend, worker, {schema.KEY: dict.fromkeys(revisions(1900, 0))})
    before, in_use = backend.size(), backend.size_in_use()
    assert in_use < before / 4
    backend.defragment(lambda _: None)
    worker.run()
    assert backend.size() <= in_use + 16 * 4096
    assert (tmp_path / "db").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["db", "db-lock"]
    with pytest.raises(BackendInUse):
        open_backend(tmp_path / "db", worker)
    backend.close()
    backend = open_backend(tmp_path / "db", worker)
    assert len(backend.range(schema.KEY, b"\0", None)) == 100
    backend.close()


def test_replace_swaps_the_whole_content(tmp_path: Path) -> None:
    worker = StepWorker()
    received = open_backend(tmp_path / "received", worker)
    commit(received, worker, {schema.META: {b"from": b"other"}})
    received.close()
    backend = open_backend(tmp_path / "db", worker)
    commit(backend, worker, {schema.META: {b"own": b"row"}})
    view = backend.view()
    backend.replace(str(tmp_path / "received"), lambda _: None)
    worker.run()
    assert backend.range(schema.META, b"\0", None) == [(b"from", b"other")]
    assert view.get(schema.META, b"own") == b"row"
    view.close()
    commit(backend, worker, {schema.META: {b"next": b"row"}})
    backend.close()
    backend = open_backend(tmp_path / "db", worker)
    assert backend.get_many(schema.META, [b"from", b"next"]) == [b"other", b"row"]
    backend.close()


def test_a_failed_commit_is_final_and_changes_nothing(tmp_path: Path) -> None:
    worker = StepWorker()
    backend = open_backend(tmp_path / "db", worker, map_bytes=1 << 20)
    commit(backend, worker, {schema.META: {b"k": b"v"}})
    answers: list[BaseException | None] = []
    backend.commit({schema.META: {b"k": b"w"}, schema.KEY: revisions(2000, 2000)}, answers.append)
    backend.commit({schema.META: {b"k": b"later"}}, answers.append)
    worker.run()
    assert len(answers) == 2
    assert all(answer is not None for answer in answers)
    assert isinstance(answers[1], BackendBroken)
    assert backend.get(schema.META, b"k") == b"v"
    backend.close()
