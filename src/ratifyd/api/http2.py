"""Requests of other kinds than gRPC on an HTTP/2 connection, as the HTTP side of the client port takes them."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol
from urllib.parse import unquote

from ratifyd.api.calls import WriteBuffer
from ratifyd.api.pages import Headers
from ratifyd.wire.events import HttpRequest
from ratifyd.wire.grpc import GrpcConnection


class Http2Request(NamedTuple):
    """The head of a request; repeated headers are joined by ", "."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    peer: str

    @classmethod
    def of(cls, event: HttpRequest, peer: str) -> "Http2Request":
        """Read the head of what the connection gives."""
        path, _, query = event.path.decode("latin-1").partition("?")
        headers: dict[str, str] = {}
        for name, value in event.headers:
            key, text = name.decode("latin-1"), value.decode("latin-1")
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
        if (authority := headers.pop(":authority", None)) is not None:
            headers["host"] = authority
        return cls(event.method.decode("latin-1"), unquote(path), query, headers, peer)


class _Session(Protocol):
    connection: GrpcConnection

    @property
    def link(self) -> WriteBuffer: ...

    def mark_dirty(self) -> None: ...

    def forget(self, stream_id: int) -> None: ...


class Http2Answer:
    """The answer to one request."""

    __slots__ = ("_has_body", "_session", "_stream_id", "ended")

    def __init__(self, session: _Session, stream_id: int, *, has_body: bool) -> None:
        self._session = session
        self._stream_id = stream_id
        self._has_body = has_body
        self.ended = False

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Answer at once."""
        length = [("content-length", str(len(body)))]
        self._session.connection.respond(
            self._stream_id, status, _encoded([*headers, *length]), body if self._has_body else b""
        )
        self._over()

    def begin(self, status: int, headers: Headers) -> None:
        """Begin a body of unknown length."""
        self._session.connection.respond(self._stream_id, status, _encoded(headers), b"", end=False)
        self._session.mark_dirty()

    def write(self, data: bytes) -> None:
        """Send more of the body."""
        self._session.connection.send_body(self._stream_id, data)
        self._session.mark_dirty()

    def end(self) -> None:
        """The body is complete."""
        self._session.connection.send_body(self._stream_id, b"", end=True)
        self._over()

    @property
    def queued_bytes(self) -> int:
        """Bytes the client has not taken."""
        session = self._session
        return session.connection.queued_bytes(self._stream_id) + session.link.write_buffer_size()

    def _over(self) -> None:
        self.ended = True
        self._session.mark_dirty()
        self._session.forget(self._stream_id)


def _encoded(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers]
