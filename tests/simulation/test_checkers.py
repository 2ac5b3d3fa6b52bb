"""Each checker can fail: small histories, right and wrong."""

from types import SimpleNamespace
from typing import Any

import pytest

from ratifyd.proto import rpc_pb2 as pb
from ratifyd.proto.kv_pb2 import Event, KeyValue
from ratifyd.proto.raft_internal_pb2 import InternalRaftRequest
from ratifyd.raft.messages import Entry
from ratifyd.raft.roles import Role
from simulation.checkers import Violation
from simulation.checkers.linearizability import LinearizabilityChecker
from simulation.checkers.raft import RaftChecker
from simulation.checkers.search import MAX_OPERATIONS, SearchChecker
from simulation.checkers.watch import WatchChecker
from simulation.history import Operation, WatchRecord
from simulation.model import Model
from simulation.situations import Situations


def model(*requests: Any) -> Model:
    """The model after a log of puts, deletions and compactions."""
    found = Model(2)
    for index, request in enumerate(requests, 1):
        kind = {pb.PutRequest: "put", pb.DeleteRangeRequest: "delete_range", pb.CompactionRequest: "compaction"}
        entry = InternalRaftRequest(**{kind[type(request)]: request})
        found.apply(index, entry.SerializeToString())
    return found


def put(key: bytes, value: bytes) -> pb.PutRequest:
    return pb.PutRequest(key=key, value=value)


def done(kind: str, request: Any, start: float, end: float, response: Any) -> Operation:
    return Operation("c", kind, request, start, 0, end, 0, "", response)


def wrote(request: Any, start: float, end: float, revision: int) -> Operation:
    return done("put", request, start, end, pb.PutResponse(header={"revision": revision}))


def read(key: bytes, start: float, end: float, revision: int, *kvs: KeyValue) -> Operation:
    response = pb.RangeResponse(header={"revision": revision}, kvs=kvs, count=len(kvs))
    return done("range", pb.RangeRequest(key=key), start, end, response)


def kv(key: bytes, value: bytes, mod: int, create: int, version: int) -> KeyValue:
    return KeyValue(key=key, value=value, mod_revision=mod, create_revision=create, version=version)


ONE, TWO = put(b"k", b"1"), put(b"k", b"2")
K1, K2 = kv(b"k", b"1", 2, 2, 1), kv(b"k", b"2", 3, 2, 2)

RIGHT = [
    [wrote(ONE, 0, 1, 2), wrote(TWO, 2, 3, 3), read(b"k", 4, 5, 3, K2)],
    [wrote(ONE, 0, 1, 2), wrote(TWO, 2, 9, 3), read(b"k", 4, 5, 2, K1)],
    [wrote(ONE, 0, 1, 2), wrote(TWO, 2, 9, 3), read(b"k", 4, 5, 3, K2)],
    [wrote(ONE, 0, 1, 2), Operation("c", "put", TWO, 2, 0), read(b"k", 4, 5, 3, K2)],
]
WRONG = {
    "stale": [wrote(ONE, 0, 1, 2), wrote(TWO, 2, 3, 3), read(b"k", 4, 5, 2, K1)],
    "lost": [wrote(ONE, 0, 1, 2), wrote(TWO, 2, 3, 3), read(b"k", 4, 5, 3, K1)],
    "from the future": [wrote(ONE, 0, 1, 2), read(b"k", 2, 3, 3, K2), wrote(TWO, 4, 5, 3)],
    "back and forth": [wrote(ONE, 0, 1, 2), wrote(TWO, 2, 9, 3), read(b"k", 3, 4, 3, K2), read(b"k", 5, 6, 2, K1)],
}


@pytest.mark.parametrize("operations", RIGHT)
def test_right_histories_pass_both_ways(operations: list[Operation]) -> None:
    LinearizabilityChecker(model(ONE, TWO), operations).check()
    assert SearchChecker(operations).check()


@pytest.mark.parametrize("name", WRONG)
def test_wrong_histories_fail_both_ways(name: str) -> None:
    with pytest.raises(Violation):
        LinearizabilityChecker(model(ONE, TWO), WRONG[name]).check()
    with pytest.raises(Violation):
        SearchChecker(WRONG[name]).check()


