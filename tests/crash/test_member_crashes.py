"""Power loss at any step of a whole member, and what must be true afterwards.

A member works through a script of writes, compactions and defragmentations while its disk jobs, its callbacks and time
take turns in a random order, until it loses power: between any two of these, or inside a disk job. What comes back must
hold every write that was acknowledged, in a state that a member which never crashed has as well.
"""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from ratifyd.apply import requests
from ratifyd.apply.requests import Row
from ratifyd.proto.rpc_pb2 import (
    CompactionRequest,
    Compare,
    DeleteRangeRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    PutRequest,
    RequestOp,
    TxnRequest,
)
from simulation.disk import Crashed, StepWorker
from tests.support_member import Machine, Member, Waiter

OPTIONS: dict[str, Any] = {
    "snapshot_count": 15,
    "snapshot_catchup_entries": 5,
    "backend_batch_interval_s": 0.3,
    "backend_batch_limit": 25,
    "compaction_batch_limit": 4,
    "compaction_sleep_interval_s": 0.05,
}


class Step:
    """One request of the script; the revision it leads to if the ones before it took place."""

    def __init__(self, row: Row, request: Any, revision: int) -> None:
        self.row = row
        self.request = request
        self.revision = revision


def script(random: Random, length: int) -> list[Step]:
    """Every request changes the revision by exactly one, leases and compactions apart."""
    steps: list[Step] = []
    revision, compacted, leases = 1, 0, 0
    live: set[bytes] = set()
    for number in range(length):
        kind = random.randrange(10)
        key = b"k%d" % random.randrange(6)
        put = PutRequest(key=key, value=b"%d" % number * random.choice((1, 30)))
        row: Row = requests.PUT
        request: Any = put
        if kind == 0 and live:
            key = random.choice(sorted(live))
            row, request = requests.DELETE_RANGE, DeleteRangeRequest(key=key)
            live.discard(key)
            revision += 1
        elif kind == 1 and revision > compacted + 3:
            compacted = random.randint(compacted + 1, revision - 1)
            row, request = requests.COMPACTION, CompactionRequest(revision=compacted)
        elif kind == 2:
            leases += 1
            row, request = requests.LEASE_GRANT, LeaseGrantRequest(ID=leases, TTL=600)
        elif kind == 3 and leases and live:
            # A key of its own on a lease, and the lease's end with it, are two steps apart.
            put.key, put.lease = b"leased%d" % leases, leases
            revision += 1
            steps.append(Step(requests.PUT, put, revision))
            row, request = requests.LEASE_REVOKE, LeaseRevokeRequest(ID=leases)
            leases -= 1
            revision += 1
        elif kind == 4:
            other = PutRequest(key=b"other%d" % number, value=b"o")
            compare = Compare(key=key, target=Compare.VERSION, version=0)
            branch = [RequestOp(request_put=put), RequestOp(request_put=other)]
            row, request = requests.TXN, TxnRequest(compare=[compare], success=branch, failure=branch)
            live |= {key, other.key}
            revision += 1
        else:
            live.add(key)
            revision += 1
        steps.append(Step(row, request, revision))
    return steps


class Life:
    """A member at work on a script, every move chosen by `random`."""

    def __init__(self, member: Member, steps: list[Step], random: Random) -> None:
        self.member = member
        self.steps = steps
        self.random = random
        self.waiters: list[Waiter] = []
        self.defragmented = 0

    @property
    def acknowledged(self) -> int:
        """Length of the shortest prefix of the script that holds all acknowledged requests."""
        done = [at for at, waiter in enumerate(self.waiters, 1) if waiter.done]
        for at in done:
            assert self.waiters[at - 1].error is None
        return max(done, default=0)

    def move(self) -> None:
        member, random = self.member, self.random
        workers = [w for w in (member.wal_worker, member.backend_worker, member.snapshot_worker) if w.jobs]
        kind = random.randrange(12)
        if kind < 4:
            member.clock.run_one() or (workers and random.choice(workers).run_one())
        elif kind < 7 and workers:
            random.choice(workers).run_one()
        elif kind == 7:
            member.clock.run_one() or member.clock.skip()
        elif kind == 8 and random.random() < 0.1:
            member.backend.defragment(self.defragment_done)
        elif member.server.node.proposals.stopped is False and len(self.waiters) < len(self.steps):
            step = self.steps[len(self.waiters)]
            self.waiters.append(member.call(step.row, step.request))

    def defragment_done(self, error: BaseException | None) -> None:
        assert error is None
        self.defragmented += 1

    def run(self, moves: int) -> None:
        for _ in range(moves):
            self.move()
        if self.member.failures:
            raise self.member.failures[0]


