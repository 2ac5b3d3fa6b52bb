"""KV.Txn."""

from typing import Any

import pytest

from harness.outcomes import (
    COMPACTED,
    DUPLICATE_KEY,
    EMPTY_KEY,
    FUTURE_REVISION,
    KEY_NOT_FOUND,
    LEASE_NOT_FOUND,
    TOO_MANY_OPS,
    VALUE_PROVIDED,
    changes,
    delete,
    failure,
    get,
    op_delete,
    op_put,
    op_range,
    op_txn,
    put,
    txn,
    txn_request,
)
from harness.stubs import Client
from harness.watch import WatchStream
from ratifyd.proto import rpc_pb2

_Compare = rpc_pb2.Compare
EQUAL, GREATER, LESS, NOT_EQUAL = _Compare.EQUAL, _Compare.GREATER, _Compare.LESS, _Compare.NOT_EQUAL
VERSION, CREATE, MOD, VALUE, LEASE = _Compare.VERSION, _Compare.CREATE, _Compare.MOD, _Compare.VALUE, _Compare.LEASE

_UNION = {VERSION: "version", CREATE: "create_revision", MOD: "mod_revision", VALUE: "value", LEASE: "lease"}


def _holds(client: Client, key: bytes, target: Any, result: Any, value: Any, range_end: bytes = b"") -> bool:
    compare = _Compare(key=key, target=target, result=result, range_end=range_end, **{_UNION[target]: value})
    return bool(txn(client, compare=[compare]).succeeded)


def test_branches(client: Client, prefix: bytes) -> None:
    yes = _Compare(key=prefix, target=VERSION, result=EQUAL, version=0)
    answer = txn(client, [op_put(prefix, b"new")], [op_put(prefix, b"old")], [yes])
    assert answer.succeeded
    again = txn(client, [op_put(prefix, b"new")], [op_put(prefix, b"old"), op_range(prefix)], [yes])
    assert (again.succeeded, len(again.responses)) == (False, 2)
    assert again.responses[1].response_range.kvs[0].value == b"old"


def test_without_compares_the_success_branch_runs(client: Client, prefix: bytes) -> None:
    answer = txn(client, [op_put(prefix)], [op_delete(prefix)])
    assert answer.succeeded and answer.responses[0].HasField("response_put")


def test_an_empty_txn_succeeds_and_changes_nothing(client: Client, prefix: bytes) -> None:
    before = put(client, prefix).header.revision
    answer = txn(client)
    assert (answer.succeeded, answer.header.revision, len(answer.responses)) == (True, before, 0)


def test_all_compares_must_hold(client: Client, prefix: bytes) -> None:
    put(client, prefix, b"v")
    yes, no = (_Compare(key=prefix, target=VALUE, value=value) for value in (b"v", b"w"))
    assert txn(client, compare=[yes, yes]).succeeded
    assert not txn(client, compare=[yes, no]).succeeded
    assert not txn(client, compare=[no, yes]).succeeded


def test_compare_every_target_and_result(client: Client, prefix: bytes, new_lease) -> None:  # type: ignore[no-untyped-def]
    lease = new_lease()
    put(client, prefix, b"m")
    put(client, prefix, b"m", lease=lease)
    kv = get(client, prefix).kvs[0]
    actual = {VERSION: 2, CREATE: kv.create_revision, MOD: kv.mod_revision, LEASE: lease}
    for target, value in actual.items():
        for other, results in ((value, {EQUAL}), (value - 1, {GREATER, NOT_EQUAL}), (value + 1, {LESS, NOT_EQUAL})):
            for result in (EQUAL, GREATER, LESS, NOT_EQUAL):
                assert _holds(client, prefix, target, result, other) == (result in results), (target, result, other)
    for text, results in (
        (b"m", {EQUAL}),
        (b"l", {GREATER, NOT_EQUAL}),
        (b"ma", {LESS, NOT_EQUAL}),
        (b"", {GREATER, NOT_EQUAL}),
    ):
        for result in (EQUAL, GREATER, LESS, NOT_EQUAL):
            assert _holds(client, prefix, VALUE, result, text) == (result in results), (result, text)


