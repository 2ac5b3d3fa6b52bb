"""Looking for corruption: members with equal histories have equal hashes (semantics 10.13).

Three checks: once before a member serves, against whoever answers; from time to time by the leader, of everything; and
by the leader, of what compactions have hashed on every member. The first keeps the member from starting, the others
raise the CORRUPT alarm through the log.
"""

import json
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from ratifyd.apply.entries import Answer
from ratifyd.apply.requests import ALARM, Row
from ratifyd.errors import EtcdError
from ratifyd.membership import Membership, hex_id, read_object
from ratifyd.mvcc.hash import KvHash
from ratifyd.mvcc.store import Store
from ratifyd.ports import PeerCalls
from ratifyd.proto.rpc_pb2 import CORRUPT, AlarmRequest
from ratifyd.server.reads import Read
from ratifyd.server.slices import Slices

HASH_PATH = "/members/hashkv"
UNKNOWN_MEMBER = 0
"""Named by the alarm when the members disagree without a majority."""

log = logging.getLogger("ratifyd.server")


class PeerHash(NamedTuple):
    """What another member answers: its hash, None when it has none to tell, and its revision."""

    member: int
    found: KvHash | None
    revision: int = 0
    reason: str = ""


class Cluster(Protocol):
    """What the checks do through raft."""

    def propose(self, row: Row, body: bytes, answer: Answer) -> None: ...

    def read(self, read: Read, argument: object) -> None: ...


