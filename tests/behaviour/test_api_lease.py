"""The Lease service."""

import queue
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness.outcomes import LEASE_EXISTS, LEASE_NOT_FOUND, changes, delete, failure, get, put
from harness.stubs import Client
from harness.watch import WatchStream
from ratifyd.proto import rpc_pb2

_Grant, _Revoke, _KeepAlive = rpc_pb2.LeaseGrantRequest, rpc_pb2.LeaseRevokeRequest, rpc_pb2.LeaseKeepAliveRequest


def _time_to_live(client: Client, lease: int, *, keys: bool = False) -> rpc_pb2.LeaseTimeToLiveResponse:
    answer: rpc_pb2.LeaseTimeToLiveResponse = client.lease.LeaseTimeToLive(
        rpc_pb2.LeaseTimeToLiveRequest(ID=lease, keys=keys)
    )
    return answer


def _leases(client: Client) -> list[int]:
    return [each.ID for each in client.lease.LeaseLeases(rpc_pb2.LeaseLeasesRequest()).leases]


class _KeepAlives:
    """A keep-alive stream: send an id, take the answer."""

    def __init__(self, client: Client) -> None:
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.call = client.lease.LeaseKeepAlive(iter(self._requests.get, None), timeout=20)

    def exchange(self, lease: int) -> rpc_pb2.LeaseKeepAliveResponse:
        self._requests.put(_KeepAlive(ID=lease))
        answer: rpc_pb2.LeaseKeepAliveResponse = next(self.call)
        return answer

    def half_close(self) -> None:
        self._requests.put(None)


@pytest.fixture
def keepalives(client: Client) -> Iterator[_KeepAlives]:
    stream = _KeepAlives(client)
    yield stream
    stream.half_close()


def test_grant_with_an_id_of_the_servers_choice(client: Client) -> None:
    answer = client.lease.LeaseGrant(_Grant(TTL=600))
    assert answer.ID > 0 and answer.TTL == 600 and answer.error == ""
    other = client.lease.LeaseGrant(_Grant(TTL=600))
    assert other.ID != answer.ID
    for lease in (answer.ID, other.ID):
        client.lease.LeaseRevoke(_Revoke(ID=lease))


def test_grant_does_not_change_the_revision(client: Client, prefix: bytes, new_lease: Callable[..., int]) -> None:
    before = put(client, prefix).header.revision
    new_lease()
    assert get(client, prefix).header.revision == before


def test_chosen_ids(client: Client, new_lease: Callable[..., int]) -> None:
    for lease in (4711, -4711, 2**63 - 1, -(2**63)):
        assert new_lease(600, lease) == lease
        assert failure(client.lease.LeaseGrant, _Grant(TTL=600, ID=lease)) == LEASE_EXISTS
        assert _time_to_live(client, lease).grantedTTL == 600


@pytest.mark.parametrize(("ttl", "granted"), [(0, 2), (1, 2), (-1, 2), (-(2**62), 2), (2, 2), (3, 3)])
def test_short_ttls_are_raised(client: Client, ttl: int, granted: int) -> None:
    answer = client.lease.LeaseGrant(_Grant(TTL=ttl))
    assert granted == answer.TTL
    client.lease.LeaseRevoke(_Revoke(ID=answer.ID))


def test_the_largest_ttl(client: Client, new_lease: Callable[..., int]) -> None:
    lease = new_lease(9_000_000_000)
    assert _time_to_live(client, lease).grantedTTL == 9_000_000_000
    assert _time_to_live(client, lease).TTL >= 8_999_999_990
    expected = ("OUT_OF_RANGE", "etcdserver: too large lease TTL")
    assert failure(client.lease.LeaseGrant, _Grant(TTL=9_000_000_001)) == expected


def test_time_to_live(client: Client, prefix: bytes, new_lease: Callable[..., int]) -> None:
    lease = new_lease(60)
    answer = _time_to_live(client, lease)
    assert lease == answer.ID and answer.grantedTTL == 60 and 55 <= answer.TTL <= 60
    assert list(answer.keys) == []
    names = [prefix + b"%d" % n for n in range(3)]
    for name in names:
        put(client, name, lease=lease)
    assert list(_time_to_live(client, lease).keys) == []
    assert sorted(_time_to_live(client, lease, keys=True).keys) == names
    delete(client, names[0])
    assert sorted(_time_to_live(client, lease, keys=True).keys) == names[1:]


def test_time_to_live_of_an_unknown_lease_is_no_error(client: Client) -> None:
    answer = _time_to_live(client, 123_123, keys=True)
    assert (answer.ID, answer.TTL, answer.grantedTTL, list(answer.keys)) == (123_123, -1, 0, [])
    assert answer.header.revision


def test_revocation_removes_the_keys_in_one_revision(
    client: Client, prefix: bytes, new_lease: Callable[..., int]
) -> None:
    lease = new_lease()
    for n in range(5):
        before = put(client, prefix + b"%d" % n, lease=lease).header.revision
    assert client.lease.LeaseRevoke(_Revoke(ID=lease)).header.revision == before + 1
    assert get(client, prefix, prefix + b"9").count == 0
    assert _time_to_live(client, lease).TTL == -1


