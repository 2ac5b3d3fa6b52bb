"""How long things take: noticed in passing, so that what is quick costs next to nothing and what is slow is logged.

An entry is timed by one look at the clock between it and the next. Requests carry the moment they came; they are late
when that is before `late_before`, which moves on whenever the loop may have spent time. Texts, fields and thresholds of
the log lines are etcd's.
"""

import logging
from collections.abc import Callable, Mapping
from math import inf

from google.protobuf.message import DecodeError

from ratifyd import errors
from ratifyd.apply.entries import Outcome
from ratifyd.apply.requests import (
    CLUSTER_MEMBER_ATTR_SET,
    CLUSTER_VERSION_SET,
    COMPACTION,
    DELETE_RANGE,
    DOWNGRADE_INFO_SET,
    PUT,
    ROWS,
    TXN,
    Row,
    v2_request,
)
from ratifyd.config import Config
from ratifyd.config.values import show_duration
from ratifyd.errors import Compacted, EtcdError
from ratifyd.metrics import Metrics
from ratifyd.mvcc.store import Store
from ratifyd.proto import fast, text
from ratifyd.proto.raft_internal_pb2 import InternalRaftRequest
from ratifyd.server.traces import SLOW_S

QUICK_S = 0.0001
"""The lowest bound of the histograms of entries and ranges: what stays below it need not be told apart."""

SAMPLE_FIRST = SAMPLE_EVERY = 100
"""Lines of one kind written in a second, and of those beyond them every how manyth: as etcd has set up zap."""

_INSIDE: Mapping[type[EtcdError], str] = {
    errors.LeaseNotFound: "lease not found",
    errors.LeaseExist: "lease already exists",
    errors.LeaseTTLTooLarge: "too large lease TTL",
    errors.Compacted: "mvcc: required revision has been compacted",
    errors.FutureRev: "mvcc: required revision is a future revision",
    errors.NoSpace: "etcdserver: no space",
    errors.RootUserNotExist: "auth: root user does not exist",
    errors.RootRoleNotExist: "auth: root user does not have root role",
    errors.UserAlreadyExist: "auth: user already exists",
    errors.UserEmpty: "auth: user name is empty",
    errors.UserNotFound: "auth: user not found",
    errors.RoleAlreadyExist: "auth: role already exists",
    errors.RoleNotFound: "auth: role not found",
    errors.RoleEmpty: "auth: role name is empty",
    errors.AuthFailed: "auth: authentication failed, invalid user ID or password",
    errors.PermissionNotGiven: "auth: permission not given",
    errors.PermissionDenied: "auth: permission denied",
    errors.RoleNotGranted: "auth: role is not granted to the user",
    errors.PermissionNotGranted: "auth: permission is not granted to the role",
    errors.AuthNotEnabled: "auth: authentication is not enabled",
    errors.InvalidAuthToken: "auth: invalid auth token",
    errors.InvalidAuthMgmt: "auth: invalid auth management",
    errors.AuthOldRevision: "auth: revision in header is old",
}
"""What etcd calls errors as long as they have not left for a client."""
_WITH_REVISION = (PUT, DELETE_RANGE, TXN, COMPACTION)
_WITH_HEADER = tuple(row for row in ROWS if row.field.startswith(("auth", "lease_")))
_NO_ANSWER = (CLUSTER_VERSION_SET, CLUSTER_MEMBER_ATTR_SET, DOWNGRADE_INFO_SET)

log = logging.getLogger("ratifyd.server")


class Sampler:
    """Picks the lines to be written out of many that say the same: what is slow is slow already."""

    __slots__ = ("_count", "_until")

    def __init__(self) -> None:
        self._count = 0
        self._until = 0.0

    def picks(self, now: float) -> bool:
        """Whether this one is to be written."""
        if now >= self._until:
            self._until = now + 1.0
            self._count = 0
        self._count += 1
        return self._count <= SAMPLE_FIRST or not (self._count - SAMPLE_FIRST) % SAMPLE_EVERY


