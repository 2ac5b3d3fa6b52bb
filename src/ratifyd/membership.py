"""Who belongs to the cluster: members, learners, removed ids, the agreed cluster version, and which changes are legal.

Decides from replicated state only. Knows nothing of connections, raft progress or the backend: callers bring the rows
of buckets `members` and `members_removed` (etcd's JSON) and take them away.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

from ratifyd.errors import (
    MemberExist,
    MemberNotFound,
    MemberNotLearner,
    PeerURLExist,
    TooManyLearners,
)
from ratifyd.version import minor_of


class ChangeKind(IntEnum):
    """raftpb.ConfChangeType."""

    ADD_NODE = 0
    REMOVE_NODE = 1
    UPDATE_NODE = 2
    ADD_LEARNER = 3


@dataclass(frozen=True, slots=True)
class Member:
    """One member. It has started once it has published a name."""

    id: int
    peer_urls: tuple[str, ...]
    name: str = ""
    client_urls: tuple[str, ...] = ()
    is_learner: bool = False

    def to_json(self) -> bytes:
        """The value of bucket `members` and the context of a conf change (etcd membership.Member)."""
        fields: dict[str, object] = {"id": self.id, "peerURLs": list(self.peer_urls)}
        if self.is_learner:
            fields["isLearner"] = True
        if self.name:
            fields["name"] = self.name
        if self.client_urls:
            fields["clientURLs"] = list(self.client_urls)
        return json.dumps(fields, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Member":
        """Read a member record. Raises ValueError when it is not one."""
        return cls.from_fields(read_object(data))

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> "Member":
        """As `from_json`, of a record that is an object already."""
        member, name = fields.get("id"), fields.get("name") or ""
        if type(member) is not int or not 0 <= member < 1 << 64 or not isinstance(name, str):
            raise ValueError(f"not a member record: {fields!r:.100}")
        name.encode()  # as in `_texts`
        return cls(
            id=member,
            peer_urls=_texts(fields, "peerURLs"),
            name=name,
            client_urls=_texts(fields, "clientURLs"),
            is_learner=fields.get("isLearner") is True,
        )


@dataclass(frozen=True, slots=True)
class Change:
    """A membership change as a log entry carries it (raftpb.ConfChange and its JSON context, formats 6.7)."""

    kind: ChangeKind
    member: Member
    is_promote: bool = False

    @classmethod
    def decode(cls, kind: int, node_id: int, context: bytes) -> "Change":
        """Read a conf change entry. Raises ValueError when its context is none, or another member's."""
        if not context:
            return cls(ChangeKind(kind), Member(node_id, ()))
        fields = read_object(context)
        member = Member.from_fields(fields)
        if member.id != node_id:
            raise ValueError(f"a change of member {node_id:x} that speaks of {member.id:x}")
        return cls(ChangeKind(kind), member, fields.get("isPromote") is True)

    def context(self) -> bytes:
        """The JSON that travels with the change; empty for a removal."""
        if self.kind == ChangeKind.REMOVE_NODE:
            return b""
        if self.is_promote:
            return json.dumps(
                {"id": self.member.id, "peerURLs": None, "isPromote": True}, separators=(",", ":")
            ).encode()
        return self.member.to_json()


def read_object(data: bytes) -> dict[str, Any]:
    """A JSON object that another member, or a file, may have made of anything. Raises ValueError."""
    try:
        fields = json.loads(data)
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    if not isinstance(fields, dict):
        raise ValueError(f"not a JSON object: {data[:100]!r}")
    return fields


def _texts(fields: Mapping[str, Any], name: str) -> tuple[str, ...]:
    texts = fields.get(name) or ()
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{name} is no list of texts: {texts!r:.100}")
    "".join(texts).encode()  # JSON can name half of a surrogate pair, which nobody could be told of again
    return tuple(texts)


def member_id(peer_urls: Iterable[str], salt: str, unix_seconds: int | None = None) -> int:
    """Id of a member (formats 8.1): bootstrap salts with the cluster token, a runtime add with the time."""
    text = "".join(sorted(peer_urls)) + salt + ("" if unix_seconds is None else str(unix_seconds))
    return int.from_bytes(hashlib.sha1(text.encode()).digest()[:8], "big")


def cluster_id(member_ids: Iterable[int]) -> int:
    """Id of a cluster, fixed by its first members (formats 8.2)."""
    joined = b"".join(member.to_bytes(8, "big") for member in sorted(member_ids))
    return int.from_bytes(hashlib.sha1(joined).digest()[:8], "big")


def hex_id(value: int) -> str:
    """Text form of member and cluster ids in logs, URLs and backend keys."""
    return format(value, "x")


