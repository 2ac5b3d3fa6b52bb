"""Membership configurations and the legal steps between them (Raft thesis §4, joint consensus).

A configuration is two voter sets (the outgoing one empty unless joint), the learners, and the voters that become
learners once the joint phase ends. Nobody is voter and learner at a time. All functions are pure; what a leader knows
about members (`Progress`) is carried over by the caller.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ratifyd.raft.messages import (
    AnyConfChange,
    ConfChange,
    ConfChangeKind,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeV2,
    ConfState,
)

_NOBODY: frozenset[int] = frozenset()


class InvalidConfChange(ValueError):
    """This change is not legal on top of this configuration."""


@dataclass(slots=True, frozen=True)
class Configuration:
    """Who votes and who only listens."""

    voters: frozenset[int] = _NOBODY
    outgoing: frozenset[int] = _NOBODY
    learners: frozenset[int] = _NOBODY
    learners_next: frozenset[int] = _NOBODY
    auto_leave: bool = False

    @property
    def is_joint(self) -> bool:
        return bool(self.outgoing)

    @property
    def all_voters(self) -> frozenset[int]:
        """Voters of either half."""
        return self.voters | self.outgoing

    @property
    def members(self) -> frozenset[int]:
        """Everybody who receives the log."""
        return self.voters | self.outgoing | self.learners

    def conf_state(self) -> ConfState:
        """Return the configuration as it is stored and sent."""
        return ConfState(
            tuple(sorted(self.voters)),
            tuple(sorted(self.learners)),
            tuple(sorted(self.outgoing)),
            tuple(sorted(self.learners_next)),
            self.auto_leave,
        )


def restore(state: ConfState) -> Configuration:
    """Return the configuration a ConfState describes; raises InvalidConfChange if none could be like that."""
    return _checked(
        Configuration(
            frozenset(state.voters),
            frozenset(state.voters_outgoing),
            frozenset(state.learners),
            frozenset(state.learners_next),
            state.auto_leave,
        )
    )


def is_possible(state: ConfState) -> bool:
    """Whether a ConfState describes a configuration."""
    try:
        restore(state)
    except InvalidConfChange:
        return False
    return True


def as_v2(change: AnyConfChange) -> ConfChangeV2:
    """Return the same change in its general form."""
    if isinstance(change, ConfChange):
        return ConfChangeV2((ConfChangeSingle(change.kind, change.node_id),), context=change.context)
    return change


def leaves_joint(change: ConfChangeV2) -> bool:
    """Whether this change asks to leave the joint configuration."""
    return not change.changes and change.transition is ConfChangeTransition.AUTO


def apply(config: Configuration, change: AnyConfChange) -> Configuration:
    """Return the configuration after a change; raises InvalidConfChange."""
    change = as_v2(change)
    if leaves_joint(change):
        return leave_joint(config)
    if change.transition is not ConfChangeTransition.AUTO or len(change.changes) > 1:
        auto_leave = change.transition is not ConfChangeTransition.JOINT_EXPLICIT
        return enter_joint(config, change.changes, auto_leave=auto_leave)
    return simple(config, change.changes)


def simple(config: Configuration, changes: Iterable[ConfChangeSingle]) -> Configuration:
    """Change at most one voter, without a joint phase."""
    if config.is_joint:
        raise InvalidConfChange("can't apply simple config change in joint config")
    changed = _with_changes(config, changes)
    if len(config.voters ^ changed.voters) > 1:
        raise InvalidConfChange("more than one voter changed without entering joint config")
    return _checked(changed)


def enter_joint(config: Configuration, changes: Iterable[ConfChangeSingle], *, auto_leave: bool) -> Configuration:
    """Enter the joint phase: decisions need majorities of the old voters and of the changed ones."""
    if config.is_joint:
        raise InvalidConfChange("config is already joint")
    if not config.voters:
        raise InvalidConfChange("can't make a zero-voter config joint")
    joint = replace(config, outgoing=config.voters)
    return _checked(replace(_with_changes(joint, changes), auto_leave=auto_leave))


def leave_joint(config: Configuration) -> Configuration:
    """End the joint phase: the incoming voters decide alone, demoted voters become learners."""
    if not config.is_joint:
        raise InvalidConfChange("can't leave a non-joint config")
    return _checked(Configuration(config.voters, _NOBODY, config.learners | config.learners_next))


def _with_changes(config: Configuration, changes: Iterable[ConfChangeSingle]) -> Configuration:
    voters, learners, learners_next = set(config.voters), set(config.learners), set(config.learners_next)
    for change in changes:
        member = change.node_id
        if not member:
            continue  # etcd clears the id of a change it refused, so that every member applies a no-op
        if change.kind is ConfChangeKind.ADD_NODE:
            voters.add(member)
            learners.discard(member)
            learners_next.discard(member)
        elif change.kind is ConfChangeKind.REMOVE_NODE:
            voters.discard(member)
            learners.discard(member)
            learners_next.discard(member)
        elif change.kind is ConfChangeKind.ADD_LEARNER_NODE:
            voters.discard(member)
            # A voter of the outgoing half stays one until the joint phase ends.
            (learners_next if member in config.outgoing else learners).add(member)
    if not voters:
        raise InvalidConfChange("removed all voters")
    return replace(
        config, voters=frozenset(voters), learners=frozenset(learners), learners_next=frozenset(learners_next)
    )


def _checked(config: Configuration) -> Configuration:
    if config.learners & config.all_voters:
        raise InvalidConfChange("a member is both learner and voter")
    if config.learners_next - config.outgoing:
        raise InvalidConfChange("a future learner is not an outgoing voter")
    if not config.is_joint and config.auto_leave:
        raise InvalidConfChange("auto leave without a joint config")
    return config
