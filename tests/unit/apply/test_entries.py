"""Entries: exactly once, through the gates, in a state that survives a restart."""

from typing import Any

import pytest
from google.protobuf.message import DecodeError

from ratifyd import schema
from ratifyd.apply import requests
from ratifyd.apply.entries import LONG_ENTRY_BYTES, Outcome, Waiters, apply_entry, waiter_key, waiter_of
from ratifyd.apply.requests import ROWS, Row, UnknownRequest, cost_bound, decode
from ratifyd.apply.state import State
from ratifyd.apply.txn import Txn, parse_txn
from ratifyd.auth.identity import ANONYMOUS
from ratifyd.errors import Compacted, Corrupt, FutureRev, KeyNotFound, LeaseExist, LeaseNotFound, NoSpace, UnknownMethod
from ratifyd.membership import Membership
from ratifyd.proto import fast
from ratifyd.proto.etcdserver_pb2 import Request
from ratifyd.proto.membership_pb2 import (
    Attributes,
    ClusterMemberAttrSetRequest,
    ClusterVersionSetRequest,
    DowngradeInfoSetRequest,
)
from ratifyd.proto.raft_internal_pb2 import InternalRaftRequest
from ratifyd.proto.rpc_pb2 import (
    CORRUPT,
    NONE,
    NOSPACE,
    AlarmRequest,
    AlarmResponse,
    CompactionRequest,
    DeleteRangeRequest,
    DeleteRangeResponse,
    LeaseCheckpoint,
    LeaseCheckpointRequest,
    LeaseGrantRequest,
    LeaseGrantResponse,
    LeaseRevokeRequest,
    PutRequest,
    PutResponse,
    RequestOp,
    TxnRequest,
)
from ratifyd.storage.memory import MemoryBackend
from ratifyd.storage.worker import SoonWorker


class Machine:
    """A state fed with entries by hand."""

    def __init__(self, backend: MemoryBackend | None = None) -> None:
        worker = SoonWorker(lambda callback, *args: callback(*args))
        self.backend = backend or MemoryBackend(worker)
        self.worker = worker
        self.state = State(self.backend, Membership(1, 2), min_ttl_s=2)
        for _ in self.state.restore():
            pass
        self.index = self.state.consistent_index

    def entry(self, row: Row, request: Any) -> bytes:
        return fast.internal_raft_request(row.tag, request.SerializeToString(), fast.request_header(self.index + 1))

    def apply(self, row: Row, request: Any, *, wanted: bool = True) -> Outcome:
        data = self.entry(row, request)
        self.index += 1
        outcome = apply_entry(
            self.state, self.index, 3, data, {data: waiter_of(lambda body, error: None, 0.0)} if wanted else {}
        )
        assert outcome is not None
        assert outcome.request_id == self.index
        return outcome

    def do(self, row: Row, request: Any) -> bytes:
        outcome = self.apply(row, request)
        if outcome.error is not None:
            raise outcome.error
        return outcome.body

    def restart(self) -> "Machine":
        """Commit everything and read it back."""
        self.state.seal(lambda error: None)
        again = Machine(self.backend.survivor(self.worker))
        again.check()
        return again

    def check(self) -> None:
        self.state.store.check()
        self.state.leases.check()


@pytest.fixture
def machine() -> Machine:
    return Machine()


def put(key: bytes = b"k", **more: Any) -> PutRequest:
    return PutRequest(key=key, **more)


# --- exactly once


def test_an_entry_the_state_reflects_is_skipped(machine: Machine) -> None:
    machine.do(requests.PUT, put())
    data = machine.entry(requests.PUT, put())
    for index in (0, 1):
        assert apply_entry(machine.state, index, 3, data, {}) is None
    assert machine.state.store.revision == 2
    assert apply_entry(machine.state, 2, 4, data, {}) is not None
    assert (machine.state.store.revision, machine.state.consistent_index, machine.state.term) == (3, 2, 4)


def test_a_leaders_empty_entry_moves_the_index_only(machine: Machine) -> None:
    assert apply_entry(machine.state, 1, 3, b"", {}) is None
    assert (machine.state.consistent_index, machine.state.term, machine.state.store.revision) == (1, 3, 1)


