"""Requests read by hand say what protobuf says, or are left to it."""

import operator
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from ratifyd.proto.light import (
    Condition,
    Delete,
    Get,
    Put,
    condition_of,
    read_compare,
    read_delete_range,
    read_put,
    read_range,
)
from ratifyd.proto.rpc_pb2 import Compare, DeleteRangeRequest, PutRequest, RangeRequest

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


def seen(condition: Condition) -> tuple[object, ...]:
    return tuple(getattr(condition, name) for name in Condition.__slots__)


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
    assert seen(found) == seen(condition_of(message))


def test_what_a_condition_is_made_of() -> None:
    condition = condition_of(Compare(key=b"k", result=Compare.LESS, target=Compare.MOD, mod_revision=7))
    assert seen(condition) == ("mod_revision", operator.lt, b"k", b"", 7)
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
        assert seen(read_compare(data, 0, len(data))) == seen(condition_of(compare))


@given(st.lists(st.sampled_from([0x0A, 0x12, 0x1A, 0x3A, 0x20, 0x08, 0x10, 0x80, 0x01, 0, 1, 2, 3, 0x61]), max_size=14))
def test_almost_usual_bytes_are_read_as_protobuf_reads_them(data: list[int]) -> None:
    test_any_bytes_are_read_as_protobuf_reads_them.hypothesis.inner_test(bytes(data))  # type: ignore[attr-defined]


def test_a_number_without_end_costs_no_more_than_its_first_bytes() -> None:
    data = b"\x10\x02\x1a\x01k\x30" + b"\xff" * 1_000_000
    with pytest.raises(DecodeError):
        read_compare(data, 0, len(data))
