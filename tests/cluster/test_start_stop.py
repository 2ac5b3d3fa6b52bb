"""Starting, stopping and refusing to start, as an operator or a process manager sees it."""

import contextlib
import http.client
import itertools
import json
import os
import queue
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from harness import stubs
from harness.clusters import wait_for
from harness.servers import EtcdServer, StartFailed
from ratifyd.proto import rpc_pb2
from ratifyd.proto.lock_pb2 import LockRequest
from tests.cluster.conftest import StartServer
from tests.cluster.workload import Client, Workload


def wait_for_files(server: EtcdServer, count: int, timeout_s: float = 20.0) -> None:
    """Return as soon as the data directory holds so many files and directories, or the server is ready."""
    deadline = time.monotonic() + timeout_s
    for spin in itertools.count():
        if sum(len(names) + len(files) for _, names, files in os.walk(server.data_dir)) >= count:
            return
        if spin % 20 == 0 and ("ready to serve client requests" in server.log_text() or not server.running):
            return
        assert time.monotonic() < deadline, f"{count} files never appeared"


@pytest.mark.parametrize(("first", "shared"), [("etcd", "data"), ("etcd", "wal"), ("ratifyd", "wal")])
def test_a_start_that_is_refused_leaves_the_one_that_runs_alone(first: str, shared: str, tmp_path: Path) -> None:
    """It goes on, also when its log needs the next file, which lies there preallocated."""
    wal = tmp_path / "data" / "member" / "wal" if shared == "data" else tmp_path / "wal"
    flags = ["--unsafe-no-fsync", *([f"--wal-dir={wal}"] if shared == "wal" else [])]
    with EtcdServer(first, flags, data_dir=tmp_path / "data") as running:
        wait_for("preallocated file", lambda: list(wal.glob("*.tmp")) or None)
        before = set(wal.iterdir())
        directory = tmp_path / ("data" if shared == "data" else "other")
        second = EtcdServer("ratifyd", flags, data_dir=directory, start=False)
        with pytest.raises(StartFailed, match=r"locked by another process|in use by another process"):
            second.start()
        second.stop()
        assert set(wal.iterdir()) == before
        with Client(running.client_endpoint) as client:
            for number in range(70):
                client.put(b"big%d" % (number % 3), bytes(1_000_000))
        assert len(list(wal.glob("*.wal"))) == 2


@pytest.mark.parametrize("files", range(1, 9))
def test_a_crash_in_the_middle_of_the_first_start(files: int, start_server: StartServer) -> None:
    """etcd 3.5.1 fails this now and then: killed between making the log and its first entry, it never elects itself."""
    server = start_server(start=False)
    server.start(wait=False)
    wait_for_files(server, files)
    server.kill()
    server.restart()
    with Client(server.client_endpoint) as client:
        revision = client.put(b"k", b"v")
    server.restart(hard=True)
    with Client(server.client_endpoint) as client:
        assert client.get(b"k") == b"v"
        assert client.revision() == revision


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_polite_stop_ends_with_zero(number: signal.Signals, start_server: StartServer, kind: str) -> None:
    server = start_server()
    with Client(server.client_endpoint) as client:
        client.put(b"k", b"v")
        server.signal(number)
        status = server.wait(10)
    assert '"msg":"closed etcd server","name":' in server.log_text().splitlines()[-1]
    # etcd sends the signal to itself once more when it has cleaned up.
    assert status == (0 if kind == "ratifyd" else -number)


def test_streams_do_not_hold_up_a_polite_stop(start_server: StartServer) -> None:
    """Watchers by gRPC and by JSON, and a client that waits for a lock, are sent elsewhere at once."""
    server = start_server()
    with stubs.Client(server.client_endpoint) as client:
        create = rpc_pb2.WatchRequest(create_request=rpc_pb2.WatchCreateRequest(key=b"k"))
        asked: queue.SimpleQueue[rpc_pb2.WatchRequest | None] = queue.SimpleQueue()
        asked.put(create)
        watch = client.watch.Watch(iter(asked.get, None))
        assert next(watch).created
        client.lock.Lock(LockRequest(name=b"l"), timeout=10)
        waiting = client.lock.Lock.future(LockRequest(name=b"l"))
        lines = http.client.HTTPConnection("127.0.0.1", server.client_port, timeout=10)
        lines.request("POST", "/v3/watch", b'{"create_request": {"key": "aw=="}}')
        stream = lines.getresponse()
        assert b"created" in stream.readline()
        server.signal(signal.SIGTERM)
        server.wait(2)
        for ended in (lambda: next(watch), waiting.result):
            with pytest.raises(grpc.RpcError) as error:
                ended()
            assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        with contextlib.suppress(http.client.HTTPException, ConnectionError):
            assert not json.loads(stream.read() or b"{}").get("result")
        asked.put(None)
        lines.close()


