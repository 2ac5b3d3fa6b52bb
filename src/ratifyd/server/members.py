"""Membership changes asked for by an administrator: the checks before the log, and the way into it (semantics §15).

What is checked here protects the quorum and looks at connections; what makes a change legal is decided again when it
is applied, from replicated state alone.
"""

import json
from collections.abc import Callable, Sequence

from ratifyd.errors import (
    EtcdError,
    LearnerNotReady,
    MemberNotEnoughStarted,
    MemberNotFound,
    MemberNotLearner,
    NotLeader,
    Unhealthy,
)
from ratifyd.membership import Change, ChangeKind, Member, Membership, member_id
from ratifyd.ports import Clock, Transport
from ratifyd.raft.core import Raft
from ratifyd.raft.messages import ConfChange, ConfChangeKind
from ratifyd.raft.roles import Role
from ratifyd.server.leader import Leadership
from ratifyd.server.parts import Parts
from ratifyd.server.proposals import Proposals, Wanted

HEALTH_INTERVAL_S = 5.0
"""A member counts as healthy when it has been connected for so long (etcd HealthInterval)."""
READY_SHARE = 0.9
"""Share of the leader's log a learner must have before it may vote (etcd readyPercentThreshold)."""
UNBOUNDED_S = 86_400.0
"""A change has no time limit of its own: its client gives up first (semantics 13.7)."""

Changed = Callable[[EtcdError | None], None]
"""Called once the change is applied, or with why it was not."""


def _always() -> bool:
    return True


class MemberChanges:
    """Adds, removes, updates and promotes members through the log.

    A change that could not be proposed yet is dropped once nobody has `wanted` it any more.
    """

    __slots__ = ("_clock", "_leadership", "_members", "_proposals", "_raft", "_strict", "_transport", "_wake")

    def __init__(
        self, parts: Parts, proposals: Proposals, leadership: Leadership, *, strict: bool, wake: Callable[[], None]
    ) -> None:
        """`strict` is --strict-reconfig-check."""
        self._clock: Clock = parts.clock
        self._raft: Raft = parts.raft
        self._members: Membership = parts.state.members
        self._transport: Transport = parts.transport
        self._proposals = proposals
        self._leadership = leadership
        self._strict = strict
        self._wake = wake

    def add(
        self,
        peer_urls: Sequence[str],
        *,
        learner: bool,
        done: Changed,
        timeout_s: float | None,
        wanted: Wanted = _always,
    ) -> Member:
        """Propose a new member; the member it will be. Raises MemberNotEnoughStarted and Unhealthy."""
        urls = tuple(sorted(peer_urls))
        member = Member(member_id(urls, "", int(self._clock.wall())), urls, is_learner=learner)
        if self._strict:
            if not learner and not self._members.may_add_voter():
                raise MemberNotEnoughStarted
            voters = [voter.id for voter in self._members.voters]
            if len(voters) > 1 and self._healthy(voters) < (len(voters) + 1) // 2 + 1:
                raise Unhealthy
        kind = ChangeKind.ADD_LEARNER if learner else ChangeKind.ADD_NODE
        self._propose(Change(kind, member), done, timeout_s, wanted)
        return member

    def remove(self, member: int, *, done: Changed, timeout_s: float | None, wanted: Wanted = _always) -> None:
        """Propose to remove a member. Raises MemberNotEnoughStarted and Unhealthy."""
        known = self._members.members.get(member)
        if self._strict and not (known is not None and known.is_learner):
            self._check_removal(member)
        self._propose(Change(ChangeKind.REMOVE_NODE, Member(member, ())), done, timeout_s, wanted)

    def update(
        self,
        member: int,
        peer_urls: Sequence[str],
        *,
        done: Changed,
        timeout_s: float | None,
        wanted: Wanted = _always,
    ) -> None:
        """Propose other peer URLs for a member."""
        known = self._members.members.get(member)
        learner = known is not None and known.is_learner  # etcd before 3.5.31 replaces this flag, too
        change = Change(ChangeKind.UPDATE_NODE, Member(member, tuple(peer_urls), is_learner=learner))
        self._propose(change, done, timeout_s, wanted)

    def promote(
        self,
        member: int,
        *,
        done: Changed,
        timeout_s: float | None,
        token: str = "",
        wanted: Wanted = _always,
    ) -> None:
        """Turn a learner into a voter, through the leader, who alone knows how far it has come.

        `token` shows the leader who asks. Raises MemberNotFound, LearnerNotReady and MemberNotEnoughStarted.
        """
        if self._raft.role is Role.LEADER:
            self.promote_here(member, done=done, timeout_s=timeout_s, wanted=wanted)
            return

        def taken(status: int, body: bytes) -> bool:
            if status == 200:
                done(None)
            elif status == 404:
                done(MemberNotFound())
            elif status == 412 and LearnerNotReady.message.encode() in body:
                done(LearnerNotReady())
            elif status == 412 and b"can only promote a learner member" in body:
                done(MemberNotLearner())
            else:
                return False
            return True

        headers = [("Authorization", token)] if token else []
        self._leadership.ask(f"/members/promote/{member}", b"", taken, done, headers)

    def promote_here(self, member: int, *, done: Changed, timeout_s: float | None, wanted: Wanted = _always) -> None:
        """Promote as the leader. Raises NotLeader and what `promote` raises."""
        raft = self._raft
        if raft.role is not Role.LEADER:
            raise NotLeader
        progress = raft.progress.get(member)
        if progress is None:
            raise MemberNotFound
        if progress.match < READY_SHARE * raft.log.last_index:
            raise LearnerNotReady
        if self._strict and not self._members.may_promote():
            raise MemberNotEnoughStarted
        self._propose(Change(ChangeKind.ADD_NODE, Member(member, ()), is_promote=True), done, timeout_s, wanted)

    def as_json(self) -> bytes:
        """All members as the peer port lists them."""
        return b"[" + b",".join(member.to_json() for member in self._members.sorted()) + b"]\n"

    def _check_removal(self, member: int) -> None:
        if not self._members.may_remove_voter(member):
            raise MemberNotEnoughStarted
        if member != self._raft.id and self._transport.active_since(member) is None:
            return  # what is down is no part of the quorum that works
        voters = [voter.id for voter in self._members.voters]
        if self._healthy(voters) - 1 < 1 + (len(voters) - 1) // 2:
            raise Unhealthy

    def _healthy(self, members: list[int]) -> int:
        return self._leadership.connected(members, self._clock.time() - HEALTH_INTERVAL_S)

    def _propose(self, change: Change, done: Changed, timeout_s: float | None, wanted: Wanted) -> None:
        conf_change = ConfChange(ConfChangeKind(int(change.kind)), change.member.id, change.context())
        self._proposals.add_change(
            conf_change,
            lambda body, error: done(error),
            timeout_s=UNBOUNDED_S if timeout_s is None else timeout_s,
            wanted=wanted,
        )
        self._wake()


def members_of_json(data: bytes) -> list[Member]:
    """Read the members another member lists. Raises ValueError."""
    try:
        found = json.loads(data)
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    if not isinstance(found, list) or not all(isinstance(fields, dict) for fields in found):
        raise ValueError("not a list of members")
    return [Member.from_fields(fields) for fields in found]
