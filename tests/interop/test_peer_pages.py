"""The pages of the peer port besides raft: what members and joining ones ask each other by HTTP.

`--against etcd` runs the same expectations against 3.5.1; where 3.6 answers otherwise the test says so.
"""

import http.client
import json
from dataclasses import dataclass

import pytest

from harness import stubs
from harness.servers import EtcdServer
from ratifyd.proto import rpc_pb2
from ratifyd.proto.lease_pb2 import LeaseInternalRequest, LeaseInternalResponse
from ratifyd.proto.rpc_pb2 import LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseTimeToLiveRequest

LIMIT = 64 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


def ask(server: EtcdServer, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Answer:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection(server.peer_endpoint, timeout=10)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, response.read())
    finally:
        connection.close()


def cluster_id(server: EtcdServer) -> str:
    with stubs.Client(server.client_endpoint) as client:
        found = client.cluster.MemberList(rpc_pb2.MemberListRequest(), timeout=5).header.cluster_id
    return f"{found:x}"


@pytest.fixture
def lease(server: EtcdServer) -> int:
    """A lease of 500 s with a key."""
    with stubs.Client(server.client_endpoint) as client:
        granted: int = client.lease.LeaseGrant(rpc_pb2.LeaseGrantRequest(TTL=500), timeout=5).ID
        client.kv.Put(rpc_pb2.PutRequest(key=b"leased", lease=granted), timeout=5)
    return granted


# --- /leases ----------------------------------------------------------------------------------------------------------


def test_a_renewal(server: EtcdServer, lease: int) -> None:
    answer = ask(server, "POST", "/leases", LeaseKeepAliveRequest(ID=lease).SerializeToString())
    assert (answer.status, answer.headers["content-type"]) == (200, "application/protobuf")
    assert LeaseKeepAliveResponse.FromString(answer.body) == LeaseKeepAliveResponse(ID=lease, TTL=500)
    answer = ask(server, "POST", "/leases", LeaseKeepAliveRequest(ID=12345).SerializeToString())
    assert (answer.status, answer.body) == (404, b"lease not found\n")


def test_a_look_at_a_lease(server: EtcdServer, lease: int) -> None:
    wanted = LeaseInternalRequest(LeaseTimeToLiveRequest=LeaseTimeToLiveRequest(ID=lease, keys=True))
    answer = ask(server, "POST", "/leases/internal", wanted.SerializeToString())
    assert (answer.status, answer.headers["content-type"]) == (200, "application/protobuf")
    found = LeaseInternalResponse.FromString(answer.body).LeaseTimeToLiveResponse
    assert (found.ID, found.grantedTTL, list(found.keys)) == (lease, 500, [b"leased"])
    assert 480 <= found.TTL <= 500
    assert found.HasField("header") and not found.header.ByteSize()
    unknown = LeaseInternalRequest(LeaseTimeToLiveRequest=LeaseTimeToLiveRequest(ID=12345))
    answer = ask(server, "POST", "/leases/internal", unknown.SerializeToString())
    assert (answer.status, answer.body) == (404, b"lease not found\n")


@pytest.mark.parametrize("path", ["/leases", "/leases/internal"])
def test_what_is_no_request_about_a_lease(server: EtcdServer, path: str) -> None:
    answer = ask(server, "GET", path)
    assert (answer.status, answer.body) == (405, b"Method Not Allowed\n")
    answer = ask(server, "POST", path, b"\xff\xff\xff")
    assert (answer.status, answer.body) == (400, b"error unmarshalling request\n")


@pytest.mark.parametrize("path", ["/leases", "/leases/internal"])
@pytest.mark.parametrize(("size", "status"), [(LIMIT, 404), (LIMIT + 1, 413), (8 * LIMIT, 413)])
def test_bodies_about_leases_are_limited(server: EtcdServer, kind: str, path: str, size: int, status: int) -> None:
    """Since 3.5.33: a field nobody knows pads the request."""
    if kind == "etcd":
        pytest.skip("3.5.1 reads a body of any size")
    request = (
        LeaseKeepAliveRequest(ID=12345)
        if path == "/leases"
        else LeaseInternalRequest(LeaseTimeToLiveRequest=LeaseTimeToLiveRequest(ID=12345))
    ).SerializeToString()
    padding = size - len(request) - 4
    assert 1 << 14 <= padding < 1 << 21
    length = bytes((padding & 0x7F | 0x80, padding >> 7 & 0x7F | 0x80, padding >> 14))
    body = request + b"\x7a" + length + bytes(padding)
    assert len(body) == size
    answer = ask(server, "POST", path, body)
    assert answer.status == status
    if status == 413:
        assert answer.body in (b"request body too large\n", b"")


