"""--force-new-cluster: what is left when all others are gone, and what a member keeps that has the flag for good."""

import shutil
from pathlib import Path

import pytest

from harness import stubs
from harness.clusters import call, wait_for
from harness.servers import EtcdServer, StartFailed
from ratifyd.proto import rpc_pb2
from ratifyd.proto.etcdserver_pb2 import Metadata
from ratifyd.storage.disk import OsDisk
from ratifyd.storage.wal import Wal
from ratifyd.storage.worker import SoonWorker
from tests.cluster.conftest import StartCluster, StartServer

FORCE = "--force-new-cluster"
PUTS = 200


def put_all(server: EtcdServer) -> None:
    """Put keys at once; all are answered."""
    with stubs.Client(server.client_endpoint) as client:
        answers = [
            client.kv.Put.future(rpc_pb2.PutRequest(key=b"k%03d" % number, value=b"v"), timeout=10)
            for number in range(PUTS)
        ]
        for answer in answers:
            answer.result()


def count(server: EtcdServer) -> int:
    request = rpc_pb2.RangeRequest(key=b"k", range_end=b"l", count_only=True)
    found: int = call(server, "kv", "Range", request).count
    return found


def members(server: EtcdServer) -> list[tuple[str, bool]]:
    found = call(server, "cluster", "MemberList", rpc_pb2.MemberListRequest()).members
    return [(member.name, member.isLearner) for member in found]


def force(server: EtcdServer) -> None:
    """Start it as the only one, then again without the flag."""
    server.flags.append(FORCE)
    server.start()
    before = count(server), members(server)
    server.kill()
    server.flags.remove(FORCE)
    server.start()
    assert (count(server), members(server)) == before
    assert members(server) == [(server.name, False)]


def test_a_member_alone_that_has_the_flag_for_good_loses_nothing(start_server: StartServer) -> None:
    server = start_server(FORCE)
    for _ in range(3):
        put_all(server)
        server.kill()
        server.start()
        assert count(server) == PUTS


def test_the_leader_goes_on_alone_with_all_that_was_acknowledged(start_cluster: StartCluster) -> None:
    """etcd keeps what it knows to be committed, which may be nothing of it."""
    cluster = start_cluster()
    leader = cluster.leader()
    put_all(leader)
    for member in cluster.members:
        member.kill()
    force(leader)
    assert count(leader) == PUTS


def test_a_learner_goes_on_alone(start_cluster: StartCluster) -> None:
    """etcd panics."""
    cluster = start_cluster("ratifyd")
    first = cluster.members[0]
    put_all(first)
    learner = cluster.join("ratifyd", learner=True)
    wait_for("keys on the learner", lambda: serializable_count(learner) == PUTS or None)
    for member in (first, learner):
        member.kill()
    force(learner)
    assert count(learner) == PUTS


def serializable_count(server: EtcdServer) -> int:
    request = rpc_pb2.RangeRequest(key=b"k", range_end=b"l", count_only=True, serializable=True)
    found: int = call(server, "kv", "Range", request).count
    return found


def test_a_member_that_has_heard_nothing_goes_on_alone(tmp_path: Path, start_server: StartServer) -> None:
    """It was added, made its log, and was killed before a leader came to it."""
    server = start_server(start=False, data_dir=tmp_path / "data")
    snap = tmp_path / "data" / "member" / "snap"
    snap.mkdir(parents=True)
    metadata = Metadata(NodeID=0x1234, ClusterID=0x77).SerializeToString()
    worker = SoonWorker(lambda job, *args: job(*args))
    Wal.create(OsDisk(), str(snap.parent / "wal"), metadata, worker=worker).close()
    server.flags.append(FORCE)
    server.start()
    put_all(server)
    server.terminate()
    force(server)
    assert count(server) == PUTS


def test_a_log_that_has_lost_its_end_is_refused(start_cluster: StartCluster, tmp_path: Path) -> None:
    """Nobody is left who could send it. etcd starts, and answers nothing."""
    cluster = start_cluster()
    member = cluster.followers()[0]
    call(member, "kv", "Put", rpc_pb2.PutRequest(key=b"k", value=b"v"))
    cluster.wait_equal()
    member.terminate()
    shutil.copytree(member.data_dir / "member" / "wal", tmp_path / "wal")
    member.start()
    put_all(member)
    for each in cluster.members:
        each.terminate()
    shutil.rmtree(member.data_dir / "member" / "wal")
    shutil.copytree(tmp_path / "wal", member.data_dir / "member" / "wal")
    member.flags.append(FORCE)
    with pytest.raises(StartFailed, match="entries that were acknowledged are lost from the log"):
        member.start()
