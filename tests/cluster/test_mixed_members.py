"""etcd 3.5 and ratifyd members in one cluster: leaders of both kinds, snapshots both ways, migration there and back."""

import json
from urllib.request import urlopen

import pytest

from harness import stubs
from harness.binaries import other_etcd_binary
from harness.clusters import Cluster, call, status, wait_for
from harness.etcdctl import etcdctl
from harness.servers import EtcdServer
from ratifyd.proto import rpc_pb2
from tests.cluster.conftest import StartCluster
from tests.cluster.load import Load
from tests.cluster.test_three_members import check_everywhere
from tests.cluster.workload import Client, Workload

MIXTURES = (("etcd", "ratifyd", "ratifyd"), ("etcd", "etcd", "ratifyd"))
ETCD_CATCHUP_ENTRIES = 5000
"""Entries etcd 3.5.1 keeps for followers, whatever its flags say."""


def _version(url: str) -> str:
    """What a member thinks the cluster version is."""
    with urlopen(f"{url}/version", timeout=5) as answer:
        found: str = json.load(answer)["etcdcluster"]
        return found


@pytest.mark.parametrize("leader", ("etcd", "ratifyd"))
@pytest.mark.parametrize("kinds", MIXTURES, ids="+".join)
def test_writes_through_every_member(kinds: tuple[str, ...], leader: str, start_cluster: StartCluster) -> None:
    cluster = start_cluster(*kinds)
    cluster.lead(leader)
    workload = Workload(workers=2, persistent=True)
    for server in cluster.members:
        with workload.running(server.client_endpoint):
            workload.wait_acknowledged(60)
    check_everywhere(cluster, workload)
    with Client(cluster.members[-1].client_endpoint) as client:
        client.compact(client.revision() - 5, physical=True)
    cluster.wait_equal()


@pytest.mark.parametrize("leader", ("etcd", "ratifyd"))
def test_leases_and_members_look_the_same_from_everywhere(leader: str, start_cluster: StartCluster) -> None:
    cluster = start_cluster(*MIXTURES[0])
    cluster.lead(leader)
    with Client(cluster.members[1].client_endpoint) as client:
        lease = client.grant(100)
        client.put(b"leased", b"v", lease)
    cluster.wait_equal()
    for server in cluster.members:
        request = rpc_pb2.LeaseTimeToLiveRequest(ID=lease, keys=True)
        reply = call(server, "lease", "LeaseTimeToLive", request, 8.0)
        assert (reply.grantedTTL, list(reply.keys)) == (100, [b"leased"])
        assert 90 <= reply.TTL <= 100
        renewed = etcdctl(server.client_endpoint, "lease", "keep-alive", "--once", f"{lease:x}")
        assert f"lease {lease:016x} keepalived with TTL(100)" in renewed.stdout, renewed
        unknown = call(server, "lease", "LeaseTimeToLive", rpc_pb2.LeaseTimeToLiveRequest(ID=7), 8.0)
        assert unknown.TTL == -1

    def listed() -> bool | None:
        names = [sorted((m["name"], tuple(m["clientURLs"])) for m in cluster.listed(s)) for s in cluster.members]
        return True if all(found == names[0] and all(urls for _, urls in found) for found in names) else None

    wait_for("equal member lists", listed)
    versions = wait_for("a version", lambda: _settled(cluster))
    assert versions == {"3.5.0"}, "the cluster's version is that of its oldest member"


@pytest.mark.skipif(other_etcd_binary() is None, reason="RATIFYD_TEST_ETCD names no other etcd")
@pytest.mark.parametrize("kinds", [("other-etcd", "ratifyd", "ratifyd"), ("etcd", "other-etcd", "ratifyd")])
def test_the_cluster_version_with_another_etcd(kinds: tuple[str, ...], start_cluster: StartCluster) -> None:
    cluster = start_cluster(*kinds)
    versions = [status(server).version.split(".")[:2] for server in cluster.members]
    oldest = min((int(major), int(minor)) for major, minor in versions)
    assert wait_for("a version", lambda: _settled(cluster)) == {f"{oldest[0]}.{oldest[1]}.0"}
    for server in cluster.members:
        with Client(server.client_endpoint) as client:
            client.put(server.name.encode(), b"v")
    cluster.wait_equal()


