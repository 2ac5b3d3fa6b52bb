"""Queues of candidates: what becomes of a key when its client leaves, at each moment it can; nothing stays behind."""

from collections.abc import Callable
from typing import Any, cast

import pytest

from ratifyd.api.calls import MAX_QUEUED_BYTES, ask
from ratifyd.api.identity import TokenAhead
from ratifyd.apply import requests
from ratifyd.errors import InvalidAuthToken
from ratifyd.proto.election_pb2 import CampaignRequest, CampaignResponse, LeaderRequest, LeaderResponse
from ratifyd.proto.lock_pb2 import LockRequest, LockResponse
from ratifyd.proto.rpc_pb2 import CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest
from tests.support_client import Client
from tests.support_member import Member

LOCK = "/v3lockpb.Lock/Lock"
CAMPAIGN = "/v3electionpb.Election/Campaign"
OBSERVE = "/v3electionpb.Election/Observe"
OK, CANCELLED, DEADLINE_EXCEEDED = 0, 1, 4


@pytest.fixture
def member() -> Member:
    started = Member().start()
    for lease in (1, 2, 3):
        started.do(requests.LEASE_GRANT, LeaseGrantRequest(ID=lease, TTL=600))
    return started


@pytest.fixture
def client(member: Member) -> Client:
    return Client(member)


def keys(member: Member) -> list[bytes]:
    """The live keys of the queue."""
    return [key for key in (b"l/1", b"l/2", b"l/3") if member.state.store.get(key) is not None]


def request(lease: int) -> LockRequest:
    return LockRequest(name=b"l", lease=lease)


def held(client: Client, stream_id: int) -> bytes:
    """The key of a lock that was given."""
    (response,) = client.answer(stream_id).parse(LockResponse)
    return bytes(response.key)


def delete(member: Member, key: bytes) -> None:
    member.do(requests.DELETE_RANGE, DeleteRangeRequest(key=key))
    member.settle()


def nothing_is_left(client: Client) -> None:
    client.member.settle()
    assert client.session.when_gone == {}
    assert client.member.state.hub.watcher_count == 0


def lose(client: Client, stream_id: int) -> None:
    """The whole connection."""
    client.session.closed()


Departure = Callable[[Client, int], None]
DEPARTURES: list[Departure] = [Client.reset, lose]


@pytest.mark.parametrize("leave", DEPARTURES)
def test_leaving_while_waiting(member: Member, leave: Departure) -> None:
    client, other = Client(member), Client(member)
    assert held(client, client.begin(LOCK, request(1))) == b"l/1"
    second = other.begin(LOCK, request(2))
    third = client.begin(LOCK, request(3))
    member.settle()
    assert (keys(member), member.state.hub.watcher_count) == ([b"l/1", b"l/2", b"l/3"], 2)
    leave(other, second)
    member.settle()
    assert (keys(member), member.state.hub.watcher_count) == ([b"l/1", b"l/3"], 1)
    delete(member, b"l/1")
    assert held(client, third) == b"l/3"
    nothing_is_left(client)
    nothing_is_left(other)


@pytest.mark.parametrize("leave", DEPARTURES)
def test_leaving_before_the_entry_is_applied(member: Member, leave: Departure) -> None:
    for path, message in ((LOCK, request(1)), (CAMPAIGN, CampaignRequest(name=b"l", lease=1))):
        client = Client(member)
        leave(client, client.begin(path, message))
        assert keys(member) == []
        member.settle()
        assert keys(member) == []
        assert member.state.store.revision % 2 == 1, "the key was not created and deleted"
        nothing_is_left(client)


@pytest.mark.parametrize("leave", DEPARTURES)
def test_leaving_does_not_release_what_an_earlier_request_holds(member: Member, leave: Departure) -> None:
    first, client = Client(member), Client(member)
    assert held(first, first.begin(LOCK, request(1))) == b"l/1"
    leave(client, client.begin(LOCK, request(1)))
    nothing_is_left(client)
    assert keys(member) == [b"l/1"]


