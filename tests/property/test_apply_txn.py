"""Random requests against a little model of what etcd's KV does: same answers, same errors, same keys and leases.

The model keeps one dict of keys per revision and knows nothing of indexes, buffers or encodings.
"""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ratifyd.apply import requests
from ratifyd.apply.entries import apply_entry, waiter_of
from ratifyd.apply.state import State
from ratifyd.apply.txn import Txn, read_txn_body
from ratifyd.errors import EtcdError
from ratifyd.membership import Membership
from ratifyd.proto import fast
from ratifyd.proto.rpc_pb2 import (
    CompactionRequest,
    Compare,
    DeleteRangeRequest,
    DeleteRangeResponse,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    PutRequest,
    PutResponse,
    RangeRequest,
    RangeResponse,
    RequestOp,
    ResponseOp,
    TxnRequest,
    TxnResponse,
)
from ratifyd.storage.memory import MemoryBackend
from ratifyd.storage.worker import SoonWorker


class Refused(Exception):
    """A request the model refuses, by the error's name."""


class Key:
    """One key at one revision."""

    def __init__(self, value: bytes, create: int, mod: int, version: int, lease: int) -> None:
        self.value, self.create, self.mod, self.version, self.lease = value, create, mod, version, lease

    def fields(self) -> tuple[bytes, int, int, int, int]:
        return self.value, self.create, self.mod, self.version, self.lease


def inside(key: bytes, start: bytes, end: bytes) -> bool:
    if not end:
        return key == start
    return key >= start and (end == b"\0" or key < end)


