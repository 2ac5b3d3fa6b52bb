"""Watch guarantees: ordered, unique, reliable, atomic, resumable, bookmarkable (etcd's API guarantees)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ratifyd.proto.kv_pb2 import Event
from ratifyd.proto.rpc_pb2 import WatchCreateRequest
from simulation.checkers import Violation
from simulation.history import WatchRecord
from simulation.model import Change, Model

if TYPE_CHECKING:
    from simulation.world import World

NAME = "watch"


class WatchChecker:
    """Compares what each watcher saw with the events of its keys, from its first revision on."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def finish(self, world: World) -> None:
        """Check all watchers; those that still run must have seen everything."""
        for record in world.history.watches:
            told = self.check(record)
            if record.live and record.created >= 0 and told < self._last(record):
                text = f"the cluster is healthy, but events up to {self._last(record)} are missing after {told}: "
                raise Violation(NAME, text + _about(record))

    def check(self, record: WatchRecord) -> int:
        """Check a watcher; the last revision it knows everything up to."""
        if record.created < 0:
            return 0
        first = record.request.start_revision or record.created + 1
        position = first - 1
        for number, (kind, revision, events) in enumerate(record.items):
            if kind == "events":
                floor = record.floors.get(number, self._model.compacted)
                position = self._check_events(record, floor, position, events)
            elif kind == "progress":
                self._check_progress(record, first, position, revision)
                position = max(position, revision)
            elif revision <= position + 1 and not revision > first:
                raise Violation(NAME, f"canceled for a compaction at {revision}, being at {position}: {_about(record)}")
        return position

    def _check_events(self, record: WatchRecord, floor: int, position: int, events: list[Any]) -> int:
        last = events[-1].kv.mod_revision
        if events[0].kv.mod_revision <= position:
            text = f"revision {events[0].kv.mod_revision} comes again or late, after {position}: {_about(record)}"
            raise Violation(NAME, text)
        expected = [
            (revision, change) for revision, changes in self._events(record, position + 1, last) for change in changes
        ]
        if len(events) != len(expected):
            wanted = [(revision, change.version.key) for revision, change in expected]
            found = [(event.kv.mod_revision, event.kv.key) for event in events]
            raise Violation(NAME, f"after {position}: expected {wanted}, found {found}: {_about(record)}")
        for event, (revision, change) in zip(events, expected):
            self._check_event(record, event, revision, change, floor)
        return int(last)

    def _check_event(self, record: WatchRecord, event: Any, revision: int, change: Change, floor: int) -> None:
        version = change.version
        kind = Event.PUT if version.version else Event.DELETE
        if event.type != kind or event.kv != version.kv():
            raise Violation(NAME, f"event {event} instead of {version}: {_about(record)}")
        if event.HasField("prev_kv"):
            if not record.request.prev_kv or change.before is None or event.prev_kv != change.before.kv():
                raise Violation(NAME, f"previous value in {event} instead of {change.before}: {_about(record)}")
        elif record.request.prev_kv and change.before is not None and revision - 1 >= floor:
            raise Violation(NAME, f"no previous value in {event} instead of {change.before}: {_about(record)}")

    def _check_progress(self, record: WatchRecord, first: int, position: int, revision: int) -> None:
        """A bookmark says that everything up to it was told."""
        if revision < first - 1:
            raise Violation(NAME, f"progress {revision} before the watcher begins at {first}: {_about(record)}")
        missed = self._events(record, position + 1, revision)
        if missed:
            raise Violation(NAME, f"progress {revision}, but {missed[0]} was not told: {_about(record)}")

    def _events(self, record: WatchRecord, first: int, last: int) -> list[tuple[int, list[Change]]]:
        """Events by revision that a watcher wants."""
        request = record.request
        found = self._model.events(request.key, request.range_end, first, last)
        unwanted = {each == WatchCreateRequest.NOPUT for each in request.filters}
        if not unwanted:
            return found
        left = [(at, [each for each in changes if bool(each.version.version) not in unwanted]) for at, changes in found]
        return [(at, changes) for at, changes in left if changes]

    def _last(self, record: WatchRecord) -> int:
        first = record.request.start_revision or record.created + 1
        found = self._events(record, first, self._model.revision)
        return found[-1][0] if found else 0


def _about(record: WatchRecord) -> str:
    request = str(record.request).replace("\n", " ")
    return f"{record.client} on member {record.member}, created at {record.created}, {request}"
