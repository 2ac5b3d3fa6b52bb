"""Watchers at the edge. Whatever they are told is compared with the log at the end of each script."""

from ratifyd.proto import rpc_pb2 as pb
from simulation.scenarios.restarts import TINY, fill
from simulation.stage import Stage, play


def progress_of_a_slow_watcher() -> None:
    """A client that reads slowly asks for progress while events wait for it."""

    def script(stage: Stage) -> None:
        member = stage.member(0)
        client, record = stage.watch(member, key=b"k", range_end=b"l", progress_notify=True)
        for number in range(20):
            assert client.connection is not None and client.stream is not None
            client.connection.stall()
            for _ in range(3):
                stage.put(member, b"k%d" % number, b"v" * 200)
            client.stream.send(pb.WatchRequest(progress_request={}).SerializeToString())
            stage.pass_time(0.3)
            client.connection.go_on()
            stage.pass_time(0.1)
        stage.until(lambda: stage.told(record) == 60)
        assert any(kind == "progress" for kind, _, _ in record.items), "no progress was told"

    play(script, watch_queue_bytes=300, progress_interval_s=0.2, catch_up_revisions=1)


def partition_and_snapshot() -> None:
    """A member with watchers is cut off for so long that it needs a snapshot."""

    def script(stage: Stage) -> None:
        follower = stage.follower()
        _, record = stage.watch(follower, key=b"k", range_end=b"l")
        _, later = stage.watch(follower, key=b"k", range_end=b"l", start_revision=40)
        fill(stage, 10)
        connect = stage.isolate(follower)
        fill(stage, 60)
        connect()
        stage.until(lambda: stage.told(record) == 70)
        assert follower.images, "no snapshot was sent"
        assert stage.told(later) == 70 - (40 - 2)

    play(script, 3, **TINY)


def events_of_transactions() -> None:
    """Transactions that read, write and delete; watchers that see them live and later."""

    def script(stage: Stage) -> None:
        member = stage.leader()
        _, live = stage.watch(member, key=b"k", range_end=b"l", prev_kv=True)
        for number in range(5):
            request = pb.TxnRequest()
            for key in (b"ka", b"kb", b"kc"):
                request.success.add().request_range.key = key
                put = request.success.add().request_put
                put.key, put.value = key, b"%d" % number
            request.success.add().request_delete_range.key = b"kd"
            request.failure.add().request_put.key = b"never"
            assert stage.ask(member, "txn", request).ok
            stage.put(member, b"kd")
        _, late = stage.watch(stage.follower(), key=b"k", range_end=b"l", start_revision=2)
        stage.until(lambda: stage.told(live) == stage.told(late) == 24)

    play(script, 3)


def starved_stream() -> None:
    """Many watchers of one stream whose client does not read for a while."""

    def script(stage: Stage) -> None:
        member = stage.member(0)
        client, first = stage.watch(member, key=b"k", range_end=b"l")
        for _ in range(4):
            client.create(pb.WatchCreateRequest(key=b"k", range_end=b"l", prev_kv=True))
        stage.until(lambda: all(record.created >= 0 for record in client.records.values()))
        assert client.connection is not None
        client.connection.stall()
        fill(stage, 60)
        client.connection.go_on()
        stage.until(lambda: all(stage.told(record) == 60 for record in client.records.values()))
        assert stage.told(first) == 60

    play(script, watch_queue_bytes=500, catch_up_watchers=2)


def compaction_at_a_deletion() -> None:
    """A slow watcher has yet to be told of a deletion when a compaction at its revision goes over it."""

    def script(stage: Stage) -> None:
        member = stage.member(0)
        client, record = stage.watch(member, key=b"k")
        assert client.connection is not None
        for number in range(1, 6):
            client.connection.stall()
            stage.put(member, b"k", b"." * 400)
            revision = stage.delete(member, b"k")
            stage.put(member, b"kk")
            stage.command(member, "compact", revision=revision, physical=True)
            stage.pass_time(0.3)
            client.connection.go_on()
            stage.pass_time(0.3)
            assert stage.told(record) == 2 * number, f"{stage.told(record)} events told of {2 * number}"

    play(script, compaction_batch=1, commit_interval_s=0.01, watch_queue_bytes=300)


def watch_from_the_compaction() -> None:
    """A watcher begins at the revision of a compaction that has run, which is a deletion's."""

    def script(stage: Stage) -> None:
        member = stage.member(0)
        stage.put(member, b"k")
        revision = stage.delete(member, b"k")
        stage.put(member, b"kk")
        stage.command(member, "compact", revision=revision, physical=True)
        stage.pass_time(1.0)
        _, record = stage.watch(member, key=b"k", range_end=b"l", start_revision=revision)
        stage.until(lambda: stage.told(record) == 2)
        stage.crash(stage.machines[0], power=True)
        _, again = stage.watch(stage.restarted(0), key=b"k", range_end=b"l", start_revision=revision)
        stage.until(lambda: stage.told(again) == 2)

    play(script, compaction_batch=1)


def future_revision() -> None:
    """A watcher of what is yet to come, on a member that lags, asks for progress and sees nothing before its time."""

    def script(stage: Stage) -> None:
        follower = stage.follower()
        fill(stage, 5)
        connect = stage.isolate(follower)
        fill(stage, 10)
        client, record = stage.watch(follower, key=b"k", range_end=b"l", start_revision=14, progress_notify=True)
        assert client.stream is not None
        client.stream.send(pb.WatchRequest(progress_request={}).SerializeToString())
        stage.pass_time(1.0)
        assert not record.items, "a watcher of the future was told something"
        connect()
        stage.until(lambda: stage.told(record) == 3)

    play(script, 3, progress_interval_s=0.2)
