"""Requests read by hand say what protobuf says, or are left to it."""

import operator
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from ratifyd.proto.light import (
    Delete,
    Get,
    Put,
    condition_of,
    read_compare,
    read_delete_range,
    read_put,
    read_range,
    read_swap,
)
from ratifyd.proto.rpc_pb2 import Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest

_READERS: tuple[tuple[Any, Any], ...] = (
    (read_put, PutRequest),
    (read_range, RangeRequest),
    (read_delete_range, DeleteRangeRequest),
)
KEYS = st.binary(max_size=3) | st.binary(min_size=126, max_size=130)
VALUES = st.binary(max_size=3) | st.sampled_from([b"v" * size for size in (127, 128, 16_383, 16_384, 70_000)])
NUMBERS = st.integers(-(1 << 63), (1 << 63) - 1) | st.sampled_from([1 << bits for bits in range(63)])
AROUND = st.binary(max_size=3)


def same(light: Any, message: Any) -> None:
    for field in message.DESCRIPTOR.fields:
        assert getattr(light, field.name) == getattr(message, field.name), field.name


@given(KEYS, VALUES, st.sampled_from([0, 0, 7]), st.sampled_from([False, False, True]), AROUND, AROUND)
def test_puts(key: bytes, value: bytes, lease: int, prev_kv: bool, before: bytes, after: bytes) -> None:
    message = PutRequest(key=key, value=value, lease=lease, prev_kv=prev_kv)
    data = message.SerializeToString()
    found = read_put(before + data + after, len(before), len(before) + len(data))
    same(found, message)
    usual = 0 < len(key) < 128 and 0 < len(value) < 16_384 and not lease and not prev_kv
    assert isinstance(found, Put) == usual


@given(KEYS, st.sampled_from([{}, {"range_end": b"x"}, {"limit": 1}, {"serializable": True}]), AROUND, AROUND)
def test_ranges(key: bytes, more: dict[str, Any], before: bytes, after: bytes) -> None:
    message = RangeRequest(key=key, **more)
    data = message.SerializeToString()
    found = read_range(before + data + after, len(before), len(before) + len(data))
    same(found, message)
    assert isinstance(found, Get) == (0 < len(key) < 128 and not more)


@given(KEYS, st.sampled_from([{}, {"range_end": b"x"}, {"prev_kv": True}]), AROUND, AROUND)
def test_deletes(key: bytes, more: dict[str, Any], before: bytes, after: bytes) -> None:
    message = DeleteRangeRequest(key=key, **more)
    data = message.SerializeToString()
    found = read_delete_range(before + data + after, len(before), len(before) + len(data))
    same(found, message)
    assert isinstance(found, Delete) == (0 < len(key) < 128 and not more)


@given(
    KEYS,
    st.integers(0, 5),
    st.integers(0, 5),
    st.none() | st.sampled_from(["version", "create_revision", "mod_revision", "lease", "value"]),
    NUMBERS,
    VALUES,
    st.sampled_from([b"", b"", b"end"]),
    AROUND,
    AROUND,
)
def test_compares(
    key: bytes,
    result: Any,
    target: Any,
    field: str | None,
    number: int,
    value: bytes,
    range_end: bytes,
    before: bytes,
    after: bytes,
) -> None:
    message = Compare(key=key, result=result, target=target, range_end=range_end)
    if field is not None:
        setattr(message, field, value if field == "value" else number)
    data = message.SerializeToString()
    found = read_compare(before + data + after, len(before), len(before) + len(data))
    assert found == condition_of(message)


def test_what_a_condition_is_made_of() -> None:
    condition = condition_of(Compare(key=b"k", result=Compare.LESS, target=Compare.MOD, mod_revision=7))
    assert condition == (b"k", b"", "mod_revision", operator.lt, 7)
    assert condition_of(Compare(target=9)).field is None  # type: ignore[arg-type]
    assert condition_of(Compare(result=9)).holds(1, 2)  # type: ignore[arg-type]


