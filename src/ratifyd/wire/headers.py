"""From a decoded header list to a request: what RFC 9113 §8 and gRPC ask of request headers, and our answers' headers.

Texts and codes of refusals are grpc-go's. Field values with leading or trailing blanks are let through, as grpc-go
does; everything else of RFC 9113 §8.2-8.3 is enforced.
"""

import binascii
import re
from functools import lru_cache
from typing import TypeAlias

from ratifyd.errors import Code
from ratifyd.wire.hpack import TIMEOUT, Entry, encode_field

CONTENT_TYPE = b"application/grpc"
_REQUEST_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))
_CONNECTION_HEADERS = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"))
_RESERVED = frozenset(
    b"content-type user-agent grpc-message-type grpc-encoding grpc-message grpc-status grpc-timeout te "
    b"content-length host".split()
)
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]*")
_TIMEOUT_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_MAX_TIMEOUT_LENGTH = 9
_SHORT_MESSAGE = 256


class Head:
    """Headers of a gRPC request. Shared by requests with equal headers: treat as immutable, except `route`."""

    __slots__ = ("authority", "content_length", "encoding", "metadata", "path", "route", "timeout_s", "user_agent")

    def __init__(
        self,
        path: bytes,
        timeout_s: float | None,
        metadata: dict[bytes, list[bytes]],
        authority: bytes,
        user_agent: bytes,
        content_length: int = -1,
        route: object | None = None,
        encoding: bytes = b"",
    ) -> None:
        self.path = path
        self.timeout_s = timeout_s
        self.metadata = metadata
        self.authority = authority
        self.user_agent = user_agent
        self.content_length = content_length
        self.route = route
        self.encoding = encoding
        """How messages are compressed that say they are."""


class HttpHead:
    """Headers of a request that is not gRPC. `content_length` is -1 when the client gave none."""

    __slots__ = ("content_length", "headers", "method", "path")

    def __init__(self, method: bytes, path: bytes, headers: list[tuple[bytes, bytes]], content_length: int) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.content_length = content_length


class Refusal:
    """A request that is answered at once: HTTP status, gRPC status, text."""

    __slots__ = ("code", "http_status", "message")

    def __init__(self, http_status: int, code: int, message: str) -> None:
        self.http_status = http_status
        self.code = code
        self.message = message


class MalformedRequest(ValueError):
    """A violation of RFC 9113 §8: stream error PROTOCOL_ERROR."""


Request: TypeAlias = Head | HttpHead | Refusal


def parse_request(fields: list[Entry], timeout: bytes | None) -> Request:
    """Judge a request's header list. `timeout` is the value where a field is the entry TIMEOUT."""
    pseudo, regular = _split(fields, timeout)
    method = pseudo.get(b":method")
    path = pseudo.get(b":path")
    if not method or not path or b":scheme" not in pseudo:
        raise MalformedRequest("pseudo-header fields missing")
    content_length = _content_length(regular)
    hosts = sum(name == b"host" for name, _ in regular)
    if hosts > 1:
        text = (
            f"num values of :authority: {int(b':authority' in pseudo)}, num values of host: {hosts}, "
            "both must only have 1 value as per HTTP/2 spec"
        )
        return Refusal(400, Code.INTERNAL, text)
    content_type = _last(regular, b"content-type")
    if not content_type.startswith(CONTENT_TYPE):
        headers = [(name, value) for name, value in pseudo.items() if name == b":authority"] + regular
        return HttpHead(method, path, headers, content_length)
    if content_type[len(CONTENT_TYPE) : len(CONTENT_TYPE) + 1] not in (b"", b"+", b";"):
        text = f"invalid gRPC request content-type {quote(content_type)}"
        return Refusal(415, Code.INVALID_ARGUMENT, text)
    return _grpc_request(method, path, pseudo, regular, content_length)


def _split(fields: list[Entry], timeout: bytes | None) -> tuple[dict[bytes, bytes], list[tuple[bytes, bytes]]]:
    pseudo: dict[bytes, bytes] = {}
    regular: list[tuple[bytes, bytes]] = []
    for field in fields:
        name = field.name
        value = timeout if field is TIMEOUT and timeout is not None else field.value
        if _BAD_VALUE.search(value):
            raise MalformedRequest("forbidden byte in a field value")
        if name[:1] == b":":
            if name not in _REQUEST_PSEUDO or name in pseudo or regular:
                raise MalformedRequest("pseudo-header field unknown, repeated or late")
            pseudo[name] = value
            continue
        if not _NAME.fullmatch(name):
            raise MalformedRequest("field name")
        if name in _CONNECTION_HEADERS or (name == b"te" and value.lower() != b"trailers"):
            raise MalformedRequest("connection-specific field")
        regular.append((name, value))
    return pseudo, regular


def check_trailers(fields: list[Entry]) -> None:
    """Trailers carry no pseudo-header fields (RFC 9113 §8.1). Raises MalformedRequest."""
    for field in fields:
        if not _NAME.fullmatch(field.name) or field.name in _CONNECTION_HEADERS or _BAD_VALUE.search(field.value):
            raise MalformedRequest("trailer field")


def _content_length(regular: list[tuple[bytes, bytes]]) -> int:
    values = {value for name, value in regular if name == b"content-length"}
    if not values:
        return -1
    value = values.pop()
    if values or not value.isdigit() or len(value) > 18:
        raise MalformedRequest("content-length")
    return int(value)


def _last(regular: list[tuple[bytes, bytes]], name: bytes) -> bytes:
    found = b""
    for key, value in regular:
        if key == name:
            found = value
    return found


