"""What every watcher must have seen by now: watchers as the answers describe them, expectations from the event log.

Each side's own watcher on all keys gives the log. A watcher's expected events are the log filtered by its range, its
start and its filters, so a lost, doubled, reordered or late event shows up even if both sides lose the same one.
"""

from dataclasses import dataclass, field
from functools import partial

from differential.compare import differences
from differential.sides import Side
from ratifyd.proto import kv_pb2, rpc_pb2

_Filter = rpc_pb2.WatchCreateRequest.FilterType


@dataclass(slots=True)
class Watcher:
    """A watcher. `cursor` counts the log events already looked at, `expected` those that must come.

    `compacted`: its start is compacted, so its cancellation must come; `ended`: it came. The id stays taken in etcd.
    `synced`: it is known to have caught up with the past.
    """

    stream: int
    watch_id: int
    key: bytes
    range_end: bytes
    start_revision: int
    filters: frozenset[int]
    fragment: bool
    compacted: bool
    synced: bool
    ended: bool = False
    cursor: int = 0
    expected: list[kv_pb2.Event] = field(default_factory=list)

    def wants(self, event: kv_pb2.Event) -> bool:
        key = event.kv.key
        if event.kv.mod_revision < self.start_revision:
            return False
        if (_Filter.NODELETE if event.type == kv_pb2.Event.DELETE else _Filter.NOPUT) in self.filters:
            return False
        if not self.range_end:
            return bool(key == self.key)
        return bool(self.key <= key) and (self.range_end == b"\0" or bool(key < self.range_end))


def _reached(side: Side, revision: int) -> bool:
    return side.log_revision >= revision


def watcher_from(
    stream: int, create: rpc_pb2.WatchCreateRequest, created: rpc_pb2.WatchResponse, compacted: int
) -> Watcher:
    """The watcher that a creation answered with `created` made, when `compacted` was the compacted revision."""
    start = create.start_revision or created.header.revision + 1
    return Watcher(
        stream=stream,
        watch_id=created.watch_id,
        key=create.key or b"\0",
        range_end=create.range_end,
        start_revision=start,
        filters=frozenset(create.filters),
        fragment=create.fragment,
        compacted=start < compacted,
        synced=start > created.header.revision,
    )


