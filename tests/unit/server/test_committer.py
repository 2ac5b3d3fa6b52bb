"""When the write buffer goes to the backend, and what may be relied on afterwards."""

import pytest

from ratifyd import schema
from ratifyd.apply import requests
from ratifyd.mvcc.store import WriteTxn
from ratifyd.proto.rpc_pb2 import Compare, PutRequest, RequestOp, TxnRequest
from tests.support_member import Member

NOTHING = TxnRequest(
    compare=[Compare(key=b"k", target=Compare.VERSION, version=7)],
    success=[RequestOp(request_put=PutRequest(key=b"k"))],
)


@pytest.fixture
def member() -> Member:
    member = Member(stepped=True).start()
    member.clock.advance(1)
    member.settle()
    assert not member.state.buffer.pending
    return member


def put(number: int = 0) -> PutRequest:
    return PutRequest(key=b"k%d" % number, value=b"v")


def stored_index(member: Member) -> int:
    return schema.decode_u64(member.backend.get(schema.META, schema.CONSISTENT_INDEX) or bytes(8))


def apply(member: Member, request: PutRequest | TxnRequest) -> None:
    """Have a request applied, leaving the backend alone."""
    row = requests.PUT if isinstance(request, PutRequest) else requests.TXN
    waiter = member.call(row, request)
    while not waiter.done:
        member.clock.run()
        member.wal_worker.run()


def test_rows_are_sealed_after_the_interval_and_not_before() -> None:
    member = Member(stepped=True, backend_batch_interval_s=1.0).start()
    member.clock.advance(1.2)
    member.settle()
    apply(member, put())
    member.clock.advance(0.7)
    assert not member.backend_worker.jobs
    member.clock.advance(0.5)
    assert len(member.backend_worker.jobs) == 1
    assert stored_index(member) < member.state.consistent_index
    member.settle()
    assert stored_index(member) == member.server.committer.committed_index == member.state.consistent_index


def test_index_and_rows_are_one_batch(member: Member) -> None:
    apply(member, put())
    member.clock.advance(0.3)
    applied = member.state.consistent_index
    apply(member, put(1))  # not in the batch under way
    assert member.state.consistent_index > applied
    member.backend_worker.run_one()
    assert stored_index(member) == applied
    assert len(member.backend.range(schema.KEY, b"\0", None)) == 1


def test_a_full_buffer_is_sealed_at_once() -> None:
    member = Member(stepped=True, backend_batch_limit=10, backend_batch_interval_s=1000.0).start()
    for number in range(10):
        apply(member, put(number))
    assert not member.backend_worker.jobs
    apply(member, put(10))
    assert len(member.backend_worker.jobs) == 1


def test_sync_waits_for_what_is_applied(member: Member) -> None:
    done: list[int] = []
    apply(member, put())
    index = member.state.consistent_index
    member.server.committer.sync(lambda: done.append(stored_index(member)))
    assert not done
    member.backend_worker.run()
    assert done == [index]


def test_sync_of_nothing_is_done_at_once(member: Member) -> None:
    done: list[bool] = []
    member.server.committer.sync(lambda: done.append(True))
    assert done == [True]


def test_sync_stores_an_index_that_came_without_rows(member: Member) -> None:
    """A snapshot at an index that only refused swaps led to needs the backend to know that index."""
    apply(member, NOTHING)
    assert not member.state.buffer.pending
    index = member.state.consistent_index
    done: list[int] = []
    member.server.committer.sync(lambda: done.append(stored_index(member)))
    member.backend_worker.run()
    assert done == [index]


def test_sync_during_a_commit_takes_another(member: Member) -> None:
    apply(member, put())
    first: list[int] = []
    second: list[int] = []
    member.server.committer.sync(lambda: first.append(stored_index(member)))
    apply(member, put(1))
    index = member.state.consistent_index
    member.server.committer.sync(lambda: second.append(stored_index(member)))
    member.backend_worker.run_one()
    assert first
    assert not second
    member.backend_worker.run_one()
    assert second == [index]


def test_an_entry_that_fails_half_way_is_not_written(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its index is that of the state by then, and the next start would go on after it."""
    apply(member, put())
    member.clock.advance(0.3)
    assert member.state.buffer.flushing
    synced: list[int] = []
    member.server.committer.sync(lambda: synced.append(1))  # as a snapshot that is asked for, or due
    real = WriteTxn.put

    def once(self: WriteTxn, key: bytes, value: bytes, lease: int = 0) -> None:
        if key == b"k2":
            raise MemoryError
        real(self, key, value, lease)

    monkeypatch.setattr(WriteTxn, "put", once)
    both = TxnRequest(success=[RequestOp(request_put=put(number)) for number in (1, 2)])
    member.call(requests.TXN, both)
    for _ in range(9):
        member.clock.run()
        member.wal_worker.run()
    assert [type(failure) for failure in member.failures] == [MemoryError]
    before = stored_index(member)
    member.settle()
    member.server.committer.sync(lambda: synced.append(2))
    member.settle()
    assert stored_index(member) == before + 1 < member.state.consistent_index and not synced
    monkeypatch.undo()
    again = member.restart()
    assert again.state.store.get(b"k1") and again.state.store.get(b"k2")


def test_a_failed_commit_ends_the_member() -> None:
    member = Member(stepped=True).start()
    member.settle()
    apply(member, put())
    done: list[bool] = []
    member.server.committer.sync(lambda: done.append(True))
    _, answer = member.backend_worker.jobs.pop()
    answer(None, OSError(28, "no space left"))  # type: ignore[operator]
    assert [type(failure) for failure in member.failures] == [OSError]
    assert not done


def test_what_is_applied_during_a_commit_is_not_in_it(member: Member) -> None:
    """An entry without rows, applied while a batch is under way: the backend does not know its index yet."""
    apply(member, put())
    member.clock.advance(0.3)
    apply(member, NOTHING)
    index = member.state.consistent_index
    member.backend_worker.run_one()
    assert stored_index(member) == index - 1
    done: list[int] = []
    member.server.committer.sync(lambda: done.append(stored_index(member)))
    member.backend_worker.run()
    assert done == [index]
