"""Alarms in a cluster of etcd 3.5 and ratifyd: etcd then applies what ratifyd refuses, so none of it may be proposed.

All goes through a ratifyd that leads.
"""

from collections.abc import Iterator

import pytest

from harness.clusters import Cluster
from harness.outcomes import failure, op_delete, op_put, op_txn, txn_request
from harness.stubs import Client
from harness.users import READWRITE, enable_auth, login
from ratifyd.proto import rpc_pb2
from tests.cluster.conftest import StartCluster
from tests.cluster.test_mixed_auth import DENIED, USER_EMPTY, catch_up, wait_equal_auth

NO_SPACE = ("RESOURCE_EXHAUSTED", "etcdserver: mvcc: database space exceeded")
CORRUPT = ("DATA_LOSS", "etcdserver: corrupt cluster")
NESTED = txn_request([op_txn([op_put(b"nested")])])
Alarm = rpc_pb2.AlarmRequest


@pytest.fixture
def cluster(start_cluster: StartCluster) -> Cluster:
    cluster = start_cluster("etcd", "ratifyd", "ratifyd", flags=("--bcrypt-cost=4",))
    cluster.lead("ratifyd")
    return cluster


@pytest.fixture
def first(cluster: Cluster) -> Iterator[Client]:
    """A member of ratifyd."""
    with Client(cluster.members[1].client_endpoint) as client:
        yield client


def test_what_is_refused_while_an_alarm_is_on(cluster: Cluster, first: Client) -> None:
    """Members of etcd before 3.5.33 do not count nested puts; after the end of one alarm they know of no other."""
    delete = rpc_pb2.DeleteRangeRequest(key=b"k")
    put = rpc_pb2.PutRequest(key=b"k")
    first.kv.Put(put, timeout=10)

    def alarm(action: int, kind: int) -> None:
        first.maintenance.Alarm(Alarm(action=action, memberID=5, alarm=kind), timeout=10)  # type: ignore[arg-type]

    alarm(Alarm.ACTIVATE, rpc_pb2.NOSPACE)
    assert failure(first.kv.Txn, NESTED, timeout=10) == NO_SPACE
    alarm(Alarm.ACTIVATE, rpc_pb2.CORRUPT)
    alarm(Alarm.DEACTIVATE, rpc_pb2.CORRUPT)
    assert failure(first.kv.Put, put, timeout=10) == NO_SPACE
    assert failure(first.lease.LeaseGrant, rpc_pb2.LeaseGrantRequest(ID=7, TTL=60), timeout=10) == NO_SPACE
    alarm(Alarm.DEACTIVATE, rpc_pb2.NOSPACE)
    alarm(Alarm.ACTIVATE, rpc_pb2.CORRUPT)
    alarm(Alarm.ACTIVATE, rpc_pb2.NOSPACE)
    assert failure(first.kv.DeleteRange, delete, timeout=10) == CORRUPT
    alarm(Alarm.DEACTIVATE, rpc_pb2.NOSPACE)
    assert failure(first.kv.Put, put, timeout=10) == CORRUPT
    alarm(Alarm.DEACTIVATE, rpc_pb2.CORRUPT)
    assert first.kv.DeleteRange(delete, timeout=10).deleted == 1
    cluster.wait_equal()


def test_rights_while_an_alarm_is_on(cluster: Cluster, first: Client) -> None:
    """etcd 3.5 does not ask for any then."""
    with Client(cluster.members[0].client_endpoint) as etcd, Client(cluster.members[2].client_endpoint) as second:
        enable_auth(first, bert=((READWRITE, b"bert", b""),))
        root, bert = login(first, "root"), login(first, "bert")
        lease = rpc_pb2.LeaseGrantRequest(ID=7, TTL=600)
        first.lease.LeaseGrant(lease, metadata=root, timeout=10)
        first.kv.Put(rpc_pb2.PutRequest(key=b"k", lease=7), metadata=root, timeout=10)
        first.kv.Put(rpc_pb2.PutRequest(key=b"bert"), metadata=bert, timeout=10)
        alarm = Alarm(action=Alarm.ACTIVATE, memberID=5, alarm=rpc_pb2.NOSPACE)
        first.maintenance.Alarm(alarm, metadata=root, timeout=10)
        for call, request in (
            (first.kv.DeleteRange, rpc_pb2.DeleteRangeRequest(key=b"k")),
            (first.kv.Txn, txn_request([op_delete(b"k")])),
            (first.lease.LeaseRevoke, rpc_pb2.LeaseRevokeRequest(ID=7)),
            (first.auth.UserAdd, rpc_pb2.AuthUserAddRequest(name="evil", password="p")),
            (first.auth.RoleDelete, rpc_pb2.AuthRoleDeleteRequest(role="bert")),
        ):
            assert failure(call, request, metadata=bert, timeout=10) == DENIED
            assert failure(call, request, timeout=10) == USER_EMPTY
        first.kv.DeleteRange(rpc_pb2.DeleteRangeRequest(key=b"bert"), metadata=bert, timeout=10)
        first.auth.RoleAdd(rpc_pb2.AuthRoleAddRequest(name="r"), metadata=root, timeout=10)
        catch_up((etcd, first, second), root)
        wait_equal_auth(cluster, root)
        alarm.action = Alarm.DEACTIVATE
        etcd.maintenance.Alarm(alarm, metadata=root, timeout=10)
        first.kv.Put(rpc_pb2.PutRequest(key=b"bert"), metadata=login(first, "bert"), timeout=10)
    for server in cluster.members:
        server.metadata = root
    cluster.wait_equal()
