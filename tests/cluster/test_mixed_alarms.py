"""Alarms in a cluster of etcd 3.5 and ratifyd: etcd then applies what ratifyd refuses, so none of it may be proposed.

All goes through a ratifyd that leads.
"""

from collections.abc import Iterator

import pytest

from harness.clusters import Cluster
from harness.outcomes import failure, op_put, op_txn, txn_request
from harness.stubs import Client
from ratifyd.proto import rpc_pb2
from tests.cluster.conftest import StartCluster

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
