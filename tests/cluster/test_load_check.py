"""The checks of the cluster load must be able to fail: what was written down is changed, each change is seen."""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import grpc
import pytest

from harness import stubs
from harness.clusters import Cluster
from ratifyd.proto import rpc_pb2
from tests.cluster.load import SHORT_TTL_S, Grant, LeaseHolder, Load
from tests.cluster.workload import Client

Damage = Callable[[Load, pytest.MonkeyPatch], None]


@pytest.fixture(scope="module")
def load() -> Iterator[Load]:
    """A load that has run against one member, and whose check is content."""
    with Cluster(("ratifyd",)) as cluster:
        load = Load(cluster)
        with load.running():
            load.progress(60)
        load.check()
        yield load


def a_grant(load: Load, *, revoked: bool) -> Grant:
    """A long lease that is to stay, or one that is gone."""
    grants = [grant for holder in load._holders for grant in holder.grants]
    return next(grant for grant in grants if grant.revoked is revoked and grant.ttl_s > 100)


def miss_a_leased_key(load: Load, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(a_grant(load, revoked=False), "key", b"leased/0/none")


def take_a_key_for_revoked(load: Load, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(a_grant(load, revoked=False), "revoked", True)


def miss_a_lease(load: Load, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(a_grant(load, revoked=False), "lease", 0xBEEF)


def take_a_lease_for_revoked(load: Load, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(a_grant(load, revoked=True), "lease", a_grant(load, revoked=False).lease)


def lose_a_step(load: Load, patch: pytest.MonkeyPatch) -> None:
    moved = load._counters[0].moved
    patch.setitem(moved, b"shared/0", [*moved[b"shared/0"], 10_000])


def make_a_step_twice(load: Load, patch: pytest.MonkeyPatch) -> None:
    moved = load._counters[0].moved
    patch.setitem(moved, b"shared/0", [*moved[b"shared/0"], moved[b"shared/0"][0]])


def lose_a_write(load: Load, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(load.workload.latest, "key", b"put/0/none")


def lose_an_event(load: Load, patch: pytest.MonkeyPatch) -> None:
    watcher = next(iter(load._watchers.values()))
    patch.setattr(watcher, "events", watcher.events[:7] + watcher.events[8:])


def repeat_an_event(load: Load, patch: pytest.MonkeyPatch) -> None:
    watcher = next(iter(load._watchers.values()))
    patch.setattr(watcher, "events", watcher.events[:7] + watcher.events[6:])


def invent_an_event(load: Load, patch: pytest.MonkeyPatch) -> None:
    watcher = next(iter(load._watchers.values()))
    patch.setattr(watcher, "events", [*watcher.events, *watcher.events[-1:] * 10_000])


def know_a_later_revision(load: Load, patch: pytest.MonkeyPatch) -> None:
    """A read of this moment is stale to one who knows of a later one."""
    patch.setattr(load._knowledge, "_seen", 1 << 40)
    _read(load, patch)


def know_another_write(load: Load, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(load.workload.latest, "key", b"elsewhere")
    _read(load, patch)


def _read(load: Load, patch: pytest.MonkeyPatch) -> None:
    reader = load._readers[0]
    patch.setattr(reader, "problems", [])
    with Client(load.cluster.members[0].client_endpoint) as client:
        reader.step(client)


@pytest.mark.parametrize(
    ("damage", "seen"),
    [
        (miss_a_leased_key, "is gone, its lease is not"),
        (take_a_key_for_revoked, "outlived its lease"),
        (miss_a_lease, "lease beef is gone"),
        (take_a_lease_for_revoked, "outlived its revocation"),
        (lose_a_step, "after .* steps"),
        (make_a_step_twice, "the same step twice"),
        (lose_a_write, "acknowledged write lost"),
        (lose_an_event, "the stream from m1 had"),
        (repeat_an_event, "the stream from m1 had"),
        (invent_an_event, "the stream from m1"),
        (know_a_later_revision, "stale read: revision"),
        (know_another_write, "stale read: b'elsewhere'"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damage_is_seen(damage: Damage, seen: str, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(load, monkeypatch)
    with pytest.raises(AssertionError, match=seen):
        load.check()


def test_changes_of_the_data_are_seen(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """A counter set by hand; then another cluster, which has nothing of all that."""
    load.check()
    with stubs.Client(load.cluster.members[0].client_endpoint) as client:
        client.kv.Put(rpc_pb2.PutRequest(key=b"shared/0", value=b"100000"), timeout=5)
    with pytest.raises(AssertionError, match="moved other than by one"):
        load.check()
    with Cluster(("ratifyd",)) as other:
        monkeypatch.setattr(load, "cluster", other)
        with pytest.raises(AssertionError, match="the revision went back"):
            load.check()


class Refused(grpc.RpcError):
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.NOT_FOUND


class LeaseLost(Client):
    """Grants, and knows nothing of the lease when it is to be written with, some time later."""

    def __init__(self, put_takes_s: float) -> None:
        self.now, self._put_takes_s = 100.0, put_takes_s

    def grant(self, ttl_s: int) -> int:
        return 7

    def put(self, key: bytes, value: bytes, lease: int = 0) -> int:
        self.now += self._put_takes_s
        raise Refused


@pytest.mark.parametrize("late", [False, True])
def test_a_lease_may_only_be_gone_when_its_time_is_up(late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the put waits for a leader, and the lease does not."""
    client, holder = LeaseLost(SHORT_TTL_S if late else SHORT_TTL_S / 2), LeaseHolder(0)
    monkeypatch.setattr(time, "monotonic", lambda: client.now)
    with nullcontext() if late else pytest.raises(Refused):
        holder.step(client)
    assert [grant.written for grant in holder.grants] == [False]
