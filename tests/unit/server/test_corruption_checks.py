"""The corruption checks against members that answer what they are told to (semantics 10.13)."""

import json
from typing import Any

import pytest

from ratifyd.errors import EtcdError, Timeout
from ratifyd.membership import Change, ChangeKind, Member, Membership
from ratifyd.mvcc.buffer import WriteBuffer
from ratifyd.mvcc.hash import KvHash, finish
from ratifyd.mvcc.store import Store
from ratifyd.mvcc.watch import WatchHub
from ratifyd.proto.rpc_pb2 import CORRUPT, AlarmRequest
from ratifyd.server.corruption import CorruptionChecks, PeerHash, read_peer_hash
from ratifyd.server.slices import Slices
from ratifyd.storage.memory import MemoryBackend
from ratifyd.storage.worker import SoonWorker
from simulation.clock import SimClock

LOCAL, SECOND, THIRD = 1, 2, 3
Answer = tuple[int, bytes]


def told(found: KvHash, revision: int) -> Answer:
    """As etcd writes it: zeros are left out."""
    fields = {
        "header": {"revision": revision},
        "hash": found.hash,
        "compact_revision": found.compact_revision,
        "hash_revision": found.revision,
    }
    return 200, json.dumps(fields).encode()


class World:
    """A leader with a store of its own, and what the two others answer."""

    def __init__(self, *, period_s: float = 0, compact_period_s: float = 0) -> None:
        self.clock = SimClock()
        self.store = Store(WriteBuffer(MemoryBackend(SoonWorker(self.clock.call_soon))), WatchHub())
        members = Membership(LOCAL, 99)
        for number in (LOCAL, SECOND, THIRD):
            members.apply(Change(ChangeKind.ADD_NODE, Member(number, (f"http://m{number}:1",), "", (), False)))
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, int]] = []
        self.alarms: list[int] = []
        self.read_error: EtcdError | None = None
        self.during_read: Any = lambda: None
        self.checks = CorruptionChecks(
            self.store,
            Slices(self.clock, self.fail),
            members,
            self,
            self,
            timeout_s=7,
            period_s=period_s,
            compact_period_s=compact_period_s,
            now=self.clock.time(),
        )

    def fail(self, error: BaseException) -> None:
        raise error

    def call(self, urls: Any, method: str, path: str, body: bytes, timeout_s: float, done: Any, headers: Any) -> None:
        assert dict(headers) == {"X-Etcd-Cluster-ID": "63"}
        assert (method, path) == ("GET", "/members/hashkv")
        revision = json.loads(body)["revision"]
        self.asked.append((urls[0], revision))
        answer = self.answers[urls[0]]
        done(*(answer(revision) if callable(answer) else answer))

    def propose(self, row: Any, body: bytes, answer: Any) -> None:
        request = AlarmRequest.FromString(body)
        assert (row.field, request.action, request.alarm) == ("alarm", AlarmRequest.ACTIVATE, CORRUPT)
        self.alarms.append(request.memberID)
        answer(b"", None)

    def read(self, read: Any, argument: Any) -> None:
        self.during_read()
        read(argument, self.read_error)

    def put(self, count: int, key: bytes = b"k") -> None:
        for number in range(count):
            with self.store.write() as txn:
                txn.put(key, b"%d" % number)

    def compact(self, revision: int) -> None:
        self.store.compact(revision)
        while self.store.compaction_step():
            pass

    def own(self, revision: int = 0) -> KvHash:
        return finish(self.store.hash_kv(revision))

    def tell(self, second: Any, third: Any) -> None:
        self.answers = {"http://m2:1": second, "http://m3:1": third}

    def tick(self, seconds: float, *, leading: bool = True) -> None:
        self.clock.advance(seconds)
        self.checks.tick(self.clock.time(), leading=leading)
        self.clock.run()

    def check_initially(self) -> str:
        reasons: list[str] = []
        self.checks.check_initially(reasons.append)
        self.clock.run()
        (reason,) = reasons
        return reason


