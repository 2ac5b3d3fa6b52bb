"""A member that is about to stop: what would last for ever ends at once, short requests still finish."""

import pytest

from ratifyd.apply import requests
from ratifyd.errors import Code
from ratifyd.proto.election_pb2 import LeaderRequest
from ratifyd.proto.health_pb2 import HealthCheckRequest
from ratifyd.proto.lock_pb2 import LockRequest
from ratifyd.proto.rpc_pb2 import (
    LeaseGrantRequest,
    LeaseKeepAliveRequest,
    PutRequest,
    RangeRequest,
    WatchCreateRequest,
    WatchRequest,
)
from tests.support_client import Client
from tests.support_member import Member

WATCH = "/etcdserverpb.Watch/Watch"
STREAMS = [
    (WATCH, WatchRequest(create_request=WatchCreateRequest(key=b"k"))),
    ("/etcdserverpb.Lease/LeaseKeepAlive", LeaseKeepAliveRequest(ID=1)),
    ("/v3electionpb.Election/Observe", LeaderRequest(name=b"e")),
    ("/grpc.health.v1.Health/Watch", HealthCheckRequest()),
]
LOCK = "/v3lockpb.Lock/Lock"
STOPPED = (Code.UNAVAILABLE, "etcdserver: server stopped")


@pytest.fixture
def member() -> Member:
    started = Member().start()
    for lease in (1, 2):
        started.do(requests.LEASE_GRANT, LeaseGrantRequest(ID=lease, TTL=600))
    return started


@pytest.fixture
def client(member: Member) -> Client:
    return Client(member)


def outcome(client: Client, stream_id: int) -> tuple[int | None, str]:
    answer = client.answer(stream_id)
    return answer.status, answer.message


def test_streams_end_at_once(member: Member, client: Client) -> None:
    streams = {path: client.open(path, message) for path, message in STREAMS}
    member.settle()
    assert len(member.server.lasting) == len(STREAMS)
    member.server.leave()
    member.settle()
    for path, stream_id in streams.items():
        assert outcome(client, stream_id) == STOPPED, path
        assert member.metrics.rpcs[path.encode()].handled[Code.UNAVAILABLE] == 1
    assert member.server.lasting == {}
    assert member.state.hub.watcher_count == 0


def test_new_streams_are_refused_and_short_requests_are_not(member: Member, client: Client) -> None:
    member.server.leave()
    for path, message in STREAMS:
        assert outcome(client, client.open(path, message)) == STOPPED, path
    assert client.call("/etcdserverpb.KV/Put", PutRequest(key=b"k")).status == 0
    assert client.call("/etcdserverpb.KV/Range", RangeRequest(key=b"k")).status == 0


def test_who_waits_for_a_lock_is_sent_away_and_leaves_the_queue(member: Member, client: Client) -> None:
    held = client.begin(LOCK, LockRequest(name=b"l", lease=1))
    waiting = client.begin(LOCK, LockRequest(name=b"l", lease=2))
    member.settle()
    assert client.answer(held).status == 0
    assert list(member.server.lasting) != []
    member.server.leave()
    member.settle()
    assert outcome(client, waiting) == STOPPED
    assert (member.server.lasting, client.session.when_gone) == ({}, {})
    assert [member.state.store.get(key) is not None for key in (b"l/1", b"l/2")] == [True, False]
    rpc = member.metrics.rpcs[LOCK.encode()]
    assert (rpc.served, sum(rpc.handled), rpc.handled[Code.UNAVAILABLE]) == (1, 1, 1)


def test_what_ended_by_itself_is_not_ended_again(member: Member, client: Client) -> None:
    reset = client.open(WATCH, STREAMS[0][1])
    lock = client.begin(LOCK, LockRequest(name=b"l", lease=1))
    member.settle()
    assert client.answer(lock).status == 0
    client.reset(reset)
    other = Client(member)
    other.open(WATCH, STREAMS[0][1])
    other.session.closed()
    assert member.server.lasting == {}
