"""Files damaged at random after a kill -9 under load: of a member alone, and of one of three.

Unlike after a polite stop (`test_damaged_files.py`) the backend lacks what came last: a log that is cut at its end then
looks like a torn write, and a member alone goes back to what is left. That must be a whole beginning of its history.
"""

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from harness.clusters import Cluster, NotInTime, wait_for
from harness.etcdctl import Output
from harness.servers import EtcdServer
from tests.cluster.conftest import StartCluster, StartServer
from tests.cluster.damage import FLAGS, LOG_LOST, OWN_FLAGS, Content, Files, content, copy, damage_at_random, start
from tests.cluster.workload import Client, Workload

FIRST = int(os.environ.get("RATIFYD_TEST_SEED", "100"))
ROUNDS = int(os.environ.get("RATIFYD_TEST_ROUNDS", "30"))
ONCE = (b"put/", b"swap/")
"""Keys that a workload writes once and never changes."""


@pytest.fixture
def killed(start_server: StartServer, tmp_path: Path, kind: str) -> Callable[[], tuple[EtcdServer, Path, Content]]:
    """A server that is not running, the directory of its like that was killed under load, and what that one held."""

    def make() -> tuple[EtcdServer, Path, Content]:
        flags = (*FLAGS, *(OWN_FLAGS if kind == "ratifyd" else ()))
        server = start_server(*flags, data_dir=tmp_path / "data")
        workload = Workload(8)
        with workload.running(server.client_endpoint):
            workload.wait_acknowledged(700)
            server.kill()
        copy(tmp_path / "data", tmp_path / "killed")
        server.restart()
        with Client(server.client_endpoint) as client:
            workload.check(client)
        expected = content(server)
        server.kill()
        return server, tmp_path / "killed", expected

    return make


def written(server: EtcdServer) -> dict[bytes, int]:
    """Keys written once, with their revisions."""
    with Client(server.client_endpoint) as client:
        return {bytes(row.key): row.mod_revision for row in client.rows() if bytes(row.key).startswith(ONCE)}


def damage_one_alone(server: EtcdServer, source: Path, expected: Content, whole: dict[bytes, int], number: int) -> str:
    """Start over damaged files; whatever is served must be all of the history, or the log's beginning of it."""
    copy(source, server.data_dir)
    path, how = damage_at_random(Files(server.data_dir), random.Random(number))
    outcome = start(server)
    told = f"round {number}, {how} of {path.name}"
    if outcome.kind == "serves":
        found = content(server)
        assert found.revision <= expected.revision, told
        if found.revision < expected.revision:
            assert path.suffix == ".wal", told
        if path.name != "db":  # bytes of stored keys and values may be others unnoticed
            beginning = {key: revision for key, revision in whole.items() if revision <= found.revision}
            assert written(server) == beginning, told
            if found.revision == expected.revision:
                assert found == expected, told
        server.kill()
    return f"{path.suffix or path.name} {outcome.kind}"


def test_a_killed_member_alone(killed: Callable[[], tuple[EtcdServer, Path, Content]]) -> None:
    many_alone(killed, range(3))


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_killed_member_alone_many_times(killed: Callable[[], tuple[EtcdServer, Path, Content]]) -> None:
    many_alone(killed, range(FIRST, FIRST + ROUNDS))


def many_alone(killed: Callable[[], tuple[EtcdServer, Path, Content]], rounds: range) -> None:
    server, source, expected = killed()
    server.start()
    whole = written(server)
    server.kill()
    counts = Counter(damage_one_alone(server, source, expected, whole, number) for number in rounds)
    print(dict(counts))  # noqa: T201 (what a long run is worth)


def damage_one_of_three(cluster: Cluster, workload: Workload, number: int) -> str:
    """Kill a member under load and damage it: it comes back equal, refuses, has other bytes in its backend, or ends
    when it hears of entries that were cut off its log.

    The others go on all the while; no client asks the damaged one, which may answer with other bytes. What is not equal
    is wiped and joins anew.
    """
    rng = random.Random(number)
    victim = rng.choice(cluster.members)
    files = Files(victim.data_dir)
    with workload.running(*cluster.endpoints):
        workload.wait_acknowledged(100)
        wait_for("a snapshot file", lambda: files.snap or None)
        victim.kill()
    path, how = damage_at_random(files, rng)
    told = f"round {number}, {how} of {path.name}"
    with workload.running(*(member.client_endpoint for member in cluster.running)):
        workload.wait_acknowledged(100)
        outcome = start(victim).kind
        workload.wait_acknowledged(100)
    if outcome == "serves":
        outcome = what_it_serves(cluster, victim, path, told)
    if outcome == "log is lost":
        assert path.suffix == ".wal", told
    if outcome != "serves":
        victim.kill()
        remove(cluster, victim)
        shutil.rmtree(victim.data_dir)
        cluster.join(victim.kind)
        victim.stop()
        cluster.wait_equal(60.0)
    with Client(cluster.members[0].client_endpoint) as client:
        workload.check(client)
    return f"{path.suffix or path.name} {outcome}"


def what_it_serves(cluster: Cluster, victim: EtcdServer, path: Path, told: str) -> str:
    """Whether a damaged member that has started becomes equal to the others, ends, or holds other bytes."""
    try:
        cluster.wait_equal(60.0)
        unequal = False
    except (NotInTime, grpc.RpcError):  # the latter of a member that ends while it is asked
        unequal = True
    if not victim.running:  # it may hear of what it has lost at any time
        assert LOG_LOST in victim.log_text(), told
        return "log is lost"
    assert not unequal or path.name == "db", told
    return "serves other bytes" if unequal else "serves"


def remove(cluster: Cluster, member: EtcdServer) -> None:
    """etcdctl member remove of a member that is not running, once the others have noticed and are connected."""
    at = cluster.running[0]
    member_id = next(each["ID"] for each in cluster.listed(at) if each["name"] == member.name)

    def look() -> Output | None:
        output = cluster.ctl("member", "remove", f"{member_id:x}", at=at)
        return None if "unhealthy cluster" in output.raw_stderr else output

    output = wait_for("member remove", look, 20.0)
    assert not output.status, output.raw_stderr


def many_of_three(start_cluster: StartCluster, kind: str, rounds: range) -> None:
    cluster = start_cluster(kind, kind, kind, flags=FLAGS, own_flags=OWN_FLAGS)
    workload = Workload(6, persistent=True, timeout_s=3.0)
    counts = Counter(damage_one_of_three(cluster, workload, number) for number in rounds)
    print(dict(counts))  # noqa: T201


def test_a_killed_member_of_three(start_cluster: StartCluster, kind: str) -> None:
    many_of_three(start_cluster, kind, range(2))


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_killed_member_of_three_many_times(start_cluster: StartCluster, kind: str) -> None:
    many_of_three(start_cluster, kind, range(FIRST, FIRST + ROUNDS))