def test_compare_a_missing_key(client: Client, prefix: bytes) -> None:
    """A missing key counts as zero, except for its value, which never compares."""
    for target in (VERSION, CREATE, MOD, LEASE):
        assert _holds(client, prefix, target, EQUAL, 0)
        assert _holds(client, prefix, target, LESS, 1)
        assert not _holds(client, prefix, target, GREATER, 0)
    for result in (EQUAL, GREATER, LESS, NOT_EQUAL):
        assert not _holds(client, prefix, VALUE, result, b"")


def test_compare_a_range(client: Client, prefix: bytes, end: bytes) -> None:
    assert _holds(client, prefix, CREATE, EQUAL, 0, end)
    assert not _holds(client, prefix, VALUE, EQUAL, b"v", end)
    put(client, prefix + b"1", b"v")
    put(client, prefix + b"2", b"v")
    assert _holds(client, prefix, VALUE, EQUAL, b"v", end)
    assert _holds(client, prefix, VERSION, EQUAL, 1, end)
    put(client, prefix + b"2", b"w")
    assert not _holds(client, prefix, VALUE, EQUAL, b"v", end)
    assert not _holds(client, prefix, VERSION, EQUAL, 1, end)
    assert _holds(client, prefix, VERSION, GREATER, 0, end)
    assert _holds(client, prefix, VALUE, EQUAL, b"v", prefix + b"2")


def test_unknown_results_hold_and_unknown_targets_are_equal(client: Client, prefix: bytes) -> None:
    put(client, prefix, b"v")
    assert txn(client, compare=[_Compare(key=prefix, target=VALUE, result=7, value=b"x")]).succeeded  # type: ignore[arg-type]
    unknown = {"key": prefix, "target": 9, "version": 5}
    assert txn(client, compare=[_Compare(result=EQUAL, **unknown)]).succeeded
    assert not txn(client, compare=[_Compare(result=GREATER, **unknown)]).succeeded


def test_a_union_that_does_not_match_the_target_is_zero(client: Client, prefix: bytes) -> None:
    put(client, prefix, b"v")
    assert not txn(client, compare=[_Compare(key=prefix, target=VERSION, result=EQUAL, mod_revision=1)]).succeeded
    assert txn(client, compare=[_Compare(key=prefix, target=VERSION, result=GREATER, value=b"9")]).succeeded


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (op_put(b""), EMPTY_KEY),
        (op_range(b""), EMPTY_KEY),
        (op_delete(b""), EMPTY_KEY),
        (op_put(b"k", b"v", ignore_value=True), VALUE_PROVIDED),
        (rpc_pb2.RequestOp(), KEY_NOT_FOUND),
        (op_txn([op_txn([op_put(b"")])]), EMPTY_KEY),
        (op_txn(compare=[_Compare()]), EMPTY_KEY),
        (op_txn([], [rpc_pb2.RequestOp()]), KEY_NOT_FOUND),
    ],
)
def test_malformed_operations_are_found_in_both_branches(client: Client, operation: Any, expected: Any) -> None:
    assert failure(client.kv.Txn, txn_request([operation])) == expected
    assert failure(client.kv.Txn, txn_request([], [operation])) == expected


def test_compare_needs_a_key(client: Client) -> None:
    assert failure(client.kv.Txn, txn_request(compare=[_Compare(target=VERSION)])) == EMPTY_KEY


def test_the_largest_branch_counts(client: Client, prefix: bytes) -> None:
    reads = [op_range(prefix)] * 128
    compares = [_Compare(key=prefix)] * 128
    assert txn(client, reads, reads, compares).header.revision
    for request in (
        txn_request([*reads, op_range(prefix)]),
        txn_request([], [*reads, op_range(prefix)]),
        txn_request([], [], [*compares, _Compare(key=prefix)]),
    ):
        assert failure(client.kv.Txn, request) == TOO_MANY_OPS


def test_nested_txns_get_what_the_outer_ones_left(client: Client, prefix: bytes) -> None:
    def request(outer: int, inner: int) -> rpc_pb2.TxnRequest:
        return txn_request([op_txn([op_range(prefix)] * inner), *[op_range(prefix)] * (outer - 1)])

    for outer, inner in ((64, 64), (127, 1), (1, 127)):
        client.kv.Txn(request(outer, inner))
    for outer, inner in ((64, 65), (127, 2), (128, 1)):
        assert failure(client.kv.Txn, request(outer, inner)) == TOO_MANY_OPS


