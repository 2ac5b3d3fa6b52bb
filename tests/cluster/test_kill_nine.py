"""kill -9 under load, again and again: no acknowledged write is lost, no revision goes back, the data stay equal.

A killed process keeps what it handed to the kernel, so these tests see the order of writing and acknowledging; what an
unsynced file loses in a power cut is the subject of the tests over the simulated disk.
"""

import random
from functools import partial
from pathlib import Path

import pytest

from harness.clusters import wait_for
from harness.disks import counted_calls, why_no_injection
from harness.servers import EtcdServer
from ratifyd.proto import rpc_pb2
from tests.cluster.conftest import StartServer
from tests.cluster.damage import Files
from tests.cluster.workload import Client, Workload

# With the first pair nothing reaches the backend on its own, so a restart replays the log alone (a crash between log
# and backend); with the second each entry is committed before the next, far from any snapshot (a crash between backend
# and snapshot); with the third snapshots are taken all the time.
FINISHED = "finished scheduled compaction"
CONFIGURATIONS = {
    "defaults": (),
    "log-ahead-of-backend": ("--backend-batch-interval=1h", "--backend-batch-limit=100000000"),
    "backend-ahead-of-snapshot": (
        "--backend-batch-interval=1ms",
        "--backend-batch-limit=1",
        "--snapshot-count=100000000",
    ),
    "snapshots-all-the-time": ("--snapshot-count=20", "--backend-batch-interval=20ms"),
}


def kill_under_load(server: EtcdServer, workload: Workload, acknowledged: int) -> None:
    """SIGKILL once that many writes were answered, while many more are on their way."""
    with workload.running(server.client_endpoint):
        workload.wait_acknowledged(acknowledged)
        server.kill()


@pytest.mark.parametrize("flags", CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys())
def test_no_acknowledged_write_is_lost(flags: tuple[str, ...], start_server: StartServer, kills: int) -> None:
    rng = random.Random(20)
    workload = Workload()
    server = start_server(*flags)
    revision, hash_kv = 1, 0
    for _ in range(kills):
        kill_under_load(server, workload, rng.randrange(50, 600))
        server.restart()
        with Client(server.client_endpoint) as client:
            workload.check(client)
            if hash_kv:
                assert client.hash_kv(revision) == hash_kv, "history before the crash changed"
            assert client.revision() >= revision
            revision = client.revision()
            hash_kv = client.hash_kv(revision)


def test_compaction_under_load_survives(start_server: StartServer, kills: int) -> None:
    rng = random.Random(21)
    workload = Workload()
    server = start_server("--snapshot-count=50")
    for _ in range(kills):
        with workload.running(server.client_endpoint), Client(server.client_endpoint) as client:
            for _ in range(3):
                workload.wait_acknowledged(rng.randrange(20, 200))
                client.compact(client.revision() - 5)
            workload.wait_acknowledged(rng.randrange(1, 100))
            server.kill()
        server.restart()
        with Client(server.client_endpoint) as client:
            workload.check(client)


def test_a_compaction_killed_in_the_middle_goes_on(start_server: StartServer) -> None:
    """Ten rows and a pause at a time take long enough to be interrupted again and again, and end all the same."""
    server = start_server("--experimental-compaction-batch-limit=10", "--backend-batch-interval=10ms")
    with Client(server.client_endpoint) as client:
        for version in range(30):
            puts = [rpc_pb2.PutRequest(key=b"k%d" % number, value=b"%d" % version) for number in range(50)]
            client.txn(rpc_pb2.TxnRequest(success=[rpc_pb2.RequestOp(request_put=put) for put in puts]))
        revision = client.revision()
        client.compact(revision - 1)
    interrupted = 0
    while FINISHED not in server.log_text() and interrupted < 2:
        server.kill()
        interrupted += FINISHED not in server.log_text()
        server.restart()
        with Client(server.client_endpoint) as client:
            assert client.revision() == revision
            assert client.get(b"k7") == b"29"
    assert interrupted, "killed too late"
    server.wait_log(FINISHED, 30)
    with Client(server.client_endpoint) as client:
        hash_kv = client.hash_kv(revision)
    server.restart(hard=True)
    assert FINISHED not in server.log_text(), "it was finished before"
    with Client(server.client_endpoint) as client:
        assert client.hash_kv(revision) == hash_kv


