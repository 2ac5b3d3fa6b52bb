"""Hashes that other members ask for: as many at a time as clients may, and only as long as somebody waits."""

import json
from collections.abc import Callable
from types import SimpleNamespace

from ratifyd.api.maintenance import MAX_HASHES
from ratifyd.api.peers import PeerPages
from ratifyd.apply import requests
from ratifyd.proto.rpc_pb2 import HashKVRequest, PutRequest
from ratifyd.server.corruption import read_peer_hash
from tests.support_client import Client
from tests.support_member import Member

UNKNOWN = 2


class Asking:
    """Asks a member for its hash, as another member does."""

    def __init__(self, member: Member) -> None:
        self.pages = PeerPages(member.server)
        self.answers: list[tuple[int, bytes]] = []

    def ask(self, wanted: Callable[[], bool] = lambda: True) -> None:
        request = SimpleNamespace(method="GET", path="/members/hashkv", headers={}, body=b'{"revision":0}')
        self.pages.handle(request, lambda status, _headers, body: self.answers.append((status, body)), wanted)


def put(member: Member) -> None:
    member.do(requests.PUT, PutRequest(key=b"k"))


def test_only_so_many_at_a_time_along_with_those_of_clients() -> None:
    member = Member().start()
    put(member)
    peer, client = Asking(member), Client(member)
    for _ in range(MAX_HASHES):
        peer.ask()
    assert not peer.answers
    peer.ask()
    assert peer.answers == [(429, b"etcdserver: too many requests\n")]
    refused = client.begin("/etcdserverpb.Maintenance/HashKV", HashKVRequest())
    refusal = read_peer_hash(7, *peer.answers.pop())
    assert (refusal.found, refusal.reason) == (None, "etcdserver: too many requests")
    member.settle()
    client.read()
    assert client.streams[refused].status == UNKNOWN
    assert [status for status, _ in peer.answers] == [200] * MAX_HASHES
    assert {json.loads(body)["hash"] for _, body in peer.answers} == {member.hash_kv()[0]}
    assert not member.server.hashes_running
    peer.ask()
    member.settle()
    assert len(peer.answers) == MAX_HASHES + 1


def test_one_that_nobody_waits_for_is_dropped() -> None:
    member = Member().start()
    put(member)
    peer = Asking(member)
    peer.ask(lambda: False)
    assert member.server.hashes_running == 1
    member.settle()
    assert not peer.answers
    assert not member.server.hashes_running
    assert member.state.store._pins == []
