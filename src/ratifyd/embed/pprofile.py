"""Profiles in the format of pprof (github.com/google/pprof, profile.proto): stacks, and values measured at them."""

import gzip
from collections.abc import Iterable, Sequence
from types import FrameType

from ratifyd.proto import fast

ValueType = tuple[str, str]
"""What is measured, and in which unit."""
Place = tuple[str, str, int, int]
"""Function, file, line of the function, line in it."""
_SAMPLE_TYPE, _SAMPLE, _LOCATION, _FUNCTION, _STRING = 1, 2, 4, 5, 6
_TIME, _DURATION, _PERIOD_TYPE, _PERIOD = 9, 10, 11, 12


class Profile:
    """Samples gathered by their stacks."""

    def __init__(self, *types: ValueType) -> None:
        """`types` says what the values of each sample are."""
        self._types = types
        self.samples: dict[tuple[Place, ...], list[int]] = {}

    def add(self, stack: tuple[Place, ...], *values: int) -> None:
        """Take a sample; its stack begins with the innermost place."""
        known = self.samples.setdefault(stack, [0] * len(self._types))
        for at, value in enumerate(values):
            known[at] += value

    def encode(self, *, time_ns: int, duration_ns: int = 0, period_ns: int = 0) -> bytes:
        """The whole profile, compressed as pprof's tools expect it."""
        strings: dict[str, int] = {"": 0}
        functions: dict[tuple[str, str, int], int] = {}
        locations: dict[Place, int] = {}
        parts: list[bytes] = []
        for kind in self._types:
            parts.append(fast.length_prefixed(_SAMPLE_TYPE, _value_type(kind, strings)))
        for stack, values in self.samples.items():
            ids = [locations.setdefault(place, len(locations) + 1) for place in stack]
            packed = fast.length_prefixed(1, _packed(ids)) + fast.length_prefixed(2, _packed(values))
            parts.append(fast.length_prefixed(_SAMPLE, packed))
        for (name, path, first, line), number in locations.items():
            function = functions.setdefault((name, path, first), len(functions) + 1)
            where = fast.length_prefixed(4, _number(1, function) + _number(2, line))
            parts.append(fast.length_prefixed(_LOCATION, _number(1, number) + where))
        for (name, path, first), number in functions.items():
            named = _number(2, _string(name, strings)) + _number(3, _string(name, strings))
            placed = _number(4, _string(path, strings)) + _number(5, first)
            parts.append(fast.length_prefixed(_FUNCTION, _number(1, number) + named + placed))
        if period_ns:
            period = _value_type(self._types[-1], strings)
            parts += (fast.length_prefixed(_PERIOD_TYPE, period), _number(_PERIOD, period_ns))
        parts += (_number(_TIME, time_ns), _number(_DURATION, duration_ns))
        parts += [fast.length_prefixed(_STRING, text.encode()) for text in strings]
        return gzip.compress(b"".join(parts), compresslevel=1)


def stack_of(frame: FrameType | None) -> tuple[Place, ...]:
    """Where a thread or a task is, the innermost place first."""
    places: list[Place] = []
    while frame is not None:
        code = frame.f_code
        places.append((code.co_qualname, code.co_filename, code.co_firstlineno, frame.f_lineno or 0))
        frame = frame.f_back
    return tuple(places)


def stack_text(stack: Sequence[Place]) -> str:
    """The same to be read."""
    return "".join(f"\t{name}\n\t\t{path}:{line}\n" for name, path, _, line in stack)


def _string(text: str, strings: dict[str, int]) -> int:
    return strings.setdefault(text, len(strings))


def _value_type(kind: ValueType, strings: dict[str, int]) -> bytes:
    return _number(1, _string(kind[0], strings)) + _number(2, _string(kind[1], strings))


def _number(field: int, value: int) -> bytes:
    return fast.varint(field << 3) + fast.varint(value)


def _packed(numbers: Iterable[int]) -> bytes:
    return b"".join(map(fast.varint, numbers))