def test_revocation_without_keys_leaves_the_revision(
    client: Client, prefix: bytes, new_lease: Callable[..., int]
) -> None:
    before = put(client, prefix).header.revision
    assert client.lease.LeaseRevoke(_Revoke(ID=new_lease())).header.revision == before


def test_revocation_of_an_unknown_lease(client: Client, new_lease: Callable[..., int]) -> None:
    for lease in (0, 5555):
        assert failure(client.lease.LeaseRevoke, _Revoke(ID=lease)) == LEASE_NOT_FOUND
    lease = new_lease()
    client.lease.LeaseRevoke(_Revoke(ID=lease))
    assert failure(client.lease.LeaseRevoke, _Revoke(ID=lease)) == LEASE_NOT_FOUND
    assert new_lease(600, lease) == lease


def test_leases_are_listed_by_remaining_time(fresh: Client) -> None:
    for ttl, lease in ((900, 1), (300, 2), (600, 3)):
        fresh.lease.LeaseGrant(_Grant(TTL=ttl, ID=lease))
    assert _leases(fresh) == [2, 3, 1]


def test_keep_alive(client: Client, new_lease: Callable[..., int], keepalives: _KeepAlives) -> None:
    one, other = new_lease(60), new_lease(600)
    for lease, ttl in ((one, 60), (other, 600), (one, 60)):
        answer = keepalives.exchange(lease)
        assert (lease, ttl) == (answer.ID, answer.TTL)
        assert answer.header.cluster_id and answer.header.revision


def test_keep_alive_of_an_unknown_lease_goes_on(
    client: Client, new_lease: Callable[..., int], keepalives: _KeepAlives
) -> None:
    answer = keepalives.exchange(777_777)
    assert (answer.ID, answer.TTL) == (777_777, 0)
    assert keepalives.exchange(new_lease(60)).TTL == 60
    assert keepalives.exchange(0).TTL == 0


def test_half_closing_ends_the_keep_alive_stream(client: Client) -> None:
    call = client.lease.LeaseKeepAlive(iter([_KeepAlive(ID=1), _KeepAlive(ID=2)]), timeout=10)
    assert [answer.ID for answer in call] == [1, 2]
    assert call.code().name == "OK"


def test_an_expired_lease_takes_its_keys_along(client: Client, prefix: bytes, end: bytes, stream: WatchStream) -> None:
    stream.create(prefix, end)
    lease = client.lease.LeaseGrant(_Grant(TTL=1)).ID
    started = time.monotonic()
    for name in (b"b", b"a"):
        last = put(client, prefix + name, lease=lease).header.revision
    stream.events(2)
    response = stream.take()
    assert changes(list(response.events)) == [("DELETE", prefix + b"a", last + 1), ("DELETE", prefix + b"b", last + 1)]
    assert 1.5 <= time.monotonic() - started < 6
    assert _time_to_live(client, lease).TTL == -1
    assert failure(client.lease.LeaseRevoke, _Revoke(ID=lease)) == LEASE_NOT_FOUND


def test_keep_alives_outlast_the_ttl(
    client: Client, prefix: bytes, stream: WatchStream, keepalives: _KeepAlives
) -> None:
    stream.create(prefix)
    lease = client.lease.LeaseGrant(_Grant(TTL=2)).ID
    put(client, prefix, lease=lease)
    stream.events(1)
    until = time.monotonic() + 3
    while time.monotonic() < until:
        assert keepalives.exchange(lease).TTL == 2
        with pytest.raises(TimeoutError):
            stream.take(timeout_s=0.4)
    assert changes(stream.events(1))[0][:2] == ("DELETE", prefix)
    assert keepalives.exchange(lease).TTL == 0


def test_a_detached_key_stays_when_the_lease_expires(client: Client, prefix: bytes, stream: WatchStream) -> None:
    lease = client.lease.LeaseGrant(_Grant(TTL=1)).ID
    put(client, prefix + b"goes", lease=lease)
    put(client, prefix + b"stays", lease=lease)
    put(client, prefix + b"stays")
    stream.create(prefix + b"goes")
    assert stream.events(1)[0].type == 1
    assert get(client, prefix + b"stays").count == 1


def test_leases_survive_a_kill(start_server: Callable[..., Any]) -> None:
    server, client = start_server()
    client.lease.LeaseGrant(_Grant(TTL=600, ID=7))
    client.lease.LeaseGrant(_Grant(TTL=600, ID=8))
    put(client, b"k", lease=7)
    client.lease.LeaseRevoke(_Revoke(ID=8))
    server.restart(hard=True)
    client.kv.Range(rpc_pb2.RangeRequest(key=b"k"), wait_for_ready=True, timeout=15)
    answer = _time_to_live(client, 7, keys=True)
    assert (answer.grantedTTL, list(answer.keys), _leases(client)) == (600, [b"k"], [7])
    assert answer.TTL > 590
    client.lease.LeaseRevoke(_Revoke(ID=7))
    assert get(client, b"k").count == 0
