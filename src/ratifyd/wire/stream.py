"""State of one stream that is more than a whole request waiting for its answer."""

from collections import deque

from ratifyd.wire.headers import Head, HttpHead


class Stream:
    """An open stream. Receive side above, send side below; the rules live in the connection."""

    __slots__ = (
        "buffer",
        "expected",
        "flowing",
        "fresh",
        "head",
        "headers_sent",
        "held",
        "id",
        "last_frame",
        "offset",
        "queue",
        "queued",
        "remote_closed",
        "unacknowledged",
        "wants_writable",
        "window",
    )

    def __init__(self, stream_id: int, head: Head | HttpHead, window: int) -> None:
        self.id = stream_id
        self.head = head
        self.fresh = False
        """The session has not heard of it: a `Call` may still come out of it."""
        self.held: bytes | None = None
        """First message of a fresh stream."""
        self.buffer = bytearray()
        """Received part of a message, or of an HTTP body."""
        self.expected = head.content_length
        """Bytes the content-length still promises; -1 when there is none."""
        self.remote_closed = False
        self.flowing = False
        """The session has heard of it, neither side has ended it, and nothing was said of how long it will be: messages
        that come whole are handed out as they are."""
        self.unacknowledged = 0
        """Bytes received and not yet given back to the client's window."""

        self.headers_sent = False
        self.window = window
        self.queue: deque[bytes | memoryview] = deque()
        """DATA payload that waits for window; the first item from `offset` on."""
        self.offset = 0
        self.queued = 0
        self.last_frame = b""
        """What ends the stream once the queue is empty; nothing may be queued after it."""
        self.wants_writable = False


WHOLE = Stream(0, HttpHead(b"", b"", [], -1), 0)
"""Stands for every stream whose whole request was handed out as a `Call` and of which nothing was sent yet."""


class TokenBucket:
    """Allows `burst` at once and `rate` per second on average."""

    __slots__ = ("_burst", "_rate", "_tokens", "_updated")

    def __init__(self, burst: int, rate: float) -> None:
        self._burst = float(burst)
        self._rate = rate
        self._tokens = float(burst)
        self._updated = 0.0

    def take(self, now: float, count: float = 1.0) -> bool:
        """Use tokens; False when there are not as many."""
        if now > self._updated:
            self.give((now - self._updated) * self._rate)
            self._updated = now
        if self._tokens < count:
            return False
        self._tokens -= count
        return True

    def give(self, tokens: float) -> None:
        """Put tokens back, up to the burst."""
        self._tokens = min(self._burst, self._tokens + tokens)
