"""The Election service: campaigns, proclamations, observers."""

import itertools
import queue as queues
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest

from harness.clusters import wait_for
from harness.outcomes import delete, failure, get, put
from harness.servers import WATCHERS, EtcdServer, metric
from harness.stubs import LATE, Client, status_of
from ratifyd.proto import election_pb2, rpc_pb2

_leases = itertools.count(0xE00)
WAIT_S = 10
NOT_LEADER = ("UNKNOWN", "election: not leader")
NO_LEADER = ("UNKNOWN", "election: no leader")
NO_PROOF = ("UNKNOWN", '"leader" field must be provided')
EMPTY_KEY = ("UNKNOWN", "etcdserver: key is not provided")
NO_LEASE = ("UNKNOWN", "etcdserver: requested lease not found")


def campaign(client: Client, name: bytes, lease: int, value: bytes = b"", **options: Any) -> Any:
    return client.election.Campaign(election_pb2.CampaignRequest(name=name, lease=lease, value=value), **options)


def waiting(client: Client, name: bytes, lease: int, value: bytes, queued: int) -> Any:
    """Begin a campaign that cannot be won yet; returns when `queued` keys are in the election."""
    request = election_pb2.CampaignRequest(name=name, lease=lease, value=value)
    future = client.election.Campaign.future(request, timeout=30)
    wait_for("the entry", lambda: get(client, name + b"/", name + b"0").count == queued or None, WAIT_S)
    return future


def proclaim(client: Client, leader: election_pb2.LeaderKey | None, value: bytes) -> Any:
    return client.election.Proclaim(election_pb2.ProclaimRequest(leader=leader, value=value))


def resign(client: Client, leader: election_pb2.LeaderKey | None) -> Any:
    return client.election.Resign(election_pb2.ResignRequest(leader=leader))


def leader(client: Client, name: bytes) -> Any:
    return client.election.Leader(election_pb2.LeaderRequest(name=name))


def altered(proof: election_pb2.LeaderKey, **fields: Any) -> election_pb2.LeaderKey:
    made = election_pb2.LeaderKey()
    made.CopyFrom(proof)
    for field, value in fields.items():
        setattr(made, field, value)
    return made


class Observer:
    """Reads an Observe stream in the background."""

    def __init__(self, client: Client, name: bytes) -> None:
        self.call = client.election.Observe(election_pb2.LeaderRequest(name=name), timeout=30)
        self._seen: queues.SimpleQueue[Any] = queues.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            for response in self.call:
                self._seen.put(response)
        except grpc.RpcError:
            pass

    def take(self) -> tuple[bytes, bytes, int, int]:
        """Key, value, its revision and that of the header."""
        response = self._seen.get(timeout=WAIT_S)
        kv = response.kv
        return kv.key, kv.value, kv.mod_revision, response.header.revision

    def stop(self) -> None:
        self.call.cancel()
        self._reader.join(WAIT_S)
        assert self._seen.empty()


@pytest.fixture
def observe(client: Client) -> Iterator[Callable[[bytes], Observer]]:
    """Observe elections; at the end nobody may have seen more than was taken."""
    with ExitStack() as stack:

        def start(name: bytes) -> Observer:
            observer = Observer(client, name)
            stack.callback(observer.stop)
            return observer

        yield start


@pytest.fixture
def leases(new_lease: Callable[..., int]) -> Callable[[int], list[int]]:
    return lambda count: [new_lease(600, next(_leases)) for _ in range(count)]


@pytest.fixture
def name(prefix: bytes) -> bytes:
    return prefix + b"election"


def test_winning_alone(client: Client, name: bytes, leases: Callable[[int], list[int]]) -> None:
    (lease,) = leases(1)
    assert failure(leader, client, name) == NO_LEADER
    before = get(client, b"x").header
    won = campaign(client, name, lease, b"value")
    key = name + b"/%x" % lease
    revision = before.revision + 1
    assert won.leader == election_pb2.LeaderKey(name=name, key=key, rev=revision, lease=lease)
    assert (won.header.revision, won.header.member_id) == (revision, before.member_id)
    put(client, name)
    found = leader(client, name)
    assert (found.kv.key, found.kv.value, found.kv.lease) == (key, b"value", lease)
    assert (found.kv.create_revision, found.header.revision) == (revision, revision + 1)


def test_the_next_one_wins_with_the_header_of_its_entry(
    client: Client, name: bytes, leases: Callable[[int], list[int]]
) -> None:
    first, second = leases(2)
    won = campaign(client, name, first, b"first")
    next_ = waiting(client, name, second, b"second", 2)
    entered = get(client, name + b"/%x" % second).kvs[0].create_revision
    put(client, name)
    assert not next_.done() and leader(client, name).kv.value == b"first"
    assert resign(client, won.leader).header.revision == entered + 2
    led = next_.result(WAIT_S)
    assert (led.leader.rev, led.header.revision) == (entered, entered)
    assert leader(client, name).kv.value == b"second"


