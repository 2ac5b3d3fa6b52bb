"""Lease guarantees: no lease ends before its time, and none outlives it for ever."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from simulation.checkers import Violation

if TYPE_CHECKING:
    from simulation.world import World

NAME = "lease"


class LeaseChecker:
    """Looks at revocations in the log that no client asked for, and at what is left in the end."""

    def finish(self, world: World) -> None:
        """Check all leases of a run."""
        self._check_not_early(world)
        self._check_gone(world)
        for member in world.living():
            if member.state.leases.leases:
                raise Violation(NAME, f"leases outlive their time: {sorted(member.state.leases.leases)}")
            leased = [key for key in world.model.attached if member.state.store.get(key) is not None]
            if leased:
                raise Violation(NAME, f"keys outlive their lease: {leased}")

    def _check_gone(self, world: World) -> None:
        """Who is told that there is no such lease is told so at a moment at which there is none."""
        for renewal in world.history.gone:
            first, last = (bisect_right(world.committed_at, moment) for moment in (renewal.sent, renewal.answered))
            if all(
                index and renewal.lease in world.model.applied[index - 1].book.leases
                for index in range(first, last + 1)
            ):
                raise Violation(NAME, f"said to be gone, but it was there all the time: {renewal}")

    def _check_not_early(self, world: World) -> None:
        raft = world.raft_checker
        revoked: dict[int, float] = {}
        for applied in world.model.applied:
            if applied.kind == "lease_revoke" and not applied.error:
                entry = raft.committed[applied.at - 1]
                revoked[applied.request.ID] = raft.appeared[entry.index, entry.term]
        drift = 1 + 2 * world.options.clock_drift
        # Two members may believe to lead for as long as it takes the older one to miss its quorum.
        slack = 2 * world.options.election_s
        for renewal in world.history.renewals:
            ended = revoked.get(renewal.lease)
            if ended is None or renewal.lease in world.history.revoked or renewal.answered > ended:
                continue
            until = renewal.sent + renewal.ttl_s / drift - slack
            if ended < until:
                text = f"revoked at {ended:.3f}, but promised until {until:.3f}: {renewal}"
                raise Violation(NAME, text)