GONE: Answer = (0, b"")
COMPACTED: Answer = (400, b"mvcc: required revision has been compacted\n")


@pytest.fixture
def periodic() -> World:
    world = World(period_s=10)
    world.put(5)
    return world


def healthy(world: World) -> Any:
    return lambda revision: told(world.own(revision), world.store.revision)


def test_equal_members_are_left_alone(periodic: World) -> None:
    periodic.tell(healthy(periodic), healthy(periodic))
    for _ in range(3):
        periodic.tick(10)
    assert periodic.asked == [("http://m2:1", 6), ("http://m3:1", 6)] * 3
    assert periodic.alarms == []


def test_only_a_leader_checks_and_only_when_it_is_time(periodic: World) -> None:
    periodic.tell(healthy(periodic), healthy(periodic))
    periodic.tick(9.9)
    periodic.tick(0.2, leading=False)
    periodic.tick(9)
    assert periodic.asked == []
    periodic.tick(1.1)
    assert len(periodic.asked) == 2
    off = World()
    off.tick(1000)
    assert off.asked == []


@pytest.mark.parametrize("missing", [GONE, COMPACTED, (200, b"[]"), (200, b"{"), (200, b'{"hash":"x"}'), (412, b"no")])
def test_what_is_no_hash_is_no_difference(periodic: World, missing: Answer) -> None:
    periodic.tell(missing, healthy(periodic))
    periodic.tick(10)
    assert periodic.alarms == []


def test_a_different_hash_names_its_member(periodic: World) -> None:
    own = periodic.own()
    periodic.tell(healthy(periodic), told(own._replace(hash=own.hash ^ 1), 6))
    periodic.tick(10)
    assert periodic.alarms == [THIRD]


def test_the_first_difference_alone_is_alarmed(periodic: World) -> None:
    own = periodic.own()
    different = told(own._replace(hash=own.hash ^ 1), 6)
    periodic.tell(different, different)
    periodic.tick(10)
    assert periodic.alarms == [SECOND]


def test_hashes_of_other_compactions_are_not_compared(periodic: World) -> None:
    periodic.tell(told(KvHash(7, -1, 6), 6), healthy(periodic))
    periodic.compact(4)
    periodic.tick(10)
    assert periodic.alarms == []


def test_nobody_is_ahead_of_the_leader(periodic: World) -> None:
    own = periodic.own()
    periodic.tell(told(own, 7), healthy(periodic))
    periodic.tick(10)
    assert periodic.alarms == [SECOND]
    periodic.alarms.clear()
    periodic.tell(healthy(periodic), told(own._replace(compact_revision=5), 6))
    periodic.tick(10)
    assert periodic.alarms == [THIRD]


def test_what_was_written_meanwhile_is_known_after_the_read(periodic: World) -> None:
    periodic.tell(told(periodic.own(), 7), healthy(periodic))
    periodic.during_read = lambda: periodic.put(1)
    periodic.tick(10)
    assert periodic.alarms == []


def test_a_member_that_disagrees_with_itself(periodic: World) -> None:
    periodic.tell(healthy(periodic), healthy(periodic))

    def rot() -> None:
        rows = periodic.store._buffer.revisions
        rows[next(iter(rows))] += b"\x30\x01"

    periodic.during_read = rot
    periodic.tick(10)
    assert periodic.alarms == [LOCAL]


def test_a_read_that_fails_ends_the_check(periodic: World) -> None:
    own = periodic.own()
    periodic.tell(healthy(periodic), told(own._replace(hash=1), 6))
    periodic.read_error = Timeout()
    periodic.tick(10)
    assert periodic.alarms == []
    periodic.read_error = None
    periodic.tick(10)
    assert periodic.alarms == [THIRD]


# --- compactions


@pytest.fixture
def compacted() -> World:
    world = World(compact_period_s=60)
    world.put(20)
    for revision in (5, 10, 15):
        world.compact(revision)
    return world


