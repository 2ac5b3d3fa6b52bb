"""The HTTP pages of the client port and of the metrics listeners: /health, /livez, /readyz, /version, /metrics, ...

A function from a request to `answer(status, headers, body)`, called at once or later.
"""

import json
from collections.abc import Callable, Mapping
from typing import Protocol
from urllib.parse import parse_qs

from ratifyd.api.pages import ERROR, JSON, TEXT, Answer, Headers, Page, not_found, only
from ratifyd.api.probes import probe_pages
from ratifyd.errors import EtcdError
from ratifyd.membership import hex_id
from ratifyd.proto.rpc_pb2 import CORRUPT, NOSPACE
from ratifyd.raft.status import Status, status_of
from ratifyd.server.server import Server
from ratifyd.version import ETCD_VERSION

_METRICS: Headers = [("Content-Type", "text/plain; version=0.0.4; charset=utf-8")]
_VARIABLES: Headers = [("Content-Type", "application/json; charset=utf-8")]
_ALARMS: dict[int, str] = {NOSPACE: "NOSPACE", CORRUPT: "CORRUPT"}

Variables = Callable[[], Mapping[str, object]]
"""What this process tells of itself on /debug/vars."""


class Pages(Protocol):
    """Something that answers HTTP requests."""

    def handle(self, method: str, path: str, query: str, answer: Answer) -> None:
        """Call `answer` exactly once."""
        ...


class HttpPages:
    """The pages of one member; `render_metrics` gives the Prometheus text, `variables` adds what clients alone get.

    `more` holds further pages, by path.
    """

    __slots__ = ("_pages", "_render_metrics", "_server", "_variables")

    def __init__(
        self,
        server: Server,
        render_metrics: Callable[[], bytes],
        variables: Variables | None = None,
        more: Mapping[str, Page] = {},
    ) -> None:
        self._server = server
        self._render_metrics = render_metrics
        self._variables = variables
        self._pages: dict[str, Page] = {"/health": self._health, "/metrics": self._metrics, **probe_pages(server)}
        self._pages |= more
        if variables is not None:
            self._pages |= {"/version": self._version, "/debug/vars": self._debug}

    def handle(self, method: str, path: str, query: str, answer: Answer) -> None:
        """Answer one request."""
        page = self._pages.get(path)
        if page is None:
            not_found(answer)
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

    def _debug(self, method: str, query: str, answer: Answer) -> None:
        """Variables by name, in the layout of Go's expvar."""
        assert self._variables is not None
        if method != "GET":
            only("GET", answer)
            return
        variables = {**self._variables(), "raft.status": _raft_status(status_of(self._server.node.raft))}
        lines = [f'"{name}": {json.dumps(variables[name], separators=(",", ":"))}' for name in sorted(variables)]
        answer(200, _VARIABLES, ("{\n" + ",\n".join(lines) + "\n}\n").encode())

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


def _raft_status(status: Status) -> dict[str, object]:
    """The shape etcd's raft library gives its status in JSON."""
    return {
        "id": hex_id(status.id),
        "term": status.term,
        "vote": hex_id(status.vote),
        "commit": status.commit,
        "lead": hex_id(status.leader_id),
        "raftState": _state(status.role.value),
        "applied": status.applied,
        "progress": {
            hex_id(member): {"match": seen.match, "next": seen.next_index, "state": _state(seen.state.value)}
            for member, seen in status.progress.items()
        },
        "leadtransferee": hex_id(status.transfer_target),
    }


def _state(name: str) -> str:
    return "State" + name.title().replace("-", "")
