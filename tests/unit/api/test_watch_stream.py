"""Watch streams: who is told what, how far a slow client holds things up, and that nothing is lost or told twice."""

import gc
import struct
from random import Random
from typing import Any

import pytest

from ratifyd.api.calls import MAX_QUEUED_BYTES
from ratifyd.api.watch import WatchStream
from ratifyd.apply import requests
from ratifyd.mvcc.watch import Watcher, WatchHub
from ratifyd.proto.rpc_pb2 import (
    CompactionRequest,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
    WatchCancelRequest,
    WatchCreateRequest,
    WatchProgressRequest,
    WatchRequest,
    WatchResponse,
)
from ratifyd.wire.limits import Limits
from simulation.http2 import SETTINGS, WINDOW_UPDATE, frame
from tests.support_client import KV, WATCH, Client
from tests.support_member import Member

BIG = 1 << 30


def create(**fields: Any) -> WatchRequest:
    return WatchRequest(create_request=WatchCreateRequest(**{"key": b"k", **fields}))


def cancel(watch_id: int) -> WatchRequest:
    return WatchRequest(cancel_request=WatchCancelRequest(watch_id=watch_id))


PROGRESS = WatchRequest(progress_request=WatchProgressRequest())


@pytest.fixture
def member() -> Member:
    return Member().start()


@pytest.fixture
def client(member: Member) -> Client:
    return Client(member)


def put(member: Member, key: bytes = b"k", value: bytes = b"v") -> None:
    member.do(requests.PUT, PutRequest(key=key, value=value))


def test_a_stream_the_connection_ends_is_gone(member: Member) -> None:
    """Its client reads nothing, of other answers either."""
    client = Client(member, limits=Limits(max_unread_bytes=1 << 20), window=1 << 20)
    stream = client.open(WATCH, create())
    client.answer(stream)
    for key in (b"big1", b"big2"):
        put(member, key, bytes(700_000))
    client.begin(KV + "Range", RangeRequest(key=b"big", range_end=b"bih"))
    member.settle()
    put(member)
    member.settle()
    assert client.answer(stream).status == 8
    assert not client.session._streams and not member.server.watch_streams and not member.server.lasting
    assert not member.server.state.hub.watcher_count
    told = member.metrics.mvcc_events_total
    put(member)
    assert member.metrics.mvcc_events_total == told


def open_wide(client: Client, stream_id: int) -> None:
    """Let a client that has read nothing so far read everything."""
    client.send(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, BIG)))
    client.send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", BIG)))


def responses(client: Client, stream_id: int) -> list[WatchResponse]:
    found: list[WatchResponse] = client.answer(stream_id).parse(WatchResponse)
    return found


def revisions(client: Client, stream_id: int) -> list[int]:
    return [event.kv.mod_revision for each in responses(client, stream_id) for event in each.events]


def test_created_comes_before_events(client: Client) -> None:
    put(client.member)
    stream_id = client.open(WATCH, create(start_revision=1))
    put(client.member)
    first, *rest = responses(client, stream_id)
    assert (first.created, first.watch_id, len(first.events)) == (True, 0, 0)
    assert revisions(client, stream_id) == [2, 3]
    assert all(not each.created for each in rest)


def test_ids_are_given_or_taken(client: Client) -> None:
    stream_id = client.open(WATCH, create(), create(watch_id=1), create(), create(watch_id=1), create(watch_id=-4))
    made = responses(client, stream_id)
    assert [each.watch_id for each in made] == [0, 1, 2, -1, -4]
    assert made[3].canceled
    assert made[3].cancel_reason == "mvcc: duplicate watch ID provided on the WatchStream"


def test_refused_watchers_leave_the_stream_alone(client: Client) -> None:
    stream_id = client.open(
        WATCH, create(key=b"b", range_end=b"a"), create(start_revision=-1), WatchRequest(), create()
    )
    made = responses(client, stream_id)
    assert [(each.canceled, each.cancel_reason) for each in made] == [
        (True, "mvcc: watcher range is empty"),
        (True, "etcdserver: mvcc: required revision has been compacted"),
        (False, ""),
    ]


def test_a_start_before_the_compaction_is_told_so(client: Client) -> None:
    member = client.member
    for _ in range(5):
        put(member)
    member.do(requests.COMPACTION, CompactionRequest(revision=4))
    stream_id = client.open(WATCH, create(start_revision=2), create(start_revision=4))
    made = responses(client, stream_id)
    gone = [each for each in made if each.canceled]
    assert [(each.watch_id, each.compact_revision, each.cancel_reason, each.header.revision) for each in gone] == [
        (0, 4, "", 0)
    ]
    assert revisions(client, stream_id) == [4, 5, 6]


