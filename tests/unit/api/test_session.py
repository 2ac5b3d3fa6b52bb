"""Sessions: from frames to handlers and back, with everything a client may do wrong on the way."""

import pytest

from ratifyd.api.calls import MAX_UNREAD_BYTES, MAX_UNREAD_REQUESTS
from ratifyd.api.session import GO_AWAY_TIMEOUT_S
from ratifyd.proto.health_pb2 import HealthCheckRequest, HealthCheckResponse
from ratifyd.proto.rpc_pb2 import (
    LeaseKeepAliveRequest,
    LeaseKeepAliveResponse,
    MemberListRequest,
    PutRequest,
    PutResponse,
    RangeRequest,
    RangeResponse,
    WatchCancelRequest,
    WatchCreateRequest,
    WatchRequest,
    WatchResponse,
)
from ratifyd.wire.limits import Limits
from simulation.http2 import ACK, DATA, END_STREAM, GOAWAY, PING, WINDOW_UPDATE, frame, wrap
from tests.support_client import KEEP_ALIVE, KV, WATCH, Client
from tests.support_member import Member

CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED = 1, 2, 4, 8
OUT_OF_RANGE, UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 11, 12, 13, 14
RANGE = RangeRequest(key=b"k").SerializeToString()
COUNT = RangeRequest(key=b"a", range_end=b"z", count_only=True).SerializeToString()
WATCH_K = WatchRequest(create_request=WatchCreateRequest(key=b"k"))


@pytest.fixture
def member() -> Member:
    return Member().start()


@pytest.fixture
def client(member: Member) -> Client:
    return Client(member)


@pytest.fixture
def leaderless() -> Member:
    """One of two members."""
    return Member(initial_cluster="default=http://localhost:2380,other=http://localhost:3380").start()


# --- unary requests


def test_put_and_range(client: Client) -> None:
    put = client.ask(KV + "Put", PutRequest(key=b"k", value=b"v"), PutResponse)
    assert put.header.revision == 2
    got = client.ask(KV + "Range", RANGE, RangeResponse)
    assert [(kv.key, kv.value, kv.mod_revision) for kv in got.kvs] == [(b"k", b"v", 2)]
    assert got.header.raft_term == client.member.raft.term


def test_a_request_split_over_reads(client: Client) -> None:
    stream_id, head = client.head(KV + "Put")
    data = head + frame(DATA, END_STREAM, stream_id, wrap(PutRequest(key=b"k", value=b"v")))
    for at in range(len(data)):
        client.send(data[at : at + 1])
    assert client.answer(stream_id).parse(PutResponse)[0].header.revision == 2


def test_a_message_split_over_frames(client: Client) -> None:
    body = wrap(PutRequest(key=b"k", value=b"v"))
    stream_id = client.open(KV + "Put")
    client.send(frame(DATA, 0, stream_id, body[:3]))
    client.send(frame(DATA, 0, stream_id, body[3:9]))
    client.send(frame(DATA, END_STREAM, stream_id, body[9:]))
    answered = client.answer(stream_id)
    assert (answered.status, answered.reset) == (0, None)


def test_the_first_message_is_the_request(client: Client) -> None:
    """As grpc-go: it does not wait for the end, and what follows is ignored."""
    stream_id = client.open(KV + "Range", RANGE)
    answered = client.answer(stream_id)
    assert answered.status == 0
    assert answered.reset == 0  # the rest is not needed
    client.say(stream_id, b"\xff", end=True)
    assert client.answer(stream_id).status == 0

    together = client.open(KV + "Range")
    client.send(frame(DATA, END_STREAM, together, wrap(COUNT) + wrap(b"\xff\xff")))
    assert client.answer(together).status == 0


@pytest.mark.parametrize("in_headers", [True, False])
def test_no_message_at_all(client: Client, in_headers: bool) -> None:
    if in_headers:
        stream_id, head = client.head(KV + "Range", end=True)
        client.send(head)
    else:
        stream_id = client.open(KV + "Range")
        client.half_close(stream_id)
    answered = client.answer(stream_id)
    assert (answered.status, answered.message) == (UNKNOWN, "EOF")


