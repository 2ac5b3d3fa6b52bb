"""The list of mutants, and how one is planted and taken out again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Patch = Callable[[Any, str, Any], None]
MUTANTS: dict[str, Callable[[Patch], None]] = {}


def mutant(function: Callable[[Patch], None]) -> Callable[[Patch], None]:
    """Add to the list."""
    MUTANTS[function.__name__] = function
    return function


@contextmanager
def planted(name: str | None) -> Iterator[None]:
    """Have a mutant in the code meanwhile."""
    undo: list[tuple[Any, str, Any]] = []

    def patch(owner: Any, attribute: str, value: Any) -> None:
        if isinstance(owner, dict):
            undo.append((owner, attribute, owner[attribute]))
            owner[attribute] = value
        else:
            undo.append((owner, attribute, vars(owner)[attribute]))
            setattr(owner, attribute, value)

    try:
        if name is not None:
            MUTANTS[name](patch)
        yield
    finally:
        for owner, attribute, value in reversed(undo):
            if isinstance(owner, dict):
                owner[attribute] = value
            else:
                setattr(owner, attribute, value)
