"""Linearizability by search (Wing and Gong, with Lowe's memory of dead ends): slow, and blind to how etcd works.

A cross-check for short histories: it knows neither the log nor revisions, just one dict of keys, and so would notice if
the witness were wrong. Each operation is (kind, keys and values); answers that carry more are reduced to that.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from simulation.checkers import Violation
from simulation.history import Operation

if TYPE_CHECKING:
    from simulation.world import World

NAME = "search"
MAX_OPERATIONS = 120
MAX_STEPS = 200_000

State = tuple[tuple[bytes, bytes], ...]
"""Sorted (key, value)."""


class SearchChecker:
    """Looks for an order of the operations on plain keys that explains all answers."""

    def __init__(self, operations: list[Operation]) -> None:
        self._operations = _beginning([each for each in operations if _is_simple(each)])
        self.steps = 0

    def finish(self, world: World) -> None:
        """Check the history."""
        self.check()

    def check(self) -> bool:
        """Whether an order was found (or the search given up); raises Violation when there is none."""
        operations = sorted(self._operations, key=lambda each: each.start)
        initial: State = ()
        seen: set[tuple[int, State]] = set()
        stack = [(0, initial)]
        everything = sum(1 << number for number, each in enumerate(operations) if each.ok)
        best = 0
        while stack:
            done, state = stack.pop()
            if done & everything == everything:
                return True
            self.steps += 1
            if self.steps > MAX_STEPS:
                return False
            best = max(best, bin(done).count("1"))
            for number, following in self._next(operations, done, state):
                key = (done | 1 << number, following)
                if key not in seen:
                    seen.add(key)
                    stack.append(key)
        raise Violation(NAME, f"no order explains the answers; {best} of {len(operations)} fit")

    def _next(self, operations: list[Operation], done: int, state: State) -> list[tuple[int, State]]:
        """Operations that may come next, with the state after them."""
        left = [number for number in range(len(operations)) if not done >> number & 1]
        horizon = min((operations[number].end for number in left if operations[number].ok), default=float("inf"))
        found = []
        for number in left:
            operation = operations[number]
            if operation.start > horizon:
                break
            after = _execute(operation, state)
            if after is not None:
                found.append((number, after))
        return found


def _beginning(operations: list[Operation]) -> list[Operation]:
    """The first operations; those that overlap with what is left out no longer say how they ended."""
    if len(operations) <= MAX_OPERATIONS:
        return operations
    operations = sorted(operations, key=lambda each: each.start)
    horizon = operations[MAX_OPERATIONS].start
    kept: list[Operation] = []
    for operation in operations[:MAX_OPERATIONS]:
        if operation.end < horizon:
            kept.append(operation)
        elif operation.kind != "range":
            kept.append(replace(operation, end=float("inf"), status=None))
    return kept


def _is_simple(operation: Operation) -> bool:
    request = operation.request
    if operation.kind not in ("put", "range", "delete_range"):
        return False
    if operation.kind == "range":
        if not request.key.startswith(b"k"):
            return False
        plain = not (request.serializable or request.revision or request.limit)
        return operation.ok and plain and not request.keys_only and not request.count_only
    if request.key.startswith(b"l"):
        return False  # keys with leases change by themselves
    return operation.ok or operation.unsure


def _execute(operation: Operation, state: State) -> State | None:
    """The state after an operation; None when its answer does not fit."""
    request: Any = operation.request
    rows = dict(state)
    if operation.kind == "put":
        rows[request.key] = request.value
        return tuple(sorted(rows.items()))
    inside = {key: value for key, value in state if _covers(request, key)}
    if operation.kind == "range":
        answered = {kv.key: kv.value for kv in operation.response.kvs}
        return state if answered == inside else None
    if operation.ok and operation.response.deleted != len(inside):
        return None
    return tuple((key, value) for key, value in state if key not in inside)


def _covers(request: Any, key: bytes) -> bool:
    end = request.range_end
    return bool(key == request.key if not end else key >= request.key and (end == b"\0" or key < end))