class Model:
    def __init__(self) -> None:
        self.now: dict[bytes, Key] = {}
        self.history: dict[int, dict[bytes, Key]] = {1: {}}
        self.revision = 1
        self.compacted = -1
        self.leases: set[int] = set()

    # Every request: answer or Refused.

    def apply(self, request: Any) -> Any:
        before = dict(self.now)
        changes = 0
        if isinstance(request, CompactionRequest):
            if request.revision <= self.compacted:
                raise Refused("Compacted")
            if request.revision > self.revision:
                raise Refused("FutureRev")
            self.compacted = request.revision
            return None
        if isinstance(request, LeaseGrantRequest):
            if request.ID in self.leases:
                raise Refused("LeaseExist")
            self.leases.add(request.ID)
            return None
        if isinstance(request, LeaseRevokeRequest):
            if request.ID not in self.leases:
                raise Refused("LeaseNotFound")
            self.leases.discard(request.ID)
            gone = [key for key, entry in self.now.items() if entry.lease == request.ID]
            for key in gone:
                del self.now[key]
            self.finish(before, len(gone))
            return None
        if isinstance(request, TxnRequest):
            taken = self.taken(request)
            self.check_puts(taken)
            self.check_ranges(taken)
            answer, changes = self.run(taken, before, 0)
        elif isinstance(request, PutRequest):
            self.check_put(request)
            answer = self.put(request, before)
            changes = 1
        else:
            answer = self.delete(request)
            changes = answer[0]
        self.finish(before, changes)
        return answer

    def finish(self, before: dict[bytes, Key], changes: int) -> None:
        if changes:
            self.revision += 1
            self.history[self.revision] = dict(self.now)

    def holds(self, compare: Compare) -> bool:
        found = [entry for key, entry in sorted(self.now.items()) if inside(key, compare.key, compare.range_end)]
        if not found:
            if compare.target == Compare.VALUE:
                return False
            found = [Key(b"", 0, 0, 0, 0)]
        return all(self.compares(compare, entry) for entry in found)

    @staticmethod
    def compares(compare: Compare, entry: Key) -> bool:
        left, right = {
            Compare.VERSION: (entry.version, compare.version),
            Compare.CREATE: (entry.create, compare.create_revision),
            Compare.MOD: (entry.mod, compare.mod_revision),
            Compare.VALUE: (entry.value, compare.value),
            Compare.LEASE: (entry.lease, compare.lease),
        }[compare.target]
        return {
            Compare.EQUAL: left == right,
            Compare.GREATER: left > right,  # type: ignore[operator]
            Compare.LESS: left < right,  # type: ignore[operator]
            Compare.NOT_EQUAL: left != right,
        }[compare.result]

    def taken(self, request: TxnRequest) -> tuple[bool, list[Any]]:
        """Which branches, all decided before anything is done."""
        good = all(self.holds(compare) for compare in request.compare)
        ops = []
        for op in request.success if good else request.failure:
            kind = op.WhichOneof("request")
            inner = getattr(op, kind)
            ops.append((kind, self.taken(inner) if kind == "request_txn" else inner))
        return good, ops

    def check_put(self, put: PutRequest) -> None:
        if put.lease and put.lease not in self.leases:
            raise Refused("LeaseNotFound")
        if (put.ignore_value or put.ignore_lease) and put.key not in self.now:
            raise Refused("KeyNotFound")

    def check_puts(self, taken: tuple[bool, list[Any]]) -> None:
        for kind, op in taken[1]:
            if kind == "request_put":
                if (op.ignore_value or op.ignore_lease) and op.key not in self.now:
                    raise Refused("KeyNotFound")
                if op.lease and op.lease not in self.leases:
                    raise Refused("LeaseNotFound")
            elif kind == "request_txn":
                self.check_puts(op)

    def check_ranges(self, taken: tuple[bool, list[Any]]) -> None:
        for kind, op in taken[1]:
            if kind == "request_range":
                if op.revision > self.revision:
                    raise Refused("FutureRev")
                if op.revision and op.revision < self.compacted:
                    raise Refused("Compacted")
            elif kind == "request_txn":
                self.check_ranges(op)

    def run(self, taken: tuple[bool, list[Any]], before: dict[bytes, Key], changes: int) -> tuple[Any, int]:
        answers: list[Any] = []
        for kind, op in taken[1]:
            if kind == "request_put":
                answers.append((kind, self.revision + 1, self.put(op, before)))
                changes += 1
            elif kind == "request_delete_range":
                answer = self.delete(op)
                changes += answer[0]
                answers.append((kind, self.revision + (changes > 0), answer))
            elif kind == "request_range":
                answers.append((kind, self.revision + (changes > 0), self.range(op)))
            else:
                answer, changes = self.run(op, before, changes)
                answers.append((kind, 0, answer))
        return (taken[0], answers), changes

    def put(self, put: PutRequest, before: dict[bytes, Key]) -> Any:
        old = self.now.get(put.key)
        base = old if old is not None else Key(b"", self.revision + 1, 0, 0, 0)
        self.now[put.key] = Key(
            base.value if put.ignore_value else put.value,
            base.create,
            self.revision + 1,
            base.version + 1,
            base.lease if put.ignore_lease else put.lease,
        )
        return old.fields() if old is not None and put.prev_kv else None

    def delete(self, request: DeleteRangeRequest) -> Any:
        gone = sorted(key for key in self.now if inside(key, request.key, request.range_end))
        previous = [(key, *self.now.pop(key).fields()) for key in gone]
        return len(gone), previous if request.prev_kv else []

    def range(self, request: RangeRequest) -> Any:
        keys = self.now if request.revision <= 0 or request.revision > self.revision else self.history[request.revision]
        found = [(key, *entry.fields()) for key, entry in sorted(keys.items())]
        found = [row for row in found if inside(row[0], request.key, request.range_end)]
        more = 0 < request.limit < len(found)
        return (found[: request.limit] if more else found), more, len(found)


# --- what the state machine answers, in the model's terms


def kv(message: Any) -> tuple[bytes, int, int, int, int]:
    return message.value, message.create_revision, message.mod_revision, message.version, message.lease


def read_answer(request: Any, body: bytes) -> Any:
    if isinstance(request, TxnRequest):
        return read_txn(TxnResponse.FromString(body))
    if isinstance(request, PutRequest):
        return read_put(PutResponse.FromString(body))
    if isinstance(request, DeleteRangeRequest):
        return read_delete(DeleteRangeResponse.FromString(body))
    return None


def read_txn(response: TxnResponse) -> Any:
    return response.succeeded, [read_op(op) for op in response.responses]


