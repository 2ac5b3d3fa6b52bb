"""Real disks that are full, read-only or gone: nothing acknowledged is lost, and the member says what is wrong.

A member whose disk takes no more writes ends, with one fatal line that names the file and says what to do; it never
answers a write that it could not store. When there is space again everything that was acknowledged is there.
"""

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import pytest

from harness.clusters import wait_for
from harness.disks import SmallDisk, failing_calls, why_no_ext4, why_no_injection, why_not
from harness.servers import EtcdServer, StartFailed
from ratifyd.proto import rpc_pb2
from tests.cluster.conftest import StartCluster, StartServer
from tests.cluster.workload import Client, Workload

MakeDisk = Callable[..., SmallDisk]
END_S = 60.0
"""Far more than it takes: for slow and busy machines."""
FLAGS = {
    "defaults": (),
    "log-alone": ("--backend-batch-interval=1h", "--backend-batch-limit=100000000"),
    "snapshots-all-the-time": ("--snapshot-count=10", "--backend-batch-interval=10ms"),
}
ALL_WRITES = ("pwritev2", "pwrite64", "fdatasync", "fsync")

needs_disk = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
needs_ext4 = pytest.mark.skipif(why_no_ext4() is not None, reason=str(why_no_ext4()))
needs_injection = pytest.mark.skipif(why_no_injection() is not None, reason=str(why_no_injection()))


@pytest.fixture
def make_disk() -> Iterator[MakeDisk]:
    """Make disks; all are unmounted at the end of the test."""
    disks: list[SmallDisk] = []

    def make(megabytes: int, **options: bool) -> SmallDisk:
        disks.append(SmallDisk(megabytes, **options))
        return disks[-1]

    yield make
    for disk in disks:
        disk.close()


@pytest.fixture
def on_disk(make_disk: MakeDisk, start_server: StartServer) -> Callable[..., tuple[EtcdServer, SmallDisk]]:
    """Make a server on a disk of its own."""

    def make(megabytes: int, *flags: str, start: bool = True, **options: bool) -> tuple[EtcdServer, SmallDisk]:
        disk = make_disk(megabytes, **options)
        return start_server(*flags, data_dir=disk.path / "data", start=start), disk

    return make


def often(*values: Any, slow: Sequence[Any]) -> list[Any]:
    """Parameters, some of them in full mode only."""
    return [pytest.param(value, marks=pytest.mark.slow if value in slow else ()) for value in values]


def ended(server: EtcdServer) -> None:
    """Wait for the server's own end."""
    wait_for("the end of the member", lambda: None if server.running else True, END_S)


def fatal_line(server: EtcdServer) -> str:
    """The one fatal line of a server that has ended; it must be plain words."""
    assert server.wait() == 1
    assert "Traceback" not in server.log_text() and "stacktrace" not in server.log_text(), server.log_text()
    lines = [json.loads(line) for line in server.log_text().splitlines()]
    fatal = [line for line in lines if line["level"] == "fatal"]
    assert len(fatal) == 1, fatal
    return f"{fatal[0]['msg']}: {fatal[0]['error']}"


def assert_says(server: EtcdServer, *words: str) -> None:
    """A ratifyd that has ended tells these words, among them a path of its own."""
    if server.kind != "ratifyd":
        return
    said = fatal_line(server)
    for word in (str(server.data_dir), *words):
        assert word in said, said


def check(server: EtcdServer, workload: Workload) -> None:
    """Everything acknowledged is there, and the server takes writes."""
    workload.unexpected.clear()  # errors while the disk was full: any will do
    with Client(server.client_endpoint) as client:
        workload.check(client)
        client.put(b"after", b"that")


@needs_disk
@pytest.mark.parametrize("flags", often(*FLAGS, slow=("log-alone", "snapshots-all-the-time")))
def test_a_disk_filled_under_load(flags: str, on_disk: Callable[..., tuple[EtcdServer, SmallDisk]]) -> None:
    """The log's file is preallocated, so the backend is what fails; or, with large values, the log's next file."""
    server, disk = on_disk(220, *FLAGS[flags])
    workload = Workload(8, 200_000 if flags == "log-alone" else 64)
    with workload.running(server.client_endpoint):
        workload.wait_acknowledged(50)
        disk.fill()
        ended(server)
    assert_says(server, "No space left on device", "free space")
    disk.free()
    server.restart()
    check(server, workload)


@needs_disk
def test_a_start_on_a_full_disk(on_disk: Callable[..., tuple[EtcdServer, SmallDisk]]) -> None:
    """With no room for its first log file, then for nothing at all; there is nothing to clean up by hand."""
    server, disk = on_disk(100, start=False)
    for leave in (30 << 20, 0):
        disk.fill(leave=leave)
        with pytest.raises(StartFailed, match="ended with 1"):
            server.start()
        assert_says(server, "No space left on device", "free space")
        disk.free()
    server.start()
    with Client(server.client_endpoint) as client:
        client.put(b"k", b"v")
    server.restart(hard=True)
    with Client(server.client_endpoint) as client:
        assert client.get(b"k") == b"v"


@needs_disk
@pytest.mark.slow
def test_a_restart_on_a_full_disk(on_disk: Callable[..., tuple[EtcdServer, SmallDisk]]) -> None:
    """Entries to replay and no room for them: the member ends or serves what it has, and loses nothing."""
    server, disk = on_disk(100, *FLAGS["log-alone"])
    workload = Workload(4, 2000)
    with workload.running(server.client_endpoint):
        workload.wait_acknowledged(300)
        server.kill()
    server.flags.clear()
    disk.fill()
    server.start(wait=False)
    ended(server)
    assert_says(server, "No space left on device", "free space")
    disk.free()
    server.restart()
    check(server, workload)


