"""Ranges and transactions too long for one go: the plain answer, of one revision, and dropped when given up."""

from random import Random
from typing import Any

import pytest

from ratifyd.apply import requests
from ratifyd.apply.ranges import LONG_KEYS, MAX_BEST, SLICE_KEYS, range_body
from ratifyd.apply.txn import Txn, read_txn_body
from ratifyd.proto.rpc_pb2 import (
    CompactionRequest,
    DeleteRangeRequest,
    HashRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)
from tests.support_client import KV, Client
from tests.support_member import Member

KEYS = 2 * LONG_KEYS + 17
DEADLINE_EXCEEDED = 4
ALL: dict[str, Any] = {"key": b"k", "range_end": b"l"}


@pytest.fixture(scope="module")
def member() -> Member:
    """Keys in random order of creation, some changed again, some deleted; nothing in these tests writes."""
    member = Member().start()
    random = Random(7)
    names = [b"k%05d" % number for number in range(KEYS)]
    random.shuffle(names)
    for name in names:
        member.call(requests.PUT, PutRequest(key=name, value=random.randbytes(random.randrange(4))))
    for name in names[::3]:
        member.call(requests.PUT, PutRequest(key=name, value=b"again"))
    member.call(requests.DELETE_RANGE, DeleteRangeRequest(key=b"k00100", range_end=b"k00130"))
    member.settle()
    return member


def begin(member: Member, method: str, request: Any, **metadata: str) -> tuple[Client, int]:
    client = Client(member)
    client.allow(0, 1 << 28)
    stream_id = client.begin(method, request, **metadata)
    client.allow(stream_id, 1 << 28)
    return client, stream_id


def in_slices(member: Member, method: str, request: Any) -> bytes:
    """The answer, which must have come in slices."""
    client, stream_id = begin(member, method, request)
    sliced = False
    while member.clock.run_one():
        sliced = sliced or bool(member.state.store._pins)
    answered = client.answer(stream_id)
    assert answered.status == 0, answered.message
    assert sliced, "answered at once"
    (message,) = answered.messages
    return message


