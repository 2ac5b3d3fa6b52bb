"""Maintenance through etcdctl and etcdutl: the same words from both servers, and files that a real etcd takes."""

import asyncio
import hashlib
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from harness import stubs
from harness.clusters import Cluster, wait_for
from harness.etcdctl import Output, etcdctl, etcdutl, start_etcdctl
from harness.fastgrpc import FastConnection
from harness.outcomes import get, put
from harness.servers import EtcdServer
from ratifyd.proto import rpc_pb2

NO_SPACE = "etcdserver: mvcc: database space exceeded"


def masked(output: Output, server: EtcdServer) -> tuple[int, str, str]:
    """What was printed, without what differs from server to server and from run to run."""
    texts = []
    for text in (output.stdout, output.stderr):
        text = text.replace(server.client_endpoint, "<endpoint>")
        text = re.sub(r"memberID:\d+", "memberID:<id>", text)
        texts.append(re.sub(r"took = \S+", "took = <time>", text))
    return output.status, texts[0], texts[1]


def test_a_full_member_and_the_way_out() -> None:
    """Fill, alarm, read only, compact, defragment, disarm: each step says the same on both."""
    transcripts = []
    for kind in ("etcd", "ratifyd"):
        with EtcdServer(kind, ["--quota-backend-bytes=2000000", "--unsafe-no-fsync"]) as server:

            def run(*args: str, server: EtcdServer = server, **options: Any) -> tuple[int, str, str]:
                return masked(etcdctl(server.client_endpoint, *args, **options), server)

            def full(run: Any = run) -> bool | None:
                return True if NO_SPACE in run("put", "filler", stdin="x" * 200_000)[2] else None

            steps = [run("put", "k", "v"), run("alarm", "list")]
            wait_for("a full backend", full)
            steps += [run("alarm", "list"), run("put", "k", "w"), run("lease", "grant", "100")]
            steps += [run("get", "k"), run("endpoint", "health")]
            steps += [run("del", "k"), run("alarm", "disarm")]
            wait_for("a full backend again", full)
            revision = re.search(r'"revision":(\d+)', etcdctl(server.client_endpoint, "get", "k", "-w", "json").stdout)
            assert revision is not None
            compacted = run("compaction", "--physical", revision[1])
            steps += [(compacted[0], compacted[1].replace(revision[1], "<revision>"), compacted[2])]
            steps += [run("defrag"), run("alarm", "disarm"), run("alarm", "list"), run("put", "k", "v")]
            steps += [run("endpoint", "health"), run("get", "k"), run("alarm", "disarm")]
            transcripts.append(steps)
    assert transcripts[0] == transcripts[1]
    assert transcripts[1][3][0] and NO_SPACE in transcripts[1][3][2]


def test_endpoints(pair: tuple[EtcdServer, EtcdServer]) -> None:
    shown = []
    for server in pair:
        etcdctl(server.client_endpoint, "put", "endpoint", "v")
        hashed = etcdctl(server.client_endpoint, "endpoint", "hashkv", "-w", "json")
        status = etcdctl(server.client_endpoint, "endpoint", "status", "-w", "fields")
        health = etcdctl(server.client_endpoint, "endpoint", "health", "-w", "json")
        assert re.search(r'"hash":\d+,"compact_revision":-?\d+', hashed.stdout), hashed
        fields = re.findall(r'^"(\w+)"', status.stdout, flags=re.MULTILINE)
        shown.append((hashed.status, status.status, fields, re.sub(r'"took":"[^"]*"', "", health.stdout)))
    assert shown[0][:3] == shown[1][:3]
    assert [re.sub(r"127[\d.:]*", "", text) for *_, text in shown] == ['[{"endpoint":"","health":true,}]\n'] * 2


def test_move_leader() -> None:
    said = []
    for kind in ("etcd", "ratifyd"):
        with Cluster([kind] * 3, ["--unsafe-no-fsync"]) as cluster:
            leader, target = cluster.leader(), cluster.followers()[0]
            ids = {f"{cluster.id_of(server):x}": name for server, name in ((leader, "<old>"), (target, "<new>"))}
            moved = cluster.move_leader(target)
            refused = cluster.ctl("move-leader", f"{cluster.id_of(leader):x}", at=leader)
            for output in (moved, refused):
                text = output.stdout + output.stderr
                for member, name in ids.items():
                    text = text.replace(member, name)
                said.append((output.status, re.sub(r"127[\d.:]*", "<endpoint>", text)))
            assert cluster.leader() is target
    assert said[:2] == said[2:]


@pytest.mark.parametrize(("source", "target"), [("etcd", "ratifyd"), ("ratifyd", "etcd")])
def test_make_mirror(source: str, target: str) -> None:
    with (
        EtcdServer(source, ["--unsafe-no-fsync"]) as left,
        EtcdServer(target, ["--unsafe-no-fsync"]) as right,
        stubs.Client(left.client_endpoint) as written,
        stubs.Client(right.client_endpoint) as mirrored,
    ):
        for number in range(50):
            put(written, b"m/%02d" % number, b"before")
        mirror = start_etcdctl(left.client_endpoint, "make-mirror", "--prefix=m/", right.client_endpoint)
        try:
            wait_for("the copy", lambda: get(mirrored, b"m/", b"m0").count == 50 or None)
            for number in range(10, 60):
                put(written, b"m/%02d" % number, b"after")
            written.kv.DeleteRange(rpc_pb2.DeleteRangeRequest(key=b"m/0", range_end=b"m/1"))

            def same() -> bool | None:
                kvs = [get(client, b"m/", b"m0").kvs for client in (written, mirrored)]
                left_kvs, right_kvs = ([(kv.key, kv.value) for kv in found] for found in kvs)
                return left_kvs == right_kvs or None

            wait_for("the changes", same)
        finally:
            mirror.terminate()
            mirror.communicate(timeout=10)