def test_leaving_before_the_lease_is_granted(member: Member, client: Client) -> None:
    client.reset(client.begin(LOCK, LockRequest(name=b"l")))
    revision = member.state.store.revision
    nothing_is_left(client)
    assert member.state.store.revision == revision


def test_leaving_while_the_key_is_looked_at(member: Member, client: Client) -> None:
    client.begin(LOCK, request(1))
    second = client.begin(LOCK, request(2))
    member.settle()
    member.server.propose(
        requests.DELETE_RANGE, DeleteRangeRequest(key=b"l/1").SerializeToString(), lambda body, error: None
    )
    while not member.server.reads.queued:
        assert member.clock.run_one(), "never read"
    assert keys(member) == [b"l/2"]
    client.reset(second)
    nothing_is_left(client)
    assert keys(member) == []


def test_a_deadline_while_waiting(member: Member, client: Client) -> None:
    before = member.clock.pending
    client.call(LOCK, request(1), grpc_timeout="10S")
    assert member.clock.pending == before
    second = client.begin(LOCK, request(2), grpc_timeout="10S")
    member.clock.advance(9)
    assert (client.answer(second).status, keys(member)) == (None, [b"l/1", b"l/2"])
    member.clock.advance(2)
    answered = client.answer(second)
    assert (answered.status, answered.message) == (DEADLINE_EXCEEDED, "context deadline exceeded")
    nothing_is_left(client)
    assert keys(member) == [b"l/1"]


def test_each_request_is_counted_once(member: Member, client: Client) -> None:
    rpc = member.metrics.rpcs[LOCK.encode()]
    client.call(LOCK, request(1))
    second, _ = client.begin(LOCK, request(2)), client.begin(LOCK, request(3))
    client.reset(second)
    client.session.closed()
    member.settle()
    assert (rpc.served, rpc.handled[CANCELLED], sum(rpc.handled)) == (1, 2, 2)


def test_no_leader_fails_the_entry_but_nobody_who_waits(member: Member, client: Client) -> None:
    client.call(LOCK, request(1))
    second = client.begin(LOCK, request(2))
    member.settle()
    leader, member.raft.leader_id = member.raft.leader_id, 0
    third = client.begin(LOCK, request(3))
    member.clock.run()
    member.clock.advance(8)
    answered = client.answer(third)
    assert (answered.status, answered.message) == (DEADLINE_EXCEEDED, "context deadline exceeded")
    assert client.answer(second).status is None
    member.raft.leader_id = leader
    delete(member, b"l/1")
    assert held(client, second) == b"l/2"


def restore(member: Member, revision: int) -> None:
    """Replace the store by a newer one without history, as a snapshot does: all watchers are behind, some too far."""
    hub = member.state.hub
    hub.restore(revision)
    member.do(requests.COMPACTION, CompactionRequest(revision=member.state.store.revision))
    while hub.has_work:
        hub.catch_up()
        member.settle()


def test_waiting_goes_on_after_a_snapshot(member: Member, client: Client) -> None:
    client.call(LOCK, request(1))
    second = client.begin(LOCK, request(2))
    third = client.begin(LOCK, request(3))
    member.settle()
    (watcher,) = [w for w in watchers(member) if w.keys.start == b"l/1"]
    member.state.hub.remove(watcher)  # as if it had not been told of what follows
    delete(member, b"l/1")
    watcher.sink.compacted(watcher, member.state.store.revision)
    assert held(client, second) == b"l/2"
    restore(member, member.state.store.revision - 2)
    assert client.answer(third).status is None
    delete(member, b"l/2")
    assert held(client, third) == b"l/3"
    nothing_is_left(client)


def watchers(member: Member) -> list[Any]:
    """The synced watchers."""
    return [watcher for audience in member.state.hub.synced.audiences() for watcher in audience.watchers]


