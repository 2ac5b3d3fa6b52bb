"""What a member does about leadership from outside raft: ask the leader, hand leadership over, say why a request died.

Members that are no leader pass lease renewals and promotions on over the peer port, as raft carries neither.
"""

from collections.abc import Callable, Sequence

from ratifyd.errors import (
    BadLeaderTransferee,
    EtcdError,
    NoLeader,
    NotLeader,
    Timeout,
    TimeoutDueToConnectionLost,
    TimeoutDueToLeaderFail,
    TimeoutLeaderTransfer,
)
from ratifyd.membership import Membership
from ratifyd.ports import Clock, PeerCalls, Transport
from ratifyd.raft.core import Raft
from ratifyd.raft.roles import Role
from ratifyd.server.parts import Parts

ASK_PAUSE_S = 0.05
"""Pause before the leader is asked again (etcd LeaseRenew)."""

Failed = Callable[[EtcdError], None]
Headers = Sequence[tuple[str, str]]


class Leadership:
    """Leadership as this member sees it. `timeout_s` bounds requests to the leader."""

    __slots__ = (
        "_calls",
        "_clock",
        "_elected_at",
        "_election_s",
        "_members",
        "_raft",
        "_tick_s",
        "_timeout_s",
        "_transport",
    )

    def __init__(self, parts: Parts, *, timeout_s: float, election_s: float, tick_s: float) -> None:
        self._clock: Clock = parts.clock
        self._raft: Raft = parts.raft
        self._members: Membership = parts.state.members
        self._transport: Transport = parts.transport
        self._calls: PeerCalls = parts.calls
        self._timeout_s = timeout_s
        self._election_s = election_s
        self._tick_s = tick_s
        self._elected_at = 0.0

    @property
    def is_ours(self) -> bool:
        """Whether this member leads, as far as it knows."""
        return self._raft.role is Role.LEADER

    def changed(self, now: float) -> None:
        """Note a change of leader or term."""
        if self._raft.leader_id:
            self._elected_at = now

    # --- asking the leader -----------------------------------------------------------------------------------------

    def ask(
        self, path: str, body: bytes, taken: Callable[[int, bytes], bool], failed: Failed, headers: Headers = ()
    ) -> None:
        """POST to the leader until `taken(status, body)` is content; `failed` gets NoLeader or Timeout in the end."""
        self._ask(path, body, taken, failed, headers, self._clock.time() + self._timeout_s)

    def _ask(
        self,
        path: str,
        body: bytes,
        taken: Callable[[int, bytes], bool],
        failed: Failed,
        headers: Headers,
        deadline: float,
    ) -> None:
        left = deadline - self._clock.time()
        leader = self._members.members.get(self._raft.leader_id)
        if left <= 0:
            failed(NoLeader() if leader is None else Timeout())
            return

        def again() -> None:
            self._ask(path, body, taken, failed, headers, deadline)

        def answered(status: int, answer: bytes) -> None:
            if not (status and taken(status, answer)):
                self._clock.call_later(ASK_PAUSE_S, again)

        if leader is None:
            self._clock.call_later(min(ASK_PAUSE_S, left), again)
        else:
            self._calls.call(leader.peer_urls, "POST", path, body, left, answered, headers)

    # --- handing over ----------------------------------------------------------------------------------------------

    def transfer(self, target: int, done: Callable[[EtcdError | None], None], *, timeout_s: float | None) -> None:
        """Make `target` the leader. Ends with NotLeader, BadLeaderTransferee or TimeoutLeaderTransfer otherwise."""
        raft = self._raft
        member = self._members.members.get(target)
        if raft.role is not Role.LEADER:
            done(NotLeader())
        elif member is None or member.is_learner:
            done(BadLeaderTransferee())
        elif target == raft.id:
            done(None)
        else:
            raft.transfer_leader(target)
            self._await_leader(target, done, self._clock.time() + (timeout_s or self._timeout_s))

    def _await_leader(self, target: int, done: Callable[[EtcdError | None], None], deadline: float) -> None:
        if self._raft.leader_id == target:
            done(None)
        elif self._clock.time() >= deadline:
            done(TimeoutLeaderTransfer())
        else:
            self._clock.call_later(self._tick_s, self._await_leader, target, done, deadline)

    def successor(self) -> int:
        """The voter to hand leadership to before stopping: the one connected for longest; 0 if there is none."""
        if self._raft.role is not Role.LEADER:
            return 0
        since = {
            voter.id: active
            for voter in self._members.voters
            if voter.id != self._raft.id and (active := self._transport.active_since(voter.id)) is not None
        }
        return min(since, key=lambda voter: since[voter], default=0)

    # --- why a request died ----------------------------------------------------------------------------------------

    def why_timed_out(self, since: float) -> EtcdError:
        """The error of a request proposed at `since` whose time is up (semantics 13.4)."""
        if self._elected_at - 2 * self._election_s < since < self._elected_at:
            return TimeoutDueToLeaderFail()
        leader = self._raft.leader_id
        if leader == self._raft.id:
            members = list(self._members.members)
            if self.connected(members, since) < len(members) // 2 + 1:
                return TimeoutDueToConnectionLost()
        elif leader and not self.connected([leader], since):
            return TimeoutDueToConnectionLost()
        return Timeout()

    def connected(self, members: list[int], since: float) -> int:
        """How many of these members, this one included, have been connected since a time without a break."""
        count = 0
        for member in members:
            active = self._transport.active_since(member)
            count += member == self._raft.id or (active is not None and active < since)
        return count
