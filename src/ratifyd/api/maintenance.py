"""Maintenance: Alarm, Status, Defragment, Hash, HashKV, MoveLeader, Downgrade (semantics §11)."""

import logging
import re
from collections.abc import Generator
from typing import TypeVar

from ratifyd.api import validate
from ratifyd.api.calls import Call
from ratifyd.api.identity import identity_of, require_admin, require_user
from ratifyd.apply import requests
from ratifyd.apply.alarms import alarm_name
from ratifyd.errors import (
    ClusterVersionUnavailable,
    Code,
    DowngradeInProcess,
    EtcdError,
    InvalidDowngradeTargetVersion,
    NoLeader,
    RequestError,
    RequestTooManyRequests,
    UnknownMethod,
    WrongDowngradeVersionFormat,
)
from ratifyd.mvcc.hash import KvHash
from ratifyd.ports import Undone
from ratifyd.proto.canonical import canonical
from ratifyd.proto.membership_pb2 import DowngradeInfoSetRequest
from ratifyd.proto.rpc_pb2 import (
    AlarmRequest,
    DefragmentRequest,
    DowngradeInfo,
    DowngradeRequest,
    DowngradeResponse,
    HashKVRequest,
    HashKVResponse,
    HashRequest,
    HashResponse,
    MoveLeaderRequest,
    MoveLeaderResponse,
    StatusRequest,
    StatusResponse,
)
from ratifyd.server.quota import DEFAULT_QUOTA_BYTES
from ratifyd.server.server import Server
from ratifyd.version import ETCD_VERSION, minor_of

T = TypeVar("T")
MAX_HASHES = 64
"""Hashes computed at the same time: each holds a view of the backend, and together they hold up the loop."""
_IDENTIFIERS = r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*"
_SUFFIXES = re.compile(rf"([0-9]+\.[0-9]+\.[0-9]+)(?:-(?:{_IDENTIFIERS})?)?(?:\+(?:{_IDENTIFIERS})?)?", re.ASCII)
"""A whole version, with what is said of its build (semver, as coreos/go-semver reads it)."""

log = logging.getLogger("ratifyd.api")


def alarm(server: Server, call: Call) -> None:
    """Maintenance.Alarm: through raft, reading included."""
    request, message = canonical(AlarmRequest, call.message)
    (require_user if request.action == AlarmRequest.GET else require_admin)(server, call.head)
    validate.check_alarm(request)
    server.propose(requests.ALARM, message, call.answer, request, identity_of(server, call.head))


def status(server: Server, call: Call) -> None:
    """Maintenance.Status: what this member knows of itself."""
    StatusRequest.FromString(call.message)
    require_user(server, call.head)
    raft = server.node.raft
    local = server.members.local
    response = StatusResponse(
        version=ETCD_VERSION,
        dbSize=server.backend.size(),
        dbSizeInUse=server.backend.size_in_use(),
        leader=raft.leader_id,
        raftIndex=raft.log.committed,
        raftTerm=raft.term,
        raftAppliedIndex=server.node.applied,
        isLearner=local is not None and local.is_learner,
        storageVersion=server.storage_version,
        dbSizeQuota=server.config.quota_backend_bytes or DEFAULT_QUOTA_BYTES,
        downgradeInfo=DowngradeInfo(
            enabled=bool(server.members.downgrade_target), targetVersion=server.members.downgrade_target
        ),
    )
    if not raft.leader_id:
        response.errors.append(NoLeader.message)
    for member, kind in sorted(server.state.alarms):
        whose = f"memberID:{member} " if member else ""  # 0 stands for nobody in particular
        response.errors.append(f"{whose}alarm:{alarm_name(kind)} ")
    call.reply(server.header() + response.SerializeToString())


def defragment(server: Server, call: Call) -> None:
    """Maintenance.Defragment: rewrites this member's backend file; the answer has no header."""
    DefragmentRequest.FromString(call.message)
    require_admin(server, call.head)
    before, began = server.backend.size(), server.clock.time()
    log.info("starting defragment", extra={"fields": {"db-size-bytes": before}})
    server.health.defrag_started()

    def begin() -> None:
        server.metrics.defrag_inflight += 1
        server.backend.defragment(finished)

    def finished(error: BaseException | None) -> None:
        server.health.defrag_finished()
        server.metrics.defrag_inflight -= 1
        if isinstance(error, Undone):
            log.error("failed to defragment", extra={"fields": {"error": str(error)}})
            call.fail(RequestError.with_text(Code.UNKNOWN, str(error)))
            return
        if error is not None:
            server.fail(error)
            return
        took = server.clock.time() - began
        server.metrics.backend_defrag_seconds.observe(took)
        fields = {"db-size-bytes-before": before, "db-size-bytes-after": server.backend.size(), "took": f"{took:.3f}s"}
        log.info("finished defragment", extra={"fields": fields})
        call.reply(b"")

    server.committer.sync(begin)


