"""Watch: many watchers on one stream, each with its own id, start, filters and pace (semantics §7).

The hub decides what a watcher is told and in which order; this stream turns it into responses, and refuses more while
the client is slow: the watcher then reads from history when there is room again, and nothing is queued for it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ratifyd.api.calls import MAX_QUEUED_BYTES, Stream
from ratifyd.api.identity import identity_of
from ratifyd.errors import (
    WATCH_COMPACTED,
    WATCH_DUPLICATE_ID,
    WATCH_EMPTY_RANGE,
    AuthOldRevision,
    EtcdError,
    InvalidAuthToken,
    PermissionDenied,
    UserEmpty,
)
from ratifyd.keys import KeyRange
from ratifyd.metrics import GRPC_CODES
from ratifyd.mvcc.watch import Audience, Watcher
from ratifyd.ports import Timer
from ratifyd.proto import fast
from ratifyd.proto.rpc_pb2 import WatchCreateRequest, WatchRequest

_TOLD = (InvalidAuthToken, AuthOldRevision, UserEmpty)
"""Errors a refused watcher is told as they are."""
GRPC_OVERHEAD_BYTES = 512 * 1024
DEFAULT_PROGRESS_S = 600.0
PROGRESS_RETRY_S = 0.05
REFUSED_ID = -1
"""Watch id in answers about no watcher: a refused create, or progress of the whole stream."""


@dataclass(slots=True)
class _Watch:
    """One watcher as its stream knows it."""

    id: int
    field: bytes
    """The id as a response has it."""
    watcher: Watcher | None
    fragment: bool
    progress: bool
    quiet: bool = True
    """Nothing was sent since the last periodic progress."""


def _watch_of(watcher: Watcher) -> _Watch:
    watch = watcher.tag
    assert isinstance(watch, _Watch)
    return watch


class _Alike:
    """Watches that are told the same but for their ids."""

    __slots__ = ("count", "fragment", "id_bytes", "ids", "progress")

    def __init__(self, watches: Iterable[_Watch]) -> None:
        by_length: dict[int, list[bytes]] = {}
        self.progress: list[_Watch] = []
        """Those that want to know of quiet times."""
        self.fragment = False
        self.count = self.id_bytes = 0
        for watch in watches:
            by_length.setdefault(len(watch.field), []).append(watch.field)
            self.count += 1
            self.id_bytes += len(watch.field)
            self.fragment = self.fragment or watch.fragment
            if watch.progress:
                self.progress.append(watch)
        self.ids = list(by_length.values())
        """Their ids as a response has them, those of one length together."""


class WatchStream(Stream):
    """One Watch RPC."""

    failure_label = "watch"
    __slots__ = (
        "_blocked",
        "_current_at",
        "_fragment_bytes",
        "_next_id",
        "_progress_asked",
        "_progress_retry",
        "_progress_timer",
        "_watches",
    )

    def receive(self, message: bytes) -> None:
        """Create or cancel a watcher, or ask for progress."""
        if not hasattr(self, "_watches"):
            self._begin()
        request = WatchRequest.FromString(message)
        kind = request.WhichOneof("request_union")
        if kind == "create_request":
            self._create(request.create_request)
        elif kind == "cancel_request":
            self._cancel(request.cancel_request.watch_id)
        elif kind == "progress_request":
            self._progress_asked = True
            if self._progress_retry is None:
                self._answer_progress()

    def ended(self) -> None:
        """Stop all watchers."""
        if not hasattr(self, "_watches"):
            return
        for watch in self._watches.values():
            self._stop(watch)
        self.server.watch_streams -= 1
        self._watches.clear()
        for timer in (self._progress_timer, self._progress_retry):
            if timer is not None:
                timer.cancel()

    def writable(self) -> None:
        """There is room again: let the watchers that were refused catch up."""
        if hasattr(self, "_watches") and self._blocked and self.queued_bytes < MAX_QUEUED_BYTES:
            for watcher in self._blocked:
                self.server.state.hub.resume(watcher)
            self._blocked.clear()
            self.server.node.wake()

    # --- what the hub tells us -------------------------------------------------------------------------------------

    def offer(self, watcher: Watcher, revision: int, events: list[bytes]) -> bool:
        """Send events, unless the client has too much to read already."""
        if self.queued_bytes > MAX_QUEUED_BYTES:
            self._blocked[watcher] = None
            return False
        watch = watcher.tag
        assert isinstance(watch, _Watch)
        watch.quiet = False
        server = self.server
        server.metrics.mvcc_events_total += len(events)
        header = server.headers.header(revision, server.node.raft.term)
        response = header + watch.field + fast.watch_events(events)
        if watch.fragment and len(events) > 1 and len(response) >= self._fragment_bytes:
            self._send_fragments(header, watch.id, events)
        else:
            self.send(response)
        return True

    def offer_all(self, audience: Audience, revision: int, events: list[bytes]) -> bool:
        """Send events to watchers that want the same, unless there may not be room for all of them.

        Their responses differ in the id alone: header and events are made once, and joined around the ids.
        """
        alike = audience.notes
        if type(alike) is not _Alike:
            alike = audience.notes = _Alike(_watch_of(watcher) for watcher in audience.watchers)
        if alike.fragment and len(events) > 1:
            return False
        server = self.server
        header = server.headers.header(revision, server.node.raft.term)
        body = fast.watch_events(events)
        size = alike.count * (len(header) + len(body)) + alike.id_bytes
        if self.queued_bytes + size > MAX_QUEUED_BYTES:
            return False
        for watch in alike.progress:
            watch.quiet = False
        server.metrics.mvcc_events_total += alike.count * len(events)
        for ids in alike.ids:
            self.send_alike(header, ids, body)
        return True

    def compacted(self, watcher: Watcher, compact_revision: int) -> None:
        """Tell the client that the history it asked for is gone; such an answer carries no revision (semantics 7.7)."""
        watch = _watch_of(watcher)
        self._current_at = 0
        watch.watcher = None  # the id stays taken until the client cancels it, as in etcd
        header = self.server.headers.header(0, self.server.node.raft.term)
        self.send(fast.watch_response(header, watch.id, canceled=True, compact_revision=compact_revision))

    # --- requests --------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._watches: dict[int, _Watch] = {}
        self._blocked: dict[Watcher, None] = {}
        self._next_id = 0
        self._current_at = 0
        """The revision at which all watchers there are were found current: asked again, they need not be looked at."""
        self._progress_asked = False
        self._progress_timer: Timer | None = None
        self._progress_retry: Timer | None = None
        self._fragment_bytes = self.server.config.max_request_bytes + GRPC_OVERHEAD_BYTES
        self.server.watch_streams += 1

    def _create(self, request: WatchCreateRequest) -> None:
        keys = KeyRange.parse(request.key or b"\0", request.range_end)
        reason = self._refusal(request, keys)
        header = self.server.header()
        if reason:
            response = fast.watch_response(header, REFUSED_ID, created=True, canceled=True, cancel_reason=reason)
            self.send(response)
            return
        watch_id = request.watch_id
        if not watch_id:
            while self._next_id in self._watches:
                self._next_id += 1
            watch_id = self._next_id
            self._next_id += 1
        self._current_at = 0
        field = fast.watch_id_field(watch_id)
        watch = self._watches[watch_id] = _Watch(watch_id, field, None, request.fragment, request.progress_notify)
        self.send(fast.watch_response(header, watch_id, created=True))
        filters = request.filters
        watch.watcher = self.server.state.hub.add(
            keys,
            request.start_revision,
            sink=self,
            crowd=self,
            prev_kv=request.prev_kv,
            no_put=WatchCreateRequest.NOPUT in filters,
            no_delete=WatchCreateRequest.NODELETE in filters,
            tag=watch,
        )
        if request.progress_notify and self._progress_timer is None:
            self._schedule_progress()
        self.server.node.wake()

    def _refusal(self, request: WatchCreateRequest, keys: KeyRange) -> str:
        if request.start_revision < 0:
            return WATCH_COMPACTED
        if self.server.auth.enabled and (refusal := self._denial(request.key or b"\0", request.range_end)):
            return refusal
        if keys.is_empty:
            return WATCH_EMPTY_RANGE
        if request.watch_id and request.watch_id in self._watches:
            return WATCH_DUPLICATE_ID
        return ""

    def _denial(self, key: bytes, range_end: bytes) -> str:
        """Why whoever has opened this stream may not read a range, as etcd words it; "" when they may."""
        try:
            self.server.auth.check_range(identity_of(self.server, self.head), key, range_end)
        except EtcdError as error:
            refused = error if isinstance(error, _TOLD) else PermissionDenied()
            return f"rpc error: code = {GRPC_CODES[refused.code]} desc = {refused.message}"
        return ""

    def _cancel(self, watch_id: int) -> None:
        watch = self._watches.pop(watch_id, None)
        if watch is None:
            return
        self._current_at = 0
        self._stop(watch)
        self.send(fast.watch_response(self.server.header(), watch_id, canceled=True))

    def _stop(self, watch: _Watch) -> None:
        """Take a watcher out. The two let go of each other: else their connection would wait for the collector."""
        watcher, watch.watcher = watch.watcher, None
        if watcher is not None:
            self.server.state.hub.remove(watcher)
            self._blocked.pop(watcher, None)

    # --- progress --------------------------------------------------------------------------------------------------

    def _answer_progress(self) -> None:
        """Say how far the whole stream is, once that is true of each of its watchers (semantics 7.17, 7.18)."""
        self._progress_retry = None
        if self.closed or not self._progress_asked:
            return
        hub = self.server.state.hub
        revision = self.server.store.revision
        if revision == self._current_at:
            self._progress_asked = False
            self.send(fast.watch_response(self.server.header(), REFUSED_ID))
            return
        watchers = [watch.watcher for watch in self._watches.values() if watch.watcher is not None]
        if not watchers or any(watcher.next_revision > revision + 1 for watcher in watchers):
            self._progress_asked = False  # a watcher that has yet to begin would resume too early: no answer, as etcd
        elif all(hub.is_current(watcher) for watcher in watchers):
            self._progress_asked = False
            self._current_at = revision
            self.send(fast.watch_response(self.server.header(), REFUSED_ID))
        else:
            self._progress_retry = self.server.clock.call_later(PROGRESS_RETRY_S, self._answer_progress)

    def _schedule_progress(self) -> None:
        interval_s = self.server.config.watch_progress_notify_interval_s or DEFAULT_PROGRESS_S
        spread = self.server.jitter() * interval_s / 10  # streams must not all wake together
        self._progress_timer = self.server.clock.call_later(interval_s + spread, self._notify_progress)

    def _notify_progress(self) -> None:
        if self.closed:
            return
        self._schedule_progress()
        hub = self.server.state.hub
        for watch in self._watches.values():
            if watch.progress:
                if watch.quiet and watch.watcher is not None and hub.is_current(watch.watcher):
                    self.send(fast.watch_response(self.server.header(), watch.id))
                watch.quiet = True

    def _send_fragments(self, header: bytes, watch_id: int, events: list[bytes]) -> None:
        limit = self._fragment_bytes - len(header) - 16
        part: list[bytes] = []
        size = 0
        for event in events:
            if part and size + len(event) + 6 > limit:
                self.send(fast.watch_response(header, watch_id, part, fragment=True))
                part, size = [], 0
            part.append(event)
            size += len(event) + 6
        self.send(fast.watch_response(header, watch_id, part))
