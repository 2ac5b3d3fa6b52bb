"""The JSON gateway as a client with a socket of its own sees it: bodies that go on, and clients that go away."""

import base64
import http.client
import json
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from harness.servers import EtcdServer

DEADLINE_S = 10.0


class _Duplex:
    """One request whose body is sent bit by bit, and its answers line by line."""

    def __init__(self, server: EtcdServer, path: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.client_port), timeout=DEADLINE_S)
        self.socket.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        self._file = self.socket.makefile("rb")
        self._begun = False

    def say(self, text: str) -> None:
        data = text.encode()
        self.socket.sendall(b"%x\r\n%b\r\n" % (len(data), data))

    def end_body(self) -> None:
        self.socket.sendall(b"0\r\n\r\n")

    def line(self) -> Any:
        """The next answer: one chunk, one line. None at the end."""
        if not self._begun:
            assert self._file.readline() == b"HTTP/1.1 200 OK\r\n"
            while self._file.readline() != b"\r\n":
                pass
            self._begun = True
        size = int(self._file.readline(), 16)
        data = self._file.read(size + 2)[:size]
        if not size:
            return None
        assert data.endswith(b"}\n") and data.count(b"\n") == 1, data
        return json.loads(data)["result"]

    def close(self) -> None:
        self._file.close()
        self.socket.close()


@pytest.fixture
def duplex(server: EtcdServer) -> Iterator[Any]:
    opened: list[_Duplex] = []

    def begin(path: str) -> _Duplex:
        opened.append(_Duplex(server, path))
        return opened[-1]

    yield begin
    for each in opened:
        each.close()


def _post(server: EtcdServer, path: str, body: Any) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", server.client_port, timeout=DEADLINE_S)
    connection.request("POST", path, json.dumps(body))
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer


def _key(prefix: bytes, name: str) -> str:
    return base64.b64encode(prefix + name.encode()).decode()


@pytest.mark.only("ratifyd")  # Go's server answers no request over HTTP/1.1 before it has read its body
def test_watchers_come_and_go_on_one_request(server: EtcdServer, duplex: Any, prefix: bytes) -> None:
    stream = duplex("/v3/watch")
    stream.say(json.dumps({"create_request": {"key": _key(prefix, "a"), "watch_id": 5}}))
    assert stream.line() | {"header": 0} == {"header": 0, "watch_id": "5", "created": True}
    text = json.dumps({"create_request": {"key": _key(prefix, "b"), "prev_kv": True}})
    stream.say(text[:20])
    stream.say(text[20:])
    second = stream.line()
    assert second["created"]
    _post(server, "/v3/kv/put", {"key": _key(prefix, "a"), "value": "MQ=="})
    assert stream.line()["events"][0]["kv"]["value"] == "MQ=="
    stream.say('{"cancel_request":{"watch_id":5}}{"progress_request":{}}')
    cancelled = stream.line()
    assert cancelled["canceled"] and cancelled["watch_id"] == "5"
    _post(server, "/v3/kv/put", {"key": _key(prefix, "a"), "value": "Mg=="})
    _post(server, "/v3/kv/deleterange", {"key": _key(prefix, "b")})
    _post(server, "/v3/kv/put", {"key": _key(prefix, "b"), "value": "Mw=="})
    while not (line := stream.line()).get("events"):
        assert line["watch_id"] == "-1", "progress of the whole stream"
    assert line["events"][0]["kv"]["key"] == _key(prefix, "b")


@pytest.mark.only("ratifyd")
def test_renewals_while_the_body_lasts(server: EtcdServer, duplex: Any) -> None:
    lease = _post(server, "/v3/lease/grant", {"TTL": 60})["ID"]
    stream = duplex("/v3/lease/keepalive")
    for _ in range(3):
        stream.say(json.dumps({"ID": lease}))
        assert stream.line()["TTL"] == "60"
    stream.end_body()
    assert stream.line() is None
    _post(server, "/v3/lease/revoke", {"ID": lease})


def test_an_offer_to_upgrade_leaves_the_body_where_it_is(server: EtcdServer, prefix: bytes) -> None:
    """As `curl --http2` and Java's HttpClient send it; the body must not be taken for the next request."""
    body = json.dumps({"key": _key(prefix, "k"), "value": "MQ=="})
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAAQAAP__"}
    connection = http.client.HTTPConnection("127.0.0.1", server.client_port, timeout=DEADLINE_S)
    for pieces in (body, [body[:10].encode(), body[10:].encode()]):
        chunked = not isinstance(pieces, str)
        connection.request("POST", "/v3/kv/put", pieces, offer, encode_chunked=chunked)  # type: ignore[arg-type]
        answer = connection.getresponse()
        assert answer.status == 200 and "header" in json.loads(answer.read())
    connection.close()
    (found,) = _post(server, "/v3/kv/range", {"key": _key(prefix, "k")})["kvs"]
    assert (found["value"], found["version"]) == ("MQ==", "2")


