"""Requests that etcd would read in the log otherwise than we do, or that end it there: every member goes on, and alike.

All go through a ratifyd that leads; what a real etcd answers to them is what it answers.
"""

import grpc

from harness.clusters import Cluster
from harness.stubs import Client, status_of
from harness.users import READWRITE, Metadata, enable_auth, login
from ratifyd.proto import rpc_pb2
from tests.cluster.conftest import StartCluster
from tests.cluster.test_mixed_auth import catch_up, wait_equal_auth

Outcome = tuple[str, str]
OK = ("OK", "")
DENIED = ("PERMISSION_DENIED", "etcdserver: permission denied")


def refused(wire_type: int, field: str) -> Outcome:
    return "INTERNAL", f"grpc: error unmarshalling request: proto: wrong wireType = {wire_type} for field {field}"


ODD: dict[str, tuple[str, bytes, Outcome]] = {
    "an end that is there and empty": ("KV/DeleteRange", b"\x0a\x01a\x12\x00", OK),
    "the same in a txn": ("KV/Txn", b"\x12\x07\x1a\x05\x0a\x01b\x12\x00", OK),
    "the same in a compare": (
        "KV/Txn",
        b"\x0a\x0b\x10\x03\x1a\x01c\x3a\x01v\x82\x04\x00" + b"\x12\x08\x12\x06\x0a\x01s\x12\x01v",
        OK,
    ),
    "two puts in one place": ("KV/Txn", b"\x12\x0d\x12\x03\x12\x01v\x12\x06\x0a\x01k\x12\x01w", OK),
    "a lease of bytes": ("KV/Put", b"\x0a\x01p\x12\x01v\x1a\x01x", refused(2, "Lease")),
    "a key that is a number, in a txn": ("KV/Txn", b"\x12\x04\x12\x02\x08\x01", refused(0, "Key")),
    "a TTL of bytes": ("Lease/LeaseGrant", b"\x0a\x01a", refused(2, "TTL")),
    "options that are a number": ("Auth/UserAdd", b"\x0a\x03zed\x12\x01p\x18\x01", refused(0, "Options")),
    "a user and an unknown field": ("Auth/UserAdd", b"\x0a\x03zed\x12\x01p\x90\x03\x05", OK),
    "a role and an unknown field": ("Auth/RoleAdd", b"\x0a\x04role\x90\x03\x05", OK),
}
"""By what they are: path below etcdserverpb, bytes, and the outcome."""


def ask(client: Client, path: str, data: bytes, metadata: Metadata = ()) -> Outcome:
    try:
        client.raw(f"/etcdserverpb.{path}", data, metadata=metadata)
    except grpc.RpcError as error:
        return status_of(error)
    return OK


def keys_of(client: Client, metadata: Metadata = ()) -> list[bytes]:
    everything = rpc_pb2.RangeRequest(key=b"\0", range_end=b"\0")
    return [kv.key for kv in client.kv.Range(everything, metadata=metadata, timeout=10).kvs]


def still_run(cluster: Cluster) -> None:
    """No member has ended, and none does when it reads its log again."""
    assert cluster.running == cluster.members
    etcd = cluster.members[0]
    etcd.restart(hard=True)
    assert cluster.running == cluster.members


def test_requests_encoded_in_odd_ways(start_cluster: StartCluster) -> None:
    cluster = start_cluster("etcd", "ratifyd", "ratifyd", flags=("--bcrypt-cost=4",))
    cluster.lead("ratifyd")
    etcd, first, second = (Client(server.client_endpoint) for server in cluster.members)
    with etcd, first, second:
        for key in (b"a", b"b", b"bert", b"c", b"d"):
            first.kv.Put(rpc_pb2.PutRequest(key=key, value=b"v"), timeout=10)
        for name, (path, data, outcome) in ODD.items():
            assert ask(first, path, data) == outcome, name
        for client in (etcd, first, second):
            assert keys_of(client) == [b"bert", b"c", b"d", b"k", b"s"]
            users = client.auth.UserList(rpc_pb2.AuthUserListRequest(), timeout=10)
            assert list(users.users) == ["zed"]
        cluster.wait_equal()
        wait_equal_auth(cluster)

        enable_auth(first, bert=((READWRITE, b"bert", b""),))
        root, bert = login(first, "root"), login(first, "bert")
        catch_up((etcd, first, second), root)
        assert ask(first, "KV/DeleteRange", b"\x0a\x01q\x1a\x01x") == refused(2, "PrevKv")
        assert ask(first, "KV/DeleteRange", b"\x0a\x04bert\x12\x00", bert) == OK
        for client in (etcd, first, second):
            assert keys_of(client, root) == [b"c", b"d", b"k", b"s"]
        wait_equal_auth(cluster, root)
    still_run(cluster)
