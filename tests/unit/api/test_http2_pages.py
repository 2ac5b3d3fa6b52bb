"""Pages and gateway over HTTP/2 without gRPC's content type."""

import json

import pytest

from ratifyd.api.calls import MAX_QUEUED_BYTES
from ratifyd.apply import requests
from ratifyd.proto.rpc_pb2 import PutRequest
from ratifyd.wire.limits import Limits
from tests.support_client import Client, FakeLink
from tests.support_http import Front
from tests.support_member import Member


@pytest.fixture
def client() -> Client:
    member = Member().start()
    return Client(member, front=Front(member).front)


def test_pages_and_unary_requests(client: Client) -> None:
    version = client.answer(client.http("GET", "/version?x=1"))
    assert version.ended and version.headers[":status"] == "200"
    assert version.headers["content-type"] == "application/json" and json.loads(version.data)["storage"]
    assert version.headers["content-length"] == str(len(version.data))
    assert version.headers["access-control-allow-origin"] == "*"
    head = client.answer(client.http("HEAD", "/metrics"))
    assert head.ended and head.data == b"" and head.headers["content-length"] == "7"
    put = client.answer(client.http("POST", "/v3/kv/p%75t", b'{"key":"YQ=="}', origin="x"))
    assert json.loads(put.data)["header"]["revision"] == "2"
    refused = client.answer(client.http("POST", "/v3/kv/put", b"[]"))
    assert (refused.headers[":status"], json.loads(refused.data)["code"]) == ("400", 3)
    assert not client.session._http and client.session.idle


def test_a_watch_until_it_is_reset(client: Client) -> None:
    stream = client.http("POST", "/v3/watch", b'{"create_request":{"key":"YQ=="}}')
    watch = client.answer(stream)
    assert watch.headers[":status"] == "200" and json.loads(watch.data)["result"]["created"]
    assert "content-length" not in watch.headers
    client.answer(client.http("POST", "/v3/kv/put", b'{"key":"YQ=="}'))
    assert len(client.answer(stream).data.splitlines()) == 2 and not watch.ended
    client.reset(stream)
    assert client.member.server.watch_streams == 0 and not client.session._http


def test_a_watch_nobody_reads_is_cut() -> None:
    member = Member().start()
    client = Client(member, front=Front(member).front, limits=Limits(max_unread_bytes=100_000), window=0)
    client.http("POST", "/v3/watch", b'{"create_request":{"key":"YQ=="}}')
    for _ in range(4):
        member.do(requests.PUT, PutRequest(key=b"a", value=bytes(60_000)))
        member.settle()
    assert member.server.watch_streams == 0 and not client.session._http
    assert client.session.connection.queued < 300_000


def test_a_watch_ends_with_its_connection(client: Client) -> None:
    client.answer(client.http("POST", "/v3/watch", b'{"create_request":{"key":"YQ=="}}'))
    client.session.closed()
    assert client.member.server.watch_streams == 0 and not client.session._http


def test_a_stream_that_ends(client: Client) -> None:
    keepalive = client.answer(client.http("POST", "/v3/lease/keepalive", b'{"ID":1}{"ID":2}'))
    assert keepalive.ended and len(keepalive.data.splitlines()) == 2
    assert not client.session._http and client.session.idle


def test_a_slow_client_is_not_fed_until_it_reads(client: Client) -> None:
    stream = client.http("POST", "/v3/watch", b'{"create_request":{"key":"YQ=="}}')
    client.answer(stream)
    link = client.link
    assert isinstance(link, FakeLink)
    link.stuck = MAX_QUEUED_BYTES + 1
    client.answer(client.http("POST", "/v3/kv/put", b'{"key":"YQ=="}'))
    assert len(client.answer(stream).data.splitlines()) == 1
    link.stuck = 0
    client.session.resume_writing()
    assert len(client.answer(stream).data.splitlines()) == 2


def test_without_a_front_there_are_no_pages() -> None:
    client = Client(Member().start())
    assert client.answer(client.http("GET", "/version")).headers[":status"] == "404"
