"""Valid messages to begin with, made by the same classes the server reads them with."""

from random import Random
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from ratifyd.apply.requests import ROWS, encode_v2_attributes, encode_v2_version
from ratifyd.proto import fast
from ratifyd.proto.services import METHODS

_NUMBERS = (0, 1, 2, 3, 7, 60, 100, -1, -(1 << 63), (1 << 63) - 1)
_TEXTS = ("a", "b", "root", "", "k", "3.5.0", "http://127.0.0.1:1")
_BYTES = (b"a", b"b", b"c", b"", b"\0", b"k", b"\xff")
KEPT_PER_METHOD = 6


def filled(kind: Any, random: Random, depth: int = 0) -> Any:
    """A message with random fields of plausible content."""
    message = kind()
    _fill(message, kind.DESCRIPTOR, random, depth)
    return message


def _fill(message: Any, descriptor: Descriptor, random: Random, depth: int) -> None:
    for field in descriptor.fields:
        if random.random() < 0.35 or (field.message_type is not None and depth > 3):
            continue
        if field.is_repeated:
            container = getattr(message, field.name)
            for _ in range(random.randrange(3)):
                if field.message_type is not None:
                    _fill(container.add(), field.message_type, random, depth + 1)
                else:
                    container.append(_scalar(field, random))
        elif field.message_type is not None:
            inner = getattr(message, field.name)
            inner.SetInParent()
            _fill(inner, field.message_type, random, depth + 1)
        else:
            setattr(message, field.name, _scalar(field, random))


def _scalar(field: FieldDescriptor, random: Random) -> Any:
    kind = field.cpp_type
    if field.enum_type is not None:
        return random.choice((0, 1, 2, 3, 9))
    if field.type == FieldDescriptor.TYPE_BYTES:
        return random.choice(_BYTES)
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return random.choice(_TEXTS)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return random.random() < 0.5
    number = random.choice(_NUMBERS)
    if kind == FieldDescriptor.CPPTYPE_INT64:
        return number
    if kind == FieldDescriptor.CPPTYPE_INT32:
        return number % (1 << 31)
    return abs(number) % (1 << (32 if kind == FieldDescriptor.CPPTYPE_UINT32 else 64))


def requests() -> list[tuple[str, bytes]]:
    """(path, message) of some requests of every method."""
    random = Random("requests")
    return [
        (path.decode(), filled(method.request, random).SerializeToString())
        for path, method in METHODS.items()
        for _ in range(KEPT_PER_METHOD)
    ]


def entries() -> list[bytes]:
    """Data of log entries: every replicated request, and those of the v2 store that members of 3.5 still make."""
    random = Random("entries")
    found = [encode_v2_version(5, "3.5.0"), encode_v2_attributes(6, "1", "a", ["http://a:1"])]
    for row in ROWS:
        for number in range(KEPT_PER_METHOD):
            body = filled(row.message, random).SerializeToString()
            found.append(
                fast.internal_raft_request(row.tag, body, fast.request_header(number + 1, "root" * (number % 2)))
            )
    return found
