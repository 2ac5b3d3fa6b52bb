"""Who may ask over HTTP, and where requests go."""

import json
from typing import Any

import pytest

from ratifyd.apply import requests
from ratifyd.errors import Timeout
from ratifyd.proto.rpc_pb2 import CORRUPT, NOSPACE, AlarmRequest
from tests.support_http import Front
from tests.support_member import Member


@pytest.fixture
def member() -> Member:
    return Member().start()


def test_cors(member: Member) -> None:
    everyone = Front(member).ask("/version", method="GET")
    assert everyone.headers["Access-Control-Allow-Origin"] == "*"
    assert everyone.headers["Access-Control-Allow-Methods"] == "POST, GET, OPTIONS, PUT, DELETE"
    assert everyone.headers["Access-Control-Allow-Headers"] == "accept, content-type, authorization"
    assert Front(member, cors=()).ask("/version", method="GET").headers["Access-Control-Allow-Origin"] == "*"
    some = Front(member, cors=("https://a.example", "https://b.example"))
    allowed = some.ask("/v3/kv/range", {}, origin="https://b.example")
    assert (allowed.status, allowed.headers["Access-Control-Allow-Origin"]) == (400, "https://b.example")
    for origin in ({}, {"origin": "https://c.example"}):
        assert not any("Access" in name for name in some.ask("/v3/kv/range", {}, **origin).headers)
    preflight = some.ask("/v3/nowhere", method="OPTIONS", origin="https://a.example")
    assert (preflight.status, preflight.body) == (200, b"")
    assert preflight.headers["Access-Control-Allow-Origin"] == "https://a.example"


def test_hosts(member: Member) -> None:
    front = Front(member, hosts=("etcd.example", "::1"))
    for host in ("etcd.example", "etcd.example:2379", "[::1]:2379"):
        assert front.ask("/version", method="GET", host=host).status == 200, host
    for host in ("other.example:2379", "etcd.example:1:2", "", "[::1]"):
        assert front.ask("/v3/kv/range", {}, host=host).status == 421, host
    refused = front.ask("/version", method="GET", host='evil"example')
    assert b'--host-whitelist "evil\\"example"' in refused.body and "Access-Control-Allow-Origin" not in refused.headers
    assert Front(member, hosts=("etcd.example",), secure=True).ask("/version", method="GET", host="x").status == 200
    assert Front(member, hosts=()).ask("/version", method="GET", host="x").status == 200


def test_paths(member: Member) -> None:
    front = Front(member)
    for path, clean in (("/v3", "/v3/"), ("//v3/kv/range", "/v3/kv/range"), ("/a/../v3/./kv/range/", "/v3/kv/range/")):
        moved = front.ask(path, query="x=1")
        assert (moved.status, moved.headers["Location"]) == (307, clean + "?x=1")
    assert front.ask("//a\r\nb").headers["Location"] == "/a%0D%0Ab"
    assert front.ask("/v3alpha/kv/range", {}).body == b"404 page not found\n"
    without = Front(member, gateway=False)
    assert without.ask("/v3/kv/range", {}).body == without.ask("/v3", {}).body == b"404 page not found\n"
    assert not without.front.wants_body_stream("POST", "/v3/watch")
    for path in ("/v3/watch", "/v3beta/lease/keepalive"):
        assert front.front.wants_body_stream("POST", path) and not front.front.wants_body_stream("GET", path)
    assert not front.front.wants_body_stream("POST", "/v3/kv/put")


def test_debug_variables(member: Member) -> None:
    front = Front(member)
    found = front.ask("/debug/vars", method="GET")
    assert found.body.startswith(b'{\n"cmdline": ["ratifyd"],\n"raft.status": {"id":"')
    status = json.loads(found.body)["raft.status"]
    assert (status["raftState"], status["lead"], status["leadtransferee"]) == ("StateLeader", status["id"], "0")
    assert status["progress"][status["id"]]["state"] == "StateReplicate"
    assert front.ask("/debug/vars").status == 405


# --- probes ----------------------------------------------------------------------------------------------------------


def test_live_and_ready(member: Member) -> None:
    front = Front(member)
    assert front.ask("/livez", method="GET").body == b"ok\n"
    assert front.ask("/livez", method="GET", query="verbose").body == b"[+]serializable_read ok\nok\n"
    ready = front.ask("/readyz", method="GET", query="verbose")
    names = ("data_corruption", "serializable_read", "linearizable_read", "non_learner")
    assert ready.body.decode() == "".join(f"[+]{name} ok\n" for name in names) + "ok\n"
    for name in names:
        assert front.ask(f"/readyz/{name}", method="GET", query="verbose=").body.decode() == f"[+]{name} ok\nok\n"
    assert front.ask("/livez/linearizable_read", method="GET").status == 404
    assert front.ask("/readyz", method="POST").headers["Allow"] == "GET"
    assert member.metrics.healthcheck[("readyz", "non_learner")] == 1.0
    assert member.metrics.healthchecks_total[("readyz", "non_learner", "success")] == 2


def test_not_ready(member: Member) -> None:
    front = Front(member)
    for kind in (NOSPACE, CORRUPT):
        assert front.ask("/readyz", method="GET").status == 200
        member.do(requests.ALARM, AlarmRequest(action=AlarmRequest.ACTIVATE, alarm=kind, memberID=1))
    failed = front.ask("/readyz", method="GET")
    assert failed.status == 503
    assert failed.body.decode() == (
        "[-]data_corruption failed: alarm activated: CORRUPT\n[+]serializable_read ok\n"
        "[+]linearizable_read ok\n[+]non_learner ok\n\n"
    )
    for query in ("exclude=data_corruption", "exclude=data_corruption&exclude=nonsense&exclude="):
        assert front.ask("/readyz", method="GET", query=query).body == b"ok\n"
    single = front.ask("/readyz/data_corruption", method="GET", query="exclude=data_corruption")
    assert single.status == 503, "a check of its own cannot be excluded"
    every = "&".join(f"exclude={name}" for name in ("data_corruption", "serializable_read", "linearizable_read"))
    assert front.ask("/readyz", method="GET", query=every + "&exclude=non_learner&verbose").body == b"ok\n"


def test_reads_that_find_no_quorum(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    front = Front(member)
    reads: list[Any] = []
    monkeypatch.setattr(member.server, "read", lambda read, argument: reads.append((read, argument)))
    assert front.ask("/livez", method="GET").status == 200
    got = front.ask("/readyz", method="GET", query="exclude=non_learner")
    assert not got.ended
    read, argument = reads.pop()
    read(argument, Timeout())
    assert got.status == 503
    assert got.body.decode().splitlines() == [
        "[+]data_corruption ok",
        "[+]serializable_read ok",
        "[-]linearizable_read failed: etcdserver: request timed out",
        "",
    ]
    assert member.metrics.healthcheck[("readyz", "linearizable_read")] == 0.0
