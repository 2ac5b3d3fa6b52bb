"""No bytes a client can send stop a member, now or when it replays its log."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from harness.outcomes import failure, get, op_delete, op_put, op_range, op_txn, put, txn_request
from harness.servers import EtcdServer
from harness.stubs import Client, status_of
from ratifyd.proto import auth_pb2, rpc_pb2
from ratifyd.proto.services import METHODS

_UNARY = sorted(
    path.decode() for path, method in METHODS.items() if not (method.client_streaming or method.server_streaming)
)


class _Expendable:
    """A server that may die of a test; the next test then gets a new one."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self.server: EtcdServer | None = None

    def running(self) -> EtcdServer:
        if self.server is None or not self.server.running:
            self.stop()
            self.server = EtcdServer(self._kind, ["--unsafe-no-fsync"])
        return self.server

    def stop(self) -> None:
        if self.server is not None:
            self.server.stop()


@pytest.fixture(scope="module")
def expendable(kind: str) -> Iterator[_Expendable]:
    servers = _Expendable(kind)
    yield servers
    servers.stop()


@pytest.mark.parametrize("path", _UNARY)
def test_cut_messages_are_refused(expendable: _Expendable, path: str) -> None:
    server = expendable.running()
    with Client(server.client_endpoint) as client:
        code, _ = failure(client.raw, path, b"\x0a\x7fcut")
    # Methods newer than the server are unknown to it whatever comes with them.
    assert code in ("INTERNAL", "UNIMPLEMENTED")
    assert server.running


def _samples() -> list[tuple[str, bytes]]:
    compare = rpc_pb2.Compare(key=b"k", target=rpc_pb2.Compare.VALUE, value=b"v", range_end=b"l")
    nested = op_txn([op_put(b"n", b"v", lease=5)], [op_delete(b"n", b"o")], [compare])
    permission = auth_pb2.Permission(key=b"k", range_end=b"l", permType=auth_pb2.Permission.READWRITE)
    requests: list[tuple[str, Any]] = [
        ("etcdserverpb.KV/Put", rpc_pb2.PutRequest(key=b"k", value=b"value", lease=77, prev_kv=True)),
        ("etcdserverpb.KV/Range", rpc_pb2.RangeRequest(key=b"k", range_end=b"l", limit=3, min_mod_revision=1)),
        ("etcdserverpb.KV/DeleteRange", rpc_pb2.DeleteRangeRequest(key=b"k", range_end=b"l", prev_kv=True)),
        ("etcdserverpb.KV/Txn", txn_request([op_put(b"k", b"v"), nested], [op_range(b"k", b"l")], [compare])),
        ("etcdserverpb.KV/Compact", rpc_pb2.CompactionRequest(revision=1, physical=True)),
        ("etcdserverpb.Lease/LeaseGrant", rpc_pb2.LeaseGrantRequest(TTL=600, ID=77)),
        ("etcdserverpb.Lease/LeaseRevoke", rpc_pb2.LeaseRevokeRequest(ID=77)),
        ("etcdserverpb.Lease/LeaseTimeToLive", rpc_pb2.LeaseTimeToLiveRequest(ID=77, keys=True)),
        ("etcdserverpb.Maintenance/Alarm", rpc_pb2.AlarmRequest(action=0, alarm=rpc_pb2.NOSPACE, memberID=9)),
        ("etcdserverpb.Maintenance/HashKV", rpc_pb2.HashKVRequest(revision=3)),
        ("etcdserverpb.Auth/UserAdd", rpc_pb2.AuthUserAddRequest(name="user", password="p")),
        ("etcdserverpb.Auth/RoleAdd", rpc_pb2.AuthRoleAddRequest(name="role")),
        ("etcdserverpb.Auth/RoleGrantPermission", rpc_pb2.AuthRoleGrantPermissionRequest(name="role", perm=permission)),
    ]
    return [("/" + path, request.SerializeToString()) for path, request in requests]


def _mutated(draw: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 4])):
        kind, at = draw.random(), draw.randrange(len(changed) + 1)
        if kind < 0.4 and changed:
            changed[at % len(changed)] = draw.randrange(256)
        elif kind < 0.6:
            changed[at:at] = draw.randbytes(draw.choice([1, 3]))
        elif kind < 0.8:
            del changed[at : at + draw.choice([1, 2])]
        else:
            del changed[at:]
    return bytes(changed)


@pytest.mark.only("ratifyd")
def test_mutated_messages_never_stop_a_member(start_server: Callable[..., tuple[EtcdServer, Client]]) -> None:
    """etcd is left out: an unknown sort target or alarm action kills it."""
    server, client = start_server("--bcrypt-cost=4")
    draw = random.Random(20)
    samples = _samples()
    for _ in range(600):
        path, data = draw.choice(samples)
        sent = _mutated(draw, data)
        try:
            client.raw(path, sent)
        except grpc.RpcError as error:
            code, text = status_of(error)
            assert code != "UNAVAILABLE", f"{path} {sent.hex()}: {text}"
    revision = get(client, b"k").header.revision
    server.restart(hard=True)
    client.kv.Range(rpc_pb2.RangeRequest(key=b"k"), wait_for_ready=True, timeout=15)
    assert get(client, b"k").header.revision == revision


@pytest.mark.only("ratifyd")
def test_what_kills_etcd_does_not_kill_ratifyd(start_server: Callable[..., tuple[EtcdServer, Client]]) -> None:
    server, client = start_server()
    put(client, b"c", b"v")
    kept = op_put(b"c", ignore_value=True)
    requests: list[tuple[str, Any]] = [
        ("KV/Range", rpc_pb2.RangeRequest(key=b"c", range_end=b"d", sort_target=9)),  # type: ignore[arg-type]
        ("KV/Txn", txn_request([op_range(b"c", b"d", sort_target=9)])),
        ("KV/Txn", txn_request([op_delete(b"b", b"\0"), kept])),
        ("Maintenance/Alarm", rpc_pb2.AlarmRequest(action=9, alarm=rpc_pb2.NOSPACE)),  # type: ignore[arg-type]
    ]
    for path, request in requests:
        try:
            client.raw(f"/etcdserverpb.{path}", request.SerializeToString())
        except grpc.RpcError as error:
            assert status_of(error)[0] != "UNAVAILABLE", request
        assert server.running
    server.restart(hard=True)
    client.kv.Range(rpc_pb2.RangeRequest(key=b"c"), wait_for_ready=True, timeout=15)
