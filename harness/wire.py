"""A connection to a server, frame by frame, for what no client library would do."""

import socket
import struct
from contextlib import suppress
from select import select

import hpack

from harness.servers import EtcdServer

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, _, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
WATCH = "/etcdserverpb.Watch/Watch"
WAIT_S = 10.0


def frame(kind: int, flags: int = 0, stream_id: int = 0, payload: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream_id) + payload


class Wire:
    """A connection, frame by frame."""

    def __init__(self, server: EtcdServer, *, settings: bytes = b"") -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.client_port), timeout=WAIT_S)
        self._buffer = b""
        self._encoder = hpack.Encoder()
        self.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self.send(SETTINGS, payload=settings)

    def write(self, data: bytes) -> None:
        """Send any bytes."""
        self._socket.sendall(data)

    def flood(self, data: bytes, times: int) -> bool:
        """Send the same again and again, reading what comes; False when the server hangs up before the last."""
        with suppress(ConnectionError, TimeoutError, EOFError):
            for _ in range(times):
                self.write(data)
                while select([self._socket], [], [], 0)[0]:
                    self._read()
            return True
        return False

    def _read(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise EOFError
        self._buffer += data

    def send(self, kind: int, flags: int = 0, stream_id: int = 0, payload: bytes = b"") -> None:
        """Send a frame."""
        self._socket.sendall(frame(kind, flags, stream_id, payload))

    def open(self, stream_id: int, path: str = WATCH) -> None:
        """Begin a request and leave it open."""
        self.send(HEADERS, 4, stream_id, self.head(path))

    def head(self, path: str, **more: str) -> bytes:
        """The header block of a request."""
        fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a")]
        fields += [("content-type", "application/grpc"), ("te", "trailers"), *more.items()]
        return bytes(self._encoder.encode(fields))

    def take(self, *kinds: int) -> tuple[int, int, bytes]:
        """The next frame of these kinds that acknowledges nothing: kind, stream, payload. EOFError at the end."""
        while True:
            while len(self._buffer) < 9 or len(self._buffer) < 9 + (struct.unpack_from(">I", self._buffer)[0] >> 8):
                self._read()
            word, flags, stream_id = struct.unpack_from(">IBI", self._buffer)
            size = 9 + (word >> 8)
            payload, self._buffer = self._buffer[9:size], self._buffer[size:]
            if word & 0xFF in kinds and not (flags & 1 and word & 0xFF in (SETTINGS, PING)):
                return word & 0xFF, stream_id, payload

    def at_end(self) -> bool:
        """Whether the server hangs up."""
        try:
            self.take()
        except (EOFError, ConnectionError):
            return True
        except TimeoutError:
            return False
        raise AssertionError

    def goodbye(self) -> int | None:
        """The error code of the server's GOAWAY; None if it hangs up without a word that arrives."""
        with suppress(EOFError, ConnectionError):
            _, _, payload = self.take(GOAWAY)
            code: int = struct.unpack_from(">I", payload, 4)[0]
            return code
        return None

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
