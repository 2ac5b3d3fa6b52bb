"""The Lock service: queues of keys on leases, fair by the order of their creation."""

import base64
import itertools
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from harness.clusters import wait_for
from harness.outcomes import delete, failure, get, keys, op_put, put, txn
from harness.servers import WATCHERS, EtcdServer, metric
from harness.stubs import LATE, Client, status_of
from ratifyd.proto import lock_pb2, rpc_pb2

_leases = itertools.count(0xF00)
WAIT_S = 10


def lock(client: Client, name: bytes, lease: int = 0, **options: Any) -> lock_pb2.LockResponse:
    answer: lock_pb2.LockResponse = client.lock.Lock(lock_pb2.LockRequest(name=name, lease=lease), **options)
    return answer


def waiting(client: Client, name: bytes, lease: int, queued: int, **options: Any) -> Any:
    """Begin to wait for a lock; returns when `queued` keys are in its queue."""
    future = client.lock.Lock.future(lock_pb2.LockRequest(name=name, lease=lease), timeout=30, **options)
    wait_queue(client, name, queued)
    return future


def wait_queue(client: Client, name: bytes, length: int) -> None:
    def look() -> bool | None:
        return True if len(queue(client, name)) == length else None

    wait_for(f"{length} keys in the queue", look, WAIT_S)


def queue(client: Client, name: bytes) -> list[bytes]:
    """The keys of a queue, oldest first."""
    create = rpc_pb2.RangeRequest.CREATE
    return keys(get(client, name + b"/", name + b"0", sort_target=create, sort_order=rpc_pb2.RangeRequest.ASCEND))


def unlock(client: Client, key: bytes) -> lock_pb2.UnlockResponse:
    answer: lock_pb2.UnlockResponse = client.lock.Unlock(lock_pb2.UnlockRequest(key=key))
    return answer


@pytest.fixture
def leases(new_lease: Callable[..., int]) -> Callable[[int], list[int]]:
    """Grant several leases."""
    return lambda count: [new_lease(600, next(_leases)) for _ in range(count)]


@pytest.fixture
def name(prefix: bytes) -> bytes:
    return prefix + b"lock"


def test_the_key_is_name_and_lease(client: Client, name: bytes, leases: Callable[[int], list[int]]) -> None:
    (lease,) = leases(1)
    before = get(client, b"x").header
    held = lock(client, name, lease)
    assert held.key == name + b"/%x" % lease
    assert (held.header.revision, held.header.member_id) == (before.revision + 1, before.member_id)
    (kv,) = get(client, held.key).kvs
    assert (kv.value, kv.lease, kv.version) == (b"", lease, 1)
    released = unlock(client, held.key)
    assert released.header.revision == held.header.revision + 1
    assert not queue(client, name)


def test_a_lease_locks_again_at_once(client: Client, name: bytes, leases: Callable[[int], list[int]]) -> None:
    (lease,) = leases(1)
    first = lock(client, name, lease)
    put(client, name)
    again = lock(client, name, lease)
    assert (again.key, again.header.revision) == (first.key, first.header.revision + 1)


def test_waiters_come_in_order(client: Client, name: bytes, leases: Callable[[int], list[int]]) -> None:
    granted = leases(4)
    holder = lock(client, name, granted[0]).key
    waiters = [waiting(client, name, lease, place) for place, lease in enumerate(granted[1:], 2)]
    for waiter, lease in zip(waiters, granted[1:]):
        assert not waiter.done()
        released = unlock(client, holder)
        held = waiter.result(WAIT_S)
        holder = held.key
        assert holder == name + b"/%x" % lease
        assert held.header.revision == released.header.revision


def test_who_is_in_the_middle_may_leave(client: Client, name: bytes, leases: Callable[[int], list[int]]) -> None:
    granted = leases(3)
    holder = lock(client, name, granted[0]).key
    second, third = (waiting(client, name, lease, place) for place, lease in enumerate(granted[1:], 2))
    second.cancel()
    wait_queue(client, name, 2)
    assert queue(client, name) == [holder, name + b"/%x" % granted[2]]
    assert not third.done()
    unlock(client, holder)
    assert third.result(WAIT_S).key == name + b"/%x" % granted[2]


def test_a_deadline_takes_the_key_away(client: Client, name: bytes, leases: Callable[[int], list[int]]) -> None:
    granted = leases(2)
    holder = lock(client, name, granted[0]).key
    assert failure(lock, client, name, granted[1], timeout=0.3) in LATE
    wait_queue(client, name, 1)
    assert queue(client, name) == [holder]