@pytest.mark.parametrize("in_time", [True, False])
def test_a_request_in_a_clients_name_waits_for_its_token(member: Member, in_time: bool) -> None:
    index, outcomes = member.server.node.applied + 1, []

    def handler(server: Any, call: Any) -> None:
        if server.node.applied < index:
            raise TokenAhead(index)
        call.reply(b"done")

    ask(handler, member.server, cast(Any, None), RangeRequest(), lambda body, error: outcomes.append((body, error)))
    assert outcomes == []
    if in_time:
        member.do(requests.PUT, PutRequest(key=b"k"))
        assert outcomes == [(b"done", None)]
    else:
        member.clock.advance(10)
        assert [type(error) for _, error in outcomes] == [InvalidAuthToken]
    assert member.server.held_bytes == 0


# --- observers


def observed(client: Client, stream_id: int) -> list[tuple[bytes, bytes, int]]:
    return [
        (each.kv.key, each.kv.value, each.header.revision) for each in client.answer(stream_id).parse(LeaderResponse)
    ]


def campaign(client: Client, lease: int, value: bytes) -> CampaignResponse:
    message = CampaignRequest(name=b"l", lease=lease, value=value)
    answer: CampaignResponse = client.ask(CAMPAIGN, message, CampaignResponse)
    return answer


@pytest.mark.parametrize("how", ["reset", "close"])
def test_an_observer_that_leaves(client: Client, how: str) -> None:
    observer = client.begin(OBSERVE, LeaderRequest(name=b"l"))
    if how == "close":
        client.session.closed()
    else:
        client.member.settle()
        assert client.member.state.hub.watcher_count == 1
        client.reset(observer)
    nothing_is_left(client)


def test_a_slow_observer_is_told_from_history_what_it_missed(member: Member) -> None:
    client, writer = Client(member), Client(member)
    campaign(writer, 1, b"first")
    observer = client.begin(OBSERVE, LeaderRequest(name=b"l"))
    assert [value for _, value, _ in observed(client, observer)] == [b"first"]
    client.link.stuck = MAX_QUEUED_BYTES + 1
    for number in range(5):
        member.do(requests.PUT, PutRequest(key=b"l/1", value=b"%d" % number, lease=1))
    assert len(observed(client, observer)) == 1
    client.link.stuck = 0
    client.session.resume_writing()
    assert [value for _, value, _ in observed(client, observer)] == [b"first", b"0", b"1", b"2", b"3", b"4"]


def test_a_slow_observer_of_a_leader_that_has_gone(member: Member) -> None:
    client, writer = Client(member), Client(member)
    campaign(writer, 1, b"first")
    observer = client.begin(OBSERVE, LeaderRequest(name=b"l"))
    assert len(observed(client, observer)) == 1
    client.link.stuck = MAX_QUEUED_BYTES + 1
    member.do(requests.PUT, PutRequest(key=b"l/1", value=b"more", lease=1))
    delete(member, b"l/1")
    campaign(writer, 2, b"second")
    client.link.stuck = 0
    client.session.resume_writing()
    assert [value for _, value, _ in observed(client, observer)] == [b"first", b"more", b"second"]


def test_an_observer_whose_history_is_gone_sees_the_present(member: Member) -> None:
    client, writer = Client(member), Client(member)
    campaign(writer, 1, b"first")
    observer = client.begin(OBSERVE, LeaderRequest(name=b"l"))
    assert len(observed(client, observer)) == 1
    client.link.stuck = MAX_QUEUED_BYTES + 1
    for number in range(5):
        member.do(requests.PUT, PutRequest(key=b"l/1", value=b"%d" % number, lease=1))
    member.do(requests.COMPACTION, CompactionRequest(revision=member.state.store.revision))
    client.link.stuck = 0
    client.session.resume_writing()
    assert [value for _, value, _ in observed(client, observer)] == [b"first", b"4"]
    assert member.state.hub.watcher_count == 1


def test_an_observer_ends_well_when_the_member_cannot_tell(member: Member, client: Client) -> None:
    member.raft.leader_id = 0
    observer = client.begin(OBSERVE, LeaderRequest(name=b"l"))
    member.clock.run()
    member.clock.advance(8)
    answered = client.answer(observer)
    assert (answered.status, answered.messages) == (OK, [])


def test_messages_that_are_none(client: Client) -> None:
    for path in (LOCK, CAMPAIGN, OBSERVE):
        assert client.call(path, b"\xff").status == 13
    nothing_is_left(client)
