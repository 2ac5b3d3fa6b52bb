"""Crashes at the worst moment. At each restart a checker compares the whole state with the log."""

from typing import Any

from ratifyd.proto import rpc_pb2 as pb
from simulation.stage import Stage, play

TINY: dict[str, Any] = {
    "commit_limit": 5,
    "commit_interval_s": 0.02,
    "snapshot_count": 10,
    "catchup_entries": 2,
    "release_s": 0.0,
}
CRASH_POINTS = range(1, 40, 3)


def crash_under_load() -> None:
    """Requests pour in while the disk stops at one step after the other."""

    def script(stage: Stage) -> None:
        for steps in CRASH_POINTS:
            member = stage.restarted(0)
            for number in range(12):
                request = pb.PutRequest(key=b"k%d" % (number % 3), value=b"%d.%d" % (steps, number))
                stage.send(member, "put", request, lambda operation: None)
            member.machine.disk.crash_at = member.machine.disk.steps + steps
            stage.pass_time(0.5)
            stage.crash(stage.machines[0], power=True)
        stage.restarted(0)

    for in_place in (0.0, 1.0):
        play(script, in_place=in_place, **TINY)


def crash_after_the_answer() -> None:
    """The power goes in the very moment in which the client has its answer."""

    def script(stage: Stage) -> None:
        for number in range(10):
            member = stage.restarted(0)
            request = pb.PutRequest(key=b"k", value=b"%d" % number)
            stage.send(member, "put", request, lambda operation: stage.crash(stage.machines[0], power=True))
            stage.until(lambda: stage.machines[0].member is None)
            read = stage.get(stage.restarted(0), b"k")
            assert read.ok and read.response.kvs[0].value == b"%d" % number, str(read)

    for in_place in (0.0, 1.0):
        play(script, in_place=in_place, sync_s=0.02)


def torn_writes() -> None:
    """The power goes between a long write to the log and its sync: any of its sectors may be there, or not."""

    def script(stage: Stage) -> None:
        for number in range(20):
            member = stage.restarted(0)
            disk = member.machine.disk
            stage.put(member, b"before", b"%d" % number)
            # Bytes that differ from time to time tell what an earlier write has left behind.
            request = pb.PutRequest(key=b"k", value=(b"%d." % number) * 500)
            stage.send(member, "put", request, lambda operation: None)
            disk.crash_at = disk.steps + 1
            stage.until(lambda: stage.machines[0].member is None)
        stage.restarted(0)
        assert stage.network.situations.counts["disk: a torn write is cut"], "nothing was torn"

    play(script, commit_interval_s=10.0, segment_bytes=1 << 20, in_place=1.0)


def killed_between_write_and_sync() -> None:
    """A follower is killed with a write not synced, acknowledges at its restart what it finds, and loses power."""

    def script(stage: Stage) -> None:
        for number in range(8):
            _acknowledge_what_is_found(stage, number)

    play(script, 3, in_place=0.0, sync_s=0.05, delay_min_s=0.01, delay_max_s=0.01, snapshot_count=10_000)


def _acknowledge_what_is_found(stage: Stage, number: int) -> None:
    leader, follower = stage.leader(), stage.follower()
    machine = follower.machine
    third = next(member for member in stage.living() if member not in (leader, follower))
    index = leader.raft.log.last_index + 1
    connect_third = stage.isolate(third)
    request = pb.PutRequest(key=b"k", value=b"%d" % number)
    answered: list[object] = []

    def lose_power(operation: object) -> None:
        answered.append(operation)
        stage.crash(machine, power=True, down_s=0.01)

    stage.send(leader, "put", request, lose_power)
    stage.until(lambda: follower.raft.log.last_index >= index and follower.wal._flying is not None)
    stage.crash(machine, power=False, down_s=0.01)
    stage.until(lambda: bool(answered))
    connect_leader = stage.isolate(leader)
    connect_third()
    stage.until(lambda: any(member.server.is_leader for member in stage.living() if member is not leader))
    read = stage.get(stage.restarted(machine.number), b"k")
    assert read.ok and read.response.kvs[0].value == b"%d" % number, str(read)
    connect_leader()
    stage.until(stage.agreed)


