"""Members come and go: what is refused, with which codes and words, and what becomes of those removed.

`RATIFYD_TEST_SERVER=etcd` runs the same expectations against etcd; where its 3.5.1 differs, the test says so.
"""

import re
import threading
from typing import Any

import grpc
import pytest

from harness import stubs
from harness.clusters import Cluster, call, status, wait_for
from harness.etcdctl import etcdctl
from harness.servers import EtcdServer, free_port
from ratifyd.proto import rpc_pb2
from tests.cluster.conftest import StartCluster
from tests.cluster.test_three_members import write_until_acknowledged
from tests.cluster.workload import Client

Code = grpc.StatusCode


def refused(server: EtcdServer, method: str, request: Any, *, service: str = "cluster") -> tuple[grpc.StatusCode, str]:
    """Code and text of a call that must fail."""
    with pytest.raises(grpc.RpcError) as failed:
        call(server, service, method, request, 8.0)
    return failed.value.code(), failed.value.details()


def url() -> str:
    """A peer URL nobody listens on."""
    return f"http://127.0.0.1:{free_port()}"


def healthy(cluster: Cluster) -> EtcdServer:
    """A member that has been connected to the others for long enough to let members be added."""
    server = cluster.leader()

    def look() -> bool | None:
        request = rpc_pb2.MemberAddRequest(peerURLs=[server.peer_url])
        return True if "Peer URLs already exists" in refused(server, "MemberAdd", request)[1] else None

    wait_for("a healthy cluster", look)
    return server


def test_what_is_no_member(start_cluster: StartCluster, kind: str) -> None:
    cluster = start_cluster(kind)
    server = cluster.members[0]
    own = status(server).header.member_id
    add, update = rpc_pb2.MemberAddRequest, rpc_pb2.MemberUpdateRequest
    bad = (Code.INVALID_ARGUMENT, "etcdserver: given member URLs are invalid")
    for urls in ([], [""], ["127.0.0.1:1"], ["ftp://127.0.0.1:1"], ["http://127.0.0.1"], ["http://127.0.0.1:1/path"]):
        assert refused(server, "MemberAdd", add(peerURLs=urls)) == bad
    unknown = (Code.NOT_FOUND, "etcdserver: member not found")
    assert refused(server, "MemberUpdate", update(ID=5, peerURLs=[url()])) == unknown
    assert refused(server, "MemberPromote", rpc_pb2.MemberPromoteRequest(ID=5)) == unknown
    assert refused(server, "MemberPromote", rpc_pb2.MemberPromoteRequest(ID=own)) == (
        Code.FAILED_PRECONDITION,
        "etcdserver: can only promote a learner member",
    )
    exists = (Code.FAILED_PRECONDITION, "etcdserver: Peer URLs already exists")
    assert refused(server, "MemberAdd", add(peerURLs=[server.peer_url])) == exists
    if kind == "ratifyd":  # etcd takes it, and every member of a larger cluster dies of it
        assert refused(server, "MemberUpdate", update(ID=own)) == bad
    not_enough = "etcdserver: re-configuration failed due to not enough started members"
    assert refused(server, "MemberRemove", rpc_pb2.MemberRemoveRequest(ID=own)) == (Code.UNKNOWN, not_enough)


def test_growth_waits_for_members_to_start(start_cluster: StartCluster, kind: str) -> None:
    cluster = start_cluster(kind)
    server = cluster.members[0]
    added = cluster.ctl("member", "add", "m2", f"--peer-urls={url()}")
    assert not added.status
    assert re.search(r"Member\s+[0-9a-f]+ added to cluster", added.stdout)
    # Two voters and one started: nothing can be committed, and a third is refused for that.
    assert refused(server, "MemberAdd", rpc_pb2.MemberAddRequest(peerURLs=[url()])) == (
        Code.UNKNOWN,
        "etcdserver: re-configuration failed due to not enough started members",
    )


def test_a_learner_listens_until_it_is_promoted(start_cluster: StartCluster, kind: str) -> None:
    cluster = start_cluster(kind)
    first = cluster.members[0]
    with Client(first.client_endpoint) as client:
        client.put(b"k", b"v")
    unstarted = call(first, "cluster", "MemberAdd", rpc_pb2.MemberAddRequest(peerURLs=[url()], isLearner=True))
    assert unstarted.member.isLearner and [member.ID for member in unstarted.members] == sorted(
        member.ID for member in unstarted.members
    )
    another = rpc_pb2.MemberAddRequest(peerURLs=[url()], isLearner=True)
    assert refused(first, "MemberAdd", another) == (
        Code.FAILED_PRECONDITION,
        "etcdserver: too many learner members in cluster",
    )
    assert refused(first, "MemberPromote", rpc_pb2.MemberPromoteRequest(ID=unstarted.member.ID)) == (
        Code.FAILED_PRECONDITION,
        "etcdserver: can only promote a learner member which is in sync with leader",
    )
    call(first, "cluster", "MemberRemove", rpc_pb2.MemberRemoveRequest(ID=unstarted.member.ID))
    learner = cluster.join(kind, learner=True)
    check_learner(learner, kind)
    assert first.peer_url != learner.peer_url and cluster.leader() is first
    transfer = rpc_pb2.MoveLeaderRequest(targetID=status(learner).header.member_id)
    assert refused(first, "MoveLeader", transfer, service="maintenance") == (
        Code.FAILED_PRECONDITION,
        "etcdserver: bad leader transferee",
    )
    cluster.promote(learner)
    wait_for("the learner to vote", lambda: True if not status(learner).isLearner else None)
    assert write_until_acknowledged(learner, b"k2")
    cluster.wait_equal()