def test_a_polite_stop_under_load_keeps_every_write(start_server: StartServer) -> None:
    workload = Workload()
    server = start_server()
    with workload.running(server.client_endpoint):
        workload.wait_acknowledged(300)
        server.terminate()
    server.restart()
    with Client(server.client_endpoint) as client:
        workload.check(client)


def test_a_second_process_on_the_same_directory_is_refused(start_server: StartServer, kind: str) -> None:
    if kind == "etcd":
        pytest.skip("etcd waits for the lock without end")
    first = start_server()
    second = start_server(start=False, data_dir=first.data_dir)
    second.start(wait=False)
    assert second.wait(10) not in {0, None}
    log = second.log_text().lower()
    assert str(first.data_dir).lower() in log
    assert "another" in log or "in use" in log or "locked" in log
    assert "traceback" not in log
    with Client(first.client_endpoint) as client:
        client.put(b"k", b"still served")


def test_state_survives_many_snapshots_and_compactions(start_server: StartServer) -> None:
    server = start_server("--snapshot-count=25", "--max-wals=2", "--max-snapshots=2")
    workload = Workload(workers=8)
    for _ in range(3):
        with workload.running(server.client_endpoint):
            workload.wait_acknowledged(400)
        with Client(server.client_endpoint) as client:
            revision = client.revision()
            client.compact(revision - 1, physical=True)
            hash_kv = client.hash_kv(revision)
        server.restart()
        with Client(server.client_endpoint) as client:
            workload.check(client)
            assert client.revision() == revision
            assert client.hash_kv(revision) == hash_kv
    assert list((server.data_dir / "member" / "snap").glob("*.snap"))


def test_a_taken_client_port_is_named(start_server: StartServer) -> None:
    first = start_server()
    second = start_server(start=False, client_port=first.client_port)
    second.start(wait=False)
    assert second.wait(15) != 0
    assert "address already in use" in second.log_text()


def test_data_lie_below_member(start_server: StartServer) -> None:
    server = start_server()
    member = server.data_dir / "member"
    assert {path.name for path in member.iterdir()} >= {"snap", "wal"}
    assert (member / "wal" / "0000000000000000-0000000000000000.wal").stat().st_size == 64_000_000
    assert mode(server.data_dir) == mode(member) == mode(member / "wal") == 0o700


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_entries_that_change_nothing_may_be_forgotten(start_server: StartServer) -> None:
    """Snapshots at an index that only refused swaps led to: the log before it goes, and no data came with it."""
    server = start_server("--snapshot-count=20")
    refused = rpc_pb2.TxnRequest(
        compare=[rpc_pb2.Compare(key=b"k", target=rpc_pb2.Compare.CompareTarget.VERSION, version=7)],
        success=[rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"k", value=b"never"))],
    )
    for hard in (True, False):
        with Client(server.client_endpoint) as client:
            revision = client.put(b"k", b"v")
            for _ in range(100):
                assert not client.txn(refused).succeeded
            assert client.revision() == revision
        server.restart(hard=hard)
        with Client(server.client_endpoint) as client:
            assert client.revision() == revision
            assert client.get(b"k") == b"v"


DESCRIPTORS = 220


def with_few_descriptors(start_server: StartServer, limit: int, *flags: str) -> EtcdServer:
    """A server, yet to be started, that may open so many files and connections."""
    server = start_server(*flags, start=False)
    command = server.command()
    server.command = lambda: ["sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh", *command]  # type: ignore[method-assign]
    return server


def test_clients_cannot_take_the_descriptors_the_member_needs(start_server: StartServer) -> None:
    """Snapshots and new files of the log need some of their own; clients that find no room wait for it."""
    server = with_few_descriptors(start_server, DESCRIPTORS, "--snapshot-count=20")
    server.start()
    with Client(server.client_endpoint) as client, ExitStack() as stack:
        client.put(b"k", b"v")
        address = ("127.0.0.1", server.client_port)
        for _ in range(DESCRIPTORS + 30):
            stack.enter_context(socket.create_connection(address, timeout=10))
        for number in range(100):
            client.put(b"k%d" % (number % 10), b"x" * 1_000_000)
        assert server.running
        late = socket.create_connection(address, timeout=0.2)
        late.sendall(b"GET /version HTTP/1.0\r\n\r\n")
        with pytest.raises(TimeoutError):
            late.recv(100)
        stack.close()
        late.settimeout(10)
        assert late.recv(100).startswith(b"HTTP/1.0 200")
        late.close()
        assert client.get(b"k") == b"v"
    with Client(server.client_endpoint) as client:
        assert client.get(b"k") == b"v"
    assert len(list((server.data_dir / "member" / "wal").glob("*.wal"))) > 1


def test_too_few_descriptors_for_the_member_itself(start_server: StartServer) -> None:
    server = with_few_descriptors(start_server, 150)
    with pytest.raises(StartFailed, match="file descriptor limit of etcd process is too low; please set higher"):
        server.start()