def test_undecodable_messages(client: Client) -> None:
    for path in ("Range", "Put", "Txn", "DeleteRange", "Compact"):
        answered = client.call(KV + path, b"\xff\xff")
        assert (answered.status, answered.message) == (
            INTERNAL,
            "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data",
        )
    for path in (WATCH, KEEP_ALIVE, KV + "RangeStream"):
        answered = client.call(path, b"\xff\xff")
        assert answered.status == INTERNAL
        assert answered.message.startswith("grpc: failed to unmarshal the received message: ")
    split = client.open(KV + "Range", b"\xff\xff")
    assert client.answer(split).status == INTERNAL


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/a", 'malformed method name: "/a"'),
        ("//a", "unknown service "),
        ("/a/b", "unknown service a"),
        ("/x/y/z", "unknown service x/y"),
        ("/etcdserverpb.KV/Nope", "unknown method Nope for service etcdserverpb.KV"),
        ("/etcdserverpb.KV/", "unknown method  for service etcdserverpb.KV"),
        ("a", 'malformed method name: "a"'),
        ("/", 'malformed method name: "/"'),
    ],
)
def test_paths_that_lead_nowhere(client: Client, path: str, message: str) -> None:
    answered = client.call(path, RANGE)
    assert (answered.status, answered.message) == (UNIMPLEMENTED, message)
    split = client.answer(client.open(path, RANGE))
    assert (split.status, split.message) == (UNIMPLEMENTED, message)


def test_a_reset_while_a_proposal_is_pending() -> None:
    member = Member(stepped=True).start()
    client = Client(member)
    given_up = client.begin(KV + "Put", PutRequest(key=b"k", value=b"1"))
    kept = client.begin(KV + "Put", PutRequest(key=b"k", value=b"2"))
    member.clock.run()
    client.reset(given_up)
    member.settle()
    client.read()
    assert client.streams[given_up].status is None
    assert client.streams[kept].parse(PutResponse)[0].header.revision == 3  # it still took place
    assert not member.failures


def test_a_connection_lost_while_requests_are_pending() -> None:
    member = Member(stepped=True).start()
    client = Client(member)
    client.begin(KV + "Put", PutRequest(key=b"k", value=b"1"))
    client.begin(KV + "Range", RANGE)
    client.open(WATCH, WATCH_K)
    client.open(KV + "Put", grpc_timeout="5S")
    client.session.closed()
    before = client.link.written
    member.settle()
    member.clock.advance(10)
    assert client.link.written == before
    assert member.state.hub.watcher_count == 0
    assert member.server.watch_streams == 0
    assert member.state.store.revision == 2
    assert not member.failures


def test_answers_of_one_turn_leave_in_one_write(client: Client) -> None:
    writes: list[int] = []
    write = client.link.write
    client.link.write = lambda data: (writes.append(len(data)), write(data))[1]  # type: ignore[assignment, misc, method-assign]
    streams = [client.begin(KV + "Put", PutRequest(key=b"k%d" % n)) for n in range(50)]
    client.member.settle()
    client.read()
    assert all(client.streams[stream_id].status == 0 for stream_id in streams)
    assert len(writes) <= 2


# --- metadata


def test_hasleader_refuses_without_a_leader(leaderless: Member) -> None:
    client = Client(leaderless)
    for path, body in ((KV + "Range", RANGE), (KV + "Put", PutRequest(key=b"k")), (WATCH, WATCH_K)):
        answered = client.call(path, body, hasleader="true")
        assert (answered.status, answered.message) == (UNAVAILABLE, "etcdserver: no leader")
    again = client.call(KV + "Range", RANGE, hasleader="true")  # a cached header block is no way around it
    assert again.status == UNAVAILABLE
    waiting = client.call(KV + "Range", RANGE, hasleader="false")
    assert waiting.status is None
    plain = client.call(KV + "Range", RANGE)
    assert plain.status is None
    leaderless.clock.advance(8)
    client.read()
    assert (plain.status, plain.message) == (UNAVAILABLE, "etcdserver: request timed out")


def test_hasleader_serves_with_a_leader(client: Client) -> None:
    for _ in range(2):
        assert client.call(KV + "Range", RANGE, hasleader="true").status == 0


