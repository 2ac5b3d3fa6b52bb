"""Watchers of key ranges: matching of changes, delivery in order, and catching up with history.

A watcher is *synced* (told of every write as it happens) or *lagging* (its events are read back from the store). A sink
that refuses makes its watcher lagging at that revision; nothing is stored for it. Every watcher gets each matching
event exactly once, in revision order, all events of a revision in one offer. Events are encoded once and shared.
Synced watchers that want the same and share a crowd are an *audience*: they are matched, and told, as one.
Knows nothing of streams, ids, fragments or progress notifications.
"""

from collections.abc import Hashable, Iterable
from heapq import nsmallest
from operator import attrgetter
from typing import TYPE_CHECKING, Protocol, TypeVar

from ratifyd.keys import KeyRange, prefix_end
from ratifyd.mvcc.intervals import Intervals
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


class Crowd(Protocol):
    """Where the events of many watchers go together, if that is cheaper. It neither adds nor removes watchers then."""

    def offer_all(self, audience: "Audience", revision: int, events: list[bytes]) -> bool:
        """Take events for a whole audience, as `Sink.offer` does for one. False: none was told, offer to each."""
        ...


class Watcher:
    """One watch: made by `WatchHub.add`.

    `next_revision` is the first revision it has not been told of, as long as it is lagging. A synced one has been told
    of everything from it on, or begins there.
    """

    __slots__ = (
        "anchor",
        "audience",
        "crowd",
        "keys",
        "next_revision",
        "no_delete",
        "no_put",
        "prefix",
        "prev_kv",
        "sink",
        "synced",
        "tag",
    )

    def __init__(
        self,
        keys: KeyRange,
        sink: Sink,
        crowd: Crowd | None,
        tag: object,
        *,
        next_revision: int,
        prev_kv: bool,
        no_put: bool,
        no_delete: bool,
    ) -> None:
        self.keys = keys
        self.sink = sink
        self.crowd = crowd
        self.tag = tag
        self.audience: Audience | None = None
        """While synced."""
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


class Audience:
    """Watchers that want the same events from the same revision on, and take them together."""

    __slots__ = ("begins", "crowd", "lone", "no_delete", "no_put", "notes", "prev_kv", "watchers")

    def __init__(self, like: Watcher, begins: int) -> None:
        """Of watchers `like` one, which is not among them yet."""
        self.watchers: dict[Watcher, None] = {}
        self.lone: Watcher | None = None
        """The only one, when there is only one."""
        self.crowd = like.crowd
        self.begins = begins
        self.prev_kv = like.prev_kv
        self.no_put = like.no_put
        self.no_delete = like.no_delete
        self.notes: object = None
        """The crowd's own; None again whenever the watchers have changed."""

    def add(self, watcher: Watcher) -> None:
        self.lone = None if self.watchers else watcher
        self.watchers[watcher] = None
        self.notes = None

    def remove(self, watcher: Watcher) -> None:
        watchers = self.watchers
        del watchers[watcher]
        self.lone = next(iter(watchers)) if len(watchers) == 1 else None
        self.notes = None