def test_campaigning_again_changes_the_value(client: Client, name: bytes, leases: Callable[[int], list[int]]) -> None:
    (lease,) = leases(1)
    first = campaign(client, name, lease, b"one")
    put(client, name)
    same = campaign(client, name, lease, b"one")
    assert (same.leader, same.header.revision) == (first.leader, first.header.revision + 1)
    other = campaign(client, name, lease, b"two")
    assert other.leader == first.leader
    assert other.header.revision == same.header.revision  # of the entry, not of the change
    found = leader(client, name).kv
    assert (found.value, found.version, found.create_revision) == (b"two", 2, first.leader.rev)


def test_proclaiming(client: Client, name: bytes, leases: Callable[[int], list[int]]) -> None:
    (lease,) = leases(1)
    proof = campaign(client, name, lease, b"one").leader
    assert proclaim(client, proof, b"two").header.revision == proof.rev + 1
    assert leader(client, name).kv.value == b"two"
    assert failure(proclaim, client, altered(proof, rev=proof.rev - 1), b"x") == NOT_LEADER
    assert failure(proclaim, client, altered(proof, key=b"nobody"), b"x") == NOT_LEADER
    assert failure(proclaim, client, altered(proof, lease=987654321), b"x") == NO_LEASE
    assert failure(proclaim, client, altered(proof, lease=987654321, rev=1), b"x") == NOT_LEADER
    assert failure(proclaim, client, None, b"x") == NO_PROOF
    assert failure(proclaim, client, altered(proof, key=b""), b"x") == EMPTY_KEY
    assert leader(client, name).kv.version == 2


def test_a_proclamation_without_lease_gets_one_of_its_own(
    client: Client, name: bytes, leases: Callable[[int], list[int]]
) -> None:
    (lease,) = leases(1)
    proof = campaign(client, name, lease, b"one").leader
    proclaim(client, altered(proof, lease=0), b"two")
    moved = leader(client, name).kv.lease
    assert moved not in (0, lease)
    found = client.lease.LeaseTimeToLive(rpc_pb2.LeaseTimeToLiveRequest(ID=moved))
    assert found.grantedTTL == 60
    client.lease.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=moved))
    assert failure(leader, client, name) == NO_LEADER


def test_resigning(client: Client, name: bytes, leases: Callable[[int], list[int]]) -> None:
    (lease,) = leases(1)
    proof = campaign(client, name, lease, b"one").leader
    assert resign(client, altered(proof, rev=proof.rev - 1)).header.revision == proof.rev
    assert resign(client, proof).header.revision == proof.rev + 1
    assert resign(client, proof).header.revision == proof.rev + 1
    assert failure(leader, client, name) == NO_LEADER
    assert failure(proclaim, client, proof, b"x") == NOT_LEADER
    assert failure(resign, client, None) == NO_PROOF
    assert failure(resign, client, altered(proof, key=b"")) == EMPTY_KEY


def test_giving_up_takes_the_candidate_away(client: Client, name: bytes, leases: Callable[[int], list[int]]) -> None:
    first, second, third = leases(3)
    campaign(client, name, first, b"first")
    waiting(client, name, second, b"second", 2).cancel()
    assert failure(campaign, client, name, third, timeout=0.3) in LATE
    wait_for("one candidate", lambda: get(client, name + b"/", name + b"0").count == 1 or None, WAIT_S)
    assert leader(client, name).kv.value == b"first"


def test_a_candidate_without_lease_wins_nothing_and_is_told_that_it_has(
    client: Client, name: bytes, leases: Callable[[int], list[int]]
) -> None:
    """Campaign, unlike Lock, does not look at its key again."""
    first, second = leases(2)
    proof = campaign(client, name, first, b"first").leader
    dead = waiting(client, name, second, b"dead", 2)
    client.lease.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=second))
    resign(client, proof)
    assert dead.result(WAIT_S).leader.key == name + b"/%x" % second
    assert failure(leader, client, name) == NO_LEADER


def test_campaign_errors(client: Client, name: bytes, leases: Callable[[int], list[int]]) -> None:
    assert failure(campaign, client, name, 987654321) == NO_LEASE
    (lease,) = leases(1)
    assert failure(campaign, client, name, lease, b"v" * 1_600_000) == ("UNKNOWN", "etcdserver: request is too large")
    assert failure(leader, client, name) == NO_LEADER


