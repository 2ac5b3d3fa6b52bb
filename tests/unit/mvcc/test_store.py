"""Rules of the store that the model tests do not reach."""

import struct

import google_crc32c
from google.protobuf.message import DecodeError
from pytest import mark, raises

from ratifyd import errors, schema
from ratifyd.keys import KeyRange
from ratifyd.mvcc.buffer import WriteBuffer
from ratifyd.mvcc.hash import KvHash, finish
from ratifyd.mvcc.store import Store
from ratifyd.mvcc.watch import WatchHub
from ratifyd.proto import fast
from ratifyd.proto.kv_pb2 import KeyValue
from ratifyd.storage.memory import MemoryBackend

EVERYTHING = KeyRange(b"\0", None)


class DirectWorker:
    """Jobs are done at once."""

    def submit(self, job, done):
        done(job(), None)


def make(backend=None):
    return Store(WriteBuffer(backend or MemoryBackend(DirectWorker())), WatchHub())


def put(store, key, value=b"v", lease=0):
    with store.write() as txn:
        txn.put(key, value, lease)


def delete(store, key):
    with store.write() as txn:
        return txn.delete_range(KeyRange(key, key + b"\0"))


def test_revisions_count_writes_not_changes():
    store = make()
    assert (store.revision, store.compacted) == (1, -1)
    assert delete(store, b"a") == [] and store.revision == 1
    put(store, b"a")
    put(store, b"a")
    assert KeyValue.FromString(store.get(b"a")) == KeyValue(
        key=b"a", create_revision=2, mod_revision=3, version=2, value=b"v"
    )
    assert delete(store, b"a") == [b"a"]
    assert store.get(b"a") is None
    put(store, b"a", b"", lease=-3)
    assert KeyValue.FromString(store.get(b"a")) == KeyValue(
        key=b"a", create_revision=5, mod_revision=5, version=1, lease=-3
    )


def test_put_then_delete_in_one_txn():
    store = make()
    with store.write() as txn:
        txn.put(b"a", b"1")
        first = store.value(schema.encode_revision(2, 0))
        assert txn.delete_range(KeyRange(b"a", b"b")) == [b"a"]
        assert txn.previous(b"a") == first
        assert txn.range(EVERYTHING).count == 0
    assert store.range(EVERYTHING).count == 0 and store.revision == 2
    store.check()


@mark.parametrize("revision", [-7, -1])
def test_compacting_below_zero_fails_always(revision):
    with raises(errors.Compacted):
        make().compact(revision)


def test_compact_zero_works_once():
    store = make()
    store.compact(0)
    with raises(errors.Compacted):
        store.compact(0)
    with raises(errors.FutureRev):
        store.compact(2)


def test_unfinished_compaction_goes_on_after_a_restart():
    backend = MemoryBackend(DirectWorker())
    store = make(backend)
    for number in range(20):
        put(store, b"a", b"%d" % number)
    store.compact(15)
    assert store.compaction_step(4) and store.rows_compacted == 4
    store._buffer.seal()
    again = make(backend)
    list(again.restore())
    assert (again.compacted, again.revision, again.compacting) == (15, 21, True)
    with raises(errors.Compacted):
        again.get(b"a", 14)
    while again.compaction_step(4):
        pass
    assert again.rows_compacted == 9 and again.compaction_hashes == []
    rows = again._buffer.range(schema.KEY, b"\0", None)
    assert [schema.decode_revision(row)[0] for row, _ in rows] == list(range(15, 22))
    assert again._buffer.get(schema.META, schema.FINISHED_COMPACT) == schema.encode_revision(15, 0)
    again.check()


def test_revision_never_falls_below_the_compacted_one():
    backend = MemoryBackend(DirectWorker())
    buffer = WriteBuffer(backend)
    buffer.put(schema.META, schema.FINISHED_COMPACT, schema.encode_revision(7, 0))
    buffer.put(schema.META, schema.SCHEDULED_COMPACT, schema.encode_revision(9, 0))
    buffer.seal()
    store = make(backend)
    list(store.restore())
    assert (store.revision, store.compacted) == (9, 9)


def test_a_tombstone_at_the_compacted_revision_stays_until_the_next():
    store = make()
    put(store, b"a")
    delete(store, b"a")
    put(store, b"b")
    for revision, left in ((3, 2), (4, 1)):
        store.compact(revision)
        while store.compaction_step():
            pass
        assert len(store._buffer.range(schema.KEY, b"\0", None)) == left
        store.check()


