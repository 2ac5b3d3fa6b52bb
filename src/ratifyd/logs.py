"""Log lines in zap's form, as etcd writes them, over the standard `logging` module.

Any room logs with `logging.getLogger("ratifyd.<room>")` and puts structured fields into `extra`:

    log.info("ready to serve client requests")
    log.info("added member", extra=fields(local_member_id=hex_id, added_peer_urls=urls))    # names get dashes
    log.info("added member", extra={"fields": {"local-member-id": hex_id}})                 # exact names

JSON lines carry level, ts, caller and msg, then the fields in the order given, then error and stacktrace of an
exception. Only `configure` changes the process; a program that embeds a member keeps its own logging setup.
"""

import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from math import floor, log10
from typing import Any
from urllib.parse import unquote, urlsplit

PANIC = 45
"""Levels above ERROR: etcd's panic, and fatal (logging.CRITICAL), after which the process ends."""

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "dpanic": PANIC,
    "panic": PANIC,
    "fatal": logging.CRITICAL,
}
_ROOT = "ratifyd"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_BYTE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode
_encode_spaced = json.JSONEncoder(ensure_ascii=False, default=str).encode


def fields(**values: object) -> dict[str, dict[str, object]]:
    """The `extra` argument of a log call; underscores in names become the dashes etcd writes."""
    return {"fields": {name.replace("_", "-"): value for name, value in values.items()}}


def show_bytes(size: int) -> str:
    """A number of bytes as etcd writes it beside the exact one: 20 kB, 2.1 GB."""
    if size < 10:
        return f"{size} B"
    power = min(int(log10(size)) // 3, len(_BYTE_UNITS) - 1)
    value = floor(size / 1000**power * 10 + 0.5) / 10
    return f"{value:.1f} {_BYTE_UNITS[power]}" if value < 10 else f"{value:.0f} {_BYTE_UNITS[power]}"


def level_name(number: int) -> str:
    """etcd's name of a level of the logging module."""
    if number < logging.INFO:
        return "debug"
    if number < logging.WARNING:
        return "info"
    if number < logging.ERROR:
        return "warn"
    if number < PANIC:
        return "error"
    return "panic" if number < logging.CRITICAL else "fatal"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: etcd's `--log-format=json`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "level": level_name(record.levelno),
            "ts": timestamp(record.created),
            "caller": caller(record),
            "msg": record.getMessage(),
        }
        line.update(_extra_fields(record))
        return _encode(line)


class ConsoleFormatter(logging.Formatter):
    """Columns separated by tabs: etcd's `--log-format=console`."""

    def format(self, record: logging.LogRecord) -> str:
        columns = [timestamp(record.created), level_name(record.levelno), caller(record), record.getMessage()]
        extra = _extra_fields(record)
        stack = extra.pop("stacktrace", "")
        if extra:
            columns.append(_encode_spaced(extra))
        return "\t".join(columns) + (f"\n{stack}" if stack else "")


def timestamp(seconds: float) -> str:
    """Local time as etcd 3.6 writes it: 2006-01-02T15:04:05.000000Z, or +hhmm away from UTC."""
    moment = datetime.fromtimestamp(seconds, UTC).astimezone()
    text = moment.strftime("%Y-%m-%dT%H:%M:%S.%f%z")
    return text[:-5] + "Z" if text.endswith("+0000") else text


def caller(record: logging.LogRecord) -> str:
    """`room/file.py:line` of the code that logged."""
    return f"{'/'.join(record.pathname.rsplit('/', 2)[-2:])}:{record.lineno}"


def configure(level: str, form: str, outputs: Sequence[str]) -> None:
    """Send everything under `ratifyd`, and warnings of other libraries, to `outputs`.

    These are stderr, stdout, default, paths and file:// URLs. Raises ValueError, which names one that cannot be opened.
    """
    formatter = ConsoleFormatter() if form == "console" else JsonFormatter()
    handlers = [] if "/dev/null" in outputs else [_handler(name) for name in sorted(set(outputs))]
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    for handler in handlers or [logging.NullHandler()]:
        handler.setFormatter(formatter)
        root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger(_ROOT).setLevel(LEVELS[level.lower()])
    logging.raiseExceptions = False


def _handler(name: str) -> logging.Handler:
    if name in ("default", "stderr"):
        return logging.StreamHandler(sys.stderr)
    if name == "stdout":
        return logging.StreamHandler(sys.stdout)
    return _file_handler(name)


def _file_handler(name: str) -> logging.Handler:
    """A file by its path or URL. Raises ValueError, in zap's words."""
    refused = f'couldn\'t open sink "{name}": '
    path = name
    if _SCHEME.match(name):
        url = urlsplit(name)
        path = unquote(url.path) if url.path.startswith("/") else ""
        if url.scheme != "file":
            raise ValueError(f'{refused}no sink found for scheme "{url.scheme}"')
        if url.netloc not in ("", "localhost"):
            raise ValueError(f"{refused}file URLs must leave host empty or use localhost: got {name}")
    if not path:
        raise ValueError(f"{refused}open : no such file or directory")
    try:
        return logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        raise ValueError(f"{refused}open {path}: {reason}") from error


def _extra_fields(record: logging.LogRecord) -> dict[str, Any]:
    extra = dict(getattr(record, "fields", ()))
    if record.exc_info and record.exc_info[0] is not None:
        extra.setdefault("error", str(record.exc_info[1]) or record.exc_info[0].__name__)
        extra["stacktrace"] = "".join(traceback.format_exception(*record.exc_info)).rstrip()
    return extra