class _Matcher:
    """Audiences by what they watch: exact keys, prefixes per length, and other ranges."""

    __slots__ = ("intervals", "odd", "points", "prefixes", "size")

    def __init__(self) -> None:
        self.points: dict[bytes, dict[Hashable, Audience]] = {}
        self.prefixes: dict[int, dict[bytes, dict[Hashable, Audience]]] = {}
        self.odd: dict[KeyRange, dict[Hashable, Audience]] = {}
        self.intervals: Intervals[dict[Hashable, Audience]] = Intervals()
        """The same, to be found by a key."""
        self.size = 0
        """Watchers in all."""

    def add(self, watcher: Watcher, begins: int) -> Audience:
        """Add a watcher to those that are told of what happens from revision `begins` on."""
        self.size += 1
        if watcher.prefix == _ODD:
            if watcher.keys not in self.odd:
                self.odd[watcher.keys] = {}
                self.intervals.add(watcher.keys, self.odd[watcher.keys])
            group = self.odd[watcher.keys]
        elif watcher.prefix == _POINT:
            group = self.points.setdefault(watcher.anchor, {})
        else:
            group = self.prefixes.setdefault(watcher.prefix, {}).setdefault(watcher.anchor, {})
        kind = _kind(watcher, begins)
        audience = group.get(kind)
        if audience is None:
            audience = group[kind] = Audience(watcher, begins)
        audience.add(watcher)
        return audience

    def remove(self, watcher: Watcher, audience: Audience) -> None:
        """Take a watcher out of its audience."""
        self.size -= 1
        audience.remove(watcher)
        if audience.watchers:
            return
        kind = _kind(watcher, audience.begins)
        if watcher.prefix == _ODD:
            _remove(self.odd, watcher.keys, kind)
            if watcher.keys not in self.odd:
                self.intervals.remove(watcher.keys)
        elif watcher.prefix == _POINT:
            _remove(self.points, watcher.anchor, kind)
        else:
            table = self.prefixes[watcher.prefix]
            _remove(table, watcher.anchor, kind)
            if not table:
                del self.prefixes[watcher.prefix]

    def audiences(self) -> list[Audience]:
        """All of them."""
        groups = [*self.points.values(), *self.odd.values()]
        for table in self.prefixes.values():
            groups += table.values()
        return [audience for group in groups for audience in group.values()]

    def match(self, key: bytes) -> list[Audience]:
        """Audiences whose range holds `key`, as a list of its own."""
        group = self.points.get(key)
        found = list(group.values()) if group else []
        for length, table in self.prefixes.items():
            if (group := table.get(key[:length])) is not None:
                found += group.values()
        if self.odd:
            for group in self.intervals.holding(key):
                found += group.values()
        return found


def _kind(watcher: Watcher, begins: int) -> Hashable:
    """What watchers of one range have in common that are one audience."""
    if watcher.crowd is None:
        return watcher
    return watcher.crowd, begins, watcher.prev_kv, watcher.no_put, watcher.no_delete


_Key = TypeVar("_Key", bytes, KeyRange)