OPTIONS: list[dict[str, Any]] = [
    {"keys_only": True},
    {"sort_order": RangeRequest.ASCEND},
    {"sort_order": RangeRequest.DESCEND},
    *(
        {"sort_order": order, "sort_target": target}
        for order in (RangeRequest.NONE, RangeRequest.ASCEND, RangeRequest.DESCEND)
        for target in (RangeRequest.VERSION, RangeRequest.CREATE, RangeRequest.MOD, RangeRequest.VALUE)
    ),
    {"min_mod_revision": 900, "max_mod_revision": 2100},
    {"min_create_revision": 500, "sort_order": RangeRequest.DESCEND, "sort_target": RangeRequest.MOD},
    {"max_create_revision": 500, "keys_only": True},
    {"sort_order": RangeRequest.DESCEND, "sort_target": RangeRequest.VALUE, "keys_only": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_answer_is_the_plain_one(member: Member, options: dict[str, Any]) -> None:
    store = member.state.store
    for limit in (0, LONG_KEYS + 1, KEYS - 40, KEYS + 100, MAX_BEST + 1):
        for revision in (0, KEYS + 1, store.revision):
            request = RangeRequest(**ALL, **options, limit=limit, revision=revision)
            assert in_slices(member, KV + "Range", request) == member.server.header() + range_body(store, request)


@pytest.mark.parametrize("limit", [1, SLICE_KEYS, LONG_KEYS])
def test_a_short_answer_out_of_many_keys(member: Member, limit: int) -> None:
    store = member.state.store
    for options in OPTIONS:
        for revision in (0, KEYS + 1):
            request = RangeRequest(**ALL, **options, limit=limit, revision=revision)
            client, stream_id = begin(member, KV + "Range", request)
            assert client.answer(stream_id).messages == [member.server.header() + range_body(store, request)]


def test_counting_history(member: Member) -> None:
    store = member.state.store
    for fields in ({"count_only": True}, {"limit": 5}):
        request = RangeRequest(**ALL, **fields, revision=KEYS + 1)  # type: ignore[arg-type]
        assert in_slices(member, KV + "Range", request) == member.server.header() + range_body(store, request)


def test_reading_transactions(member: Member) -> None:
    store = member.state.store
    reads = [
        RangeRequest(**ALL),
        RangeRequest(key=b"k00200"),
        RangeRequest(**ALL, keys_only=True, revision=KEYS + 1),
        RangeRequest(key=b"k00200", range_end=b"k00300", limit=3),
    ]
    request = TxnRequest(success=[RequestOp(request_range=read) for read in reads])
    message = in_slices(member, KV + "Txn", request)
    assert message == member.server.header() + read_txn_body(store, Txn.of(request))
    request.failure.add(request_range=RangeRequest(**ALL, revision=10**6))
    request.compare.add(key=b"none", version=1)
    client, stream_id = begin(member, KV + "Txn", request)
    assert client.answer(stream_id).status == 11  # a future revision


def growing() -> Member:
    member = Member(compaction_sleep_interval_s=1e-3).start()
    for number in range(3 * LONG_KEYS):
        member.call(requests.PUT, PutRequest(key=b"k%05d" % number, value=b"old"))
    member.settle()
    return member


@pytest.mark.parametrize("kind", ["range", "txn"])
def test_all_slices_are_of_one_revision(kind: str) -> None:
    """Writes and a compaction come in between."""
    member = growing()
    read = RangeRequest(**ALL, sort_order=RangeRequest.DESCEND)
    request: Any = read if kind == "range" else TxnRequest(success=[RequestOp(request_range=read)] * 2)
    method = KV + ("Range" if kind == "range" else "Txn")
    store = member.state.store
    if kind == "range":
        expected = member.server.header() + range_body(store, request)
    else:
        expected = member.server.header() + read_txn_body(store, Txn.of(request))
    client, stream_id = begin(member, method, request)
    while not store._pins:
        assert member.clock.run_one()
    for number in range(0, 3 * LONG_KEYS, 2):
        member.call(requests.PUT, PutRequest(key=b"k%05d" % number, value=b"new"))
    member.call(requests.DELETE_RANGE, DeleteRangeRequest(key=b"k02", range_end=b"k03"))
    member.call(requests.COMPACTION, CompactionRequest(revision=4 * LONG_KEYS))
    while store.compacted < 0:
        assert member.clock.run_one()
    assert store._pins, "the read was over too soon"
    assert client.answer(stream_id).messages == [expected]
    assert store._pins == []
    member.clock.advance(10)
    assert not store.compacting
    member.check()


def test_reads_that_begin_later_do_not_hold_up_a_compaction() -> None:
    """Else a busy member would never compact."""
    member = growing()
    store = member.state.store
    member.do(requests.PUT, PutRequest(key=b"k00001", value=b"new"))
    member.do(requests.COMPACTION, CompactionRequest(revision=store.revision))
    reads = store.range_slices(requests_range(), revision=store.revision)
    next(reads)
    while store.compaction_step(500):
        pass
    assert store._pins and not store.compacting
    assert sum(len(values) for values in reads) + 1000 > 2 * LONG_KEYS


def requests_range() -> Any:
    from_key = RangeRequest(**ALL)
    return requests.kv.KeyRange.parse(from_key.key, from_key.range_end)


def test_work_nobody_waits_for_is_dropped(member: Member) -> None:
    store = member.state.store
    for how in ("reset", "lost"):
        client, stream_id = begin(member, KV + "Range", RangeRequest(**ALL))
        while not store._pins:
            assert member.clock.run_one()
        if how == "reset":
            client.reset(stream_id)
        else:
            client.session.closed()
        member.settle()
        assert store._pins == []
        assert not client.streams[stream_id].messages


def test_a_hash_that_is_given_up_before_it_begins(member: Member) -> None:
    client = Client(member)
    stream_id = client.begin("/etcdserverpb.Maintenance/Hash", HashRequest())
    assert member.server.hashes_running == 1
    client.reset(stream_id)
    member.settle()
    assert member.server.hashes_running == 0


def test_time_that_is_up(member: Member) -> None:
    client, stream_id = begin(member, KV + "Range", RangeRequest(**ALL), grpc_timeout="1S")
    while not member.state.store._pins:
        assert member.clock.run_one()
    member.clock.now += 2
    answered = client.answer(stream_id)
    assert (answered.status, answered.message) == (DEADLINE_EXCEEDED, "context deadline exceeded")
    assert member.state.store._pins == []


def test_one_slice_at_a_time_whoever_asks(member: Member) -> None:
    """Between two turns of the loop there is one slice, not one of every long request."""
    begun = [begin(member, KV + "Range", RangeRequest(**ALL)) for _ in range(20)]
    member.clock.run_one()
    most = passes = 0
    while member.clock.soon:
        due = len(member.clock.soon)
        before = member.server.slices._work[0] if member.server.slices._work else None
        for _ in range(due):
            member.clock.run_one()
        most = max(most, due)
        passes += before is not None
    assert most <= 3, "more than a turn, a slice and a flush"
    assert passes >= 20 * (KEYS // SLICE_KEYS)
    for client, stream_id in begun:
        assert len(client.answer(stream_id).messages) == 1
