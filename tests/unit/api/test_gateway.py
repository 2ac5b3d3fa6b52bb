"""The JSON gateway over a member without sockets: paths, answers, errors, streams, and what a lost client leaves."""

import base64
import json
from typing import Any

import pytest

from ratifyd.api.calls import MAX_QUEUED_BYTES, Call
from ratifyd.api.exchange import SLICE_BYTES
from ratifyd.api.gateway import PATHS
from ratifyd.apply import requests
from ratifyd.proto.rpc_pb2 import PutRequest
from ratifyd.proto.services import METHODS
from tests.support_http import MAX_MESSAGE_BYTES, Front
from tests.support_member import Member

A = base64.b64encode(b"a").decode()


@pytest.fixture
def member() -> Member:
    return Member().start()


@pytest.fixture
def front(member: Member) -> Front:
    return Front(member)


def test_every_method_has_a_path() -> None:
    """But for RangeStream, which has none in etcd either, and what is not etcd's."""
    with_path = {method.path for method in PATHS.values()}
    ours = {path for path in METHODS if path.startswith((b"/etcdserverpb.", b"/v3"))}
    assert ours - with_path == {b"/etcdserverpb.KV/RangeStream"} and with_path <= ours
    assert len(PATHS) == 51


def test_put_and_range(front: Front) -> None:
    put = front.ask("/v3/kv/put", {"key": A, "value": A})
    assert (put.status, put.headers["Content-Type"]) == (200, "application/json")
    assert put.headers["Grpc-Metadata-Content-Type"] == "application/grpc"
    assert put.json["header"]["revision"] == "2"
    found = front.ask("/v3beta/kv/range", {"key": A}).json
    assert found["kvs"] == [{"key": A, "create_revision": "2", "mod_revision": "2", "version": "1", "value": A}]


def test_errors(front: Front) -> None:
    text = "etcdserver: key is not provided"
    refused = front.ask("/v3/kv/range", {})
    assert (refused.status, refused.json) == (400, {"error": text, "code": 3, "message": text})
    assert front.ask("/v3/kv/range", b"{").json["message"] == "unexpected EOF"
    assert front.ask("/v3/lease/revoke", {"ID": 1}).status == 404
    assert front.ask("/v3/kv/range", {"key": A}, method="PUT").status == 501
    assert front.ask("/v3/nowhere").json["code"] == 5
    big = front.ask("/v3/kv/put", {"key": A, "value": base64.b64encode(bytes(MAX_MESSAGE_BYTES)).decode()})
    assert (big.status, big.json["code"]) == (429, 8)
    assert big.json["message"] == "grpc: received message larger than max (10006 vs. 10000)"


def test_a_method_without_route_is_not_implemented(front: Front) -> None:
    del front.routes[b"/etcdserverpb.KV/Range"]
    refused = front.ask("/v3/kv/range", {})
    assert (refused.status, refused.json["message"]) == (501, "unknown method Range for service etcdserverpb.KV")