def test_none_after_a_cancel(client: Client) -> None:
    stream_id = client.open(WATCH, create(), create())
    client.say(stream_id, cancel(0))
    client.say(stream_id, cancel(77))
    put(client.member)
    made = responses(client, stream_id)
    assert [each.watch_id for each in made if each.canceled] == [0]
    assert [each.watch_id for each in made if each.events] == [1]
    client.reset(stream_id)
    assert client.member.state.hub.watcher_count == 0
    assert client.member.server.watch_streams == 0


def test_watchers_that_end_leave_nothing_to_the_garbage_collector(client: Client) -> None:
    """What waits for a full collection, and the connection with it, may wait for ever (see `CollectorPace`)."""
    gc.collect()
    gc.disable()
    try:
        stream_id = client.open(WATCH, create(progress_notify=True), create(), create())
        assert watchers() == 3
        client.say(stream_id, cancel(0))
        assert watchers() == 2
        client.reset(stream_id)
        assert watchers() == 0
    finally:
        gc.enable()


def watchers() -> int:
    """How many there are in memory."""
    return sum(type(each) is Watcher for each in gc.get_objects())


# --- slow clients


def test_a_slow_stream_blocks_nobody_and_misses_nothing(member: Member) -> None:
    slow, quick = Client(member, window=0), Client(member)
    behind = slow.open(WATCH, create(prev_kv=True))
    ahead = quick.open(WATCH, create())
    free = quick.open(WATCH, create())
    value = bytes(100_000)
    connection = slow.session.connection
    for number in range(40):
        put(member, value=value)
        quick.allow(0, 10**6)
        quick.allow(ahead, 10**6)
        quick.allow(free, 10**6)
        assert connection.queued_bytes(behind) < MAX_QUEUED_BYTES + 3 * len(value)
        if number % 10 == 0:
            member.clock.advance(0.2)
    assert revisions(quick, ahead) == revisions(quick, free) == list(range(2, 42))
    assert member.state.hub.lagging_count == 1
    open_wide(slow, behind)
    for _ in range(20):
        member.clock.advance(0.2)
        slow.read()
        slow.allow(0, 1 << 24)
    assert revisions(slow, behind) == list(range(2, 42))
    assert member.state.hub.lagging_count == 0
    put(member)
    assert revisions(slow, behind)[-1] == 42
    member.check()


@pytest.mark.parametrize("seed", range(6))
def test_a_client_that_reads_in_fits_and_starts(member: Member, seed: int) -> None:
    """Windows open by random amounts: never a gap, never twice, never stuck."""
    random = Random(seed)
    client = Client(member, window=0)
    stream_id = client.open(WATCH, create(key=b"\0", range_end=b"\0"))
    client.allow(0, 1 << 30)
    written = 0
    for _ in range(120):
        kind = random.randrange(4)
        if kind < 2:
            put(member, key=b"k%d" % random.randrange(3), value=bytes(random.choice((10, 1000, 200_000))))
            written += 1
        elif kind == 2:
            client.allow(stream_id, random.choice((10, 20_000, 2_000_000)))
            client.link.stuck = random.choice((0, 0, 900_000, 1_100_000))
            if not client.link.stuck:
                client.session.resume_writing()
        else:
            member.clock.advance(0.1)
        client.read()
    client.link.stuck = 0
    client.session.resume_writing()
    client.allow(stream_id, 1 << 30)
    for _ in range(30):
        member.clock.advance(0.1)
    assert revisions(client, stream_id) == list(range(2, written + 2))


# --- many watchers that want the same


NOPUT, NODELETE = WatchCreateRequest.NOPUT, WatchCreateRequest.NODELETE
WANTS: tuple[dict[str, Any], ...] = (
    {},
    {"range_end": b"l"},
    {"prev_kv": True},
    {"filters": [NOPUT]},
    {"filters": [NODELETE], "range_end": b"l"},
    {"fragment": True, "range_end": b"l"},
    {"progress_notify": True},
    {"start_revision": 12},
    {"start_revision": 3},
)
IDS = (0, 0, 0, 130, 131, 70_000, -3)


