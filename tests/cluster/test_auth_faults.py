"""Auth while members fail: no right is ever exceeded, and what a user was told is true."""

from pathlib import Path
from typing import cast

import pytest

from harness import network
from harness.clusters import Cluster
from tests.cluster import faults
from tests.cluster.auth_load import AuthLoad
from tests.cluster.load import Load
from tests.cluster.test_mixed_auth import wait_equal_auth

FLAGS = ("--bcrypt-cost=4", "--snapshot-count=200")
OWN_FLAGS = ("--experimental-snapshot-catchup-entries=20",)

pytestmark = pytest.mark.timeout(300)


def survive(cluster: Cluster, fault: faults.Fault) -> None:
    """The fault, with users at work; then the comparison of everything."""
    load = AuthLoad(cluster)
    load.prepare()
    with load.running():
        load.progress()
        fault(cluster, cast("Load", load))
        load.progress()
    load.check()
    wait_equal_auth(cluster, cluster.members[0].metadata)


@pytest.mark.parametrize(
    "fault", [faults.kill_in_turn, pytest.param(faults.kill_all, marks=pytest.mark.slow)], ids=lambda f: f.__name__
)
def test_with_simple_tokens(fault: faults.Fault) -> None:
    """Which a member forgets when it dies."""
    with Cluster(("ratifyd",) * 3, FLAGS, own_flags=OWN_FLAGS) as cluster:
        survive(cluster, fault)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(faults.kill_leader, marks=pytest.mark.slow),
        pytest.param(faults.stop_leader, marks=pytest.mark.slow),
        pytest.param(faults.fall_behind_the_log, marks=pytest.mark.slow),
    ],
    ids=lambda f: f.__name__,
)
def test_with_signed_tokens(fault: faults.Fault, tmp_path: Path) -> None:
    with Cluster(("ratifyd",) * 3, (*FLAGS, signed(tmp_path)), own_flags=OWN_FLAGS) as cluster:
        survive(cluster, fault)


@pytest.mark.parametrize(
    "fault",
    [
        faults.isolate_leader,
        pytest.param(faults.leader_in_the_minority, marks=pytest.mark.slow),
        pytest.param(faults.deaf_leader, marks=pytest.mark.slow),
        pytest.param(faults.flapping, marks=pytest.mark.slow),
    ],
    ids=lambda f: f.__name__,
)
def test_over_a_broken_network(fault: faults.Fault, tmp_path: Path) -> None:
    reason = network.why_not()
    if reason:
        pytest.skip(reason)
    with (
        network.Network(3) as lan,
        Cluster(("ratifyd",) * 3, (*FLAGS, signed(tmp_path)), own_flags=OWN_FLAGS, network=lan) as cluster,
    ):
        survive(cluster, fault)


def signed(directory: Path) -> str:
    """Tokens that every member knows by their signature, so that root can be shown to members without a leader."""
    secret = directory / "secret"
    secret.write_bytes(b"known to all members, and to nobody else")
    return f"--auth-token=jwt,sign-method=HS256,priv-key={secret},ttl=1h"