class CorruptionChecks:
    """The checks of one member. A period of 0 switches one off."""

    __slots__ = (
        "_calls",
        "_checked_revision",
        "_cluster",
        "_compact_period_s",
        "_compact_under_way",
        "_full_under_way",
        "_members",
        "_next_compact",
        "_next_full",
        "_period_s",
        "_slices",
        "_store",
        "_timeout_s",
    )

    def __init__(
        self,
        store: Store,
        slices: Slices,
        members: Membership,
        calls: PeerCalls,
        cluster: Cluster,
        *,
        timeout_s: float,
        period_s: float,
        compact_period_s: float,
        now: float,
    ) -> None:
        self._store = store
        self._slices = slices
        self._members = members
        self._calls = calls
        self._cluster = cluster
        self._timeout_s = timeout_s
        self._period_s = period_s
        self._compact_period_s = compact_period_s
        self._next_full = now + period_s
        self._next_compact = now + compact_period_s
        self._full_under_way = False
        self._compact_under_way = False
        self._checked_revision = 0

    def tick(self, now: float, *, leading: bool) -> None:
        """Check what is due; only a leader does, and each thing once at a time."""
        if self._period_s > 0 and now >= self._next_full and not self._full_under_way:
            self._next_full = now + self._period_s
            if leading:
                self._full_under_way = True
                _PeriodicCheck(self, self._full_done)
        if self._compact_period_s > 0 and now >= self._next_compact and not self._compact_under_way:
            self._next_compact = now + self._compact_period_s
            if leading:
                self._compact_under_way = True
                self._check_compactions()

    def _full_done(self) -> None:
        self._full_under_way = False

    # --- what the checks share -------------------------------------------------------------------------------------

    @property
    def local_id(self) -> int:
        """This member."""
        return self._members.local_id

    def hash(self, done: Callable[[KvHash | None, EtcdError | None], None]) -> None:
        """The hash of this member at its latest revision."""
        self._slices.run(self._store.hash_kv(0), done)

    def read(self, read: Read) -> None:
        """A linearizable read."""
        self._cluster.read(read, None)

    @property
    def revision(self) -> int:
        """This member's latest revision."""
        return self._store.revision

    def peer_hashes(self, revision: int, done: Callable[[Sequence[PeerHash]], None]) -> None:
        """Ask all other members for their hash at a revision."""
        others = [m for m in self._members.sorted() if m.id != self._members.local_id and m.peer_urls]
        answers: list[PeerHash] = []

        def answered(member: int, status: int, body: bytes) -> None:
            answer = read_peer_hash(member, status, body)
            if answer.found is None:
                log.warning("failed hash kv request", extra={"fields": _asked(member, revision, answer.reason)})
            answers.append(answer)
            if len(answers) == len(others):
                done(sorted(answers))

        if not others:
            done(answers)
        body = json.dumps({"revision": revision}).encode()
        headers = (("X-Etcd-Cluster-ID", hex_id(self._members.cluster_id)),)
        for member in others:
            done_one = partial(answered, member.id)
            self._calls.call(member.peer_urls, "GET", HASH_PATH, body, self._timeout_s, done_one, headers)

    def raise_alarm(self, member: int) -> None:
        """Propose the CORRUPT alarm for a member."""
        request = AlarmRequest(action=AlarmRequest.ACTIVATE, memberID=member, alarm=CORRUPT)
        self._cluster.propose(ALARM, request.SerializeToString(), _ignore)

    # --- before serving --------------------------------------------------------------------------------------------

    def check_initially(self, done: Callable[[str], None]) -> None:
        """Compare with whoever answers; `done` gets "" or why this member must not serve."""
        local = hex_id(self.local_id)
        fields: dict[str, object] = {"local-member-id": local, "timeout": f"{self._timeout_s:g}s"}
        log.info("starting initial corruption check", extra={"fields": fields})

        def hashed(own: KvHash | None, error: EtcdError | None) -> None:
            if own is None:
                done(f"{local} failed to fetch hash ({error.message if error is not None else ''})")
                return
            self.peer_hashes(own.revision, partial(compared, own))

        def compared(own: KvHash, peers: Sequence[PeerHash]) -> None:
            different = [peer for peer in peers if peer.found is not None and peer.found.hash != own.hash]
            mismatched = False
            for peer in different:
                assert peer.found is not None
                same = peer.found.compact_revision == own.compact_revision
                mismatched |= same
                what = "hash" if same else "compact revision"
                message = f"found different {what} values from remote peer"
                log.warning(message, extra={"fields": _compared(local, own, peer)})
            if mismatched:
                done(f"{local} found data inconsistency with peers")
                return
            text = "initial corruption checking passed; no corruption"
            log.info(text, extra={"fields": {"local-member-id": local}})
            done("")

        self.hash(hashed)

    # --- compactions -----------------------------------------------------------------------------------------------

    def _check_compactions(self) -> None:
        """Find the newest compaction that all members have hashed, and compare (etcd CompactHashCheck)."""
        fields = {"local-member-id": hex_id(self.local_id), "timeout": f"{self._timeout_s:g}s"}
        log.info("starting compact hash check", extra={"fields": fields})
        unchecked = [known for known in self._store.compaction_hashes if known.revision > self._checked_revision]
        count = len(unchecked)

        def following() -> None:
            if not unchecked:
                finished(count)
                return
            own = unchecked.pop()
            self.peer_hashes(own.revision, partial(answered, own))

        def answered(own: KvHash, peers: Sequence[PeerHash]) -> None:
            if peers and self._compare_compactions(own, peers):
                finished(count - len(unchecked))
            else:
                following()

        def finished(checked: int) -> None:
            log.info("finished compaction hash check", extra={"fields": {"number-of-hashes-checked": checked}})
            self._compact_under_way = False

        following()

    def _compare_compactions(self, own: KvHash, peers: Sequence[PeerHash]) -> bool:
        """Compare one compaction's hashes; False when some member could not tell, so that an older one may do."""
        groups: dict[int, list[int]] = {own.hash: [self.local_id]}
        for peer in peers:
            if peer.found is not None and peer.found.compact_revision == own.compact_revision:
                groups.setdefault(peer.found.hash, []).append(peer.member)
            else:
                fields = {"number-of-peers": len(peers), "peer-id": hex_id(peer.member), "reason": _skipped(own, peer)}
                log.warning("Skipped peer's hash", extra={"fields": fields})
        if len(groups) == 1:
            return self._consistent(own, checked=len(groups[own.hash]) - 1, peers=len(peers))
        quorum = (len(peers) + 1) // 2 + 1
        majority = next((found for found, members in groups.items() if len(members) >= quorum), None)
        fields = {
            "leader-id": hex_id(self.local_id),
            "leader-revision": own.revision,
            "leader-compact-revision": own.compact_revision,
            "leader-hash": own.hash,
        }
        if majority is None:
            text = "Detected compaction hash mismatch but cannot identify the corrupted members, so intentionally set "
            log.error(f"{text}the memberID as 0", extra={"fields": fields})
            self.raise_alarm(UNKNOWN_MEMBER)
        for found, members in groups.items():
            if found == majority:
                continue
            ids = " ".join(map(hex_id, members))
            different = {**fields, "peer-hash": found, "peer-ids": ids, "quorum-exist": majority is not None}
            log.error("Detected compaction hash mismatch", extra={"fields": different})
            if majority is not None:
                for member in members:
                    self.raise_alarm(member)
        return True

    def _consistent(self, own: KvHash, *, checked: int, peers: int) -> bool:
        fields = {
            "number-of-peers-checked": checked,
            "number-of-peers": peers,
            "revision": own.revision,
            "compactRevision": own.compact_revision,
        }
        if checked < peers:
            text = "skipped revision in compaction hash check; was not able to check all peers"
            log.warning(text, extra={"fields": fields})
            return False
        log.info("successfully checked hash on whole cluster", extra={"fields": fields})
        self._checked_revision = max(self._checked_revision, own.revision)
        return True


