"""KeepAlive and RangeStream, and long ranges, hashes and pages that are answered in slices."""

import json
import tracemalloc
from random import Random
from typing import Any

import pytest

from ratifyd.api.calls import MAX_QUEUED_BYTES
from ratifyd.api.http import HttpPages
from ratifyd.api.kv import STALL_TIMEOUT_S, STREAM_FIRST_KEYS
from ratifyd.api.lease import MAX_KNOWN, MAX_PENDING_RENEWALS
from ratifyd.api.maintenance import MAX_HASHES
from ratifyd.apply import requests
from ratifyd.apply.ranges import LONG_KEYS, range_body
from ratifyd.lease import MAX_TTL_S
from ratifyd.ports import Done, Undone
from ratifyd.proto.fast import length_prefixed
from ratifyd.proto.health_pb2 import HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse
from ratifyd.proto.rpc_pb2 import (
    CORRUPT,
    NOSPACE,
    AlarmRequest,
    CompactionRequest,
    CompactionResponse,
    DefragmentRequest,
    DefragmentResponse,
    HashKVRequest,
    HashKVResponse,
    HashRequest,
    HashResponse,
    LeaseCheckpoint,
    LeaseCheckpointRequest,
    LeaseGrantRequest,
    LeaseGrantResponse,
    LeaseKeepAliveRequest,
    LeaseKeepAliveResponse,
    LeaseLeasesRequest,
    LeaseLeasesResponse,
    LeaseRevokeRequest,
    LeaseRevokeResponse,
    LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
    PutRequest,
    RangeRequest,
    RangeResponse,
    RangeStreamResponse,
    StatusRequest,
    StatusResponse,
    TxnRequest,
)
from simulation.clock import SimClock
from simulation.http2 import DATA, END_STREAM, frame, wrap
from tests.support_client import KEEP_ALIVE, KV, Client
from tests.support_member import Member

LEASE = "/etcdserverpb.Lease/"
MAINTENANCE = "/etcdserverpb.Maintenance/"
HEALTH = "/grpc.health.v1.Health/"
UNKNOWN, UNIMPLEMENTED, UNAVAILABLE, OUT_OF_RANGE = 2, 12, 14, 11


@pytest.fixture
def member() -> Member:
    return Member().start()


@pytest.fixture
def client(member: Member) -> Client:
    return Client(member)


def fill(member: Member, count: int, size: int = 10) -> None:
    random = Random(count)
    for number in range(count):
        value = random.randbytes(random.randrange(size))
        member.call(requests.PUT, PutRequest(key=b"k%06d" % number, value=value))
    member.settle()


ALL = RangeRequest(key=b"k", range_end=b"l")


# --- keep alive


def test_renewals(client: Client) -> None:
    member = client.member
    lease = client.ask(LEASE + "LeaseGrant", LeaseGrantRequest(TTL=10), LeaseGrantResponse)
    assert lease.ID > 0
    member.clock.advance(6)
    stream_id = client.open(KEEP_ALIVE, LeaseKeepAliveRequest(ID=lease.ID), LeaseKeepAliveRequest(ID=999))
    answered = client.answer(stream_id)
    assert [(each.ID, each.TTL) for each in answered.parse(LeaseKeepAliveResponse)] == [(lease.ID, 10), (999, 0)]
    left = client.ask(LEASE + "LeaseTimeToLive", LeaseTimeToLiveRequest(ID=lease.ID), LeaseTimeToLiveResponse)
    assert (left.TTL, left.grantedTTL) in {(9, 10), (10, 10)}
    client.half_close(stream_id)
    assert client.answer(stream_id).status == 0


