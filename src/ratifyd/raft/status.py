"""A picture of one member's raft, for status calls, metrics and decisions such as promoting a learner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ratifyd.raft.messages import ConfState
from ratifyd.raft.progress import ProgressState
from ratifyd.raft.roles import Role

if TYPE_CHECKING:
    from ratifyd.raft.core import Raft


@dataclass(slots=True, frozen=True)
class ProgressStatus:
    """The leader's view of one member."""

    match: int
    next_index: int
    state: ProgressState
    recent_active: bool
    is_paused: bool
    is_learner: bool
    pending_snapshot: int
    inflight: int
    is_full: bool


@dataclass(slots=True, frozen=True)
class Status:
    """One member; `progress` is filled on the leader only."""

    id: int
    term: int
    vote: int
    commit: int
    applied: int
    role: Role
    leader_id: int
    transfer_target: int
    conf_state: ConfState
    progress: dict[int, ProgressStatus]


def status_of(raft: Raft) -> Status:
    """Take the picture."""
    progress: dict[int, ProgressStatus] = {}
    if raft.role is Role.LEADER:
        progress = {member: _progress_status(raft, member) for member in raft.progress}
    return Status(
        raft.id,
        raft.term,
        raft.vote,
        raft.log.committed,
        raft.log.applied,
        raft.role,
        raft.leader_id,
        raft.transfer_target,
        raft.config.conf_state(),
        progress,
    )


def _progress_status(raft: Raft, member: int) -> ProgressStatus:
    progress = raft.progress[member]
    return ProgressStatus(
        progress.match,
        progress.next_index,
        progress.state,
        progress.recent_active,
        progress.is_paused,
        member in raft.config.learners,
        progress.pending_snapshot,
        progress.inflight,
        progress.is_full,
    )
