"""What a member does by itself: leases, its version and name, alarms of space, streams that need a leader."""

from collections.abc import Callable
from typing import Any

import pytest

from ratifyd.apply import requests
from ratifyd.apply.requests import PUT_OVERHEAD_BYTES, cost_bound
from ratifyd.errors import ContextDeadlineExceeded, EtcdError, NoSpace, Timeout
from ratifyd.membership import Change, ChangeKind, Membership
from ratifyd.membership import Member as Member_
from ratifyd.proto.rpc_pb2 import (
    CORRUPT,
    NOSPACE,
    AlarmRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    PutRequest,
    RequestOp,
    TxnRequest,
)
from ratifyd.server.quota import DEFAULT_QUOTA_BYTES, Quota
from ratifyd.server.versions import Publisher, VersionMonitor
from tests.support_member import Member


@pytest.fixture
def member() -> Member:
    return Member().start()


def grant(member: Member, lease: int = 1, ttl: int = 5) -> None:
    member.do(requests.LEASE_GRANT, LeaseGrantRequest(ID=lease, TTL=ttl))


def test_a_lease_ends_on_time_with_its_keys(member: Member) -> None:
    grant(member)
    member.do(requests.PUT, PutRequest(key=b"k", lease=1))
    member.clock.advance(4.8)
    assert member.state.store.get(b"k") is not None
    member.clock.advance(0.5)
    assert member.state.store.get(b"k") is None
    assert not member.state.leases.leases
    assert member.server.leasing.expired_total == 1
    member.check()


def test_a_renewal_gives_the_whole_time_again(member: Member) -> None:
    grant(member)
    answers: list[int] = []
    for _ in range(3):
        member.clock.advance(4)
        member.server.leasing.renew(1, member.clock.now, answers.append)
    assert answers == [5, 5, 5]
    assert 1 in member.state.leases.leases
    member.server.leasing.renew(77, member.clock.now, answers.append)
    assert answers[3:] == [0]
    lease = member.state.leases.leases[1]
    member.clock.advance(2)
    assert member.server.leasing.remaining_s(lease, member.clock.now) == pytest.approx(3)


def test_a_new_leader_decides_about_leases_once_it_knows_what_is_committed() -> None:
    """Its log may hold the end of a lease, or the end of its rest, without its knowing that this is committed."""
    member = Member(feature_gates="LeaseCheckpoint=true,LeaseCheckpointPersist=true").start()
    grant(member, ttl=1000)
    server = member.server
    server.leasing.demote()
    member.state.term -= 1  # as long as nothing of its own term is applied
    member.state.leases.checkpoint(1, 10)
    server.promote_leases()
    assert not server.leasing.is_primary
    answers: list[object] = []
    server.leases.renew(1, lambda ttl, error: answers.append((ttl, error)), lambda lease: None)
    server.leases.time_to_live(1, False, lambda found, error: answers.append((found and found.TTL, error)))
    assert not answers
    member.state.leases.checkpoint(1, 0)  # which was on record all the time
    member.state.term += 1
    member.settle()
    assert server.leasing.is_primary
    assert sorted(map(str, answers)) == ["(1000, None)", "(1000, None)"]
    assert server.leasing.remaining_s(member.state.leases.leases[1], member.clock.now) == pytest.approx(1000, abs=2)


def test_a_renewal_too_late_hears_of_the_end_only(member: Member) -> None:
    """Semantics 8.7."""
    stepped = Member(stepped=True).start()
    grant(stepped)
    stepped.clock.advance(5.2)  # the revocation is proposed, not durable
    answers: list[int] = []
    stepped.server.leasing.renew(1, stepped.clock.now, answers.append)
    assert answers == []
    stepped.settle()
    assert answers == [0]


def test_leases_start_afresh_after_a_restart(member: Member) -> None:
    grant(member, ttl=10)
    member.clock.advance(8)
    again = member.restart()
    again.clock.advance(8)
    assert 1 in again.state.leases.leases
    again.clock.advance(4)
    assert not again.state.leases.leases


def test_leases_are_listed_by_their_end(member: Member) -> None:
    for lease, ttl in ((1, 30), (2, 10), (3, 20)):
        grant(member, lease, ttl)
    assert member.server.leasing.in_order(member.clock.now) == [2, 3, 1]
    member.server.leasing.demote()
    member.state.term -= 1  # so that it stays so
    assert member.server.leasing.in_order(member.clock.now) == [1, 2, 3]
    assert member.server.leasing.remaining_s(member.state.leases.leases[1], member.clock.now) == 30
    member.clock.advance(60)
    assert len(member.state.leases.leases) == 3  # only a leader has a clock


