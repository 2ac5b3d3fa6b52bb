"""Sealing, acknowledgement and failure of the write buffer."""

from ratifyd.mvcc.buffer import WriteBuffer
from ratifyd.schema import KEY, META
from ratifyd.storage.memory import MemoryBackend


class HandWorker:
    """Jobs wait until `run`, which may let them fail."""

    def __init__(self):
        self.jobs = []

    def submit(self, job, done):
        self.jobs.append((job, done))

    def run(self, error=None):
        jobs, self.jobs = self.jobs, []
        for job, done in jobs:
            done(None if error else job(), error)


def test_one_generation_flushes_at_a_time():
    worker = HandWorker()
    backend = MemoryBackend(worker)
    buffer = WriteBuffer(backend)
    assert not buffer.seal()
    buffer.put(META, b"a", b"1")
    assert buffer.seal()
    buffer.put(META, b"b", b"2")
    buffer.delete(META, b"a")
    assert not buffer.seal()
    assert buffer.range(META, b"", None) == [(b"b", b"2")]
    assert backend.range(META, b"", None) == []
    worker.run()
    assert backend.range(META, b"", None) == [(b"a", b"1")]
    assert buffer.get(META, b"a") is None
    assert buffer.seal()
    worker.run()
    assert backend.range(META, b"", None) == [(b"b", b"2")]


def test_rows_that_come_out_of_order_are_read_in_order():
    buffer = WriteBuffer(MemoryBackend(HandWorker()))
    expected = []
    for added in ((b"5", b"6"), (b"8",), (b"1", b"2"), (b"3", b"4"), (b"0", b"7"), (b"9",)):
        for key in added:
            buffer.put(META, key, b"v")
        expected = sorted([*expected, *added])
        assert [key for key, _ in buffer.range(META, b"", None)] == expected
    buffer.delete_many(META, [b"2", b"1", b"2", b"absent"])
    assert [key for key, _ in buffer.range(META, b"", None)] == [key for key in expected if key not in (b"1", b"2")]


def test_a_failed_commit_is_reported_and_its_rows_stay_readable():
    worker, answers = HandWorker(), []
    buffer = WriteBuffer(MemoryBackend(worker))
    buffer.put(META, b"a", b"1")
    buffer.seal(answers.append)
    error = OSError("disk")
    worker.run(error)
    assert answers == [error]
    assert buffer.flushing and buffer.get(META, b"a") == b"1"


def test_discard_ignores_a_commit_still_under_way():
    worker = HandWorker()
    buffer = WriteBuffer(MemoryBackend(worker))
    buffer.put(META, b"a", b"1")
    buffer.seal()
    buffer.put(META, b"b", b"1")
    buffer.discard()
    assert buffer.get(META, b"a") is None and buffer.get(META, b"b") is None and buffer.pending == 0
    buffer.put(META, b"c", b"3")
    assert buffer.seal()
    worker.run()
    assert not buffer.flushing and buffer.get(META, b"c") == b"3"


def test_hot_table_follows_the_active_generation():
    buffer = WriteBuffer(MemoryBackend(HandWorker()))
    first = buffer.revisions
    first[b"r1"] = b"v1"
    assert buffer.get(KEY, b"r1") == b"v1"
    buffer.seal()
    assert buffer.revisions is not first and not buffer.revisions
    assert buffer.get(KEY, b"r1") == b"v1"