def test_a_long_history_is_searched_from_its_beginning() -> None:
    writes = [
        wrote(put(b"k", b"%d" % number), number, number + 0.5, number + 2) for number in range(MAX_OPERATIONS - 1)
    ]
    last = float(MAX_OPERATIONS)
    late = wrote(put(b"k", b"late"), last + 0.1, last + 0.2, MAX_OPERATIONS + 2)
    overlapping = read(b"k", last, last + 1, MAX_OPERATIONS + 2, kv(b"k", b"late", MAX_OPERATIONS + 2, 2, 1))
    assert SearchChecker([*writes, overlapping, late]).check()


def test_a_write_stands_in_the_log_once() -> None:
    with pytest.raises(Violation, match="committed 2 times"):
        LinearizabilityChecker(model(ONE, ONE), [wrote(ONE, 0, 1, 2)]).check()


def test_an_acknowledged_write_must_be_in_the_log() -> None:
    with pytest.raises(Violation, match="acknowledged, but"):
        LinearizabilityChecker(model(ONE), [wrote(ONE, 0, 1, 2), wrote(TWO, 2, 3, 2)]).check()


def test_a_refused_write_must_not_be_in_the_log() -> None:
    refused = Operation("c", "put", ONE, 0, 0, 1, 3, "etcdserver: too many requests")
    with pytest.raises(Violation, match="refused"):
        LinearizabilityChecker(model(ONE), [refused]).check()


def watched(*items: Any, start: int = 2) -> WatchRecord:
    request = pb.WatchCreateRequest(key=b"k", start_revision=start)
    return WatchRecord("v", 0, request, 3, list(items))


def events(*kvs: KeyValue) -> Any:
    return ("events", 3, [Event(kv=each) for each in kvs])


def progress(revision: int) -> Any:
    return ("progress", revision, [])


@pytest.mark.parametrize(
    "record",
    [
        watched(events(K1), events(K2), progress(3)),
        watched(events(K1, K2)),
        watched(events(K2), start=3),
        watched(progress(1), events(K1)),
    ],
)
def test_right_watchers_pass(record: WatchRecord) -> None:
    WatchChecker(model(ONE, TWO)).check(record)


@pytest.mark.parametrize(
    "record",
    [
        watched(events(K2)),
        watched(events(K1), events(K1)),
        watched(events(K2), events(K1)),
        watched(progress(3), events(K1)),
        watched(events(K1), start=3),
        watched(events(kv(b"k", b"x", 2, 2, 1))),
        watched(progress(3), start=9),
    ],
    ids=["gap", "twice", "out of order", "late", "before the start", "another value", "progress of the future"],
)
def test_wrong_watchers_fail(record: WatchRecord) -> None:
    with pytest.raises(Violation):
        WatchChecker(model(ONE, TWO)).check(record)


def test_the_model_answers_as_of_any_revision() -> None:
    found = model(ONE, TWO, pb.DeleteRangeRequest(key=b"k"), put(b"k", b"3"))
    values = [found.get(b"k", revision) for revision in range(1, 6)]
    assert [value and value.value for value in values] == [None, b"1", b"2", None, b"3"]
    assert [value.version for value in values if value] == [1, 2, 1]
    assert found.revision == 5


def voice(number: int, term: int, role: Role, committed: int, *terms: int) -> Any:
    """A member with a log of these terms."""
    entries = [Entry(each, index, b"") for index, each in enumerate(terms, 1)]
    log = SimpleNamespace(
        entries=entries,
        last_index=len(terms),
        committed=committed,
        compacted=0,
        compacted_term=0,
        last_term=terms[-1],
        term=[0, *terms, 0].__getitem__,
    )
    return SimpleNamespace(machine=SimpleNamespace(number=number), raft=SimpleNamespace(log=log, term=term, role=role))


@pytest.mark.parametrize(("term", "complete"), [(2, True), (4, False)])
def test_a_leader_must_have_what_earlier_terms_committed(term: int, complete: bool) -> None:
    """A late vote may make a leader of term 2 after that of term 3 has committed; it has nothing to prove."""
    world: Any = SimpleNamespace(
        clock=SimpleNamespace(now=0.0),
        committed=lambda index, data: None,
        living=list,
        network=SimpleNamespace(situations=Situations()),
    )
    checker = RaftChecker(world)
    members = [voice(1, 3, Role.LEADER, 2, 1, 3), voice(2, term, Role.LEADER, 1, 1)]
    for member in members:
        checker.begin(member)
    checker.observe(members[0])
    if complete:
        checker.observe(members[1])
    else:
        with pytest.raises(Violation, match="lacks committed entry 2"):
            checker.observe(members[1])
