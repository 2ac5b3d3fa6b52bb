"""A key twice in one transaction: what is refused against a plain reading of the rule, and at what price."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratifyd.api.validate import check_txn
from ratifyd.apply.txn import Txn
from ratifyd.errors import DuplicateKey
from ratifyd.proto.light import Delete, Put
from ratifyd.proto.rpc_pb2 import DeleteRangeRequest

KEY = st.sampled_from([b"\0", b"a", b"a\0", b"b", b"c"])
PUTS = st.builds(lambda key: ("request_put", Put(key, b"")), KEY)
DELETES = st.builds(
    lambda key, end: ("request_delete_range", DeleteRangeRequest(key=key, range_end=end)), KEY, KEY | st.just(b"")
)
OPS = st.recursive(
    PUTS | DELETES,
    lambda inner: st.builds(
        lambda success, failure: ("request_txn", Txn([], success, failure)),
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3),
    ),
    max_leaves=12,
)


def plainly(ops: list[Any]) -> tuple[list[bytes], list[Any]]:
    """Keys put and deletions in a branch. Raises DuplicateKey."""
    deletes = [request for kind, request in ops if kind == "request_delete_range"]
    puts: list[bytes] = []
    for kind, request in ops:
        if kind == "request_txn":
            inner = [plainly(branch) for branch in (request.success, request.failure)]
            for put in {key for keys, _ in inner for key in keys}:
                add(puts, put, deletes)
            deletes = deletes + inner[0][1] + inner[1][1]
    for kind, request in ops:
        if kind == "request_put":
            add(puts, request.key, deletes)
    return puts, deletes


def add(puts: list[bytes], key: bytes, deletes: list[Any]) -> None:
    covered = any(key == each.key if not each.range_end else each.key <= key < each.range_end for each in deletes)
    if key in puts or covered:
        raise DuplicateKey
    puts.append(key)


def refused(check: Any, *arguments: Any) -> bool:
    try:
        check(*arguments)
    except DuplicateKey:
        return True
    return False


@given(st.lists(OPS, min_size=2, max_size=5))
def test_a_key_twice_is_refused_and_nothing_else(ops: list[Any]) -> None:
    assert refused(check_txn, Txn([], ops, []), 100) == refused(plainly, ops)


class Weighed(bytes):
    """A key that counts how often it is compared."""

    looks = 0

    def __lt__(self, other: bytes) -> bool:
        Weighed.looks += 1
        return bytes.__lt__(self, other)

    def __le__(self, other: bytes) -> bool:
        Weighed.looks += 1
        return bytes.__le__(self, other)

    def __eq__(self, other: object) -> bool:
        Weighed.looks += 1
        return bytes.__eq__(self, other)

    __hash__ = bytes.__hash__


@pytest.mark.parametrize("inside", (False, True))
def test_thousands_of_keys_and_deletions_are_not_compared_each_with_each(inside: bool) -> None:
    ops: list[Any] = [("request_delete_range", Delete(Weighed(b"d%d" % number))) for number in range(2000)]
    ops.extend(("request_put", Put(Weighed(b"p%d" % number), b"")) for number in range(2000))
    if inside:
        ops = [("request_txn", Txn([], ops[at : at + 80], [])) for at in range(0, len(ops), 80)]
    Weighed.looks = 0
    check_txn(Txn([], ops, []), 4000)
    assert Weighed.looks < 1_000_000  # of 4 million pairs