def test_a_stream_ends_when_the_last_renewal_is_answered() -> None:
    member = Member(stepped=True).start()
    client = Client(member)
    client.ask(LEASE + "LeaseGrant", LeaseGrantRequest(ID=7, TTL=2), LeaseGrantResponse)
    member.clock.advance(2.2)  # expired, its revocation under way
    stream_id = client.begin(KEEP_ALIVE, LeaseKeepAliveRequest(ID=7))
    member.clock.run()
    client.read()
    assert not client.streams[stream_id].ended
    answered = client.answer(stream_id)
    assert [(each.ID, each.TTL) for each in answered.parse(LeaseKeepAliveResponse)] == [(7, 0)]
    assert answered.status == 0


def test_renewals_of_an_expired_lease_do_not_pile_up() -> None:
    member = Member(stepped=True).start()
    client = Client(member)
    client.ask(LEASE + "LeaseGrant", LeaseGrantRequest(ID=7, TTL=2), LeaseGrantResponse)
    member.clock.advance(2.2)
    stream_id = client.open(KEEP_ALIVE)
    for _ in range(MAX_PENDING_RENEWALS + 1):
        client.say(stream_id, LeaseKeepAliveRequest(ID=7))
    answered = client.answer(stream_id)
    assert (answered.status, answered.message) == (UNKNOWN, "etcdserver: too many requests")
    assert not member.failures


@pytest.mark.parametrize("rest", [(1 << 63) - 1, -(1 << 63)])
def test_the_rest_of_a_lease_that_no_leader_would_record(rest: int) -> None:
    member = Member(clock=SimClock(20_000.0)).start()
    client = Client(member)
    client.ask(LEASE + "LeaseGrant", LeaseGrantRequest(ID=7, TTL=10), LeaseGrantResponse)
    points = [LeaseCheckpoint(ID=7, remaining_TTL=rest)]
    member.do(requests.LEASE_CHECKPOINT, LeaseCheckpointRequest(checkpoints=points))
    member.server.leasing.promote(member.clock.time())
    left = client.ask(LEASE + "LeaseTimeToLive", LeaseTimeToLiveRequest(ID=7), LeaseTimeToLiveResponse)
    assert (MAX_TTL_S if rest > 0 else rest) == left.TTL


def test_renewals_of_more_leases_than_a_stream_remembers(client: Client) -> None:
    leases = range(1, MAX_KNOWN + 10)
    for lease in leases:
        client.ask(LEASE + "LeaseGrant", LeaseGrantRequest(ID=lease, TTL=100 + lease), LeaseGrantResponse)
    stream_id = client.open(KEEP_ALIVE)
    for _ in range(3):
        for lease in leases:
            client.say(stream_id, LeaseKeepAliveRequest(ID=lease))
    found = [(each.ID, each.TTL) for each in client.answer(stream_id).parse(LeaseKeepAliveResponse)]
    assert found == [(lease, 100 + lease) for lease in leases] * 3


def test_renewals_that_are_long_are_not_remembered(client: Client) -> None:
    """A hundred of them on a stream, with fields that nobody knows, would be as many megabytes until it ends."""
    client.ask(LEASE + "LeaseGrant", LeaseGrantRequest(ID=7, TTL=10), LeaseGrantResponse)
    stream_id = client.open(KEEP_ALIVE)
    padding = length_prefixed(9, bytes(15_000))
    tracemalloc.start()
    for number in range(100):
        message = LeaseKeepAliveRequest(ID=7).SerializeToString() + padding + length_prefixed(8, b"%d" % number)
        client.send(frame(DATA, 0, stream_id, wrap(message)))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 500_000
    found = [(each.ID, each.TTL) for each in client.answer(stream_id).parse(LeaseKeepAliveResponse)]
    assert found == [(7, 10)] * 100