def test_an_expiry_that_fails_is_tried_again(member: Member) -> None:
    grant(member)
    proposed: list[bytes] = []
    member.server.leasing._propose = lambda body, answer: proposed.append(body)
    member.clock.advance(5.2)
    assert proposed == [LeaseRevokeRequest(ID=1).SerializeToString()]
    member.clock.advance(3.2)
    assert len(proposed) == 2


def test_many_leases_are_revoked_in_passes(member: Member) -> None:
    for lease in range(1, 601):
        member.call(requests.LEASE_GRANT, LeaseGrantRequest(ID=lease, TTL=5))
    member.settle()
    proposed: list[bytes] = []
    member.server.leasing._propose = lambda body, answer: proposed.append(body)
    sizes = []
    for _ in range(60):
        member.clock.advance(0.1)
        sizes.append(len(proposed))
    steps = {after - before for before, after in zip([0, *sizes], sizes)}
    assert max(steps) == 500
    assert len(proposed) == 600


@pytest.mark.parametrize(
    ("configured", "limit"), [(0, DEFAULT_QUOTA_BYTES), (-1, 0), (12345, 12345), (1 << 40, 1 << 40)]
)
def test_the_quota(configured: int, limit: int) -> None:
    quota = Quota(configured, lambda: 1000)
    assert quota.limit_bytes == limit
    if limit:
        assert not quota.exceeded_by(limit - 1001)
        assert quota.exceeded_by(limit - 1000)
    else:
        assert not quota.exceeded_by(1 << 60)


@pytest.mark.parametrize("limit", [-1, 1000, 1256, 1257, 1320, 1321, 12345, 1 << 40])
def test_the_room_is_what_the_quota_leaves_whatever_is_written(limit: int) -> None:
    quota = Quota(limit, lambda: 1000)
    room = quota.room()
    if limit < 0:
        assert room > 1 << 40
        return
    assert quota.exceeded_by(cost_bound(bytes(room) if room < 10**6 else b"")) == (room < 10**6)
    assert not room or not quota.exceeded_by(PUT_OVERHEAD_BYTES + 64 * (room - 1))


def test_the_room_follows_the_commits() -> None:
    member = Member(quota_backend_bytes=1 << 20).start()
    before = member.state.room
    member.do(requests.PUT, PutRequest(key=b"k", value=bytes(5000)))
    member.server.committer.sync(lambda: None)
    member.settle()
    assert member.state.room == member.server.quota.room() < before


def test_a_write_beyond_the_quota_is_done_and_raises_the_alarm() -> None:
    """Semantics 10.4: the gate in apply comes after the fact; from then on the alarm refuses."""
    member = Member(quota_backend_bytes=4000).start()
    waiter = member.call(requests.PUT, PutRequest(key=b"k", value=bytes(5000)))
    member.settle()
    assert isinstance(waiter.error, NoSpace)
    assert member.state.store.get(b"k") is not None
    assert list(member.state.alarms) == [(member.server.member_id, NOSPACE)]
    revision = member.state.store.revision
    with pytest.raises(NoSpace):
        member.do(requests.PUT, PutRequest(key=b"small"))
    with pytest.raises(NoSpace):
        member.do(requests.LEASE_GRANT, LeaseGrantRequest(ID=1, TTL=5))
    assert member.state.store.revision == revision
    again = member.restart(quota_backend_bytes=4000)
    assert list(again.state.alarms) == [(again.server.member_id, NOSPACE)]
    clear = AlarmRequest(action=AlarmRequest.DEACTIVATE, memberID=again.server.member_id, alarm=NOSPACE)
    again.do(requests.ALARM, clear)
    assert not again.state.alarms


def test_what_an_alarm_refuses_does_not_get_into_the_log(member: Member) -> None:
    """Members of etcd might do it. That the alarm is still on, a read tells."""
    put = PutRequest(key=b"k")
    nested = TxnRequest(success=[RequestOp(request_txn=TxnRequest(success=[RequestOp(request_put=put)]))])
    member.state.alarms[5, NOSPACE] = None
    before = member.server.node.raft.log.last_index
    for row, request in ((requests.PUT, put), (requests.TXN, nested), (requests.LEASE_GRANT, LeaseGrantRequest(ID=1))):
        with pytest.raises(NoSpace):
            member.do(row, request)
    assert member.server.node.raft.log.last_index == before
    waiter = member.call(requests.PUT, put)
    member.state.alarms.clear()
    member.settle()
    assert waiter.error is None
    assert member.state.store.get(b"k") is not None


def test_a_lease_does_not_end_while_the_cluster_is_corrupt(member: Member) -> None:
    grant(member)
    member.state.alarms[5, CORRUPT] = None
    before = member.server.node.raft.log.last_index
    member.clock.advance(10)
    assert member.server.node.raft.log.last_index == before
    member.state.alarms.clear()
    member.clock.advance(4)
    assert not member.state.leases.leases
    assert member.server.leasing.expired_total == 1


