"""Reads that must not lie."""

from ratifyd.proto import rpc_pb2 as pb
from simulation.stage import Stage, play


def stale_reads_after_a_pause() -> None:
    """The leader's process stands still until another one leads; a read waits for it when it goes on."""

    def script(stage: Stage) -> None:
        for number in range(4):
            _pause_the_leader(stage, number)

    play(script, 3)


def _pause_the_leader(stage: Stage, number: int) -> None:
    old = stage.leader()
    stage.put(old, b"k", b"old %d" % number)
    done: list[object] = []
    old.clock.paused = True
    connect = stage.isolate(old)
    stage.pass_time(0.01)
    stage.until(lambda: stage.leader() is not old)
    stage.put(stage.leader(), b"k", b"new %d" % number)
    operation = stage.send(old, "range", pb.RangeRequest(key=b"k"), done.append)
    stage.pass_time(0.05)
    old.clock.resume()
    stage.pass_time(0.05)
    connect()
    stage.until(lambda: bool(done))
    if operation.ok:
        assert operation.response.kvs[0].value.startswith(b"new %d" % number), str(operation)
    stage.until(stage.agreed)


def txn_reads_a_compacted_revision() -> None:
    """A transaction writes, and reads at a revision that a compaction has taken: it fails as a whole."""

    def script(stage: Stage) -> None:
        leader = stage.leader()
        for number in range(6):
            revision = stage.put(leader, b"k", b"%d" % number)
        stage.command(leader, "compact", revision=revision)
        request = pb.TxnRequest()
        request.success.add().request_put.key = b"written"
        request.success.add().request_range.CopyFrom(pb.RangeRequest(key=b"k", revision=revision - 2))
        operation = stage.ask(leader, "txn", request)
        assert operation.error == "etcdserver: mvcc: required revision has been compacted", str(operation)
        assert not stage.get(leader, b"written").response.kvs
        assert stage.put(leader, b"after") == revision + 1

    play(script, 3, compaction_batch=1)
