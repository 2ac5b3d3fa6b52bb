"""Option values: texts as Go's flag package and etcd's URL types read them, turned into Python values and back.

A `Kind` knows how to read a flag or environment text, how to take a value out of a decoded configuration file, and how
to print a value so that reading it again gives the same. Kinds know nothing of particular options. Refusals are
`ValueError`s whose text is what follows the last colon of etcd's own message ("parse error", "value out of range").
"""

from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import NamedTuple

PARSE_ERROR = "parse error"
OUT_OF_RANGE = "value out of range"

_TRUE = frozenset(("1", "t", "T", "true", "TRUE", "True"))
_FALSE = frozenset(("0", "f", "F", "false", "FALSE", "False"))
_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_DIGITS = "0123456789"
_DURATION_BITS = 63


class Kind(NamedTuple):
    """How values of one type are read and printed."""

    name: str
    parse: Callable[[str], object]
    load: Callable[[object], object]
    show: Callable[[object], str]
    choices: tuple[str, ...] = ()


def quote(text: str) -> str:
    """`text` in double quotes, escaped as Go's %q does for the characters that occur in practice."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t") + '"'


def parse_bool(text: str) -> bool:
    """A boolean as Go's strconv.ParseBool reads it."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(PARSE_ERROR)


def parse_integer(text: str, low: int, high: int) -> int:
    """An integer in Go's base-0 syntax: decimal, 0x, 0o, 0b or a leading 0 for octal."""
    sign, digits = (text[0], text[1:]) if text[:1] in ("+", "-") else ("", text)
    if (sign and low >= 0) or not digits or digits[0] not in _DIGITS:
        raise ValueError(PARSE_ERROR)
    is_old_octal = len(digits) > 1 and digits[0] == "0" and digits[1] in "01234567_"
    try:
        number = int("0o" + digits[1:].removeprefix("_") if is_old_octal else digits, 0)
    except ValueError:
        raise ValueError(PARSE_ERROR) from None
    if sign == "-":
        number = -number
    if not low <= number <= high:
        raise ValueError(OUT_OF_RANGE)
    return number


def parse_duration_ns(text: str) -> int:
    """Nanoseconds of a duration as Go's time.ParseDuration reads it: "1h30m", "1.5s", "-2ms", "0"."""
    rest = text[1:] if text[:1] in ("+", "-") else text
    if rest == "0":
        return 0
    if not rest:
        raise ValueError(f"invalid duration {quote(text)}")
    total = 0
    while rest:
        size = len(rest) - len(rest.lstrip(_DIGITS + "."))
        number, rest = rest[:size], rest[size:]
        whole, _, fraction = number.partition(".")
        if not whole + fraction or "." in fraction:
            raise ValueError(f"invalid duration {quote(text)}")
        size = next((at for at, char in enumerate(rest) if char in _DIGITS or char == "."), len(rest))
        unit, rest = rest[:size], rest[size:]
        if not unit:
            raise ValueError(f"missing unit in duration {quote(text)}")
        if unit not in _UNITS_NS:
            raise ValueError(f"unknown unit {quote(unit)} in duration {quote(text)}")
        scale = _UNITS_NS[unit]
        total += int(whole or "0") * scale + int(fraction or "0") * scale // 10 ** len(fraction)
    if total >= 1 << 63:
        raise ValueError(f"invalid duration {quote(text)}")
    return -total if text[0] == "-" else total


def show_duration(seconds: float) -> str:
    """A duration as Go prints it: "5s", "1m0s", "2h0m0s", "300ms", "1.5s"."""
    ns = round(seconds * 1_000_000_000)
    if ns == 0:
        return "0s"
    sign, ns = ("-", -ns) if ns < 0 else ("", ns)
    for unit in ("ns", "µs", "ms"):
        if ns < _UNITS_NS[unit] * 1000:
            return f"{sign}{_show_decimal(ns, _UNITS_NS[unit])}{unit}"
    minutes, ns = divmod(ns, _UNITS_NS["m"])
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{sign}{head}{_show_decimal(ns, _UNITS_NS['s'])}s"


def _show_decimal(value: int, scale: int) -> str:
    whole, rest = divmod(value, scale)
    return f"{whole}.{rest:0{len(str(scale)) - 1}d}".rstrip("0") if rest else str(whole)


class Url(NamedTuple):
    """The parts of a listen or advertise URL. `address` is host:port, or the socket path of a unix URL."""

    scheme: str
    address: str
    path: str


