"""A request body that is read while it arrives: bounded, so that a slow reader slows the sender down."""

import asyncio
from collections import deque
from collections.abc import Callable

HIGH_WATER = 1 << 20
LOW_WATER = 1 << 18


class BodyStream:
    """Async iterator over the pieces of a body, for one reader. It ends only where the sender ended the body."""

    __slots__ = ("_changed", "_ended", "_error", "_flow", "_full", "_pieces", "_size")

    def __init__(self, flow: Callable[[], None]) -> None:
        """`flow` is called whenever `full` has changed."""
        self._flow = flow
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._full = False
        self._ended = False
        self._error: Exception | None = None
        self._changed = asyncio.Event()

    @property
    def full(self) -> bool:
        """Whether no more should be read from the connection."""
        return self._full

    @property
    def ended(self) -> bool:
        """Whether the whole body has arrived."""
        return self._ended

    def feed(self, data: bytes) -> None:
        """Add what arrived."""
        self._pieces.append(data)
        self._size += len(data)
        self._changed.set()
        if not self._full and self._size > HIGH_WATER:
            self._full = True
            self._flow()

    def end(self) -> None:
        """The body is complete."""
        self._ended = True
        self._changed.set()

    def fail(self, error: Exception) -> None:
        """The rest of the body will not come."""
        if not self._ended:
            self._error = error
            self._changed.set()

    def __aiter__(self) -> "BodyStream":
        return self

    async def __anext__(self) -> bytes:
        """The next piece. Raises ConnectionError when the body breaks off."""
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        data = self._pieces.popleft()
        self._size -= len(data)
        if self._full and self._size < LOW_WATER:
            self._full = False
            self._flow()
        return data
