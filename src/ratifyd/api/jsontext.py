"""JSON text as Go's encoding/json and protojson see it: first value, positions, and what they say of bad text.

An object comes out as a tuple of (name, value) pairs, so that repeated names are seen; an array as a list; a number as
`Number`, its own text.
"""

import re
from json import JSONDecodeError, JSONDecoder
from typing import Any

from ratifyd.wire.headers import quote

SPACE = " \t\n\r"
_skip_space = re.compile(f"[{SPACE}]*").match
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_TOKEN = re.compile(
    _STRING.pattern + r"|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|\w+|.", re.DOTALL | re.ASCII
)
_NO_BRACKETS = re.compile(_STRING.pattern + r'|[^]["{}]+', re.DOTALL)
_CONSTANT = re.compile(_STRING.pattern + r"|-?Infinity|NaN", re.DOTALL)
_LAST_NUMBER = re.compile(r"[0-9][-+.0-9eE]*\Z")
_ESCAPE = re.compile(r"\\(?:[bfnrt\\/\"]|u[0-9a-fA-F]{0,4})?")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_WITHOUT_HALVES = re.compile(
    r"(?:[^\\]++|\\u[dD][89abAB]..\\u[dD][c-fC-F]..|\\(?!u[dD][89a-fA-F]).)*+", re.DOTALL
).match
"""Escapes, surrogate pairs among them, and what is none, up to a half of a pair: there may be millions of them."""
_ESCAPE_CHARS = 6
_LONGEST_NUMBER = 4096
"""Digits to look back for the beginning of a number."""
_LITERALS = ("true", "false", "null")


class BadJson(ValueError):
    """Text that a request cannot be read from, in Go's words."""


class Number(str):
    """A number as it was written."""

    __slots__ = ()


class _Constant(Exception):
    """NaN or Infinity, which Python reads and JSON does not know."""


def _constant(name: str) -> Any:
    raise _Constant


_decode = JSONDecoder(
    object_pairs_hook=tuple, parse_int=Number, parse_float=Number, parse_constant=_constant
).raw_decode


def text_of(data: bytes) -> str:
    """Decode a body; what is not UTF-8 stays recognizable."""
    return data.decode("utf-8", "surrogateescape")


def first_value(text: str) -> tuple[Any, int, int]:
    """Read the first value of a text: the value, where it starts, where it ends. Raises BadJson, EOFError."""
    start = _skip_space(text, 0).end()  # type: ignore[union-attr]  # it matches everywhere
    if start == len(text):
        raise EOFError
    try:
        value, end = _decode(text, start)
    except JSONDecodeError as error:
        raise BadJson(_syntax_error(text, error)) from None
    except _Constant:
        raise BadJson(_constant_error(text, start)) from None
    except RecursionError:
        raise BadJson("exceeded max depth") from None
    if not text.isascii():
        _check_utf8(text, start, end)
    if _SURROGATE.search(text, start, end):
        _check_surrogates(text, start, end)
    return value, start, end


def _check_utf8(text: str, start: int, end: int) -> None:
    """Raises BadJson for a string that is not UTF-8."""
    try:
        text[start:end].encode()
    except UnicodeEncodeError as error:
        where = start + error.start
        token = next(string.start() for string in _STRING.finditer(text, start) if string.end() > where)
        raise BadJson(f"proto: syntax error ({position(text, start, token)}): invalid UTF-8 in string") from None


def _check_surrogates(text: str, start: int, end: int) -> None:
    """Raises BadJson for half of a surrogate pair in an escape."""
    for string in _STRING.finditer(text, start, end):
        half = _WITHOUT_HALVES(text, string.start(), string.end()).end()  # type: ignore[union-attr]  # it matches ""
        if half < string.end():
            index = half + _ESCAPE_CHARS
            following = quote(text[index : min(index + _ESCAPE_CHARS, end)].encode())
            where = position(text, start, string.start())
            raise BadJson(f"proto: syntax error ({where}): invalid escape code {following} in string")


def position(text: str, start: int, index: int) -> str:
    """Line and column of `index` in the value that starts at `start`, as protojson writes them."""
    before = text[start:index]
    return f"line {before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


def token_at(text: str, index: int) -> str:
    """The token that begins at `index`."""
    found = _TOKEN.match(text, index)
    return found[0] if found else ""


def locate(text: str, start: int, path: list[int], *, name: bool) -> int:
    """Where in the valid value at `start` the item lies that `path` leads to, member by member, element by element.

    With `name`, where the name of that last member lies.
    """
    index = start
    for depth, number in enumerate(path):
        is_object = text[index] == "{"
        index = _after_space(text, index + 1)
        for _ in range(number):
            if is_object:
                index = _value_of_member(text, index)
            _, index = _decode(text, index)
            index = _after_space(text, _after_space(text, index) + 1)
        if is_object and not (name and depth == len(path) - 1):
            index = _value_of_member(text, index)
    return index


def _after_space(text: str, index: int) -> int:
    return _skip_space(text, index).end()  # type: ignore[union-attr]


def _value_of_member(text: str, index: int) -> int:
    _, index = _decode(text, index)
    return _after_space(text, _after_space(text, index) + 1)


# --- encoding/json's words -------------------------------------------------------------------------------------------


