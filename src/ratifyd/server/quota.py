"""The backend quota: whether a write may grow the file (semantics §10)."""

import logging
import sys
from collections.abc import Callable

from ratifyd.apply.requests import shortest_of
from ratifyd.logs import show_bytes

DEFAULT_QUOTA_BYTES = 2 * 1024**3
"""Quota when none is configured (etcd DefaultQuotaBytes)."""

log = logging.getLogger("ratifyd.server")


class Quota:
    """Compares the size of the backend file, not the part in use, with the limit; negative configuration: no limit."""

    __slots__ = ("_configured_bytes", "_size", "limit_bytes")

    def __init__(self, configured_bytes: int, size: Callable[[], int]) -> None:
        self._configured_bytes = configured_bytes
        self.limit_bytes = DEFAULT_QUOTA_BYTES if configured_bytes == 0 else max(configured_bytes, 0)
        self._size = size

    def exceeded_by(self, cost: int) -> bool:
        """Whether a write of this cost would not fit."""
        return self.limit_bytes > 0 and self._size() + cost >= self.limit_bytes

    def room(self) -> int:
        """Requests of fewer bytes fit, whatever they hold."""
        return shortest_of(self.limit_bytes - self._size()) if self.limit_bytes > 0 else sys.maxsize

    def announce(self) -> None:
        """Log the limit."""
        fields: dict[str, object] = {"quota-name": "v3-applier", "quota-size-bytes": self._configured_bytes}
        if self._configured_bytes < 0:
            log.info("disabled backend quota", extra={"fields": fields})
            return
        message = "enabled backend quota"
        if self.limit_bytes == DEFAULT_QUOTA_BYTES:
            message = "enabled backend quota with default value"
        fields |= {"quota-size-bytes": self.limit_bytes, "quota-size": show_bytes(self.limit_bytes)}
        log.info(message, extra={"fields": fields})