@pytest.mark.parametrize("how", ["close", "half-close", "reset"])
def test_what_a_lost_client_held_is_let_go(server: EtcdServer, duplex: Any, prefix: bytes, how: str) -> None:
    before = _watchers(server)
    stream = duplex("/v3/watch")
    stream.say(json.dumps({"create_request": {"key": _key(prefix, "k")}}))
    stream.end_body()
    stream.line()
    assert _watchers(server) == before + 1
    if how == "half-close":
        stream.socket.shutdown(socket.SHUT_WR)
    elif how == "reset":
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        stream.close()
    else:
        stream.close()
    deadline = time.monotonic() + DEADLINE_S
    while _watchers(server) != before:
        assert time.monotonic() < deadline, "the watcher lives on"


def _watchers(server: EtcdServer) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.client_port, timeout=DEADLINE_S)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    found = re.search(r"^etcd_debugging_mvcc_watcher_total (\S+)$", text, re.MULTILINE)
    return int(float(found[1])) if found else 0


def test_origins_and_hosts(start_server: Any) -> None:
    server, _ = start_server("--cors=http://a.example:8080", "--host-whitelist=127.0.0.1,etcd.example")
    for path, method in (("/version", "GET"), ("/v3/kv/range", "POST"), ("/nothing", "OPTIONS")):
        for origin, expected in (
            ("http://a.example:8080", "http://a.example:8080"),
            ("http://b.example:8080", None),
            ("", None),
        ):
            status, headers, _ = _ask(server, method, path, {"Origin": origin} if origin else {})
            assert status != 421 and headers.get("access-control-allow-origin") == expected
    for host, allowed in (("etcd.example", True), ("etcd.example:1", True), ("evil.example", False)):
        status, headers, body = _ask(server, "GET", "/version", {"Host": host})
        assert (status != 421) == allowed
        if not allowed:
            assert '--host-whitelist "evil.example"' in body and "access-control-allow-origin" not in headers


def _ask(
    server: EtcdServer, method: str, path: str, headers: dict[str, str], body: str | None = None
) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.client_port, timeout=DEADLINE_S)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    found = {name.lower(): value for name, value in response.getheaders()}
    text = response.read().decode()
    connection.close()
    return response.status, found, text


def test_a_token_in_the_authorization_header(start_server: Any) -> None:
    server, _ = start_server()
    for path, body in (
        ("user/add", {"name": "root", "password": "secret"}),
        ("role/add", {"name": "root"}),
        ("user/grant", {"user": "root", "role": "root"}),
        ("user/add", {"name": "reader", "password": "r"}),
        ("role/add", {"name": "reads"}),
        ("role/grant", {"name": "reads", "perm": {"permType": "READ", "key": "YQ==", "range_end": "Yg=="}}),
        ("user/grant", {"user": "reader", "role": "reads"}),
        ("enable", {}),
    ):
        assert "header" in _post(server, f"/v3/auth/{path}", body), path
    assert _post(server, "/v3/kv/range", {"key": "YQ=="})["message"] == "etcdserver: user name is empty"
    refused = _post(server, "/v3/auth/authenticate", {"name": "root", "password": "wrong"})
    assert refused["message"] == "etcdserver: authentication failed, invalid user ID or password"
    tokens = {
        name: _post(server, "/v3/auth/authenticate", {"name": name, "password": password})["token"]
        for name, password in (("root", "secret"), ("reader", "r"))
    }
    for name, path, status in (
        ("root", "/v3/kv/put", 200),
        ("reader", "/v3/kv/range", 200),
        ("reader", "/v3/kv/put", 403),
        ("reader", "/v3/auth/user/list", 403),
    ):
        headers = {"Authorization": tokens[name]}
        assert _ask(server, "POST", path, headers, '{"key":"YQ=="}')[0] == status, (name, path)
    status, headers, body = _ask(server, "POST", "/v3/kv/range", {"Authorization": "nonsense"}, '{"key":"YQ=="}')
    assert (status, json.loads(body)["code"]) == (401, 16)
    if server.kind == "ratifyd":  # as 3.6
        assert headers["www-authenticate"] == "etcdserver: invalid auth token"
    assert json.loads(_ask(server, "GET", "/health", {})[2])["health"] == "true"
