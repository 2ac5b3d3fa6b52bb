"""The `Clock` port over the running asyncio or uvloop event loop."""

import asyncio
import time
from collections.abc import Callable
from typing import Any


class LoopClock:
    """Monotonic time and callbacks of one event loop. Its methods are the loop's own: a call costs nothing extra."""

    __slots__ = ("call_later", "call_soon", "future", "time", "wall")

    time: Callable[[], float]
    wall: Callable[[], float]
    call_soon: Callable[..., asyncio.Handle]
    call_later: Callable[..., asyncio.TimerHandle]
    future: Callable[[], "asyncio.Future[Any]"]

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.time = time.monotonic
        self.wall = time.time
        self.call_soon = loop.call_soon
        self.call_later = loop.call_later
        self.future = loop.create_future