def parse_url(text: str) -> Url:
    """Split and check one URL; refused with etcd's texts."""
    scheme, colon, rest = text.partition(":")
    if not colon or not _is_scheme(scheme):
        if colon and "/" not in scheme:
            raise ValueError(f"parse {quote(text)}: first path segment in URL cannot contain colon")
        raise ValueError(f"URL scheme must be http, https, unix, or unixs: {text}")
    scheme = scheme.lower()
    if scheme not in ("http", "https", "unix", "unixs"):
        raise ValueError(f"URL scheme must be http, https, unix, or unixs: {text}")
    authority, slash, path = rest.removeprefix("//").partition("/") if rest.startswith("//") else ("", "", rest)
    address, path = authority.rpartition("@")[2], slash + path
    if address.startswith("[") and "]" not in address:
        raise ValueError(f"parse {quote(text)}: missing ']' in host")
    if scheme in ("unix", "unixs"):
        return Url(scheme, address + path, path)
    try:
        _, port = split_host_port(address)
    except ValueError:
        raise ValueError(f'URL address does not have the form "host:port": {text}') from None
    if port and not (port.isascii() and port.isdigit()):
        raise ValueError(f"parse {quote(text)}: invalid port {quote(':' + port)} after host")
    if path:
        raise ValueError(f"URL must not contain a path: {text}")
    return Url(scheme, address, path)


def _is_scheme(text: str) -> bool:
    return text[:1].isalpha() and text.isascii() and all(char.isalnum() or char in "+-." for char in text)


def split_host_port(address: str) -> tuple[str, str]:
    """Host and port of "host:port" or "[v6]:port" (Go's net.SplitHostPort); ValueError if there is no port."""
    host, colon, port = address.rpartition(":")
    if not colon:
        raise ValueError(f"address {address}: missing port in address")
    if host.startswith("["):
        if not host.endswith("]"):
            raise ValueError(f"address {address}: missing port in address")
        return host[1:-1], port
    if ":" in host:
        raise ValueError(f"address {address}: too many colons in address")
    return host, port


def is_ip(host: str) -> bool:
    """Whether `host` is an IPv4 or IPv6 literal."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def parse_urls(text: str) -> tuple[str, ...]:
    """A comma-separated URL list, checked, sorted, without repetitions (etcd's UniqueURLs)."""
    urls = {item.strip() for item in text.split(",")}
    for url in sorted(urls):
        parse_url(url)
    return tuple(sorted(urls))


def parse_words(text: str) -> tuple[str, ...]:
    """A comma-separated list in the order given, without repetitions."""
    return parse_outputs(text) if text else ()


def parse_outputs(text: str) -> tuple[str, ...]:
    """As `parse_words`, but nothing is one word: etcd means a file without a name, which cannot be opened."""
    return tuple(dict.fromkeys(text.split(",")))


def parse_origins(text: str) -> tuple[str, ...]:
    """`*` or a list of URLs."""
    return ("*",) if text in ("", "*") else parse_urls(text)


def _load_text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    if value is None:
        return ""
    raise ValueError("not a single value")


def _load_bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("not a boolean")


def _load_duration(value: object) -> float:
    if isinstance(value, int) and not isinstance(value, bool):
        if value.bit_length() > _DURATION_BITS:
            raise ValueError(OUT_OF_RANGE)
        return value / 1_000_000_000
    return _parse_seconds(_load_text(value))


def _load_list(parse: Callable[[str], tuple[str, ...]]) -> Callable[[object], tuple[str, ...]]:
    def load(value: object) -> tuple[str, ...]:
        if isinstance(value, list):
            return parse(",".join(map(_load_text, value)))
        return parse(_load_text(value))

    return load


def _load_outputs(value: object) -> tuple[str, ...]:
    """A list without outputs stands for the default one."""
    return ("default",) if value == [] else _load_list(parse_outputs)(value)


def _parse_seconds(text: str) -> float:
    try:
        return parse_duration_ns(text) / 1_000_000_000
    except ValueError:
        raise ValueError(PARSE_ERROR) from None


def _integers(name: str, low: int, high: int) -> Kind:
    def parse(text: str) -> int:
        return parse_integer(text, low, high)

    def load(value: object) -> int:
        if isinstance(value, float) and value.is_integer():
            return parse(str(int(value)))
        if isinstance(value, bool):
            raise ValueError("not a number")
        return parse(_load_text(value))

    return Kind(name, parse, load, str)


def choice(*allowed: str) -> Kind:
    """One of a few words."""

    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError("invalid value")
        return text

    return Kind("|".join(allowed), parse, lambda value: parse(_load_text(value)), str, allowed)


def _show_list(value: object) -> str:
    return ",".join(value) if isinstance(value, Iterable) else str(value)


def _show_bool(value: object) -> str:
    return "true" if value else "false"


def _show_seconds(value: object) -> str:
    return show_duration(value) if isinstance(value, int | float) else str(value)


TEXT = Kind("string", str, _load_text, str)
PATH = Kind("path", str, _load_text, str)
BOOL = Kind("bool", parse_bool, _load_bool, _show_bool)
INT = _integers("int", -(1 << 63), (1 << 63) - 1)
UINT = _integers("uint", 0, (1 << 64) - 1)
UINT32 = _integers("uint32", 0, (1 << 32) - 1)
DURATION = Kind("duration", _parse_seconds, _load_duration, _show_seconds)
URLS = Kind("URL list", parse_urls, _load_list(parse_urls), _show_list)
WORDS = Kind("list", parse_words, _load_list(parse_words), _show_list)
OUTPUTS = Kind("list", parse_outputs, _load_outputs, _show_list)
ORIGINS = Kind("origin list", parse_origins, _load_list(parse_origins), _show_list)