def settle(member: Member) -> None:
    """Run until nothing is left to do, compaction included."""
    for _ in range(1000):
        member.settle()
        if not member.state.store.compacting and member.server.is_leader:
            return
        member.clock.advance(0.1)
    raise AssertionError("the member does not settle")


def twin(steps: list[Step]) -> Member:
    """A member that never crashes, after these requests."""
    member = Member().start()
    for step in steps:
        member.do(step.row, step.request)
    settle(member)
    return member


def dump(member: Member) -> Any:
    """Everything the requests of a script decide."""
    rows = {bucket: member.state.buffer.range(bucket, b"\0", None) for bucket in (b"key", b"lease")}
    attached = {lease.id: sorted(lease.keys) for lease in member.state.leases.leases.values()}
    return rows, attached, member.state.store.revision, member.state.store.compacted


def check_recovered(member: Member, steps: list[Step], acknowledged: int) -> int:
    """The state is that after some prefix that holds everything acknowledged; the prefix's length."""
    settle(member)
    member.check()
    revision = member.state.store.revision
    at_least = steps[acknowledged - 1].revision if acknowledged else 1
    assert revision >= at_least, "an acknowledged write is lost"
    found = dump(member)
    candidates = [
        length
        for length in range(acknowledged, len(steps) + 1)
        if (steps[length - 1].revision if length else 1) == revision
    ]
    for length in candidates:
        other = twin(steps[:length])
        if dump(other) == found:
            assert member.hash_kv() == other.hash_kv()
            return length
    raise AssertionError(f"no prefix of at least {acknowledged} requests leads to this state")


def run_lives(seed: int, crash: Callable[[Machine, Random], None]) -> int:
    """Three lives of one member on one machine; `crash` says where each ends. Gives how far the script got."""
    random = Random(seed)
    machine = Machine()
    done: list[Step] = []
    for life_number in range(3):
        steps = done + script(Random(seed * 10 + life_number), 40)
        steps = renumber(done, steps)
        life: Life | None = None
        crash(machine, random)
        try:
            member = Member(machine, stepped=True, **OPTIONS)
            life = Life(member, steps, random)
            life.waiters = [answered() for _ in done]
            member.server.start()
            life.run(random.randrange(30, 600))
        except Crashed:
            pass
        acknowledged = max(life.acknowledged if life is not None else 0, len(done))
        machine.crash(random)
        again = Member(machine, stepped=True, **OPTIONS)
        again.server.start()
        length = check_recovered(again, steps, acknowledged)
        done = steps[:length]
        again.server.stop()
        machine.crash(random)
    return len(done)


def answered() -> Waiter:
    waiter = Waiter()
    waiter(b"", None)
    return waiter


def renumber(done: list[Step], steps: list[Step]) -> list[Step]:
    """Take the revisions from what a member makes of the requests, dropping those it refuses."""
    member = Member().start()
    kept: list[Step] = []
    for step in steps:
        waiter = member.call(step.row, step.request)
        member.settle()
        if waiter.error is None:
            kept.append(Step(step.row, step.request, member.state.store.revision))
    assert len(kept) >= len(done)
    return kept


def anywhere(machine: Machine, random: Random) -> None:
    """Between two moves."""


def inside_a_disk_job(machine: Machine, random: Random) -> None:
    machine.disk.crash_at = machine.disk.steps + random.randrange(5, 150)


@pytest.mark.parametrize("crash", [anywhere, inside_a_disk_job])
@pytest.mark.parametrize("seed", range(12))
def test_power_loss_at_work(seed: int, crash: Callable[[Machine, Random], None]) -> None:
    run_lives(seed, crash)


@pytest.mark.slow
@pytest.mark.parametrize("crash", [anywhere, inside_a_disk_job])
@pytest.mark.parametrize("seed", range(100, 400))
def test_power_loss_at_work_many_times(seed: int, crash: Callable[[Machine, Random], None]) -> None:
    run_lives(seed, crash)


