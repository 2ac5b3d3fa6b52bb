"""etcdctl's view of a whole cluster: the same commands, read the same way, against members of both kinds and mixed."""

import json
import re

import pytest

from harness.clusters import Cluster, wait_for
from harness.etcdctl import Output, etcdctl
from harness.servers import free_port
from tests.cluster.conftest import StartCluster
from tests.cluster.workload import Client

MAKE_UPS = [
    ("ratifyd", "ratifyd", "ratifyd"),
    ("etcd", "ratifyd", "ratifyd"),
    pytest.param(("etcd", "etcd", "etcd"), marks=pytest.mark.slow),
    pytest.param(("etcd", "etcd", "ratifyd"), marks=pytest.mark.slow),
]
VERSIONS = {"etcd": "3.5.1", "ratifyd": "3.6.6"}


def fine(output: Output) -> str:
    assert not output.status, output.raw_stderr
    return output.stdout


@pytest.mark.parametrize("kinds", MAKE_UPS, ids="+".join)
def test_the_cluster_as_etcdctl_shows_it(kinds: tuple[str, ...], start_cluster: StartCluster) -> None:
    cluster = start_cluster(*kinds)
    leader = cluster.leader()
    with Client(leader.client_endpoint) as client:
        for number in range(20):
            client.put(b"k%d" % number, b"v")
    cluster.wait_equal()
    ids = {member.name: cluster.id_of(member) for member in cluster.members}
    for member in cluster.members:
        check_member_list(cluster, member.client_endpoint, ids)
        check_endpoint_commands(cluster, member.client_endpoint, ids)
    check_move_leader(cluster, ids)
    check_membership_commands(cluster)


def check_member_list(cluster: Cluster, endpoint: str, ids: dict[str, int]) -> None:
    """All three forms."""

    def listed() -> list[str] | None:
        lines = sorted(fine(etcdctl(endpoint, "member", "list")).splitlines())
        return lines if all("started" in line for line in lines) else None

    lines = wait_for("started members", listed)
    assert lines == sorted(
        f"{ids[member.name]:x}, started, {member.name}, {member.peer_url}, {member.client_url}, false"
        for member in cluster.members
    )
    table = fine(etcdctl(endpoint, "member", "list", "-w", "table"))
    assert all(f"{number:x}" in table for number in ids.values())
    document = json.loads(fine(etcdctl(endpoint, "member", "list", "-w", "json")))
    assert {member["ID"] for member in document["members"]} == set(ids.values())
    assert document["header"]["member_id"] in ids.values()


def check_endpoint_commands(cluster: Cluster, endpoint: str, ids: dict[str, int]) -> None:
    """`--cluster` asks each member that one of them names."""
    health = etcdctl(endpoint, "endpoint", "health", "--cluster")
    assert not health.status
    for member in cluster.members:
        assert re.search(rf"{member.client_url} is healthy: successfully committed proposal: took = ", health.stdout)
    statuses = json.loads(fine(etcdctl(endpoint, "endpoint", "status", "--cluster", "-w", "json")))
    leaders = {status["Status"]["leader"] for status in statuses}
    assert leaders == {ids[cluster.leader().name]}
    kinds = {member.client_url: member.kind for member in cluster.members}
    for status in statuses:
        assert status["Status"]["version"] == VERSIONS[kinds[status["Endpoint"]]]
        assert status["Status"]["dbSize"] > 0
        assert status["Status"]["raftTerm"] == statuses[0]["Status"]["raftTerm"]
    plain = fine(etcdctl(endpoint, "endpoint", "status", "--cluster"))
    assert len(plain.splitlines()) == 3 and plain.count(", true, false, ") == 1
    hashes = json.loads(fine(etcdctl(endpoint, "endpoint", "hashkv", "--cluster", "-w", "json")))
    assert len({found["HashKV"]["hash"] for found in hashes}) == 1 and len(hashes) == 3
    assert (
        len({line.split(", ")[1] for line in fine(etcdctl(endpoint, "endpoint", "hashkv", "--cluster")).splitlines()})
        == 1
    )


def check_move_leader(cluster: Cluster, ids: dict[str, int]) -> None:
    """To every member, through all endpoints at once; a follower alone refuses."""
    for target in cluster.members:
        leader = cluster.leader()
        if leader is target:
            continue
        refused = etcdctl(target.client_endpoint, "move-leader", f"{ids[target.name]:x}")
        assert refused.status and "no leader endpoint given at" in refused.raw_stderr
        moved = fine(etcdctl(cluster.endpoints, "move-leader", f"{ids[target.name]:x}"))
        assert moved == f"Leadership transferred from {ids[leader.name]:x} to {ids[target.name]:x}\n"
        assert cluster.leader() is target


def check_membership_commands(cluster: Cluster) -> None:
    """A learner that never starts: added, shown, updated, not promoted, removed."""
    url, other = f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"

    def add() -> Output | None:
        output = etcdctl(cluster.endpoints, "member", "add", "m9", "--learner", f"--peer-urls={url}")
        return None if "unhealthy cluster" in output.raw_stderr else output

    added = fine(wait_for("member add", add))
    found = re.search(r"Member\s+([0-9a-f]+) added to cluster\s+([0-9a-f]+)", added)
    assert found and 'ETCD_INITIAL_CLUSTER_STATE="existing"' in added
    learner = found[1]
    for member in cluster.members:
        assert f"{learner}, unstarted, , {url}, , true" in fine(etcdctl(member.client_endpoint, "member", "list"))
    refused = etcdctl(cluster.endpoints, "member", "promote", learner)
    assert "can only promote a learner member which is in sync with leader" in refused.raw_stderr
    updated = fine(etcdctl(cluster.endpoints, "member", "update", learner, f"--peer-urls={other}"))
    assert re.fullmatch(rf"Member\s+{learner} updated in cluster\s+[0-9a-f]+\n", updated)
    assert f"{learner}, unstarted, , {other}, , " in fine(etcdctl(cluster.endpoints, "member", "list"))
    removed = fine(etcdctl(cluster.endpoints, "member", "remove", learner))
    assert re.fullmatch(rf"Member\s+{learner} removed from cluster\s+[0-9a-f]+\n", removed)
    assert len(fine(etcdctl(cluster.endpoints, "member", "list")).splitlines()) == 3
    cluster.wait_equal()
