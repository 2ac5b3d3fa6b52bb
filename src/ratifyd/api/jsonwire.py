"""proto3 JSON to wire bytes and back, by descriptor: no message objects, and no depth but Python's own.

Reading follows protojson (grpc-gateway v2, etcd 3.6): both spellings of names, unknown names skipped, null for absent,
int64 as text or number, either base64 alphabet, enums by name or number; its error texts too. Writing gives what etcd's
gateway gives: names as in the .proto files, int64 as text, nothing that has its default value.
"""

import binascii
import json
import re
from base64 import b64encode
from collections.abc import Callable, Generator, Iterator
from functools import cache, partial
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError

from ratifyd.api.jsontext import BadJson, Number, first_value, locate, position, text_of, token_at

_INTEGER = re.compile(
    r"(-?)(0|[1-9][0-9]*)(?:\.([0-9]+))?(?:[eE](?=.)([-+]?[0-9]*))?(?![-+._a-zA-Z0-9])", re.ASCII | re.DOTALL
)
_EXPONENT = re.compile(r"[-+]?[0-9]{1,9}")
_MAX_DIGITS = 20
"""Of the largest uint64: longer numbers need not be computed."""
_VARINT, _DELIMITED = 0, 2
_MASK64 = (1 << 64) - 1
_KINDS = {
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_UINT64: "uint64",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_ENUM: "enum",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_MESSAGE: "message",
}
_BOUNDS = {
    "int64": (-(1 << 63), (1 << 63) - 1),
    "uint64": (0, _MASK64),
    "int32": (-(1 << 31), (1 << 31) - 1),
    "uint32": (0, (1 << 32) - 1),
    "enum": (-(1 << 31), (1 << 31) - 1),
}
MAX_COMMAS = 100_000
"""Values of a body that are looked at. Its other bytes are those of strings; nobody has so many values to send."""
_TOO_DEEP = "the message is too deep for JSON"
_UNEXPECTED_TOKEN = "syntax error ({position}): unexpected token {token}"