def test_a_refused_entry_moves_the_index(machine: Machine) -> None:
    assert isinstance(machine.apply(requests.PUT, put(lease=9)).error, LeaseNotFound)
    assert machine.state.consistent_index == 1
    assert machine.state.store.revision == 1


def test_index_and_term_are_stored_with_the_rows(machine: Machine) -> None:
    machine.do(requests.PUT, put())
    machine.do(requests.PUT, put())
    machine.state.seal(lambda error: None)
    get = machine.backend.get
    assert schema.decode_u64(get(schema.META, schema.CONSISTENT_INDEX) or b"") == 2
    assert schema.decode_u64(get(schema.META, schema.TERM) or b"") == 3
    assert machine.restart().state.consistent_index == 2


def test_a_request_of_a_newer_version_stops_the_member(machine: Machine) -> None:
    """Others execute it: going on without would make another state than theirs."""
    with pytest.raises(UnknownRequest, match="known to this version"):
        apply_entry(machine.state, 1, 1, fast.length_prefixed(1305, b"") + fast.length_prefixed(100, b"\x08\x05"), {})


@pytest.mark.parametrize(
    "data",
    [
        InternalRaftRequest(ID=5).SerializeToString(),
        b"\xff\xff\xff",
        b"\x1a",
        b"\x08",
        b"\x00",
        fast.internal_raft_request(requests.PUT.tag, b"\xff", fast.request_header(1)),
        fast.internal_raft_request(requests.TXN.tag, b"\x12\x05\x22\xff", fast.request_header(1)),
        Request(ID=5, Method="PUT", Path="/0/members/1/attributes", Val="[" * 100_000).SerializeToString(),
        Request(ID=5, Method="PUT", Path="/0/members/1/attributes", Val='{"name":5}').SerializeToString(),
        Request(ID=5, Method="PUT", Path="/0/version", Val="new").SerializeToString(),
        fast.internal_raft_request(
            requests.CLUSTER_VERSION_SET.tag,
            ClusterVersionSetRequest(ver="3").SerializeToString(),
            fast.request_header(1),
        ),
    ],
)
def test_what_is_no_request_changes_nothing(machine: Machine, data: bytes) -> None:
    """etcd panics on it, now and at every restart; only a broken or hostile member makes such entries."""
    outcome = apply_entry(machine.state, 1, 1, data, {})
    assert outcome is not None
    assert outcome.error is None
    assert machine.state.consistent_index == 1
    assert (machine.state.store.revision, machine.state.members.cluster_version) == (1, "")
    assert machine.state.warnings


def test_decoded_requests_are_used_once(machine: Machine) -> None:
    data = machine.entry(requests.PUT, put())
    waiters: Waiters = {data: (lambda body, error: None, 0.0, 77, requests.PUT, put(b"other"), ANONYMOUS)}
    outcome = apply_entry(machine.state, 1, 1, data, waiters)
    assert outcome is not None
    assert outcome.request_id == 77
    assert machine.state.store.get(b"other") is not None
    assert not waiters


def test_fields_in_any_order_are_read(machine: Machine) -> None:
    """etcd writes the request first and the header last; nothing in protobuf says that it must."""
    request = put(value=b"v").SerializeToString()
    header = fast.length_prefixed(100, fast.request_header(5))
    assert decode(header + fast.length_prefixed(4, request))[:2] == (5, requests.PUT)


def nested(levels: int) -> bytes:
    body = TxnRequest(success=[RequestOp(request_put=put())]).SerializeToString()
    for _ in range(levels):
        body = fast.length_prefixed(2, fast.length_prefixed(4, body))
    return body


