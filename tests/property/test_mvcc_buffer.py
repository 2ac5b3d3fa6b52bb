"""The write buffer and its views against plain dicts."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ratifyd.mvcc.buffer import WriteBuffer
from ratifyd.schema import KEY, LEASE
from ratifyd.storage.memory import MemoryBackend

NAMES = [b"a", b"a\0", b"b", b"ba", b"c", b"d", b"\xff"]
names = st.sampled_from(NAMES)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from([KEY, LEASE]), names, st.binary(max_size=1)),
        st.tuples(st.just("delete"), st.sampled_from([KEY, LEASE]), names),
        st.tuples(st.just("seal")),
        st.tuples(st.just("acknowledge")),
        st.tuples(st.just("view")),
        st.tuples(st.just("range"), names, st.none() | names, st.integers(0, 4)),
    ),
    max_size=60,
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


def scanned(reader, bucket, start, end, count, max_bytes):
    """A range, put together from slices within their limits."""
    found, cursor = [], start
    while cursor is not None:
        rows, following = reader.scan(bucket, cursor, end, count, max_bytes)
        assert all(key >= cursor for key, _ in rows)
        assert len(rows) <= 2 * count + 1, "more than a slice"
        assert sum(len(value) for _, value in rows[:-1]) < max_bytes or len(rows) == 1
        assert following is None or following > cursor
        found += rows
        cursor = following
    return found


def check_reads(reader, model, start, end, limit):
    for bucket in (KEY, LEASE):
        rows = model[bucket]
        inside = [row for row in sorted(rows.items()) if row[0] >= start and (end is None or row[0] < end)]
        assert reader.range(bucket, start, end) == inside
        for max_bytes in (1, 2, 100):
            assert scanned(reader, bucket, start, end, limit + 1, max_bytes) == inside
        asked = [*NAMES, start, b"absent"]
        assert reader.get_many(bucket, asked) == [rows.get(key) for key in asked]
        assert [reader.get(bucket, key) for key in asked] == [rows.get(key) for key in asked]


@settings(max_examples=200, deadline=None)
@given(steps)
def test_buffer_reads_like_a_dict(script):
    worker = HandWorker()
    buffer = WriteBuffer(MemoryBackend(worker))
    model = {KEY: {}, LEASE: {}}
    views = []
    answers = []
    for step in script:
        match step:
            case ("put", bucket, key, value):
                buffer.put(bucket, key, value)
                model[bucket][key] = value
            case ("delete", bucket, key):
                buffer.delete(bucket, key)
                model[bucket].pop(key, None)
            case ("seal",):
                pending, flushing, before = buffer.pending, buffer.flushing, len(answers)
                sealed = buffer.seal(answers.append)
                assert sealed == (pending > 0 and not flushing)
                assert len(answers) == before
                if sealed:
                    assert buffer.flushing and buffer.pending == 0
            case ("acknowledge",):
                worker.run()
                assert not buffer.flushing
            case ("view",):
                views.append((buffer.view(), {bucket: dict(rows) for bucket, rows in model.items()}))
            case ("range", start, end, limit):
                for reader, state in [(buffer, model), *views]:
                    check_reads(reader, state, start, end, limit)
    for reader, state in [(buffer, model), *views]:
        check_reads(reader, state, b"", None, 0)
    for view, _ in views:
        view.close()
    assert all(error is None for error in answers)
