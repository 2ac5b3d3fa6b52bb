"""Keeping Python's garbage collector off what lives as long as the process.

A full collection looks at every key of the key index, for its sorted lists are walked though nothing in them can be
garbage: more than a second at ten million keys, in which a leader would lose its term. So what is there is frozen,
taken out of all later collections: at the start, and whenever many keys have come since. Reference counts free what is
frozen all the same; only a cycle in it would stay, as the few HTTP/1.1 connections of that moment do, but neither gRPC
connections nor their watchers.
"""

import asyncio
import gc
from collections.abc import Callable

GC_THRESHOLDS = (50_000, 20, 50)
"""Requests make no cycles, but plenty of objects: at the usual threshold a tenth of a put goes into looking."""
PERIOD_S = 5.0
FREEZE_KEYS = 250_000
"""Keys that may come before they are frozen; a collection that walks them takes some 30 ms."""


class CollectorPace:
    """Freezes at the start and every so many keys."""

    def __init__(self, loop: asyncio.AbstractEventLoop, keys: Callable[[], int]) -> None:
        self._loop = loop
        self._keys = keys
        self._frozen = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Freeze what was read back, and look at the number of keys from now on."""
        gc.collect()
        self._freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        self._again()

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._frozen = min(self._frozen, self._keys())  # those that come after deleted ones are new
        if self._keys() >= self._frozen + FREEZE_KEYS:
            self._freeze()
        self._again()

    def _again(self) -> None:
        self._timer = self._loop.call_later(PERIOD_S, self._look)

    def _freeze(self) -> None:
        self._frozen = self._keys()
        gc.freeze()
