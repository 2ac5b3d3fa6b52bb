"""Requests that end an etcd process, or all members of a cluster: here an error, and everybody alive, now and later.

Some stop the member that answers, some every member that applies them, some every one of them again at each restart.
"""

import grpc
import pytest
from google.protobuf.message import Message

from harness.outcomes import op_delete, op_put, op_range, op_txn, txn_request
from harness.servers import EtcdCluster, EtcdServer
from harness.stubs import Client, status_of
from ratifyd.proto import auth_pb2, rpc_pb2
from ratifyd.proto.services import METHODS

INVALID, OK, UNKNOWN, NOT_FOUND = "INVALID_ARGUMENT", "OK", "UNKNOWN", "NOT_FOUND"
NO_URLS = "etcdserver: given member URLs are invalid"
LONG = "n" * 32_769


def deep(levels: int) -> bytes:
    """A txn inside a txn inside a txn."""
    request = txn_request([op_put(b"deep", b"v")])
    data = request.SerializeToString()
    for _ in range(levels):
        for tag in (b"\x22", b"\x12"):
            data = tag + _varint(len(data)) + data
    return data


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))


def _range(**fields: int) -> rpc_pb2.RangeRequest:
    return rpc_pb2.RangeRequest(key=b"c", range_end=b"d", **fields)  # type: ignore[arg-type]


PERMISSION = auth_pb2.Permission(key=b"k", permType=9)  # type: ignore[arg-type]
REQUESTS: dict[str, tuple[str, Message | bytes, str]] = {
    "Range, unknown sort target": ("KV/Range", _range(sort_target=9), INVALID),
    "Range, negative sort target": ("KV/Range", _range(sort_target=-1), INVALID),
    "Range, unknown sort order": ("KV/Range", _range(sort_order=9), INVALID),
    "Txn that reads, unknown sort target": ("KV/Txn", txn_request([op_range(b"c", b"d", sort_target=9)]), INVALID),
    "Txn that writes, unknown sort target": (
        "KV/Txn",
        txn_request([op_put(b"x", b"v"), op_range(b"c", b"d", sort_target=9)]),
        INVALID,
    ),
    "Txn inside a Txn, unknown sort target": (
        "KV/Txn",
        txn_request([op_txn([op_range(b"c", b"d", sort_target=9)], [])]),
        INVALID,
    ),
    "Txn that deletes to the end and keeps a value of it": (
        "KV/Txn",
        txn_request([op_delete(b"b", b"\0"), op_put(b"c", ignore_value=True)]),
        INVALID,
    ),
    "the same in Txns of its own": (
        "KV/Txn",
        txn_request([op_txn([], [op_delete(b"b", b"\0")]), op_txn([op_put(b"c", ignore_lease=True)])]),
        INVALID,
    ),
    "Txn that keeps a value and then deletes to the end": (
        "KV/Txn",
        txn_request([op_put(b"c", ignore_value=True), op_delete(b"cc", b"\0")]),
        OK,
    ),
    "Txn without an operation in its operation": ("KV/Txn", b"\x12\x00", INVALID),
    "Txn of 50 levels": ("KV/Txn", deep(50), OK),
    "Txn of 127 levels": ("KV/Txn", deep(127), OK),
    "Txn of 128 levels": ("KV/Txn", deep(128), INVALID),
    "Txn of 5,000 levels": ("KV/Txn", deep(5000), INVALID),
    "Alarm, unknown action": ("Maintenance/Alarm", rpc_pb2.AlarmRequest(action=9, alarm=1), UNKNOWN),  # type: ignore[arg-type]
    "Alarm, unknown alarm raised": ("Maintenance/Alarm", rpc_pb2.AlarmRequest(action=1, alarm=9), UNKNOWN),  # type: ignore[arg-type]
    "Alarm, negative alarm raised": ("Maintenance/Alarm", rpc_pb2.AlarmRequest(action=1, alarm=-1), UNKNOWN),  # type: ignore[arg-type]
    "Alarm, no alarm raised": ("Maintenance/Alarm", rpc_pb2.AlarmRequest(action=1), OK),  # type: ignore[arg-type]
    "Alarm, unknown alarm cleared": ("Maintenance/Alarm", rpc_pb2.AlarmRequest(action=2, alarm=9), OK),  # type: ignore[arg-type]
    "Alarm, unknown alarm asked for": ("Maintenance/Alarm", rpc_pb2.AlarmRequest(action=0, alarm=9), OK),  # type: ignore[arg-type]
    "MemberUpdate without URLs": ("Cluster/MemberUpdate", rpc_pb2.MemberUpdateRequest(ID=0), INVALID),
    "MemberUpdate with an empty URL": (
        "Cluster/MemberUpdate",
        rpc_pb2.MemberUpdateRequest(ID=0, peerURLs=[""]),
        INVALID,
    ),
    "MemberAdd without URLs": ("Cluster/MemberAdd", rpc_pb2.MemberAddRequest(), INVALID),
    "UserAdd, a name longer than a key may be": ("Auth/UserAdd", rpc_pb2.AuthUserAddRequest(name=LONG), INVALID),
    "RoleAdd, a name longer than a key may be": ("Auth/RoleAdd", rpc_pb2.AuthRoleAddRequest(name=LONG), INVALID),
    "RoleGrantPermission, unknown type": (
        "Auth/RoleGrantPermission",
        rpc_pb2.AuthRoleGrantPermissionRequest(name="role", perm=PERMISSION),
        OK,
    ),
    "Downgrade, unknown action": ("Maintenance/Downgrade", rpc_pb2.DowngradeRequest(action=9), UNKNOWN),  # type: ignore[arg-type]
    "MoveLeader to nobody": ("Maintenance/MoveLeader", rpc_pb2.MoveLeaderRequest(targetID=1), "FAILED_PRECONDITION"),
    "LeaseGrant, the least TTL": ("Lease/LeaseGrant", rpc_pb2.LeaseGrantRequest(TTL=-(1 << 63), ID=-1), OK),
    "Compact, the least revision": ("KV/Compact", rpc_pb2.CompactionRequest(revision=-(1 << 63)), "OUT_OF_RANGE"),
}
"""By what they are: path below etcdserverpb, message, and the code of the answer. Member 0 stands for the one asked."""


