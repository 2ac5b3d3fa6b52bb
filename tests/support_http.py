"""HTTP requests to a member's client front, without connections."""

import json
from dataclasses import dataclass, field
from typing import Any

from ratifyd.api.exchange import Incoming
from ratifyd.api.front import Access, ClientFront
from ratifyd.api.gateway import Gateway
from ratifyd.api.http import HttpPages
from ratifyd.api.routes import build_routes
from tests.support_member import Member

MAX_MESSAGE_BYTES = 10_000


@dataclass
class Asked:
    """A request's head."""

    method: str
    path: str
    query: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    peer: str = "10.0.0.1:4711"


class Got:
    """An answer as it comes."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.ended = False
        self.queued_bytes = 0

    def respond(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        assert not self.status, "answered twice"
        self.status, self.headers, self.body, self.ended = status, dict(headers), body, True

    def begin(self, status: int, headers: list[tuple[str, str]]) -> None:
        assert not self.status, "answered twice"
        self.status, self.headers = status, dict(headers)

    def write(self, data: bytes) -> None:
        assert self.status and not self.ended
        self.body += data

    def end(self) -> None:
        assert self.status and not self.ended
        self.ended = True

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        assert self.body == b"" or self.body.endswith(b"\n")
        return [json.loads(line) for line in self.body.splitlines()]


class Front:
    """A member's front, and requests to it."""

    def __init__(
        self,
        member: Member,
        *,
        cors: tuple[str, ...] = ("*",),
        hosts: tuple[str, ...] = ("*",),
        gateway: bool = True,
        secure: bool = False,
    ) -> None:
        self.member = member
        pages = HttpPages(member.server, lambda: b"metrics", lambda: {"cmdline": ["ratifyd"]})
        self.routes = build_routes(member.metrics.rpcs)
        made = Gateway(member.server, self.routes, max_message_bytes=MAX_MESSAGE_BYTES) if gateway else None
        self.front = ClientFront(pages, made, Access(origins=cors, hosts=hosts), secure=secure)

    def open(self, path: str, method: str = "POST", query: str = "", **headers: str) -> tuple[Got, Incoming]:
        """Begin a request; its body is still to come."""
        got = Got()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return got, self.front.handle(Asked(method, path, query, named), got)

    def ask(self, path: str, body: Any = b"", method: str = "POST", query: str = "", **headers: str) -> Got:
        """Send a whole request and let the member do what it can without time passing."""
        got, incoming = self.open(path, method, query, **headers)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        incoming.receive(data)
        incoming.body_ended()
        self.member.settle()
        return got