def test_streams_that_want_a_leader_end_when_it_is_gone_for_long(leaderless: Member) -> None:
    client = Client(leaderless)
    leaderless.raft.leader_id = 99
    bound = client.open(WATCH, WATCH_K, hasleader="true")
    free = client.open(WATCH, WATCH_K)
    leaderless.clock.run()
    leaderless.raft.leader_id = 0
    leaderless.clock.advance(2.5)
    assert client.answer(bound).status is None
    leaderless.clock.advance(1)
    answered = client.answer(bound)
    assert (answered.status, answered.message) == (UNAVAILABLE, "etcdserver: no leader")
    assert client.answer(free).status is None
    assert not leaderless.server.needing_leader


# --- deadlines


def test_a_stream_ends_at_its_deadline(client: Client) -> None:
    stream_id = client.open(WATCH, WATCH_K, grpc_timeout="500m")
    client.member.clock.advance(0.4)
    assert client.answer(stream_id).status is None
    client.member.clock.advance(0.2)
    answered = client.answer(stream_id)
    assert (answered.status, answered.message) == (DEADLINE_EXCEEDED, "context deadline exceeded")
    assert client.member.state.hub.watcher_count == 0


def test_deadlines_of_what_is_over_leave_nothing_behind(client: Client) -> None:
    before = client.member.clock.pending
    for _ in range(20):
        client.reset(client.open(WATCH, WATCH_K, grpc_timeout="99999999H"))
        client.reset(client.open(KV + "Put", grpc_timeout="99999999H"))
        client.half_close(client.open(KEEP_ALIVE, grpc_timeout="99999999H"))
        client.answer(client.open(KV + "Range", RANGE, grpc_timeout="99999999H"))
    assert client.member.clock.pending == before


def test_a_unary_request_whose_message_does_not_come_in_time(client: Client) -> None:
    stream_id = client.open(KV + "Put", grpc_timeout="500m")
    client.member.clock.advance(0.6)
    answered = client.answer(stream_id)
    assert (answered.status, answered.message) == (DEADLINE_EXCEEDED, "context deadline exceeded")
    client.say(stream_id, PutRequest(key=b"k"), end=True)
    client.member.settle()
    assert client.member.state.store.revision == 1


# --- keepalive


def pings(client: Client) -> int:
    client.read()
    return sum(kind == PING and not flags & ACK for kind, flags, _ in client.control)


def test_a_silent_client_is_pinged_and_a_dead_one_dropped() -> None:
    member = Member(grpc_keepalive_interval_s=120.0).start()
    client = Client(member)
    member.clock.advance(119)
    assert pings(client) == 0
    member.clock.advance(2)
    assert pings(client) == 1
    member.clock.advance(18)
    assert not client.link.aborted
    member.clock.advance(2)
    assert client.link.aborted


def test_a_client_that_answers_the_ping_stays() -> None:
    member = Member(grpc_keepalive_interval_s=120.0).start()
    client = Client(member)
    for silent_s in (120.5, 100, 100):
        client.control.clear()
        member.clock.advance(silent_s)
        assert pings(client) == 1
        (payload,) = [payload for kind, _, payload in client.control if kind == PING]
        client.send(frame(PING, ACK, 0, payload))
        member.clock.advance(21)
        assert not client.link.aborted


@pytest.mark.parametrize(
    ("options", "silent_s"),
    [
        ({"grpc_keepalive_interval_s": 0.0}, 7200),
        ({"grpc_keepalive_interval_s": 5.0, "grpc_keepalive_timeout_s": 0.0}, 7200),
        ({"grpc_keepalive_interval_s": 0.01}, 1),
    ],
)
def test_intervals_as_grpc_go_takes_them(options: dict[str, float], silent_s: int) -> None:
    member = Member(**options).start()
    client = Client(member)
    member.clock.advance(silent_s - 0.5)
    assert pings(client) == 0
    member.clock.advance(1)
    assert pings(client) == 1
    assert not client.link.aborted


def test_a_client_that_talks_is_not_pinged() -> None:
    member = Member(grpc_keepalive_interval_s=60.0, grpc_keepalive_timeout_s=10.0).start()
    client = Client(member)
    for _ in range(10):
        member.clock.advance(50)
        assert client.call(KV + "Range", RANGE).status == 0
    assert pings(client) == 0
    member.clock.advance(60.5)
    assert pings(client) == 1


def test_a_lost_connection_leaves_no_timers(member: Member) -> None:
    before = member.clock.pending
    client = Client(member)
    client.session.go_away()
    assert member.clock.pending > before
    client.session.closed()
    assert member.clock.pending == before