def test_a_lost_connection_takes_the_key_away(
    server: EtcdServer, client: Client, name: bytes, leases: Callable[[int], list[int]]
) -> None:
    granted = leases(3)
    holder = lock(client, name, granted[0]).key
    with Client(server.client_endpoint) as other:
        waiters = [waiting(other, name, lease, place) for place, lease in enumerate(granted[1:], 2)]
    wait_queue(client, name, 1)
    assert queue(client, name) == [holder]
    assert all(waiter.done() for waiter in waiters)


def test_the_end_of_the_holders_lease_passes_the_lock_on(
    client: Client, name: bytes, leases: Callable[[int], list[int]]
) -> None:
    granted = leases(2)
    lock(client, name, granted[0])
    second = waiting(client, name, granted[1], 2)
    client.lease.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=granted[0]))
    assert second.result(WAIT_S).key == name + b"/%x" % granted[1]


def test_a_waiter_whose_lease_ended_learns_it_at_its_turn(
    client: Client, name: bytes, leases: Callable[[int], list[int]]
) -> None:
    granted = leases(3)
    holder = lock(client, name, granted[0]).key
    second = waiting(client, name, granted[1], 2)
    third = waiting(client, name, granted[2], 3)
    client.lease.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=granted[1]))
    wait_queue(client, name, 2)
    assert not third.done()
    unlock(client, holder)
    assert third.result(WAIT_S).key == name + b"/%x" % granted[2]
    with pytest.raises(grpc.RpcError) as failed:
        second.result(WAIT_S)
    assert status_of(failed.value) == ("UNKNOWN", "mutex: session is expired")


@pytest.mark.only("ratifyd")
def test_waiting_survives_a_compaction(fresh: Client) -> None:
    """In etcd only if the watcher inside has had the time to settle."""
    for lease in (1, 2):
        fresh.lease.LeaseGrant(rpc_pb2.LeaseGrantRequest(ID=lease, TTL=600))
    holder = lock(fresh, b"l", 1).key
    second = waiting(fresh, b"l", 2, 2)
    for _ in range(3):
        revision = put(fresh, b"k").header.revision
    fresh.kv.Compact(rpc_pb2.CompactionRequest(revision=revision, physical=True))
    unlock(fresh, holder)
    assert second.result(WAIT_S).key == b"l/2"


def test_a_key_put_back_in_one_breath_is_a_new_one(
    client: Client, name: bytes, leases: Callable[[int], list[int]]
) -> None:
    """Whoever waits is told of the deletion, though the key is there again when it looks."""
    granted = leases(2)
    holder = lock(client, name, granted[0]).key
    second = waiting(client, name, granted[1], 2)
    delete(client, holder)
    put(client, holder)
    assert second.result(WAIT_S).key == name + b"/%x" % granted[1]
    delete(client, holder)


def test_a_change_of_the_holders_key_wakes_nobody(
    client: Client, name: bytes, leases: Callable[[int], list[int]]
) -> None:
    granted = leases(2)
    holder = lock(client, name, granted[0]).key
    second = waiting(client, name, granted[1], 2)
    put(client, holder, b"value", lease=granted[0])
    third = lock(client, name + b"other", granted[0])
    assert not second.done() and third.key
    unlock(client, holder)
    assert second.result(WAIT_S)


def test_names_do_not_mix(client: Client, prefix: bytes, leases: Callable[[int], list[int]]) -> None:
    first, second = leases(2)
    assert lock(client, prefix + b"a", first).key
    assert lock(client, prefix + b"a/b", second).key == prefix + b"a/b/%x" % second
    assert lock(client, prefix + b"aa", second, timeout=WAIT_S).key
    assert failure(lock, client, prefix + b"a", second, timeout=0.3) in LATE


def test_without_a_lease_a_minute_is_given(client: Client, name: bytes) -> None:
    held = lock(client, name)
    (kv,) = get(client, held.key).kvs
    assert held.key == name + b"/%x" % kv.lease
    found = client.lease.LeaseTimeToLive(rpc_pb2.LeaseTimeToLiveRequest(ID=kv.lease))
    assert (found.grantedTTL, 50 < found.TTL <= 60) == (60, True)
    client.lease.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=kv.lease))


def test_errors_pass_through_a_client_inside(client: Client, name: bytes, leases: Callable[[int], list[int]]) -> None:
    """And so have no code of their own."""
    no_lease = ("UNKNOWN", "etcdserver: requested lease not found")
    assert failure(lock, client, name, 987654321) == no_lease
    assert failure(lock, client, name, -1) == no_lease
    (lease,) = leases(1)
    assert failure(lock, client, b"n" * 1_600_000, lease) == ("UNKNOWN", "etcdserver: request is too large")
    assert failure(unlock, client, b"") == ("UNKNOWN", "etcdserver: key is not provided")
    assert not queue(client, name)


def test_unlocking_what_is_not_locked(client: Client, name: bytes) -> None:
    before = get(client, name).header.revision
    assert unlock(client, name + b"/nobody").header.revision == before


