"""Every fault against every make-up of a cluster, under load: nothing acknowledged is lost, all members stay equal.

A sample runs always, the whole matrix with `--full`: `pytest tests/cluster --full`. RATIFYD_TEST_ROUNDS=5 repeats each.
With RATIFYD_TEST_ETCD (see harness.binaries) make-ups with that version of etcd join in.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from harness import network
from harness.binaries import other_etcd_binary
from harness.clusters import KILLABLE, Cluster
from tests.cluster import faults
from tests.cluster.load import Load

FEW_ENTRIES = ("--snapshot-count=60",)
OWN_FEW_ENTRIES = ("--experimental-snapshot-catchup-entries=20",)
LOG_TAIL = 20_000
ROUNDS = int(os.environ.get("RATIFYD_TEST_ROUNDS", "1"))


pytestmark = pytest.mark.timeout(300 * ROUNDS)


@dataclass(frozen=True, slots=True)
class MakeUp:
    """Kinds of the members, and the kind that leads when the fault comes."""

    kinds: tuple[str, ...]
    leader: str

    def __str__(self) -> str:
        counted = "+".join(f"{self.kinds.count(kind)}-{kind}" for kind in dict.fromkeys(self.kinds))
        return counted if len(set(self.kinds)) == 1 else f"{counted}-led-by-{self.leader}"

    @property
    def missing(self) -> bool:
        """Whether this needs a program that is not there."""
        return "other-etcd" in self.kinds and other_etcd_binary() is None


THREE = MakeUp(("ratifyd",) * 3, "ratifyd")
FIVE = MakeUp(("ratifyd",) * 5, "ratifyd")
MIXED = [
    MakeUp(kinds, leader)
    for kinds in (
        ("etcd", "ratifyd", "ratifyd"),
        ("etcd", "etcd", "ratifyd"),
        ("other-etcd", "ratifyd", "ratifyd"),
        ("other-etcd", "other-etcd", "ratifyd"),
        ("etcd", "other-etcd", "ratifyd"),
    )
    for leader in dict.fromkeys(kinds)
]
MAKE_UPS = [make_up for make_up in (THREE, FIVE, *MIXED) if not make_up.missing]
SAMPLE = {
    (THREE, faults.kill_leader),
    (THREE, faults.stop_leader),
    (THREE, faults.wipe_and_rejoin),
    (FIVE, faults.leader_in_the_minority),
    (MIXED[0], faults.deaf_leader),
    (MIXED[1], faults.fall_behind_the_log),
    (MIXED[3], faults.kill_all),
}


def _matrix(chosen: tuple[faults.Fault, ...]) -> list[object]:
    return [
        pytest.param(
            make_up,
            fault,
            id=f"{make_up}-{fault.__name__}",
            marks=() if (make_up, fault) in SAMPLE else (pytest.mark.slow,),
        )
        for make_up in MAKE_UPS
        for fault in chosen
        if fault is not faults.ring or len(make_up.kinds) == 5
    ]


@contextmanager
def cluster_of(make_up: MakeUp, lan: network.Network | None) -> Iterator[Cluster]:
    """A started cluster, led as the make-up says."""
    cluster = Cluster(
        make_up.kinds, FEW_ENTRIES, own_flags=OWN_FEW_ENTRIES, etcd_flags=KILLABLE, network=lan, start=False
    )
    with cluster:
        cluster.start()
        cluster.lead(make_up.leader)
        try:
            yield cluster
        except BaseException:
            for member in cluster.members:
                sys.stderr.write(f"--- {member.name}, {member.kind}:\n{member.log_text()[-LOG_TAIL:]}\n")
            raise


def survive(cluster: Cluster, fault: faults.Fault, make_up: MakeUp) -> None:
    """The fault, under load; then the comparison of everything."""
    load = Load(cluster)
    for _ in range(ROUNDS):
        with load.running():
            load.progress()
            cluster.lead(make_up.leader)
            fault(cluster, load)
            load.progress(faults.FEW)
        load.check()


@pytest.mark.parametrize(("make_up", "fault"), _matrix(faults.PROCESS))
def test_a_fault_of_processes(make_up: MakeUp, fault: faults.Fault) -> None:
    with cluster_of(make_up, None) as cluster:
        survive(cluster, fault, make_up)


@pytest.mark.parametrize(("make_up", "fault"), _matrix(faults.NETWORK))
def test_a_fault_of_the_network(make_up: MakeUp, fault: faults.Fault) -> None:
    reason = network.why_not()
    if reason:
        pytest.skip(reason)
    with network.Network(len(make_up.kinds)) as lan, cluster_of(make_up, lan) as cluster:
        survive(cluster, fault, make_up)