@pytest.mark.parametrize("levels", [48, 49, 50, 127])
def test_a_txn_as_deep_as_etcd_takes_can_be_read_from_the_log(machine: Machine, levels: int) -> None:
    """protobuf's parser stops at a hundred levels, two of which are one txn."""
    data = fast.internal_raft_request(requests.TXN.tag, nested(levels), fast.request_header(1))
    outcome = apply_entry(machine.state, 1, 1, data, {data: waiter_of(lambda body, error: None, 0.0)})
    assert outcome is not None
    assert outcome.error is None
    assert machine.state.store.revision == 2


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.field)
def test_rows_are_fields_of_etcds_request(row: Row) -> None:
    field = InternalRaftRequest.DESCRIPTOR.fields_by_name[row.field]
    entry = InternalRaftRequest.FromString(row.tag + b"\0")
    assert entry.HasField(row.field)
    assert row.tag == fast.varint(field.number << 3 | 2)


# --- the gates

GROWING = [(requests.PUT, put(value=b"v")), (requests.LEASE_GRANT, LeaseGrantRequest(ID=5, TTL=5))]
GROWING.append((requests.TXN, TxnRequest(success=[RequestOp(request_put=put())])))
SHRINKING: list[tuple[Row, Any]] = [
    (requests.DELETE_RANGE, DeleteRangeRequest(key=b"k")),
    (requests.TXN, TxnRequest(success=[RequestOp(request_delete_range=DeleteRangeRequest(key=b"k"))])),
    (requests.COMPACTION, CompactionRequest(revision=1)),
    (requests.LEASE_REVOKE, LeaseRevokeRequest(ID=1)),
]


def alarm(machine: Machine, action: int, kind: int = NOSPACE, member: int = 1) -> AlarmResponse:
    request = AlarmRequest(action=action, alarm=kind, memberID=member)  # type: ignore[arg-type]
    return AlarmResponse.FromString(machine.do(requests.ALARM, request))


@pytest.mark.parametrize(("row", "request_"), GROWING, ids=lambda value: getattr(value, "field", ""))
def test_nospace_refuses_what_grows(machine: Machine, row: Row, request_: Any) -> None:
    alarm(machine, AlarmRequest.ACTIVATE)
    with pytest.raises(NoSpace):
        machine.do(row, request_)
    assert machine.state.store.revision == 1
    alarm(machine, AlarmRequest.DEACTIVATE)
    machine.do(row, request_)


@pytest.mark.parametrize(("row", "request_"), SHRINKING, ids=lambda value: getattr(value, "field", ""))
def test_nospace_lets_shrink(machine: Machine, row: Row, request_: Any) -> None:
    machine.do(requests.LEASE_GRANT, LeaseGrantRequest(ID=1, TTL=5))
    machine.do(requests.PUT, put())
    alarm(machine, AlarmRequest.ACTIVATE)
    machine.do(row, request_)


@pytest.mark.parametrize(("row", "request_"), GROWING + SHRINKING, ids=lambda value: getattr(value, "field", ""))
def test_corrupt_refuses_all_of_them(machine: Machine, row: Row, request_: Any) -> None:
    machine.do(requests.LEASE_GRANT, LeaseGrantRequest(ID=1, TTL=5))
    alarm(machine, AlarmRequest.ACTIVATE, CORRUPT)
    with pytest.raises(Corrupt):
        machine.do(row, request_)
    alarm(machine, AlarmRequest.DEACTIVATE, CORRUPT)
    machine.do(row, request_)


def test_a_write_that_crosses_the_quota_is_done_and_reported(machine: Machine) -> None:
    asked: list[int] = []
    machine.state.over_quota = lambda cost: asked.append(cost) or True  # type: ignore[func-returns-value]
    outcome = machine.apply(requests.PUT, put(value=b"v" * 10))
    assert isinstance(outcome.error, NoSpace)
    assert outcome.raise_nospace
    assert machine.state.store.revision == 2
    assert asked[-1] == 256 + 1 + 10
    outcome = machine.apply(requests.TXN, SHRINKING[1][1])
    assert outcome.error is None
    assert not outcome.raise_nospace


def test_costs_are_etcds() -> None:
    two = TxnRequest(
        success=[RequestOp(request_put=put(value=b"123"))] * 2,
        failure=[RequestOp(request_txn=TxnRequest(failure=[RequestOp(request_put=put(value=b"12345"))] * 3))],
    )
    assert requests.TXN.cost is not None
    assert requests.TXN.cost(Txn.of(two)) == 3 * (256 + 1 + 5)
    assert requests.TXN.cost(Txn.of(TxnRequest())) == 0
    assert requests.LEASE_GRANT.cost is not None
    assert requests.LEASE_GRANT.cost(LeaseGrantRequest()) == 64