def test_timeouts(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    assert front.ask("/v3/kv/range", {"key": A}, grpc_timeout="soon").json["message"] == "invalid grpc-timeout: soon"
    assert front.ask("/v3/kv/range", {"key": A}, grpc_timeout="1S").status == 200
    calls: list[Call] = []
    monkeypatch.setattr(front.routes[b"/etcdserverpb.KV/Range"], "handler", lambda server, call: calls.append(call))
    got = front.ask("/v3/kv/range", {"key": A}, grpc_timeout="50m")
    assert not got.ended
    front.member.clock.advance(0.1)
    assert (got.status, got.json["code"], got.json["message"]) == (504, 4, "context deadline exceeded")
    calls[0].reply(b"")


def test_answers_too_deep_for_json(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    route = front.routes[b"/etcdserverpb.KV/Range"]
    monkeypatch.setattr(route, "handler", lambda server, call: call.reply(b"\x0b"))
    assert front.ask("/v3/kv/range", {"key": A}).json["code"] == 13


def test_identity_is_read_from_the_headers(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Call] = []
    monkeypatch.setattr(front.routes[b"/etcdserverpb.KV/Range"], "handler", lambda server, call: seen.append(call))
    front.ask("/v3/kv/range", {}, authorization="secret", grpc_metadata_hasleader="true", host="etcd:2379", cookie="c")
    metadata = seen[0].head.metadata
    assert metadata[b"authorization"] == [b"secret"] and metadata[b"hasleader"] == [b"true"]
    assert metadata[b"grpcgateway-accept"] == [b""]
    assert metadata[b"grpcgateway-authorization"] == [b"secret"] and metadata[b"grpcgateway-cookie"] == [b"c"]
    assert metadata[b"x-forwarded-for"] == [b"10.0.0.1"] and metadata[b"x-forwarded-host"] == [b"etcd:2379"]


def test_who_wants_a_leader_is_refused_without(member: Member) -> None:
    front = Front(member)
    assert front.ask("/v3/kv/range", {"key": A}, grpc_metadata_hasleader="true").status == 200
    member.raft.leader_id = 0
    refused = front.ask("/v3/kv/range", {"key": A}, grpc_metadata_hasleader="true")
    assert (refused.status, refused.json["message"]) == (503, "etcdserver: no leader")


def test_long_answers_are_written_in_slices(front: Front) -> None:
    member = front.member
    for number in range(400):
        member.call(requests.PUT, PutRequest(key=b"k%04d" % number, value=bytes(1000)))
    member.settle()
    found = front.ask("/v3/kv/range", {"key": "aw==", "range_end": "bA=="})
    assert len(found.body) > SLICE_BYTES
    assert found.json["count"] == "400" and len(found.json["kvs"]) == 400


def test_a_lost_client_gets_no_answer(front: Front) -> None:
    got, incoming = front.open("/v3/kv/put")
    incoming.receive(b'{"key":"YQ=="}')
    incoming.body_ended()
    incoming.lost()
    front.member.settle()
    assert not got.status
    assert front.ask("/v3/kv/range", {"key": A}).json["count"] == "1"


# --- streams ---------------------------------------------------------------------------------------------------------


def _watch(front: Front, **create: Any) -> tuple[Any, Any]:
    got, incoming = front.open("/v3/watch")
    incoming.receive(json.dumps({"create_request": create}).encode())
    front.member.settle()
    return got, incoming


def test_watch(front: Front) -> None:
    got, incoming = _watch(front, key=A)
    assert got.status == 200 and got.headers["Content-Type"] == "application/json"
    assert got.lines[0]["result"]["created"] is True
    front.ask("/v3/kv/put", {"key": A, "value": base64.b64encode(b"<>&").decode()})
    assert got.lines[1]["result"]["events"][0]["kv"]["mod_revision"] == "2"
    assert "type" not in got.lines[1]["result"]["events"][0]
    front.ask("/v3/kv/deleterange", {"key": A})
    assert got.lines[2]["result"]["events"][0]["type"] == "DELETE"
    incoming.receive(b'{"create_request":{"key":"YQ==","watch_id":7}}{"cancel_')
    incoming.receive(b'request":{"watch_id":"7"}}')
    assert [line["result"].get("watch_id") for line in got.lines[3:]] == ["7", "7"]
    assert got.lines[4]["result"]["canceled"] is True
    incoming.body_ended()
    front.ask("/v3/kv/put", {"key": A})
    assert len(got.lines) == 6 and not got.ended
    incoming.lost()
    assert front.member.server.watch_streams == 0
    front.ask("/v3/kv/put", {"key": A})
    assert len(got.lines) == 6


def test_watchers_of_one_key_get_a_line_each(front: Front) -> None:
    got, incoming = _watch(front, key=A)
    for number in range(3):
        incoming.receive(b'{"create_request":{"key":"YQ==","watch_id":%d}}' % (7 + 200 * number))
    front.ask("/v3/kv/put", {"key": A})
    told = [line["result"] for line in got.lines[4:]]
    assert sorted(int(each.get("watch_id", "0")) for each in told) == [0, 7, 207, 407]
    assert all(each["events"] == told[0]["events"] for each in told)


def test_a_slow_reader_of_a_watch_is_not_fed(front: Front) -> None:
    got, incoming = _watch(front, key=A)
    got.queued_bytes = MAX_QUEUED_BYTES + 1
    front.ask("/v3/kv/put", {"key": A})
    assert len(got.lines) == 1
    got.queued_bytes = 0
    incoming.writable()
    front.member.settle()
    assert got.lines[1]["result"]["events"][0]["kv"]["version"] == "1"


def test_keepalive(front: Front) -> None:
    front.ask("/v3/lease/grant", {"TTL": 60, "ID": 5})
    got = front.ask("/v3/lease/keepalive", b'{"ID":"5"}\n{"ID":6} {"ID":5}')
    assert [line["result"].get("TTL") for line in got.lines] == ["60", None, "60"]
    assert got.ended
    empty = front.ask("/v3/lease/keepalive", b"")
    assert (empty.status, empty.body, empty.ended) == (200, b"", True)


def test_bodies_that_are_no_messages(front: Front) -> None:
    for body in (b"{bad", b'{"ID":"x"}', b"5", b"]", b'{"ID":5', b"\xff"):
        got = front.ask("/v3/lease/keepalive", body)
        assert (got.status, got.json["code"]) == (400, 3), body
        assert got.json["message"].startswith("Failed to decode request: ")
    later = front.ask("/v3/lease/keepalive", b'{"ID":1} {bad')
    assert len(later.lines) == 1 and later.ended, "what follows a bad message is not read, as in etcd"


def test_a_message_without_end_is_refused(front: Front) -> None:
    got, incoming = front.open("/v3/watch")
    incoming.receive(b'{"create_request":{"key":"')
    for _ in range(3):
        incoming.receive(b"A" * MAX_MESSAGE_BYTES)
    assert (got.status, got.json["error"]["code"], got.ended) == (429, 8, True)
    incoming.receive(b"A")
    incoming.body_ended()


def test_stream_errors(front: Front) -> None:
    member = front.member
    member.raft.leader_id = 0
    got = front.ask("/v3/watch", {"create_request": {"key": A}}, grpc_metadata_hasleader="true")
    text = "etcdserver: no leader"
    error = {"grpc_code": 14, "http_code": 503, "message": text, "http_status": "Service Unavailable", "code": 14}
    assert (got.status, got.lines, got.ended) == (503, [{"error": error}], True)


def test_a_deadline_ends_a_stream_that_has_begun(front: Front) -> None:
    got, incoming = front.open("/v3/watch", grpc_timeout="2S")
    incoming.receive(b'{"create_request":{"key":"YQ=="}}')
    front.member.settle()
    assert not got.ended
    front.member.clock.advance(3)
    assert got.ended and got.lines[-1]["error"]["http_code"] == 504
    assert front.member.server.watch_streams == 0


def test_snapshot_reads_one_message(front: Front) -> None:
    assert front.ask("/v3/maintenance/snapshot", b"{bad").json["code"] == 3
    got, incoming = front.open("/v3/maintenance/snapshot")
    incoming.lost()
    incoming.body_ended()
    assert not got.status
