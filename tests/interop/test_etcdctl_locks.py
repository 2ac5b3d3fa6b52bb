"""etcdctl lock and elect: contenders, commands run under a lock, and holders that die."""

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from harness.clusters import wait_for
from harness.etcdctl import RunningEtcdctl, etcdctl
from harness.servers import EtcdServer
from harness.stubs import Client
from ratifyd.keys import prefix_end
from ratifyd.proto import lock_pb2, rpc_pb2

Run = Callable[..., RunningEtcdctl]
WAIT_S = 15


@pytest.fixture
def run(server: EtcdServer) -> Iterator[Run]:
    """Start an etcdctl command; whatever still runs is killed at the end."""
    with ExitStack() as stack:

        def start(*args: str) -> RunningEtcdctl:
            running = RunningEtcdctl(server.client_endpoint, *args)
            stack.callback(lambda: running.process.poll() is None and running.stop(signal.SIGKILL))
            return running

        yield start


def candidates(server: EtcdServer, name: str) -> int:
    with Client(server.client_endpoint) as client:
        start = f"{name}/".encode()
        found = client.kv.Range(rpc_pb2.RangeRequest(key=start, range_end=prefix_end(start), count_only=True))
    return int(found.count)


def wait_candidates(server: EtcdServer, name: str, count: int) -> None:
    wait_for(f"{count} keys of {name}", lambda: candidates(server, name) == count or None, WAIT_S)


def test_a_command_runs_under_the_lock(server: EtcdServer, prefix: str) -> None:
    name = f"{prefix}lock"
    done = etcdctl(server.client_endpoint, "lock", name, "--", "sh", "-c", "echo $ETCD_LOCK_KEY $ETCD_LOCK_REV; exit 7")
    key, revision = done.stdout.split()
    assert (done.status, key.startswith(f"{name}/"), int(revision) > 1) == (7, True, True), done.stderr
    assert candidates(server, name) == 0


def test_two_contenders(server: EtcdServer, prefix: str, run: Run) -> None:
    name = f"{prefix}lock"
    first = run("lock", name)
    key = first.lines(1)[0]
    assert key.startswith(f"{name}/")
    second = run("lock", name, "--", "echo", "in the lock")
    wait_candidates(server, name, 2)
    assert second.so_far == [] and second.process.poll() is None
    first.stop()
    assert first.process.returncode == 0
    assert second.lines(1) == ["in the lock\n"]
    assert second.process.wait(WAIT_S) == 0
    assert candidates(server, name) == 0


def test_a_contender_that_gives_up(server: EtcdServer, prefix: str, run: Run) -> None:
    name = f"{prefix}lock"
    first = run("lock", name)
    first.lines(1)
    second = run("lock", name)
    wait_candidates(server, name, 2)
    third = run("lock", name)
    wait_candidates(server, name, 3)
    second.stop()
    assert second.process.returncode != 0 and second.so_far == []
    wait_candidates(server, name, 2)
    first.stop()
    assert third.lines(1)
    third.stop()


def test_a_killed_holder_loses_the_lock_with_its_lease(server: EtcdServer, prefix: str, run: Run) -> None:
    name = f"{prefix}lock"
    first = run("lock", "--ttl=2", name)
    first.lines(1)
    second = run("lock", "--ttl=2", name)
    wait_candidates(server, name, 2)
    first.stop(signal.SIGKILL)
    assert second.so_far == []
    assert second.lines(1, WAIT_S)
    second.stop()
    assert second.process.returncode == 0


def test_elections(server: EtcdServer, prefix: str, run: Run) -> None:
    name = f"{prefix}election"
    first = run("elect", name, "one")
    key, value = first.lines(2)
    assert (key.startswith(f"{name}/"), value) == (True, "one\n")
    observer = run("elect", "--listen", name)
    assert observer.lines(2) == [key, "one\n"]
    second = run("elect", name, "two")
    wait_candidates(server, name, 2)
    etcdctl(server.client_endpoint, "put", key.strip(), "changed", "--ignore-lease")
    assert observer.lines(4)[2:] == [key, "changed\n"]
    assert second.so_far == []
    first.stop()
    assert first.process.returncode == 0
    successor = second.lines(2)
    assert (successor[0] != key, successor[1]) == (True, "two\n")
    assert observer.lines(6)[4:] == successor
    second.stop()
    wait_candidates(server, name, 0)
    observer.stop()


def test_the_servers_own_locks_and_etcdctls_are_the_same(server: EtcdServer, prefix: str, run: Run) -> None:
    name = f"{prefix}lock"
    with Client(server.client_endpoint) as client:
        grant = client.lease.LeaseGrant(rpc_pb2.LeaseGrantRequest(TTL=600))
        held = client.lock.Lock(lock_pb2.LockRequest(name=name.encode(), lease=grant.ID))
        waiting = run("lock", name, "--", "echo", "mine")
        wait_candidates(server, name, 2)
        assert waiting.so_far == []
        client.lock.Unlock(lock_pb2.UnlockRequest(key=held.key))
        assert waiting.lines(1) == ["mine\n"]
        client.lease.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=grant.ID))