def test_the_bound_is_never_below_the_cost() -> None:
    for request in (TxnRequest(success=[RequestOp(request_put=PutRequest())] * 100), TxnRequest.FromString(nested(40))):
        assert requests.txn_cost(Txn.of(request)) <= cost_bound(request.SerializeToString())
    assert requests.put_cost(PutRequest()) <= cost_bound(b"")


# --- alarms


def members(response: AlarmResponse) -> list[tuple[int, int]]:
    return [(each.memberID, each.alarm) for each in response.alarms]


def test_alarms_come_and_go(machine: Machine) -> None:
    assert members(alarm(machine, AlarmRequest.ACTIVATE, NOSPACE, 7)) == [(7, NOSPACE)]
    assert members(alarm(machine, AlarmRequest.ACTIVATE, NOSPACE, 7)) == [(7, NOSPACE)]
    assert members(alarm(machine, AlarmRequest.ACTIVATE, NONE, 7)) == []
    alarm(machine, AlarmRequest.ACTIVATE, CORRUPT, 8)
    assert members(alarm(machine, AlarmRequest.GET, NONE)) == [(7, NOSPACE), (8, CORRUPT)]
    assert members(alarm(machine, AlarmRequest.GET, CORRUPT, 7)) == [(8, CORRUPT)]
    again = machine.restart()
    assert list(again.state.alarms) == [(7, NOSPACE), (8, CORRUPT)]
    assert members(alarm(again, AlarmRequest.DEACTIVATE, NOSPACE, 9)) == []
    assert members(alarm(again, AlarmRequest.DEACTIVATE, NOSPACE, 7)) == [(7, NOSPACE)]
    assert list(again.restart().state.alarms) == [(8, CORRUPT)]


def test_an_unknown_action_is_an_error_and_no_more(machine: Machine) -> None:
    with pytest.raises(UnknownMethod):
        alarm(machine, 7)
    assert members(alarm(machine, AlarmRequest.ACTIVATE, 9, 7)) == [(7, 9)]  # a kind of a later version


# --- key-value requests


def test_put_and_its_conditions(machine: Machine) -> None:
    assert machine.do(requests.PUT, put(value=b"1")) == b""
    response = PutResponse.FromString(machine.do(requests.PUT, put(value=b"2", prev_kv=True)))
    assert (response.prev_kv.value, response.prev_kv.mod_revision) == (b"1", 2)
    for flag in ("ignore_value", "ignore_lease"):
        with pytest.raises(KeyNotFound):
            machine.do(requests.PUT, put(b"absent", **{flag: True}))
    with pytest.raises(LeaseNotFound):  # before the other check
        machine.do(requests.PUT, put(b"absent", lease=5, ignore_value=True))
    machine.do(requests.LEASE_GRANT, LeaseGrantRequest(ID=5, TTL=5))
    machine.do(requests.PUT, put(lease=5, ignore_value=True))
    response = PutResponse.FromString(machine.do(requests.PUT, put(value=b"3", ignore_lease=True, prev_kv=True)))
    assert (response.prev_kv.value, response.prev_kv.lease) == (b"2", 5)
    assert machine.state.leases.keys(5) == [b"k"]
    machine.do(requests.PUT, put(value=b"4"))
    assert machine.state.leases.keys(5) == []
    machine.check()


def test_delete_range(machine: Machine) -> None:
    machine.do(requests.LEASE_GRANT, LeaseGrantRequest(ID=5, TTL=5))
    for key in (b"a", b"b", b"c"):
        machine.do(requests.PUT, put(key, lease=5))
    body = machine.do(requests.DELETE_RANGE, DeleteRangeRequest(key=b"a", range_end=b"c", prev_kv=True))
    response = DeleteRangeResponse.FromString(body)
    assert (response.deleted, [kv.key for kv in response.prev_kvs]) == (2, [b"a", b"b"])
    assert machine.state.leases.keys(5) == [b"c"]
    revision = machine.state.store.revision
    assert machine.do(requests.DELETE_RANGE, DeleteRangeRequest(key=b"a", range_end=b"c")) == b""
    assert machine.state.store.revision == revision
    machine.check()