def _life(seed: int) -> tuple[list[bytes], Member]:
    """A random life of one stream with many watchers of a few kinds; everything it was sent."""
    random = Random(seed)
    member = Member(watch_progress_notify_interval_s=10.0, max_request_bytes=100_000).start()
    client = Client(member, window=random.choice((0, 5_000, BIG)))
    client.allow(0, BIG)
    stream_id = client.open(WATCH)
    made: list[int] = []
    for step in range(60):
        kind = random.randrange(6)
        if kind == 0 or step < 10:
            wanted = WANTS[random.randrange(len(WANTS))]
            client.say(stream_id, create(watch_id=IDS[step % len(IDS)] * (step + 1), **wanted))
            made.append(IDS[step % len(IDS)] * (step + 1))
        elif kind == 1:
            client.say(stream_id, cancel(random.choice([0, 1, 2, *made])))
        elif kind == 2:
            ops = [RequestOp(request_put=PutRequest(key=b"k%d" % n, value=bytes(9_000))) for n in range(8)]
            ops.append(RequestOp(request_delete_range=DeleteRangeRequest(key=b"k")))
            member.do(requests.TXN, TxnRequest(success=ops))
        elif kind == 3:
            client.allow(stream_id, random.choice((10, 20_000, 2_000_000)))
            client.say(stream_id, PROGRESS)
        elif kind == 4:
            member.clock.advance(random.choice((0.1, 11)))
        else:
            put(member, value=bytes(random.choice((1, 300, 60_000))))
        client.read()
    client.allow(stream_id, 1 << 29)
    for _ in range(20):
        member.clock.advance(0.1)
        client.read()
    assert member.state.hub.lagging_count == 0
    member.check()
    return client.answer(stream_id).messages, member