def read_op(op: ResponseOp) -> Any:
    kind = op.WhichOneof("response")
    assert kind is not None
    response = getattr(op, kind)
    assert response.HasField("header")
    header = response.header
    assert (header.cluster_id, header.member_id, header.raft_term) == (0, 0, 0)
    readers = {
        "response_put": read_put,
        "response_range": read_range,
        "response_delete_range": read_delete,
        "response_txn": read_txn,
    }
    return kind.replace("response", "request"), header.revision, readers[kind](response)


def read_put(response: PutResponse) -> Any:
    return kv(response.prev_kv) if response.HasField("prev_kv") else None


def read_delete(response: DeleteRangeResponse) -> Any:
    return response.deleted, [(each.key, *kv(each)) for each in response.prev_kvs]


def read_range(response: RangeResponse) -> Any:
    return [(each.key, *kv(each)) for each in response.kvs], response.more, response.count


# --- requests

KEYS = st.sampled_from([b"a", b"b", b"bb", b"c"])
ENDS = st.sampled_from([b"", b"", b"", b"c", b"\0", b"a"])
LEASES = st.sampled_from([0, 0, 0, 1, 2])
REVISIONS = st.sampled_from([0, 0, 0, -1, 1, 2, 3, 5, 30])
VALUES = st.sampled_from([b"", b"1", b"2"])


@st.composite
def puts(draw: st.DrawFn) -> PutRequest:
    put = PutRequest(key=draw(KEYS), prev_kv=draw(st.booleans()))
    flags = draw(st.sampled_from(["", "", "", "value", "lease"]))
    if flags == "value":
        put.ignore_value = True
    else:
        put.value = draw(VALUES)
    if flags == "lease":
        put.ignore_lease = True
    else:
        put.lease = draw(LEASES)
    return put


DELETES = st.builds(DeleteRangeRequest, key=KEYS, range_end=ENDS, prev_kv=st.booleans())
RANGES = st.builds(RangeRequest, key=KEYS, range_end=ENDS, revision=REVISIONS, limit=st.sampled_from([0, 0, 1, 2]))


@st.composite
def compares(draw: st.DrawFn) -> Compare:
    compare = Compare(
        key=draw(KEYS),
        range_end=draw(ENDS),
        target=draw(st.sampled_from(Compare.CompareTarget.values())),
        result=draw(st.sampled_from(Compare.CompareResult.values())),
    )
    number = draw(st.sampled_from([0, 1, 2, 4]))
    field = {
        Compare.VERSION: "version",
        Compare.CREATE: "create_revision",
        Compare.MOD: "mod_revision",
        Compare.LEASE: "lease",
    }.get(compare.target)
    if field is None:
        compare.value = draw(VALUES)
    else:
        setattr(compare, field, number)
    return compare


def conflicts(ops: list[RequestOp]) -> bool:
    """Whether the API would refuse a branch; duplicates never reach the state machine."""
    seen: set[bytes] = set()
    for op in ops:
        kind = op.WhichOneof("request")
        if kind == "request_put":
            touched = {op.request_put.key}
        elif kind == "request_delete_range":
            request = op.request_delete_range
            touched = {key for key in (b"a", b"b", b"bb", b"c") if inside(key, request.key, request.range_end)}
        elif kind == "request_txn":
            touched = set(touches(op.request_txn))
        else:
            continue
        if touched & seen:
            return True
        seen |= touched
    return False


def touches(request: TxnRequest) -> list[bytes]:
    found = []
    for op in (*request.success, *request.failure):
        kind = op.WhichOneof("request")
        if kind == "request_put":
            found.append(op.request_put.key)
        elif kind == "request_delete_range":
            inner = op.request_delete_range
            found += [key for key in (b"a", b"b", b"bb", b"c") if inside(key, inner.key, inner.range_end)]
        elif kind == "request_txn":
            found += touches(op.request_txn)
    return found


@st.composite
def branches(draw: st.DrawFn, depth: int) -> list[RequestOp]:
    ops: list[RequestOp] = []
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.integers(0, 3 if depth else 2))
        if kind == 0:
            op = RequestOp(request_put=draw(puts()))
        elif kind == 1:
            op = RequestOp(request_range=draw(RANGES))
        elif kind == 2:
            op = RequestOp(request_delete_range=draw(DELETES))
        else:
            op = RequestOp(request_txn=draw(txns(depth - 1)))
        if not conflicts([*ops, op]):
            ops.append(op)
    return ops


