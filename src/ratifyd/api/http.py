"""The HTTP side of the client port and of the metrics listeners: /health, /version, /metrics.

A function from a request to `answer(status, headers, body)`, called at once or later.
"""

import json
from collections.abc import Callable
from typing import Protocol
from urllib.parse import parse_qs

from ratifyd.errors import EtcdError
from ratifyd.proto.rpc_pb2 import CORRUPT, NOSPACE
from ratifyd.server.server import Server
from ratifyd.version import ETCD_VERSION

Headers = list[tuple[str, str]]
Answer = Callable[[int, Headers, bytes], None]

TEXT: Headers = [("Content-Type", "text/plain; charset=utf-8")]
ERROR: Headers = [*TEXT, ("X-Content-Type-Options", "nosniff")]
JSON: Headers = [("Content-Type", "application/json")]
_METRICS: Headers = [("Content-Type", "text/plain; version=0.0.4; charset=utf-8")]
_ALARMS: dict[int, str] = {NOSPACE: "NOSPACE", CORRUPT: "CORRUPT"}


class Pages(Protocol):
    """Something that answers HTTP requests."""

    def handle(self, method: str, path: str, query: str, answer: Answer) -> None:
        """Call `answer` exactly once."""
        ...


class HttpPages:
    """The pages of one member; `render_metrics` gives the Prometheus text, `client` adds what clients alone get."""

    __slots__ = ("_pages", "_render_metrics", "_server")

    def __init__(self, server: Server, render_metrics: Callable[[], bytes], *, client: bool) -> None:
        self._server = server
        self._render_metrics = render_metrics
        self._pages: dict[str, Callable[[str, str, Answer], None]] = {
            "/health": self._health,
            "/metrics": self._metrics,
        }
        if client:
            self._pages["/version"] = self._version

    def handle(self, method: str, path: str, query: str, answer: Answer) -> None:
        """Answer one request."""
        page = self._pages.get(path)
        if page is None:
            answer(404, ERROR, b"404 page not found\n")
        else:
            page(method, query, answer)

    def _metrics(self, method: str, query: str, answer: Answer) -> None:
        metrics = self._server.metrics
        metrics.scrapes += 1
        text = self._render_metrics()
        metrics.scrapes -= 1
        metrics.scrapes_total["200",] += 1
        answer(200, _METRICS, text)

    def _version(self, method: str, query: str, answer: Answer) -> None:
        answer_version(self._server, method, answer)

    def _health(self, method: str, query: str, answer: Answer) -> None:
        """Alarms, then the leader, then a read, as etcd (http.tsv)."""
        if method != "GET":
            only("GET", answer)
            return
        arguments = parse_qs(query)
        serializable = arguments.get("serializable", [""])[0] == "true"
        excluded = set(arguments.get("exclude", []))
        server = self._server
        for _, kind in server.state.alarms:
            name = _ALARMS.get(kind, "UNKNOWN")
            if name not in excluded:
                self._unhealthy(f"ALARM {name}", answer)
                return
        if serializable:
            self._healthy(answer)
        elif not server.leader_id:
            self._unhealthy("RAFT NO LEADER", answer)
        else:
            server.read(self._read, answer)

    def _read(self, answer: Answer, error: EtcdError | None) -> None:
        if error is None:
            self._healthy(answer)
        else:
            self._unhealthy(f"RANGE ERROR:{error.message}", answer)

    def _healthy(self, answer: Answer) -> None:
        self._server.store.counts.ranges += 1  # etcd reads a key
        self._server.metrics.health_success += 1
        answer(200, TEXT, b'{"health":"true","reason":""}')

    def _unhealthy(self, reason: str, answer: Answer) -> None:
        self._server.metrics.health_failures += 1
        body = json.dumps({"health": "false", "reason": reason}, separators=(",", ":"))
        answer(503, ERROR, body.encode() + b"\n")


def only(method: str, answer: Answer) -> None:
    """Refuse a request with another method."""
    answer(405, [*ERROR, ("Allow", method)], b"Method Not Allowed\n")


def answer_version(server: Server, method: str, answer: Answer) -> None:
    """/version, for clients and members alike."""
    if method != "GET":
        only("GET", answer)
        return
    versions = {
        "etcdserver": ETCD_VERSION,
        "etcdcluster": server.members.cluster_version or "not_decided",
        "storage": server.storage_version or "unknown",
    }
    answer(200, JSON, json.dumps(versions, separators=(",", ":")).encode())