def test_quiet_store_hashes_equal_after_a_crash(start_server: StartServer) -> None:
    workload = Workload()
    server = start_server()
    with workload.running(server.client_endpoint):
        workload.wait_acknowledged(500)
    with Client(server.client_endpoint) as client:
        before = client.revision()
        hashes = [client.hash_kv(revision) for revision in (2, before // 2, before)]
    server.restart(hard=True)
    with Client(server.client_endpoint) as client:
        assert client.revision() == before
        assert [client.hash_kv(revision) for revision in (2, before // 2, before)] == hashes
        workload.check(client)


def test_kill_again_while_it_recovers(start_server: StartServer) -> None:
    """Crashes during replay change nothing: the log is read, not consumed."""
    workload = Workload()
    server = start_server("--backend-batch-interval=1h", "--backend-batch-limit=100000000")
    kill_under_load(server, workload, 1500)
    for step in range(5):
        server.start(wait=False)
        server.wait_log('"level"' if step == 0 else "member", 20)
        server.kill()
    server.restart()
    with Client(server.client_endpoint) as client:
        workload.check(client)


def test_leases_survive_a_crash(start_server: StartServer) -> None:
    server = start_server()
    with Client(server.client_endpoint) as client:
        lease = client.grant(600)
        client.put(b"leased", b"1", lease)
    server.restart(hard=True)
    with Client(server.client_endpoint) as client:
        rows = list(client.rows(b"leased"))
        assert [row.lease for row in rows] == [lease]
        client.put(b"leased", b"2", lease)


SYNCS = ("fsync", "fdatasync", "msync", "sync_file_range", "syncfs", "sync", "pwritev2", "io_submit")
"""Everything that makes a file durable; of pwritev2 only the form that syncs is used, and io_submit for syncs alone."""
UNSYNCED = ("--unsafe-no-fsync", "--snapshot-count=100")
"""With snapshots in the time of a test, which sync as well."""
needs_strace = pytest.mark.skipif(why_no_injection() is not None, reason=str(why_no_injection()))


def snapshots(server: EtcdServer) -> list[Path] | None:
    """The snapshot files of a server, None when it has none yet."""
    return Files(server.data_dir).snap or None


@needs_strace
def test_unsafe_no_fsync_syncs_nothing(start_server: StartServer) -> None:
    """Neither the log nor the backend nor snapshots; the same without the flag shows that syncs would be seen."""
    counts = []
    for flags in (UNSYNCED, UNSYNCED[1:]):
        server = start_server(*flags)
        workload = Workload(4)
        with workload.running(server.client_endpoint), counted_calls(server.pid, *SYNCS) as calls:
            workload.wait_acknowledged(400)
            wait_for("a snapshot", partial(snapshots, server))
        counts.append(sum(calls.values()))
        server.stop()
    assert counts[0] == 0, counts
    assert counts[1] > 20, counts


@pytest.mark.parametrize("polite", [False, True], ids=["killed", "stopped"])
def test_a_process_without_syncs_loses_nothing_by_its_end(polite: bool, start_server: StartServer) -> None:
    """What it wrote is the kernel's: only the machine's end could lose it."""
    server = start_server(*UNSYNCED)
    workload = Workload()
    for _ in range(2):
        with workload.running(server.client_endpoint):
            workload.wait_acknowledged(500)
            if polite:
                server.terminate()
            else:
                server.kill()
        server.restart()
        with Client(server.client_endpoint) as client:
            workload.check(client)