class Timing:
    """The clock of one member's work, and what is slow by it."""

    __slots__ = (
        "_counts",
        "_gets",
        "_header",
        "_metrics",
        "_ranges_s",
        "_slow_lines",
        "_store",
        "apply_limit_s",
        "call_lines",
        "extensive",
        "late_after_s",
        "late_before",
        "now",
        "quick_s",
        "unary_limit_s",
        "worked_at",
    )

    def __init__(
        self, now: Callable[[], float], config: Config, metrics: Metrics, store: Store, header: Callable[[], bytes]
    ) -> None:
        """`now` must be precise, and on the same scale as the member's clock; `header` makes that of an answer."""
        self.now = now
        self.extensive = config.metrics == "extensive"
        """Whether the time of every call is wanted, not just that of the late ones."""
        self.apply_limit_s = config.warning_apply_duration_s
        self.unary_limit_s = config.warning_unary_request_duration_s
        self.quick_s = min(QUICK_S, self.apply_limit_s)
        """Entries that took less are of no interest one by one."""
        self._metrics = metrics
        self._store = store
        self._counts = store.counts
        self._header = header
        self._gets = 0
        self._ranges_s = 0.0
        self._slow_lines = Sampler()
        self.call_lines = Sampler()
        """Of the lines about calls."""
        self.late_after_s = 0.0
        self.late_before = 0.0
        """A call that came before this moment deserves a look when it is answered."""
        self.worked_at = 0.0
        """When work on what is being answered began: entries applied, reads done after their wait."""
        self.ticked(every_call=False)

    def ticked(self, *, every_call: bool) -> None:
        """Move on; with `every_call`, all calls are late from now on."""
        every_call = every_call or self.extensive
        self.late_after_s = -inf if every_call else min(self.apply_limit_s, self.unary_limit_s, SLOW_S)
        self.move_on()

    def move_on(self) -> float:
        """Look at the clock before answering calls."""
        now = self.now()
        self.late_before = now - self.late_after_s
        return now

    def begin_work(self) -> float:
        """Look at the clock before applying entries, or before reading."""
        self.worked_at = now = self.move_on()
        return now

    # --- entries ---------------------------------------------------------------------------------------------------

    def quick_entries(self, row: Row, count: int, seconds: float) -> None:
        """Count entries of one kind that were applied well, each within `quick_s`."""
        self._metrics.apply_seconds["v3", row.operation, "true"].observe_quick(count, seconds)

    def entry(self, data: bytes, outcome: Outcome, seconds: float) -> Row:
        """Count any other entry, and log it if it was slow or in vain; the kind of which more may be quick."""
        row, error = outcome.row, outcome.error
        success = error is None or isinstance(error, Compacted)
        old = v2_request(data)
        version, operation = ("v3", row.operation) if old is None else ("v2", old.Method)
        self._metrics.apply_seconds[version, operation, "true" if success else "false"].observe(seconds)
        if success and seconds <= self.apply_limit_s:
            return row if old is None else PUT
        request = _entry_text(data)
        response = self._response_text(outcome)
        if seconds > self.apply_limit_s:
            self.slow(seconds, "", lambda: (request, response), error)
        if not success:
            failed = {"took": show_duration(seconds), "request": request, "response": response}
            log.warning("failed to apply request", extra={"fields": failed | _error_field(error)})
        self.begin_work()
        return row if old is None else PUT

    def slow(self, seconds: float, prefix: str, words: Callable[[], tuple[str, str]], error: EtcdError | None) -> None:
        """Count what took longer than --warning-apply-duration, and log it; `words` are the request and its answer."""
        self._metrics.slow_apply_total += 1
        if not self._slow_lines.picks(self.worked_at):
            return
        request, response = words()
        fields = {
            "took": show_duration(seconds),
            "expected-duration": show_duration(self.apply_limit_s),
            "prefix": prefix,
            "request": request,
            "response": response,
        }
        log.warning("apply request took too long", extra={"fields": fields | _error_field(error)})

    def _response_text(self, outcome: Outcome) -> str:
        """The size of the answer as it leaves the state machine: some have no header yet, others a part of it."""
        row = outcome.row
        if outcome.error is not None or row in _NO_ANSWER:
            return ""
        size = len(outcome.body)
        if row in _WITH_REVISION:
            size += len(fast.revision_header(self._store.revision))
        elif row in _WITH_HEADER:
            size += len(self._header())
        return f"size:{size}"

    # --- reads -----------------------------------------------------------------------------------------------------

    def range(self, seconds: float, *, success: bool) -> None:
        """Count a range that was timed on its own."""
        self._counts.ranges += 1
        self._ranges_s += seconds
        self._metrics.range_seconds["true" if success else "false",].observe(seconds)
        if seconds > QUICK_S:
            self.move_on()

    def begin_reads(self) -> float:
        """Reads that have waited together are about to be answered."""
        self._ranges_s = 0.0
        return self.begin_work()

    def end_reads(self, began: float) -> None:
        """They are: each single key among them gets its share of the time."""
        gets = self._counts.gets - self._gets
        if gets:
            self._gets += gets
            share = max(0.0, self.now() - began - self._ranges_s) / gets
            self._metrics.range_seconds["true",].observe_many(gets, share)


def _error_field(error: EtcdError | None) -> dict[str, object]:
    return {} if error is None else {"error": inside(error)}


def inside(error: EtcdError) -> str:
    """What etcd calls an error as long as it has not left for a client."""
    return next((words for kind, words in _INSIDE.items() if isinstance(error, kind)), error.message)


def _entry_text(data: bytes) -> str:
    old = v2_request(data)
    if old is not None:
        return text.compact(old)
    try:
        return text.entry(InternalRaftRequest.FromString(data))
    except DecodeError:  # a transaction as deep as the parser goes is a level too deep inside its entry
        return f"<{len(data)} bytes>"
