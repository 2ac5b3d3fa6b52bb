"""Reads of many keys as streams whose client is slow, while what they have yet to read goes."""

from typing import Any

from ratifyd.proto import rpc_pb2 as pb
from simulation.history import Operation
from simulation.scenarios.restarts import TINY, fill
from simulation.stage import Stage, play

SLOW_READER: dict[str, Any] = {**TINY, "wide": True, "watch_queue_bytes": 300, "compaction_batch": 100}


def stream_overtaken_by_a_compaction() -> None:
    """A stream of keys waits for its client while all it has yet to read is overwritten and compacted."""

    def script(stage: Stage) -> None:
        member = stage.member(0)
        for number in range(30):
            stage.put(member, b"k%02d" % number, b"x" * 200)
        connection, done = _stream(stage, member, serializable=False)
        for number in range(30):
            revision = stage.put(member, b"k%02d" % number, b"y" * 200)
        stage.command(member, "compact", revision=revision)
        stage.pass_time(0.5)
        connection.go_on()
        stage.until(lambda: bool(done))

    play(script, **SLOW_READER)


def stream_overtaken_by_a_snapshot() -> None:
    """A stream of keys waits on a member for its client while a snapshot, compacted beyond it, is installed."""

    def script(stage: Stage) -> None:
        follower = stage.follower()
        for number in range(30):
            stage.put(stage.leader(), b"k%02d" % number, b"x" * 200)
        stage.until(stage.agreed)
        cut_off = stage.isolate(follower)
        fill(stage, 60)
        for number in range(30):
            revision = stage.put(stage.leader(), b"k%02d" % number, b"y" * 200)
        stage.command(stage.leader(), "compact", revision=revision)
        stage.pass_time(0.5)
        connection, done = _stream(stage, follower, serializable=True)
        cut_off()
        stage.until(lambda: bool(follower.images) and follower.state.store.revision >= revision, 3.0)
        connection.go_on()
        stage.until(lambda: bool(done))

    play(script, 3, **SLOW_READER)


def _stream(stage: Stage, member: Any, *, serializable: bool) -> tuple[Any, list[Operation]]:
    """Begin to read all keys as a stream that the client does not take."""
    client = stage.client(member)
    assert client.connection is not None
    client.connection.stall()
    done: list[Operation] = []
    request = pb.RangeRequest(key=b"k", range_end=b"l", serializable=serializable)
    client.ask("range", request, done.append, streamed=True)
    stage.pass_time(0.1)
    assert not done
    return client.connection, done
