"""Majorities of one or two voter sets: what is committed, and who won an election.

An empty set agrees to everything, so a configuration that is not joint is simply one whose outgoing set is empty.
"""

from collections.abc import Collection, Mapping
from enum import Enum

NO_LIMIT = (1 << 64) - 1
"""What an empty voter set would commit."""


class VoteResult(Enum):
    """Outcome of an election so far."""

    PENDING = "pending"
    LOST = "lost"
    WON = "won"


def committed_index(voters: Collection[int], acked: Mapping[int, int]) -> int:
    """Return the highest index that a majority of `voters` has acknowledged; voters missing in `acked` have none."""
    if not voters:
        return NO_LIMIT
    indexes = sorted([acked.get(voter, 0) for voter in voters])
    return indexes[(len(indexes) - 1) // 2]


def joint_committed_index(incoming: Collection[int], outgoing: Collection[int], acked: Mapping[int, int]) -> int:
    """Return the highest index committed in both voter sets (Raft thesis §4.3)."""
    index = committed_index(incoming, acked)
    return min(index, committed_index(outgoing, acked)) if outgoing else index


def vote_result(voters: Collection[int], votes: Mapping[int, bool]) -> VoteResult:
    """Count `votes` (True is a yes); votes of others than `voters` do not matter."""
    if not voters:
        return VoteResult.WON
    needed = len(voters) // 2 + 1
    granted = sum(1 for voter in voters if votes.get(voter) is True)
    missing = sum(1 for voter in voters if voter not in votes)
    if granted >= needed:
        return VoteResult.WON
    return VoteResult.PENDING if granted + missing >= needed else VoteResult.LOST


def joint_vote_result(incoming: Collection[int], outgoing: Collection[int], votes: Mapping[int, bool]) -> VoteResult:
    """Count `votes` where both voter sets must agree."""
    results = (vote_result(incoming, votes), vote_result(outgoing, votes))
    if VoteResult.LOST in results:
        return VoteResult.LOST
    return VoteResult.PENDING if VoteResult.PENDING in results else VoteResult.WON
