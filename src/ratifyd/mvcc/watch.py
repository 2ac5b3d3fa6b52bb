"""Watchers of key ranges: matching of changes, delivery in order, and catching up with history.

A watcher is *synced* (told of every write as it happens) or *lagging* (its events are read back from the store). A sink
that refuses makes its watcher lagging at that revision; nothing is stored for it. Every watcher gets each matching
event exactly once, in revision order, all events of a revision in one offer. Events are encoded once and shared.
Knows nothing of streams, ids, fragments or progress notifications.
"""

from collections.abc import Iterable
from heapq import nsmallest
from operator import attrgetter
from typing import TYPE_CHECKING, Protocol

from ratifyd.keys import KeyRange, prefix_end
from ratifyd.mvcc.records import decode, row_key
from ratifyd.ports import Row
from ratifyd.proto import fast
from ratifyd.schema import REVISION_BYTES, decode_revision

if TYPE_CHECKING:
    from ratifyd.mvcc.store import Store

Change = tuple[bytes, bytes, bytes, bytes | None]
"""One change of a write: key, its encoded revision, the event's KeyValue, and the revision it replaced (b"" none,
None unknown)."""

MAX_WATCHERS_PER_PASS = 512
MAX_REVISIONS_PER_PASS = 1000
MAX_BYTES_PER_PASS = 8 << 20
"""Values read from history in one pass."""
MAX_EVENTS_PER_PASS = 10_000
MAX_OFFERED_BYTES_PER_PASS = 8 << 20
"""Events offered in one pass, over all watchers: hundreds may want the same."""
_CHANGES_AT_ONCE = 50
_MAIN_BYTES = 8


class Sink(Protocol):
    """Where a watcher's events go. Offered lists are shared: never change them."""

    def offer(self, watcher: "Watcher", revision: int, events: list[bytes]) -> bool:
        """Take encoded mvccpb.Events; `revision` is for the response header. False: no room, offer again later."""
        ...

    def compacted(self, watcher: "Watcher", compact_revision: int) -> None:
        """Learn that history the watcher still needed is gone; the hub has removed it."""
        ...


class Watcher:
    """One watch: made by `WatchHub.add`. `next_revision` is the first revision it has not been told of."""

    __slots__ = ("anchor", "keys", "next_revision", "no_delete", "no_put", "prefix", "prev_kv", "sink", "synced", "tag")

    def __init__(
        self,
        keys: KeyRange,
        sink: Sink,
        tag: object,
        *,
        next_revision: int,
        prev_kv: bool,
        no_put: bool,
        no_delete: bool,
    ) -> None:
        self.keys = keys
        self.sink = sink
        self.tag = tag
        self.next_revision = next_revision
        self.prev_kv = prev_kv
        self.no_put = no_put
        self.no_delete = no_delete
        self.synced = False
        self.anchor, self.prefix = _classify(keys)


_POINT = -1
_ODD = -2


def _classify(keys: KeyRange) -> tuple[bytes, int]:
    """How a range is matched: the key or prefix, and the prefix's length or one of the marks above."""
    if keys.is_point:
        return keys.start, _POINT
    if keys.end is None and keys.start in (b"", b"\0"):
        return b"", 0
    if keys.start and (keys.end or b"\0") == prefix_end(keys.start):
        return keys.start, len(keys.start)
    return keys.start, _ODD


class _Matcher:
    """Watchers by what they watch: exact keys, prefixes per length, and a list of other ranges."""

    __slots__ = ("odd", "points", "prefixes", "size")

    def __init__(self, watchers: Iterable[Watcher] = ()) -> None:
        self.points: dict[bytes, dict[Watcher, None]] = {}
        self.prefixes: dict[int, dict[bytes, dict[Watcher, None]]] = {}
        self.odd: dict[Watcher, None] = {}
        self.size = 0
        for watcher in watchers:
            self.add(watcher)

    def add(self, watcher: Watcher) -> None:
        self.size += 1
        if watcher.prefix == _ODD:
            self.odd[watcher] = None
        elif watcher.prefix == _POINT:
            self.points.setdefault(watcher.anchor, {})[watcher] = None
        else:
            self.prefixes.setdefault(watcher.prefix, {}).setdefault(watcher.anchor, {})[watcher] = None

    def remove(self, watcher: Watcher) -> None:
        self.size -= 1
        if watcher.prefix == _ODD:
            del self.odd[watcher]
            return
        table = self.points if watcher.prefix == _POINT else self.prefixes[watcher.prefix]
        group = table[watcher.anchor]
        del group[watcher]
        if not group:
            del table[watcher.anchor]
            if not table and watcher.prefix != _POINT:
                del self.prefixes[watcher.prefix]

    def match(self, key: bytes) -> list[Watcher]:
        """Watchers whose range holds `key`, as a list of its own."""
        group = self.points.get(key)
        found = list(group) if group else []
        for length, table in self.prefixes.items():
            if (group := table.get(key[:length])) is not None:
                found += group
        if self.odd:
            found += [watcher for watcher in self.odd if key in watcher.keys]
        return found


