"""Three ratifyd members: writes through each, snapshots and crashes on their way, leadership (faults: test_faults)."""

import signal

import grpc
import pytest

from harness import stubs
from harness.clusters import Cluster, call, status, wait_for
from harness.etcdctl import etcdctl
from harness.servers import EtcdServer
from harness.watch import WatchStream
from ratifyd.keys import prefix_end
from ratifyd.proto import rpc_pb2
from tests.cluster.conftest import StartCluster
from tests.cluster.workload import Client, Workload

FEW_ENTRIES = ("--snapshot-count=50", "--experimental-snapshot-catchup-entries=20")
"""A follower is behind the log soon."""
MORE_ENTRIES_THAN_A_STREAM = ("--snapshot-count=180", "--experimental-snapshot-catchup-entries=20")
"""As long as they are of a megabyte: what is on its way to a member that sleeps ends where the log has yet to begin."""


def check_everywhere(cluster: Cluster, workload: Workload) -> None:
    """All members are equal and hold every acknowledged write."""
    cluster.wait_equal()
    for server in cluster.running:
        with Client(server.client_endpoint) as client:
            workload.check(client)


def write_until_acknowledged(server: EtcdServer, key: bytes, timeout_s: float = 20.0) -> int:
    """Put a key as soon as there is a leader again."""

    def put() -> int | None:
        reply = call(server, "kv", "Put", rpc_pb2.PutRequest(key=key, value=b"v"), 1.0)
        return int(reply.header.revision)

    return wait_for("an acknowledged write", put, timeout_s)


def wait_for_log(server: EtcdServer, *texts: str) -> None:
    """Wait until one of these is in the log."""
    wait_for(texts[0], lambda: any(text in server.log_text() for text in texts) or None)


def test_every_member_takes_writes_and_reads(start_cluster: StartCluster) -> None:
    cluster = start_cluster()
    for number, server in enumerate(cluster.members):
        with Client(server.client_endpoint) as client:
            revision = client.put(b"k%d" % number, b"v%d" % number)
        for other in cluster.members:
            with Client(other.client_endpoint) as client:
                assert client.get(b"k%d" % number) == b"v%d" % number, "a linearizable read missed a write"
                assert client.revision() >= revision
    cluster.wait_equal()
    listed = cluster.listed()
    assert [member["name"] for member in sorted(listed, key=lambda member: member["name"])] == ["m1", "m2", "m3"]
    health = etcdctl(cluster.endpoints, "endpoint", "health")
    assert not health.status and (health.stdout + health.raw_stderr).count("is healthy") == 3


def test_stopping_the_leader_hands_leadership_over(start_cluster: StartCluster) -> None:
    cluster = start_cluster()
    leader = cluster.leader()
    term = status(leader).raftTerm
    leader.terminate()
    assert status(cluster.leader()).raftTerm == term + 1
    assert write_until_acknowledged(cluster.running[0], b"k")


def test_a_follower_behind_the_log_gets_a_snapshot(start_cluster: StartCluster) -> None:
    cluster = start_cluster(flags=FEW_ENTRIES)
    follower = cluster.followers()[0]
    workload = Workload(workers=8)
    with Client(follower.client_endpoint) as client:
        client.put(b"before", b"v", client.grant(600))
    follower.kill()
    with workload.running(cluster.leader().client_endpoint):
        workload.wait_acknowledged(400)
    follower.restart()
    check_everywhere(cluster, workload)
    assert "applied snapshot" in follower.log_text()
    for hard in (False, True):
        follower.restart(hard=hard)
        check_everywhere(cluster, workload)


def test_kill_nine_while_a_snapshot_comes_in(start_cluster: StartCluster) -> None:
    """At every step on the way of a snapshot into its place a crash leaves something to go on from."""
    cluster = start_cluster(flags=FEW_ENTRIES)
    follower = cluster.followers()[0]
    leader = cluster.leader()
    workload = Workload(workers=8)
    follower.kill()
    for text in ("established stream", "receiving database snapshot", "received and saved", "applied snapshot"):
        with workload.running(leader.client_endpoint):
            workload.wait_acknowledged(150)
        follower.start(wait=False)
        # A snapshot that was through before the kill has kept its sender from cutting the log for a while.
        wait_for_log(follower, text, "ready to serve")
        follower.kill()
    follower.restart()
    check_everywhere(cluster, workload)
    assert "received and saved" in follower.log_path.read_text()


def test_a_running_follower_gets_a_snapshot_and_its_watchers_miss_nothing(start_cluster: StartCluster) -> None:
    """SIGSTOP keeps its watchers and its memory; they go on where they were, from the new backend."""
    cluster = start_cluster(flags=MORE_ENTRIES_THAN_A_STREAM)
    follower = cluster.followers()[0]
    with stubs.Client(follower.client_endpoint) as stub, Client(cluster.leader().client_endpoint) as client:
        watch = WatchStream(stub)
        watch.create(b"watched/", prefix_end(b"watched/"))
        client.put(b"watched/0", b"v")
        assert watch.events(1)
        names = [b"watched/%d" % number for number in range(1, 200)]
        follower.signal(signal.SIGSTOP)
        try:
            for name in names:
                client.put(name, bytes(1_000_000))  # more than the leader keeps for a stream
        finally:
            follower.signal(signal.SIGCONT)
        events = watch.events(199, 60.0)  # a snapshot of more than 100 MB has to come first
        assert [event.kv.key for event in events] == names
        client.put(b"watched/last", b"v")
        assert watch.events(1)[0].kv.key == b"watched/last"
        cluster.wait_equal()
    assert "applied snapshot" in follower.log_text()


def test_without_a_quorum(start_cluster: StartCluster) -> None:
    """What needs the others fails with etcd's errors, what does not is answered."""
    cluster = start_cluster()
    survivor, *others = cluster.members
    with Client(survivor.client_endpoint) as client:
        client.put(b"k", b"v")
    for other in others:
        other.kill()
    wait_for("the loss of the leader", lambda: True if not status(survivor).leader else None)
    serializable = rpc_pb2.RangeRequest(key=b"k", serializable=True)
    assert call(survivor, "kv", "Range", serializable).kvs[0].value == b"v"
    assert list(status(survivor).errors) == ["etcdserver: no leader"]
    for request in (("kv", "Put", rpc_pb2.PutRequest(key=b"k")), ("kv", "Range", rpc_pb2.RangeRequest(key=b"k"))):
        with pytest.raises(grpc.RpcError) as failed:
            call(survivor, *request, 12.0)
        assert failed.value.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
        assert failed.value.details() in ("context deadline exceeded", "etcdserver: request timed out")
    others[0].restart()
    assert write_until_acknowledged(survivor, b"k2")
