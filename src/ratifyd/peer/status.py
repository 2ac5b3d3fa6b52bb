"""Whether a member can be reached, and at which of its URLs."""

import logging
from collections.abc import Callable, Sequence

from ratifyd.logs import fields
from ratifyd.metrics import Metrics

log = logging.getLogger("ratifyd.peer")


class PeerStatus:
    """Up from the first success on any channel, down from the first failure on any (as etcd counts it)."""

    __slots__ = ("_id", "_labels", "_metrics", "_now", "active_since")

    def __init__(self, local_id: int, member_id: int, metrics: Metrics, now: Callable[[], float]) -> None:
        self._id = f"{member_id:x}"
        self._labels = (f"{local_id:x}", self._id)
        self._metrics = metrics
        self._now = now
        self.active_since: float | None = None
        """Loop time of the first success since the last failure; None while down."""

    def activate(self) -> None:
        """Something reached the member, or came from it."""
        if self.active_since is None:
            self.active_since = self._now()
            self._metrics.active_peers[self._labels] = 1
            log.info("peer became active", extra=fields(peer_id=self._id))

    def deactivate(self, what: str, reason: object) -> None:
        """`what` failed."""
        if self.active_since is not None:
            self.active_since = None
            self._metrics.active_peers[self._labels] = 0
            self._metrics.disconnected_peers_total[self._labels] += 1
            error = f"failed to {what} ({reason})"
            log.warning(
                "peer became inactive (message send to peer failed)", extra=fields(peer_id=self._id, error=error)
            )

    def forget(self) -> None:
        """The member is a peer no more."""
        self.active_since = None
        self._metrics.active_peers.pop(self._labels, None)


class UrlPicker:
    """URLs of one member, tried in turn: one is used until it fails."""

    __slots__ = ("_picked", "_urls")

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = tuple(urls)
        self._picked = 0

    def update(self, urls: Sequence[str]) -> None:
        """Start over with other URLs."""
        self._urls = tuple(urls)
        self._picked = 0

    def pick(self) -> str:
        """The URL to use now."""
        return self._urls[self._picked]

    def failed(self, url: str) -> None:
        """Use the next one, unless that happened already."""
        if self._urls[self._picked] == url:
            self._picked = (self._picked + 1) % len(self._urls)