def test_anybody_can_unlock(client: Client, name: bytes) -> None:
    """It is a deletion and no more than that."""
    put(client, name)
    unlock(client, name)
    assert not get(client, name).kvs


def test_the_empty_name(fresh: Client) -> None:
    lease = fresh.lease.LeaseGrant(rpc_pb2.LeaseGrantRequest(TTL=600, ID=10)).ID
    assert lock(fresh, b"", lease).key == b"/a"


def test_a_full_quota_refuses_locks_but_not_unlocks(start_server: Callable[..., tuple[EtcdServer, Client]]) -> None:
    _, client = start_server("--quota-backend-bytes=1000")
    no_space = ("UNKNOWN", "etcdserver: mvcc: database space exceeded")
    assert failure(lock, client, b"l") == no_space
    assert failure(lock, client, b"l", 5) == no_space
    assert unlock(client, b"l/5").header.revision == 1


@pytest.fixture
def crowd(client: Client) -> Iterator[list[int]]:
    """Many leases."""
    leases = list(range(0x10000, 0x10000 + 201))
    grants = [client.lease.LeaseGrant.future(rpc_pb2.LeaseGrantRequest(TTL=600, ID=lease)) for lease in leases]
    for grant in grants:
        grant.result(WAIT_S)
    yield leases
    revocations = [client.lease.LeaseRevoke.future(rpc_pb2.LeaseRevokeRequest(ID=lease)) for lease in leases]
    for revocation in revocations:
        revocation.result(WAIT_S)


def all_wait(client: Client, name: bytes, leases: list[int]) -> dict[bytes, Any]:
    """Have each lease wait for a lock; the answers to come, by key and in order."""
    request = lock_pb2.LockRequest
    calls = {
        name + b"/%x" % lease: client.lock.Lock.future(request(name=name, lease=lease), timeout=60) for lease in leases
    }
    wait_queue(client, name, len(leases) + 1)
    return {key: calls[key] for key in queue(client, name)[1:]}


def test_hundreds_wait_and_each_comes_in_its_turn(client: Client, name: bytes, crowd: list[int]) -> None:
    holder = lock(client, name, crowd[0]).key
    calls = all_wait(client, name, crowd[1:])
    for key, call in calls.items():
        assert not call.done()
        unlock(client, holder)
        holder = call.result(WAIT_S).key
        assert holder == key
    unlock(client, holder)
    assert not queue(client, name)


@pytest.mark.only("ratifyd")
def test_hundreds_leave_at_once(server: EtcdServer, client: Client, name: bytes, crowd: list[int]) -> None:
    """etcd 3.5.1 leaves some keys behind, and then lets nobody wait for any lock any more."""
    holder = lock(client, name, crowd[0]).key
    before = metric(server, WATCHERS)
    with Client(server.client_endpoint) as other:
        calls = all_wait(other, name, crowd[1:])
        assert metric(server, WATCHERS) == before + len(calls)
    wait_queue(client, name, 1)
    assert queue(client, name) == [holder]
    assert metric(server, WATCHERS) == before
    second = waiting(client, name, crowd[1], 2)
    unlock(client, holder)
    assert second.result(WAIT_S)


def test_a_queue_gone_at_once(client: Client, name: bytes, leases: Callable[[int], list[int]]) -> None:
    """Everything before a waiter deleted by one request."""
    granted = leases(4)
    lock(client, name, granted[0])
    waiters = [waiting(client, name, lease, place) for place, lease in enumerate(granted[1:], 2)]
    last = waiters.pop()
    txn(client, [op_put(name)])
    delete(client, name + b"/", name + b"/%x" % granted[3])
    assert last.result(WAIT_S).key == name + b"/%x" % granted[3]
    for waiter in waiters:
        with pytest.raises(grpc.RpcError) as failed:
            waiter.result(WAIT_S)
        assert status_of(failed.value) == ("UNKNOWN", "mutex: session is expired")


def test_a_waiter_through_the_gateway_that_hangs_up(
    server: EtcdServer, client: Client, name: bytes, leases: Callable[[int], list[int]]
) -> None:
    granted = leases(2)
    holder = lock(client, name, granted[0]).key
    body = json.dumps({"name": base64.b64encode(name).decode(), "lease": granted[1]}).encode()
    head = b"POST /v3/lock/lock HTTP/1.1\r\nHost: gateway\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", server.client_port), timeout=WAIT_S) as waiter:
        waiter.sendall(head + body)
        wait_queue(client, name, 2)
    wait_queue(client, name, 1)
    assert queue(client, name) == [holder]
    with socket.create_connection(("127.0.0.1", server.client_port), timeout=WAIT_S) as waiter:
        waiter.sendall(head + body)
        wait_queue(client, name, 2)
        unlock(client, holder)
        assert waiter.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