def test_a_remembered_renewal_follows_its_lease(client: Client) -> None:
    stream_id = client.open(KEEP_ALIVE)
    for ttl in (10, 20):
        client.ask(LEASE + "LeaseGrant", LeaseGrantRequest(ID=7, TTL=ttl), LeaseGrantResponse)
        client.say(stream_id, LeaseKeepAliveRequest(ID=7))
        client.say(stream_id, LeaseKeepAliveRequest(ID=7))
        client.ask(LEASE + "LeaseRevoke", LeaseRevokeRequest(ID=7), LeaseRevokeResponse)
        client.say(stream_id, LeaseKeepAliveRequest(ID=7))
    found = [each.TTL for each in client.answer(stream_id).parse(LeaseKeepAliveResponse)]
    assert found == [10, 10, 0, 20, 20, 0]


@pytest.mark.parametrize("seed", range(10))
def test_renewals_that_come_together_are_answered_as_if_each_came_alone(seed: int) -> None:
    """Known and unknown leases, expired and revoked ones, streams that end: the same answers, times and counts."""
    draw = Random(seed)
    together, apart = clients = [Client(Member().start()) for _ in range(2)]
    for client in clients:
        for lease in range(1, 6):
            client.ask(LEASE + "LeaseGrant", LeaseGrantRequest(ID=lease, TTL=1000 // lease**3), LeaseGrantResponse)
        opened = [client.open(KEEP_ALIVE) for _ in range(4)]
    streams = list(opened)
    for _ in range(60):
        leases = draw.choice(((1, 2), (1, 2), (1, 3), (3, 4), (4, 5), (1, 6)))
        frames = [_renewal(draw.choice(streams), draw.choice(leases)) for _ in range(draw.randrange(8))]
        if draw.random() < 0.05 and len(streams) > 1:
            frames.append(frame(DATA, END_STREAM, streams.pop()))
        together.send(b"".join(frames))
        for each in frames:
            apart.send(each)
        revoked, passed = draw.choice((0, 0, 0, 0, 0, 0, 3, 5)), draw.choice((0, 0, 0.5, 2, 8, 30))
        for client in clients:
            if revoked:
                client.call(LEASE + "LeaseRevoke", LeaseRevokeRequest(ID=revoked))
                client.call(LEASE + "LeaseGrant", LeaseGrantRequest(ID=revoked, TTL=revoked + len(frames)))
            client.member.clock.advance(passed)
            client.read()
        answers = [[sorted(client.answer(stream_id).messages) for stream_id in opened] for client in clients]
        assert answers[0] == answers[1]
        times = [
            [
                client.member.server.leasing.remaining_s(lease, 0.0)
                for lease in client.member.state.leases.leases.values()
            ]
            for client in clients
        ]
        assert times[0] == times[1]
    rpcs = [client.session._routes[KEEP_ALIVE.encode()].rpc for client in clients]
    assert (rpcs[0].received, rpcs[0].sent) == (rpcs[1].received, rpcs[1].sent)
    renewed = [client.member.server.leasing.renewed_total for client in clients]
    assert renewed[0] == renewed[1] > 0


def _renewal(stream_id: int, lease: int) -> bytes:
    return frame(DATA, 0, stream_id, wrap(LeaseKeepAliveRequest(ID=lease)))


def test_lease_questions(client: Client) -> None:
    for lease, ttl in ((1, 50), (2, 30), (-3, 40)):
        client.ask(LEASE + "LeaseGrant", LeaseGrantRequest(ID=lease, TTL=ttl), LeaseGrantResponse)
    client.member.do(requests.PUT, PutRequest(key=b"k", lease=2))
    listed = client.ask(LEASE + "LeaseLeases", LeaseLeasesRequest(), LeaseLeasesResponse)
    assert [each.ID for each in listed.leases] == [2, -3, 1]
    known = client.ask(LEASE + "LeaseTimeToLive", LeaseTimeToLiveRequest(ID=2, keys=True), LeaseTimeToLiveResponse)
    assert (known.grantedTTL, list(known.keys)) == (30, [b"k"])
    unknown = client.ask(LEASE + "LeaseTimeToLive", LeaseTimeToLiveRequest(ID=9), LeaseTimeToLiveResponse)
    assert (unknown.TTL, unknown.grantedTTL, unknown.ID) == (-1, 0, 9)


# --- long ranges


@pytest.mark.parametrize("count", [LONG_KEYS - 1, LONG_KEYS, LONG_KEYS + 1, 3 * LONG_KEYS + 7])
@pytest.mark.parametrize("limit", [0, -5, 1, LONG_KEYS + 1, 2 * LONG_KEYS, 100_000])
def test_a_sliced_range_is_the_plain_answer(member: Member, count: int, limit: int) -> None:
    fill(member, count)
    client = Client(member)
    client.allow(0, 1 << 28)
    for revision in (0, count // 2, count + 1):
        request = RangeRequest(key=b"k", range_end=b"l", limit=limit, revision=revision)
        stream_id = client.begin(KV + "Range", request)
        client.allow(stream_id, 1 << 28)
        plain = range_body(member.state.store, request)
        assert client.answer(stream_id).messages == [member.server.header() + plain]


def test_a_sliced_range_is_of_one_revision_and_lets_others_through(member: Member) -> None:
    fill(member, 5 * LONG_KEYS)
    client = Client(member)
    client.allow(0, 1 << 28)
    expected = member.server.header() + range_body(member.state.store, ALL)
    stream_id = client.begin(KV + "Range", ALL)
    client.allow(stream_id, 1 << 28)
    while not member.state.store._pins:
        assert member.clock.run_one()
    member.server.propose(
        requests.DELETE_RANGE, RangeRequest(key=b"k", range_end=b"l").SerializeToString(), lambda body, error: None
    )
    writes = 0
    while member.state.store._pins:
        assert member.clock.run_one()
        writes = member.state.store.revision
    assert writes == 5 * LONG_KEYS + 2  # the deletion took place in between
    assert client.answer(stream_id).messages == [expected]
    assert client.ask(KV + "Range", ALL, RangeResponse).count == 0


def test_a_long_range_of_a_member_that_stops(member: Member) -> None:
    fill(member, 3 * LONG_KEYS)
    client = Client(member)
    stream_id = client.begin(KV + "Range", ALL)
    while not member.state.store._pins:
        assert member.clock.run_one()
    member.server.stop()
    answered = client.answer(stream_id)
    assert (answered.status, answered.message) == (UNAVAILABLE, "etcdserver: server stopped")
    assert member.state.store._pins == []


# --- RangeStream


def chunks(client: Client, request: RangeRequest, window: int = 1 << 28) -> list[RangeResponse]:
    stream_id = client.begin(KV + "RangeStream", request)
    client.allow(0, 1 << 28)
    client.allow(stream_id, window)
    answered = client.answer(stream_id)
    assert answered.status == 0, answered.message
    return [each.range_response for each in answered.parse(RangeStreamResponse)]


@pytest.mark.parametrize("limit", [0, 1, STREAM_FIRST_KEYS, 500, 2 * LONG_KEYS + 3, 10**6])
@pytest.mark.parametrize("count", [0, 1, STREAM_FIRST_KEYS + 1, 2 * LONG_KEYS + 3])
def test_the_chunks_together_are_the_range(count: int, limit: int) -> None:
    member = Member(max_request_bytes=10_000).start()
    fill(member, count, 300)
    request = RangeRequest(key=b"k", range_end=b"l", limit=limit)
    found = chunks(Client(member), request)
    *parts, last = found
    plain = RangeResponse.FromString(member.server.header() + range_body(member.state.store, request))
    assert [kv for part in found for kv in part.kvs] == list(plain.kvs)
    assert (last.count, last.more, last.header) == (plain.count, plain.more, plain.header)
    assert all(not part.HasField("header") and not part.count and not part.more for part in parts)
    if parts:
        assert len(parts[0].kvs) <= STREAM_FIRST_KEYS
        assert max(part.ByteSize() for part in found) < 10_000 + 1000
        assert min(part.ByteSize() for part in parts[1:] or [last]) > 0


def test_a_stream_of_keys_only(member: Member, client: Client) -> None:
    fill(member, 25)
    together = [
        kv for each in chunks(client, RangeRequest(key=b"k", range_end=b"l", keys_only=True)) for kv in each.kvs
    ]
    assert len(together) == 25
    assert all(kv.key and kv.mod_revision and not kv.value for kv in together)


@pytest.mark.parametrize("max_request_bytes", [50_000, 1_500_000])
def test_a_stream_goes_as_fast_as_its_reader(max_request_bytes: int) -> None:
    member = Member(max_request_bytes=max_request_bytes).start()
    fill(member, 6 * LONG_KEYS, 1500)
    most = MAX_QUEUED_BYTES + LONG_KEYS * 1600 + max_request_bytes
    client = Client(member, window=0)
    stream_id = client.begin(KV + "RangeStream", ALL)
    member.settle()
    queued = client.session.connection.queued_bytes
    assert 0 < queued(stream_id) < most
    member.do(requests.PUT, PutRequest(key=b"k000000", value=b"later"))
    client.allow(0, 1 << 28)
    for _ in range(100):
        client.allow(stream_id, 100_000)
        member.settle()
        assert queued(stream_id) < most
    client.read()
    answered = client.streams[stream_id]
    assert answered.status == 0
    kvs = [kv for each in answered.parse(RangeStreamResponse) for kv in each.range_response.kvs]
    assert len(kvs) == 6 * LONG_KEYS
    assert kvs[0].value != b"later"
    assert member.state.store._pins == []


@pytest.mark.parametrize("how", ["reset", "lost", "stalled"])
def test_a_stream_nobody_reads_lets_go(member: Member, how: str) -> None:
    """Compaction waits for it, so it must not last for ever."""
    fill(member, 3 * LONG_KEYS, 3000)
    client = Client(member, window=0)
    stream_id = client.begin(KV + "RangeStream", ALL)
    member.settle()
    assert member.state.store._pins != []
    if how == "reset":
        client.reset(stream_id)
    elif how == "lost":
        client.session.closed()
    else:
        member.clock.advance(STALL_TIMEOUT_S - 1)
        assert member.state.store._pins != []
        member.clock.advance(2)
    assert member.state.store._pins == []


def test_what_a_stream_refuses(client: Client) -> None:
    bad: list[tuple[dict[str, Any], int]] = [
        ({"sort_order": RangeRequest.DESCEND}, UNIMPLEMENTED),
        ({"sort_target": RangeRequest.MOD}, UNIMPLEMENTED),
        ({"min_mod_revision": 1}, UNIMPLEMENTED),
        ({"max_create_revision": 1}, UNIMPLEMENTED),
        ({"revision": 99}, OUT_OF_RANGE),
        ({"key": b""}, 3),
    ]
    for fields, status in bad:
        answered = client.call(KV + "RangeStream", RangeRequest(**{"key": b"k", **fields}))
        assert answered.status == status, fields
    (only,) = chunks(client, RangeRequest(key=b"k", range_end=b"l", count_only=True))
    assert (only.count, only.HasField("header")) == (0, True)


# --- maintenance


def test_status_lists_what_is_wrong(client: Client) -> None:
    member = client.member
    for kind, who in ((NOSPACE, 7), (9, 8)):
        member.do(requests.ALARM, AlarmRequest(action=AlarmRequest.ACTIVATE, alarm=kind, memberID=who))  # type: ignore[arg-type]
    status = client.ask(MAINTENANCE + "Status", StatusRequest(), StatusResponse)
    assert list(status.errors) == ["memberID:7 alarm:NOSPACE ", "memberID:8 alarm:9 "]
    assert status.leader == member.server.member_id
    assert status.raftIndex >= status.raftAppliedIndex > 0
    assert status.dbSizeQuota == 2 << 30


def test_hashes(client: Client) -> None:
    member = client.member
    fill(member, 50)
    found = client.ask(MAINTENANCE + "HashKV", HashKVRequest(), HashKVResponse)
    assert (found.hash, found.compact_revision) == member.hash_kv()
    assert found.hash_revision == found.header.revision == 51
    assert client.call(MAINTENANCE + "HashKV", HashKVRequest(revision=99)).status == OUT_OF_RANGE
    before = client.ask(MAINTENANCE + "Hash", HashRequest(), HashResponse).hash
    member.do(requests.PUT, PutRequest(key=b"k"))
    assert client.ask(MAINTENANCE + "Hash", HashRequest(), HashResponse).hash != before
    assert member.server.hashes_running == 0


def test_only_so_many_hashes_at_a_time(member: Member) -> None:
    """Each pins a view of the backend, of which there are not so many; a crowd of them must not end the member."""
    fill(member, 3 * LONG_KEYS)
    client = Client(member)
    streams = [client.begin(MAINTENANCE + "Hash", HashRequest()) for _ in range(2 * MAX_HASHES)]
    member.settle()
    client.read()
    statuses = [client.streams[stream_id].status for stream_id in streams]
    assert statuses.count(0) == MAX_HASHES
    assert statuses.count(UNKNOWN) == MAX_HASHES
    assert client.call(MAINTENANCE + "Hash", HashRequest()).status == 0
    assert not member.failures


def test_a_defragmentation_answers_when_done() -> None:
    member = Member(stepped=True).start()
    client = Client(member)
    member.do(requests.PUT, PutRequest(key=b"k"))
    stream_id = client.begin(MAINTENANCE + "Defragment", DefragmentRequest())
    member.clock.run()
    client.read()
    assert not client.streams[stream_id].ended
    assert client.answer(stream_id).parse(DefragmentResponse) == [DefragmentResponse()]


def test_a_defragmentation_without_room_is_an_error_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    member = Member().start()
    client = Client(member)
    with monkeypatch.context() as patch:
        patch.setattr(type(member.backend), "defragment", lambda _, done: done(Undone("no space left")))
        answered = client.call(MAINTENANCE + "Defragment", DefragmentRequest())
    assert (answered.status, answered.message) == (2, "no space left")
    assert not member.failures
    assert client.call(MAINTENANCE + "Defragment", DefragmentRequest()).status == 0


def test_defragmentations_under_way_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    member = Member().start()
    client = Client(member)
    under_way: list[Done] = []
    monkeypatch.setattr(type(member.backend), "defragment", lambda _, done: under_way.append(done))
    for _ in range(2):
        client.begin(MAINTENANCE + "Defragment", DefragmentRequest())
    member.settle()
    counts = [member.metrics.defrag_inflight]
    for outcome in (None, Undone("no space left")):
        under_way.pop(0)(outcome)
        counts.append(member.metrics.defrag_inflight)
    assert counts == [2, 1, 0]


@pytest.mark.parametrize("stops", [False, True])
def test_health_during_a_defragmentation(stops: bool) -> None:
    member = Member(stepped=True, feature_gates=f"StopGRPCServiceOnDefrag={str(stops).lower()}").start()
    client = Client(member)
    member.settle()
    during = HealthCheckResponse.NOT_SERVING if stops else HealthCheckResponse.SERVING
    watching = [client.begin(HEALTH + "Watch", HealthCheckRequest(service=name)) for name in ("", "", "none")]
    for _ in range(2):
        client.begin(MAINTENANCE + "Defragment", DefragmentRequest())
    member.clock.run()
    asked = client.begin(HEALTH + "Check", HealthCheckRequest())
    listed = client.begin(HEALTH + "List", HealthListRequest())
    member.clock.run()
    client.read()
    assert client.streams[asked].parse(HealthCheckResponse)[0].status == during
    assert client.streams[listed].parse(HealthListResponse)[0].statuses[""].status == during
    client.reset(watching[1])
    statuses = [[each.status for each in client.answer(stream).parse(HealthCheckResponse)] for stream in watching]
    assert statuses[0] == ([1, 2, 1] if stops else [1])
    assert statuses[1] == ([1, 2] if stops else [1])
    assert statuses[2] == [HealthCheckResponse.SERVICE_UNKNOWN]
    client.session.closed()
    assert not member.server.health.watchers


def test_a_physical_compaction_answers_when_the_rows_are_gone() -> None:
    member = Member(compaction_batch_limit=40, compaction_sleep_interval_s=4.0).start()
    client = Client(member)
    for _ in range(50):
        member.do(requests.PUT, PutRequest(key=b"k"))
    quick = client.begin(KV + "Compact", CompactionRequest(revision=20))
    slow = client.begin(KV + "Compact", CompactionRequest(revision=50, physical=True))
    assert client.answer(quick).parse(CompactionResponse)[0].header.revision == 51
    assert not client.answer(slow).ended
    while not client.answer(slow).ended:
        member.clock.advance(0.5)
    assert len(member.backend.range(b"key", b"\0", None)) == 2
    assert not member.state.store.compacting


def test_too_many_operations_and_the_empty_txn(client: Client) -> None:
    assert client.call(KV + "Txn", TxnRequest()).status == 0


# --- pages


class Browser:
    def __init__(self, member: Member, *, client: bool = True) -> None:
        self.member = member
        self.pages = HttpPages(
            member.server, lambda: b"metrics", (lambda: {"cmdline": ["ratifyd"]}) if client else None
        )
        self.answers: list[tuple[int, dict[str, str], bytes]] = []

    def get(self, path: str, query: str = "", method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        count = len(self.answers)
        self.pages.handle(method, path, query, self.answer)
        self.member.settle()
        assert len(self.answers) == count + 1
        return self.answers[-1]

    def answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.answers.append((status, dict(headers), body))


def test_health(member: Member) -> None:
    browser = Browser(member)
    assert browser.get("/health")[::2] == (200, b'{"health":"true","reason":""}')
    assert browser.get("/health", method="POST")[0] == 405
    member.do(requests.ALARM, AlarmRequest(action=AlarmRequest.ACTIVATE, alarm=NOSPACE, memberID=1))
    member.do(requests.ALARM, AlarmRequest(action=AlarmRequest.ACTIVATE, alarm=CORRUPT, memberID=1))
    assert browser.get("/health")[::2] == (503, b'{"health":"false","reason":"ALARM NOSPACE"}\n')
    assert browser.get("/health", "exclude=NOSPACE")[2] == b'{"health":"false","reason":"ALARM CORRUPT"}\n'
    assert browser.get("/health", "exclude=NOSPACE&exclude=CORRUPT")[0] == 200
    assert (member.metrics.health_success, member.metrics.health_failures) == (2, 2)


def test_health_without_a_leader() -> None:
    member = Member(initial_cluster="default=http://localhost:2380,other=http://localhost:3380").start()
    browser = Browser(member)
    assert browser.get("/health")[2] == b'{"health":"false","reason":"RAFT NO LEADER"}\n'
    assert browser.get("/health", "serializable=true")[0] == 200
    member.raft.leader_id = 99
    browser.pages.handle("GET", "/health", "", browser.answer)
    member.clock.run()
    member.raft.leader_id = 0
    member.clock.advance(8)
    assert browser.answers[-1][2].startswith(b'{"health":"false","reason":"RANGE ERROR:etcdserver: ')


def test_other_pages(member: Member) -> None:
    browser, monitor = Browser(member), Browser(member, client=False)
    status, _, body = browser.get("/version")
    version = json.loads(body)
    assert (status, version["etcdcluster"]) == (200, member.state.members.cluster_version)
    assert monitor.get("/version")[0] == 404
    for each in (browser, monitor):
        assert each.get("/metrics")[::2] == (200, b"metrics")
        assert each.get("/nothing")[0] == 404
