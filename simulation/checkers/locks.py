"""Locks: who holds one is alone with it, as long as its key is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulation.checkers import Violation
from simulation.history import Hold

if TYPE_CHECKING:
    from simulation.world import World

NAME = "lock"


class LockChecker:
    """Compares what clients were told with the life of the keys that stand for locks."""

    def finish(self, world: World) -> None:
        """Check all locks that were taken."""
        gone = _deletions(world)
        holds = sorted(world.history.holds, key=lambda hold: hold.answered)
        for number, hold in enumerate(holds):
            if world.model.get(hold.key, hold.revision) is None:
                raise Violation(NAME, f"held without a key: {hold}")
            for other in holds[:number]:
                if other.name == hold.name and other.key != hold.key and _until(other, gone) > hold.answered:
                    raise Violation(NAME, f"held by two: {other} and {hold}")


def _until(hold: Hold, gone: dict[bytes, list[tuple[int, float]]]) -> float:
    """When the key of a lock was deleted."""
    return next((moment for revision, moment in gone.get(hold.key, ()) if revision > hold.revision), float("inf"))


def _deletions(world: World) -> dict[bytes, list[tuple[int, float]]]:
    """(revision, moment) of each deletion of each key."""
    found: dict[bytes, list[tuple[int, float]]] = {}
    for revision, applied in world.model.writes.items():
        for change in world.model.changes[revision]:
            if not change.version.version:
                found.setdefault(change.version.key, []).append((revision, world.committed_at[applied.at - 1]))
    return found
