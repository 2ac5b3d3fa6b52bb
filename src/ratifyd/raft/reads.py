"""Linearizable reads by ReadIndex (Raft thesis §6.4): which are waiting, and which a heartbeat quorum has confirmed.

Reads are numbered in order of arrival within a leader's term of office. A heartbeat carries the number of the newest
one; the answers of a quorum confirm all reads up to the number they echo.
"""

from collections import deque
from collections.abc import Collection

from ratifyd.raft.messages import Message
from ratifyd.raft.quorum import joint_committed_index

_CONTEXT_BYTES = 8


class ReadQueue:
    """Reads of one term of office, waiting for confirmation."""

    __slots__ = ("_acked", "_confirmed", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[tuple[Message, int]] = deque()
        self._confirmed = 0
        self._acked: dict[int, int] = {}

    def add(self, request: Message, index: int) -> None:
        """Queue a request that may be answered with `index` once confirmed."""
        self._waiting.append((request, index))

    def heartbeat_context(self) -> bytes:
        """Return what a heartbeat must carry to confirm all waiting reads; empty if there are none."""
        if not self._waiting:
            return b""
        return (self._confirmed + len(self._waiting)).to_bytes(_CONTEXT_BYTES, "little")

    def acknowledge(self, member: int, context: bytes) -> None:
        """Take a heartbeat answer; contexts that are not ours are ignored."""
        if len(context) != _CONTEXT_BYTES:
            return
        number = int.from_bytes(context, "little")
        if number <= self._confirmed + len(self._waiting) and number > self._acked.get(member, 0):
            self._acked[member] = number

    def take_confirmed(self, incoming: Collection[int], outgoing: Collection[int]) -> list[tuple[Message, int]]:
        """Remove and return the reads that a quorum has confirmed."""
        confirmed = joint_committed_index(incoming, outgoing, self._acked)
        count = confirmed - self._confirmed
        if count <= 0:
            return []
        self._confirmed = confirmed
        return [self._waiting.popleft() for _ in range(count)]