def _settled(cluster: Cluster) -> set[str] | None:
    found = {_version(server.peer_url) for server in cluster.running}
    return found if len(found) == 1 and found != {"3.0.0"} and found != {"not_decided"} else None


def put_many(server: EtcdServer, count: int) -> None:
    """Write so many entries as fast as one client can."""
    with stubs.Client(server.client_endpoint) as client:
        for start in range(0, count, 500):
            puts = [
                client.kv.Put.future(rpc_pb2.PutRequest(key=b"many/%d" % number), timeout=30)
                for number in range(start, min(start + 500, count))
            ]
            for put in puts:
                put.result()


@pytest.mark.parametrize("leader", ("etcd", "ratifyd"))
def test_snapshots_go_both_ways(leader: str, start_cluster: StartCluster) -> None:
    """The leader is of one kind, the follower that fell behind the log of the other."""
    own = ("--experimental-snapshot-catchup-entries=20",)
    cluster = start_cluster(*MIXTURES[0], flags=("--snapshot-count=50",), own_flags=own)
    cluster.lead(leader)
    follower = next(server for server in cluster.members if server.kind != leader)
    with Client(follower.client_endpoint) as client:
        client.put(b"before", b"v", client.grant(600))
    workload = Workload(workers=4)
    follower.kill()
    with workload.running(cluster.leader().client_endpoint):
        workload.wait_acknowledged(200)
    put_many(cluster.leader(), ETCD_CATCHUP_ENTRIES if leader == "etcd" else 100)
    follower.restart()
    check_everywhere(cluster, workload)
    assert "applied snapshot" in follower.log_text()
    follower.restart(hard=True)
    check_everywhere(cluster, workload)
    assert {member["name"] for member in cluster.listed(follower)} == {"m1", "m2", "m3"}


MIGRATIONS = [
    ("etcd", "etcd"),
    *([("other-etcd", "other-etcd"), ("etcd", "other-etcd")] if other_etcd_binary() else []),
]


def replace_all(cluster: Cluster, load: Load, kind: str) -> None:
    """New members of a kind join as learners and are promoted, then the old ones leave; all equal after every step."""
    old = list(cluster.members)
    for _ in old:
        with load.running():
            joined = cluster.join(kind, learner=True)
            cluster.promote(joined, 60.0)
            load.progress(20)
        load.check()
    for server in old:
        with load.running():
            cluster.leave(server)
            load.progress(20)
        load.check()
    assert {server.kind for server in cluster.members} == {kind}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("before", "after"), MIGRATIONS)
def test_migration_there_and_back(before: str, after: str, start_cluster: StartCluster) -> None:
    """From three etcd, member by member, to three ratifyd, and from there back to three etcd."""
    cluster = start_cluster(before, before, before)
    load = Load(cluster)
    with load.running():
        load.progress(100)
    load.check()
    replace_all(cluster, load, "ratifyd")
    wait_for("a version", lambda: True if _settled(cluster) == {"3.6.0"} else None, 30.0)
    if after == "etcd":
        back = rpc_pb2.DowngradeRequest(action=rpc_pb2.DowngradeRequest.ENABLE, version="3.5.0")
        assert call(cluster.leader(), "maintenance", "Downgrade", back).version
        wait_for("a lower version", lambda: True if _settled(cluster) == {"3.5.0"} else None, 30.0)
    replace_all(cluster, load, after)
    expected = "3.5.0" if after == "etcd" else "3.6.0"
    wait_for("a version", lambda: True if _settled(cluster) == {expected} else None, 30.0)
