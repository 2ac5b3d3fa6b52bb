"""Accepted connections: the first bytes decide between an HTTP/2 session and HTTP/1.1, then net steps aside.

`Acceptor` makes one protocol per connection and knows all live ones, for a graceful stop. After the decision the
transport calls little more than `session.receive`, and `link.write` is the transport's own method: hardly a layer of
ours is left on the way of the bytes. While the peer does not read and more than HIGH_WATER bytes wait, its socket is
not read either.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, cast

from ratifyd.net.http1 import BodyStreams, Handle, Http1Connection, Http1Limits

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HIGH_WATER = 1 << 20
LOW_WATER = 1 << 18
FIRST_BYTES_TIMEOUT_S = 60.0
FULL_READ_BYTES = 250_000
"""A read of that size has filled the buffer: uvloop would read on, up to 32 times, before anybody else gets a turn."""


class Session(Protocol):
    """What speaks HTTP/2 on a connection."""

    def receive(self, data: bytes) -> None: ...

    def eof(self) -> None:
        """The peer will send no more; net closes the connection once what was written is out."""
        ...

    def pause_writing(self) -> None:
        """Too much is waiting to be sent: produce less until `resume_writing`."""
        ...

    def resume_writing(self) -> None: ...

    def closed(self) -> None:
        """The connection is gone; nothing is called after this."""
        ...

    def go_away(self) -> None:
        """Take no new work, finish what is under way, then close the link."""
        ...


class Link:
    """A session's end of its connection."""

    __slots__ = (
        "_reading_wanted",
        "_resting",
        "_transport",
        "_writing_paused",
        "abort",
        "close",
        "peer",
        "write",
        "write_buffer_size",
    )

    write: Callable[[bytes], None]
    close: Callable[[], None]
    """Close after what was written is out."""
    abort: Callable[[], None]
    """Close at once."""
    write_buffer_size: Callable[[], int]

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._reading_wanted = True
        self._resting = False
        self._writing_paused = False
        self.write = transport.write
        self.close = transport.close
        self.abort = transport.abort
        self.write_buffer_size = transport.get_write_buffer_size
        self.peer = peer_name(transport)  # now: a transport that is lost may raise when asked

    def pause_reading(self) -> None:
        """Read no more from the peer until `resume_reading`."""
        self._reading_wanted = False
        self._apply()

    def resume_reading(self) -> None:
        self._reading_wanted = True
        self._apply()

    def rest(self) -> None:
        """Read no more from the peer in this pass of the loop."""
        if not self._resting:
            self._resting = True
            self._apply()
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        self._resting = False
        self._apply()

    def set_writing_paused(self, paused: bool) -> None:
        """Reading also rests while writes are stuck."""
        self._writing_paused = paused
        self._apply()

    def _apply(self) -> None:
        if self._transport.is_closing():
            return
        if self._reading_wanted and not self._writing_paused and not self._resting:
            if not self._transport.is_reading():
                self._transport.resume_reading()
        elif self._transport.is_reading():
            self._transport.pause_reading()


OpenSession = Callable[[Link], Session]


