"""What a member tells the cluster about itself, and the version the leader settles for everyone.

Both are proposals that are repeated until they are applied: a member serves clients only after its own name stands in
the log (semantics 15.15, 16.2).
"""

from collections.abc import Callable, Sequence

from ratifyd.apply.requests import CLUSTER_MEMBER_ATTR_SET, CLUSTER_VERSION_SET, Row
from ratifyd.errors import EtcdError
from ratifyd.membership import Membership
from ratifyd.proto.membership_pb2 import Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest
from ratifyd.server.proposals import Answer
from ratifyd.version import CLUSTER_VERSION

VERSION_PERIOD_S = 4.0
"""How often the leader looks whether the cluster version may rise (etcd monitorVersionInterval)."""

Propose = Callable[[Row, bytes, Answer], None]


class Publisher:
    """Publishes this member's name and client URLs until the log has them."""

    __slots__ = ("_body", "_propose", "_under_way", "done", "on_done")

    def __init__(
        self, member_id: int, name: str, client_urls: Sequence[str], propose: Propose, on_done: Callable[[], None]
    ) -> None:
        request = ClusterMemberAttrSetRequest(
            member_ID=member_id, member_attributes=Attributes(name=name, client_urls=client_urls)
        )
        self._body = request.SerializeToString()
        self._propose = propose
        self._under_way = False
        self.done = False
        self.on_done = on_done

    def tick(self, now: float) -> None:
        """Propose, unless an attempt is under way."""
        if not self.done and not self._under_way:
            self._under_way = True
            self._propose(CLUSTER_MEMBER_ATTR_SET, self._body, self._answered)

    def _answered(self, _body: bytes, error: EtcdError | None) -> None:
        self._under_way = False
        if error is None:
            self.done = True
            self.on_done()


class VersionMonitor:
    """The leader's duty to decide the cluster version: first at once, later only upwards (semantics 11.14)."""

    __slots__ = ("_members", "_next", "_propose", "_under_way")

    def __init__(self, members: Membership, propose: Propose) -> None:
        self._members = members
        self._propose = propose
        self._next = 0.0
        self._under_way = False

    def tick(self, now: float) -> None:
        """Propose the version when it is undecided or may rise."""
        if now < self._next or self._under_way:
            return
        self._next = now + VERSION_PERIOD_S
        if _order(self._members.cluster_version) < _order(CLUSTER_VERSION):
            self._under_way = True
            body = ClusterVersionSetRequest(ver=CLUSTER_VERSION).SerializeToString()
            self._propose(CLUSTER_VERSION_SET, body, self._answered)

    def _answered(self, _body: bytes, _error: EtcdError | None) -> None:
        self._under_way = False


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")) if version else ()