def test_the_limit_is_a_flag(start_server) -> None:  # type: ignore[no-untyped-def]
    _, client = start_server("--max-txn-ops=3")
    txn(client, [op_range(b"a")] * 3)
    assert failure(client.kv.Txn, txn_request([op_range(b"a")] * 4)) == TOO_MANY_OPS


def test_duplicate_keys(client: Client, prefix: bytes, end: bytes) -> None:
    a, b = prefix + b"a", prefix + b"b"
    duplicates = [
        [op_put(a), op_put(a)],
        [op_put(a), op_delete(a)],
        [op_delete(a), op_put(a)],
        [op_put(a), op_delete(prefix, end)],
        [op_put(a), op_txn([op_put(a)])],
        [op_txn([op_put(a)]), op_txn([op_put(a)])],
        [op_txn([op_put(a)]), op_txn([], [op_put(a)])],
        [op_txn([op_put(a), op_put(a)])],
        [op_txn([op_delete(a)]), op_txn([op_put(a)])],
        [op_delete(a), op_txn([op_put(a)])],
    ]
    for branch in duplicates:
        assert failure(client.kv.Txn, txn_request(branch)) == DUPLICATE_KEY, branch
        assert failure(client.kv.Txn, txn_request([], branch)) == DUPLICATE_KEY, branch
    allowed = [
        [op_delete(prefix, end), op_delete(a)],
        [op_put(a), op_put(b)],
        [op_put(a), op_delete(b)],
        [op_put(a), op_range(a), op_range(prefix, end)],
        [op_txn([op_put(a)], [op_put(a)])],
        [op_put(b), op_delete(prefix, b)],
        # The check takes a zero byte for an ordinary end, so it does not see this one.
        [op_put(a), op_delete(prefix, b"\0")],
    ]
    for branch in allowed:
        txn(client, branch)
    txn(client, [op_put(a)], [op_put(a)])


def test_put_then_sibling_nested_delete_is_not_noticed(client: Client, prefix: bytes, stream: WatchStream) -> None:
    """A hole in the duplicate check that clients can see: both changes happen in one revision."""
    stream.create(prefix)
    revision = txn(client, [op_txn([op_put(prefix)]), op_txn([op_delete(prefix)])]).header.revision
    assert changes(stream.events(2)) == [("PUT", prefix, revision), ("DELETE", prefix, revision)]
    assert get(client, prefix).count == 0


def test_only_the_branch_taken_is_checked_against_the_store(client: Client, prefix: bytes) -> None:
    bad = [op_put(prefix, lease=424242)]
    assert txn(client, [op_put(prefix)], bad).succeeded
    assert failure(client.kv.Txn, txn_request(bad)) == LEASE_NOT_FOUND
    missing = [op_put(prefix + b"x", ignore_value=True)]
    assert txn(client, [], missing).succeeded
    assert failure(client.kv.Txn, txn_request(missing)) == KEY_NOT_FOUND


def test_a_failure_writes_nothing(client: Client, prefix: bytes, end: bytes) -> None:
    before = put(client, prefix, b"kept").header.revision
    for last, expected in (
        (op_put(prefix + b"2", lease=424242), LEASE_NOT_FOUND),
        (op_put(prefix + b"2", ignore_value=True), KEY_NOT_FOUND),
        (op_range(prefix, revision=10**12), FUTURE_REVISION),
        (op_txn([op_put(prefix + b"2", lease=424242)]), LEASE_NOT_FOUND),
    ):
        request = txn_request([op_put(prefix, b"lost"), op_put(prefix + b"1"), last])
        assert failure(client.kv.Txn, request) == expected
    answer = get(client, prefix, end)
    assert ([kv.value for kv in answer.kvs], answer.header.revision) == ([b"kept"], before)