def ask(client: Client, name: str) -> tuple[str, str]:
    """Send a request of the table; code and text of the answer."""
    path, request, _ = REQUESTS[name]
    if path == "Cluster/MemberUpdate":
        assert isinstance(request, rpc_pb2.MemberUpdateRequest)
        member = client.cluster.MemberList(rpc_pb2.MemberListRequest()).header.member_id
        request = rpc_pb2.MemberUpdateRequest(ID=member, peerURLs=request.peerURLs)
    data = request if isinstance(request, bytes) else request.SerializeToString()
    method = METHODS[f"/etcdserverpb.{path}".encode()]
    try:
        client.raw(method.path.decode(), data)
    except grpc.RpcError as error:
        code, text = status_of(error)
        return code, text
    return OK, ""


def prepare(client: Client) -> None:
    client.kv.Put(rpc_pb2.PutRequest(key=b"c", value=b"v"), wait_for_ready=True, timeout=20)
    client.kv.Put(rpc_pb2.PutRequest(key=b"cc", value=b"w"))
    client.auth.RoleAdd(rpc_pb2.AuthRoleAddRequest(name="role"))


def still_works(server: EtcdServer) -> bool:
    with Client(server.client_endpoint) as client:
        put = client.kv.Put(rpc_pb2.PutRequest(key=b"alive"), wait_for_ready=True, timeout=20)
        return server.running and put.header.revision > 1


def test_one_member_survives() -> None:
    with EtcdServer("ratifyd", ["--unsafe-no-fsync"]) as server, Client(server.client_endpoint) as client:
        prepare(client)
        answers = {name: ask(client, name)[0] for name in REQUESTS}
        assert still_works(server)
        server.restart(hard=True)
        assert still_works(server)
    assert answers == {name: code for name, (_, _, code) in REQUESTS.items()}


def test_a_cluster_survives() -> None:
    """Each request goes to every member; then all are killed, and replay their logs."""
    with EtcdCluster(["ratifyd"] * 3, ["--unsafe-no-fsync"]) as cluster:
        clients = [Client(member.client_endpoint) for member in cluster.members]
        prepare(clients[0])
        for name in REQUESTS:
            for client in clients:
                code, text = ask(client, name)
                assert code != "UNAVAILABLE", (name, text)
        for client in clients:
            client.close()
        assert all(still_works(member) for member in cluster.members)
        for member in cluster.members:
            member.kill()
        cluster.start()
        assert all(still_works(member) for member in cluster.members)


@pytest.mark.parametrize("kinds", [("ratifyd", "ratifyd"), ("etcd", "ratifyd")], ids="-".join)
def test_a_deep_txn_is_taken_by_either_kind(kinds: tuple[str, str]) -> None:
    """protobuf's parser stops at 49 levels, etcd does not: what one member takes the other has to apply."""
    with EtcdCluster(list(kinds), ["--unsafe-no-fsync"]) as cluster:
        for member in cluster.members:
            with Client(member.client_endpoint) as client:
                client.kv.Put(rpc_pb2.PutRequest(key=b"c"), wait_for_ready=True, timeout=20)
                client.raw("/etcdserverpb.KV/Txn", deep(127))
        for member in cluster.members:
            with Client(member.client_endpoint) as client:
                found = client.kv.Range(rpc_pb2.RangeRequest(key=b"deep"), timeout=20)
                assert [kv.version for kv in found.kvs] == [2]
                assert member.running


@pytest.mark.parametrize("url", ["http://a..b:2380", "http://a:99999", f"http://{'a' * 70}:2380", "http://[::1]:0"])
def test_a_member_at_an_impossible_address(url: str) -> None:
    """Nobody can reach it; nobody is worse off for trying."""
    with EtcdServer("ratifyd", ["--unsafe-no-fsync"]) as server, Client(server.client_endpoint) as client:
        client.kv.Put(rpc_pb2.PutRequest(key=b"c"))
        added = client.cluster.MemberAdd(rpc_pb2.MemberAddRequest(peerURLs=[url], isLearner=True))
        server.restart(hard=True)
        client.kv.Put(rpc_pb2.PutRequest(key=b"c"), wait_for_ready=True, timeout=20)
        client.cluster.MemberRemove(rpc_pb2.MemberRemoveRequest(ID=added.member.ID))
        assert still_works(server)


def test_the_last_member_cannot_be_removed() -> None:
    """Without the check before the log, raft alone must refuse it: etcd's panics."""
    flags = ["--unsafe-no-fsync", "--strict-reconfig-check=false"]
    with EtcdServer("ratifyd", flags) as server, Client(server.client_endpoint) as client:
        client.kv.Put(rpc_pb2.PutRequest(key=b"c"))
        member = client.cluster.MemberList(rpc_pb2.MemberListRequest()).header.member_id
        with pytest.raises(grpc.RpcError) as caught:
            client.cluster.MemberRemove(rpc_pb2.MemberRemoveRequest(ID=member))
        assert status_of(caught.value)[1] == "etcdserver: re-configuration failed due to not enough started members"
        assert still_works(server)
        server.restart(hard=True)
        assert still_works(server)
