"""Keep-alives over plain sockets: a client so cheap that the server is what is measured.

The frames of a stream's message are made once and sent again and again; of an answer only its end is looked at, which
must be the lease and the TTL it was granted. One message a stream is under way at a time, so no window runs out.
"""

import select
import socket
import time
from collections.abc import Sequence
from struct import Struct

import hpack

from benchmarks.load import LoadError, grpc_frame
from ratifyd.proto.rpc_pb2 import LeaseKeepAliveRequest, LeaseKeepAliveResponse

_PATH = "/etcdserverpb.Lease/LeaseKeepAlive"
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_MAX_WINDOW = 2**31 - 1
_READ_BYTES = 1 << 18
_SILENCE_S = 30.0
_head = Struct(">IBI")
_frame_head = _head.unpack_from
_HEAD_BYTES = _head.size


def _frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return _head.pack(len(payload) << 8 | kind, flags, stream_id) + payload


class _Lost(LoadError):
    """A connection or stream ended."""


class RenewingConnection:
    """One connection with a stream for each of some leases of one TTL."""

    def __init__(self, endpoint: str, leases: Sequence[int], ttl_s: int) -> None:
        host, _, port = endpoint.rpartition(":")
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.times_s: list[float] = []
        self._rest = b""
        self._messages: dict[int, bytes] = {}
        self._endings: dict[int, bytes] = {}
        self._sent_at: dict[int, float] = {}
        encoder = hpack.Encoder()
        encoder.header_table_size = 0
        fields = [(":method", "POST"), (":scheme", "http"), (":path", _PATH), (":authority", endpoint)]
        block = encoder.encode([*fields, ("te", "trailers"), ("content-type", "application/grpc")])
        self._opening = [
            _PREFACE,
            _frame(_SETTINGS, 0, 0, Struct(">HIHI").pack(1, 0, 4, _MAX_WINDOW)),
            _frame(_WINDOW_UPDATE, 0, 0, Struct(">I").pack(_MAX_WINDOW - 65_535)),
        ]
        for at, lease in enumerate(leases):
            stream_id = 2 * at + 1
            self._opening.append(_frame(_HEADERS, _END_HEADERS, stream_id, block))
            request = grpc_frame(LeaseKeepAliveRequest(ID=lease).SerializeToString())
            self._messages[stream_id] = _frame(_DATA, 0, stream_id, request)
            self._endings[stream_id] = LeaseKeepAliveResponse(ID=lease, TTL=ttl_s).SerializeToString()

    @property
    def waiting(self) -> int:
        """Streams whose message has not been answered yet."""
        return len(self._sent_at)

    def start(self) -> None:
        """Send the first message of every stream."""
        now = time.perf_counter()
        self.socket.sendall(b"".join([*self._opening, *self._messages.values()]))
        self._sent_at = dict.fromkeys(self._messages, now)

    def read(self, until: float) -> None:
        """Take what has come; answer every answer with the next message of its stream, unless the time is up."""
        received = self.socket.recv(_READ_BYTES)
        if not received:
            raise _Lost("the server has closed a connection")
        now = time.perf_counter()
        going_on = now < until
        data = self._rest + received
        out: list[bytes] = []
        messages, endings, sent_at, times = self._messages, self._endings, self._sent_at, self.times_s
        at, end = 0, len(data)
        while at + _HEAD_BYTES <= end:
            word, flags, stream_id = _frame_head(data, at)
            start = at + _HEAD_BYTES
            stop = start + (word >> 8)
            if stop > end:
                break
            at = stop
            if word & 0xFF or flags:
                if answer := _other(word & 0xFF, flags, data[start:stop]):
                    out.append(answer)
                continue
            if not data.endswith(endings[stream_id], start, stop):
                raise LoadError(f"a keep-alive was answered {data[start:stop]!r}")
            times.append(now - sent_at.pop(stream_id))
            if going_on:
                sent_at[stream_id] = now
                out.append(messages[stream_id])
        self._rest = data[at:]
        if out:
            self.socket.sendall(b"".join(out))


def _other(kind: int, flags: int, payload: bytes) -> bytes:
    """What is to be sent in answer to a frame that is no message."""
    if kind == _SETTINGS and not flags & _ACK:
        return _frame(_SETTINGS, _ACK, 0, b"")
    if kind == _PING and not flags & _ACK:
        return _frame(_PING, _ACK, 0, payload)
    if kind in (_RST_STREAM, _GOAWAY) or (kind in (_DATA, _HEADERS) and flags & _END_STREAM):
        raise _Lost(f"a stream has ended: frame {kind}, {payload!r}")
    if kind == _DATA:
        raise LoadError(f"DATA with flags {flags}")
    return b""


def renew(endpoint: str, leases: Sequence[Sequence[int]], ttl_s: int, seconds: float) -> tuple[list[float], float]:
    """Renew leases, those of one connection together, for some seconds: each renewal's time, and how long all took."""
    connections = [RenewingConnection(endpoint, each, ttl_s) for each in leases]
    poll = select.epoll()
    by_fd = {connection.socket.fileno(): connection for connection in connections}
    try:
        for fd in by_fd:
            poll.register(fd, select.EPOLLIN)
        began = time.perf_counter()
        for connection in connections:
            connection.start()
        until = began + seconds
        while any(connection.waiting for connection in connections) if time.perf_counter() >= until else True:
            ready = poll.poll(_SILENCE_S)
            if not ready:
                raise LoadError(f"no keep-alive was answered for {_SILENCE_S:.0f} s")
            for fd, _ in ready:
                by_fd[fd].read(until)
        elapsed = time.perf_counter() - began
    finally:
        poll.close()
        for connection in connections:
            connection.socket.close()
    return [each for connection in connections for each in connection.times_s], elapsed