class _PeriodicCheck:
    """One comparison of everything: own hash, the others' at that revision, a linearizable read, own hash again."""

    __slots__ = ("_alarmed", "_checks", "_done", "_first", "_peers", "_revision")

    def __init__(self, checks: CorruptionChecks, done: Callable[[], None]) -> None:
        self._checks = checks
        self._done = done
        self._alarmed = False
        self._first: KvHash
        self._peers: Sequence[PeerHash]
        self._revision: int
        checks.hash(self._hashed)

    def _hashed(self, own: KvHash | None, error: EtcdError | None) -> None:
        if own is None:
            self._failed(error)
            return
        self._first = own
        self._checks.peer_hashes(own.revision, self._answered)

    def _answered(self, peers: Sequence[PeerHash]) -> None:
        self._peers = peers
        self._checks.read(self._read)

    def _read(self, _: object, error: EtcdError | None) -> None:
        if error is not None:
            self._failed(error)
            return
        self._revision = self._checks.revision
        self._checks.hash(self._hashed_again)

    def _hashed_again(self, own: KvHash | None, error: EtcdError | None) -> None:
        if own is None:
            self._failed(error)
            return
        first = self._first
        same_place = (own.revision, own.compact_revision) == (first.revision, first.compact_revision)
        if same_place and own.hash != first.hash:
            self._mismatch("found hash mismatch", self._checks.local_id, first, own)
        for peer in self._peers:
            found = peer.found
            if found is None:
                continue
            if peer.revision > self._revision:
                text = "revision from follower must be less than or equal to leader's"
                self._mismatch(text, peer.member, own, found)
            if found.compact_revision > own.compact_revision:
                text = "compact revision from follower must be less than or equal to leader's"
                self._mismatch(text, peer.member, own, found)
            if found.compact_revision == first.compact_revision and found.hash != first.hash:
                self._mismatch("same compact revision then hashes must match", peer.member, first, found)
        checked = sum(peer.found is not None for peer in self._peers)
        log.info("finished peer corruption check", extra={"fields": {"number-of-peers-checked": checked}})
        self._done()

    def _mismatch(self, text: str, member: int, ours: KvHash, theirs: KvHash) -> None:
        """Alarm, the first time."""
        fields = {"peer-id": hex_id(member), "leader": ours._asdict(), "follower": theirs._asdict()}
        log.warning(text, extra={"fields": fields})
        if not self._alarmed:
            self._alarmed = True
            self._checks.raise_alarm(member)

    def _failed(self, error: EtcdError | None) -> None:
        fields = {"error": error.message if error is not None else ""}
        log.warning("failed to check hash KV", extra={"fields": fields})
        self._done()


def read_peer_hash(member: int, status: int, body: bytes) -> PeerHash:
    """Take apart what a member answered on the hash path; Go leaves zeros out."""
    if status != 200:
        return PeerHash(member, None, reason=body.decode("utf-8", "replace").strip() if status else "no response")
    try:
        fields = read_object(body)
        revision = _whole(fields.get("header") or {}, "revision")
        found = KvHash(_whole(fields, "hash"), _whole(fields, "compact_revision"), _whole(fields, "hash_revision"))
    except ValueError:
        return PeerHash(member, None, reason="an answer that is no hash")
    return PeerHash(member, found, revision)


def _whole(fields: object, name: str) -> int:
    value = fields.get(name, 0) if isinstance(fields, dict) else None
    if type(value) is not int:
        raise ValueError(f"{name} is no whole number")
    return value


def _skipped(own: KvHash, peer: PeerHash) -> str:
    if peer.found is None:
        return "no response"
    theirs = peer.found.compact_revision
    return f"the peer's CompactRevision {theirs} doesn't match leader's CompactRevision {own.compact_revision}"


def _asked(member: int, revision: int, reason: str) -> dict[str, object]:
    return {"remote-peer-id": hex_id(member), "requested-revision": revision, "error": reason}


def _compared(local: str, own: KvHash, peer: PeerHash) -> dict[str, object]:
    assert peer.found is not None
    return {
        "local-member-id": local,
        "local-member-revision": own.revision,
        "local-member-compact-revision": own.compact_revision,
        "local-member-hash": own.hash,
        "remote-peer-id": hex_id(peer.member),
        "remote-peer-revision": peer.revision,
        "remote-peer-compact-revision": peer.found.compact_revision,
        "remote-peer-hash": peer.found.hash,
    }


def _ignore(_body: bytes, _error: EtcdError | None) -> None:
    """An alarm that could not be raised is raised by the next check."""