def test_the_alarm_is_proposed_once_at_a_time(member: Member) -> None:
    for _ in range(5):
        member.server.raise_nospace()
    assert member.server.proposals.pending == 1
    member.settle()
    assert len(member.state.alarms) == 1
    member.server.raise_nospace()
    assert member.server.proposals.pending == 1


class Proposed:
    """Where proposals go; entries of the older form are decoded as members would."""

    def __init__(self) -> None:
        self.seen: list[tuple[requests.Row, bytes, Any]] = []

    def propose(self, row: requests.Row, body: bytes, answer: Any) -> None:
        self.seen.append((row, body, answer))

    def propose_encoded(self, encode: Callable[[int], bytes], answer: Any) -> None:
        request_id, row, request, _ = requests.decode(encode(7))
        assert request_id == 7
        self.seen.append((row, request.SerializeToString(), answer))


class Versions:
    """Other members, as they tell their versions; None: no answer."""

    def __init__(self, *versions: str | None) -> None:
        self.versions = list(versions)

    def call(self, urls: Any, method: str, path: str, body: bytes, timeout_s: float, done: Any) -> None:
        version = self.versions.pop(0)
        if version is None:
            done(0, b"")
        else:
            done(200, b'{"etcdserver":"%s","etcdcluster":"3.5.0"}' % version.encode())


def members_of(count: int, version: str) -> Membership:
    members = Membership(1, 99)
    for number in range(1, count + 1):
        members.apply(Change(ChangeKind.ADD_NODE, Member_(number, (f"http://m{number}:1",))))
    members.cluster_version = version
    return members


@pytest.mark.parametrize(
    ("current", "others", "wanted"),
    [
        ("", (None, "3.6.1"), b"3.0.0"),
        ("", ("3.5.1", "3.6.1"), b"3.5.0"),
        ("3.0.0", ("3.5.1", "3.5.9"), b"3.5.0"),
        ("3.5.0", ("3.6.0", "3.7.0"), b"3.6.0"),
        ("3.5.0", (None, "3.6.0"), None),
        ("3.6.0", ("3.5.1", "3.5.1"), None),
    ],
)
def test_the_cluster_version_is_that_of_the_oldest_member(
    current: str, others: tuple[str | None, ...], wanted: bytes | None
) -> None:
    proposed = Proposed()
    VersionMonitor(members_of(3, current), Versions(*others), proposed).tick(100)
    assert [row for row, _, _ in proposed.seen] == [requests.CLUSTER_VERSION_SET] * (wanted is not None)
    assert wanted is None or wanted in proposed.seen[0][1]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b"3",
        b"null",
        b'{"etcdserver":3.5}',
        b'{"etcdserver":["3","5"]}',
        b'{"etcdserver":null}',
        b'{"etcdserver":"3"}',
        b'{"etcdserver":"-3.5.0"}',
        b'{"etcdserver":"3.%b.0"}' % (b"5" * 5000),
        b'{"etcdserver":%b}' % (b"5" * 5000),
        b"[" * 100_000,
        b'{"etcdserver":' * 100_000,
    ],
    ids=lambda body: repr(body[:25]),
)
def test_an_answer_that_tells_no_version_is_none_at_all(body: bytes) -> None:
    class Odd(Versions):
        def call(self, urls: Any, method: str, path: str, _: bytes, timeout_s: float, done: Any) -> None:
            done(200, body)

    proposed = Proposed()
    monitor = VersionMonitor(members_of(3, ""), Odd(), proposed)
    monitor.tick(100)
    monitor.tick(104)
    assert [b"3.0.0" in request for _, request, _ in proposed.seen] == [True, True]  # as if nobody answered


def test_a_downgrade_lowers_the_version_and_ends_when_a_member_keeps_it_there() -> None:
    proposed = Proposed()
    members = members_of(2, "3.6.0")
    members.set_downgrade(b'{"target-version":"3.5.0","enabled":true}')
    monitor = VersionMonitor(members, Versions("3.6.1", "3.6.1", "3.5.1"), proposed)
    monitor.tick(100)
    assert b"3.5.0" in proposed.seen[0][1]
    members.cluster_version = "3.5.0"
    monitor.tick(104)
    monitor.tick(108)
    assert [row for row, _, _ in proposed.seen] == [requests.CLUSTER_VERSION_SET, requests.DOWNGRADE_INFO_SET]
    assert proposed.seen[1][1] == b""