def crash_while_defragmenting() -> None:
    """A defragmentation under writes, and a crash at each step of the disk."""

    def script(stage: Stage) -> None:
        for steps in CRASH_POINTS:
            member = stage.restarted(0)
            stage.command(member, "defragment", wait=False)
            for number in range(6):
                request = pb.PutRequest(key=b"k%d" % number, value=b"%d.%d" % (steps, number))
                stage.send(member, "put", request, lambda operation: None)
            member.machine.disk.crash_at = member.machine.disk.steps + steps
            stage.pass_time(0.5)
            stage.crash(stage.machines[0], power=steps % 2 == 0)
        stage.restarted(0)

    play(script, commit_s=0.05, **TINY)


def crash_while_compacting() -> None:
    """The newest revision is a deletion that the compaction removes; the crash comes while it does."""

    def script(stage: Stage) -> None:
        for wait_s in (0.0, 0.01, 0.03, 0.06, 0.1, 0.2, 0.5):
            member = stage.restarted(0)
            for number in range(5):
                stage.put(member, b"k%d" % number)
            for number in range(5):
                revision = stage.delete(member, b"k%d" % number)
            stage.command(member, "compact", revision=revision)
            stage.pass_time(wait_s)
            stage.crash(stage.machines[0], power=True)
            read = stage.get(stage.restarted(0), b"k0")
            assert read.response.header.revision >= revision, f"revision went back from {revision}: {read}"

    play(script, compaction_batch=2, commit_interval_s=0.01)


def two_snapshots() -> None:
    """A member far behind gets a snapshot, and another one before it is through with the first."""

    def script(stage: Stage) -> None:
        follower = stage.follower()
        connect = stage.isolate(follower)
        fill(stage, 30)
        connect()
        stage.until(lambda: bool(follower.images))
        follower.machine.slowness = 60.0
        stage.until(lambda: follower.server.node.installing)
        connect = stage.isolate(follower)
        fill(stage, 60)
        connect()
        stage.until(lambda: follower.images > 1)
        assert follower.server.node.installing, "the first one was through"
        stage.pass_time(0.5)
        follower.machine.slowness = 1.0
        stage.until(lambda: follower.server.node.applied == stage.leader().server.node.applied)

    play(script, 3, commit_s=0.2, **TINY)


def crash_while_receiving() -> None:
    """The power of a member goes at each step of taking in a snapshot."""

    def script(stage: Stage) -> None:
        for steps in range(12):
            _crash_at_step(stage, steps)

    play(script, 3, in_place=0.0, **TINY)


def _crash_at_step(stage: Stage, steps: int) -> None:
    follower = stage.follower()
    number = follower.machine.number
    connect = stage.isolate(follower)
    fill(stage, 20)
    stage.until(lambda: stage.leader().raft.log.first_index > follower.raft.log.last_index + 1)
    connect()
    stage.until(lambda: bool(follower.images))
    disk = stage.machines[number].disk
    disk.crash_at = disk.steps + steps
    stage.pass_time(0.3)
    stage.crash(stage.machines[number], power=True)
    stage.restarted(number)
    stage.until(lambda: stage.member(number).server.node.applied == stage.leader().server.node.applied)


def fill(stage: Stage, count: int) -> None:
    """Write through the leader."""
    leader = stage.leader()
    done: list[object] = []
    for number in range(count):
        request = pb.PutRequest(key=b"k%d" % (number % 7), value=b"%f.%d" % (stage.clock.now, number))
        stage.send(leader, "put", request, done.append)
        stage.pass_time(0.01)
    stage.until(lambda: len(done) == count)
