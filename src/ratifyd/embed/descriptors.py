"""An eye on the file descriptors of this process: once they are used up, no client and no member gets in any more."""

import asyncio
import logging
import resource
from pathlib import Path

PERIOD_S = 600.0
"""How often to look (etcd monitorFileDescriptor): counting them is slow where there are many."""
RESERVED = 150
"""Descriptors clients cannot take: for files, and for other members (etcd reservedInternalFDNum)."""
_DIRECTORY = "/dev/fd"

log = logging.getLogger("ratifyd.embed")


class TooFewDescriptors(Exception):
    """The limit of file descriptors is lower than what a member needs for itself."""


class DescriptorWatch:
    """Warns from time to time while four fifths of the descriptors are in use."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look now, and again every ten minutes; not at all where descriptors cannot be counted."""
        try:
            used, limit = descriptors()
        except OSError as error:
            log.warning("failed to get file descriptor usage", extra={"fields": {"error": str(error)}})
            return
        if limit > 0 and used >= limit // 5 * 4:
            log.warning("80% of file descriptors are used", extra={"fields": {"used": used, "limit": limit}})
        self._timer = self._loop.call_later(PERIOD_S, self.start)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()


def room_for_clients() -> int | None:
    """How many connections of clients leave enough descriptors for the member itself; None for any number.

    Raises TooFewDescriptors.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return None
    if limit <= RESERVED:
        raise TooFewDescriptors(
            f"file descriptor limit of etcd process is too low; please set higher: it is {limit}, and {RESERVED} are "
            "kept for the member itself (see ulimit -n)"
        )
    return limit - RESERVED


def descriptors() -> tuple[int, int]:
    """How many are open, and how many may be; a limit below 0 is none. Raises OSError."""
    used = sum(1 for _ in Path(_DIRECTORY).iterdir()) - 1  # the directory itself was one
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return used, limit