class WatchHub:
    """All watchers of one member. A `Store` made with it feeds it; `catch_up` must be called for the lagging ones."""

    __slots__ = ("_full", "_lagging", "_store", "synced")

    def __init__(self) -> None:
        self._store: Store | None = None
        self.synced = _Matcher()
        """Those that are told of each write as it happens."""
        self._lagging: dict[Watcher, None] = {}
        self._full: dict[Watcher, None] = {}

    def bind(self, store: "Store") -> None:
        """Attach the store whose history is watched; called by the store itself."""
        self._store = store

    @property
    def store(self) -> "Store":
        """The store being watched."""
        assert self._store is not None, "hub without a store"
        return self._store

    @property
    def watcher_count(self) -> int:
        """Watchers in all states."""
        return self.synced.size + len(self._lagging) + len(self._full)

    @property
    def lagging_count(self) -> int:
        """Watchers that are behind (etcd slow watchers)."""
        return len(self._lagging) + len(self._full)

    @property
    def has_work(self) -> bool:
        """Whether a watcher is behind whose sink has room: time for `catch_up`."""
        return bool(self._lagging)

    # ------------------------------------------------------------------ watchers

    def add(
        self,
        keys: KeyRange,
        start_revision: int,
        *,
        sink: Sink,
        prev_kv: bool = False,
        no_put: bool = False,
        no_delete: bool = False,
        tag: object = None,
    ) -> Watcher:
        """Start a watcher at `start_revision` (0: the next write; in the future: silent until then)."""
        current = self.store.revision
        first = start_revision or current + 1
        watcher = Watcher(keys, sink, tag, next_revision=first, prev_kv=prev_kv, no_put=no_put, no_delete=no_delete)
        if first > current:
            self._promote(watcher)
        else:
            self._lagging[watcher] = None
        return watcher

    def remove(self, watcher: Watcher) -> None:
        """Stop a watcher; nothing if it was removed before."""
        if watcher.synced:
            watcher.synced = False
            self.synced.remove(watcher)
        else:
            self._lagging.pop(watcher, None)
            self._full.pop(watcher, None)

    def is_current(self, watcher: Watcher) -> bool:
        """Whether the watcher has been told everything up to the present revision and has begun (progress rule)."""
        return watcher.synced and watcher.next_revision <= self.store.revision + 1

    def resume(self, watcher: Watcher) -> None:
        """Say that the sink of a watcher that was refused has room again, so that the next pass serves it."""
        if watcher in self._full:
            del self._full[watcher]
            self._lagging[watcher] = None

    def restore(self, revision: int) -> None:
        """Make all watchers lagging after the store was replaced; they had been told everything up to `revision`."""
        synced, self.synced = self.synced, _Matcher()
        groups = [*synced.points.values(), synced.odd]
        for table in synced.prefixes.values():
            groups += table.values()
        for group in groups:
            for watcher in group:
                watcher.synced = False
                watcher.next_revision = max(watcher.next_revision, revision + 1)
                self._lagging[watcher] = None

    def _promote(self, watcher: Watcher) -> None:
        watcher.synced = True
        self.synced.add(watcher)

    # ------------------------------------------------------------------ live events

    def notify(self, revision: int, changes: list[Change]) -> None:
        """Tell the synced watchers of one write. Called by the store when the write is complete."""
        if not self.synced.size:
            return
        for watcher, events in self._collect(self.synced, changes).items():
            if not watcher.synced:  # removed by a sink meanwhile
                continue
            if watcher.sink.offer(watcher, revision, events):
                watcher.next_revision = revision + 1
            elif watcher.synced:
                watcher.synced = False
                watcher.next_revision = revision
                self.synced.remove(watcher)
                self._full[watcher] = None

    def _collect(self, matcher: _Matcher, changes: list[Change]) -> dict[Watcher, list[bytes]]:
        """Events of `changes` (in revision order) for each watcher that has not seen them, encoded once each."""
        batches: dict[Watcher, list[bytes]] = {}
        single = len(changes) == 1
        for change in changes:
            matched = matcher.match(change[0])
            if not matched:
                continue
            main, _ = decode_revision(change[1])
            deleted = len(change[1]) != REVISION_BYTES
            plain: list[bytes] = []
            with_previous: list[bytes] = []
            for watcher in matched:
                if watcher.next_revision > main or (watcher.no_delete if deleted else watcher.no_put):
                    continue
                if watcher.prev_kv:
                    if not with_previous:
                        with_previous = [fast.event(change[2], deleted, self._previous(change, main))]
                    event = with_previous
                else:
                    if not plain:
                        plain = [fast.event(change[2], deleted, None)]
                    event = plain
                if single:
                    batches[watcher] = event
                elif watcher in batches:
                    batches[watcher] += event
                else:
                    batches[watcher] = event.copy()
        return batches

    def _previous(self, change: Change, main: int) -> bytes | None:
        """The KeyValue before a change's revision, None if there was none or it is compacted."""
        key, row, kv, replaced = change
        if replaced == b"" or (len(row) == REVISION_BYTES and decode(kv).create_revision == main):
            return None
        store = self.store
        if replaced is None or replaced[:8] == row[:8]:
            return store.get(key, main - 1) if main > store.compacted else None
        return store.value(replaced)

    # ------------------------------------------------------------------ history

    def catch_up(self, max_watchers: int = MAX_WATCHERS_PER_PASS, max_revisions: int = MAX_REVISIONS_PER_PASS) -> bool:
        """Serve some lagging watchers from history, one read for all of them; whether others could go on at once.

        Watchers whose sink refused are tried again when no others are left, or after `resume`.
        """
        if not self._lagging:
            self._lagging, self._full = self._full, self._lagging
        current = self.store.revision
        chosen = self._choose(max_watchers)
        if not chosen:
            return False
        first = min(watcher.next_revision for watcher in chosen)
        last = current
        batches: dict[Watcher, list[bytes]] = {}
        if first <= current:
            rows, last = self.store.history(first, max_revisions, MAX_BYTES_PER_PASS)
            batches, last = self._collect_within_limits(chosen, rows, last)
        for watcher in chosen:
            if watcher not in self._lagging:  # removed by a sink meanwhile
                continue
            events = batches.get(watcher)
            if events is None or watcher.sink.offer(watcher, current, events):
                watcher.next_revision = max(watcher.next_revision, last + 1)
                if watcher.next_revision > current and watcher in self._lagging:
                    del self._lagging[watcher]
                    self._promote(watcher)
            elif watcher in self._lagging:
                del self._lagging[watcher]
                self._full[watcher] = None
        return bool(self._lagging)

    def _collect_within_limits(
        self, chosen: list[Watcher], rows: list[Row], last: int
    ) -> tuple[dict[Watcher, list[bytes]], int]:
        """As `_collect` for the rows of whole revisions up to `last`, or up to an earlier one if there is too much."""
        matcher = _Matcher(chosen)
        batches: dict[Watcher, list[bytes]] = {}
        count = size = taken = 0
        while taken < len(rows):
            begun, taken = taken, _end_of_revision(rows, taken + _CHANGES_AT_ONCE)
            changes = [_change(row, value) for row, value in rows[begun:taken]]
            for watcher, events in self._collect(matcher, changes).items():
                count += len(events)
                size += sum(map(len, events))
                if watcher in batches:
                    batches[watcher] += events
                else:
                    batches[watcher] = events.copy()
            if taken < len(rows) and (count > MAX_EVENTS_PER_PASS or size > MAX_OFFERED_BYTES_PER_PASS):
                return batches, decode_revision(rows[taken - 1][0])[0]
        return batches, last

    def _choose(self, max_watchers: int) -> list[Watcher]:
        """The lagging watchers furthest behind; those whose history is gone are cancelled instead."""
        waiting: Iterable[Watcher] = self._lagging
        if len(self._lagging) > max_watchers:
            waiting = nsmallest(max_watchers, self._lagging, key=attrgetter("next_revision"))
        compacted = self.store.compacted
        chosen: list[Watcher] = []
        gone: list[Watcher] = []
        for watcher in waiting:
            (gone if watcher.next_revision < compacted else chosen).append(watcher)
        for watcher in gone:
            del self._lagging[watcher]
        for watcher in gone:
            watcher.sink.compacted(watcher, compacted)
        return [watcher for watcher in chosen if watcher in self._lagging] if gone else chosen


def _end_of_revision(rows: list[Row], at: int) -> int:
    """The first position from `at` on where another revision begins."""
    while at < len(rows) and rows[at][0][:_MAIN_BYTES] == rows[at - 1][0][:_MAIN_BYTES]:
        at += 1
    return min(at, len(rows))


def _change(row: bytes, value: bytes) -> Change:
    """A change as read back from bucket `key`."""
    key = row_key(value)
    if len(row) == REVISION_BYTES:
        return key, row, value, None
    return key, row, fast.tombstone(key, decode_revision(row)[0]), None
