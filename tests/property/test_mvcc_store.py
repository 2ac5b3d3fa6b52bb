"""Store, compaction, hashes and watch hub together against a small model of etcd's key space."""

import google_crc32c
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from pytest import raises

from ratifyd import errors
from ratifyd.keys import KeyRange
from ratifyd.mvcc.buffer import WriteBuffer
from ratifyd.mvcc.hash import KvHash, finish
from ratifyd.mvcc.store import Store
from ratifyd.mvcc.watch import WatchHub
from ratifyd.proto.kv_pb2 import Event, KeyValue
from ratifyd.storage.memory import MemoryBackend

KEYS = [b"a", b"a\xff", b"a\xffb", b"b", b"ba", b"c", b"\xff"]
RANGES = [
    KeyRange(b"a", b"a\0"),
    KeyRange(b"ba", b"ba\0"),
    KeyRange(b"a", b"b"),
    KeyRange(b"a\xff", b"b"),
    KeyRange(b"b", None),
    KeyRange(b"\0", None),
    KeyRange(b"\xff", None),
    KeyRange(b"aa", b"bb"),
    KeyRange(b"c", b"a"),
]
keys = st.sampled_from(KEYS)
ranges = st.sampled_from(RANGES)
ops = st.one_of(
    st.tuples(st.just("put"), keys, st.binary(max_size=2), st.integers(-1, 2)), st.tuples(st.just("delete"), ranges)
)


class HandWorker:
    """Jobs wait until `run`."""

    def __init__(self):
        self.jobs = []

    def submit(self, job, done):
        self.jobs.append((job, done))

    def run(self):
        jobs, self.jobs = self.jobs, []
        for job, done in jobs:
            done(job(), None)


class Row:
    """One record of the model's history."""

    def __init__(self, main, sub, kv, deleted):
        self.main, self.sub, self.kv, self.deleted = main, sub, kv, deleted

    def encoded(self):
        row = self.main.to_bytes(8, "big") + b"_" + self.sub.to_bytes(8, "big")
        if self.deleted:
            return row + b"t" + KeyValue(key=self.kv.key).SerializeToString()
        return row + self.kv.SerializeToString()


class Model:
    """All records ever written, in order; what is readable follows from two numbers."""

    def __init__(self):
        self.rows = []
        self.revision = 1
        self.compacted = -1
        self.previous_compacted = []  # every compaction: (previous, revision)

    def alive(self, revision):
        alive = {}
        for row in self.rows:
            if row.main <= revision:
                alive.pop(row.kv.key, None)
                if not row.deleted:
                    alive[row.kv.key] = row
        return alive

    def range(self, keys, revision):
        return [row.kv for key, row in sorted(self.alive(revision).items()) if key in keys]

    def write(self, script):
        main, sub = self.revision + 1, 0
        for op in script:
            alive = self.alive(main)
            if op[0] == "put":
                old = alive.get(op[1])
                kv = KeyValue(
                    key=op[1],
                    create_revision=old.kv.create_revision if old else main,
                    mod_revision=main,
                    version=old.kv.version + 1 if old else 1,
                    value=op[2],
                    lease=op[3],
                )
                self.rows.append(Row(main, sub, kv, False))
                sub += 1
            else:
                for key in sorted(key for key in alive if key in op[1]):
                    self.rows.append(Row(main, sub, KeyValue(key=key, mod_revision=main), True))
                    sub += 1
        if sub:
            self.revision = main

    def overwrites(self, revision):
        """Whether a key changes twice in a revision: compacting to it removes the first change, seen or not."""
        keys = [row.kv.key for row in self.rows if row.main == revision]
        return len(set(keys)) < len(keys)

    def kept(self, compacted):
        """Records that a finished compaction leaves."""
        if compacted < 0:
            return self.rows
        newest = {}
        for row in self.rows:
            if row.main <= compacted:
                newest[row.kv.key] = row
        return [
            row
            for row in self.rows
            if row.main > compacted or (newest[row.kv.key] is row and not (row.deleted and row.main < compacted))
        ]

    def hash_kv(self, revision, compacted, present):
        """etcd's HashKV over the records `present` in the file."""
        visible = {id(row) for row in self.alive(revision).values()}
        data = b"key"
        for row in present:
            if row.main > revision or (row.main <= compacted and visible and id(row) not in visible):
                continue
            if row.main == compacted and row.deleted:
                continue
            data += row.encoded()
        return google_crc32c.value(data)

    def events(self, keys, first, no_put, no_delete):
        return [
            row
            for row in self.rows
            if row.main >= first and row.kv.key in keys and not (no_delete if row.deleted else no_put)
        ]


