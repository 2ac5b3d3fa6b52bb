"""One contract, two backends: memory and LMDB must not be told apart by their callers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ratifyd import schema
from ratifyd.ports import Backend
from ratifyd.storage.lmdb import LmdbBackend
from ratifyd.storage.memory import MemoryBackend
from simulation.disk import StepWorker


@pytest.fixture
def worker() -> StepWorker:
    return StepWorker()


@pytest.fixture(params=["memory", "lmdb"])
def backend(request: pytest.FixtureRequest, worker: StepWorker, tmp_path: Path) -> Iterator[Backend]:
    made: Backend
    if request.param == "memory":
        made = MemoryBackend(worker)
    else:
        made = LmdbBackend(str(tmp_path / "db"), worker=worker, map_bytes=1 << 30)
    yield made
    worker.run()
    made.close()


def commit(backend: Backend, worker: StepWorker, rows: dict[bytes, dict[bytes, bytes | None]]) -> None:
    answers: list[BaseException | None] = []
    backend.commit(rows, answers.append)
    worker.run()
    assert answers == [None]


def revision(main: int) -> bytes:
    return schema.encode_revision(main, 0)


def test_all_buckets_exist_and_are_empty(backend: Backend) -> None:
    for bucket in schema.BUCKETS:
        assert backend.range(bucket, b"\0", None) == []
        assert backend.get(bucket, b"absent") is None


def test_rows_are_seen_from_the_answer_on(backend: Backend, worker: StepWorker) -> None:
    seen: list[bytes | None] = []
    backend.commit({schema.META: {b"k": b"v"}}, lambda _: seen.append(backend.get(schema.META, b"k")))
    assert backend.get(schema.META, b"k") is None
    worker.run()
    assert seen == [b"v"]


def test_a_commit_that_is_not_acknowledged_is_not_seen(backend: Backend, worker: StepWorker) -> None:
    """Two commits on the worker, one answered: readers are still at the first."""
    backend.commit({schema.META: {b"k": b"1"}}, lambda _: None)
    backend.commit({schema.META: {b"k": b"2"}}, lambda _: None)
    (job, done), (later_job, later_done) = worker.jobs
    worker.jobs.clear()
    result = job()  # type: ignore[operator]
    later = later_job()  # type: ignore[operator]
    assert backend.get(schema.META, b"k") is None
    done(result, None)  # type: ignore[operator]
    assert backend.get(schema.META, b"k") == b"1"
    later_done(later, None)  # type: ignore[operator]
    assert backend.get(schema.META, b"k") == b"2"


def test_ranges_are_half_open_ordered_and_limited(backend: Backend, worker: StepWorker) -> None:
    commit(backend, worker, {schema.KEY: {revision(main): b"%d" % main for main in (5, 3, 9, 1, 7)}})
    values = [value for _, value in backend.range(schema.KEY, revision(3), revision(9))]
    assert values == [b"3", b"5", b"7"]
    found, cursor = backend.scan(schema.KEY, revision(3), None, 2, 100)
    assert [value for _, value in found] == [b"3", b"5"] and cursor == revision(5) + b"\0"
    assert [value for _, value in backend.scan(schema.KEY, cursor, None, 100, 2)[0]] == [b"7", b"9"]
    assert backend.scan(schema.KEY, revision(3), revision(9), 100, 100)[1] is None
    assert len(backend.range(schema.KEY, b"", None)) == 5
    assert backend.range(schema.KEY, revision(10), None) == []
    assert backend.get_many(schema.KEY, [revision(9), revision(2), revision(1)]) == [b"9", None, b"1"]


def test_deletions_and_overwrites(backend: Backend, worker: StepWorker) -> None:
    commit(
        backend, worker, {schema.LEASE: {b"a": b"1", b"b": b"2"}, schema.KEY: {revision(2): b"x", revision(4): b"y"}}
    )
    commit(
        backend,
        worker,
        {
            schema.LEASE: {b"a": None, b"b": b"3", b"never": None},
            schema.KEY: {revision(2): None, revision(3): b"late", revision(4): b"again", revision(5): b"new"},
        },
    )
    assert backend.range(schema.LEASE, b"\0", None) == [(b"b", b"3")]
    assert [row[1] for row in backend.range(schema.KEY, b"\0", None)] == [b"late", b"again", b"new"]


def test_a_view_stays_as_it_was(backend: Backend, worker: StepWorker) -> None:
    commit(backend, worker, {schema.KEY: {revision(main): b"old" for main in range(1, 5)}})
    view = backend.view()
    commit(backend, worker, {schema.KEY: {revision(2): None, revision(3): b"new", revision(9): b"new"}})
    second = backend.view()
    commit(backend, worker, {schema.KEY: {revision(3): b"newer"}})
    assert [row[1] for row in view.range(schema.KEY, b"\0", None)] == [b"old"] * 4
    assert len(view.scan(schema.KEY, b"\0", None, 3, 100)[0]) == 3
    assert len(view.scan(schema.KEY, b"\0", None, 100, 5)[0]) == 2
    assert view.get(schema.KEY, revision(9)) is None
    assert view.get_many(schema.KEY, [revision(2), revision(3)]) == [b"old", b"old"]
    assert second.get(schema.KEY, revision(3)) == b"new"
    assert backend.get(schema.KEY, revision(3)) == b"newer"
    view.close()
    view.close()
    second.close()


def test_long_user_names(backend: Backend, worker: StepWorker) -> None:
    """LMDB's keys end at 511 bytes, etcd's names do not."""
    names = [b"n" * 470, b"n" * 479, b"n" * 480, b"n" * 511, b"n" * 600 + b"b", b"n" * 600 + b"a", b"a", b"z" * 5000]
    commit(backend, worker, {schema.AUTH_USERS: {name: b"user:" + name[-3:] for name in names}})
    assert backend.range(schema.AUTH_USERS, b"\0", None) == sorted((name, b"user:" + name[-3:]) for name in names)
    assert backend.get(schema.AUTH_USERS, b"n" * 600 + b"a") == b"user:nna"
    assert backend.get(schema.AUTH_USERS, b"n" * 600) is None
    assert backend.range(schema.AUTH_USERS, b"n" * 480, b"n" * 511 + b"b") == [
        (b"n" * 480, b"user:nnn"),
        (b"n" * 511, b"user:nnn"),
    ]
    commit(backend, worker, {schema.AUTH_USERS: {b"n" * 600 + b"b": None, b"z" * 5000: b"changed"}})
    assert backend.get_many(schema.AUTH_USERS, [b"n" * 600 + b"b", b"z" * 5000]) == [None, b"changed"]


def test_defragment_keeps_rows_views_and_order(backend: Backend, worker: StepWorker) -> None:
    commit(backend, worker, {schema.KEY: {revision(main): b"x" * 2000 for main in range(1, 400)}})
    view = backend.view()
    commit(backend, worker, {schema.KEY: {revision(main): None for main in range(1, 390)}})
    before = backend.size()
    order: list[str] = []
    backend.defragment(lambda error: order.append(f"defragment {error}"))
    backend.commit({schema.META: {b"after": b"1"}}, lambda error: order.append(f"commit {error}"))
    assert len(backend.range(schema.KEY, b"\0", None)) == 10
    worker.run()
    assert order == ["defragment None", "commit None"]
    assert backend.get(schema.META, b"after") == b"1"
    assert len(backend.range(schema.KEY, b"\0", None)) == 10
    assert len(view.range(schema.KEY, b"\0", None)) == 399
    view.close()
    assert backend.size() < before + 100
    assert 0 < backend.size_in_use() <= backend.size()