@pytest.mark.parametrize("seed", range(12))
def test_telling_many_together_is_telling_each(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """The same life with and without: each watcher is sent the same bytes in the same order, and as many are counted.

    Where not all find room at once, it may differ how the events of one watcher are spread over responses.
    """
    together, member = _life(seed)
    monkeypatch.setattr(WatchStream, "offer_all", lambda self, audience, revision, events: False)
    apart, other = _life(seed)
    assert _by_id(together) == _by_id(apart)
    assert member.metrics.mvcc_events_total == other.metrics.mvcc_events_total > 0
    assert member.metrics.client_sent_bytes_total > 0


def _by_id(messages: list[bytes]) -> dict[int, list[bytes]]:
    """What each watcher was told: creation, events, cancellation."""
    told: dict[int, list[bytes]] = {}
    for message in messages:
        response = WatchResponse.FromString(message)
        events = [event.SerializeToString() for event in response.events]
        if not events and not response.canceled and not response.created:
            continue  # progress, which depends on when
        told.setdefault(response.watch_id, []).extend(events or [b"canceled" if response.canceled else b"created"])
    return told


def test_many_watchers_of_a_key_share_frames(client: Client) -> None:
    stream_id = client.open(WATCH, *(create() for _ in range(300)))
    client.answer(stream_id)
    put(client.member, value=b"v" * 10)
    written = client.link.written
    made = [each for each in responses(client, stream_id) if each.events]
    assert sorted(each.watch_id for each in made) == list(range(300))
    assert all(each.header == made[0].header and each.events == made[0].events for each in made)
    assert len(written) < sum(len(each.SerializeToString()) + 5 for each in made) + 9 * 5


def test_events_of_many_watchers_do_not_pile_up(member: Member) -> None:
    """A thousand watchers of a key on a stream that nobody reads: no more waits than for one."""
    client = Client(member, window=0)
    stream_id = client.open(WATCH, *(create() for _ in range(1000)))
    client.allow(0, BIG)
    for _ in range(6):
        put(member, value=bytes(1000))
        assert client.session.connection.queued_bytes(stream_id) < MAX_QUEUED_BYTES + 2000
    assert member.state.hub.lagging_count == 1000
    client.allow(stream_id, BIG)
    for _ in range(20):
        member.clock.advance(0.1)
        client.read()
    told: dict[int, list[int]] = {}
    for each in responses(client, stream_id):
        told.setdefault(each.watch_id, []).extend(event.kv.mod_revision for event in each.events)
    assert told == {number: list(range(2, 8)) for number in range(1000)}
    assert member.state.hub.lagging_count == 0


def test_whatever_holds_a_stream_up_says_when_it_is_over(member: Member) -> None:
    """The connection's buffer and the stream's queue each just below the size at which they would say so."""
    client = Client(member, window=0)
    client.open(WATCH, create())
    client.link.stuck = (1 << 20) - 1
    put(member, value=bytes(60_000))
    put(member)
    assert member.state.hub.lagging_count == 0


def test_a_slow_stream_is_cancelled_by_a_compaction_only(member: Member) -> None:
    client = Client(member, window=0)
    stream_id = client.open(WATCH, create())
    for _ in range(30):
        put(member, value=bytes(200_000))
    assert member.state.hub.lagging_count == 1
    member.do(requests.COMPACTION, CompactionRequest(revision=31))
    open_wide(client, stream_id)
    for _ in range(10):
        member.clock.advance(0.2)
    made = responses(client, stream_id)
    told = revisions(client, stream_id)
    assert told == list(range(2, 2 + len(told)))
    assert len(told) < 30
    assert (made[-1].canceled, made[-1].compact_revision) == (True, 31)


# --- fragments


def test_fragments_of_large_responses() -> None:
    member = Member(max_request_bytes=200_000).start()
    client = Client(member)
    whole, parts = client.open(WATCH, create(range_end=b"z")), client.open(WATCH, create(range_end=b"z", fragment=True))
    for stream_id in (0, whole, parts):
        client.allow(stream_id, BIG)
    ops = [RequestOp(request_put=PutRequest(key=b"k%02d" % n, value=bytes(1900))) for n in range(100)]
    member.do(requests.TXN, TxnRequest(success=ops))
    assert [len(each.events) for each in responses(client, parts)] == [0, 100]  # not large enough
    for _ in range(5):
        member.do(requests.TXN, TxnRequest(success=ops))
    from_start = {"range_end": b"z", "start_revision": 1}
    again = client.open(WATCH, create(fragment=True, **from_start), create(**from_start))
    client.allow(again, BIG)
    member.clock.advance(1)
    made = [each for each in responses(client, again) if each.events]
    fragmented = [each for each in made if each.watch_id == 0]
    plain = [each for each in made if each.watch_id == 1]
    limit = 200_000 + 512 * 1024
    assert len(plain) == 1
    assert plain[0].ByteSize() > limit
    assert [each.fragment for each in fragmented] == [True] * (len(fragmented) - 1) + [False]
    assert len(fragmented) == 2
    assert all(each.ByteSize() <= limit for each in fragmented)
    assert [event for each in fragmented for event in each.events] == list(plain[0].events)


# --- progress


def test_progress_on_request(client: Client) -> None:
    member = client.member
    stream_id = client.open(WATCH, PROGRESS)
    assert responses(client, stream_id) == []  # no watcher, no answer
    client.say(stream_id, create())
    put(member)
    client.say(stream_id, PROGRESS)
    made = responses(client, stream_id)
    assert [(each.watch_id, each.header.revision, len(each.events)) for each in made] == [
        (0, 1, 0),
        (0, 2, 1),
        (-1, 2, 0),
    ]
    client.say(stream_id, create(start_revision=99))
    client.say(stream_id, PROGRESS)
    member.clock.advance(1)
    assert len(responses(client, stream_id)) == 4  # one that has yet to begin: no answer


def test_who_asks_again_and_again_for_progress_has_the_watchers_looked_at_once(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Watcher] = []
    is_current = WatchHub.is_current
    monkeypatch.setattr(WatchHub, "is_current", lambda hub, watcher: looked.append(watcher) or is_current(hub, watcher))
    stream_id = client.open(WATCH, *[create()] * 20, *[PROGRESS] * 30)
    made = responses(client, stream_id)
    assert sum(each.watch_id == -1 for each in made) == 30
    assert len(looked) == 20


def test_progress_waits_for_those_behind(member: Member) -> None:
    client = Client(member, window=0)
    stream_id = client.open(WATCH, create())
    for _ in range(30):
        put(member, value=bytes(200_000))
    before = member.clock.pending
    for _ in range(500):
        client.say(stream_id, PROGRESS)
    assert member.clock.pending - before <= 1  # however often it is asked, it is looked after once
    open_wide(client, stream_id)
    for _ in range(10):
        member.clock.advance(0.2)
    made = responses(client, stream_id)
    assert revisions(client, stream_id) == list(range(2, 32))
    assert [(each.watch_id, each.header.revision) for each in made if not each.events and not each.created] == [
        (-1, 31)
    ]


def test_progress_by_the_clock() -> None:
    member = Member(watch_progress_notify_interval_s=10.0).start()
    client = Client(member)
    stream_id = client.open(WATCH, create(progress_notify=True), create(), create(progress_notify=True))
    member.clock.advance(10.1)
    made = [each.watch_id for each in responses(client, stream_id) if not each.created]
    assert made == [0, 2]
    put(member)
    member.clock.advance(10)
    made = [(each.watch_id, len(each.events)) for each in responses(client, stream_id) if not each.created]
    assert made[2:] == [(0, 1), (1, 1), (2, 1)]  # who was told something needs no progress
    member.clock.advance(10)
    made = [(each.watch_id, len(each.events)) for each in responses(client, stream_id) if not each.created]
    assert made[5:] == [(0, 0), (2, 0)]
    client.reset(stream_id)
    pending = member.clock.pending
    member.clock.advance(30)
    assert member.clock.pending == pending