@needs_disk
def test_a_defragmentation_without_room(on_disk: Callable[..., tuple[EtcdServer, SmallDisk]], kind: str) -> None:
    """It is refused, and nothing else happens: the copy is gone, and the member goes on writing where there is room."""
    server, disk = on_disk(250)
    with Client(server.client_endpoint) as client:
        for number in range(40):
            client.put(b"k%d" % number, b"v" * 500_000)
    server.restart()  # no batch is left that would be committed, and so take room, while the copy is being made
    with Client(server.client_endpoint) as client:
        client.put(b"ready", b"v")
        disk.fill(leave=10 << 20)
        free = disk.free_bytes
        request = rpc_pb2.DefragmentRequest()
        with pytest.raises(grpc.RpcError) as failed:
            client._maintenance.Defragment(request, timeout=20)
        if kind == "ratifyd":
            assert failed.value.code() is grpc.StatusCode.UNKNOWN
            assert "No space left on device" in failed.value.details()
            assert disk.free_bytes >= free - (1 << 20)
            client.put(b"more", b"v")
            disk.free()
            client._maintenance.Defragment(request, timeout=20)
            assert client.get(b"k7") == b"v" * 500_000
    server.restart(hard=True)
    with Client(server.client_endpoint) as client:
        assert client.get(b"k39") == b"v" * 500_000


@needs_disk
@pytest.mark.slow
def test_one_full_member_of_three(make_disk: MakeDisk, start_cluster: StartCluster, kind: str) -> None:
    """The others go on. It comes back by a snapshot, for which there is no room at first: it waits for that."""
    disk = make_disk(220)
    flags = ("--snapshot-count=50",)
    own_flags = ("--experimental-snapshot-catchup-entries=50",)
    cluster = start_cluster(kind, kind, kind, flags=flags, own_flags=own_flags, data_dirs=(disk.path / "data",))
    full, *others = cluster.members
    workload = Workload(6, 2000, persistent=True, timeout_s=3.0)
    with workload.running(*cluster.endpoints):
        workload.wait_acknowledged(60)
        disk.fill()
        ended(full)
        workload.wait_acknowledged(400)
    assert_says(full, "No space left on device", "free space")
    with Client(others[0].client_endpoint) as client:
        for number in range(20):
            client.put(b"big%d" % number, b"v" * 500_000)
    disk.free()
    disk.fill(leave=90 << 20 if kind == "etcd" else 74 << 20)
    full.start(wait=False)
    if kind == "ratifyd":
        full.wait_log("failed to save incoming database snapshot", 30.0)
        assert full.running
    disk.free()
    full.wait_ready()
    cluster.wait_equal(60.0)
    for member in cluster.members:
        check(member, workload)


@needs_disk
def test_a_start_on_a_read_only_disk(on_disk: Callable[..., tuple[EtcdServer, SmallDisk]]) -> None:
    server, disk = on_disk(100)
    with Client(server.client_endpoint) as client:
        client.put(b"k", b"v")
    server.terminate()
    disk.set_read_only(True)
    with pytest.raises(StartFailed, match="ended with 1"):
        server.restart()
    assert_says(server, "Read-only file system", "make it writable")
    disk.set_read_only(False)
    server.restart()
    with Client(server.client_endpoint) as client:
        assert client.get(b"k") == b"v"


@needs_ext4
@pytest.mark.parametrize("how", often("abort", "tear_away", slow=("abort",)))
def test_a_disk_lost_under_load(how: str, on_disk: Callable[..., tuple[EtcdServer, SmallDisk]]) -> None:
    """An ext4 that goes read-only after an error, and one that is gone with all that was not synced (a power cut).

    etcd before 3.5.5 fails here: a member alone answers before it has synced (issue 14370).
    """
    server, disk = on_disk(200, ext4=True)
    workload = Workload(8)
    with workload.running(server.client_endpoint):
        workload.wait_acknowledged(200)
        server.pause()  # what a sync in that very moment says is between it and the kernel
        getattr(disk, how)()
        server.signal(signal.SIGCONT)
        ended(server)
    assert_says(server, "dmesg")
    disk.plug_in()
    server.restart()
    check(server, workload)


@needs_injection
@pytest.mark.parametrize("flags", often(*FLAGS, slow=("log-alone", "snapshots-all-the-time")))
@pytest.mark.parametrize("first", often(1, 4, slow=(4,)))
def test_failing_writes_and_syncs(flags: str, first: int, start_server: StartServer) -> None:
    """EIO from every write and sync, from some moment on: a sync is not repeated, and what it held not acknowledged."""
    server = start_server(*FLAGS[flags])
    workload = Workload(8)
    with workload.running(server.client_endpoint):
        workload.wait_acknowledged(100)
        with failing_calls(server.pid, *ALL_WRITES, first=first):
            ended(server)
    assert_says(server, "Input/output error", "dmesg")
    server.restart()
    check(server, workload)


@needs_injection
@pytest.mark.slow
def test_a_failing_sync_of_the_backend(start_server: StartServer) -> None:
    server = start_server("--backend-batch-interval=10ms")
    workload = Workload(4)
    with workload.running(server.client_endpoint):
        workload.wait_acknowledged(100)
        with failing_calls(server.pid, "fdatasync"):
            ended(server)
    assert_says(server, "Input/output error", "dmesg")
    server.restart()
    check(server, workload)