@pytest.mark.parametrize(
    ("version", "count", "first"), [("3.6.0", 3, 0x0A), ("", 1, 0x0A), ("", 3, 8), ("3.5.0", 1, 8)]
)
def test_the_name_is_published_in_the_form_the_cluster_understands(version: str, count: int, first: int) -> None:
    entries: list[bytes] = []

    class Entries(Proposed):
        def propose(self, row: requests.Row, body: bytes, answer: Any) -> None:
            entries.append(b"\x0a")

        def propose_encoded(self, encode: Callable[[int], bytes], answer: Any) -> None:
            entries.append(encode(7))

    Publisher(members_of(count, version), "m", ("http://a",), Entries(), lambda: None).tick(0)
    assert entries[0][0] == first
    if first == 8:
        _, row, request, _ = requests.decode(entries[0])
        assert row is requests.CLUSTER_MEMBER_ATTR_SET
        assert (request.member_ID, request.member_attributes.name) == (1, "m")
        assert list(request.member_attributes.client_urls) == ["http://a"]


def test_the_name_is_published_until_the_log_has_it() -> None:
    proposed, done = Proposed(), []
    publisher = Publisher(members_of(1, ""), "m", ("http://a",), proposed, lambda: done.append(True))
    publisher.tick(0)
    publisher.tick(1)
    assert len(proposed.seen) == 1
    proposed.seen[0][2](b"", Timeout())
    assert not done
    publisher.tick(2)
    assert len(proposed.seen) == 2
    proposed.seen[1][2](b"", None)
    publisher.tick(3)
    assert done == [True]
    assert len(proposed.seen) == 2


def test_the_version_is_decided_once_and_only_raised(member: Member) -> None:
    proposed = Proposed()
    members = member.state.members
    decided = members.cluster_version
    assert decided
    monitor = VersionMonitor(members, Versions(), proposed)
    monitor.tick(100)
    assert not proposed.seen
    members.cluster_version = "3.0.0"
    monitor.tick(103.9)
    assert not proposed.seen
    monitor.tick(104)
    assert len(proposed.seen) == 1
    assert decided.encode() in proposed.seen[0][1]
    monitor.tick(108)
    assert len(proposed.seen) == 2
    members.cluster_version = "99.9.0"
    monitor.tick(300)
    assert len(proposed.seen) == 2


def test_ready_means_published() -> None:
    member = Member()
    ready: list[str] = []
    local = member.state.members
    member.server.on_ready = lambda: ready.append(local.members[member.server.member_id].name)
    member.start()
    assert ready == ["default"]
    assert local.cluster_version


class Clinging:
    def __init__(self) -> None:
        self.lost = 0

    def leader_lost(self) -> None:
        self.lost += 1


def test_without_a_leader_everything_ends_in_time() -> None:
    """Two members of which one runs: proposals and reads end after seven seconds, and nothing is left of them."""
    member = Member(initial_cluster="default=http://localhost:2380,other=http://localhost:3380").start()
    assert not member.server.leader_id
    errors: list[str] = []

    def read(_argument: object, error: EtcdError | None) -> None:
        errors.append(type(error).__name__)

    clinging = Clinging()
    member.server.needing_leader[clinging] = None
    waiter = member.call(requests.PUT, PutRequest(key=b"k"))
    member.server.read(read, None)
    member.clock.advance(2.8)
    assert not clinging.lost
    member.clock.advance(0.4)
    assert clinging.lost
    member.clock.advance(3.5)
    assert not waiter.done
    assert not errors
    member.clock.advance(0.5)
    assert isinstance(waiter.error, ContextDeadlineExceeded)
    assert errors == ["Timeout"]
    assert not member.server.proposals.queued
    assert not member.server.reads.queued
    assert not member.failures


@pytest.mark.parametrize(("gates", "left"), [("", 1000), ("LeaseCheckpoint=true,LeaseCheckpointPersist=true", 700)])
def test_the_rest_of_a_lease_outlives_a_change_of_leader_with_checkpoints(gates: str, left: int) -> None:
    """Semantics 8.18, 8.19: by default a new leader gives every lease its whole time again."""
    member = Member(feature_gates=gates).start()
    grant(member, ttl=1000)
    member.clock.advance(303)
    lease = member.state.leases.leases[1]
    assert member.server.leasing.remaining_s(lease, member.clock.now) == pytest.approx(697, abs=1)
    member.server.leasing.promote(member.clock.now)
    extended = member.config.election_timeout_ms / 1000
    assert member.server.leasing.remaining_s(lease, member.clock.now) == pytest.approx(left + extended, abs=0.5)
    again = member.restart()
    lease = again.state.leases.leases[1]
    assert again.server.leasing.remaining_s(lease, again.clock.now) == pytest.approx(left + extended, abs=0.5)
    answers: list[int] = []
    again.server.leasing.renew(1, again.clock.now, answers.append)
    assert bool(answers) == (not gates), "a rest that is in the log must be cleared there before it is told"
    again.settle()
    assert answers == [1000]
    again.server.leasing.promote(again.clock.now)
    assert again.server.leasing.remaining_s(lease, again.clock.now) == pytest.approx(1000 + extended, abs=0.5)