def _syntax_error(text: str, error: JSONDecodeError) -> str:
    """What Go says where Python's decoder stopped: Python's message tells what was expected, and roughly where."""
    message, index = error.msg, error.pos
    if message.startswith("Unterminated string"):
        return "unexpected EOF"
    if message.startswith("Invalid control character"):
        return _unexpected(text, index, "in string literal")
    if message.startswith("Invalid"):  # \escape, \uXXXX escape
        return _bad_escape(text, text.rindex("\\", 0, index + 1))
    if "trailing comma" in message:  # Python 3.13 points to the comma
        message = "Expecting value" if "array" in message else "Expecting property name"
        index += 1
    index = _after_space(text, index)
    if message.startswith("Expecting value"):
        return _bad_value(text, index)
    if message.startswith("Expecting property name"):
        return _unexpected(text, index, "looking for beginning of object key string")
    if message.startswith("Expecting ':'"):
        return _unexpected(text, index, "after object key")
    return _bad_separator(text, index)


def _unexpected(text: str, index: int, context: str) -> str:
    if index >= len(text):
        return "unexpected EOF"
    first = text[index].encode("utf-8", "surrogateescape")[:1].decode("latin-1")  # Go looks at bytes
    shown = {"'": "\\'", '"': '"'}.get(first) or quote(first.encode())[1:-1]
    return f"invalid character '{shown}' {context}"


def _bad_escape(text: str, backslash: int) -> str:
    escape = _ESCAPE.match(text, backslash)
    assert escape is not None
    is_hex = escape[0][1:2] == "u"
    context = "in \\u hexadecimal character escape" if is_hex else "in string escape code"
    return _unexpected(text, escape.end(), context)


def _bad_value(text: str, index: int) -> str:
    for literal in _LITERALS:
        if text.startswith(literal[0], index):
            matching = 1
            while text.startswith(literal[: matching + 1], index):
                matching += 1
            return _unexpected(text, index + matching, f"in literal {literal} (expecting '{literal[matching]}')")
    if text.startswith("-", index):
        return _unexpected(text, index + 1, "in numeric literal")
    return _unexpected(text, index, "looking for beginning of value")


def _bad_separator(text: str, index: int) -> str:
    """What follows a value is neither a comma nor the end of its container, or the value was half a number."""
    number = _LAST_NUMBER.search(text[max(0, index - _LONGEST_NUMBER) : index])
    if number is not None and "e" not in number[0].lower():
        if text.startswith(".", index) and "." not in number[0]:
            return _unexpected(text, index + 1, "after decimal point in numeric literal")
        if text.startswith(("e", "E"), index):
            index += 2 if text.startswith(("+", "-"), index + 1) else 1
            return _unexpected(text, index, "in exponent of numeric literal")
    in_object = _innermost(text[:index]) == "{"
    return _unexpected(text, index, "after object key:value pair" if in_object else "after array element")


def _innermost(text: str) -> str:
    """The bracket that is open at the end of a text, valid up to there."""
    closed = 0
    for bracket in reversed(_NO_BRACKETS.sub("", text)):
        if bracket in "]}":
            closed += 1
        elif not closed:
            return bracket
        else:
            closed -= 1
    return ""


def _constant_error(text: str, start: int) -> str:
    for found in _CONSTANT.finditer(text, start):
        if found[0][0] == "-":
            return _unexpected(text, found.start() + 1, "in numeric literal")
        if found[0][0] != '"':
            return _unexpected(text, found.start(), "looking for beginning of value")
    raise AssertionError("no constant in the text")


# --- several values in a row -----------------------------------------------------------------------------------------


class ValueSplitter:
    """Cuts JSON objects, one after the other, out of a stream as their bytes arrive; looks at each byte once."""

    __slots__ = ("_buffer", "_depth", "_in_string", "_scanned")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._scanned = 0
        self._depth = 0
        self._in_string = False

    @property
    def size(self) -> int:
        """Bytes that wait for the rest of their object."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Add bytes; the objects complete now, and as the last one whatever is no object."""
        buffer = self._buffer
        buffer += data
        values = []
        while end := self._next_end():
            values.append(bytes(buffer[:end]))
            del buffer[:end]
            self._scanned = 0
        return values

    def rest(self) -> bytes:
        """What remains when no more bytes come: blank, unless an object broke off."""
        return bytes(self._buffer)

    def _next_end(self) -> int:
        """Where the first object of the buffer ends; 0 when that is not known yet."""
        buffer = self._buffer
        while True:
            if self._in_string:
                self._scanned = _string_body(buffer, self._scanned).end()  # type: ignore[union-attr]
                if buffer[self._scanned : self._scanned + 1] != b'"':
                    return 0
                self._in_string = False
                self._scanned += 1
            found = (_bracket if self._depth else _not_space)(buffer, self._scanned)
            if found is None:
                self._scanned = len(buffer)
                return 0
            self._scanned = found.end()
            mark = found[0]
            if mark in b"{[":
                self._depth += 1
            elif not self._depth:
                return len(buffer)
            elif mark == b'"':
                self._in_string = True
            else:
                self._depth -= 1
                if not self._depth:
                    return self._scanned


_not_space = re.compile(rb"[^ \t\n\r]").search
_bracket = re.compile(rb'["{}\[\]]').search
_string_body = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL).match
