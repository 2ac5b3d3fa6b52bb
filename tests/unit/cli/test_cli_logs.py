"""Log lines in zap's form."""

import json
import logging
import sys
import time
from collections.abc import Iterator

import pytest

from ratifyd import logs


def record(level: int = logging.INFO, message: str = "m", **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("ratifyd.net", level, "/x/ratifyd/net/listener.py", 12, message, (), None)
    made.created = 1_700_000_000.25
    made.__dict__.update(extra)
    return made


@pytest.fixture
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("_utc")
def test_json_lines_have_zaps_fields_in_zaps_order() -> None:
    line = logs.JsonFormatter().format(
        record(**logs.fields(member_id="8e9e", urls=["http://a:1"], ok=True, text='ü"<'))
    )
    assert line == (
        '{"level":"info","ts":"2023-11-14T22:13:20.250000Z","caller":"net/listener.py:12","msg":"m",'
        '"member-id":"8e9e","urls":["http://a:1"],"ok":true,"text":"ü\\"<"}'
    )


@pytest.mark.usefixtures("_utc")
def test_console_lines() -> None:
    line = logs.ConsoleFormatter().format(record(logging.WARNING, fields={"a": 1}))
    assert line == '2023-11-14T22:13:20.250000Z\twarn\tnet/listener.py:12\tm\t{"a": 1}'
    assert logs.ConsoleFormatter().format(record()).endswith("\tm")


def test_local_time_has_an_offset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "XXX-05:30")
    time.tzset()
    try:
        assert logs.timestamp(1_700_000_000.0) == "2023-11-15T03:43:20.000000+0530"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_exceptions_become_error_and_stacktrace() -> None:
    try:
        raise ValueError("wrong")
    except ValueError:
        failed = record(logging.ERROR, exc_info=sys.exc_info(), fields={"a": 1})
    line = json.loads(logs.JsonFormatter().format(failed))
    assert list(line)[3:] == ["msg", "a", "error", "stacktrace"]
    assert line["error"] == "wrong"
    assert line["stacktrace"].endswith("ValueError: wrong")
    assert "\nTraceback" in logs.ConsoleFormatter().format(failed)


def test_levels() -> None:
    names = [logs.level_name(logs.LEVELS[name]) for name in ("debug", "info", "warn", "error", "panic", "fatal")]
    assert names == ["debug", "info", "warn", "error", "panic", "fatal"]


def test_values_json_does_not_know_are_shown_as_text() -> None:
    assert json.loads(logs.JsonFormatter().format(record(fields={"e": OSError("x"), "b": b"\xff"})))["e"] == "x"
