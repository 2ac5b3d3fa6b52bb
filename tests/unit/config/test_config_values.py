"""Values in Go's syntax. The refusals were compared with etcd 3.5.1."""

import pytest

from ratifyd.config import values

HOUR_NS = 3_600_000_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("-0", 0),
        ("1ns", 1),
        ("1us", 1_000),
        ("1µs", 1_000),
        ("100ms", 100_000_000),
        ("1.5s", 1_500_000_000),
        (".5s", 500_000_000),
        ("5.s", 5_000_000_000),
        ("1h30m", HOUR_NS * 3 // 2),
        ("-2m", -120_000_000_000),
        ("+2m", 120_000_000_000),
        ("2562047h", 2_562_047 * HOUR_NS),
    ],
)
def test_durations(text: str, expected: int) -> None:
    assert values.parse_duration_ns(text) == expected


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("", 'invalid duration ""'),
        ("5", 'missing unit in duration "5"'),
        ("5x", 'unknown unit "x" in duration "5x"'),
        (".s", 'invalid duration ".s"'),
        ("1.5.s", 'invalid duration "1.5.s"'),
        ("s", 'invalid duration "s"'),
        ("1m-2s", 'unknown unit "m-" in duration "1m-2s"'),
        ("3000000h", 'invalid duration "3000000h"'),
    ],
)
def test_bad_durations(text: str, refusal: str) -> None:
    with pytest.raises(ValueError, match=r"^") as caught:
        values.parse_duration_ns(text)
    assert str(caught.value) == refusal


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.1, "100ms"),
        (0.0015, "1.5ms"),
        (0.000002, "2µs"),
        (5, "5s"),
        (1.25, "1.25s"),
        (60, "1m0s"),
        (7200, "2h0m0s"),
        (3661.5, "1h1m1.5s"),
        (-5, "-5s"),
    ],
)
def test_shown_durations_read_back(seconds: float, text: str) -> None:
    assert values.show_duration(seconds) == text
    assert values.DURATION.parse(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), ("42", 42), ("0x10", 16), ("0x1_0", 16), ("010", 8), ("0_7", 7), ("0b11", 3), ("1_0", 10)],
)
def test_unsigned_integers(text: str, expected: int) -> None:
    assert values.UINT.parse(text) == expected


@pytest.mark.parametrize("text", ["", "x", "-3", "+3", "1__0", "010_", "1.0", " 1", "09"])
def test_bad_unsigned_integers(text: str) -> None:
    with pytest.raises(ValueError, match=r"^parse error$"):
        values.UINT.parse(text)


def test_integer_ranges() -> None:
    assert values.INT.parse("-9223372036854775808") == -(1 << 63)
    for kind, text in ((values.INT, str(1 << 63)), (values.UINT32, str(1 << 32)), (values.UINT, str(1 << 64))):
        with pytest.raises(ValueError, match=r"^value out of range$"):
            kind.parse(text)


def test_booleans() -> None:
    assert [values.parse_bool(text) for text in ("1", "t", "TRUE", "0", "F", "false")] == [True] * 3 + [False] * 3
    with pytest.raises(ValueError, match=r"^parse error$"):
        values.parse_bool("yes")


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("foo", "URL scheme must be http, https, unix, or unixs: foo"),
        ("/a", "URL scheme must be http, https, unix, or unixs: /a"),
        ("example.com:80", "URL scheme must be http, https, unix, or unixs: example.com:80"),
        ("foo:2379", "URL scheme must be http, https, unix, or unixs: foo:2379"),
        ("ftp://1.2.3.4:80", "URL scheme must be http, https, unix, or unixs: ftp://1.2.3.4:80"),
        ("127.0.0.1:2379", 'parse "127.0.0.1:2379": first path segment in URL cannot contain colon'),
        ("1http://a:1", 'parse "1http://a:1": first path segment in URL cannot contain colon'),
        ("http://foo", 'URL address does not have the form "host:port": http://foo'),
        ("http://", 'URL address does not have the form "host:port": http://'),
        ("http:a:80", 'URL address does not have the form "host:port": http:a:80'),
        ("http:/a:80", 'URL address does not have the form "host:port": http:/a:80'),
        ("http://::1:2379", 'URL address does not have the form "host:port": http://::1:2379'),
        ("http://[::1:2379", "parse \"http://[::1:2379\": missing ']' in host"),
        ("http://a:b", 'parse "http://a:b": invalid port ":b" after host'),
        ("http://1.2.3.4:80/x", "URL must not contain a path: http://1.2.3.4:80/x"),
    ],
)
def test_bad_urls(text: str, refusal: str) -> None:
    with pytest.raises(ValueError, match=r"^") as caught:
        values.parse_url(text)
    assert str(caught.value) == refusal


def test_urls() -> None:
    assert values.parse_url("http://[::1]:2379") == ("http", "[::1]:2379", "")
    assert values.parse_url("unix:///run/etcd.sock") == ("unix", "/run/etcd.sock", "/run/etcd.sock")
    assert values.parse_url("unix://localhost:m10").address == "localhost:m10"
    assert values.split_host_port("[fe80::1]:80") == ("fe80::1", "80")
    assert values.parse_urls("http://b:1, http://a:1,http://b:1") == ("http://a:1", "http://b:1")
