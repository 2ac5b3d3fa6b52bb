"""Rules of Txn that random requests seldom meet, one by one (semantics 5)."""

from typing import Any

import pytest

from ratifyd.apply import requests
from ratifyd.errors import Compacted, FutureRev, KeyNotFound, LeaseNotFound
from ratifyd.proto.rpc_pb2 import (
    CompactionRequest,
    Compare,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
    TxnResponse,
)
from tests.support_member import Member


@pytest.fixture
def member() -> Member:
    """Keys a=1 (version 1), b=2 (version 2), revision 4."""
    member = Member().start()
    for key, value in ((b"a", b"1"), (b"b", b"x"), (b"b", b"2")):
        member.do(requests.PUT, PutRequest(key=key, value=value))
    return member


MARK = RequestOp(request_put=PutRequest(key=b"mark", value=b"m"))


def holds(member: Member, **compare: Any) -> bool:
    request = TxnRequest(compare=[Compare(**compare)], success=[MARK])
    return TxnResponse.FromString(member.do(requests.TXN, request)).succeeded


def test_every_key_of_a_compared_range_must_satisfy(member: Member) -> None:
    both: dict[str, Any] = {"key": b"a", "range_end": b"c", "target": Compare.VERSION}
    assert holds(member, **both, result=Compare.GREATER, version=0)
    assert not holds(member, **both, result=Compare.EQUAL, version=1)
    assert not holds(member, **both, result=Compare.EQUAL, version=2)
    assert holds(member, **both, result=Compare.LESS, version=3)


def test_an_empty_range_is_like_a_missing_key(member: Member) -> None:
    for where in ({"key": b"x"}, {"key": b"x", "range_end": b"z"}):
        for result in (Compare.EQUAL, Compare.NOT_EQUAL, Compare.GREATER, Compare.LESS):
            assert not holds(member, **where, target=Compare.VALUE, result=result, value=b"")
        assert holds(member, **where, target=Compare.VERSION, result=Compare.EQUAL, version=0)
        assert holds(member, **where, target=Compare.MOD, result=Compare.LESS, mod_revision=1)


def test_a_union_of_another_target_reads_as_zero(member: Member) -> None:
    assert holds(member, key=b"a", target=Compare.VERSION, result=Compare.GREATER, mod_revision=99)
    assert holds(member, key=b"a", target=Compare.VALUE, result=Compare.GREATER, version=99)


def test_enums_nobody_knows(member: Member) -> None:
    assert holds(member, key=b"a", target=Compare.VERSION, result=9, version=77)
    assert holds(member, key=b"a", target=9, result=Compare.EQUAL)
    assert not holds(member, key=b"a", target=9, result=Compare.NOT_EQUAL)


def with_range(revision: int) -> TxnRequest:
    reads = [RequestOp(request_range=RangeRequest(key=b"a", revision=revision))]
    return TxnRequest(success=[*reads, MARK])


def test_revisions_inside_are_checked_more_strictly(member: Member) -> None:
    member.do(requests.TXN, with_range(-1))  # nothing is compacted yet
    with pytest.raises(Compacted):
        member.do(requests.TXN, with_range(-2))
    member.do(requests.COMPACTION, CompactionRequest(revision=3))
    for revision in (-1, 1, 2):
        with pytest.raises(Compacted):
            member.do(requests.TXN, with_range(revision))
    revision = member.state.store.revision
    member.do(requests.TXN, with_range(3))
    assert member.state.store.revision == revision + 1
    with pytest.raises(FutureRev):
        member.do(requests.TXN, with_range(revision + 2))
    assert member.state.store.revision == revision + 1


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (PutRequest(key=b"new", ignore_value=True), KeyNotFound),
        (PutRequest(key=b"mark", ignore_value=True), KeyNotFound),  # what the same txn puts does not count
        (PutRequest(key=b"a", lease=9), LeaseNotFound),
    ],
)
def test_one_bad_operation_and_nothing_happens(member: Member, bad: PutRequest, error: type[Exception]) -> None:
    nested = RequestOp(request_txn=TxnRequest(success=[RequestOp(request_put=bad)]))
    for branch in ([MARK, RequestOp(request_put=bad)], [MARK, nested]):
        with pytest.raises(error):
            member.do(requests.TXN, TxnRequest(success=branch))
        assert member.state.store.get(b"mark") is None
    untaken = TxnRequest(success=[MARK], failure=[RequestOp(request_put=bad)])
    member.do(requests.TXN, untaken)
    member.check()


def test_nested_branches_are_chosen_before_anything_happens(member: Member) -> None:
    """The nested compare asks for a key that the txn itself puts first."""
    nested = TxnRequest(
        compare=[Compare(key=b"mark", target=Compare.VERSION, result=Compare.EQUAL, version=0)],
        success=[RequestOp(request_put=PutRequest(key=b"chosen", value=b"before"))],
        failure=[RequestOp(request_put=PutRequest(key=b"chosen", value=b"after"))],
    )
    member.do(requests.TXN, TxnRequest(success=[MARK, RequestOp(request_txn=nested)]))
    chosen = member.state.store.get(b"chosen")
    assert chosen is not None
    assert b"before" in chosen


def test_a_key_put_and_deleted_by_siblings_is_both_in_order(member: Member) -> None:
    """Semantics 5.12: the checks miss it, and both happen."""
    put = TxnRequest(success=[RequestOp(request_put=PutRequest(key=b"z", value=b"1"))])
    delete = TxnRequest()
    delete.success.add().request_delete_range.key = b"z"
    member.do(requests.TXN, TxnRequest(success=[RequestOp(request_txn=put), RequestOp(request_txn=delete)]))
    assert member.state.store.get(b"z") is None
    rows = member.state.buffer.range(b"key", b"\0", None)
    assert [len(row) for row, _ in rows[-2:]] == [17, 18]
    member.check()
