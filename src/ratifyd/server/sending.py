"""Sending the state to members that need entries the log no longer has (semantics 14.9).

What is sent is an image of the backend at the last commit; index, term, configuration and membership are read from the
same view, so that they fit it whatever is applied meanwhile.
"""

from ratifyd import schema
from ratifyd.formats.v2 import encode_v2
from ratifyd.membership import Membership
from ratifyd.metrics import Metrics
from ratifyd.ports import Clock
from ratifyd.raft.confstate import decode_conf_state_json
from ratifyd.raft.messages import Snapshot, SnapshotMeta
from ratifyd.server.committer import Committer
from ratifyd.server.parts import Image, Parts
from ratifyd.server.snapshots import membership_of

RELEASE_S = 30.0
"""The log is not cut for so long after a send: its receiver needs what follows (etcd releaseDelayAfterSnapshot)."""


class SnapshotSender:
    """Sends at most one snapshot at a time to each member."""

    __slots__ = (
        "_clock",
        "_committer",
        "_hold_until",
        "_images",
        "_members",
        "_metrics",
        "_raft",
        "_sending",
        "_transport",
    )

    def __init__(self, parts: Parts, committer: Committer, metrics: Metrics) -> None:
        self._clock: Clock = parts.clock
        self._metrics = metrics
        self._committer = committer
        self._images = parts.images
        self._raft = parts.raft
        self._members = parts.state.members
        self._transport = parts.transport
        self._sending: set[int] = set()
        self._hold_until = 0.0

    @property
    def idle(self) -> bool:
        """Whether no member depends on the log as it is now."""
        return not self._sending and self._clock.time() >= self._hold_until

    def send(self, member: int) -> None:
        """Send a snapshot to a member raft wants one for."""
        if member not in self._sending:
            self._sending.add(member)
            self._committer.sync(
                lambda: self._images.prepare(lambda image, error: self._prepared(member, image, error))
            )

    def _prepared(self, member: int, image: Image | None, error: BaseException | None) -> None:
        if error is not None or image is None:
            self._sending.discard(member)
            self._raft.report_snapshot(member, ok=False)
            return
        snapshot = self._describe(image)
        message = self._raft.snapshot_message(member, snapshot)
        if message is None:
            self._sending.discard(member)
            image.close()
            return

        began = self._clock.time()

        def done(ok: bool) -> None:
            self._metrics.backend_snapshot_seconds.observe(self._clock.time() - began)
            image.close()
            self._sending.discard(member)
            self._hold_until = self._clock.time() + RELEASE_S

        self._transport.send_snapshot(message, image.size, image.open, done)

    def _describe(self, image: Image) -> Snapshot:
        view = image.view
        index = schema.decode_u64(view.get(schema.META, schema.CONSISTENT_INDEX) or bytes(8))
        term = schema.decode_u64(view.get(schema.META, schema.TERM) or bytes(8)) or self._raft.log.term(index) or 0
        conf_state = decode_conf_state_json(view.get(schema.META, schema.CONF_STATE) or b"{}")
        members = Membership(self._members.local_id, self._members.cluster_id)
        members.restore(
            view.range(schema.MEMBERS, b"", None),
            view.range(schema.MEMBERS_REMOVED, b"", None),
            view.get(schema.CLUSTER, schema.CLUSTER_VERSION),
        )
        return Snapshot(SnapshotMeta(index, term, conf_state), encode_v2(membership_of(members)))
