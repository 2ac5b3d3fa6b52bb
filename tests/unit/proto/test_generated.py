"""Generated modules: fresh, apart from the process-wide pool, with etcd's numbers where they are easy to get wrong."""

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.message import DecodeError

from ratifyd.proto import etcdserver_pb2, raft_internal_pb2, raft_pb2, rpc_pb2
from ratifyd.proto.pool import POOL

ROOT = Path(__file__).resolve().parents[3]

USE = """
import {first}, {second}
from aetcd.rpc import rpc_pb2 as theirs
from ratifyd.proto import rpc_pb2 as ours
request = ours.PutRequest(key=b'k', value=b'v', prev_kv=True)
assert theirs.PutRequest.FromString(request.SerializeToString()).value == b'v'
assert theirs.PutRequest is not ours.PutRequest
"""


def test_generated_modules_are_fresh() -> None:
    command = [sys.executable, str(ROOT / "tools" / "generate_proto.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(("first", "second"), [("aetcd", "ratifyd.proto.rpc_pb2"), ("ratifyd.proto.rpc_pb2", "aetcd")])
def test_a_client_with_its_own_copy_lives_in_the_same_process(first: str, second: str) -> None:
    code = USE.format(first=first, second=second)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def test_messages_are_in_the_own_pool_only() -> None:
    assert POOL.FindMessageTypeByName("etcdserverpb.PutRequest") is rpc_pb2.PutRequest.DESCRIPTOR
    default = descriptor_pool.Default()
    with pytest.raises(KeyError):
        default.FindMessageTypeByName("etcdserverpb.InternalRaftRequest")


def test_numbers_of_replicated_requests() -> None:
    numbers = {field.name: field.number for field in raft_internal_pb2.InternalRaftRequest.DESCRIPTOR.fields}
    assert numbers == {
        "header": 100,
        "ID": 1,
        "v2": 2,
        "range": 3,
        "put": 4,
        "delete_range": 5,
        "txn": 6,
        "compaction": 7,
        "lease_grant": 8,
        "lease_revoke": 9,
        "alarm": 10,
        "lease_checkpoint": 11,
        "auth_enable": 1000,
        "auth_disable": 1011,
        "authenticate": 1012,
        "auth_status": 1013,
        "auth_user_add": 1100,
        "auth_user_delete": 1101,
        "auth_user_get": 1102,
        "auth_user_change_password": 1103,
        "auth_user_grant_role": 1104,
        "auth_user_revoke_role": 1105,
        "auth_user_list": 1106,
        "auth_role_list": 1107,
        "auth_role_add": 1200,
        "auth_role_delete": 1201,
        "auth_role_get": 1202,
        "auth_role_grant_permission": 1203,
        "auth_role_revoke_permission": 1204,
        "cluster_version_set": 1300,
        "cluster_member_attr_set": 1301,
        "downgrade_info_set": 1302,
        "downgrade_version_test": 9900,
    }


def test_fields_newer_than_3_5() -> None:
    status = {field.name: field.number for field in rpc_pb2.StatusResponse.DESCRIPTOR.fields if field.number > 10}
    assert status == {"storageVersion": 11, "dbSizeQuota": 12, "downgradeInfo": 13}
    assert rpc_pb2.HashKVResponse.DESCRIPTOR.fields_by_name["hash_revision"].number == 4
    assert rpc_pb2.SnapshotResponse.DESCRIPTOR.fields_by_name["version"].number == 4
    assert rpc_pb2.WatchResponse.DESCRIPTOR.fields_by_name["events"].number == 11


def test_bytes_of_real_members() -> None:
    # A 3.5.1 member's first entry after its election, and an empty snapshot as its messages carry it.
    entry = raft_pb2.Entry(Type=raft_pb2.EntryNormal, Term=2, Index=4)
    assert entry.SerializeToString() == bytes.fromhex("080010021804")
    snapshot = raft_pb2.Snapshot.FromString(bytes.fromhex("12080a02280010001800"))
    assert snapshot.metadata.conf_state.HasField("auto_leave")
    assert raft_pb2.HardState(term=1, vote=0, commit=3).SerializeToString() == bytes.fromhex("080110001803")


def test_a_bare_v2_request_is_no_internal_raft_request() -> None:
    # How 3.5 and this version tell the two kinds of log entries apart.
    request = etcdserver_pb2.Request(ID=1, Method="PUT", Path="/0/version", Val="3.5.0")
    with pytest.raises(DecodeError):
        raft_internal_pb2.InternalRaftRequest.FromString(request.SerializeToString())