class Writing:
    """Puts on a thread of its own for the time of the block."""

    def __init__(self, server: EtcdServer) -> None:
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        with stubs.Client(self._server.client_endpoint) as client:
            number = 0
            while not self._stop.is_set():
                put(client, b"meanwhile/%d" % (number % 100), b"%d" % number)
                number += 1

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)


def check_restored(path: Path, directory: Path, server: EtcdServer) -> None:
    """etcdutl accepts the file, a real etcd serves it, and it is the history of the server it came from."""
    status = etcdutl("snapshot", "status", str(path), "-w", "json")
    assert not status.status, status.raw_stderr
    restored = EtcdServer("etcd", ["--unsafe-no-fsync"], data_dir=directory / "restored", start=False)
    done = etcdutl(
        "snapshot",
        "restore",
        str(path),
        f"--data-dir={directory / 'restored'}",
        "--name=default",
        f"--initial-cluster=default={restored.peer_url}",
        f"--initial-advertise-peer-urls={restored.peer_url}",
    )
    assert not done.status, done.raw_stderr
    restored.start()
    try:
        with stubs.Client(restored.client_endpoint) as copy, stubs.Client(server.client_endpoint) as original:
            revision = get(copy, b"a").header.revision
            hashes = [
                client.maintenance.HashKV(rpc_pb2.HashKVRequest(revision=revision)) for client in (original, copy)
            ]
            assert hashes[0].hash == hashes[1].hash
            assert hashes[0].compact_revision == hashes[1].compact_revision
            put(copy, b"goes", b"on")
    finally:
        restored.stop()


def test_a_snapshot_while_others_write(tmp_path: Path) -> None:
    with EtcdServer("ratifyd", ["--unsafe-no-fsync"]) as server:
        with stubs.Client(server.client_endpoint) as client:
            for number in range(300):
                put(client, b"large/%d" % (number % 200), bytes([number % 256]) * 100_000)
            client.kv.Compact(rpc_pb2.CompactionRequest(revision=50))
        path = tmp_path / "snapshot.db"
        with Writing(server):
            saved = etcdctl(server.client_endpoint, "snapshot", "save", str(path), timeout_s=60)
            assert not saved.status, saved.raw_stderr
        check_restored(path, tmp_path, server)


def test_a_snapshot_for_a_client_that_lags(tmp_path: Path) -> None:
    """It stops reading for a while, in which there are writes, a compaction and a defragmentation."""

    async def fetch(server: EtcdServer) -> bytes:
        with stubs.Client(server.client_endpoint) as client:
            connection = await FastConnection.connect(server.client_endpoint)
            blobs: list[bytes] = []
            begun = asyncio.Event()

            def received(message: bytes) -> None:
                blobs.append(rpc_pb2.SnapshotResponse.FromString(message).blob)
                begun.set()

            call = connection.open("/etcdserverpb.Maintenance/Snapshot", received)
            call.send(rpc_pb2.SnapshotRequest().SerializeToString())
            await begun.wait()
            connection._transport.pause_reading()
            for number in range(50):
                put(client, b"large/%d" % number, b"changed")
            revision = get(client, b"a").header.revision
            client.kv.Compact(rpc_pb2.CompactionRequest(revision=revision - 60, physical=True))
            client.maintenance.Defragment(rpc_pb2.DefragmentRequest())
            connection._transport.resume_reading()
            deadline = asyncio.get_running_loop().time() + 60
            while len(blobs[-1]) != 32:
                assert asyncio.get_running_loop().time() < deadline
                await asyncio.sleep(0.01)
            connection.close()
        data = b"".join(blobs[:-1])
        assert hashlib.sha256(data).digest() == blobs[-1]
        return data + blobs[-1]

    with EtcdServer("ratifyd", ["--unsafe-no-fsync"]) as server:
        with stubs.Client(server.client_endpoint) as client:
            for number in range(300):
                put(client, b"large/%d" % number, bytes([number % 256]) * 100_000)
            hashed = client.maintenance.HashKV(rpc_pb2.HashKVRequest())
        path = tmp_path / "snapshot.db"
        path.write_bytes(asyncio.run(asyncio.wait_for(fetch(server), 120)))
        status = etcdutl("snapshot", "status", str(path), "-w", "json")
        assert f'"revision":{hashed.hash_revision}' in status.stdout, status


@pytest.mark.slow
@pytest.mark.parametrize("what", ["perf", "datascale"])
def test_checks(server: EtcdServer, what: str) -> None:
    """etcdctl's own checks of a server's pace; whether it is fast enough is for the benchmarks to say."""
    done = etcdctl(server.client_endpoint, "check", what, "--load=s", "--auto-compact", "--auto-defrag", timeout_s=240)
    assert "FAIL: too many errors" not in done.stdout
    assert ("PASS: " in done.stdout) if what == "perf" else ("Approximate" in done.stdout), done