def test_without_a_lease_a_minute_is_given(client: Client, name: bytes) -> None:
    proof = campaign(client, name, 0, b"v").leader
    assert proof.key == name + b"/%x" % proof.lease
    found = client.lease.LeaseTimeToLive(rpc_pb2.LeaseTimeToLiveRequest(ID=proof.lease))
    assert (found.grantedTTL, 50 < found.TTL <= 60) == (60, True)
    client.lease.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=proof.lease))


# --- observers


def test_observers_see_every_change_of_a_leader(
    client: Client, name: bytes, leases: Callable[[int], list[int]], observe: Callable[[bytes], Observer]
) -> None:
    (lease,) = leases(1)
    proof = campaign(client, name, lease, b"one").leader
    put(client, name)
    observer = observe(name)
    assert observer.take() == (proof.key, b"one", proof.rev, proof.rev + 1)
    for number in range(2, 6):
        value = b"%d" % number
        proclaim(client, proof, value)
        assert observer.take() == (proof.key, value, proof.rev + number, proof.rev + number)


def test_observers_wait_for_the_first_leader(
    client: Client, name: bytes, leases: Callable[[int], list[int]], observe: Callable[[bytes], Observer]
) -> None:
    first, second = leases(2)
    observer = observe(name)
    # Nothing tells that the server observes: whatever is written before it does must not be its first sight.
    wait_for("the watcher", lambda: True if client.kv.Range(rpc_pb2.RangeRequest(key=b"x")) else None)
    proof = campaign(client, name, first, b"one").leader
    assert observer.take()[:3] == (proof.key, b"one", proof.rev)
    resign(client, proof)
    put(client, name)
    other = campaign(client, name, second, b"two").leader
    assert observer.take()[:3] == (other.key, b"two", other.rev)


def test_observers_go_on_to_the_next_leader(
    client: Client, name: bytes, leases: Callable[[int], list[int]], observe: Callable[[bytes], Observer]
) -> None:
    first, second, third = leases(3)
    proof = campaign(client, name, first, b"first").leader
    observer = observe(name)
    assert observer.take()[1] == b"first"
    next_ = waiting(client, name, second, b"second", 2)
    last = waiting(client, name, third, b"third", 3)
    left = resign(client, proof).header.revision
    assert observer.take()[1::2] == (b"second", left)
    client.lease.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=second))
    assert observer.take()[1] == b"third"
    proclaim(client, last.result(WAIT_S).leader, b"more")
    assert observer.take()[1] == b"more"
    assert next_.result(WAIT_S)


def test_observers_survive_a_compaction(fresh: Client) -> None:
    fresh.lease.LeaseGrant(rpc_pb2.LeaseGrantRequest(ID=1, TTL=600))
    proof = campaign(fresh, b"e", 1, b"one").leader
    observer = Observer(fresh, b"e")
    assert observer.take()[1] == b"one"
    for _ in range(3):
        revision = put(fresh, b"k").header.revision
    fresh.kv.Compact(rpc_pb2.CompactionRequest(revision=revision, physical=True))
    proclaim(fresh, proof, b"two")
    assert observer.take()[1] == b"two"
    observer.stop()


def test_any_key_below_the_name_is_a_candidate(
    client: Client, name: bytes, observe: Callable[[bytes], Observer]
) -> None:
    put(client, name + b"/by hand", b"v")
    assert leader(client, name).kv.key == name + b"/by hand"
    observer = observe(name)
    assert observer.take()[1] == b"v"
    put(client, name + b"/by hand", b"w")
    assert observer.take()[1] == b"w"
    delete(client, name + b"/by hand")
    assert failure(leader, client, name) == NO_LEADER


def test_observers_that_leave_take_their_watchers_with_them(server: EtcdServer, client: Client, name: bytes) -> None:
    def watchers() -> float:
        return metric(server, WATCHERS)

    before = watchers()
    with Client(server.client_endpoint) as other:
        calls = [other.election.Observe(election_pb2.LeaderRequest(name=name)) for _ in range(50)]
        wait_for("watchers", lambda: watchers() == before + 50 or None, WAIT_S)
        for call in calls[::2]:
            call.cancel()
        wait_for("half of them", lambda: watchers() == before + 25 or None, WAIT_S)
    wait_for("none of them", lambda: watchers() == before or None, WAIT_S)


def test_an_observer_ends_at_its_deadline(client: Client, name: bytes) -> None:
    call = client.election.Observe(election_pb2.LeaderRequest(name=name), timeout=0.3)
    with pytest.raises(grpc.RpcError) as failed:
        next(call)
    assert status_of(failed.value) in LATE
