"""Locks and elections while auth is on: what they do they do in the name of who asks."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from harness.clusters import wait_for
from harness.outcomes import failure
from harness.servers import EtcdServer
from harness.stubs import Client
from harness.users import READ, READWRITE, Metadata, enable_auth, login
from ratifyd.proto import election_pb2, lock_pb2, rpc_pb2

USER_EMPTY = ("UNKNOWN", "etcdserver: user name is empty")
DENIED = ("UNKNOWN", "etcdserver: permission denied")
INVALID_TOKEN = ("UNKNOWN", "etcdserver: invalid auth token")
WAIT_S = 10
Lock, Unlock = lock_pb2.LockRequest, lock_pb2.UnlockRequest


class Secured(NamedTuple):
    """A server with auth on, root, and alice, who may read and write below l/ and e/, and read below r/."""

    client: Client
    root: Metadata
    alice: Metadata


@pytest.fixture(scope="module")
def secured(kind: str) -> Iterator[Secured]:
    with (
        EtcdServer(kind, ["--unsafe-no-fsync", "--bcrypt-cost=4"]) as server,
        Client(server.client_endpoint) as client,
    ):
        for lease in range(1, 9):
            client.lease.LeaseGrant(rpc_pb2.LeaseGrantRequest(TTL=600, ID=lease))
        enable_auth(client, alice=((READWRITE, b"l/", b"l0"), (READWRITE, b"e/", b"e0"), (READ, b"r/", b"r0")))
        yield Secured(client, login(client, "root"), login(client, "alice"))


def queue(secured: Secured, name: bytes) -> list[bytes]:
    request = rpc_pb2.RangeRequest(key=name + b"/", range_end=name + b"0")
    return [kv.key for kv in secured.client.kv.Range(request, metadata=secured.root).kvs]


def test_who_may_lock(secured: Secured) -> None:
    lock = secured.client.lock
    assert failure(lock.Lock, Lock(name=b"l", lease=1)) == USER_EMPTY
    assert failure(lock.Lock, Lock(name=b"l", lease=1), metadata=(("token", "none"),)) == INVALID_TOKEN
    for name in (b"x", b"r", b""):
        assert failure(lock.Lock, Lock(name=name, lease=1), metadata=secured.alice) == DENIED
    held = lock.Lock(Lock(name=b"l", lease=1), metadata=secured.alice)
    assert queue(secured, b"l") == [held.key]
    assert failure(lock.Unlock, Unlock(key=held.key)) == USER_EMPTY
    assert failure(lock.Unlock, Unlock(key=b"x/1"), metadata=secured.alice) == DENIED
    waiting = lock.Lock.future(Lock(name=b"l", lease=2), metadata=secured.root)
    wait_for("the entry", lambda: len(queue(secured, b"l")) == 2 or None, WAIT_S)
    lock.Unlock(Unlock(key=held.key), metadata=secured.alice)
    assert waiting.result(WAIT_S).key == b"l/2"
    lock.Unlock(Unlock(key=b"l/2"), metadata=secured.alice)


@pytest.mark.only("ratifyd")
def test_who_leaves_takes_the_key_along(secured: Secured) -> None:
    """etcd deletes it in nobody's name, and so not at all."""
    lock = secured.client.lock
    held = lock.Lock(Lock(name=b"l", lease=3), metadata=secured.root)
    waiting = lock.Lock.future(Lock(name=b"l", lease=4), metadata=secured.alice)
    wait_for("the entry", lambda: len(queue(secured, b"l")) == 2 or None, WAIT_S)
    waiting.cancel()
    wait_for("the departure", lambda: queue(secured, b"l") == [held.key] or None, WAIT_S)
    lock.Unlock(Unlock(key=held.key), metadata=secured.root)


def test_who_may_be_elected(secured: Secured) -> None:
    election = secured.client.election

    def campaign(name: bytes, lease: int, **options: Any) -> Any:
        return election.Campaign(election_pb2.CampaignRequest(name=name, lease=lease, value=b"v"), **options)

    def leader(name: bytes, **options: Any) -> Any:
        return election.Leader(election_pb2.LeaderRequest(name=name), **options)

    assert failure(campaign, b"e", 5) == USER_EMPTY
    assert failure(campaign, b"x", 5, metadata=secured.alice) == DENIED
    won = campaign(b"e", 5, metadata=secured.alice)
    proclaim = election_pb2.ProclaimRequest(leader=won.leader, value=b"w")
    assert failure(election.Proclaim, proclaim) == USER_EMPTY
    election.Proclaim(proclaim, metadata=secured.alice)
    assert leader(b"e", metadata=secured.alice).kv.value == b"w"
    assert failure(leader, b"e") == USER_EMPTY
    assert failure(leader, b"x", metadata=secured.alice) == DENIED
    assert failure(leader, b"r", metadata=secured.alice) == ("UNKNOWN", "election: no leader")
    resign = election_pb2.ResignRequest(leader=won.leader)
    assert failure(election.Resign, resign) == USER_EMPTY
    election.Resign(resign, metadata=secured.alice)
    assert failure(leader, b"e", metadata=secured.alice) == ("UNKNOWN", "election: no leader")


def test_who_may_observe(secured: Secured) -> None:
    """Whoever may not sees nothing, and is not told why."""
    election = secured.client.election
    won = election.Campaign(election_pb2.CampaignRequest(name=b"e", lease=6, value=b"v"), metadata=secured.alice)
    request = election_pb2.LeaderRequest
    assert list(election.Observe(request(name=b"e"), timeout=WAIT_S)) == []
    assert list(election.Observe(request(name=b"x"), timeout=WAIT_S, metadata=secured.alice)) == []
    observed = election.Observe(request(name=b"e"), timeout=WAIT_S, metadata=secured.alice)
    assert next(observed).kv.value == b"v"
    election.Proclaim(election_pb2.ProclaimRequest(leader=won.leader, value=b"w"), metadata=secured.alice)
    assert next(observed).kv.value == b"w"
    observed.cancel()
    election.Resign(election_pb2.ResignRequest(leader=won.leader), metadata=secured.alice)
