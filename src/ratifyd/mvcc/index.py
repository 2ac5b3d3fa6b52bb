"""The key index: which revisions of which keys exist, in memory only (etcd's treeIndex).

Every key has one `KeyIndex`: its live revision inline, older ones and tombstones in a flat list that exists only when
needed. Revisions are kept as the encoded keys of bucket `key` (17 bytes, 18 for a tombstone): their byte order is
revision order, they need no packing on the way to the backend, and they are shared with the write buffer. Points go
through a dict, ranges through sorted lists, one of live and one of deleted keys. Knows no values and no watchers.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import chain, pairwise

from sortedcontainers import SortedList

from ratifyd.schema import REVISION_BYTES, decode_revision, encode_revision


class KeyIndex:
    """Revisions of one key.

    `mod` is the revision of the live version, b"" while the key is deleted; `create` and `version` belong to it.
    `history` holds everything older in order; an 18-byte entry ends a generation.
    """

    __slots__ = ("create", "history", "mod", "version")

    def __init__(self, mod: bytes, create: int, version: int, history: list[bytes] | None = None) -> None:
        self.mod = mod
        self.create = create
        self.version = version
        self.history = history

    def end_generation(self, tombstone: bytes) -> None:
        """Move the live version, if any, and the tombstone after it to the history."""
        history = self.history = self.history or []
        if self.mod:
            history.append(self.mod)
        history.append(tombstone)
        self.mod = b""
        self.create = self.version = 0

    def revisions(self) -> list[bytes]:
        """All revisions in order, tombstones included."""
        revisions = list(self.history or ())
        if self.mod:
            revisions.append(self.mod)
        return revisions

    def visible(self, bound: bytes) -> bytes | None:
        """The version in force below `bound`, None if there is none or the newest is a tombstone."""
        mod = self.mod
        if mod and mod < bound:
            return mod
        history = self.history
        if not history or history[0] >= bound:
            return None
        newest = history[bisect_left(history, bound) - 1]
        return newest if len(newest) == REVISION_BYTES else None


def upper_bound(revision: int) -> bytes:
    """The first encoded revision after main revision `revision`."""
    return encode_revision(revision + 1, 0)


def sorted_slice(items: SortedList, start: bytes, end: bytes | None, limit: int = 0) -> list[bytes]:
    """Items in [start, end), at most `limit` when positive, as a list of its own.

    The same as a list of `items.irange(start, end, (True, False))`, seven times faster: it copies whole runs of the
    sorted list's chunks instead of stepping through an iterator.
    """
    maxes, chunks = items._maxes, items._lists
    position = bisect_left(maxes, start)
    if position == len(maxes):
        return []
    chunk = chunks[position]
    first = bisect_left(chunk, start)
    if end is not None and end <= chunk[-1]:
        last = bisect_left(chunk, end, first) if start < end else first
        return chunk[first : min(last, first + limit)] if limit > 0 else chunk[first:last]  # type: ignore[no-any-return]
    found: list[bytes] = chunk[first : first + limit] if limit > 0 else chunk[first:]
    for following in range(position + 1, len(chunks)):
        chunk = chunks[following]
        if (limit > 0 and len(found) >= limit) or (end is not None and chunk[0] >= end):
            break
        if end is not None and end <= chunk[-1]:
            chunk = chunk[: bisect_left(chunk, end)]
        found += chunk[: limit - len(found)] if limit > 0 else chunk
    return found


class Index:
    """All keys. `keys` maps every key that has a revision; `live` and `dead` split them, sorted."""

    __slots__ = ("dead", "keys", "live")

    def __init__(self) -> None:
        self.keys: dict[bytes, KeyIndex] = {}
        self.live: SortedList = SortedList()
        self.dead: SortedList = SortedList()

    # ------------------------------------------------------------------ changes

    def put(self, key: bytes, revision: bytes, main: int) -> KeyIndex:
        """Record a put at encoded `revision` (of main revision `main`), newer than all others of the key."""
        entry = self.keys.get(key)
        if entry is None:
            self.keys[key] = entry = KeyIndex(revision, main, 1)
            self.live.add(key)
        elif entry.mod:
            if entry.history is None:
                entry.history = [entry.mod]
            else:
                entry.history.append(entry.mod)
            entry.mod = revision
            entry.version += 1
        else:
            entry.mod = revision
            entry.create = main
            entry.version = 1
            self.dead.remove(key)
            self.live.add(key)
        return entry

    def tombstone(self, key: bytes, revision: bytes) -> None:
        """Record the deletion of a live key at an encoded tombstone revision."""
        entry = self.keys[key]
        assert entry.mod, "tombstone of a deleted key"
        entry.end_generation(revision)
        self.live.remove(key)
        self.dead.add(key)

    def restore(self, key: bytes, revision: bytes, *, create: int, version: int) -> None:
        """Record a row met while reading bucket `key` in order; must be followed by `finish_restore`."""
        entry = self.keys.get(key)
        if len(revision) != REVISION_BYTES:
            if entry is None:
                self.keys[key] = KeyIndex(b"", 0, 0, [revision])
            else:
                entry.end_generation(revision)
        elif entry is None:
            self.keys[key] = KeyIndex(revision, create, version)
        elif entry.mod:
            if entry.history is None:
                entry.history = [entry.mod]
            else:
                entry.history.append(entry.mod)
            entry.mod = revision
            entry.version += 1
        else:
            entry.mod, entry.create, entry.version = revision, decode_revision(revision)[0], 1

    def finish_restore(self, per_slice: int) -> Iterator[int]:
        """Sort the restored keys; yields after each slice of about `per_slice` of them with their number.

        Distributing keys over pivots from a sample, then sorting each part, takes half the time of adding them one by
        one and, unlike one big sort, can stop anywhere.
        """
        keys = self.keys
        names = list(keys)
        pivots = sorted(names[:: max(1, per_slice)])
        parts: list[list[bytes]] = [[] for _ in range(len(pivots) + 1)]
        dead: list[bytes] = []
        for first in range(0, len(names), max(1, per_slice)):
            batch = names[first : first + per_slice]
            for name in batch:
                (parts[bisect_right(pivots, name)] if keys[name].mod else dead).append(name)
            yield len(batch)
        for part in parts:
            part.sort()
            yield 0
        self.live = SortedList(chain.from_iterable(parts))
        self.dead = SortedList(dead)

    # ------------------------------------------------------------------ reads

    def get(self, key: bytes, revision: int) -> bytes | None:
        """Encoded revision of the version of `key` in force at main revision `revision`."""
        entry = self.keys.get(key)
        return None if entry is None else entry.visible(upper_bound(revision))

    def latest(self, start: bytes, end: bytes | None, limit: int = 0) -> list[bytes]:
        """Encoded newest revisions of the live keys in [start, end), in key order."""
        keys = self.keys
        return [keys[name].mod for name in sorted_slice(self.live, start, end, limit)]

    def latest_keys(self, start: bytes, end: bytes | None) -> list[bytes]:
        """Live keys in [start, end)."""
        return sorted_slice(self.live, start, end)

    def latest_count(self, start: bytes, end: bytes | None) -> int:
        """Number of live keys in [start, end), without visiting them."""
        live = self.live
        first: int = live.bisect_left(start)
        last: int = len(live) if end is None else live.bisect_left(end)
        return max(0, last - first)

    def exceeds(self, start: bytes, end: bytes | None, count: int, *, deleted: bool) -> bool:
        """Whether more than `count` keys are in [start, end), with those that are `deleted` or without."""
        found = len(sorted_slice(self.live, start, end, count + 1))
        if deleted and self.dead:
            found += len(sorted_slice(self.dead, start, end, count + 1))
        return found > count

    def range(self, start: bytes, end: bytes | None, revision: int, limit: int = 0) -> tuple[list[bytes], int]:
        """Encoded revisions in force at `revision` in key order, at most `limit`, and the count without limit."""
        keys = self.keys
        bound = upper_bound(revision)
        found = []
        for name in self.names(start, end):
            entry = keys[name]
            row: bytes | None = entry.mod
            if not row or row >= bound:
                row = entry.visible(bound)
                if row is None:
                    continue
            found.append(row)
        count = len(found)
        return (found[:limit] if 0 < limit < count else found), count

    def slice(self, start: bytes, end: bytes | None, revision: int, limit: int) -> tuple[list[bytes], list[bytes]]:
        """The first `limit` keys in [start, end), dead or alive, and the encoded revisions in force among them."""
        names = sorted_slice(self.live, start, end, limit)
        if self.dead:
            names += sorted_slice(self.dead, start, end, limit)
            names.sort()
            del names[limit:]
        keys = self.keys
        bound = upper_bound(revision)
        return names, [row for name in names if (row := keys[name].visible(bound)) is not None]

    def names(self, start: bytes, end: bytes | None) -> list[bytes]:
        """All keys in [start, end), deleted ones included, in order."""
        names = sorted_slice(self.live, start, end)
        if self.dead and (dead := sorted_slice(self.dead, start, end)):
            names += dead
            names.sort()
        return names

    # ------------------------------------------------------------------ compaction

    def compact_key(self, key: bytes, row: bytes, bound: bytes, last: bytes) -> bool:
        """Compact one key on meeting its `row` in a scan in revision order; whether the row is kept.

        `bound` is the first revision after the compaction's, `last` the first one *of* the compacted revision: the
        newest version below `bound` stays, a tombstone only if it is not below `last` (etcd 3.5.16).
        """
        entry = self.keys.get(key)
        if entry is None:
            return False
        history = entry.history
        if not history:
            return entry.mod == row
        if row != history[0]:
            return False
        if entry.mod and entry.mod < bound:
            entry.history = None
            return False
        newest = bisect_left(history, bound) - 1
        if len(history[newest]) != REVISION_BYTES and history[newest] < last:
            newest += 1
        if newest > 0:
            del history[:newest]
        if not history:
            entry.history = None
            if not entry.mod:
                del self.keys[key]
                self.dead.remove(key)
            return False
        return newest == 0

    def check(self) -> None:
        """Assert the invariants of the index itself."""
        self.live._check()
        self.dead._check()
        assert len(self.live) + len(self.dead) == len(self.keys), "keys and sorted lists differ in number"
        for key in self.live:
            assert self.keys[key].mod, f"deleted key {key!r} among the live"
        for key in self.dead:
            assert not self.keys[key].mod, f"live key {key!r} among the deleted"
        for key, entry in self.keys.items():
            revisions = entry.revisions()
            assert revisions, f"key {key!r} without a revision"
            assert all(a < b for a, b in pairwise(revisions)), f"revisions of {key!r} out of order"
            assert entry.history != [], f"empty history of {key!r} not dropped"
            assert bool(entry.mod) == (entry.version > 0), f"version of {key!r} does not fit its state"
            if not entry.mod:
                assert len(revisions[-1]) != REVISION_BYTES, f"deleted key {key!r} without a tombstone"