@given(st.binary(max_size=12))
def test_any_bytes_are_read_as_protobuf_reads_them(data: bytes) -> None:
    for read, message in _READERS:
        try:
            expected: Any = message.FromString(data)
        except DecodeError:
            with pytest.raises(DecodeError):
                read(data, 0, len(data))
        else:
            same(read(data, 0, len(data)), expected)
    try:
        compare = Compare.FromString(data)
    except DecodeError:
        with pytest.raises(DecodeError):
            read_compare(data, 0, len(data))
    else:
        assert read_compare(data, 0, len(data)) == condition_of(compare)


@given(st.lists(st.sampled_from([0x0A, 0x12, 0x1A, 0x3A, 0x20, 0x08, 0x10, 0x80, 0x01, 0, 1, 2, 3, 0x61]), max_size=14))
def test_almost_usual_bytes_are_read_as_protobuf_reads_them(data: list[int]) -> None:
    test_any_bytes_are_read_as_protobuf_reads_them.hypothesis.inner_test(bytes(data))  # type: ignore[attr-defined]


def test_a_number_without_end_costs_no_more_than_its_first_bytes() -> None:
    data = b"\x10\x02\x1a\x01k\x30" + b"\xff" * 1_000_000
    with pytest.raises(DecodeError):
        read_compare(data, 0, len(data))


def is_swap(data: bytes) -> bool:
    """Whether bytes are read as a Swap, which must then be the TxnRequest that protobuf reads."""
    swap = read_swap(data)
    if swap is None:
        return False
    request = TxnRequest.FromString(data)
    assert swap.compare == [condition_of(compare) for compare in request.compare]
    for ops, mine, kind in (
        (request.success, swap.success, "request_put"),
        (request.failure, swap.failure, "request_range"),
    ):
        assert len(ops) == len(mine)
        for op, (name, light) in zip(ops, mine):
            assert name == kind == op.WhichOneof("request")
            same(light, getattr(op, kind))
    return True


@st.composite
def swaps(draw: st.DrawFn) -> TxnRequest:
    key, value = draw(KEYS.filter(len)), draw(VALUES)
    target = draw(st.sampled_from(["value", "version", "create_revision", "mod_revision", "lease"]))
    wanted: Any = value if target == "value" else draw(st.integers(0, (1 << 63) - 1))
    number = {"value": 3, "version": 0, "create_revision": 1, "mod_revision": 2, "lease": 4}[target]
    compare = Compare(result=draw(st.sampled_from([0, 1, 2, 3])), target=number, key=key, **{target: wanted})  # type: ignore[arg-type]
    reads = [RequestOp(request_range=RangeRequest(key=key))] if draw(st.booleans()) else []
    put = RequestOp(request_put=PutRequest(key=draw(KEYS), value=draw(VALUES), lease=draw(st.sampled_from([0, 0, 7]))))
    return TxnRequest(compare=[compare], success=[put], failure=reads)


@given(swaps())
def test_swaps(request: TxnRequest) -> None:
    put = request.success[0].request_put
    names = [request.compare[0].key, put.key, *(op.request_range.key for op in request.failure)]
    # A read's key is the length of three messages, each of which has its own length in one byte.
    usual = all(0 < len(name) < 128 for name in names) and not put.lease and put.value
    usual = usual and all(len(op.request_range.key) < 0x7C for op in request.failure)
    data = request.SerializeToString()
    assert is_swap(data) == (bool(usual) and len(data) < 16_384)


@given(swaps(), st.lists(st.tuples(st.integers(0, 40), st.integers(0, 255)), min_size=1, max_size=3), st.booleans())
def test_spoilt_swaps_are_read_as_protobuf_reads_them(
    request: TxnRequest, changes: list[tuple[int, int]], at_end: bool
) -> None:
    data = bytearray(request.SerializeToString())
    for at, byte in changes:
        if at < len(data):
            data[-1 - at if at_end else at] = byte
    is_swap(bytes(data))


@given(swaps(), st.integers(0, 60), st.binary(max_size=3))
def test_swaps_cut_short_or_followed_by_more(request: TxnRequest, cut: int, more: bytes) -> None:
    data = request.SerializeToString()
    is_swap(data[: len(data) - cut])
    is_swap(data + more)
