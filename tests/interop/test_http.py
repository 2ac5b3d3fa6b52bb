"""What the client port answers to plain HTTP/1.1."""

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator

import pytest

from harness.servers import EtcdServer


class _Http:
    """One keep-alive connection."""

    def __init__(self, server: EtcdServer) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.client_port, timeout=10)

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, str], str]:
        self._connection.request(method, path, body)
        response = self._connection.getresponse()
        text = response.read().decode()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, text

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def http_connection(server: EtcdServer) -> Iterator[_Http]:
    connection = _Http(server)
    yield connection
    connection.close()


def test_health(http_connection: _Http) -> None:
    status, _, body = http_connection.request("GET", "/health")
    assert status == 200
    assert json.loads(body) == {"health": "true", "reason": ""}
    status, headers, _ = http_connection.request("POST", "/health")
    assert (status, headers["allow"]) == (405, "GET")


def test_version(http_connection: _Http, kind: str) -> None:
    status, headers, body = http_connection.request("GET", "/version")
    assert (status, headers["content-type"]) == (200, "application/json")
    versions = json.loads(body)
    expected = {"etcdserver": "3.5.1", "etcdcluster": "3.5.0"}
    if kind == "ratifyd":
        expected = {"etcdserver": "3.6.6", "etcdcluster": "3.6.0", "storage": "3.6.0"}
    assert versions == expected
    status, headers, _ = http_connection.request("PUT", "/version")
    assert (status, headers["allow"]) == (405, "GET")


def test_a_body_with_get_is_read_and_dropped(http_connection: _Http) -> None:
    """Patroni does this on a connection it goes on using."""
    for _ in range(3):
        assert http_connection.request("GET", "/version", b"{}")[0] == 200


def test_metrics(http_connection: _Http) -> None:
    status, headers, body = http_connection.request("GET", "/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain")
    for name in (
        "etcd_server_has_leader 1",
        "etcd_server_is_leader 1",
        "etcd_mvcc_put_total",
        "etcd_disk_wal_fsync_duration_seconds_bucket",
        "grpc_server_handled_total",
    ):
        assert name in body, name


@pytest.mark.parametrize("path", ["/nothing", "/v2/keys/x", "/"])
def test_unknown_paths(http_connection: _Http, path: str) -> None:
    assert http_connection.request("GET", path)[0] == 404


def test_live_and_ready(http_connection: _Http, kind: str) -> None:
    for path in ("/livez", "/readyz"):
        status, _, body = http_connection.request("GET", path)
        assert (status, body) == ((200, "ok\n") if kind == "ratifyd" else (404, "404 page not found\n"))


def test_requests_in_pieces_and_in_a_row(server: EtcdServer) -> None:
    """Header and body in separate segments, and two requests in one."""
    with socket.create_connection(("127.0.0.1", server.client_port), timeout=10) as connection:
        head = b"GET /version HTTP/1.1\r\nHost: x\r\n"
        for piece in (head, b"Content-Length: 2\r\n\r\n", b"{}"):
            connection.sendall(piece)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        connection.sendall((head + b"\r\n") * 2)
        data = b""
        while data.count(b"HTTP/1.1 200") < 2:
            part = connection.recv(4096)
            assert part, data
            data += part


def test_garbage_is_refused(server: EtcdServer) -> None:
    for garbage in (b"\x00" * 100, b"NONSENSE\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n" + b"\xff" * 50):
        with socket.create_connection(("127.0.0.1", server.client_port), timeout=10) as connection:
            connection.sendall(garbage)
            with contextlib.suppress(ConnectionError, OSError):
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass
    assert _Http(server).request("GET", "/version")[0] == 200
