"""What is proposed of a request that a client has encoded in a way of its own.

Members of etcd read the log with another runtime, which agrees with ours about what runtimes write and about little
else: for it an empty range_end that is there is "no end", the last of two operations in one place counts, and a field
of another wire type ends the process. So requests go into the log as a runtime writes them, as those of etcd do.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from ratifyd.proto.fast import read_varint, varint

M = TypeVar("M", bound=Message)

_VARINT, _FIXED64, _DELIMITED, _GROUP, _END_GROUP, _FIXED32 = range(6)
MAX_FIELDS = 100_000
"""No client has that many to encode in a way of its own, and to look at each takes its time."""
_MAX_TAG = (1 << 32) - 1
_SHORT = (FieldDescriptor.TYPE_ENUM, FieldDescriptor.TYPE_INT32)
_BYTES = (FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_STRING)


class WrongWireType(DecodeError):
    """A known field of another wire type: etcd refuses it, protobuf's runtime takes it for an unknown one."""


class TooDeep(DecodeError):
    """More messages inside each other than allowed."""


def canonical(kind: type[M], data: bytes) -> tuple[M, bytes]:
    """A request, and what to propose of it. Raises DecodeError, WrongWireType."""
    request = kind.FromString(data)
    if not is_canonical(request, data):
        data = rewritten(kind, data)
        request = kind.FromString(data)
    return request, data


def is_canonical(request: Message, data: bytes) -> bool:
    """Whether a runtime writes what was read from `data` just like this; what nobody knows of it is forgotten.

    Not to be asked of what may hold txns in txns: what is unknown is found on 64 levels only.
    """
    request.DiscardUnknownFields()
    return request.SerializeToString() == data


def rewritten(kind: type[Message], data: bytes, levels: int = 8) -> bytes:
    """A message as a runtime writes what etcd reads in it. Raises DecodeError, WrongWireType, TooDeep."""
    try:
        return _rewrite(_fields_of(kind.DESCRIPTOR), memoryview(data), levels, [MAX_FIELDS])
    except IndexError:
        raise DecodeError("the message ends early") from None
    except ValueError as error:
        raise DecodeError(str(error)) from None


_Buffer = bytes | memoryview
"""Of messages inside each other, each is looked at where it is: copies of all would take levels times size."""


class _Pieces(list[_Buffer]):
    """A message that may come in several: they are read as one, once all are there."""


class _Field(NamedTuple):
    head: bytes
    """Its tag."""
    wire: int
    kind: int
    message: Any
    """Its descriptor, None of what is no message."""
    is_list: bool
    siblings: tuple[int, ...]
    """Numbers of the fields of its oneof, whose last one counts even if it is zero."""
    name: str
    """In Go, for error texts."""


@cache
def _fields_of(descriptor: Any) -> dict[int, _Field]:
    fields = {}
    for field in descriptor.fields:
        wire = _DELIMITED if field.message_type or field.type in _BYTES else _VARINT
        head = varint(field.number << 3 | wire)
        oneof = field.containing_oneof
        siblings = () if oneof is None else tuple(sibling.number for sibling in oneof.fields)
        name = "".join(part[:1].upper() + part[1:] for part in field.name.split("_"))
        fields[field.number] = _Field(head, wire, field.type, field.message_type, field.is_repeated, siblings, name)
    return fields


def _rewrite(fields: dict[int, _Field], data: _Buffer, levels: int, left: list[int]) -> bytes:
    if not levels:
        raise TooDeep("too many messages inside each other")
    found: dict[int, Any] = {}
    at, end = 0, len(data)
    while at < end:
        _count_field(left)
        tag, at = read_varint(data, at)
        if not 8 <= tag <= _MAX_TAG:
            raise DecodeError(f"tag {tag}")
        field = fields.get(tag >> 3)
        if field is None:
            at = _skip(data, at, tag, left)
            continue
        if tag & 7 != field.wire:
            if tag & 7 > _FIXED32 or tag & 7 == _END_GROUP:
                raise DecodeError(f"wire type {tag & 7}")
            raise WrongWireType(f"proto: wrong wireType = {tag & 7} for field {field.name}")
        number, at = read_varint(data, at)
        if field.wire == _DELIMITED:
            start, at = at, at + number
            if at > end:
                raise DecodeError("a field goes on beyond the end")
            _put(found, tag >> 3, field, data[start:at], levels, left)
        else:
            _put(found, tag >> 3, field, number, levels, left)
    for number, content in found.items():
        if type(content) is _Pieces:
            found[number] = _rewrite(_fields_of(fields[number].message), b"".join(content), levels - 1, left)
    return b"".join(_joined(fields, found))


def _count_field(left: list[int]) -> None:
    left[0] -= 1
    if left[0] < 0:
        raise DecodeError("too many fields")


def _put(found: dict[int, Any], number: int, field: _Field, content: Any, levels: int, left: list[int]) -> None:
    if field.message is not None:
        if not field.is_list and not field.siblings:
            found.setdefault(number, _Pieces()).append(content)
            return
        content = _rewrite(_fields_of(field.message), content, levels - 1, left)
        if field.is_list:
            found.setdefault(number, []).append(content)
            return
    for sibling in field.siblings:
        found.pop(sibling, None)
    found[number] = content


def _joined(fields: dict[int, _Field], found: dict[int, Any]) -> Iterator[bytes]:
    for number in sorted(found):
        field, content = fields[number], found[number]
        for each in content if field.is_list else (content,):
            if field.wire == _DELIMITED:
                if each or field.message is not None or field.siblings:
                    yield field.head + varint(len(each)) + each
            elif (value := _NUMBERS.get(field.kind, _as_it_is)(each)) or field.siblings:
                yield field.head + varint(value)


def _short(value: int) -> int:
    return ((value & 0xFFFF_FFFF) ^ 0x8000_0000) - 0x8000_0000


def _as_it_is(value: int) -> int:
    return value


_NUMBERS: dict[int, Callable[[int], int]] = {FieldDescriptor.TYPE_BOOL: bool, **dict.fromkeys(_SHORT, _short)}
"""What is kept of numbers, by the type of their field."""


def _skip(data: _Buffer, at: int, tag: int, left: list[int]) -> int:
    """Where a field goes on whose tag has been read; groups end with their own number."""
    groups: list[int] = []
    while True:
        wire = tag & 7
        if wire == _VARINT:
            _, at = read_varint(data, at)
        elif wire == _DELIMITED:
            size, at = read_varint(data, at)
            at += size
        elif wire in (_FIXED32, _FIXED64):
            at += 4 if wire == _FIXED32 else 8
        elif wire == _GROUP:
            groups.append(tag >> 3)
        elif wire != _END_GROUP or not groups or groups.pop() != tag >> 3:
            raise DecodeError(f"wire type {wire}")
        if at > len(data):
            raise DecodeError("a field goes on beyond the end")
        if not groups:
            return at
        _count_field(left)
        tag, at = read_varint(data, at)
        if not 8 <= tag <= _MAX_TAG:
            raise DecodeError(f"tag {tag}")