# --- /members ---------------------------------------------------------------------------------------------------------


def test_promotions(server: EtcdServer) -> None:
    own = cluster_id(server)
    with stubs.Client(server.client_endpoint) as client:
        member = client.maintenance.Status(rpc_pb2.StatusRequest(), timeout=5).header.member_id
    for path, status, text in (
        ("/members/promote/5", 404, b"membership: ID not found\n"),
        ("/members/promote/x", 404, b"member x not found in cluster\n"),
        (f"/members/promote/{1 << 64}", 404, b"member %d not found in cluster\n" % (1 << 64)),
        (f"/members/promote/{'9' * 5000}", 404, b"member %s not found in cluster\n" % (b"9" * 5000)),
        (f"/members/promote/{member}", 412, b"membership: can only promote a learner member\n"),
    ):
        answer = ask(server, "POST", path)
        assert (answer.status, answer.body, answer.headers["x-etcd-cluster-id"]) == (status, text, own), path
    answer = ask(server, "GET", "/members/promote/5")
    assert (answer.status, answer.headers["allow"], answer.body) == (405, "POST", b"Method Not Allowed\n")


def test_members(server: EtcdServer) -> None:
    answer = ask(server, "GET", "/members")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.headers["x-etcd-cluster-id"] == cluster_id(server)
    (member,) = json.loads(answer.body)
    assert member["peerURLs"] == [server.peer_url]
    assert member["clientURLs"] == [server.client_url]
    assert ask(server, "POST", "/members").status == 405


# --- /members/hashkv --------------------------------------------------------------------------------------------------


def test_a_hash_for_another_member(server: EtcdServer, kind: str) -> None:
    with stubs.Client(server.client_endpoint) as client:
        revision = client.kv.Put(rpc_pb2.PutRequest(key=b"k"), timeout=5).header.revision
        client.kv.Put(rpc_pb2.PutRequest(key=b"k"), timeout=5)
        expected = client.maintenance.HashKV(rpc_pb2.HashKVRequest(revision=revision), timeout=5)
    body = json.dumps({"revision": revision}).encode()
    for headers in ({}, {"X-Etcd-Cluster-ID": cluster_id(server)}):
        answer = ask(server, "GET", "/members/hashkv", body, headers)
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        assert answer.headers["x-etcd-cluster-id"] == cluster_id(server)
        found = json.loads(answer.body)
        assert found["header"] == {"revision": revision + 1}
        assert found["hash"] == expected.hash
        assert found.get("compact_revision", 0) == expected.compact_revision
        if kind != "etcd":  # since 3.6
            assert found["hash_revision"] == revision


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"5"',
        b"7",
        b'{"revision":"5"}',
        b'{"revision":1.5}',
        b'{"revision":true}',
        b'{"revision":1e400}',
        b'{"revision":9223372036854775808}',
        b"[" * 100_000,
    ],
    ids=range(11),
)
def test_what_is_no_request_for_a_hash(server: EtcdServer, body: bytes) -> None:
    answer = ask(server, "GET", "/members/hashkv", body)
    assert (answer.status, answer.body) == (400, b"error unmarshalling request\n")


def test_hashes_that_cannot_be_had(server: EtcdServer) -> None:
    future = json.dumps({"revision": 1 << 40}).encode()
    answer = ask(server, "GET", "/members/hashkv", future)
    assert (answer.status, answer.body) == (400, b"mvcc: required revision is a future revision\n")
    with stubs.Client(server.client_endpoint) as client:
        revision = client.kv.Put(rpc_pb2.PutRequest(key=b"k"), timeout=5).header.revision
        client.kv.Put(rpc_pb2.PutRequest(key=b"k"), timeout=5)
        client.kv.Compact(rpc_pb2.CompactionRequest(revision=revision), timeout=5)
    answer = ask(server, "GET", "/members/hashkv", b'{"revision":2}')
    assert (answer.status, answer.body) == (400, b"mvcc: required revision has been compacted\n")
    answer = ask(server, "POST", "/members/hashkv", b"{}")
    assert (answer.status, answer.headers["allow"], answer.body) == (405, "GET", b"Method Not Allowed\n")


def test_a_hash_is_not_told_to_another_cluster(server: EtcdServer, kind: str) -> None:
    if kind == "etcd":
        pytest.skip("since 3.5.5")
    answer = ask(server, "GET", "/members/hashkv", b"{}", {"X-Etcd-Cluster-ID": "cafe"})
    assert (answer.status, answer.body) == (412, b"cluster ID mismatch\n")
