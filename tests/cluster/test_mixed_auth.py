"""Auth in clusters of etcd 3.5 and ratifyd: every member takes every change, token and refusal, and all end equal."""

from typing import Any

import pytest

from harness.clusters import Cluster, wait_for
from harness.outcomes import failure, op_delete, op_put, op_range, txn_request
from harness.servers import EtcdServer
from harness.stubs import Client
from harness.users import READ, READWRITE, Metadata, add_user, enable_auth, login
from ratifyd import schema
from ratifyd.formats.bbolt import read_pages
from ratifyd.proto import rpc_pb2
from tests.cluster.conftest import StartCluster
from tests.cluster.test_mixed_members import ETCD_CATCHUP_ENTRIES

DENIED = ("PERMISSION_DENIED", "etcdserver: permission denied")
INVALID_TOKEN = ("UNAUTHENTICATED", "etcdserver: invalid auth token")
USER_EMPTY = ("INVALID_ARGUMENT", "etcdserver: user name is empty")
Rows = dict[bytes, list[tuple[bytes, bytes]]]


def rows_of_auth(server: EtcdServer, root: Metadata) -> Rows:
    """What a member has on disk of auth."""
    with Client(server.client_endpoint) as client:
        pieces = client.maintenance.Snapshot(rpc_pb2.SnapshotRequest(), metadata=root, timeout=20)
        image = b"".join(piece.blob for piece in pieces)
    file = read_pages(lambda size, offset: image[offset : offset + size], len(image))
    return {bucket: list(file.items(bucket)) for bucket in (schema.AUTH, schema.AUTH_USERS, schema.AUTH_ROLES)}


def wait_equal_auth(cluster: Cluster, root: Metadata = ()) -> Rows:
    """The rows of auth once all members have the same."""

    def look() -> Rows | None:
        found = [rows_of_auth(server, root) for server in cluster.running]
        return found[0] if all(rows == found[0] for rows in found) else None

    return wait_for("equal rows of auth", look)


def catch_up(clients: tuple[Client, ...], root: Metadata) -> None:
    """Have every member apply what has been acknowledged: one that is behind sends requests as of an old revision."""
    for client in clients:
        client.kv.Range(rpc_pb2.RangeRequest(key=b"x"), metadata=root, timeout=10)


def put_many(client: Client, count: int, root: Metadata) -> None:
    """Write so many entries, many at a time."""
    for _ in range(0, count, 500):
        request = rpc_pb2.PutRequest(key=b"many")
        puts = [client.kv.Put.future(request, metadata=root, timeout=30) for _ in range(min(count, 500))]
        for each in puts:
            each.result()


def try_rights(client: Client, tokens: dict[str, Metadata]) -> None:
    """bert may do what he may, and nothing else, through any member."""
    bert = tokens["bert"]
    allowed: list[tuple[Any, Any]] = [
        (client.kv.Put, rpc_pb2.PutRequest(key=b"bert", value=b"v", prev_kv=True)),
        (client.kv.Range, rpc_pb2.RangeRequest(key=b"shared/", range_end=b"shared0")),
        (client.kv.Txn, txn_request([op_put(b"bert")], [op_range(b"shared/x")])),
        (client.kv.DeleteRange, rpc_pb2.DeleteRangeRequest(key=b"bert")),
    ]
    denied: list[tuple[Any, Any]] = [
        (client.kv.Put, rpc_pb2.PutRequest(key=b"anna")),
        (client.kv.Range, rpc_pb2.RangeRequest(key=b"shared/", range_end=b"\0")),
        (client.kv.Txn, txn_request([op_put(b"bert")], [op_delete(b"shared/x")])),
        (client.kv.DeleteRange, rpc_pb2.DeleteRangeRequest(key=b"b", range_end=b"c")),
        (client.auth.UserAdd, rpc_pb2.AuthUserAddRequest(name="evil", password="x")),
        (client.auth.UserGet, rpc_pb2.AuthUserGetRequest(name="anna")),
    ]
    for call, request in allowed:
        call(request, metadata=bert, timeout=10)
    for call, request in denied:
        assert failure(call, request, metadata=bert, timeout=10) == DENIED, request
        assert failure(call, request, timeout=10) == USER_EMPTY, request
        assert failure(call, request, metadata=(("token", "unknown.1"),), timeout=10) == INVALID_TOKEN, request
    client.auth.UserGet(rpc_pb2.AuthUserGetRequest(name="bert"), metadata=bert, timeout=10)