class Watching:
    """All live watchers of both sides, and the checks on what they received."""

    def __init__(self, left: Side, right: Side) -> None:
        self._sides = (left, right)
        self._watchers: dict[tuple[int, int], Watcher] = {}
        self._log_compared = 0

    def watchers(self, stream: int | None = None) -> list[Watcher]:
        """Live watchers, of one stream or of all."""
        return [each for each in self._watchers.values() if stream is None or each.stream == stream]

    def find(self, stream: int, watch_id: int) -> Watcher | None:
        return self._watchers.get((stream, watch_id))

    def add(self, watcher: Watcher) -> None:
        self._watchers[watcher.stream, watcher.watch_id] = watcher

    def remove(self, watcher: Watcher) -> None:
        del self._watchers[watcher.stream, watcher.watch_id]

    async def settle(self, watchers: list[Watcher], revision: int) -> list[str]:
        """Wait until both sides delivered everything up to `revision` to these watchers; what is wrong with it.

        Raises Silent when something is missing at the deadline.
        """
        for side in self._sides:
            await side.wait(partial(_reached, side, revision), f"events up to revision {revision}")
        problems = self._compare_logs()
        for watcher in watchers:
            self._expect(watcher)
            for side in self._sides:
                await self._arrival(side, watcher)
        for watcher in watchers:
            problems += self._check(watcher)
        return problems

    async def catch_up(self, watchers: list[Watcher]) -> None:
        """Wait until all these watchers follow the present, even those for which the past holds no events.

        A server catches up with all lagging watchers together, so one more whose event must come shows it.
        """
        if all(watcher.synced for watcher in watchers) or not self._sides[0].log:
            return
        for side in self._sides:
            last = side.log[-1].kv
            await side.replay(last.key, last.mod_revision)
        for watcher in watchers:
            watcher.synced = True

    def _compare_logs(self) -> list[str]:
        left, right = (side.log for side in self._sides)
        size = min(len(left), len(right))
        problems: list[str] = []
        for at in range(self._log_compared, size):
            problems += differences(left[at], right[at], f"event {at} of all keys")
        if len(left) != len(right):
            problems.append(f"events of all keys: {len(left)} and {len(right)}")
        self._log_compared = size
        return problems

    def _expect(self, watcher: Watcher) -> None:
        log = self._sides[0].log
        if not watcher.compacted and not watcher.ended:
            watcher.expected += [event for event in log[watcher.cursor :] if watcher.wants(event)]
        watcher.cursor = len(log)

    async def _arrival(self, side: Side, watcher: Watcher) -> None:
        stream = side.watch_stream(watcher.stream)
        wanted, watch_id = len(watcher.expected), watcher.watch_id
        if watcher.compacted:
            await side.wait(lambda: bool(stream.canceled.get(watch_id)), f"cancellation by compaction of {watcher}")
        elif wanted:
            what = f"{wanted} events for {_short(watcher)}"
            await side.wait(lambda: stream.event_counts.get(watch_id, 0) >= wanted, what)

    def _check(self, watcher: Watcher) -> list[str]:
        taken = [side.watch_stream(watcher.stream).take(watcher.watch_id) for side in self._sides]
        events: list[list[kv_pb2.Event]] = []
        problems: list[str] = []
        for side, responses in zip(self._sides, taken):
            problems += [f"{side.name}: {text} for {_short(watcher)}" for text in structure(responses)]
            events.append([event for response in responses for event in response.events])
            problems += self._against_log(side, watcher, events[-1])
        if len(events[0]) == len(events[1]):
            for at, (one, other) in enumerate(zip(*events)):
                problems += differences(one, other, f"event {at} of {_short(watcher)}")
        watcher.expected = []
        if watcher.compacted:
            problems += self.compare_canceled(watcher)
            watcher.compacted, watcher.ended = False, True
        return problems

    def compare_canceled(self, watcher: Watcher) -> list[str]:
        """Take one cancellation of this watcher from each side, which must be there, and compare."""
        left, right = (side.watch_stream(watcher.stream).canceled[watcher.watch_id].pop(0) for side in self._sides)
        return differences(left, right, f"cancellation of {_short(watcher)}")

    def _against_log(self, side: Side, watcher: Watcher, events: list[kv_pb2.Event]) -> list[str]:
        got = [(event.type, event.kv) for event in events]
        wanted = [(event.type, event.kv) for event in watcher.expected]
        if got == wanted:
            return []
        return [f"{side.name}: {_short(watcher)} got {_brief(events)}, expected {_brief(watcher.expected)}"]


def structure(responses: list[rpc_pb2.WatchResponse]) -> list[str]:
    """Breaches of what every sequence of event responses promises, whatever the events are."""
    problems: list[str] = []
    previous = 0
    inside = False
    for response in responses:
        revisions = [event.kv.mod_revision for event in response.events]
        if not revisions:
            problems.append(f"an empty response {response}")
            continue
        if revisions != sorted(revisions):
            problems.append(f"revisions out of order {revisions}")
        if response.header.revision < revisions[-1]:
            problems.append(f"header revision {response.header.revision} is before its event {revisions[-1]}")
        if revisions[0] < previous or (revisions[0] == previous and not inside):
            problems.append(f"revision {revisions[0]} follows {previous} in another response")
        if not response.header.member_id or not response.header.cluster_id:
            problems.append("a header without ids")
        previous, inside = revisions[-1], response.fragment
    if inside:
        problems.append("the last response is a fragment")
    return problems


def _short(watcher: Watcher) -> str:
    return (
        f"watcher {watcher.watch_id} of stream {watcher.stream} on [{watcher.key!r}, {watcher.range_end!r}) "
        f"from {watcher.start_revision} without {sorted(watcher.filters)}"
    )


def _brief(events: list[kv_pb2.Event]) -> str:
    items = [f"{'DELETE' if event.type else 'PUT'} {event.kv.key!r}@{event.kv.mod_revision}" for event in events[:8]]
    return f"{len(events)} events [{', '.join(items)}{', ...' if len(events) > 8 else ''}]"
