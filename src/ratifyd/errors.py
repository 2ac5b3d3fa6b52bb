"""Every error a client can see: one row gives the class to raise, its gRPC code and etcd's exact text.

    EtcdError
      RequestError    the client's own outcome, deterministic; the only kind allowed while applying an entry
      Unavailable     transient: no leader, timed out, stopping; raised by the server and the edge only
      Relayed         any of these, as the lock and election services tell it

Codes and texts are etcd's as they stand on the wire (etcd 3.6 api/v3rpc/rpctypes; two rows are Unknown there because
etcd's server returns its client-side error object).
"""

from enum import IntEnum
from typing import TypeVar

_E = TypeVar("_E", bound="EtcdError")


class Code(IntEnum):
    """gRPC status codes."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class EtcdError(Exception):
    """An outcome with a gRPC status. Rows of the table below are its subclasses; other texts use `with_text`."""

    code: Code = Code.UNKNOWN
    message: str = ""

    def __init__(self) -> None:
        super().__init__(self.message)


class RequestError(EtcdError):
    """The request itself is at fault; every member would answer the same."""

    @classmethod
    def with_text(cls, code: Code, message: str) -> "RequestError":
        """An error whose text is made from the request."""
        return _row(cls, code, message)()


class Relayed(EtcdError):
    """An error under way through the client inside etcd's lock and election services: they pass its text on alone."""

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__()


class Unavailable(EtcdError):
    """This member cannot answer now."""


def _row(base: type[_E], code: Code, message: str) -> type[_E]:
    return type(base.__name__, (base,), {"code": code, "message": message})


def _request_error(code: Code, message: str) -> type[RequestError]:
    return _row(RequestError, code, message)


def _unavailable(code: Code, message: str) -> type[Unavailable]:
    return _row(Unavailable, code, message)