class RecordingSink:
    """Checks every offer against the model, and may be told to refuse."""

    def __init__(self, model, keys, first, prev_kv, no_put, no_delete):
        self.model, self.keys, self.first = model, keys, first
        self.prev_kv, self.no_put, self.no_delete = prev_kv, no_put, no_delete
        self.seen = 0
        self.full = False
        self.cancelled = None

    def expected(self):
        return self.model.events(self.keys, self.first, self.no_put, self.no_delete)

    def offer(self, watcher, revision, events):
        assert self.cancelled is None
        if self.full:
            return False
        assert revision == self.model.revision
        assert events, "empty offer"
        expected = self.expected()
        rows = expected[self.seen : self.seen + len(events)]
        assert len(rows) == len(events)
        for row, data in zip(rows, events, strict=True):
            wanted = Event(type=Event.DELETE if row.deleted else Event.PUT, kv=row.kv)
            created = not row.deleted and row.kv.create_revision == row.main
            if self.prev_kv and not created and row.main - 1 >= self.model.compacted:
                before = self.model.alive(row.main - 1).get(row.kv.key)
                if before is not None:
                    wanted.prev_kv.CopyFrom(before.kv)
            assert data == wanted.SerializeToString()
        self.seen += len(events)
        assert self.seen == len(expected) or expected[self.seen].main > rows[-1].main, "revision split"
        return True

    def compacted(self, watcher, compact_revision):
        assert compact_revision == self.model.compacted
        assert watcher.next_revision < compact_revision
        self.cancelled = compact_revision


class Hall:
    """A crowd that takes events for all when each of them would, and notes who they are."""

    def offer_all(self, audience, revision, events):
        watchers = list(audience.watchers)
        if audience.notes is None:
            audience.notes = watchers
        assert audience.notes == watchers
        if any(watcher.sink.full for watcher in watchers):
            return False
        for watcher in watchers:
            assert watcher.sink.offer(watcher, revision, events)
        return True


