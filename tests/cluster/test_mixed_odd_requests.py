"""Requests that etcd would read in the log otherwise than we do, or that end it there: every member goes on, and alike.

All go through a ratifyd that leads; what a real etcd answers to them is what it answers.
"""

from pathlib import Path

import grpc
import pytest

from harness.clusters import Cluster
from harness.outcomes import failure, op_delete, op_put, op_txn, txn_request
from harness.stubs import Client, status_of
from harness.users import READ, READWRITE, WRITE, Metadata, enable_auth, login
from ratifyd.proto import auth_pb2, rpc_pb2
from tests.cluster.conftest import StartCluster
from tests.cluster.test_auth_faults import signed
from tests.cluster.test_mixed_auth import catch_up, wait_equal_auth
from tests.hostile.test_killers import REQUESTS, prepare
from tests.hostile.test_killers import ask as ask_for

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


def test_requests_that_end_etcd(start_cluster: StartCluster) -> None:
    """Each as the table says, through a member of ratifyd; the etcd beside it applies what gets into the log."""
    cluster = start_cluster("etcd", "ratifyd", "ratifyd", flags=("--bcrypt-cost=4",))
    cluster.lead("ratifyd")
    with Client(cluster.members[1].client_endpoint) as client:
        prepare(client)
        for name, (_, _, code) in REQUESTS.items():
            assert (name, ask_for(client, name)[0]) == (name, code)
            assert cluster.members[0].running, name
        cluster.wait_equal()
        wait_equal_auth(cluster)
    still_run(cluster)


def revision_of_auth(client: Client, metadata: Metadata = ()) -> int:
    found: int = client.auth.AuthStatus(rpc_pb2.AuthStatusRequest(), metadata=metadata, timeout=10).authRevision
    return found


@pytest.mark.parametrize("range_end", (b"b", b"z"), ids=("inverted", "of no key"))
def test_a_range_that_versions_disagree_about_is_not_granted(range_end: bytes, start_cluster: StartCluster) -> None:
    cluster = start_cluster("etcd", "ratifyd", "ratifyd", flags=("--bcrypt-cost=4",))
    cluster.lead("ratifyd")
    etcd, first, second = (Client(server.client_endpoint) for server in cluster.members)
    with etcd, first, second:
        enable_auth(first, bert=((READWRITE, b"bert", b""),))
        root, bert = login(first, "root"), login(first, "bert")
        permission = auth_pb2.Permission(permType=READWRITE, key=b"z", range_end=range_end)
        request = rpc_pb2.AuthRoleGrantPermissionRequest(name="bert", perm=permission)
        grant = first.auth.RoleGrantPermission
        assert failure(grant, request, metadata=bert, timeout=10) == DENIED
        invalid = ("INVALID_ARGUMENT", "etcdserver: invalid auth management")
        assert failure(grant, request, metadata=root, timeout=10) == invalid
        catch_up((etcd, first, second), root)
        assert len({revision_of_auth(client, root) for client in (etcd, first, second)}) == 1
        wait_equal_auth(cluster, root)
        etcd.kv.Put(rpc_pb2.PutRequest(key=b"k"), metadata=root, timeout=10)
        first.kv.Put(rpc_pb2.PutRequest(key=b"k"), metadata=root, timeout=10)
        catch_up((etcd, first, second), root)
    for server in cluster.members:
        server.metadata = root
    cluster.wait_equal()