EmptyKey = _request_error(Code.INVALID_ARGUMENT, "etcdserver: key is not provided")
KeyNotFound = _request_error(Code.INVALID_ARGUMENT, "etcdserver: key not found")
ValueProvided = _request_error(Code.INVALID_ARGUMENT, "etcdserver: value is provided")
LeaseProvided = _request_error(Code.INVALID_ARGUMENT, "etcdserver: lease is provided")
TooManyOps = _request_error(Code.INVALID_ARGUMENT, "etcdserver: too many operations in txn request")
DuplicateKey = _request_error(Code.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request")
InvalidClientAPIVersion = _request_error(Code.INVALID_ARGUMENT, "etcdserver: invalid client api version")
InvalidSortOption = _request_error(Code.INVALID_ARGUMENT, "etcdserver: invalid sort option")
Compacted = _request_error(Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")
FutureRev = _request_error(Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision")
NoSpace = _request_error(Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded")
LeaseNotFound = _request_error(Code.NOT_FOUND, "etcdserver: requested lease not found")
LeaseExist = _request_error(Code.FAILED_PRECONDITION, "etcdserver: lease already exists")
LeaseTTLTooLarge = _request_error(Code.OUT_OF_RANGE, "etcdserver: too large lease TTL")
WatchCanceled = _unavailable(Code.CANCELLED, "etcdserver: watch canceled")
MemberExist = _request_error(Code.FAILED_PRECONDITION, "etcdserver: member ID already exist")
PeerURLExist = _request_error(Code.FAILED_PRECONDITION, "etcdserver: Peer URLs already exists")
MemberNotEnoughStarted = _request_error(
    Code.UNKNOWN, "etcdserver: re-configuration failed due to not enough started members"
)
MemberBadURLs = _request_error(Code.INVALID_ARGUMENT, "etcdserver: given member URLs are invalid")
MemberNotFound = _request_error(Code.NOT_FOUND, "etcdserver: member not found")
MemberNotLearner = _request_error(Code.FAILED_PRECONDITION, "etcdserver: can only promote a learner member")
LearnerNotReady = _request_error(
    Code.FAILED_PRECONDITION, "etcdserver: can only promote a learner member which is in sync with leader"
)
TooManyLearners = _request_error(Code.FAILED_PRECONDITION, "etcdserver: too many learner members in cluster")
ClusterIDMismatch = _request_error(Code.FAILED_PRECONDITION, "etcdserver: cluster ID mismatch")
RequestTooLarge = _request_error(Code.INVALID_ARGUMENT, "etcdserver: request is too large")
RequestTooManyRequests = _unavailable(Code.UNKNOWN, "etcdserver: too many requests")
RootUserNotExist = _request_error(Code.FAILED_PRECONDITION, "etcdserver: root user does not exist")
RootRoleNotExist = _request_error(Code.FAILED_PRECONDITION, "etcdserver: root user does not have root role")
UserAlreadyExist = _request_error(Code.FAILED_PRECONDITION, "etcdserver: user name already exists")
UserEmpty = _request_error(Code.INVALID_ARGUMENT, "etcdserver: user name is empty")
UserNotFound = _request_error(Code.FAILED_PRECONDITION, "etcdserver: user name not found")
RoleAlreadyExist = _request_error(Code.FAILED_PRECONDITION, "etcdserver: role name already exists")
RoleNotFound = _request_error(Code.FAILED_PRECONDITION, "etcdserver: role name not found")
RoleEmpty = _request_error(Code.INVALID_ARGUMENT, "etcdserver: role name is empty")
AuthFailed = _request_error(Code.INVALID_ARGUMENT, "etcdserver: authentication failed, invalid user ID or password")
PermissionNotGiven = _request_error(Code.INVALID_ARGUMENT, "etcdserver: permission not given")
PermissionDenied = _request_error(Code.PERMISSION_DENIED, "etcdserver: permission denied")
RoleNotGranted = _request_error(Code.FAILED_PRECONDITION, "etcdserver: role is not granted to the user")
PermissionNotGranted = _request_error(Code.FAILED_PRECONDITION, "etcdserver: permission is not granted to the role")
AuthNotEnabled = _request_error(Code.FAILED_PRECONDITION, "etcdserver: authentication is not enabled")
InvalidAuthToken = _request_error(Code.UNAUTHENTICATED, "etcdserver: invalid auth token")
InvalidAuthMgmt = _request_error(Code.INVALID_ARGUMENT, "etcdserver: invalid auth management")
AuthOldRevision = _request_error(Code.INVALID_ARGUMENT, "etcdserver: revision of auth store is old")
NoLeader = _unavailable(Code.UNAVAILABLE, "etcdserver: no leader")
NotLeader = _request_error(Code.FAILED_PRECONDITION, "etcdserver: not leader")
LeaderChanged = _unavailable(Code.UNAVAILABLE, "etcdserver: leader changed")
NotCapable = _request_error(Code.FAILED_PRECONDITION, "etcdserver: not capable")
Stopped = _unavailable(Code.UNAVAILABLE, "etcdserver: server stopped")
Timeout = _unavailable(Code.UNAVAILABLE, "etcdserver: request timed out")
TimeoutDueToLeaderFail = _unavailable(
    Code.UNAVAILABLE, "etcdserver: request timed out, possibly due to previous leader failure"
)
TimeoutDueToConnectionLost = _unavailable(
    Code.UNAVAILABLE, "etcdserver: request timed out, possibly due to connection lost"
)
TimeoutWaitAppliedIndex = _unavailable(
    Code.UNAVAILABLE, "etcdserver: request timed out, waiting for the applied index took too long"
)
Unhealthy = _unavailable(Code.UNAVAILABLE, "etcdserver: unhealthy cluster")
Corrupt = _request_error(Code.DATA_LOSS, "etcdserver: corrupt cluster")
NotSupportedForLearner = _request_error(Code.FAILED_PRECONDITION, "etcdserver: rpc not supported for learner")
BadLeaderTransferee = _request_error(Code.FAILED_PRECONDITION, "etcdserver: bad leader transferee")
WrongDowngradeVersionFormat = _request_error(Code.INVALID_ARGUMENT, "etcdserver: wrong downgrade target version format")
InvalidDowngradeTargetVersion = _request_error(Code.INVALID_ARGUMENT, "etcdserver: invalid downgrade target version")
ClusterVersionUnavailable = _request_error(
    Code.FAILED_PRECONDITION, "etcdserver: cluster version not found during downgrade"
)
DowngradeInProcess = _request_error(Code.FAILED_PRECONDITION, "etcdserver: cluster has a downgrade job in progress")
NoInflightDowngrade = _request_error(Code.FAILED_PRECONDITION, "etcdserver: no inflight downgrade job")
Canceled = _unavailable(Code.CANCELLED, "etcdserver: request canceled")
DeadlineExceeded = _unavailable(Code.DEADLINE_EXCEEDED, "etcdserver: context deadline exceeded")

# Without a row in etcd's table, but on the wire with these texts.
NoPasswordUser = _request_error(Code.UNKNOWN, "auth: authentication failed, password was given for no password user")
AuthVerifyOnly = _request_error(Code.UNKNOWN, "auth: token signing attempted with verify-only key")
PasswordTooLong = _request_error(Code.UNKNOWN, "bcrypt: password length exceeds 72 bytes")
UnknownMethod = _request_error(Code.UNKNOWN, "etcdserver: unknown method")
NotPrimaryLessor = _request_error(Code.UNKNOWN, "not a primary lessor")
TimeoutLeaderTransfer = _request_error(Code.UNKNOWN, "etcdserver: request timed out, leader transfer took too long")
RangeStreamSort = _request_error(Code.UNIMPLEMENTED, "RangeStream does not support custom sort orders")
RangeStreamFilters = _request_error(Code.UNIMPLEMENTED, "RangeStream does not support revision filters")
NoReflectionQuestion = _request_error(Code.INVALID_ARGUMENT, "invalid MessageRequest: <nil>")
UnknownHealthService = _request_error(Code.NOT_FOUND, "unknown service")
SessionExpired = _request_error(Code.UNKNOWN, "mutex: session is expired")
NotElected = _request_error(Code.UNKNOWN, "election: not leader")
NobodyElected = _request_error(Code.UNKNOWN, "election: no leader")
MissingLeaderKey = _request_error(Code.UNKNOWN, '"leader" field must be provided')
ContextCanceled = _unavailable(Code.CANCELLED, "context canceled")
ContextDeadlineExceeded = _unavailable(Code.DEADLINE_EXCEEDED, "context deadline exceeded")

# In-band reasons of a refused watcher: the stream stays open.
WATCH_EMPTY_RANGE = "mvcc: watcher range is empty"
WATCH_DUPLICATE_ID = "mvcc: duplicate watch ID provided on the WatchStream"
WATCH_COMPACTED = "etcdserver: mvcc: required revision has been compacted"

for _name, _value in list(globals().items()):
    if isinstance(_value, type) and issubclass(_value, EtcdError):
        _value.__name__ = _value.__qualname__ = _name
