"""What this room needs of the member it works for."""

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple, Protocol

from ratifyd.metrics import Metrics
from ratifyd.raft.messages import Message


class PeerHost(Protocol):
    """The member, seen from its transport. All methods are called on the loop and must not block."""

    @property
    def local_id(self) -> int: ...

    @property
    def cluster_id(self) -> int: ...

    @property
    def local_peer_urls(self) -> Sequence[str]:
        """Advertised URLs of this member, told to others in X-PeerURLs."""
        ...

    @property
    def metrics(self) -> Metrics: ...

    def is_removed(self, member_id: int) -> bool:
        """Whether this id was a member once and may never be again."""
        ...

    def receive(self, messages: Sequence[Message]) -> None:
        """Take messages for raft. They are addressed to this member, and none is local to a member or a snapshot."""
        ...

    def report_unreachable(self, member_id: int) -> None:
        """A message to this member was dropped, or its stream broke; may be called from within `send`."""
        ...

    def report_snapshot(self, member_id: int, ok: bool) -> None:
        """A snapshot reached its receiver, or did not. Called once for every `send_snapshot`."""
        ...

    def removed_from_cluster(self) -> None:
        """Another member refuses us because we were removed; may be called more than once."""
        ...

    async def save_snapshot(self, message: Message, body: AsyncIterator[bytes]) -> None:
        """Store the backend image that comes with a snapshot message, then hand the message to raft.

        `body` ends only where the sender ended it, else it raises `ConnectionError` or the task is cancelled: clean
        up then. Raises OSError or ValueError when the image cannot be stored or is not sound.
        """
        ...


class Timing(NamedTuple):
    """Durations in seconds (etcd's values). Tests shorten them."""

    io_timeout_s: float = 5.0
    """A stream without a byte for so long is broken; link heartbeats leave three times as often."""
    redial_s: float = 0.1
    probe_s: float = 4.0
    probe_report_s: float = 30.0
    clock_skew_s: float = 1.0
    snapshot_stall_s: float = 30.0
    snapshot_answer_s: float = 60.0


ETCD_TIMING = Timing()