def test_one_of_several_permissions_with_one_key_is_not_changed(start_cluster: StartCluster) -> None:
    """Of seven permissions and more, the first with a key is not the same one for etcds built with different Go."""
    cluster = start_cluster("etcd", "ratifyd", "ratifyd", flags=("--bcrypt-cost=4",))
    cluster.lead("ratifyd")
    etcd, first, second = (Client(server.client_endpoint) for server in cluster.members)
    with etcd, first, second:
        held = [(READWRITE, b"m", b"n"), (READ, b"m", b"o"), *((READ, key, b"") for key in (b"p", b"q", b"r", b"s"))]
        enable_auth(first, bert=(*held, (READ, b"a", b"")))
        root = login(first, "root")
        changed = auth_pb2.Permission(permType=READ, key=b"m", range_end=b"n")
        request = rpc_pb2.AuthRoleGrantPermissionRequest(name="bert", perm=changed)
        invalid = ("INVALID_ARGUMENT", "etcdserver: invalid auth management")
        assert failure(first.auth.RoleGrantPermission, request, metadata=root, timeout=10) == invalid
        revocation = rpc_pb2.AuthRoleRevokePermissionRequest(role="bert", key=b"m", range_end=b"n")
        first.auth.RoleRevokePermission(revocation, metadata=root, timeout=10)
        first.auth.RoleGrantPermission(request, metadata=root, timeout=10)
        catch_up((etcd, first, second), root)
        bert = login(first, "bert")
        for client in (etcd, first, second):
            role = client.auth.RoleGet(rpc_pb2.AuthRoleGetRequest(role="bert"), metadata=root, timeout=10)
            assert {(each.key, each.range_end, each.permType) for each in role.perm} == {
                (key, end, READ) for _, key, end in (*held, (READ, b"a", b""))
            }
            assert failure(client.kv.Put, rpc_pb2.PutRequest(key=b"mm"), metadata=bert, timeout=10) == DENIED
    for server in cluster.members:
        server.metadata = root
    cluster.wait_equal()


def test_a_txn_that_older_members_would_permit_is_not_proposed(start_cluster: StartCluster) -> None:
    cluster = start_cluster("etcd", "ratifyd", "ratifyd", flags=("--bcrypt-cost=4",))
    cluster.lead("ratifyd")
    etcd, first, second = (Client(server.client_endpoint) for server in cluster.members)
    with etcd, first, second:
        enable_auth(first, bert=((WRITE, b"bert", b""), (READ, b"seen", b"")))
        root, bert = login(first, "root"), login(first, "bert")
        first.lease.LeaseGrant(rpc_pb2.LeaseGrantRequest(ID=7, TTL=600), metadata=root, timeout=10)
        first.kv.Put(rpc_pb2.PutRequest(key=b"other", lease=7), metadata=root, timeout=10)
        catch_up((etcd, first, second), root)
        for request in (
            txn_request([op_txn([op_put(b"secret")])]),
            txn_request([op_txn([op_delete(b"other")])]),
            txn_request([op_put(b"bert", prev_kv=True)]),
            txn_request([op_put(b"bert", lease=7)]),
            txn_request([op_put(b"bert"), op_delete(b"bert", b"a")]),
            txn_request([op_put(b"bert")], compare=[rpc_pb2.Compare(key=b"seen", range_end=b"a")]),
        ):
            assert failure(first.kv.Txn, request, metadata=bert, timeout=10) == DENIED
        assert failure(first.kv.Txn, txn_request([op_txn([op_put(b"secret")])]), timeout=10)[1].endswith("empty")
        first.kv.Txn(txn_request([op_txn([op_put(b"bert")])]), metadata=bert, timeout=10)
        catch_up((etcd, first, second), root)
        for client in (etcd, first, second):
            assert keys_of(client, root) == [b"bert", b"other"]
    for server in cluster.members:
        server.metadata = root
    cluster.wait_equal()


def test_root_revokes_a_lease_with_an_older_signed_token(start_cluster: StartCluster, tmp_path: Path) -> None:
    cluster = start_cluster("etcd", "ratifyd", "ratifyd", flags=("--bcrypt-cost=4", signed(tmp_path)))
    cluster.lead("ratifyd")
    etcd, first, second = (Client(server.client_endpoint) for server in cluster.members)
    with etcd, first, second:
        enable_auth(first)
        old = login(first, "root")
        for client, name in ((first, "r1"), (etcd, "r2")):
            client.auth.RoleAdd(rpc_pb2.AuthRoleAddRequest(name=name), metadata=old, timeout=10)
        root = login(first, "root")
        first.lease.LeaseGrant(rpc_pb2.LeaseGrantRequest(ID=7, TTL=600), metadata=root, timeout=10)
        first.kv.Put(rpc_pb2.PutRequest(key=b"k", lease=7), metadata=root, timeout=10)
        first.lease.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=7), metadata=old, timeout=10)
        catch_up((etcd, first, second), login(first, "root"))
        for client in (etcd, first, second):
            assert keys_of(client, root) == []
    for server in cluster.members:
        server.metadata = root
    cluster.wait_equal()
