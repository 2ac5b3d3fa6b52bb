"""Keeping Python's garbage collector off what lives as long as the process.

A full collection looks at every key of the key index, for its sorted lists are walked though nothing in them can be
garbage: more than a second at ten million keys, in which a leader would lose its term. So what is there is frozen,
taken out of all later collections: at the start, and whenever many keys have come since. Reference counts free what is
frozen all the same; only a cycle in it would stay, as the few HTTP/1.1 connections of that moment do, but neither gRPC
connections nor their watchers.
"""

import asyncio
import gc
import threading
from collections.abc import Callable

GC_THRESHOLDS = (50_000, 20, 50)
"""Requests make no cycles, but plenty of objects: at the usual threshold a tenth of a put goes into looking."""
PERIOD_S = 5.0
FREEZE_KEYS = 250_000
"""Keys that may come before they are frozen; a collection that walks them takes some 30 ms."""


class _Collector:
    """The one collector of the process, which all its members share, on however many loops.

    A member is a cycle as a whole. So when one stops, all that is frozen is thawed, for there is no thawing a part of
    it; what a program around us has frozen is thawed along. Nothing is collected there and then, which would hold up
    the stop and all else. The memory of the stopped member comes back with the next full collection that Python makes
    by itself, or, while others run, with the next turn of one of them: it walks its own keys once, and freezes anew.
    """

    def __init__(self) -> None:
        self._thawed = False
        """Whether a member has stopped since all was frozen."""
        self._members = 0
        self._thresholds = gc.get_threshold()
        self._lock = threading.Lock()

    def begin(self) -> None:
        """A member has come: freeze what is there and no garbage."""
        with self._lock:
            if not self._members:
                self._thresholds = gc.get_threshold()
            self._members += 1
            self._freeze_living()
            gc.set_threshold(*GC_THRESHOLDS)

    def end(self) -> None:
        """A member has gone, and may be collected. The last leaves the thresholds as the first found them."""
        with self._lock:
            gc.unfreeze()
            self._members -= 1
            self._thawed = self._members > 0
            if not self._members:
                gc.set_threshold(*self._thresholds)

    def go_on(self, *, grown: bool) -> bool:
        """Freeze anew what a stop has thawed, or else what has come if that is much; whether anything was frozen."""
        with self._lock:
            if self._thawed:
                self._freeze_living()
            elif grown:
                gc.freeze()
            else:
                return False
            return True

    def _freeze_living(self) -> None:
        """Freeze, once it is known what is garbage."""
        self._thawed = False
        gc.collect()
        gc.freeze()


_COLLECTOR = _Collector()


class CollectorPace:
    """Freezes at the start and every so many keys; thaws at the end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, keys: Callable[[], int]) -> None:
        self._loop = loop
        self._keys = keys
        self._frozen = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Freeze what was read back, and look at the number of keys from now on."""
        _COLLECTOR.begin()
        self._frozen = self._keys()
        self._again()

    def stop(self) -> None:
        """Look no more, and let go of what was frozen: the member is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            _COLLECTOR.end()

    def _look(self) -> None:
        self._frozen = min(self._frozen, self._keys())  # those that come after deleted ones are new
        if _COLLECTOR.go_on(grown=self._keys() >= self._frozen + FREEZE_KEYS):
            self._frozen = self._keys()
        self._again()

    def _again(self) -> None:
        self._timer = self._loop.call_later(PERIOD_S, self._look)