def _remove(table: dict[_Key, dict[Hashable, Audience]], key: _Key, kind: Hashable) -> None:
    group = table[key]
    del group[kind]
    if not group:
        del table[key]


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
        crowd: Crowd | None = None,
        prev_kv: bool = False,
        no_put: bool = False,
        no_delete: bool = False,
        tag: object = None,
    ) -> Watcher:
        """Start a watcher at `start_revision` (0: the next write; in the future: silent until then)."""
        current = self.store.revision
        first = start_revision or current + 1
        watcher = Watcher(
            keys, sink, crowd, tag, next_revision=first, prev_kv=prev_kv, no_put=no_put, no_delete=no_delete
        )
        if first > current:
            self._promote(watcher)
        else:
            self._lagging[watcher] = None
        return watcher

    def remove(self, watcher: Watcher) -> None:
        """Stop a watcher; nothing if it was removed before."""
        if watcher.synced:
            self._demote(watcher)
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
        for audience in self.synced.audiences():
            for watcher in list(audience.watchers):
                self._demote(watcher)
                watcher.next_revision = max(watcher.next_revision, revision + 1)
                self._lagging[watcher] = None

    def _promote(self, watcher: Watcher) -> None:
        watcher.synced = True
        first = watcher.next_revision
        watcher.audience = self.synced.add(watcher, first if first > self.store.revision + 1 else 0)

    def _demote(self, watcher: Watcher) -> None:
        audience, watcher.audience = watcher.audience, None
        assert audience is not None
        watcher.synced = False
        self.synced.remove(watcher, audience)

    # ------------------------------------------------------------------ live events

    def notify(self, revision: int, changes: list[Change]) -> None:
        """Tell the synced watchers of one write. Called by the store when the write is complete."""
        if not self.synced.size:
            return
        for audience, events in self._collect(self.synced, changes).items():
            watcher = audience.lone
            if watcher is not None:
                if not watcher.sink.offer(watcher, revision, events):
                    self._refused(watcher, revision)
            elif audience.watchers:  # none if a sink has removed them meanwhile
                self._offer_all(audience, revision, events)

    def _offer_all(self, audience: Audience, revision: int, events: list[bytes]) -> None:
        crowd = audience.crowd
        assert crowd is not None, "several watchers without a crowd"
        if not crowd.offer_all(audience, revision, events):
            for watcher in list(audience.watchers):
                if watcher.synced and not watcher.sink.offer(watcher, revision, events):
                    self._refused(watcher, revision)

    def _refused(self, watcher: Watcher, revision: int) -> None:
        """Have a watcher catch up from `revision` on once its sink has room, unless the sink has removed it."""
        if watcher.synced:
            self._demote(watcher)
            watcher.next_revision = revision
            self._full[watcher] = None

    def _collect(self, matcher: _Matcher, changes: list[Change]) -> dict[Audience, list[bytes]]:
        """Events of `changes` (in revision order) for each audience that has not seen them, encoded once each."""
        batches: dict[Audience, list[bytes]] = {}
        single = len(changes) == 1
        for change in changes:
            matched = matcher.match(change[0])
            if not matched:
                continue
            main, _ = decode_revision(change[1])
            deleted = len(change[1]) != REVISION_BYTES
            plain: list[bytes] = []
            with_previous: list[bytes] = []
            for audience in matched:
                if audience.begins > main or (audience.no_delete if deleted else audience.no_put):
                    continue
                if audience.prev_kv:
                    if not with_previous:
                        with_previous = [fast.event(change[2], deleted, self._previous(change, main))]
                    event = with_previous
                else:
                    if not plain:
                        plain = [fast.event(change[2], deleted, None)]
                    event = plain
                if single:
                    batches[audience] = event
                elif audience in batches:
                    batches[audience] += event
                else:
                    batches[audience] = event.copy()
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
            return bool(self._lagging)  # all that were looked at have been cancelled
        first = min(watcher.next_revision for watcher in chosen)
        last = current
        if first <= current:
            rows, last = self.store.history(first, max_revisions, MAX_BYTES_PER_PASS)
            batches, last = self._collect_within_limits(chosen, rows, last)
            for audience, events in batches.items():
                self._offer_history(audience, current, events)
        for watcher in chosen:
            if watcher in self._lagging:  # neither refused nor removed by a sink meanwhile
                watcher.next_revision = max(watcher.next_revision, last + 1)
                if watcher.next_revision > current:
                    del self._lagging[watcher]
                    self._promote(watcher)
        return bool(self._lagging)

    def _offer_history(self, audience: Audience, current: int, events: list[bytes]) -> None:
        """Tell an audience of lagging watchers; who refuses is tried again later."""
        crowd = audience.crowd
        waiting = [watcher for watcher in audience.watchers if watcher in self._lagging]
        all_wait = 1 < len(waiting) == len(audience.watchers)
        if all_wait and crowd is not None and crowd.offer_all(audience, current, events):
            return
        for watcher in waiting:
            if watcher not in self._lagging:  # removed by a sink meanwhile
                continue
            if not watcher.sink.offer(watcher, current, events) and watcher in self._lagging:
                del self._lagging[watcher]
                self._full[watcher] = None

    def _collect_within_limits(
        self, chosen: list[Watcher], rows: list[Row], last: int
    ) -> tuple[dict[Audience, list[bytes]], int]:
        """As `_collect` for the rows of whole revisions up to `last`, or up to an earlier one if there is too much."""
        matcher = _Matcher()
        for watcher in chosen:
            matcher.add(watcher, watcher.next_revision)
        batches: dict[Audience, list[bytes]] = {}
        count = size = taken = 0
        while taken < len(rows):
            begun, taken = taken, _end_of_revision(rows, taken + _CHANGES_AT_ONCE)
            changes = [_change(row, value) for row, value in rows[begun:taken]]
            for audience, events in self._collect(matcher, changes).items():
                count += len(events) * len(audience.watchers)
                size += sum(map(len, events)) * len(audience.watchers)
                if audience in batches:
                    batches[audience] += events
                else:
                    batches[audience] = events.copy()
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