class _Misfit(Exception):
    """A value that does not fit its place; `path` leads there, from the inside out."""

    def __init__(self, text: str, *, at_name: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.at_name = at_name
        self.path: list[int] = []


class Field:
    """One field of a message. `read` turns a JSON value into a payload (None: nothing), `write` a payload into JSON."""

    __slots__ = (
        "is_list",
        "is_packed",
        "keeps_default",
        "name",
        "number",
        "oneof",
        "oneof_name",
        "read",
        "tag",
        "wire_type",
        "write",
    )

    read: Callable[[Any], bytes | None]
    write: Callable[[Any], Any]

    def __init__(self, descriptor: FieldDescriptor) -> None:
        kind = _KINDS[descriptor.type]
        is_delimited = kind in ("bytes", "string", "message")
        self.name = descriptor.name
        self.number = descriptor.number
        self.is_list = descriptor.is_repeated
        self.is_packed = self.is_list and not is_delimited
        oneof = descriptor.containing_oneof
        self.oneof = -1 if oneof is None else oneof.index
        self.oneof_name = "" if oneof is None else oneof.full_name
        self.keeps_default = kind == "message" or oneof is not None  # being there says something
        self.wire_type = _DELIMITED if is_delimited or self.is_packed else _VARINT
        self.tag = _varint(self.number << 3 | self.wire_type)
        self.read, self.write = _converters(kind, descriptor)

    def encode(self, value: Any) -> bytes:
        """The field with a JSON value, as it goes on the wire. Raises _Misfit."""
        if self.is_list:
            return self._encode_list(value)
        payload = self.read(value)
        if payload is None or (not self.keeps_default and payload == b"\0"):
            return b""
        return self.tag + payload

    def _encode_list(self, values: Any) -> bytes:
        if type(values) is not list:
            raise _Misfit(_UNEXPECTED_TOKEN)
        payloads = []
        for index, value in enumerate(values):
            try:
                payload = self.read(value)
            except _Misfit as misfit:
                misfit.path.append(index)
                raise
            if payload is not None:
                payloads.append(payload)
        if not payloads:
            return b""
        if self.is_packed:
            return self.tag + _delimited(b"".join(payloads))
        return self.tag + self.tag.join(payloads)

    def decode(self, payload: Any, result: dict[str, Any]) -> None:
        """Put the JSON value of a payload, an int or bytes, into `result`."""
        if not self.is_list:
            if payload or self.keeps_default:
                result[self.name] = self.write(payload)
        elif self.is_packed and type(payload) is bytes:
            values = result.setdefault(self.name, [])
            at = 0
            while at < len(payload):
                value, at = _read_varint(payload, at)
                values.append(self.write(value))
        else:
            result.setdefault(self.name, []).append(self.write(payload))


class MessageType:
    """The fields of a message, by their names in JSON and by number."""

    __slots__ = ("_by_name", "_by_number")

    def __init__(self, descriptor: Descriptor) -> None:
        self._by_name: dict[str, Field] = {}
        self._by_number: dict[int, Field] = {}
        for field_descriptor in descriptor.fields:
            field = Field(field_descriptor)
            self._by_number[field.number] = field
            self._by_name[field_descriptor.name] = self._by_name[field_descriptor.json_name] = field

    def from_json(self, data: bytes) -> bytes:
        """Encode the first value of a body; a blank body is an empty message. Raises BadJson."""
        if data.count(b",") > MAX_COMMAS:
            raise BadJson(f"proto: more than {MAX_COMMAS} values")
        text = text_of(data)
        try:
            value, start, _ = first_value(text)
        except EOFError:
            return b""
        try:
            return self.encode(value)
        except RecursionError:
            raise BadJson("proto: exceeded max recursion depth") from None
        except _Misfit as misfit:
            index = locate(text, start, misfit.path[::-1], name=misfit.at_name)
            where = position(text, start, index)
            raise BadJson("proto: " + misfit.text.format(position=where, token=token_at(text, index))) from None

    def to_json(self, data: bytes) -> str:
        """Write a message as JSON. Raises DecodeError."""
        try:
            return _dump(self.decode(data))
        except RecursionError:
            raise DecodeError(_TOO_DEEP) from None

    def to_json_in_slices(self, data: bytes, slice_bytes: int) -> Generator[None, None, str]:
        """Write a long message as JSON, a slice at each step: the list that makes it long is taken apart.

        Raises DecodeError.
        """
        result: dict[str, Any] = {}
        lists: dict[str, list[str]] = {}
        since = 0
        for field, payload in self._fields(data):
            if field.is_list and not field.is_packed:
                try:
                    text = _dump(field.write(payload))
                except RecursionError:
                    raise DecodeError(_TOO_DEEP) from None
                lists.setdefault(field.name, []).append(text)
            else:
                field.decode(payload, result)
            since += len(payload) if type(payload) is bytes else 1
            if since >= slice_bytes:
                since = 0
                yield
        members = {name: _dump(value) for name, value in result.items()}
        members |= {name: f"[{','.join(values)}]" for name, values in lists.items()}
        ordered = [field.name for _, field in sorted(self._by_number.items()) if field.name in members]
        return "{" + ",".join(f'"{name}":{members[name]}' for name in ordered) + "}"

    def encode(self, value: Any) -> bytes:
        """Encode one object. Raises _Misfit."""
        if type(value) is not tuple:
            raise _Misfit(_UNEXPECTED_TOKEN)
        found: dict[int, bytes] = {}
        oneofs: set[int] = set()
        for index, (name, item) in enumerate(value):
            field = self._by_name.get(name)
            if field is None:
                continue
            try:
                if field.number in found:
                    raise _Misfit("({position}): duplicate field {token}", at_name=True)
                found[field.number] = b""
                if item is None:
                    continue
                if field.oneof >= 0:
                    if field.oneof in oneofs:
                        text = "({position}): error parsing {token}, oneof " + field.oneof_name + " is already set"
                        raise _Misfit(text, at_name=True)
                    oneofs.add(field.oneof)
                found[field.number] = field.encode(item)
            except _Misfit as misfit:
                misfit.path.append(index)
                raise
        return b"".join([found[number] for number in sorted(found)])

    def decode(self, data: bytes) -> dict[str, Any]:
        """Take a message apart. Raises DecodeError."""
        result: dict[str, Any] = {}
        for field, payload in self._fields(data):
            field.decode(payload, result)
        return result

    def _fields(self, data: bytes) -> Iterator[tuple[Field, Any]]:
        """The known fields of a message with their payloads: an int or bytes. Raises DecodeError."""
        fields = self._by_number
        at, end = 0, len(data)
        while at < end:
            tag, at = _read_varint(data, at)
            payload: int | bytes = 0
            wire_type = tag & 7
            if wire_type == _VARINT:
                payload, at = _read_varint(data, at)
            elif wire_type == _DELIMITED:
                size, start = _read_varint(data, at)
                at = start + size
                payload = data[start:at]
            else:
                raise DecodeError("no such field in etcd's messages")
            if at > end:
                raise DecodeError("truncated message")
            field = fields.get(tag >> 3)
            if field is not None and (wire_type == field.wire_type or (field.is_packed and wire_type == _VARINT)):
                yield field, payload


message_type = cache(MessageType)
"""The tables of a message, made once."""


def _dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


# --- values ----------------------------------------------------------------------------------------------------------


def _converters(kind: str, descriptor: FieldDescriptor) -> tuple[Callable[[Any], bytes | None], Callable[[Any], Any]]:
    """How values of one field are read and written."""
    misfit = f"({{position}}): invalid value for {kind} field {descriptor.json_name}: {{token}}"
    if kind == "message":
        nested = descriptor.message_type
        return (
            lambda value: _delimited(message_type(nested).encode(value)),
            lambda payload: message_type(nested).decode(payload),
        )
    if kind == "enum":
        assert descriptor.enum_type is not None
        values = descriptor.enum_type.values
        return (
            partial(_read_enum, misfit, {value.name: value.number for value in values}),
            partial(_write_enum, {value.number: value.name for value in values}),
        )
    if kind in _BOUNDS:
        return partial(_read_integer, misfit, *_BOUNDS[kind]), _WRITERS[kind]
    return partial(_READERS[kind], misfit), _WRITERS[kind]


def _read_bool(misfit: str, value: Any) -> bytes:
    if type(value) is not bool:
        raise _Misfit(misfit)
    return b"\1" if value else b"\0"


def _read_string(misfit: str, value: Any) -> bytes:
    if type(value) is not str:
        raise _Misfit(misfit)
    return _delimited(value.encode())


def _read_bytes(misfit: str, value: Any) -> bytes:
    """Base64 as Go reads it: padded or not, standard or URL alphabet, line breaks anywhere."""
    if type(value) is not str:
        raise _Misfit(misfit)
    digits = value
    if "\n" in value or "\r" in value:
        digits = value.replace("\n", "").replace("\r", "")
    if "-" in value or "_" in value:
        if "+" in value or "/" in value:
            raise _Misfit(misfit)
        digits = digits.replace("-", "+").replace("_", "/")
    if len(value) % 4:
        if "=" in digits:
            raise _Misfit(misfit)
        digits += "=" * (-len(digits) % 4)
    try:
        return _delimited(binascii.a2b_base64(digits.encode("ascii"), strict_mode=True))
    except ValueError:
        raise _Misfit(misfit) from None


def _read_integer(misfit: str, low: int, high: int, value: Any) -> bytes:
    if type(value) is str and value == value.strip():
        value = Number(value)
    if type(value) is not Number:
        raise _Misfit(misfit)
    number = _integer(value)
    if number is None or not low <= number <= high:
        raise _Misfit(misfit)
    return _varint(number & _MASK64)


def _read_enum(misfit: str, numbers: dict[str, int], value: Any) -> bytes | None:
    if type(value) is str:
        number = numbers.get(value)
        return None if number is None else _varint(number)  # an unknown name is skipped like an unknown field
    return _read_integer(misfit, *_BOUNDS["int32"], value if type(value) is Number else None)


def _integer(text: str) -> int | None:
    """The integer a number stands for, in whatever notation; None when it is none, or far too large."""
    found = _INTEGER.match(text)
    if found is None:
        return None
    sign, whole, fraction, exponent = found.groups()
    fraction = (fraction or "").rstrip("0")
    digits = "" if whole == "0" else whole
    if not digits and not fraction:
        return 0
    shift = 0
    if exponent:
        if _EXPONENT.fullmatch(exponent) is None:
            return None
        shift = int(exponent)
    if len(fraction) > max(shift, 0) or len(digits) + shift > _MAX_DIGITS:
        return None
    if shift < 0:
        cut = len(digits) + shift
        if cut < 0 or digits[cut:].strip("0"):
            return None
        digits = digits[:cut] or "0"
    else:
        digits += fraction + "0" * (shift - len(fraction))
    return int(sign + digits)


def _write_bytes(payload: bytes) -> str:
    return b64encode(payload).decode("ascii")


def _write_string(payload: bytes) -> str:
    return payload.decode("utf-8", "replace")


def _write_enum(names: dict[int, str], value: int) -> str | int:
    number = _signed(value)
    return names.get(number, number)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


_READERS: dict[str, Callable[[str, Any], bytes]] = {"bool": _read_bool, "string": _read_string, "bytes": _read_bytes}
_WRITERS: dict[str, Callable[[Any], Any]] = {
    "bool": bool,
    "string": _write_string,
    "bytes": _write_bytes,
    "int32": _signed,
    "uint32": int,
    "int64": lambda value: str(_signed(value)),
    "uint64": str,
}


# --- wire ------------------------------------------------------------------------------------------------------------


def _varint(value: int) -> bytes:
    if value < 0x80:
        return _SMALL[value]
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_SMALL = [bytes((value,)) for value in range(0x80)]


def _delimited(payload: bytes) -> bytes:
    return _varint(len(payload)) + payload


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    try:
        value = data[at]
        at += 1
        if value < 0x80:
            return value, at
        value &= 0x7F
        for shift in range(7, 70, 7):
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & _MASK64, at
    except IndexError:
        raise DecodeError("truncated message") from None
    raise DecodeError("varint too long")