# --- leaving


def goaways(client: Client) -> list[int]:
    client.member.settle()
    client.read()
    return [int.from_bytes(payload[:4]) for kind, _, payload in client.control if kind == GOAWAY]


def test_leaving_takes_two_steps(client: Client) -> None:
    stream_id = client.open(WATCH, WATCH_K)
    client.session.go_away()
    assert goaways(client) == [0x7FFFFFFF]
    late = client.begin(KV + "Range", RANGE)
    assert client.answer(late).status == 0  # it was on its way
    client.member.clock.advance(GO_AWAY_TIMEOUT_S + 0.1)
    assert goaways(client) == [0x7FFFFFFF, late]
    assert not client.link.closed
    refused = client.begin(KV + "Range", RANGE)
    assert client.answer(refused).status is None
    client.reset(stream_id)
    client.member.settle()
    assert client.link.closed


def test_an_idle_client_that_acknowledges_is_let_go_at_once(client: Client) -> None:
    client.session.go_away()
    goaways(client)
    (payload,) = [payload for kind, flags, payload in client.control if kind == PING and not flags & ACK]
    client.send(frame(PING, ACK, 0, payload))
    client.member.settle()
    assert client.link.closed


def test_a_member_that_failed_still_says_goodbye(client: Client) -> None:
    client.member.fail(OSError(5, "disk"))
    client.session.go_away()
    assert goaways(client) == [0x7FFFFFFF]


# --- floods


def test_answers_nobody_reads_do_not_pile_up(member: Member) -> None:
    """Watch requests, each with an answer, on a stream whose window stays shut."""
    client = Client(member, window=0)
    stream_id = client.open(WATCH, WATCH_K)
    cancel = wrap(WatchRequest(cancel_request=WatchCancelRequest(watch_id=0)))
    create = wrap(WatchRequest(create_request=WatchCreateRequest(key=b"k", watch_id=7, start_revision=1)))
    many = frame(DATA, 0, stream_id, (create + cancel) * 500)
    connection = client.session.connection
    for _ in range(1000):
        client.send(many)
        if not connection.open_streams or connection.queued_bytes(stream_id) == 0:
            break
    client.member.settle()
    assert connection.queued_bytes(stream_id) < MAX_UNREAD_BYTES + MAX_UNREAD_REQUESTS * 100
    assert member.state.hub.watcher_count == 0
    assert not member.failures


def test_other_requests_on_a_one_message_stream_are_ignored(client: Client) -> None:
    stream_id = client.open(
        "/grpc.health.v1.Health/Watch", HealthCheckRequest(), HealthCheckRequest(service="x"), b"\xff"
    )
    answered = client.answer(stream_id)
    assert [each.status for each in answered.parse(HealthCheckResponse)] == [HealthCheckResponse.SERVING]
    ended = client.open(KV + "RangeStream")
    client.half_close(ended)
    assert (client.answer(ended).status, client.answer(ended).message) == (UNKNOWN, "EOF")


@pytest.mark.parametrize("path", [KV + "Range", WATCH])
def test_an_unknown_encoding_is_refused_behind_an_unknown_method(client: Client, path: str) -> None:
    for begin in (client.begin, client.open):
        stream_id = begin(path, RANGE, grpc_encoding="zstd")
        client.half_close(stream_id) if begin == client.open else None
        answered = client.answer(stream_id)
        message = 'grpc: Decompressor is not installed for grpc-encoding "zstd"'
        assert (answered.status, answered.message) == (UNIMPLEMENTED, message)
    unknown = client.call("/a/b", RANGE, grpc_encoding="zstd")
    assert (unknown.status, unknown.message) == (UNIMPLEMENTED, "unknown service a")
    assert client.call(KV + "Range", RANGE, grpc_encoding="gzip").status == 0
    assert client.session.idle


def test_a_slow_reader_is_not_read_from(client: Client) -> None:
    client.session.pause_writing()
    assert not client.link.reading
    client.session.resume_writing()
    assert client.link.reading