def check_learner(learner: EtcdServer, kind: str) -> None:
    """A learner answers what it has, and refuses the rest."""
    code = Code.FAILED_PRECONDITION if kind == "ratifyd" else Code.UNAVAILABLE  # 3.5 says it otherwise than 3.6
    gate = (code, "etcdserver: rpc not supported for learner")
    assert status(learner).isLearner

    def look() -> bool | None:
        found = call(learner, "kv", "Range", rpc_pb2.RangeRequest(key=b"k", serializable=True))
        return True if found.kvs else None

    wait_for("the learner to have the key", look)
    assert refused(learner, "Range", rpc_pb2.RangeRequest(key=b"k"), service="kv") == gate
    assert refused(learner, "Put", rpc_pb2.PutRequest(key=b"k"), service="kv") == gate
    assert refused(learner, "MemberList", rpc_pb2.MemberListRequest()) == gate
    with stubs.Client(learner.client_endpoint) as client:
        with pytest.raises(grpc.RpcError) as failed:
            next(client.watch.Watch(iter([rpc_pb2.WatchRequest()]), timeout=8.0))
        assert (failed.value.code(), failed.value.details()) == gate


def test_a_removed_member_stops_and_stays_out(start_cluster: StartCluster, kind: str) -> None:
    cluster = start_cluster(kind, kind, kind)
    server = healthy(cluster)
    victim = cluster.followers()[0]
    victim_id = status(victim).header.member_id
    removed = cluster.ctl("member", "remove", f"{victim_id:x}", at=server)
    assert f"Member {victim_id:16x} removed from cluster" in removed.stdout
    assert victim.wait(10.0) == 0
    assert "removed" in victim.log_text()
    gone = (Code.NOT_FOUND, "etcdserver: member not found")
    assert refused(server, "MemberUpdate", rpc_pb2.MemberUpdateRequest(ID=victim_id, peerURLs=[url()])) == gone
    assert refused(server, "MemberRemove", rpc_pb2.MemberRemoveRequest(ID=victim_id)) == gone
    victim.start(wait=False)  # with the data it has: the others do not want it any more
    assert victim.wait(15.0) == 0
    assert len(cluster.listed(server)) == 2
    assert write_until_acknowledged(server, b"k")


def test_other_peer_urls(start_cluster: StartCluster, kind: str) -> None:
    cluster = start_cluster(kind, kind, kind)
    server = cluster.leader()
    victim = cluster.followers()[0]
    victim_id = status(victim).header.member_id
    victim.kill()
    victim.peer_port = free_port()
    updated = cluster.ctl("member", "update", f"{victim_id:x}", f"--peer-urls={victim.peer_url}", at=server)
    assert not updated.status, updated.raw_stderr
    victim.restart()
    assert write_until_acknowledged(victim, b"k")
    cluster.wait_equal()
    assert victim.peer_url in {peer for member in cluster.listed(server) for peer in member["peerURLs"]}


def test_moving_the_leader(start_cluster: StartCluster, kind: str) -> None:
    cluster = start_cluster(kind, kind, kind)
    leader = cluster.leader()
    follower, other = cluster.followers()
    move = rpc_pb2.MoveLeaderRequest
    not_leader = (Code.FAILED_PRECONDITION, "etcdserver: not leader")
    target = status(other).header.member_id
    assert refused(follower, "MoveLeader", move(targetID=target), service="maintenance") == not_leader
    bad = (Code.FAILED_PRECONDITION, "etcdserver: bad leader transferee")
    assert refused(leader, "MoveLeader", move(targetID=5), service="maintenance") == bad
    call(leader, "maintenance", "MoveLeader", move(targetID=status(leader).header.member_id))
    moved = etcdctl(leader.client_endpoint, "move-leader", f"{target:x}")
    assert "Leadership transferred from" in moved.stdout
    assert cluster.leader() is other


def test_streams_that_need_a_leader_end_without_one(start_cluster: StartCluster, kind: str) -> None:
    cluster = start_cluster(kind, kind, kind)
    survivor, *others = cluster.members
    with stubs.Client(survivor.client_endpoint) as client:
        create = rpc_pb2.WatchRequest(create_request=rpc_pb2.WatchCreateRequest(key=b"k"))
        requests = iter([create])
        hold = threading.Event()

        def stream() -> Any:
            yield from requests
            hold.wait()

        needy = client.watch.Watch(stream(), metadata=(("hasleader", "true"),))
        assert next(needy).created
        for other in others:
            other.kill()
        with pytest.raises(grpc.RpcError) as failed:
            for _ in needy:
                pass
        hold.set()
        assert (failed.value.code(), failed.value.details()) == (Code.UNAVAILABLE, "etcdserver: no leader")
        with pytest.raises(grpc.RpcError) as at_once:
            client.kv.Put(rpc_pb2.PutRequest(key=b"k"), timeout=1.0, metadata=(("hasleader", "true"),))
        assert at_once.value.details() == "etcdserver: no leader"