def test_preconditions_see_the_state_before_the_txn(client: Client, prefix: bytes) -> None:
    put(client, prefix + b"1", b"v")
    request = txn_request(
        [op_delete(prefix + b"0"), op_txn([op_put(prefix, b"v")]), op_put(prefix + b"2", ignore_value=True)]
    )
    assert failure(client.kv.Txn, request) == KEY_NOT_FOUND


def test_ranges_see_the_writes_before_them(client: Client, prefix: bytes, end: bytes) -> None:
    put(client, prefix + b"1", b"old")
    answer = txn(
        client,
        [
            op_range(prefix, end),
            op_put(prefix + b"1", b"new"),
            op_range(prefix, end),
            op_put(prefix + b"2"),
            op_range(prefix, end),
        ],
    )
    seen = [[(kv.key[-1:], kv.value) for kv in answer.responses[at].response_range.kvs] for at in (0, 2, 4)]
    assert seen == [[(b"1", b"old")], [(b"1", b"new")], [(b"1", b"new"), (b"2", b"")]]
    deleted = txn(client, [op_delete(prefix, end, prev_kv=True), op_range(prefix, end, count_only=True)])
    assert deleted.responses[0].response_delete_range.deleted == 2
    assert deleted.responses[1].response_range.count == 0


def test_ranges_of_the_past_inside_a_txn(client: Client, prefix: bytes) -> None:
    old = put(client, prefix, b"old").header.revision
    put(client, prefix, b"new")
    answer = txn(client, [op_put(prefix, b"newer"), op_range(prefix, revision=old)])
    assert answer.responses[1].response_range.kvs[0].value == b"old"


def test_negative_revisions_fail_inside_a_txn(client: Client, prefix: bytes) -> None:
    """Outside they mean the latest. Inside they are compared with the compacted revision, -1 in a new store."""
    assert failure(client.kv.Txn, txn_request([op_range(prefix, revision=-2)])) == COMPACTED
    assert failure(client.kv.Txn, txn_request([op_put(prefix), op_range(prefix, revision=-2)])) == COMPACTED
    assert txn(client, [op_range(prefix, revision=-1)]).succeeded


def test_previous_values_inside_a_txn(client: Client, prefix: bytes) -> None:
    put(client, prefix, b"1")
    answer = txn(client, [op_put(prefix, b"2", prev_kv=True), op_delete(prefix + b"none", prev_kv=True)])
    assert answer.responses[0].response_put.prev_kv.value == b"1"
    assert answer.responses[1].response_delete_range.deleted == 0


def test_one_revision_with_changes_in_order(client: Client, prefix: bytes, end: bytes, stream: WatchStream) -> None:
    put(client, prefix + b"d")
    stream.create(prefix, end)
    answer = txn(client, [op_put(prefix + b"z"), op_delete(prefix + b"d"), op_txn([op_put(prefix + b"a")])])
    revision = answer.header.revision
    response = stream.take()
    assert changes(list(response.events)) == [
        ("PUT", prefix + b"z", revision),
        ("DELETE", prefix + b"d", revision),
        ("PUT", prefix + b"a", revision),
    ]


def test_nested_compares_decide_at_their_level(client: Client, prefix: bytes) -> None:
    put(client, prefix, b"v")
    yes, no = (_Compare(key=prefix, target=VALUE, value=value) for value in (b"v", b"w"))
    inner = op_txn([op_put(prefix + b"1")], [op_put(prefix + b"2")], [no])
    answer = txn(client, [inner], [], [yes])
    nested = answer.responses[0].response_txn
    assert (answer.succeeded, nested.succeeded, len(nested.responses)) == (True, False, 1)
    assert (get(client, prefix + b"1").count, get(client, prefix + b"2").count) == (0, 1)


def test_a_put_in_a_txn_can_attach_a_lease(client: Client, prefix: bytes, new_lease) -> None:  # type: ignore[no-untyped-def]
    lease = new_lease()
    txn(client, [op_put(prefix, lease=lease)])
    client.lease.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=lease))
    assert get(client, prefix).count == 0


def test_deleting_nothing_twice(client: Client, prefix: bytes) -> None:
    before = put(client, prefix + b"x").header.revision
    answer = txn(client, [op_delete(prefix), op_delete(prefix), op_txn([op_delete(prefix)])])
    assert answer.header.revision == before
    delete(client, prefix + b"x")