def hash_(server: Server, call: Call) -> None:
    """Maintenance.Hash: over the whole backend of this member."""
    began = server.timing.now()

    def answer(value: int) -> None:
        server.metrics.hash_seconds.observe(server.timing.now() - began)
        call.reply(server.header() + HashResponse(hash=value).SerializeToString())

    HashRequest.FromString(call.message)
    require_admin(server, call.head)
    call.run(begin_hash(server, server.store.hash()), answer)


def hash_kv(server: Server, call: Call) -> None:
    """Maintenance.HashKV: over the key space up to a revision; comparable between members."""
    request = HashKVRequest.FromString(call.message)
    require_admin(server, call.head)
    began = server.timing.now()

    def answer(found: KvHash) -> None:
        server.metrics.hash_revision_seconds.observe(server.timing.now() - began)
        response = HashKVResponse(
            hash=found.hash, compact_revision=found.compact_revision, hash_revision=found.revision
        )
        call.reply(server.header() + response.SerializeToString())

    call.run(begin_hash(server, server.store.hash_kv(request.revision)), answer)


def move_leader(server: Server, call: Call) -> None:
    """Maintenance.MoveLeader: only the leader can; answers when the other one leads. The answer has no header."""
    request = MoveLeaderRequest.FromString(call.message)
    require_admin(server, call.head)

    def done(error: EtcdError | None) -> None:
        if error is not None:
            call.fail(error)
        else:
            call.reply(MoveLeaderResponse().SerializeToString())

    server.leadership.transfer(request.targetID, done, timeout_s=call.head.timeout_s)
    server.node.wake()


def downgrade(server: Server, call: Call) -> None:
    """Maintenance.Downgrade: whether the cluster may go down a version, that it shall, or that it shall not."""
    request = DowngradeRequest.FromString(call.message)
    require_admin(server, call.head)
    if request.action not in (DowngradeRequest.VALIDATE, DowngradeRequest.ENABLE, DowngradeRequest.CANCEL):
        raise UnknownMethod
    target = "" if request.action == DowngradeRequest.CANCEL else _cluster_version(request.version)

    def read(_: None, error: EtcdError | None) -> None:
        try:
            if error is not None:
                raise error
            if target:
                _check_downgrade(server, target)
        except EtcdError as refused:
            call.fail(refused)
            return
        if request.action == DowngradeRequest.VALIDATE or not (target or server.members.downgrade_target):
            answered(b"", None)
        else:
            info = DowngradeInfoSetRequest(enabled=bool(target), ver=target)
            server.propose(requests.DOWNGRADE_INFO_SET, info.SerializeToString(), answered)

    def answered(_body: bytes, error: EtcdError | None) -> None:
        version = server.members.cluster_version.rpartition(".")[0]
        call.answer(DowngradeResponse(version=version).SerializeToString(), error)

    server.read(read, None)


def _cluster_version(text: str) -> str:
    """Major and minor of a version given by a user. Raises WrongDowngradeVersionFormat."""
    suffixed = _SUFFIXES.fullmatch(text)
    if suffixed is not None:
        text = suffixed[1]
    parts = text.split(".")
    if len(parts) not in (2, 3) or not all(map(_is_number, parts)):
        raise WrongDowngradeVersionFormat
    return f"{int(parts[0])}.{int(parts[1])}.0"


def _is_number(text: str) -> bool:
    """Whether this is one that semver takes, which counts in int64."""
    return text.isascii() and text.isdigit() and len(text) < 20 and int(text) < 1 << 63


def _check_downgrade(server: Server, target: str) -> None:
    """Raise ClusterVersionUnavailable, InvalidDowngradeTargetVersion or DowngradeInProcess."""
    current = server.members.cluster_version
    if not current:
        raise ClusterVersionUnavailable
    major, minor = minor_of(current)
    if minor_of(target) != (major, minor - 1):
        raise InvalidDowngradeTargetVersion
    if server.members.downgrade_target:
        raise DowngradeInProcess


def begin_hash(server: Server, steps: Generator[int, None, T]) -> Generator[int, None, T]:
    """Count a hash until it is over or given up. Raises RequestTooManyRequests when too many are under way."""
    if server.hashes_running >= MAX_HASHES:
        raise RequestTooManyRequests
    counted = _counted(server, steps)
    next(counted)
    return counted


def _counted(server: Server, steps: Generator[int, None, T]) -> Generator[int, None, T]:
    server.hashes_running += 1
    try:
        yield 0  # begun, so that closing it counts down whatever happens before its first slice
        return (yield from steps)
    finally:
        server.hashes_running -= 1
