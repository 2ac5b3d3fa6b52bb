"""The key index against an obviously correct model: one list of all changes."""

from hypothesis import given, settings
from hypothesis import strategies as st
from sortedcontainers import SortedList

from ratifyd.mvcc.index import Index, sorted_slice
from ratifyd.schema import encode_revision, encode_tombstone

KEYS = [b"a", b"b", b"ba", b"c"]
keys = st.sampled_from(KEYS)
# A txn of (key, is_delete) changes, a compaction, or a restart.
txns = st.lists(st.tuples(keys, st.booleans()), min_size=1, max_size=3)
steps = st.lists(st.one_of(txns, st.integers(0, 6), st.just("restart")), max_size=25)


class ListModel:
    """All changes as (main, sub, key, is_delete), in order."""

    def __init__(self):
        self.changes = []
        self.revision = 1
        self.compacted = -1

    def newest(self, key, revision):
        found = [change for change in self.changes if change[2] == key and change[0] <= revision]
        return found[-1] if found else None

    def alive(self, revision):
        rows = {}
        for key in KEYS:
            change = self.newest(key, revision)
            if change is not None and not change[3]:
                rows[key] = encode_revision(change[0], change[1])
        return rows

    def version(self, key):
        """(create, version) of a live key, from the whole history ever."""
        create = version = 0
        for main, _, name, deleted in self.everything:
            if name == key:
                create, version = (0, 0) if deleted else (create or main, version + 1)
        return create, version

    def compact(self, revision):
        kept = []
        for change in self.changes:
            superseded = change[0] <= revision and self.newest(change[2], revision) is not change
            if not superseded and not (change[3] and change[0] < revision):
                kept.append(change)
        self.changes = kept
        self.compacted = revision

    everything: list


def row(change):
    main, sub, _, deleted = change
    return encode_tombstone(main, sub) if deleted else encode_revision(main, sub)


def apply_txn(index, model, ops):
    main, sub = model.revision + 1, 0
    for key, delete in ops:
        if delete and key not in index.newest:
            continue
        change = (main, sub, key, delete)
        if delete:
            index.tombstone(key, row(change))
        else:
            index.put(key, row(change), main)
        model.changes.append(change)
        model.everything.append(change)
        sub += 1
    if sub:
        model.revision = main


def compact(index, model, back):
    revision = model.revision - back
    if revision <= model.compacted:
        return
    before = [change for change in model.changes if change[0] <= revision]
    bound, last = encode_revision(revision + 1, 0), encode_revision(revision, 0)
    model.compact(revision)
    kept = [change for change in before if index.compact_key(change[2], row(change), bound, last)]
    assert kept == [change for change in model.changes if change[0] <= revision]


def restarted(model):
    index = Index()
    for change in model.changes:
        _, _, key, deleted = change
        create = version = 0
        if not deleted:
            for past in model.everything[: model.everything.index(change) + 1]:
                if past[2] == key:
                    create, version = (0, 0) if past[3] else (create or past[0], version + 1)
        index.restore(key, row(change), create=create, version=version)
    assert sum(index.finish_restore(2)) == len(index)
    return index


def compare(index, model):
    index.check()
    assert sorted(r for key in KEYS for r in index.revisions(key)) == [row(c) for c in model.changes]
    latest = model.alive(model.revision)
    for key in latest:
        assert (index.created(key), index.version(key)) == model.version(key)
    for revision in range(max(model.compacted, 0), model.revision + 1):
        alive = model.alive(revision)
        for key in KEYS:
            assert index.get(key, revision) == alive.get(key)
        for start, end in ((b"a", b"c"), (b"", None), (b"b", b"bb"), (b"c", b"a")):
            inside = [r for k, r in sorted(alive.items()) if k >= start and (end is None or k < end)]
            assert index.range(start, end, revision) == (inside, len(inside))
            assert index.range(start, end, revision, 1) == (inside[:1], len(inside))
            assert index.slice(start, end, revision, 10)[1] == inside
            if revision == model.revision:
                assert index.latest(start, end) == inside
                assert index.latest(start, end, 1) == inside[:1]
                assert index.latest_count(start, end) == len(inside)


@settings(max_examples=80, deadline=None)
@given(steps)
def test_index_agrees_with_a_list_of_changes(script):
    index, model = Index(), ListModel()
    model.everything = []
    for step in script:
        if step == "restart":
            index = restarted(model)
        elif isinstance(step, int):
            compact(index, model, step)
        else:
            apply_txn(index, model, step)
        compare(index, model)


def test_an_index_is_restored_in_slices_whatever_has_become_of_its_keys():
    """Deleted keys, half a million of them, held up a member for more than a second while it installed a snapshot."""
    index = Index()
    for number in range(20_000):
        key, main = b"%05d" % (number * 7919 % 20_000), 2 * number + 2
        index.restore(key, encode_revision(main, 0), create=main, version=1)
        if number % 10:
            index.restore(key, encode_tombstone(main + 1, 0), create=0, version=0)
    slices = list(index.finish_restore(1000))
    assert sum(slices) == len(index) == 20_000
    assert max(slices) <= 1000 and len(slices) >= 60
    index.check()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 40)), st.integers(0, 42), st.none() | st.integers(0, 42), st.integers(0, 12))
def test_sorted_slice_is_irange(items, start, end, limit):
    values = SortedList()
    values._reset(4)
    values.update(bytes((item,)) for item in items)
    first, last = bytes((start,)), None if end is None else bytes((end,))
    expected = [item for item in values if first <= item and (last is None or item < last)]
    assert sorted_slice(values, first, last, limit) == (expected[:limit] if limit else expected)