class StoreMachine(RuleBasedStateMachine):
    """Random life of a store and its watchers."""

    def __init__(self):
        super().__init__()
        self.worker = HandWorker()
        self.backend = MemoryBackend(self.worker)
        self.buffer = WriteBuffer(self.backend)
        self.hub = WatchHub()
        self.store = Store(self.buffer, self.hub)
        self.model = Model()
        self.watchers = {}
        self.halls = (None, Hall(), Hall())
        self.interrupted = False
        self.slices = []
        self.scheduled = []

    # ---- writes

    @rule(scripts=st.lists(st.lists(ops, min_size=1, max_size=3), min_size=1, max_size=2))
    def txns(self, scripts):
        for script in scripts:
            self.txn(script)

    def txn(self, script):
        before = self.model.revision
        with self.store.write() as txn:
            for position, op in enumerate(script):
                old = self.model.alive(before + 1)
                if op[0] == "put":
                    txn.put(op[1], op[2], op[3])
                    named = [op[1]]
                else:
                    named = txn.delete_range(op[1])
                    assert named == [key for key in sorted(old) if key in op[1]]
                self.model.revision = before
                self.model.rows = [row for row in self.model.rows if row.main <= before]
                self.model.write(script[: position + 1])
                for key in named:
                    previous = old[key].kv.SerializeToString() if key in old else None
                    assert txn.previous(key) == previous
                for keys in RANGES[2:6]:
                    found = [kv.SerializeToString() for kv in self.model.range(keys, before + 1)]
                    result = txn.range(keys)
                    assert (result.kvs, result.count) == (found, len(found))
                    if before >= self.model.compacted:
                        found = [kv.SerializeToString() for kv in self.model.range(keys, before)]
                        assert txn.range(keys, revision=before).kvs == found
            assert txn.changed == (self.model.revision == before + 1)
            assert self.store.revision == before
        assert self.store.revision == self.model.revision

    # ---- the backend

    @rule()
    def seal(self):
        expected = not self.buffer.flushing and self.buffer.pending > 0
        assert self.buffer.seal() == expected

    @rule()
    def committed(self):
        self.worker.run()
        assert not self.buffer.flushing

    @rule()
    def restart(self):
        self.close_slices()
        self.worker.run()
        self.buffer.seal()
        self.worker.run()
        if self.store.compacting:
            self.interrupted = True
            self.scheduled.clear()
        self.buffer = WriteBuffer(self.backend)
        hub, watchers = WatchHub(), self.watchers
        self.store = Store(self.buffer, hub)
        sum(self.store.restore())
        self.hub = hub
        self.watchers = {}
        for watcher, sink in watchers.items():
            if sink.cancelled is None:
                told_to = self.model.revision if watcher.synced else 0
                self.watchers[
                    hub.add(
                        watcher.keys,
                        max(watcher.next_revision, told_to + 1),
                        sink=sink,
                        crowd=watcher.crowd,
                        prev_kv=watcher.prev_kv,
                        no_put=watcher.no_put,
                        no_delete=watcher.no_delete,
                    )
                ] = sink
        self.after_restore()

    @rule()
    def restore_in_place(self):
        self.close_slices()
        if self.store.compacting:
            self.interrupted = True
            self.scheduled.clear()
        sum(self.store.restore())
        assert all(not watcher.synced for watcher in self.watchers)
        self.after_restore()

    def after_restore(self):
        assert (self.store.revision, self.store.compacted) == (self.model.revision, self.model.compacted)
        leases = {key: row.kv.lease for key, row in self.model.alive(self.model.revision).items() if row.kv.lease}
        assert self.store.attachments == leases

    # ---- compaction

    @rule(back=st.integers(0, 4))
    def compact(self, back):
        revision = self.model.revision - back
        if revision <= self.model.compacted:
            with raises(errors.Compacted):
                self.store.compact(revision)
            return
        waiting = any(not watcher.synced and watcher.next_revision == revision for watcher in self.watchers)
        if waiting and self.model.overwrites(revision):
            return
        complete = not self.store.compacting
        self.store.compact(revision)
        previous, self.model.compacted = self.model.compacted, revision
        present = self.model.kept(previous) if complete else None
        self.scheduled.append((revision, previous, present))

    @rule(rows=st.integers(1, 5))
    def compaction_step(self, rows):
        if any(revision < self.store.compacting_to for revision, *_ in self.slices):
            before = self.store.rows_compacted
            assert self.store.compaction_step(rows)
            assert self.store.rows_compacted == before
            return
        running = self.store.compaction_step(rows)
        assert running == self.store.compacting
        if running:
            return
        for revision, previous, present in self.scheduled:
            if present is not None and not self.interrupted:
                found = [known for known in self.store.compaction_hashes if known.revision == revision]
                if self.model.alive(revision):
                    assert found == [KvHash(self.model.hash_kv(revision, previous, present), previous, revision)]
                else:
                    assert not found
        self.scheduled.clear()
        self.interrupted = False

    # ---- reads

    def readable(self):
        """The oldest revisions that can be read, and the newest."""
        revisions = range(max(self.model.compacted, 1), self.model.revision + 1)
        return sorted({*revisions[:4], *revisions[-4:]})

    @rule(keys=ranges, limit=st.integers(0, 3))
    def read(self, keys, limit):
        """All revisions that can be read, and those beside them that cannot."""
        with raises(errors.FutureRev):
            self.store.range(keys, revision=self.model.revision + 1)
        if self.model.compacted > 1:
            with raises(errors.Compacted):
                self.store.range(keys, revision=self.model.compacted - 1)
        for revision in self.readable():
            found = [kv.SerializeToString() for kv in self.model.range(keys, revision)]
            result = self.store.range(keys, revision=revision, limit=limit)
            assert (result.kvs, result.count) == (found[:limit] if limit else found, len(found))
            assert self.store.count(keys, revision) == len(found)
            alive = self.model.alive(revision)
            for key in KEYS:
                expected = alive[key].kv.SerializeToString() if key in alive else None
                assert self.store.get(key, revision) == expected

    @rule(keys=ranges, limit=st.integers(0, 4), rows=st.integers(1, 3))
    def open_slices(self, keys, limit, rows):
        revision = self.model.revision
        steps = self.store.range_slices(keys, revision=revision, limit=limit, rows=rows)
        found = [kv.SerializeToString() for kv in self.model.range(keys, revision)]
        self.slices.append((revision, steps, next(steps), found[:limit] if limit else found))

    @precondition(lambda self: self.slices)
    @rule()
    def close_slices(self):
        """Sliced reads begun earlier still answer as of their revision, whatever was compacted meanwhile."""
        for _, steps, found, expected in self.slices:
            for part in steps:
                found += part
            assert found == expected
        self.slices.clear()

    @rule()
    def hash_kv(self):
        """At all revisions that etcd would hash."""
        present = self.model.kept(self.model.compacted)
        for revision in self.readable():
            if any(known.revision == revision for known in self.store.compaction_hashes):
                continue
            if self.store.compacting and not self.model.alive(revision):
                continue  # etcd's answer depends on how far the removal is
            expected = self.model.hash_kv(revision, self.model.compacted, present)
            assert finish(self.store.hash_kv(revision, rows=2)) == (expected, self.model.compacted, revision)

    # ---- watchers

    @rule(
        keys=st.lists(ranges, min_size=1, max_size=3),
        ahead=st.integers(-6, 2),
        prev_kv=st.booleans(),
        no_put=st.booleans(),
        no_delete=st.booleans(),
        copies=st.integers(1, 3),
        hall=st.integers(0, 2),
    )
    def watch(self, keys, ahead, prev_kv, no_put, no_delete, copies, hall):
        start = max(0, self.model.revision + ahead)
        if start == self.model.compacted and self.model.overwrites(start):
            return
        for each in keys * copies:
            sink = RecordingSink(self.model, each, start or self.model.revision + 1, prev_kv, no_put, no_delete)
            filters = {"no_put": no_put, "no_delete": no_delete}
            crowd = self.halls[hall]
            watcher = self.hub.add(each, start, sink=sink, crowd=crowd, prev_kv=prev_kv, **filters)
            self.watchers[watcher] = sink

    @precondition(lambda self: self.watchers)
    @rule(data=st.data())
    def unwatch(self, data):
        watcher = data.draw(st.sampled_from(list(self.watchers)))
        del self.watchers[watcher]
        self.hub.remove(watcher)
        self.hub.remove(watcher)

    @precondition(lambda self: self.watchers)
    @rule(full=st.lists(st.booleans(), min_size=1, max_size=4))
    def change_room(self, full):
        for position, (watcher, sink) in enumerate(self.watchers.items()):
            sink.full = full[position % len(full)]
            if not sink.full:
                self.hub.resume(watcher)

    @rule(watchers=st.integers(1, 3), revisions=st.integers(1, 3))
    def catch_up(self, watchers, revisions):
        self.hub.catch_up(watchers, revisions)

    @rule()
    def drain(self):
        """With room in all sinks everybody gets everything in bounded work."""
        for watcher, sink in self.watchers.items():
            sink.full = False
            self.hub.resume(watcher)
        for _ in range(10 + len(self.watchers) * (self.model.revision + 1)):
            if not self.hub.catch_up(2, 3) and not self.hub.lagging_count:
                break
        assert self.hub.lagging_count == 0
        for watcher, sink in self.watchers.items():
            if sink.cancelled is None:
                assert sink.seen == len(sink.expected())
                assert self.hub.is_current(watcher) == (watcher.next_revision <= self.model.revision + 1)

    @invariant()
    def consistent(self):
        self.store.check()
        assert self.store.key_count == len(self.model.alive(self.model.revision))

    @invariant()
    def synced_watchers_have_everything(self):
        for watcher, sink in self.watchers.items():
            if watcher.synced:
                assert sink.seen == len(sink.expected())
        live = [watcher for watcher, sink in self.watchers.items() if sink.cancelled is None]
        assert self.hub.watcher_count == len(live)

    def teardown(self):
        self.close_slices()
        while self.store.compacting:
            self.store.compaction_step(3)
        rows = [bytes(key + value) for key, value in self.buffer.range(b"key", b"\0", None)]
        assert rows == [row.encoded() for row in self.model.kept(self.model.compacted)]


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