class Acceptor:
    """Makes the protocols of one or more listeners and stops their connections.

    `open_session` is None where only HTTP/1.1 is served, `handle` is None where only HTTP/2 is.
    """

    def __init__(
        self,
        open_session: OpenSession | None,
        handle: Handle | None,
        *,
        http1_limits: Http1Limits | None = None,
        body_streams: BodyStreams | None = None,
        first_bytes_timeout_s: float = FIRST_BYTES_TIMEOUT_S,
        max_connections: int | None = None,
    ) -> None:
        """`max_connections` at a time, over all listeners; None for any number."""
        self.open_session = open_session
        self.handle = handle
        self.http1_limits = http1_limits or Http1Limits()
        self.body_streams = body_streams
        self.first_bytes_timeout_s = first_bytes_timeout_s
        self.max_connections = max_connections
        self.connections: set[_Connection] = set()
        self.arriving = 0
        """Connections accepted, but not among `connections` yet."""
        self._silent: dict[_Unknown, float] = {}  # until when they may be, the next to go first
        self._silence: asyncio.TimerHandle | None = None
        self._want_room: list[Callable[[], None]] = []
        self._leaving = False
        self._drained: asyncio.Event | None = None

    def __call__(self) -> asyncio.BaseProtocol:
        """The protocol of a new connection."""
        return _Unknown(self)

    def add(self, connection: "_Connection") -> None:
        """Called by a connection that is made or takes over from another."""
        self.connections.add(connection)
        if self._leaving:
            connection.go_away()

    def remove(self, connection: "_Connection") -> None:
        """Called by a connection that is lost or hands over to another."""
        self.connections.discard(connection)
        self._tell_of_room()
        if self._drained is not None and not self.connections:
            self._drained.set()

    def await_first_bytes(self, connection: "_Unknown") -> None:
        """Cut a connection if it says nothing for long: one timer for all, as they come and go by the thousand."""
        loop = asyncio.get_running_loop()
        self._silent[connection] = loop.time() + self.first_bytes_timeout_s
        if self._silence is None:
            self._silence = loop.call_later(self.first_bytes_timeout_s, self._cut_silent)

    def heard_from(self, connection: "_Unknown") -> None:
        """It has begun to speak, or is gone."""
        del self._silent[connection]

    def _cut_silent(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._silence = None
        due = []
        for connection, until in self._silent.items():
            if until > now:
                self._silence = loop.call_at(until, self._cut_silent)
                break
            due.append(connection)
        for connection in due:
            connection.abort()

    @property
    def is_full(self) -> bool:
        """Whether there may be no more connections now."""
        limit = self.max_connections
        return limit is not None and len(self.connections) + self.arriving >= limit

    def when_room(self, then: Callable[[], None]) -> None:
        """Call `then` once this is no longer full."""
        self._want_room.append(then)

    def arrived(self) -> None:
        """One that was arriving is among the connections, or has not made it."""
        self.arriving -= 1
        self._tell_of_room()

    def _tell_of_room(self) -> None:
        if self._want_room and not self.is_full:
            waiting, self._want_room = self._want_room, []
            for then in waiting:
                then()

    def go_away(self) -> None:
        """Tell every connection to finish what it is doing and close."""
        self._leaving = True
        for connection in list(self.connections):
            connection.go_away()

    async def drained(self, timeout_s: float) -> bool:
        """Wait until all connections are gone; False when some are left after `timeout_s`."""
        if not self.connections:
            return True
        self._drained = asyncio.Event()
        try:
            await asyncio.wait_for(self._drained.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def abort(self) -> None:
        """Cut every connection now."""
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        for connection in list(self.connections):
            connection.abort()


class _Connection(Protocol):
    def go_away(self) -> None: ...

    def abort(self) -> None: ...


class _Unknown(asyncio.Protocol):
    """A connection that has not yet shown what it speaks."""

    __slots__ = ("_acceptor", "_received", "_transport")

    def __init__(self, acceptor: Acceptor) -> None:
        self._acceptor = acceptor
        self._transport: asyncio.Transport
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        self._acceptor.await_first_bytes(self)
        self._acceptor.add(self)

    def data_received(self, data: bytes) -> None:
        received = self._received + data if self._received else data
        if received.startswith(PREFACE):
            self._become_session(received)
        elif PREFACE.startswith(received):
            self._received = received
        else:
            self._become_http1(received)

    def connection_lost(self, error: Exception | None) -> None:
        self._acceptor.heard_from(self)
        self._acceptor.remove(self)

    def go_away(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def _become_session(self, received: bytes) -> None:
        if self._acceptor.open_session is None:
            self._transport.close()
            return
        link = Link(self._transport)
        session = self._acceptor.open_session(link)
        protocol = _SessionProtocol(self._acceptor, link, session)
        self._hand_over(protocol, cast(asyncio.BaseProtocol, protocol))
        session.receive(received)

    def _become_http1(self, received: bytes) -> None:
        acceptor = self._acceptor
        if acceptor.handle is None:
            self._transport.close()
            return
        http1 = Http1Connection(
            acceptor.handle, acceptor.http1_limits, acceptor.remove, peer_name(self._transport), acceptor.body_streams
        )
        self._hand_over(http1, http1)
        http1.connection_made(self._transport)
        http1.data_received(received)

    def _hand_over(self, connection: _Connection, protocol: asyncio.BaseProtocol) -> None:
        self._acceptor.heard_from(self)
        self._transport.set_protocol(protocol)
        self._acceptor.add(connection)
        self._acceptor.remove(self)


class _SessionProtocol:
    """The asyncio protocol of a session; a plain class, so that `data_received` can be a function of its own."""

    __slots__ = ("_acceptor", "_link", "_session", "data_received")

    def __init__(self, acceptor: Acceptor, link: Link, session: Session) -> None:
        self._acceptor = acceptor
        self._link = link
        self._session = session
        receive, rest = session.receive, link.rest

        def data_received(data: bytes) -> None:
            receive(data)
            if len(data) >= FULL_READ_BYTES:
                rest()

        self.data_received = data_received

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Never called: the transport is taken over from `_Unknown`."""

    def eof_received(self) -> None:
        self._session.eof()

    def pause_writing(self) -> None:
        self._link.set_writing_paused(True)
        self._session.pause_writing()

    def resume_writing(self) -> None:
        self._link.set_writing_paused(False)
        self._session.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        self._acceptor.remove(self)
        self._session.closed()

    def go_away(self) -> None:
        self._session.go_away()

    def abort(self) -> None:
        self._link.abort()


def peer_name(transport: asyncio.BaseTransport) -> str:
    """The remote address as host:port, [v6]:port or @ for a unix socket, as Go prints it."""
    name: Any = transport.get_extra_info("peername")
    if not isinstance(name, tuple):
        return "@"
    host = name[0].removeprefix("::ffff:")
    return f"[{host}]:{name[1]}" if ":" in host else f"{host}:{name[1]}"
