"""Renewing leases and looking at them on any member: the leader's clock answers, the others ask it.

Semantics 8.6, 8.9.
"""

from collections.abc import Callable

from google.protobuf.message import DecodeError

from ratifyd.errors import EtcdError, LeaderChanged, NotPrimaryLessor, TimeoutWaitAppliedIndex
from ratifyd.lease import MAX_TTL_S, LeaseBook
from ratifyd.ports import Clock
from ratifyd.proto.lease_pb2 import LeaseInternalRequest, LeaseInternalResponse
from ratifyd.proto.rpc_pb2 import (
    LeaseKeepAliveRequest,
    LeaseKeepAliveResponse,
    LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
)
from ratifyd.server.leader import Leadership
from ratifyd.server.leasing import Leasing

APPLY_TIMEOUT_S = 1.0
"""How long an answer about leases may wait for the state to catch up with the log (etcd applyTimeout)."""
LEASES_PATH = "/leases"
LEASES_INTERNAL_PATH = "/leases/internal"

TtlAnswer = Callable[[int, EtcdError | None], None]
"""Gets a TTL in seconds, 0 when there is no such lease, or the error."""
LookupAnswer = Callable[[LeaseTimeToLiveResponse | None, EtcdError | None], None]
"""Gets what is known of a lease, or the error."""
Ask = Callable[[Callable[[bool], None]], None]
Check = Callable[[int], None]
"""Raises EtcdError when whoever asks may not renew a lease."""


class LeaseService:
    """Leases as the API sees them. `confirm` makes sure of leadership, `caught_up` of the state, each within limits."""

    __slots__ = ("_book", "_caught_up", "_clock", "_confirm", "_leadership", "_leasing")

    def __init__(
        self,
        clock: Clock,
        book: LeaseBook,
        leasing: Leasing,
        leadership: Leadership,
        *,
        confirm: Ask,
        caught_up: Ask,
    ) -> None:
        self._clock = clock
        self._book = book
        self._leasing = leasing
        self._leadership = leadership
        self._confirm = confirm
        self._caught_up = caught_up

    # --- for clients -----------------------------------------------------------------------------------------------

    def renew(self, lease_id: int, answer: TtlAnswer, check: Check) -> None:
        """Start a lease's time afresh, here or on the leader."""
        if not self._leadership.is_ours:
            self._forward_renewal(lease_id, answer, check)
            return

        def renewed(ttl: int | None) -> None:
            if ttl is None:
                self._forward_renewal(lease_id, answer, check)  # another member leads by now
            else:
                answer(ttl, None)

        def caught_up(in_time: bool) -> None:
            if not in_time:
                answer(0, TimeoutWaitAppliedIndex())
                return
            try:
                check(lease_id)
            except EtcdError as refused:
                answer(0, refused)
            else:
                self._leasing.renew(lease_id, self._clock.time(), renewed)

        def confirmed(leading: bool) -> None:
            if not leading:
                answer(0, NotPrimaryLessor())
            elif lease_id in self._book.leases:
                caught_up(True)  # what is yet to be applied was asked for by clients, at the same time
            else:
                self._caught_up(caught_up)

        self._confirm(confirmed)

    def time_to_live(self, lease_id: int, keys: bool, answer: LookupAnswer) -> None:
        """What is left of a lease; TTL -1 when there is none."""
        if not self._leadership.is_ours:
            self._forward_lookup(lease_id, keys, answer)
            return

        def caught_up(in_time: bool) -> None:
            if not in_time:
                answer(None, TimeoutWaitAppliedIndex())
            elif not self._leasing.is_primary:
                answer(None, LeaderChanged())
            else:
                answer(self.lookup_here(lease_id, keys) or _unknown(lease_id), None)

        self._confirm(lambda leading: self._caught_up(caught_up) if leading else answer(None, LeaderChanged()))

    # --- for other members -----------------------------------------------------------------------------------------

    def renew_here(self, lease_id: int, answer: Callable[[int | None, bool], None]) -> None:
        """Renew as the leader for another member; (TTL or None when we do not lead, the state caught up in time)."""

        def caught_up(in_time: bool) -> None:
            if in_time:
                self._leasing.renew(lease_id, self._clock.time(), lambda ttl: answer(ttl, True))
            else:
                answer(None, False)

        def confirmed(leading: bool) -> None:
            if leading:
                self._caught_up(caught_up)
            else:
                answer(None, True)

        self._confirm(confirmed)

    def lookup_here(self, lease_id: int, keys: bool) -> LeaseTimeToLiveResponse | None:
        """What this member's clock says; None when there is no such lease."""
        lease = self._book.leases.get(lease_id)
        if lease is None:
            return None
        response = LeaseTimeToLiveResponse(ID=lease_id, grantedTTL=lease.ttl_s)
        # A checkpoint of a broken member may say any int64, and time added to that is more than one.
        response.TTL = int(min(self._leasing.remaining_s(lease, self._clock.time()), MAX_TTL_S))
        if keys:
            response.keys.extend(lease.keys)
        return response

    def when_caught_up(self, then: Callable[[bool], None]) -> None:
        """Call `then(in time)` when all that is committed now is applied."""
        self._caught_up(then)

    # --- asking the leader -----------------------------------------------------------------------------------------

    def _forward_renewal(self, lease_id: int, answer: TtlAnswer, check: Check) -> None:
        try:
            check(lease_id)
        except EtcdError as refused:
            answer(0, refused)
            return

        def taken(status: int, body: bytes) -> bool:
            if status == 404:
                answer(0, None)
                return True
            if status != 200:
                return False
            try:
                response = LeaseKeepAliveResponse.FromString(body)
            except DecodeError:
                return False
            if lease_id != response.ID:
                return False
            answer(response.TTL, None)
            return True

        request = LeaseKeepAliveRequest(ID=lease_id).SerializeToString()
        self._leadership.ask(LEASES_PATH, request, taken, lambda error: answer(0, error))

    def _forward_lookup(self, lease_id: int, keys: bool, answer: LookupAnswer) -> None:
        def taken(status: int, body: bytes) -> bool:
            if status == 404:
                answer(_unknown(lease_id), None)
                return True
            if status != 200:
                return False
            try:
                response = LeaseInternalResponse.FromString(body).LeaseTimeToLiveResponse
            except DecodeError:
                return False
            if lease_id != response.ID:
                return False
            response.ClearField("header")
            answer(response, None)
            return True

        request = LeaseInternalRequest(LeaseTimeToLiveRequest=LeaseTimeToLiveRequest(ID=lease_id, keys=keys))
        body = request.SerializeToString()
        self._leadership.ask(LEASES_INTERNAL_PATH, body, taken, lambda error: answer(None, error))


def _unknown(lease_id: int) -> LeaseTimeToLiveResponse:
    return LeaseTimeToLiveResponse(ID=lease_id, TTL=-1)
