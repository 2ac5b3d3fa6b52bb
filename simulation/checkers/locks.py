"""Locks: who is told to hold one is the first in its queue at the revision of the answer.

A key stays in the queue until its holder gives it back or its lease ends, so two holders at a time would both be first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulation.checkers import Violation

if TYPE_CHECKING:
    from simulation.world import World

NAME = "lock"


class LockChecker:
    """Compares what clients were told with the keys that stand for locks."""

    def finish(self, world: World) -> None:
        """Check all locks that were taken."""
        for hold in world.history.holds:
            queue = world.model.find(hold.name + b"/", hold.name + b"0", hold.revision)
            first = min(queue, key=lambda version: version.create, default=None)
            if first is None or first.key != hold.key:
                raise Violation(NAME, f"first in the queue was {first}, but told to hold it: {hold}")