def _grpc_request(
    method: bytes, path: bytes, pseudo: dict[bytes, bytes], regular: list[tuple[bytes, bytes]], content_length: int
) -> Head | Refusal:
    metadata: dict[bytes, list[bytes]] = {}
    timeout_s: float | None = None
    for name, value in regular:
        if name == b"grpc-timeout":
            parsed = parse_timeout(value)
            if isinstance(parsed, str):
                return Refusal(400, Code.INTERNAL, f"malformed grpc-timeout: {parsed}")
            timeout_s = parsed
        elif name in _RESERVED:
            continue
        elif name.endswith(b"-bin"):
            decoded = _decode_binary(value)
            if isinstance(decoded, str):
                text = f"malformed binary metadata {quote(value)} in header {quote(name)}: {decoded}"
                return Refusal(400, Code.INTERNAL, text)
            metadata.setdefault(name, []).extend(decoded)
        else:
            metadata.setdefault(name, []).append(value)
    if method != b"POST":
        text = f"Received a HEADERS frame with :method {quote(method)} which should be POST"
        return Refusal(405, Code.INTERNAL, text)
    if timeout_s == 0:
        return Refusal(200, Code.DEADLINE_EXCEEDED, "context deadline exceeded")
    encoding = _last(regular, b"grpc-encoding")
    return Head(
        path,
        timeout_s,
        metadata,
        authority=pseudo.get(b":authority") or _last(regular, b"host"),
        user_agent=_last(regular, b"user-agent"),
        content_length=content_length,
        encoding=b"" if encoding == b"identity" else encoding,
    )


def with_timeout(head: Head, timeout: bytes) -> Head | None:
    """The same request with another literal timeout; None when the value needs `parse_request`'s judgement."""
    unit = _TIMEOUT_UNITS.get(timeout[-1:])
    digits = timeout[:-1]
    if unit is None or len(timeout) > _MAX_TIMEOUT_LENGTH or not digits.isdigit():
        return None
    timeout_s = int(digits) * unit
    if timeout_s == 0:
        return None
    return Head(
        head.path,
        timeout_s,
        head.metadata,
        head.authority,
        head.user_agent,
        head.content_length,
        head.route,
        head.encoding,
    )


def parse_timeout(value: bytes) -> float | str:
    """Seconds of a grpc-timeout value, or grpc-go's text of what is wrong with it."""
    if len(value) < 2:
        return f"transport: timeout string is too short: {quote(value)}"
    if len(value) > _MAX_TIMEOUT_LENGTH:
        return f"transport: timeout string is too long: {quote(value)}"
    unit = _TIMEOUT_UNITS.get(value[-1:])
    if unit is None:
        return f"transport: timeout unit is not recognized: {quote(value)}"
    if not value[:-1].isdigit():
        return f"strconv.ParseUint: parsing {quote(value[:-1])}: invalid syntax"
    return int(value[:-1]) * unit


def _decode_binary(value: bytes) -> list[bytes] | str:
    """Values of a `-bin` field: base64, padding optional, several joined by commas (gRPC over HTTP/2, Requests)."""
    decoded = []
    for part in value.split(b","):
        text = part.strip()
        digits = text.rstrip(b"=") if len(text) % 4 == 0 else text
        good = _BASE64.match(digits)
        position = good.end() if good else 0
        if position < len(digits) or len(digits) % 4 == 1 or len(text) - len(digits) > 2:
            return f"illegal base64 data at input byte {position}"
        decoded.append(binascii.a2b_base64(digits + b"=" * (-len(digits) % 4)))
    return decoded


def quote(value: bytes) -> str:
    """Go's %q of a byte string, for texts that must read as grpc-go's."""
    out = []
    for char in value.decode("utf-8", "surrogateescape"):
        code = ord(char)
        if char in '"\\':
            out.append("\\" + char)
        elif 0xDC80 <= code <= 0xDCFF:
            out.append(f"\\x{code - 0xDC00:02x}")
        elif char.isprintable():
            out.append(char)
        else:
            out.append(_QUOTED.get(char) or (f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}"))
    return '"' + "".join(out) + '"'


_QUOTED = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}


def percent_encode(message: str) -> bytes:
    """A grpc-message value (gRPC over HTTP/2, Responses): bytes outside 0x20-0x7E and % become %XX."""
    raw = message.encode("utf-8", "replace")
    return _UNSAFE.sub(_percent, raw)


_UNSAFE = re.compile(rb"[^ -$&-~]")


def _percent(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % match[0][0]


RESPONSE_BLOCK = encode_field(b":status", b"200") + encode_field(b"content-type", CONTENT_TYPE)
OK_BLOCK = encode_field(b"grpc-status", b"0")


def status_block(code: int, message: str) -> bytes:
    """Trailers of a failed call."""
    if len(message) > _SHORT_MESSAGE:
        return _status_block(code, message)
    return _short_status_block(code, message)


def _status_block(code: int, message: str) -> bytes:
    block = encode_field(b"grpc-status", b"%d" % code)
    return block + encode_field(b"grpc-message", percent_encode(message))


_short_status_block = lru_cache(maxsize=1024)(_status_block)


def refusal_block(refusal: Refusal) -> bytes:
    """A whole answer in one header list (Trailers-Only), with an HTTP status of its own."""
    block = encode_field(b":status", b"%d" % refusal.http_status) + encode_field(b"content-type", CONTENT_TYPE)
    return block + status_block(refusal.code, refusal.message)
