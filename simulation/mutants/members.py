"""Mistakes in members, snapshots and what comes with them: changes of leader and members, duties, queues for a lock."""

from __future__ import annotations

from typing import Any

from ratifyd.api.candidacy import Turn
from ratifyd.apply.state import State
from ratifyd.auth.store import AuthStore
from ratifyd.formats.v2 import encode_v2
from ratifyd.membership import Membership
from ratifyd.raft import leader
from ratifyd.raft.core import Raft
from ratifyd.raft.messages import Snapshot
from ratifyd.server.compaction import AutoCompactor
from ratifyd.server.node import Node
from ratifyd.server.sending import SnapshotSender
from ratifyd.server.snapshots import membership_of
from simulation.mutants.planting import Patch, mutant


def _keep(patch: Patch, owner: Any, method: str, attribute: str) -> None:
    """Have a method leave something as it was."""

    def keeping(self: Any, *arguments: Any) -> None:
        before = getattr(self, attribute)
        original(self, *arguments)
        setattr(self, attribute, before)

    original = vars(owner)[method]
    patch(owner, method, keeping)


# --- what a snapshot replaces ----------------------------------------------------------------------------------------


@mutant
def installed_conf_state_forgotten(patch: Patch) -> None:
    """A snapshot from the leader does not replace what the backend says of raft's members."""
    _keep(patch, State, "take_over", "conf_state_json")


@mutant
def installed_alarms_forgotten(patch: Patch) -> None:
    """A snapshot from the leader replaces everything but the alarms."""
    _keep(patch, State, "take_over", "alarms")


@mutant
def installed_downgrade_forgotten(patch: Patch) -> None:
    """A snapshot from the leader does not say whether a downgrade is under way."""
    _keep(patch, Membership, "take_over", "downgrade_target")


@mutant
def installed_grants_cached(patch: Patch) -> None:
    """What users may do is not worked out anew after a snapshot from the leader."""
    _keep(patch, AuthStore, "restore", "_grants")


@mutant
def installed_auth_leaves_tokens(patch: Patch) -> None:
    """Tokens outlive passwords, users and auth itself, if a snapshot brings the change."""
    patch(State, "_take_over_auth", lambda self: self._restore_auth())


@mutant
def unapplied_survive_a_snapshot(patch: Patch) -> None:
    """What waits to be applied is applied on top of a snapshot that holds it."""

    def durable(self: Any, ready: Any) -> None:
        waiting = list(self._unapplied)
        original(self, ready)
        if ready.snapshot is not None:
            self._unapplied.extend(waiting)

    original = Node._durable
    patch(Node, "_durable", durable)


@mutant
def snapshot_names_members_of_now(patch: Patch) -> None:
    """A snapshot names the members of the moment it is sent, not those of its index."""

    def describe(self: Any, image: Any) -> Snapshot:
        return Snapshot(original(self, image).meta, encode_v2(membership_of(self._members)))

    original = SnapshotSender._describe
    patch(SnapshotSender, "_describe", describe)


# --- changes of leader and members -----------------------------------------------------------------------------------


@mutant
def removed_leader_reads_alone(patch: Patch) -> None:
    """A leader that is removed takes itself for the one voter that is left."""
    patch(Raft, "is_singleton", property(lambda self: len(self.config.voters) == 1))


@mutant
def no_pending_change_in_office(patch: Patch) -> None:
    """A new leader does not reckon with a change of members in its log."""

    def take_office(raft: Any) -> None:
        original(raft)
        raft.pending_conf_index = 0

    original = leader.take_office
    patch(leader, "take_office", take_office)


@mutant
def samples_of_leaders_only(patch: Patch) -> None:
    """Members that do not lead take no samples for automatic compaction."""

    def tick(self: Any, now: float, *, leading: bool) -> None:
        samples = self._samples.copy()
        original(self, now, leading=leading)
        if not leading:
            self._samples = samples

    original = AutoCompactor.tick
    patch(AutoCompactor, "tick", tick)


# --- queues for a lock -----------------------------------------------------------------------------------------------


@mutant
def lock_won_without_a_look(patch: Patch) -> None:
    """Whoever's predecessor in a queue has gone is the first, whatever is left before that one."""

    def offer(self: Any, watcher: Any, revision: int, events: Any) -> bool:
        server = self._call.server
        server.state.hub.remove(watcher)
        server.clock.call_soon(self._come, None)
        return True

    patch(Turn, "offer", offer)