def test_ten_compaction_hashes_are_remembered_and_answered_verbatim():
    store = make()
    for number in range(15):
        put(store, b"a", b"%d" % number)
        store.compact(store.revision)
        while store.compaction_step():
            pass
    assert [known.revision for known in store.compaction_hashes] == list(range(7, 17))
    assert finish(store.hash_kv(7)) == store.compaction_hashes[0]
    with raises(errors.Compacted):
        finish(store.hash_kv(6))


def test_a_compaction_hash_is_hash_kv_before_it():
    store = make()
    for key in (b"old", b"a", b"a"):
        put(store, key)
    store.compact(3)
    while store.compaction_step():
        pass
    put(store, b"a")
    put(store, b"b")
    expected = finish(store.hash_kv(5))
    store.compact(5)
    while store.compaction_step(2):
        pass
    assert store.compaction_hashes[-1] == expected == KvHash(expected.hash, 3, 5)


def test_the_hash_of_a_second_compaction_on_top_of_an_unfinished_one_is_not_kept():
    store = make()
    for number in range(6):
        put(store, b"a", b"%d" % number)
    store.compact(3)
    store.compact(5)
    while store.compaction_step(1):
        pass
    assert [known.revision for known in store.compaction_hashes] == [3]


def test_a_compaction_that_leaves_nothing_alive_has_no_hash_to_compare():
    """A member that is yet to compact answers another one, of the same revision and the same compaction before."""
    store = make()
    put(store, b"a")
    store.compact(2)
    while store.compaction_step():
        pass
    delete(store, b"a")
    before = finish(store.hash_kv(3))
    store.compact(3)
    while store.compaction_step():
        pass
    assert [known.revision for known in store.compaction_hashes] == [2]
    after = finish(store.hash_kv(3))
    assert (before.compact_revision, after.compact_revision) == (2, 3)


def test_a_tombstone_kept_at_the_compacted_revision_is_not_hashed():
    store = make()
    put(store, b"a")
    delete(store, b"a")
    store.compact(3)
    while store.compaction_step():
        pass
    assert len(store._buffer.range(schema.KEY, b"\0", None)) == 1
    put(store, b"b")
    delete(store, b"b")
    data = b"key" + b"".join(
        row + value for row, value in store._buffer.range(schema.KEY, schema.encode_revision(4, 0), None)
    )
    assert finish(store.hash_kv(0)) == KvHash(google_crc32c.value(data), 3, 5)


def test_where_nothing_is_alive_the_hash_does_not_tell_how_far_a_compaction_is():
    store = make()
    for key in (b"a", b"b", b"gone", b"a", b"b"):
        put(store, key)
    delete(store, b"gone")  # revision 7
    delete(store, b"a")
    store.compact(7)
    delete(store, b"b")
    hashes = [finish(store.hash_kv(0))]
    while store.compaction_step(1):
        hashes.append(finish(store.hash_kv(0)))
    hashes.append(finish(store.hash_kv(0)))
    assert len(hashes) > 5 and set(hashes) == {KvHash(hashes[0].hash, 7, 9)}


def test_hash_kv_edges():
    store = make()
    empty = google_crc32c.value(b"key")
    assert finish(store.hash_kv(0)) == KvHash(empty, -1, 1)
    put(store, b"a")
    assert finish(store.hash_kv(-1)) == KvHash(empty, -1, -1)
    assert finish(store.hash_kv(1)).hash == empty
    assert finish(store.hash_kv(0)) == finish(store.hash_kv(2))
    with raises(errors.FutureRev):
        finish(store.hash_kv(3))


def test_hashing_holds_off_compaction_and_ends_with_a_restore():
    store = make()
    for number in range(10):
        put(store, b"a", b"%d" % number)
    expected = finish(store.hash_kv(8))
    steps = store.hash_kv(8, rows=2)
    next(steps)
    store.compact(9)
    assert store.compaction_step() and store.rows_compacted == 0
    assert finish(steps) == expected
    assert not store.compaction_step() and store.rows_compacted == 7
    steps = store.hash_kv(0, rows=1)
    next(steps)
    list(store.restore())
    with raises(errors.Canceled):
        next(steps)