def test_power_loss_at_every_step_of_the_bootstrap() -> None:
    """Until the first write is served: what was begun is either whole or begun anew, and the identity stays."""
    whole = Machine()
    first = Member(whole, stepped=True, **OPTIONS).start()
    last = whole.disk.steps + 3
    identity = (first.server.member_id, first.server.cluster_id)
    fresh = set()
    for at in range(last):
        for keep in range(3):
            machine = Machine()
            machine.disk.crash_at = machine.disk.steps + at
            waiter = Waiter()
            try:
                member = Member(machine, stepped=True, **OPTIONS)
                member.server.start()
                member.settle()
                waiter = member.call(requests.PUT, PutRequest(key=b"k", value=b"v"))
                member.settle()
            except Crashed:
                pass
            machine.crash(Random(at * 10 + keep))
            again = Member(machine, stepped=True, **OPTIONS).start()
            fresh.add(again.fresh)
            assert (again.server.member_id, again.server.cluster_id) == identity
            assert again.server.is_leader
            assert again.state.members.local is not None
            assert again.state.members.local.name == "default"
            again.check()
            if waiter.done:
                assert again.state.store.revision == 2
            again.do(requests.PUT, PutRequest(key=b"k2"))
            again.check()
    assert fresh == {True, False}


def run_until(member: Member, until: Callable[[], bool]) -> None:
    """Let the loop run, the workers held back, until something is so."""
    for _ in range(10_000):
        if until():
            return
        if not member.clock.run_one():
            assert member.wal_worker.run_one() or member.clock.skip()
    raise AssertionError("never so")


def worked(machine: Machine, count: int, **options: Any) -> tuple[Member, list[Waiter]]:
    member = Member(machine, stepped=True, **{**OPTIONS, **options}).start()
    waiters = [member.call(requests.PUT, PutRequest(key=b"k%d" % n, value=b"v")) for n in range(count)]
    return member, waiters


def recovered(machine: Machine, seed: int = 0) -> Member:
    machine.crash(Random(seed))
    again = Member(machine, stepped=True, **OPTIONS).start()
    again.check()
    return again


def test_between_the_log_and_the_backend() -> None:
    machine = Machine()
    member, waiters = worked(machine, 10)
    run_until(member, lambda: all(waiter.done for waiter in waiters))
    assert member.server.committer.committed_index < member.state.consistent_index
    assert recovered(machine).state.store.revision == 11


def test_between_the_log_and_the_answer() -> None:
    machine = Machine()
    member, waiters = worked(machine, 10)
    member.clock.run()
    member.wal_worker.run()
    assert not any(waiter.done for waiter in waiters)
    assert recovered(machine).state.store.revision == 11


def test_between_the_commit_and_its_acknowledgement() -> None:
    machine = Machine()
    member, _ = worked(machine, 10)
    run_until(member, lambda: bool(member.backend_worker.jobs))
    revision = member.state.store.revision
    assert isinstance(member.backend_worker, StepWorker)
    member.backend_worker.jobs.clear()  # power is lost while it is under way
    assert recovered(machine).state.store.revision == revision


@pytest.mark.parametrize("stage", ["before the file", "before its record", "after it"])
def test_around_a_snapshot(stage: str) -> None:
    machine = Machine()
    member, waiters = worked(machine, 20)
    for _ in range(10_000):
        if member.snapshot_worker.jobs:
            break
        member.clock.run_one() or member.wal_worker.run_one() or member.backend_worker.run_one()
    assert member.snapshot_worker.jobs
    answered_until = sum(waiter.done for waiter in waiters)
    if stage != "before the file":
        member.snapshot_worker.run_one()
    if stage == "after it":
        member.settle()
        assert member.raft.log.first_index > 1
        answered_until = len(waiters)
    for seed in range(3):
        machine.crash(Random(seed))
        again = Member(machine, stepped=True)
        assert (again.raft.log.first_index > 1) == (stage == "after it")
        again.start()
        again.check()
        assert again.state.store.revision >= 1 + answered_until


def test_in_the_middle_of_a_compaction() -> None:
    machine = Machine()
    member = Member(machine, stepped=True, **OPTIONS).start()
    for _ in range(30):
        member.do(requests.PUT, PutRequest(key=b"k", value=b"v"))
    member.do(requests.COMPACTION, CompactionRequest(revision=30))
    expected = twin([Step(requests.PUT, PutRequest(key=b"k", value=b"v"), 0)] * 30)
    expected.do(requests.COMPACTION, CompactionRequest(revision=30))
    settle(expected)
    for seed in range(4):
        member.clock.advance(0.06)
        member.settle()
        assert member.state.store.compacting
        member = recovered(machine, seed)
        assert member.state.store.compacted == 30
    settle(member)
    assert dump(member) == dump(expected)
    assert member.hash_kv() == expected.hash_kv()


def test_during_a_defragmentation() -> None:
    machine = Machine()
    member, waiters = worked(machine, 10)
    done: list[BaseException | None] = []
    member.backend.defragment(done.append)
    run_until(member, lambda: all(waiter.done for waiter in waiters))
    assert not done
    again = recovered(machine)
    assert again.state.store.revision == 11
