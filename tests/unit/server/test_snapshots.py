"""Snapshots: how often, only of what the backend has, and what may then be forgotten."""

from ratifyd import schema
from ratifyd.apply import requests
from ratifyd.proto.rpc_pb2 import PutRequest
from ratifyd.storage.snapshots import SnapshotFiles
from tests.support_member import DIR, Member


def put(member: Member, count: int) -> None:
    for _ in range(count):
        member.do(requests.PUT, PutRequest(key=b"k", value=b"v"))


def test_one_is_taken_when_more_than_count_entries_were_applied() -> None:
    member = Member(snapshot_count=20, snapshot_catchup_entries=5)
    member.start()
    put(member, 20 - member.server.node.applied)
    assert member.server.node.applied == 20
    assert not member.snapshotter.saved
    put(member, 1)
    assert [meta.index for meta in member.snapshotter.saved] == [21]
    put(member, 20)
    assert len(member.snapshotter.saved) == 1
    put(member, 1)
    assert [meta.index for meta in member.snapshotter.saved] == [21, 42]
    member.check()


def test_the_log_keeps_what_slow_followers_need() -> None:
    member = Member(snapshot_count=20, snapshot_catchup_entries=5).start()
    put(member, 21 - member.server.node.applied)
    assert member.raft.log.first_index == 21 - 5 + 1
    assert member.snapshotter.released == member.raft.log.first_index
    few = Member(snapshot_count=20, snapshot_catchup_entries=5000).start()
    put(few, 30)
    assert few.snapshotter.saved
    assert few.raft.log.first_index == 1


def test_a_snapshot_waits_for_the_backend() -> None:
    member = Member(stepped=True, snapshot_count=5, backend_batch_interval_s=1000.0).start()
    for _ in range(5):
        member.call(requests.PUT, PutRequest(key=b"k"))
    member.clock.run()
    while member.wal_worker.run_one():
        member.clock.run()
    assert member.server.node.applied > 5
    assert not member.snapshot_worker.jobs
    member.backend_worker.run_one()
    stored = schema.decode_u64(member.backend.get(schema.META, schema.CONSISTENT_INDEX) or b"")
    assert stored == member.server.node.applied
    assert len(member.snapshot_worker.jobs) == 1
    member.settle()
    assert member.snapshotter.saved[0].index == stored


def test_a_restart_counts_from_its_snapshot() -> None:
    member = Member(snapshot_count=20, snapshot_catchup_entries=5).start()
    put(member, 30)
    revision = member.state.store.revision
    again = member.restart(snapshot_count=20, snapshot_catchup_entries=5)
    assert again.state.store.revision == revision
    assert again.raft.log.first_index > 1
    saved_at = member.snapshotter.saved[-1].index
    put(again, saved_at + 20 - again.server.node.applied)
    assert not again.snapshotter.saved
    put(again, 1)
    assert [meta.index for meta in again.snapshotter.saved] == [saved_at + 21]
    again.check()


def test_a_snapshot_that_cannot_be_saved_ends_the_member() -> None:
    member = Member(snapshot_count=5).start()
    member.snapshotter.save = lambda snapshot, done: done(OSError(28, "full"))  # type: ignore[method-assign]
    for _ in range(5):
        member.call(requests.PUT, PutRequest(key=b"k"))
    member.settle()
    assert [type(failure) for failure in member.failures] == [OSError]


def test_a_stop_while_one_is_saved_is_no_failure() -> None:
    """Its file may land after the log has ended; without a record it does not count, and the next life takes one."""
    member = Member(stepped=True, snapshot_count=5).start()
    for _ in range(5):
        member.call(requests.PUT, PutRequest(key=b"k"))
    member.clock.run()
    while member.wal_worker.run_one() or member.backend_worker.run_one():
        member.clock.run()
    assert len(member.snapshot_worker.jobs) == 1
    revision = member.state.store.revision
    member.server.stop()
    ended: list[BaseException | None] = []
    member.wal.close(ended.append)
    member.settle()
    assert ended == [None]
    assert len(SnapshotFiles(member.machine.disk, DIR.snap).names()) == 1
    member.check()
    again = member.restart(snapshot_count=5)
    assert again.state.store.revision == revision
    assert len(again.snapshotter.saved) == 1
    again.check()