def test_compaction_errors_are_answers(machine: Machine) -> None:
    machine.do(requests.PUT, put())
    machine.do(requests.COMPACTION, CompactionRequest(revision=2))
    with pytest.raises(Compacted):
        machine.do(requests.COMPACTION, CompactionRequest(revision=2))
    with pytest.raises(FutureRev):
        machine.do(requests.COMPACTION, CompactionRequest(revision=3))


# --- leases


def test_leases_and_their_keys(machine: Machine) -> None:
    response = LeaseGrantResponse.FromString(machine.do(requests.LEASE_GRANT, LeaseGrantRequest(ID=-3, TTL=1)))
    assert (response.ID, response.TTL) == (-3, 2)
    with pytest.raises(LeaseExist):
        machine.do(requests.LEASE_GRANT, LeaseGrantRequest(ID=-3, TTL=1))
    for key in (b"b", b"a"):
        machine.do(requests.PUT, put(key, lease=-3))
    again = machine.restart()
    assert sorted(again.state.leases.keys(-3)) == [b"a", b"b"]
    revision = again.state.store.revision
    again.do(requests.LEASE_REVOKE, LeaseRevokeRequest(ID=-3))
    assert again.state.store.revision == revision + 1
    tombstones = [key for key, _ in again.state.buffer.range(schema.KEY, b"\0", None) if schema.is_tombstone(key)]
    assert [schema.decode_revision(key) for key in tombstones] == [(revision + 1, 0), (revision + 1, 1)]
    with pytest.raises(LeaseNotFound):
        again.do(requests.LEASE_REVOKE, LeaseRevokeRequest(ID=-3))
    assert not again.restart().state.leases.leases


def test_a_revoke_without_keys_changes_no_revision(machine: Machine) -> None:
    machine.do(requests.LEASE_GRANT, LeaseGrantRequest(ID=1, TTL=5))
    machine.do(requests.LEASE_REVOKE, LeaseRevokeRequest(ID=1))
    assert machine.state.store.revision == 1


def test_checkpoints_survive(machine: Machine) -> None:
    machine.do(requests.LEASE_GRANT, LeaseGrantRequest(ID=1, TTL=500))
    points = [LeaseCheckpoint(ID=1, remaining_TTL=77), LeaseCheckpoint(ID=99, remaining_TTL=5)]
    machine.do(requests.LEASE_CHECKPOINT, LeaseCheckpointRequest(checkpoints=points))
    assert machine.restart().state.leases.leases[1].effective_ttl_s == 77


# --- the cluster


def test_cluster_facts_survive(machine: Machine) -> None:
    machine.do(requests.CLUSTER_VERSION_SET, ClusterVersionSetRequest(ver="3.5.0"))
    assert machine.state.buffer.get(schema.META, schema.STORAGE_VERSION) is None
    machine.do(requests.CLUSTER_VERSION_SET, ClusterVersionSetRequest(ver="3.6.0"))
    machine.do(requests.DOWNGRADE_INFO_SET, DowngradeInfoSetRequest(enabled=True, ver="3.5.0"))
    unknown = ClusterMemberAttrSetRequest(member_ID=9, member_attributes=Attributes(name="x"))
    machine.do(requests.CLUSTER_MEMBER_ATTR_SET, unknown)
    again = machine.restart()
    assert again.state.members.cluster_version == "3.6.0"
    assert again.state.buffer.get(schema.META, schema.STORAGE_VERSION) == b"3.6.0"
    assert not again.state.members.members
    stored = again.state.buffer.get(schema.CLUSTER, schema.DOWNGRADE)
    assert stored == b'{"target-version":"3.5.0","enabled":true}'