class Membership:
    """The members as the log has them."""

    __slots__ = (
        "cluster_id",
        "cluster_version",
        "downgrade_target",
        "local_id",
        "max_learners",
        "members",
        "removed",
    )

    def __init__(self, local_id: int, cluster: int, max_learners: int = 1) -> None:
        self.local_id = local_id
        self.cluster_id = cluster
        self.max_learners = max_learners
        self.members: dict[int, Member] = {}
        self.removed: dict[int, None] = {}
        self.cluster_version = ""
        self.downgrade_target = ""
        """Version a downgrade under way leads to; "" when there is none."""

    def restore(
        self,
        members: Iterable[tuple[bytes, bytes]],
        removed: Iterable[tuple[bytes, bytes]],
        cluster_version: bytes | None,
        downgrade: bytes | None = None,
    ) -> None:
        """Take the rows of the backend. Raises ValueError for those that are damaged."""
        self.members = {}
        for _, value in members:
            member = Member.from_json(value)
            self.members[member.id] = member
        self.removed = {int(key, 16): None for key, _ in removed}
        self.cluster_version = (cluster_version or b"").decode()
        if self.cluster_version:
            minor_of(self.cluster_version)
        self.set_downgrade(downgrade or b"")

    def set_downgrade(self, record: bytes) -> None:
        """Take the record of bucket `cluster` that says whether a downgrade is under way; empty for none.

        Raises ValueError for a target that is no version.
        """
        fields = json.loads(record) if record else {}
        target = fields.get("target-version", "") if fields.get("enabled") else ""
        if not isinstance(target, str):
            raise ValueError(f"not a version: {target!r:.100}")
        if target:
            minor_of(target)
        self.downgrade_target = target

    def take_over(self, other: "Membership") -> None:
        """Become equal to a membership restored from another backend."""
        self.members = other.members
        self.removed = other.removed
        self.cluster_version = other.cluster_version
        self.downgrade_target = other.downgrade_target

    def sorted(self) -> list[Member]:
        """All members by id."""
        return [self.members[key] for key in sorted(self.members)]

    @property
    def local(self) -> Member | None:
        """This member, once the log has added it."""
        return self.members.get(self.local_id)

    @property
    def voters(self) -> list[Member]:
        """All members that are no learners, by id."""
        return [member for member in self.sorted() if not member.is_learner]

    def may_add_voter(self) -> bool:
        """Whether, with one more voter that has yet to start, those that have started still are a quorum."""
        voters = self.voters
        started = _started(voters)
        # A cluster of one must be able to grow, even if it is without a quorum until the second one has started.
        return (started == 1 and len(voters) == 1) or started >= _quorum(len(voters) + 1)

    def may_remove_voter(self, member: int) -> bool:
        """Whether, without this voter, those of the others that have started are a quorum."""
        others = [voter for voter in self.voters if voter.id != member]
        return _started(others) >= _quorum(len(others))

    def may_promote(self) -> bool:
        """Whether, with a learner turned voter (it counts as started), those that have started are a quorum."""
        voters = self.voters
        return _started(voters) + 1 >= _quorum(len(voters) + 1)

    def check(self, change: Change) -> None:
        """Refuse what is illegal: MemberNotFound, MemberExist, PeerURLExist, MemberNotLearner, TooManyLearners."""
        member = change.member
        if member.id in self.removed:
            raise MemberNotFound
        if change.kind in (ChangeKind.ADD_NODE, ChangeKind.ADD_LEARNER):
            self._check_add(change)
        elif member.id not in self.members:
            raise MemberNotFound
        elif change.kind == ChangeKind.UPDATE_NODE:
            self._check_urls(member.peer_urls, but=member.id)

    def _check_add(self, change: Change) -> None:
        member = change.member
        if change.is_promote:
            known = self.members.get(member.id)
            if known is None:
                raise MemberNotFound
            if not known.is_learner:
                raise MemberNotLearner
            return
        if member.id in self.members:
            raise MemberExist
        self._check_urls(member.peer_urls)
        if (
            change.kind == ChangeKind.ADD_LEARNER
            and sum(m.is_learner for m in self.members.values()) >= self.max_learners
        ):
            raise TooManyLearners

    def _check_urls(self, urls: Sequence[str], but: int = 0) -> None:
        taken = {url for member in self.members.values() if member.id != but for url in member.peer_urls}
        if taken.intersection(urls):
            raise PeerURLExist

    def apply(self, change: Change) -> None:
        """Carry out a change that `check` let pass."""
        member = change.member
        if change.kind == ChangeKind.REMOVE_NODE:
            self.members.pop(member.id, None)
            self.removed[member.id] = None
        elif change.is_promote:
            self.members[member.id] = replace(self.members[member.id], is_learner=False)
        elif change.kind == ChangeKind.UPDATE_NODE:
            self.members[member.id] = replace(self.members[member.id], peer_urls=member.peer_urls)
        else:
            learner = change.kind == ChangeKind.ADD_LEARNER
            self.members[member.id] = replace(member, is_learner=learner, peer_urls=tuple(sorted(member.peer_urls)))

    def set_attributes(self, member: int, name: str, client_urls: Iterable[str]) -> bool:
        """Take what a member published about itself; False when it is not (or no longer) a member."""
        known = self.members.get(member)
        if known is None:
            return False
        self.members[member] = replace(known, name=name, client_urls=tuple(client_urls))
        return True


def _started(members: Iterable[Member]) -> int:
    return sum(bool(member.name) for member in members)


def _quorum(count: int) -> int:
    return count // 2 + 1
