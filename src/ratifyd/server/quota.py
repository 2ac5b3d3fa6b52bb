"""The backend quota: whether a write may grow the file (semantics §10)."""

from collections.abc import Callable

DEFAULT_QUOTA_BYTES = 2 * 1024**3
"""Quota when none is configured (etcd DefaultQuotaBytes)."""


class Quota:
    """Compares the size of the backend file, not the part in use, with the limit; negative configuration: no limit."""

    __slots__ = ("_size", "limit_bytes")

    def __init__(self, configured_bytes: int, size: Callable[[], int]) -> None:
        self.limit_bytes = DEFAULT_QUOTA_BYTES if configured_bytes == 0 else max(configured_bytes, 0)
        self._size = size

    def exceeded_by(self, cost: int) -> bool:
        """Whether a write of this cost would not fit."""
        return self.limit_bytes > 0 and self._size() + cost >= self.limit_bytes