def of_compaction(world: World, *, corrupt: bool = False) -> Any:
    def answer(revision: int) -> Answer:
        found = world.own(revision)
        return told(found._replace(hash=found.hash ^ corrupt), world.store.revision)

    return answer


def test_the_newest_compaction_is_checked_once(compacted: World) -> None:
    compacted.tell(of_compaction(compacted), of_compaction(compacted))
    compacted.tick(60)
    compacted.tick(60)
    assert [revision for _, revision in compacted.asked] == [15, 15]
    compacted.compact(18)
    compacted.tick(60)
    assert [revision for _, revision in compacted.asked] == [15, 15, 18, 18]
    assert compacted.alarms == []


def test_an_older_one_does_where_a_member_lacks_the_newest(compacted: World) -> None:
    def behind(revision: int) -> Answer:
        return GONE if revision == 15 else of_compaction(compacted)(revision)

    def elsewhere(revision: int) -> Answer:
        return told(KvHash(1, 99, revision), 21) if revision == 10 else of_compaction(compacted)(revision)

    compacted.tell(behind, elsewhere)
    compacted.tick(60)
    assert [revision for _, revision in compacted.asked] == [15, 15, 10, 10, 5, 5]
    assert compacted.alarms == []
    compacted.tick(60)
    assert [revision for _, revision in compacted.asked[6:]] == [15, 15, 10, 10]


def test_the_minority_is_alarmed(compacted: World) -> None:
    compacted.tell(of_compaction(compacted), of_compaction(compacted, corrupt=True))
    compacted.tick(60)
    assert compacted.alarms == [THIRD]


def test_the_leader_may_be_the_minority(compacted: World) -> None:
    compacted.tell(of_compaction(compacted, corrupt=True), of_compaction(compacted, corrupt=True))
    compacted.tick(60)
    assert compacted.alarms == [LOCAL]


@pytest.mark.parametrize("third", [GONE, told(KvHash(77, 10, 15), 21)])
def test_without_a_majority_nobody_is_named(compacted: World, third: Answer) -> None:
    compacted.tell(of_compaction(compacted, corrupt=True), third)
    compacted.tick(60)
    assert compacted.alarms == [0]


def test_one_check_does_not_keep_the_other_from_its_turn() -> None:
    world = World(period_s=0.05, compact_period_s=0.05)
    world.put(20)
    world.compact(10)
    world.tell(of_compaction(world), of_compaction(world))
    for _ in range(3):
        world.tick(0.1)
    assert {revision for _, revision in world.asked} == {21, 10}


# --- before serving


def test_before_serving() -> None:
    world = World()
    world.put(3)
    world.tell(healthy(world), GONE)
    assert world.check_initially() == ""
    own = world.own()
    world.tell(told(own._replace(compact_revision=2, hash=7), 9), COMPACTED)
    assert world.check_initially() == ""
    world.tell(healthy(world), told(own._replace(hash=7), 4))
    assert world.check_initially() == "1 found data inconsistency with peers"
    assert world.alarms == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"header":[1]}',
        b'{"header":{"revision":"x"}}',
        b'{"hash":1e999}',
        b'{"hash":1.5}',
        b'{"hash":{}}',
        b'{"hash":%b}' % (b"5" * 5000),
        b"[" * 100_000,
        b'{"header":' * 100_000,
    ],
    ids=lambda body: repr(body[:25]),
)
def test_an_answer_that_is_no_hash(body: bytes) -> None:
    assert read_peer_hash(5, 200, body) == PeerHash(5, None, reason="an answer that is no hash")


def test_what_go_leaves_out_is_zero() -> None:
    peer = read_peer_hash(5, 200, b'{"header":{"revision":4},"compact_revision":-1}')
    assert (peer.member, peer.found, peer.revision) == (5, KvHash(0, -1, 0), 4)
    assert read_peer_hash(5, 200, b"{}").found == KvHash(0, 0, 0)
