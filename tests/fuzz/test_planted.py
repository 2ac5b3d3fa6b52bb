"""Targets that compare can find something: each of these mistakes, planted by a change of the source, is found."""

import inspect
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from fuzzing.engine import run_target
from fuzzing.targets import TARGETS
from ratifyd.apply import txn
from ratifyd.proto import light
from ratifyd.wire.firstblocks import FirstBlocks
from ratifyd.wire.hpack import Decoder

INPUTS = 30_000


def changed(function: Callable[..., Any], old: str, new: str) -> Any:
    """A function with a piece of its source replaced."""
    source = textwrap.dedent(inspect.getsource(function))
    assert old in source, "the mistake no longer fits the code"
    names = dict(function.__globals__)
    exec(compile(source.replace(old, new), "planted", "exec"), names)
    return names[function.__name__]


def found(name: str) -> bool:
    return any(run_target(TARGETS[name], seed=f"planted {part}", inputs=INPUTS // 10).failures for part in range(10))


SWAPS = [
    ("data[0] != 0x0A or ", "", "a transaction that begins with something else"),
    ("data[stop] != 0x12", "False", "something else than a success after the compare"),
    ("kind != 0x12 or at + size != stop", "kind != 0x12", "a put that ends before or behind its operation"),
    ("kind != 0x12 or at + size != stop", "at + size != stop", "another operation than a put"),
    ("or data[at] != 0x0A", "", "a put that does not begin with its key"),
    ("data[middle] != 0x12 or ", "", "another field than the value behind the key"),
    ("or at + size != stop or not start", "or not start", "fields behind the value"),
    ("not start < middle <= start + 0x7F", "not start < middle", "a key of a longer length"),
    ("not data.startswith(_READ_HEADS[whole - first], stop)", "False", "any operation where the key is read"),
    ("data[start:middle], data[at:stop]", "data[start:middle], data[at:stop - 1]", "a value cut short"),
    ("condition = _short_compare(data, at, stop)", "condition = _short_compare(data, at, stop - 1)", "a compare cut"),
]
SHARED: list[tuple[Any, str, str, str, str]] = [
    (FirstBlocks, "take", "not decoder.is_fresh", "False", "any block of a connection is taken for its first"),
    (FirstBlocks, "take", "first is None or first.size > max_size", "first is None", "a list that is too long"),
    (FirstBlocks, "keep", "or head.timeout_s is not None", "", "a timeout is forgotten"),
    (
        Decoder,
        "lend",
        "len(self._table) - _FIRST_DYNAMIC != self.generation",
        "False",
        "a table made smaller",
    ),
    (Decoder, "lend", "self._borrowed = True", "pass", "the lender changes what others have"),
    (Decoder, "adopt", "trace.table", "_ALIGNED_STATIC", "an empty header table"),
    (Decoder, "adopt", "trace.table", "_ALIGNED_STATIC + trace.table[:_FIRST_DYNAMIC - 1:-1]", "another order"),
    (Decoder, "adopt", "self._size = trace.size", "self._size = 0", "the table's size is not known"),
    (
        Decoder,
        "adopt",
        "self._borrowed = True",
        "self._borrowed = trace is _NO_TRACE",
        "the borrower changes it",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("old", "new", "what"), SWAPS, ids=[what for _, _, what in SWAPS])
def test_a_mistake_in_reading_swaps_is_found(monkeypatch: pytest.MonkeyPatch, old: str, new: str, what: str) -> None:
    monkeypatch.setattr(txn, "read_swap", changed(light.read_swap, old, new))
    assert found("messages_in"), what


@pytest.mark.slow
@pytest.mark.parametrize(("owner", "name", "old", "new", "what"), SHARED, ids=[each[-1] for each in SHARED])
def test_a_mistake_in_sharing_first_blocks_is_found(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, old: str, new: str, what: str
) -> None:
    monkeypatch.setattr(owner, name, changed(getattr(owner, name), old, new))
    assert found("first_blocks"), what
