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

import pytest

from harness.clusters import Cluster, NotInTime
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

    The others go on all the while. What is not equal is wiped and joins anew.
    """
    rng = random.Random(number)
    victim = rng.choice(cluster.members)
    with workload.running(*cluster.endpoints):
        workload.wait_acknowledged(100)
        victim.kill()
        path, how = damage_at_random(Files(victim.data_dir), rng)
        workload.wait_acknowledged(100, 60.0)
        outcome = start(victim).kind
        workload.wait_acknowledged(100, 60.0)
    told = f"round {number}, {how} of {path.name}"
    if outcome == "serves" and not victim.running:
        assert LOG_LOST in victim.log_text(), told
        outcome = "log is lost"
    if outcome == "log is lost":
        assert path.suffix == ".wal", told
    if outcome == "serves":
        try:
            cluster.wait_equal(60.0)
        except NotInTime:
            assert path.name == "db" and victim.running, told
            outcome = "serves other bytes"
    if outcome != "serves":
        cluster_id = cluster.id_of(victim) if victim.running else member_id(cluster, victim)
        victim.kill()
        removed = cluster.ctl("member", "remove", f"{cluster_id:x}", at=cluster.running[0])
        assert not removed.status, removed.raw_stderr
        shutil.rmtree(victim.data_dir)
        cluster.join(victim.kind)
        victim.stop()
        cluster.wait_equal(60.0)
    with Client(cluster.members[0].client_endpoint) as client:
        workload.check(client)
    return f"{path.suffix or path.name} {outcome}"


def member_id(cluster: Cluster, member: EtcdServer) -> int:
    """The id of a member that is not running."""
    return next(each["ID"] for each in cluster.listed(cluster.running[0]) if each["name"] == member.name)


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