@pytest.mark.parametrize("leader", ("etcd", "ratifyd"))
def test_every_member_manages_and_refuses(leader: str, start_cluster: StartCluster) -> None:
    cluster = start_cluster("etcd", "ratifyd", "ratifyd", flags=("--bcrypt-cost=4",))
    cluster.lead(leader)
    etcd, first, second = (Client(server.client_endpoint) for server in cluster.members)
    clients = (etcd, first, second)
    with etcd, first, second:
        assert wait_equal_auth(cluster)[schema.AUTH] == [(schema.AUTH_REVISION, schema.encode_u64(1))]
        add_user(etcd, "anna", ((READWRITE, b"anna", b""),))
        enable_auth(first, bert=((READWRITE, b"bert", b""), (READ, b"shared/", b"shared0")))
        tokens = {name: login(client, name) for client, name in zip(clients, ("root", "anna", "bert"))}
        root = tokens["root"]
        catch_up(clients, root)
        for client in clients:
            try_rights(client, tokens)

        # Through each kind: a right given, a right taken, a password changed, a user gone.
        for client, name in zip(clients, ("carl", "dora", "emil")):
            add_user(client, name, ((READWRITE, b"bert", b"c"),), metadata=root)
            catch_up(clients, root)
            give = rpc_pb2.AuthUserGrantRoleRequest(user="bert", role=name)
            client.auth.UserGrantRole(give, metadata=root)
            catch_up(clients, root)
            for each in clients:
                each.kv.Put(rpc_pb2.PutRequest(key=b"bert/x"), metadata=tokens["bert"], timeout=10)
            client.auth.RoleDelete(rpc_pb2.AuthRoleDeleteRequest(role=name), metadata=root)
            catch_up(clients, root)
            for each in clients:
                request = rpc_pb2.PutRequest(key=b"bert/x")
                assert failure(each.kv.Put, request, metadata=tokens["bert"], timeout=10) == DENIED
        change = rpc_pb2.AuthUserChangePasswordRequest(name="anna", password="changed")
        second.auth.UserChangePassword(change, metadata=root)
        etcd.auth.UserDelete(rpc_pb2.AuthUserDeleteRequest(name="bert"), metadata=root)
        catch_up(clients, root)
        for each in clients:
            for name in ("anna", "bert"):
                request = rpc_pb2.PutRequest(key=name.encode())
                assert failure(each.kv.Put, request, metadata=tokens[name], timeout=10) == INVALID_TOKEN
            each.kv.Put(rpc_pb2.PutRequest(key=b"anna"), metadata=login(each, "anna", "changed"), timeout=10)

        rows = wait_equal_auth(cluster, root)
        assert (schema.AUTH_ENABLED, b"\x01") in rows[schema.AUTH]
        assert [name for name, _ in rows[schema.AUTH_USERS]] == [b"anna", b"carl", b"dora", b"emil", b"root"]
        assert [name for name, _ in rows[schema.AUTH_ROLES]] == [b"anna", b"bert", b"root"]
        first.auth.AuthDisable(rpc_pb2.AuthDisableRequest(), metadata=root)
        assert (schema.AUTH_ENABLED, b"\x00") in wait_equal_auth(cluster)[schema.AUTH]
    cluster.wait_equal()


@pytest.mark.parametrize("leader", (pytest.param("etcd", marks=pytest.mark.slow), "ratifyd"))
def test_auth_comes_with_a_snapshot(leader: str, start_cluster: StartCluster) -> None:
    """The leader is of one kind, the follower of the other: it was away when users came and the log was cut."""
    own = ("--experimental-snapshot-catchup-entries=5",)
    cluster = start_cluster(
        "etcd", "ratifyd", "ratifyd", flags=("--snapshot-count=50", "--bcrypt-cost=4"), own_flags=own
    )
    led_by = cluster.lead(leader)
    follower = next(server for server in cluster.members if server.kind != leader)
    with Client(led_by.client_endpoint) as client:
        # Before it goes: etcd 3.5.1 keeps no tokens when a snapshot is how it hears that auth is on.
        enable_auth(client)
        root = login(client, "root")
        follower.kill()
        add_user(client, "bert", ((READWRITE, b"bert", b""), (READ, b"shared/", b"shared0")), metadata=root)
        put_many(client, ETCD_CATCHUP_ENTRIES + 500 if leader == "etcd" else 100, root)
        follower.restart()
        with Client(follower.client_endpoint) as there:
            # Tokens are not part of a snapshot: only those given out later are known to all.
            root, tokens = login(there, "root"), {"bert": login(there, "bert")}
            catch_up((client, there), root)
            try_rights(there, tokens)
            try_rights(client, tokens)
        rows = wait_equal_auth(cluster, root)
    assert "applied snapshot" in follower.log_text()
    assert [name for name, _ in rows[schema.AUTH_USERS]] == [b"bert", b"root"]
    follower.restart(hard=True)
    with Client(follower.client_endpoint) as there:
        try_rights(there, {"bert": login(there, "bert")})
