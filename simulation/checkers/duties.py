"""What members do by themselves: they compact no more than they were told to, and raise no false alarm."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from ratifyd.proto.rpc_pb2 import CORRUPT, AlarmRequest
from simulation.checkers import Violation
from simulation.model import Applied

if TYPE_CHECKING:
    from simulation.world import World

SAMPLES = 10
"""Periodic compaction looks at the revision this often in its retention, and may be late by one look."""


class CompactionChecker:
    """Compactions that no administrator asked for leave the history that is to be retained."""

    def finish(self, world: World) -> None:
        """Check all compactions of a run."""
        raft, options = world.raft_checker, world.options
        kept_s = options.auto_compaction_s * (1 - 1.5 / SAMPLES) / (1 + options.clock_drift)
        kept = options.auto_compaction_revisions
        for applied in world.model.applied:
            if applied.kind != "compaction" or applied.error or applied.request.revision in world.history.compactions:
                continue
            entry = raft.committed[applied.at - 1]
            now = raft.appeared[entry.index, entry.term]
            before = bisect_right(world.committed_at, now - kept_s)
            revision = (world.model.applied[before - 1].revision if before else 1) - kept
            if not (kept_s or kept) or applied.request.revision > revision:
                text = f"compacted to {applied.request.revision} at {now:.3f}, {revision} is what may be"
                raise Violation("compaction", text)


def check_alarm(world: World, applied: Applied) -> None:
    """Members whose data nobody has touched are never called corrupt."""
    request = applied.request
    if applied.kind != "alarm" or (request.action, request.alarm) != (AlarmRequest.ACTIVATE, CORRUPT):
        return
    if request.memberID not in {machine.member_id for machine in world.machines if machine.corrupted}:
        raise Violation("corruption alarm", f"a sound member is called corrupt: {applied}")