def test_hash_over_all_buckets_skips_what_differs_by_nature():
    store = make()
    put(store, b"a")
    buffer = store._buffer
    buffer.put(schema.LEASE, b"l", b"x")
    buffer.put(schema.META, schema.CONF_STATE, b"{}")
    data = b""
    for bucket in sorted(schema.BUCKETS):
        data += bucket + b"".join(key + value for key, value in buffer.range(bucket, b"", None))
    buffer.put(schema.META, schema.CONSISTENT_INDEX, b"1")
    buffer.put(schema.META, schema.TERM, b"2")
    buffer.put(schema.META, schema.STORAGE_VERSION, b"3")
    steps = store.hash(rows=1)
    next(steps)
    put(store, b"b")
    buffer.seal()
    assert finish(steps) == google_crc32c.value(data)


def test_slices_stop_where_a_restore_has_compacted():
    backend = MemoryBackend(DirectWorker())
    store = make(backend)
    for number in range(10):
        put(store, b"k%d" % number)
    steps = store.range_slices(EVERYTHING, revision=5, rows=2)
    next(steps)
    store._buffer.put(schema.META, schema.FINISHED_COMPACT, schema.encode_revision(8, 0))
    list(store.restore())
    with raises(errors.Compacted):
        next(steps)


def test_two_write_transactions_at_once_are_caught():
    store = make()
    with raises(AssertionError, match="two write transactions"), store.write() as outer:
        outer.put(b"a", b"")
        put(store, b"b")


def test_check_notices_damage():
    store = make()
    put(store, b"a")
    put(store, b"b")
    store.check()
    row = schema.encode_revision(2, 0)
    for damage in (
        lambda: store._buffer.delete(schema.KEY, row),
        lambda: store._buffer.put(schema.KEY, row, KeyValue(key=b"x").SerializeToString()),
        lambda: store._buffer.put(schema.KEY, row, KeyValue(key=b"a", version=9).SerializeToString()),
        lambda: store._buffer.put(schema.KEY, schema.encode_revision(1, 0), KeyValue(key=b"a").SerializeToString()),
    ):
        healthy = store.value(row)
        damage()
        with raises(AssertionError):
            store.check()
        store._buffer.put(schema.KEY, row, healthy)


@mark.parametrize("how", ["take over", "restore"])
def test_a_replaced_backend_leaves_no_fields_behind(how):
    """The same revision may hold something else then."""
    store, other = make(), make()
    for each, value in ((store, b"1"), (other, b"2")):
        put(each, b"a", value)
        put(each, b"b", value)
    expected = other.range(EVERYTHING, fields=True).kvs
    assert store.range(EVERYTHING, fields=True).kvs == store.range(EVERYTHING, fields=True).kvs != expected
    store._buffer.revisions.update(other._buffer.revisions)
    if how == "take over":
        store.take_over(other)
    else:
        for _ in store.restore():
            pass
    assert store.range(EVERYTHING, fields=True).kvs == expected


FIRST = fast.key_value(b"k", 300, 300, 1, b"value")
ROW = schema.encode_revision(300, 0)


@mark.parametrize(
    ("row", "data"),
    [
        (ROW + b"x", FIRST),
        (ROW[:16], FIRST),
        (ROW[:8] + b"x" + ROW[9:], FIRST),
        (ROW + b"tt", fast.tombstone(b"k")),
        (schema.encode_revision(1 << 63, 0), FIRST),
        (ROW, FIRST.replace(b"\xac\x02", b"\xac\x82", 1)),
        (ROW, FIRST.replace(b"\x18\xac\x02", b"\x18\x01\x02")),
        (ROW, FIRST + b"\x0a\x01o"),
        (ROW, FIRST[:-1]),
    ],
    ids=["long", "short", "separator", "tombstone", "revision", "creation", "change", "two keys", "cut"],
)
def test_a_row_that_nobody_has_written_is_not_taken(row, data):
    backend = MemoryBackend(DirectWorker())
    backend.write({schema.KEY: {schema.encode_revision(2, 0): fast.key_value(b"a", 2, 2, 1, b"v"), row: data}})
    with raises((ValueError, struct.error, DecodeError)):
        list(make(backend).restore())


def test_an_empty_tombstone_can_be_hashed_and_compacted():
    backend = MemoryBackend(DirectWorker())
    backend.write({schema.KEY: {schema.encode_tombstone(2, 0): b"", ROW: FIRST}})
    store = make(backend)
    list(store.restore())
    finish(store.hash_kv())
    store.compact(300)
    while store.compaction_step():
        pass
    assert store.range(EVERYTHING).kvs == [FIRST]