@pytest.mark.parametrize("version", ["3", "3.x.0", "x", "9" * 5000 + ".1.0"])
def test_a_downgrade_to_no_version_is_passed_over(machine: Machine, version: str) -> None:
    """The leader would end as it looks where the cluster is to go, and so would the next one."""
    machine.do(requests.DOWNGRADE_INFO_SET, DowngradeInfoSetRequest(enabled=True, ver="3.5.0"))
    machine.do(requests.DOWNGRADE_INFO_SET, DowngradeInfoSetRequest(enabled=True, ver=version))
    assert machine.state.members.downgrade_target == "3.5.0"
    assert [text for text, _ in machine.state.warnings] == ["passed over a log entry that is no request"]
    assert machine.restart().state.members.downgrade_target == "3.5.0"


def test_nobody_waits_no_ranges_are_read(machine: Machine) -> None:
    """Members without the waiter spare themselves the answer, never the effect."""
    machine.do(requests.PUT, put())
    request = TxnRequest(success=[RequestOp(request_put=put(b"z"))])
    request.success.add().request_range.key = b"k"
    wanted, unwanted = Machine(), Machine()
    for each in (wanted, unwanted):
        each.do(requests.PUT, put())
    long = wanted.apply(requests.TXN, request)
    short = unwanted.apply(requests.TXN, request, wanted=False)
    assert len(long.body) > len(short.body)
    rows = [each.state.buffer.range(schema.KEY, b"\0", None) for each in (wanted, unwanted)]
    assert rows[0] == rows[1]


# --- who waits ------------------------------------------------------------------------------------------------------

LONG_PUT = put(value=b"v" * LONG_ENTRY_BYTES).SerializeToString()


def test_a_long_entry_is_known_by_its_id() -> None:
    for request_id in (1 << 48 | 5, 0x7F << 48 | 5, 0x8000 << 48 | 5, 0xFFFF << 48 | 5):
        one, two = (
            fast.internal_raft_request(requests.PUT.tag, LONG_PUT, fast.request_header(number))
            for number in (request_id, request_id + 1)
        )
        assert len(waiter_key(one)) < 20
        assert waiter_key(one) != waiter_key(two)
        assert waiter_key(one) == waiter_key(bytes(bytearray(one)))


@pytest.mark.parametrize("name", ["alice", "\xa2\x06\x0a\x08\xff\xff\xff\xff\xff\xff\xff", "x" * 100])
def test_a_long_entry_of_a_user_is_known_by_all_its_bytes(name: str) -> None:
    user = name.encode("latin-1").decode("utf-8", "surrogateescape")
    for auth_revision in (1, 300, 1 << 60):
        header = fast.request_header(0xFFFF << 48 | 5, user, auth_revision)
        data = fast.internal_raft_request(requests.PUT.tag, LONG_PUT, header)
        assert waiter_key(data) == data


def test_a_body_cannot_pass_for_an_id() -> None:
    forged = LONG_PUT + b"\xa2\x06\x0b\x08" + b"\xff" * 9 + b"\x01"
    header = fast.request_header(0xFFFF << 48 | 5)
    data = fast.internal_raft_request(requests.AUTH_USER_ADD.tag, forged, header)
    assert waiter_key(data) == data


def test_the_waiter_of_a_long_entry_gets_its_answer(machine: Machine) -> None:
    data = fast.internal_raft_request(requests.PUT.tag, LONG_PUT, fast.request_header(0xFFFF << 48 | 5))
    waiters: Waiters = {waiter_key(data): waiter_of(lambda body, error: None, 0.0)}
    outcome = apply_entry(machine.state, 1, 1, data, waiters)
    assert outcome is not None and outcome.answer is not None and not waiters


def test_only_depth_excuses_a_txn_the_parser_refuses() -> None:
    """What is read level by level is no more lenient than protobuf: others may not read it at all."""
    for data in (b"\x00\x00", nested(60) + b"\x00\x00", nested(10) + b"\x12\x05"):
        with pytest.raises(DecodeError):
            parse_txn(data)


def test_a_deep_operation_that_comes_twice_is_merged() -> None:
    """As protobuf does it, and so every other member."""
    inner = nested(59)
    twice = fast.length_prefixed(2, fast.length_prefixed(4, inner) + fast.length_prefixed(4, inner))
    ((kind, request),) = parse_txn(twice).success
    assert kind == "request_txn"
    assert len(request.success) == 2
