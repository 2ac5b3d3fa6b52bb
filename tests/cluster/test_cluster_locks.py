"""Locks and elections on three members: through any of them, over the loss of the leader and of history."""

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from harness.clusters import call, wait_for
from harness.servers import EtcdServer
from harness.stubs import Client
from ratifyd.proto import election_pb2, lock_pb2, rpc_pb2
from tests.cluster.conftest import StartCluster

WAIT_S = 30
MORE_ENTRIES_THAN_A_STREAM = ("--snapshot-count=180", "--experimental-snapshot-catchup-entries=20")
"""As long as they are of a megabyte: what is on its way to a member that sleeps ends where the log has yet to begin."""
Connect = Callable[[EtcdServer], Client]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Stubs for a member, until the end of the test."""
    with ExitStack() as stack:
        yield lambda server: stack.enter_context(Client(server.client_endpoint))


def grant(client: Client, ttl: int = 600) -> int:
    return int(client.lease.LeaseGrant(rpc_pb2.LeaseGrantRequest(TTL=ttl)).ID)


def lock(client: Client, lease: int) -> Any:
    return client.lock.Lock(lock_pb2.LockRequest(name=b"l", lease=lease), timeout=WAIT_S)


def waiting(client: Client, lease: int, queued: int) -> Any:
    """Begin to wait for the lock; returns when `queued` keys are in its queue, as the member itself sees it."""
    future = client.lock.Lock.future(lock_pb2.LockRequest(name=b"l", lease=lease), timeout=60)

    def look() -> bool | None:
        request = rpc_pb2.RangeRequest(key=b"l/", range_end=b"l0", count_only=True, serializable=True)
        return client.kv.Range(request, timeout=5).count == queued or None

    wait_for("the entry", look, WAIT_S)
    return future


def key_of(lease: int) -> bytes:
    return b"l/%x" % lease


def test_through_any_member(start_cluster: StartCluster, connect: Connect) -> None:
    cluster = start_cluster()
    first, second, third = (connect(server) for server in cluster.members)
    leases = [grant(first), grant(second), grant(third)]
    assert lock(first, leases[0]).key == key_of(leases[0])
    calls = [waiting(second, leases[1], 2), waiting(third, leases[2], 3)]
    third.lock.Unlock(lock_pb2.UnlockRequest(key=key_of(leases[0])))
    assert calls[0].result(WAIT_S).key == key_of(leases[1])
    assert not calls[1].done()
    first.lock.Unlock(lock_pb2.UnlockRequest(key=key_of(leases[1])))
    assert calls[1].result(WAIT_S).key == key_of(leases[2])
    cluster.wait_equal()


def test_the_leader_dies_with_the_holder(start_cluster: StartCluster, connect: Connect) -> None:
    """Those who wait on other members go on waiting, and the lock comes when the dead one's lease has ended."""
    cluster = start_cluster()
    leader = cluster.leader()
    holder, waiter = connect(leader), connect(cluster.followers()[0])
    lost, kept = grant(holder, 2), grant(waiter)
    lock(holder, lost)
    call_ = waiting(waiter, kept, 2)
    won = holder.election.Campaign(election_pb2.CampaignRequest(name=b"e", lease=kept, value=b"one"))
    observed = waiter.election.Observe(election_pb2.LeaderRequest(name=b"e"), timeout=60)
    assert next(observed).kv.value == b"one"
    leader.kill()
    assert call_.result(WAIT_S).key == key_of(kept)
    proclaim = election_pb2.ProclaimRequest(leader=won.leader, value=b"two")
    assert waiter.election.Proclaim(proclaim, timeout=WAIT_S).header.revision
    assert next(observed).kv.value == b"two"
    observed.cancel()
    leader.restart()
    cluster.wait_equal()


def test_a_snapshot_in_place_of_history(start_cluster: StartCluster, connect: Connect) -> None:
    """A member that sleeps through the release of a lock, and is sent a snapshot, still wakes who waits there."""
    cluster = start_cluster(flags=MORE_ENTRIES_THAN_A_STREAM)
    sleeper = cluster.followers()[0]
    holder, waiter = connect(cluster.leader()), connect(sleeper)
    first, second = grant(holder), grant(holder)
    lock(holder, first)
    call_ = waiting(waiter, second, 2)
    observed = waiter.election.Observe(election_pb2.LeaderRequest(name=b"l"), timeout=60)
    assert next(observed).kv.key == key_of(first)
    sleeper.signal(signal.SIGSTOP)
    try:
        write(holder, 120, 1_000_000)  # more than the leader keeps for a stream
        holder.lock.Unlock(lock_pb2.UnlockRequest(key=key_of(first)))
        revision = write(holder, 100, 1)  # more than its log keeps
        holder.kv.Compact(rpc_pb2.CompactionRequest(revision=revision - 1), timeout=WAIT_S)
    finally:
        sleeper.signal(signal.SIGCONT)
    assert call_.result(WAIT_S).key == key_of(second)
    assert next(observed).kv.key == key_of(second)
    observed.cancel()
    holder.lock.Unlock(lock_pb2.UnlockRequest(key=key_of(second)))
    cluster.wait_equal()
    assert "applied snapshot" in sleeper.log_text()


def write(client: Client, times: int, size: int) -> int:
    """Put some keys; the last revision."""
    for number in range(times):
        request = rpc_pb2.PutRequest(key=b"k%d" % (number % 7), value=bytes(size))
        revision = client.kv.Put(request, timeout=WAIT_S).header.revision
    return int(revision)


@pytest.mark.slow
def test_a_waiter_leaves_while_there_is_no_leader(start_cluster: StartCluster, connect: Connect) -> None:
    """Its key cannot go at once, but it goes with the lease; the member itself keeps nothing."""
    cluster = start_cluster()
    leader, *others = cluster.leader(), *cluster.followers()
    holder = connect(leader)
    first, second = grant(holder), grant(holder, 5)
    lock(holder, first)
    with Client(others[0].client_endpoint) as waiter:
        waiting(waiter, second, 2)
        leader.kill()
        others[1].kill()
    others[1].restart()
    cluster.leader()

    def look() -> bool | None:
        request = rpc_pb2.RangeRequest(key=b"l/", range_end=b"l0")
        return [kv.key for kv in call(others[0], "kv", "Range", request).kvs] == [key_of(first)] or None

    wait_for("the departure", look, WAIT_S)