def test_a_reader_that_has_caught_up_is_answered() -> None:
    client = Client(Member().start(), limits=Limits(max_unread_bytes=100_000), window=2**30)
    client.send(frame(WINDOW_UPDATE, 0, 0, bytes((64, 0, 0, 0))))
    for key in b"bcdefg":
        client.call(KV + "Put", PutRequest(key=bytes((key,)), value=bytes(12_000)))
    many = RangeRequest(key=b"a", range_end=b"z").SerializeToString()
    client.session.pause_writing()
    answers = [client.call(KV + "Range", many) for _ in range(3)]
    assert [answer.status for answer in answers] == [0, 0, RESOURCE_EXHAUSTED], "the link took two, and no third"
    client.session.resume_writing()
    assert client.call(KV + "Range", many).status == 0


def test_garbage_ends_the_connection_only(client: Client) -> None:
    other = Client(client.member)
    client.send(b"\xff" * 100)
    client.member.settle()
    assert client.link.closed
    assert other.call(KV + "Range", RANGE).status == 0


# --- counting


def test_every_request_is_counted_once(client: Client) -> None:
    client.call(KV + "Range", RANGE)
    client.call(KV + "Range", b"\xff\xff")
    client.half_close(client.open(KV + "Range"))
    client.call(KV + "Range", RangeRequest(key=b"k", revision=99))
    rpc = client.member.metrics.rpcs[b"/etcdserverpb.KV/Range"]
    # What is no such message, or none at all, is not counted, as in etcd.
    assert (rpc.served, rpc.started, rpc.received, sum(rpc.handled)) == (1, 1, 1, 1)
    assert rpc.handled[OUT_OF_RANGE] == 1
    stream_id = client.open(KEEP_ALIVE, LeaseKeepAliveRequest(ID=1))
    client.half_close(stream_id)
    assert client.answer(stream_id).parse(LeaseKeepAliveResponse)[0].TTL == 0
    rpc = client.member.metrics.rpcs[KEEP_ALIVE.encode()]
    assert (rpc.started, rpc.received, rpc.sent, rpc.handled[0]) == (1, 1, 1, 1)


def test_member_list(client: Client) -> None:
    assert client.call("/etcdserverpb.Cluster/MemberList", MemberListRequest(linearizable=True)).status == 0


def test_a_watch_sent_whole_stays_open(client: Client) -> None:
    """Semantics 7.19: the client's half-close does not end it."""
    stream_id = client.begin(WATCH, WATCH_K)
    client.ask(KV + "Put", PutRequest(key=b"k"), PutResponse)
    answered = client.answer(stream_id)
    assert [len(each.events) for each in answered.parse(WatchResponse)] == [0, 1]
    assert not answered.ended


def test_clients_are_known_by_their_version(client: Client) -> None:
    rpc = client.member.metrics.rpcs[b"/etcdserverpb.KV/Range"]
    for _ in range(2):
        assert client.call(KV + "Range", RANGE, client_api_version="3.5").status == 0
    assert client.call(KV + "Range", RANGE).status == 0
    assert (rpc.served, rpc.of_version("3.5").served) == (1, 2)
    for path in (KV + "Range", WATCH):
        answered = client.call(path, client_api_version=b"\xff")  # type: ignore[arg-type]
        assert (answered.status, answered.message) == (3, "etcdserver: invalid client api version")


def test_bytes_of_messages_are_counted(client: Client) -> None:
    put = PutRequest(key=b"k", value=b"v" * 100).SerializeToString()
    metrics = client.member.metrics
    for size in (len(put), 7, 7):  # whole, and in pieces
        before = metrics.client_received_bytes_total, metrics.client_sent_bytes_total
        if size == 7:
            stream_id = client.open(KV + "Put")
            data = frame(DATA, END_STREAM, stream_id, wrap(put))
            for at in range(0, len(data), size):
                client.send(data[at : at + size])
        else:
            stream_id = client.begin(KV + "Put", put)
        (answer,) = client.answer(stream_id).messages
        assert metrics.client_received_bytes_total - before[0] == len(put)
        assert metrics.client_sent_bytes_total - before[1] == len(answer)


def test_broken_requests_on_streams_are_counted(client: Client) -> None:
    for path, label in ((WATCH, "watch"), (KEEP_ALIVE, "lease-keepalive")):
        assert client.call(path, b"\xff\xff").status == INTERNAL
        assert client.member.metrics.stream_failures_total["receive", label] == 1
        rpc = client.member.metrics.rpcs[path.encode()]
        assert (rpc.started, rpc.received, rpc.handled[INTERNAL]) == (1, 0, 1)
