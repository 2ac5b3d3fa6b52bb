"""What a member does about leadership: why a request died, whom to ask, whom to hand over to. Semantics 13.4, 13.5."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from ratifyd.errors import (
    BadLeaderTransferee,
    EtcdError,
    NoLeader,
    NotLeader,
    Timeout,
    TimeoutDueToConnectionLost,
    TimeoutDueToLeaderFail,
    TimeoutLeaderTransfer,
)
from ratifyd.membership import Member
from ratifyd.raft.roles import Role
from ratifyd.server.leader import Leadership
from simulation.clock import SimClock

ELECTION_S = 1.0


@dataclass
class World:
    """A member with id 1 among three, as Leadership sees it."""

    clock: SimClock = field(default_factory=SimClock)
    leader: int = 0
    role: Role = Role.FOLLOWER
    connected: dict[int, float] = field(default_factory=dict)
    """Since when each other member is connected."""
    replies: list[tuple[int, bytes]] = field(default_factory=list)
    asked: list[tuple[Sequence[str], str, str, bytes]] = field(default_factory=list)
    headers: list[Sequence[tuple[str, str]]] = field(default_factory=list)
    transfers: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        members = {number: Member(number, (f"http://m{number}:1",)) for number in (1, 2, 3)}
        members[4] = Member(4, ("http://m4:1",), is_learner=True)
        world = self

        class Raft:
            id = 1

            @property
            def leader_id(self) -> int:
                return world.leader

            @property
            def role(self) -> Role:
                return world.role

            def transfer_leader(self, target: int) -> None:
                world.transfers.append(target)

        membership = SimpleNamespace(members=members, voters=[members[number] for number in (1, 2, 3)])
        parts: Any = SimpleNamespace(
            clock=self.clock,
            raft=Raft(),
            state=SimpleNamespace(members=membership),
            transport=SimpleNamespace(active_since=self.connected.get),
            calls=self,
        )
        self.leadership = Leadership(parts, timeout_s=7.0, election_s=ELECTION_S, tick_s=0.1)

    def call(
        self,
        urls: Sequence[str],
        method: str,
        path: str,
        body: bytes,
        left: float,
        answered: Callable[[int, bytes], None],
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.headers.append(tuple(headers))
        self.asked.append((urls, method, path, body))
        status, answer = self.replies.pop(0)
        self.clock.call_soon(answered, status, answer)


@pytest.mark.parametrize(
    ("leader", "role", "connected", "expected"),
    [
        (0, Role.FOLLOWER, {}, Timeout),
        (2, Role.FOLLOWER, {2: 900.0}, Timeout),
        (2, Role.FOLLOWER, {2: 1003.0}, TimeoutDueToConnectionLost),  # connected again only after the request
        (2, Role.FOLLOWER, {3: 900.0}, TimeoutDueToConnectionLost),
        (1, Role.LEADER, {2: 900.0}, TimeoutDueToConnectionLost),  # two of four: a learner counts, as with etcd
        (1, Role.LEADER, {2: 900.0, 3: 900.0}, Timeout),
        (1, Role.LEADER, {2: 1003.0, 3: 1003.0}, TimeoutDueToConnectionLost),
        (1, Role.LEADER, {}, TimeoutDueToConnectionLost),
    ],
)
def test_why_a_request_died(leader: int, role: Role, connected: dict[int, float], expected: type[EtcdError]) -> None:
    world = World(leader=leader, role=role, connected=connected)
    assert type(world.leadership.why_timed_out(1001.0)) is expected


@pytest.mark.parametrize(
    ("since", "expected"),
    [(1007.9, Timeout), (1008.1, TimeoutDueToLeaderFail), (1009.9, TimeoutDueToLeaderFail), (1010.1, Timeout)],
)
def test_a_leader_that_failed_takes_the_requests_of_two_elections_with_it(
    since: float, expected: type[EtcdError]
) -> None:
    world = World(leader=2, connected={2: 900.0})
    world.leadership.changed(1010.0)
    assert type(world.leadership.why_timed_out(since)) is expected


def test_losing_the_leader_is_no_election() -> None:
    world = World(leader=2, connected={2: 900.0})
    world.leadership.changed(1010.0)
    world.leader = 0
    world.leadership.changed(1020.0)
    assert type(world.leadership.why_timed_out(1019.0)) is Timeout
    assert type(world.leadership.why_timed_out(1009.0)) is TimeoutDueToLeaderFail


def test_texts_on_the_wire() -> None:
    assert [str(error.message) for error in (Timeout, TimeoutDueToLeaderFail, TimeoutDueToConnectionLost)] == [
        "etcdserver: request timed out",
        "etcdserver: request timed out, possibly due to previous leader failure",
        "etcdserver: request timed out, possibly due to connection lost",
    ]


class Asked:
    """A question to the leader, and what came of it."""

    def __init__(self, world: World) -> None:
        self.taken: list[bytes] = []
        self.failed: list[EtcdError] = []
        world.leadership.ask("/leases", b"body", self.take, self.failed.append)
        self.world = world

    def take(self, status: int, body: bytes) -> bool:
        if status == 200:
            self.taken.append(body)
        return status == 200


def test_the_leader_is_asked_until_it_answers_well() -> None:
    world = World(leader=2, replies=[(0, b""), (408, b"late"), (200, b"answer")])
    asked = Asked(world)
    world.clock.advance(1.0)
    assert asked.taken == [b"answer"]
    assert not asked.failed
    assert world.asked == [(("http://m2:1",), "POST", "/leases", b"body")] * 3


def test_headers_go_with_each_question() -> None:
    world = World(leader=2, replies=[(0, b""), (200, b"answer")])
    failed: list[EtcdError] = []
    headers = [("Authorization", "token")]
    world.leadership.ask("/members/promote/5", b"", lambda status, _: status == 200, failed.append, headers)
    world.clock.advance(1.0)
    assert world.headers == [tuple(headers)] * 2
    assert not failed


def test_a_question_follows_the_leadership() -> None:
    world = World(replies=[(400, b"not a primary lessor"), (200, b"answer")])
    asked = Asked(world)
    world.clock.advance(2.0)
    assert not world.asked
    world.leader = 2
    world.clock.advance(0.06)
    world.leader = 3
    world.clock.advance(0.2)
    assert asked.taken == [b"answer"]
    assert [urls for urls, *_ in world.asked] == [("http://m2:1",), ("http://m3:1",)]


@pytest.mark.parametrize(("leader", "error"), [(0, NoLeader), (2, Timeout)])
def test_a_question_ends_in_time(leader: int, error: type[EtcdError]) -> None:
    world = World(leader=leader, replies=[(0, b"")] * 1000)
    asked = Asked(world)
    world.clock.advance(6.8)
    assert not asked.failed
    world.clock.advance(0.3)
    assert [type(each) for each in asked.failed] == [error]
    world.clock.advance(10)
    assert len(asked.failed) == 1


def test_handing_over() -> None:
    world = World(leader=1, role=Role.LEADER)
    done: list[EtcdError | None] = []
    for target in (4, 9):
        world.leadership.transfer(target, done.append, timeout_s=None)
    world.leadership.transfer(1, done.append, timeout_s=None)
    assert [type(error) for error in done] == [BadLeaderTransferee, BadLeaderTransferee, type(None)]
    world.leadership.transfer(2, done.append, timeout_s=3.0)
    world.clock.advance(1.0)
    assert len(done) == 3 and world.transfers == [2]
    world.leader = 2
    world.clock.advance(0.2)
    assert done[3:] == [None]
    world.leader, done[:] = 1, []
    world.leadership.transfer(3, done.append, timeout_s=3.0)
    world.clock.advance(3.2)
    assert [type(error) for error in done] == [TimeoutLeaderTransfer]
    world.role, done[:] = Role.FOLLOWER, []
    world.leadership.transfer(2, done.append, timeout_s=None)
    assert [type(error) for error in done] == [NotLeader]


def test_the_successor_is_the_voter_connected_for_longest() -> None:
    world = World(role=Role.LEADER, connected={2: 20.0, 3: 10.0, 4: 1.0})
    assert world.leadership.successor() == 3
    world.connected.clear()
    assert world.leadership.successor() == 0
    world.role = Role.FOLLOWER
    world.connected[2] = 1.0
    assert world.leadership.successor() == 0
