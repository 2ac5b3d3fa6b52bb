"""What a member tells the cluster about itself, and the version the leader settles for everyone.

Both are proposals that are repeated until they are applied: a member serves clients only after its own name stands in
the log (semantics 15.15, 16.2). A cluster that may hold members of 3.5 is told in the form those understand.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from ratifyd.apply.entries import Answer
from ratifyd.apply.requests import (
    CLUSTER_MEMBER_ATTR_SET,
    CLUSTER_VERSION_SET,
    DOWNGRADE_INFO_SET,
    Row,
    encode_v2_attributes,
    encode_v2_version,
)
from ratifyd.errors import EtcdError
from ratifyd.membership import Membership, hex_id, read_object
from ratifyd.ports import PeerCalls
from ratifyd.proto.membership_pb2 import (
    Attributes,
    ClusterMemberAttrSetRequest,
    ClusterVersionSetRequest,
    DowngradeInfoSetRequest,
)
from ratifyd.version import CLUSTER_VERSION, ETCD_VERSION, MIN_CLUSTER_VERSION, minor_of

VERSION_PERIOD_S = 4.0
"""How often the leader looks whether the cluster version may rise (etcd monitorVersionInterval)."""
CALL_TIMEOUT_S = 2.0
"""How long a member may take to tell its version."""
FIRST_OWN_FORM = (3, 6)
"""First cluster version whose members need no v2 requests."""


class Proposer(Protocol):
    """Where proposals go."""

    def propose(self, row: Row, body: bytes, answer: Answer) -> None: ...

    def propose_encoded(self, encode: Callable[[int], bytes], answer: Answer) -> None: ...


class Publisher:
    """Publishes this member's name and client URLs until the log has them."""

    __slots__ = ("_client_urls", "_members", "_name", "_proposer", "_under_way", "done", "on_done")

    def __init__(
        self,
        members: Membership,
        name: str,
        client_urls: Sequence[str],
        proposer: Proposer,
        on_done: Callable[[], None],
    ) -> None:
        self._members = members
        self._name = name
        self._client_urls = client_urls
        self._proposer = proposer
        self._under_way = False
        self.done = False
        self.on_done = on_done

    def tick(self, now: float) -> None:
        """Propose, unless an attempt is under way."""
        if self.done or self._under_way:
            return
        self._under_way = True
        members = self._members
        version = members.cluster_version
        if minor_of(version) < FIRST_OWN_FORM if version else len(members.members) > 1:
            member = hex_id(members.local_id)
            self._proposer.propose_encoded(
                lambda request_id: encode_v2_attributes(request_id, member, self._name, self._client_urls),
                self._answered,
            )
            return
        attributes = Attributes(name=self._name, client_urls=self._client_urls)
        request = ClusterMemberAttrSetRequest(member_ID=members.local_id, member_attributes=attributes)
        self._proposer.propose(CLUSTER_MEMBER_ATTR_SET, request.SerializeToString(), self._answered)

    def _answered(self, _body: bytes, error: EtcdError | None) -> None:
        self._under_way = False
        if error is None:
            self.done = True
            self.on_done()


class VersionMonitor:
    """The leader's duty to decide the cluster version: first at once, later only upwards, downwards when an
    administrator wants a downgrade (semantics 11.13, 11.14)."""

    __slots__ = ("_calls", "_found", "_members", "_next", "_proposer", "_under_way", "_wanted")

    def __init__(self, members: Membership, calls: PeerCalls, proposer: Proposer) -> None:
        self._members = members
        self._calls = calls
        self._proposer = proposer
        self._next = 0.0
        self._under_way = False
        self._found: list[tuple[int, int] | None] = []
        self._wanted = 0

    def hurry(self) -> None:
        """Look at the next tick: something has changed."""
        self._next = 0.0

    def tick(self, now: float) -> None:
        """Ask the members for their versions when the cluster's may have to change."""
        if now < self._next or self._under_way:
            return
        self._next = now + VERSION_PERIOD_S
        members = self._members
        if members.cluster_version == CLUSTER_VERSION and not members.downgrade_target:
            return
        others = [member for member in members.sorted() if member.id != members.local_id]
        self._under_way = True
        self._found = [minor_of(ETCD_VERSION)]
        self._wanted = len(others) + 1
        if not others:
            self._decide()
        for member in others:
            self._calls.call(member.peer_urls, "GET", "/version", b"", CALL_TIMEOUT_S, self._told)

    def _told(self, status: int, body: bytes) -> None:
        self._found.append(version_told(body, "etcdserver") if status == 200 else None)
        if len(self._found) == self._wanted:
            self._decide()

    def _decide(self) -> None:
        """Settle the version now that every member was asked; None among the answers stands for a silent one."""
        self._under_way = False
        members = self._members
        known = [version for version in self._found if version is not None]
        lowest = min(known) if len(known) == len(self._found) else None
        current, target = members.cluster_version, members.downgrade_target
        if not current:
            self._set(MIN_CLUSTER_VERSION if lowest is None else _text(lowest))
        elif target:
            if target != current:
                self._set(target)
            elif minor_of(target) in known:
                # From now on that member keeps the version down. etcd waits for all to have it, and refuses members of
                # that version until then.
                request = DowngradeInfoSetRequest(enabled=False)
                self._proposer.propose(DOWNGRADE_INFO_SET, request.SerializeToString(), _ignore)
        elif lowest is not None and minor_of(current) < lowest:
            self._set(_text(lowest))

    def _set(self, version: str) -> None:
        if minor_of(version) < FIRST_OWN_FORM:
            self._proposer.propose_encoded(lambda request_id: encode_v2_version(request_id, version), _ignore)
        else:
            body = ClusterVersionSetRequest(ver=version).SerializeToString()
            self._proposer.propose(CLUSTER_VERSION_SET, body, _ignore)


def version_told(body: bytes, name: str) -> tuple[int, int] | None:
    """Major and minor number under this name in what another member answers on /version; None unless there is one."""
    try:
        version = read_object(body).get(name)
        found = minor_of(version) if isinstance(version, str) else None
    except ValueError:
        return None
    return found if found is not None and min(found) >= 0 else None


def _text(minor: tuple[int, int]) -> str:
    return f"{minor[0]}.{minor[1]}.0"


def _ignore(_body: bytes, _error: EtcdError | None) -> None:
    """What was not settled this time is settled the next."""
