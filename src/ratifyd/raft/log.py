"""The raft log of one member: a list of entries in memory and the markers that say how far each of them has come.

    compacted <= applied <= applying <= min(committed, stable)        max(committed, stable) <= last_index

Entries up to `stable` are durable here. Appends in flight are a FIFO of the last index each one will make durable;
truncation lowers those numbers, so a late acknowledgement of overwritten entries acknowledges nothing. While an
incoming snapshot waits to be installed (`snapshot`), `compacted` has already moved past `applied` and nothing is
handed out. The log knows nothing of terms of office, quorums or peers.
"""

from collections import deque
from collections.abc import Sequence

from ratifyd.raft.codec import entry_size
from ratifyd.raft.messages import Entry, EntryKind, Snapshot

_ENTRY_OVERHEAD = 36  # upper bound of an encoded entry without its data
_FIRST_SLICE = 256  # entries looked at first when filling a message


class LogLost(Exception):
    """Others count on entries that this log does not have: it was damaged or emptied, and the member must stop."""


class RaftLog:
    """Entries after `compacted`; whoever mutates them does it through these methods."""

    __slots__ = (
        "_in_flight",
        "applied",
        "applying",
        "committed",
        "compacted",
        "compacted_term",
        "entries",
        "size_bytes",
        "snapshot",
        "snapshot_taken",
        "stable",
        "written",
    )

    def __init__(self, compacted: int = 0, compacted_term: int = 0, entries: Sequence[Entry] = ()) -> None:
        """Take over durable `entries` that follow the snapshot point (`compacted`, `compacted_term`).

        A tail whose terms go down is a leftover that the snapshot replaced before a crash: it is dropped.
        """
        self.compacted = compacted
        self.compacted_term = compacted_term
        self.entries: list[Entry] = []
        term = compacted_term
        for index, entry in enumerate(entries, compacted + 1):
            assert entry.index == index, f"log has entry {entry.index} where {index} belongs"
            if entry.term < term:
                break
            term = entry.term
            self.entries.append(entry)
        self.committed = self.applied = self.applying = compacted
        self.stable = self.written = compacted + len(self.entries)
        self.size_bytes = payload_bytes(self.entries)
        self.snapshot: Snapshot | None = None
        self.snapshot_taken = False
        self._in_flight: deque[int] = deque()

    @property
    def first_index(self) -> int:
        """Index of the first entry still held, or of the one that will be appended next."""
        return self.compacted + 1

    @property
    def last_index(self) -> int:
        return self.compacted + len(self.entries)

    @property
    def last_term(self) -> int:
        return self.entries[-1].term if self.entries else self.compacted_term

    def term(self, index: int) -> int | None:
        """Return the term of an entry; None where the log does not (or no longer) reach."""
        position = index - self.compacted - 1
        if 0 <= position < len(self.entries):
            return self.entries[position].term
        return self.compacted_term if position == -1 else None

    def matches(self, index: int, term: int) -> bool:
        """Whether the log holds this (index, term), which by log matching fixes all before it (Raft §5.3)."""
        return self.term(index) == term

    def is_up_to_date(self, index: int, term: int) -> bool:
        """Whether a log that ends in (index, term) is at least as complete as this one (Raft §5.4.1)."""
        last_term = self.last_term
        return term > last_term or (term == last_term and index >= self.last_index)

    def slice_from(self, index: int, max_bytes: int) -> tuple[list[Entry], int]:
        """Return entries from `index` on, at most `max_bytes` encoded but at least one, and the bytes of their data."""
        position, count = index - self.compacted - 1, _FIRST_SLICE
        entries = self.entries[position : position + count]
        size = payload_bytes(entries)
        # A follower far behind must not cost a copy of the whole log for each message.
        while size <= max_bytes and position + count < len(self.entries):
            count *= 4
            entries = self.entries[position : position + count]
            size = payload_bytes(entries)
        if size + _ENTRY_OVERHEAD * len(entries) <= max_bytes:
            return entries, size
        encoded = 0
        for kept, entry in enumerate(entries):
            encoded += entry_size(entry)
            if encoded > max_bytes and kept:
                del entries[kept:]
                return entries, payload_bytes(entries)
        return entries, size

    def conflict_hint(self, index: int, term: int) -> tuple[int, int]:
        """Return the last (index, term) here, at or before `index`, that may agree with a log having `term` at `index`.

        Its term is 0 where this log does not reach. Whole runs of terms above `term` are skipped, so probing costs a
        round trip per term and not per entry.
        """
        while index > 0:
            own = self.term(index)
            if own is None:
                return index, 0
            if own <= term:
                return index, own
            index -= 1
        return 0, 0

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries at the end, or in place of the uncommitted tail that starts at the first one's index."""
        first = entries[0].index
        last = self.last_index
        if first <= last:
            self._truncate(first)
        else:
            assert first == last + 1, f"entry {first} does not follow {last}"
        self.entries += entries
        self.size_bytes += payload_bytes(entries)

    def append_new(self, term: int, datas: Sequence[bytes], size_bytes: int) -> None:
        """Add normal entries with these data, `size_bytes` in all, at the end."""
        entries = self.entries
        first = self.compacted + len(entries) + 1
        entries += [Entry(term, index, data) for index, data in enumerate(datas, first)]
        self.size_bytes += size_bytes

    def first_conflict(self, entries: Sequence[Entry]) -> int:
        """Return the position of the first of `entries` this log lacks, or their number when it holds them all."""
        if entries and entries[0].index > self.last_index:
            return 0
        for position, entry in enumerate(entries):
            if self.term(entry.index) != entry.term:
                return position
        return len(entries)

    def commit_to(self, index: int) -> None:
        """Advance the commit index; never moves back. Raises LogLost."""
        if index > self.committed:
            if index > self.last_index:
                raise LogLost(f"commit {index} is beyond the last entry {self.last_index}: log lost?")
            self.committed = index

    def has_conf_change(self, after: int, through: int) -> bool:
        """Whether any entry with after < index <= through changes the configuration."""
        start, end = after - self.compacted, through - self.compacted
        return any(entry.kind is not EntryKind.NORMAL for entry in self.entries[max(start, 0) : end])

    def take_unwritten(self) -> list[Entry]:
        """Hand out the entries not yet given to the WAL."""
        entries = self.entries[self.written - self.compacted :]
        self.written = self.compacted + len(self.entries)
        return entries

    def take_snapshot(self) -> Snapshot | None:
        """Hand out the incoming snapshot; it is to be written only once."""
        self.snapshot_taken = True
        return self.snapshot

    def take_committed(self) -> list[Entry]:
        """Hand out the committed and locally durable entries not handed out yet."""
        through = self.committed if self.committed < self.stable else self.stable
        if through <= self.applying or self.snapshot is not None:
            return []
        entries = self.entries[self.applying - self.compacted : through - self.compacted]
        self.applying = through
        return entries

    def begin_append(self) -> None:
        """Note that everything handed out so far is on its way to the disk."""
        self._in_flight.append(self.written)

    def finish_append(self) -> None:
        """Note that the oldest append in flight is durable."""
        last = self._in_flight.popleft()
        if last > self.stable:
            self.stable = last

    def applied_to(self, index: int) -> list[Entry]:
        """Move `applied` on and return the entries this covers; installs the incoming snapshot if it is reached."""
        assert self.applied <= index <= self.committed, f"applied {index} outside {self.applied}..{self.committed}"
        start = max(self.applied - self.compacted, 0)
        entries = self.entries[start : index - self.compacted] if index > self.compacted else []
        self.applied = index
        if index > self.applying:
            self.applying = index
        if self.snapshot is not None and index >= self.snapshot.meta.index:
            self.snapshot = None
        return entries

    def compact(self, index: int) -> None:
        """Forget entries up to `index`, but not the term of the last one; no-op if that is done already."""
        if index <= self.compacted:
            return
        assert index <= min(self.applied, self.stable), f"compacting {index}, applied only {self.applied}"
        count = index - self.compacted
        self.compacted_term = self.entries[count - 1].term
        self.size_bytes -= payload_bytes(self.entries[:count])
        del self.entries[:count]
        self.compacted = index

    def restore(self, snapshot: Snapshot) -> None:
        """Replace the whole log by a snapshot that is ahead of it."""
        meta = snapshot.meta
        assert meta.index > self.committed
        self.stable = min(self.stable, self.committed)
        self._in_flight = deque(0 for _ in self._in_flight)
        self.entries = []
        self.size_bytes = 0
        self.compacted, self.compacted_term = meta.index, meta.term
        self.committed = self.written = meta.index
        self.snapshot = snapshot
        self.snapshot_taken = False

    def _truncate(self, first: int) -> None:
        assert first > self.committed, f"truncating at {first}, which is committed (to {self.committed})"
        position = first - self.compacted - 1
        self.size_bytes -= payload_bytes(self.entries[position:])
        del self.entries[position:]
        keep = first - 1
        self.stable = min(self.stable, keep)
        self.written = min(self.written, keep)
        self._in_flight = deque(min(last, keep) for last in self._in_flight)


def payload_bytes(entries: Sequence[Entry]) -> int:
    """Sum of the sizes of the entries' data."""
    return sum([len(entry.data) for entry in entries])
