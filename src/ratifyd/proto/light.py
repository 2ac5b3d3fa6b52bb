"""The usual requests read by hand: without the message objects of protobuf's runtime, which cost more than they hold.

Each reader takes the bytes of one message, data[at:end], and answers with a light twin of it: the same attributes with
the same values. It does so for nothing but the form in which every client encodes the usual ones, fields ascending and
without those that are zero; for all else it answers with the message itself, read by `parse`. Raises DecodeError as
that does.
"""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple, final

from ratifyd.proto.rpc_pb2 import Compare, DeleteRangeRequest, PutRequest, RangeRequest


class _KeyAndValue(NamedTuple):
    key: bytes
    value: bytes


@final
class Put(_KeyAndValue):
    """A PutRequest of a key, which is not empty, and a value."""

    __slots__ = ()
    lease = 0
    prev_kv = ignore_value = ignore_lease = False


class Get:
    """A RangeRequest of nothing but a key, which is not empty."""

    __slots__ = ("key",)
    range_end = b""
    limit = revision = sort_order = sort_target = 0
    serializable = keys_only = count_only = False
    min_mod_revision = max_mod_revision = min_create_revision = max_create_revision = 0

    def __init__(self, key: bytes) -> None:
        self.key = key


class Delete:
    """A DeleteRangeRequest of nothing but a key, which is not empty."""

    __slots__ = ("key",)
    range_end = b""
    prev_kv = False

    def __init__(self, key: bytes) -> None:
        self.key = key


class Condition(NamedTuple):
    """What a Compare asks for: that `holds(actual, wanted)`, where the actual one is `field` of the KeyValue.

    For a target or a result that does not exist there is no `field`, or `holds` is always true.
    """

    key: bytes
    range_end: bytes
    field: str | None
    holds: Callable[[Any, Any], bool]
    wanted: int | bytes


@final
class Swap(NamedTuple):
    """A TxnRequest that writes a key if one condition holds, and else reads one or does nothing.

    The operations are kept as what they are about; who wants them whole has them made.
    """

    condition: Condition
    put_key: bytes
    value: bytes
    read_key: bytes
    """Empty if there is nothing to be done else."""

    @property
    def compare(self) -> list[Condition]:
        """The compares: one."""
        return [self.condition]

    @property
    def success(self) -> list[tuple[str | None, Any]]:
        """Operations if it holds, by kind."""
        return [("request_put", Put(self.put_key, self.value))]

    @property
    def failure(self) -> list[tuple[str | None, Any]]:
        """Operations if it does not."""
        return [("request_range", Get(self.read_key))] if self.read_key else []


_tuple = tuple.__new__
"""Makes a named tuple of a tuple, in a third of the time."""
_FIELDS = ("version", "create_revision", "mod_revision", "value", "lease")
"""What is compared, by target: so it is called in Compare and in KeyValue."""
_TAGS = (0x20, 0x28, 0x30, 0x3A, 0x40)
"""Of these fields in Compare."""
_RESULTS: tuple[Callable[[Any, Any], bool], ...] = (operator.eq, operator.gt, operator.lt, operator.ne)
_VALUE = Compare.VALUE


def _always(_actual: object, _wanted: object) -> bool:
    return True


def read_put(
    data: bytes, at: int, end: int, parse: Callable[[bytes], PutRequest] = PutRequest.FromString
) -> Put | PutRequest:
    """A PutRequest."""
    try:
        size = data[at + 1]
        if data[at] == 0x0A and 0 < size < 0x80:
            start = at + 2
            middle = start + size
            size = data[middle + 1]
            first = middle + 2
            if size > 0x7F:
                high = data[first]
                first += 1
                size = size + (high << 7) - 0x80 if high < 0x80 else -1
            if data[middle] == 0x12 and first + size == end and size > 0:
                return _tuple(Put, (data[start:middle], data[first:end]))
    except IndexError:
        pass
    return parse(data[at:end])


def read_range(
    data: bytes, at: int, end: int, parse: Callable[[bytes], RangeRequest] = RangeRequest.FromString
) -> Get | RangeRequest:
    """A RangeRequest."""
    if end - at > 2 and data[at] == 0x0A and data[at + 1] == end - at - 2 < 0x80:
        return Get(data[at + 2 : end])
    return parse(data[at:end])


