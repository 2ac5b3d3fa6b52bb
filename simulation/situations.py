"""Rare situations that runs have been in: what raft marks (`ports.Tracer`), and what shows from outside.

A list of all that are known tells which ones a thousand seeds never reach.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from simulation.authmodel import OLD_REVISION
from simulation.history import NO_SPACE, Operation

if TYPE_CHECKING:
    from simulation.machine import SimMember

MARKED = (
    "raft.append_malformed",
    "raft.campaign_refused (unapplied conf change)",
    "raft.conf_change_refused",
    "raft.configuration",
    "raft.message_refused",
    "raft.proposal_dropped (leader transfer)",
    "raft.proposal_dropped (no leader)",
    "raft.quorum_lost",
    "raft.role",
    "raft.snapshot_refused (not a member)",
    "raft.snapshot_restored",
    "raft.snapshot_wanted",
    "raft.vote_ignored",
)
SEEN = (
    "auth: a request is of an older revision",
    "crash: a backend commit is under way",
    "crash: a disk step is the last",
    "crash: a snapshot is being installed",
    "crash: a sync is under way",
    "crash: an election is under way",
    "crash: while starting",
    "disk: a torn write is cut",
    "disk: damage is refused",
    "leaders: an old one is still there",
    "log: an entry of an older term is committed",
    "log: entries are replaced",
    "members: one that was removed comes back and hears of it",
    "members: the leader is removed",
    "quota: a write finds no space",
    "snapshot: another one comes during an installation",
    "snapshot: its sender hangs up",
    "snapshot: sent while the membership changes",
    "watch: a compaction overtakes it",
    "watch: ended for lack of a leader",
)
KNOWN = (*MARKED, *SEEN)
_ERRORS = {OLD_REVISION: "auth: a request is of an older revision", NO_SPACE: "quota: a write finds no space"}


class Situations:
    """Counts them; `ports.Tracer` of all members."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def mark(self, name: str, **fields: object) -> None:
        """A member has taken a rare branch."""
        reason = fields.get("reason", "")
        full = f"{name} ({reason})"
        self.counts[full if full in KNOWN else name] += 1

    def seen(self, name: str) -> None:
        """Something shows from outside."""
        assert name in SEEN, name
        self.counts[name] += 1

    def answered(self, operation: Operation) -> None:
        """A client has its answer."""
        if (name := _ERRORS.get(operation.error)) is not None:
            self.counts[name] += 1

    def crashed(self, member: SimMember) -> None:
        """A process ends."""
        if member.state.buffer.flushing:
            self.seen("crash: a backend commit is under way")
        if member.wal._flying is not None:
            self.seen("crash: a sync is under way")
        if member.server.node.installing:
            self.seen("crash: a snapshot is being installed")
        if not member.raft.leader_id:
            self.seen("crash: an election is under way")

    def image_arrived(self, member: SimMember) -> None:
        """A snapshot has come in."""
        if member.server.node.installing:
            self.seen("snapshot: another one comes during an installation")


def never(counts: Counter[str]) -> list[str]:
    """Those that were not reached."""
    return [name for name in KNOWN if not counts[name]]