@st.composite
def txns(draw: st.DrawFn, depth: int = 2) -> TxnRequest:
    return TxnRequest(
        compare=draw(st.lists(compares(), max_size=2)),
        success=draw(branches(depth)),
        failure=draw(branches(depth)),
    )


REQUESTS = st.one_of(
    puts(),
    DELETES,
    txns(),
    txns(),
    st.builds(CompactionRequest, revision=st.integers(-1, 6)),
    st.builds(LeaseGrantRequest, ID=st.sampled_from([1, 2]), TTL=st.just(60)),
    st.builds(LeaseRevokeRequest, ID=st.sampled_from([1, 2])),
)
ROWS: dict[type[Any], requests.Row] = {
    PutRequest: requests.PUT,
    DeleteRangeRequest: requests.DELETE_RANGE,
    TxnRequest: requests.TXN,
    CompactionRequest: requests.COMPACTION,
    LeaseGrantRequest: requests.LEASE_GRANT,
    LeaseRevokeRequest: requests.LEASE_REVOKE,
}


def check_same(state: State, model: Model) -> None:
    store = state.store
    assert (store.revision, store.compacted) == (model.revision, model.compacted)
    expected = {key: entry.lease for key, entry in model.now.items() if entry.lease}
    assert {
        key: state.leases.lease_of(key) for key in (b"a", b"b", b"bb", b"c") if state.leases.lease_of(key)
    } == expected
    assert set(state.leases.leases) == model.leases
    everything = RangeRequest(key=b"\0", range_end=b"\0")
    got = TxnResponse.FromString(
        read_txn_body(store, Txn.of(TxnRequest(success=[RequestOp(request_range=everything)])))
    ).responses[0]
    assert read_range(got.response_range) == model.range(everything)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(REQUESTS, min_size=1, max_size=12))
def test_requests_do_what_the_model_does(script: list[Any]) -> None:
    backend = MemoryBackend(SoonWorker(lambda callback, *args: callback(*args)))
    state = State(backend, Membership(1, 2))
    for _ in state.restore():
        pass
    model = Model()
    for index, request in enumerate(script, 1):
        row = ROWS[type(request)]
        data = fast.internal_raft_request(row.tag, request.SerializeToString(), fast.request_header(index))
        outcome = apply_entry(state, index, 1, data, {data: waiter_of(lambda body, error: None, 0.0)})
        assert outcome is not None
        try:
            expected = model.apply(request)
        except Refused as refused:
            assert outcome.error is not None, (request, str(refused))
            assert type(outcome.error).__name__ == str(refused)
        else:
            assert outcome.error is None, (request, outcome.error)
            assert read_answer(request, outcome.body) == expected
        check_same(state, model)
        if index % 3 == 0:
            state.seal(lambda error: None)
        while state.store.compaction_step(3):
            pass
    state.store.check()
    state.leases.check()
    state.seal(lambda error: None)
    again = State(backend, Membership(1, 2))
    for _ in again.restore():
        pass
    check_same(again, model)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(puts() | DELETES, max_size=8), txns(0))
def test_reads_of_a_txn_are_the_same_by_either_way(script: list[Any], request: TxnRequest) -> None:
    """A read-only txn answers as the state machine would."""
    for branch in (request.success, request.failure):
        for op in list(branch):
            if op.WhichOneof("request") != "request_range":
                branch.remove(op)
    state = State(MemoryBackend(SoonWorker(lambda callback, *args: callback(*args))), Membership(1, 2))
    for _ in state.restore():
        pass
    for index, each in enumerate(script, 1):
        row = ROWS[type(each)]
        entry = fast.internal_raft_request(row.tag, each.SerializeToString(), fast.request_header(index))
        apply_entry(state, index, 1, entry, {})
    index = len(script) + 1
    data = fast.internal_raft_request(requests.TXN.tag, request.SerializeToString(), fast.request_header(index))
    outcome = apply_entry(state, index, 1, data, {data: waiter_of(lambda body, error: None, 0.0)})
    assert outcome is not None
    try:
        body = read_txn_body(state.store, Txn.of(request))
    except EtcdError as error:
        assert type(outcome.error) is type(error)
    else:
        assert outcome.body == body