def read_delete_range(
    data: bytes, at: int, end: int, parse: Callable[[bytes], DeleteRangeRequest] = DeleteRangeRequest.FromString
) -> Delete | DeleteRangeRequest:
    """A DeleteRangeRequest."""
    if end - at > 2 and data[at] == 0x0A and data[at + 1] == end - at - 2 < 0x80:
        return Delete(data[at + 2 : end])
    return parse(data[at:end])


def read_compare(data: bytes, at: int, end: int, parse: Callable[[bytes], Compare] = Compare.FromString) -> Condition:
    """A Compare."""
    return _short_compare(data, at, end) or condition_of(parse(data[at:end]))


def condition_of(compare: Compare) -> Condition:
    """A Compare that has been read."""
    target, result = compare.target, compare.result
    field = _FIELDS[target] if 0 <= target < len(_FIELDS) else None
    holds = _RESULTS[result] if 0 <= result < len(_RESULTS) else _always
    wanted = 0 if field is None else getattr(compare, field)
    return Condition(compare.key, compare.range_end, field, holds, wanted)


def _short_compare(data: bytes, at: int, end: int) -> Condition | None:
    result = target = 0
    try:
        if data[at] == 0x08:
            result = data[at + 1]
            at += 2
        if data[at] == 0x10:
            target = data[at + 1]
            at += 2
        size = data[at + 1]
        start = at + 2
        middle = start + size
        if data[at] != 0x1A or not 0 < size < 0x80 or result > 3 or target > 4 or data[middle] != _TAGS[target]:
            return None
        number = data[middle + 1]
        at = middle + 2
        if number > 0x7F:
            number &= 0x7F
            for shift in range(7, 63, 7):
                more = data[at]
                at += 1
                number |= (more & 0x7F) << shift
                if more < 0x80:
                    break
            else:
                return None
    except IndexError:
        return None
    if target == _VALUE:
        if at + number != end:
            return None
        return _tuple(Condition, (data[start:middle], b"", "value", _RESULTS[result], data[at:end]))
    if at != end:
        return None
    return _tuple(Condition, (data[start:middle], b"", _FIELDS[target], _RESULTS[result], number))


_LONGEST_SWAP = 1 << 14
"""In what is shorter no length of three bytes can be right, so that all are read as of at most two."""
_READ_HEAD_BYTES = 6
_READ_HEADS = tuple(bytes((0x1A, size + 4, 0x0A, size + 2, 0x0A, size)) for size in range(0x7C))
"""Of a RequestOp in `failure` that reads a key, by its size: all that stands before it."""


def read_swap(data: bytes) -> Swap | None:
    """A TxnRequest, if it is of that form."""
    whole = len(data)
    try:
        if data[0] != 0x0A or whole >= _LONGEST_SWAP:
            return None
        size, at = data[1], 2
        if size > 0x7F:
            size, at = size + (data[2] << 7) - 0x80, 3
        stop = at + size
        if data[stop] != 0x12:
            return None
        condition = _short_compare(data, at, stop)
        size, at = data[stop + 1], stop + 2
        if size > 0x7F:
            size, at = size + (data[at] << 7) - 0x80, at + 1
        stop = at + size
        kind, size, at = data[at], data[at + 1], at + 2
        if size > 0x7F:
            size, at = size + (data[at] << 7) - 0x80, at + 1
        if kind != 0x12 or at + size != stop or data[at] != 0x0A:
            return None
        start = at + 2
        middle = start + data[at + 1]
        size, at = data[middle + 1], middle + 2
        if size > 0x7F:
            size, at = size + (data[at] << 7) - 0x80, at + 1
        if data[middle] != 0x12 or at + size != stop or not start < middle <= start + 0x7F or not size:
            return None
    except IndexError:
        return None
    read_key = b""
    if stop != whole:
        first = stop + _READ_HEAD_BYTES
        if not 0 < whole - first < len(_READ_HEADS) or not data.startswith(_READ_HEADS[whole - first], stop):
            return None
        read_key = data[first:]
    return condition and _tuple(Swap, (condition, data[start:middle], data[at:stop], read_key))
