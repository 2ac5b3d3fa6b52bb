"""`Health`: whether the member serves, as load balancers are told."""

import logging
from typing import Protocol

log = logging.getLogger("ratifyd.server")


class HealthWatcher(Protocol):
    """Somebody who wants to know of changes."""

    def health_changed(self) -> None:
        """The member serves again, or no longer."""
        ...


class Health:
    """Serving, unless it is to stop during a defragmentation and one is under way (semantics 16.1)."""

    __slots__ = ("_defragmenting", "_stops", "watchers")

    def __init__(self, *, stops_on_defrag: bool) -> None:
        self._stops = stops_on_defrag
        self._defragmenting = 0
        self.watchers: dict[HealthWatcher, None] = {}

    @property
    def serving(self) -> bool:
        """What to answer who asks."""
        return not (self._stops and self._defragmenting)

    def defrag_started(self) -> None:
        """A defragmentation begins."""
        self._change(1)

    def defrag_finished(self) -> None:
        """A defragmentation has ended, well or not."""
        self._change(-1)

    def _change(self, more: int) -> None:
        before = self.serving
        self._defragmenting += more
        if self.serving == before:
            return
        status = "SERVING" if self.serving else "NOT_SERVING"
        log.info("grpc service status changed", extra={"fields": {"service": "", "status": status}})
        for watcher in list(self.watchers):
            watcher.health_changed()
