"""Matching, sharing and removal in the watch hub; histories are covered by the property tests."""

from pytest import mark

from ratifyd.keys import KeyRange
from ratifyd.mvcc.buffer import WriteBuffer
from ratifyd.mvcc.store import Store
from ratifyd.mvcc.watch import MAX_EVENTS_PER_PASS, WatchHub
from ratifyd.proto.kv_pb2 import Event
from ratifyd.storage.memory import MemoryBackend


class Collector:
    """A sink that remembers offers and may run something inside each."""

    def __init__(self, during=None):
        self.offers = []
        self.cancelled = []
        self.during = during
        self.full = False

    def offer(self, watcher, revision, events):
        if self.during is not None:
            self.during(watcher)
        if self.full:
            return False
        self.offers.append((revision, events))
        return True

    def compacted(self, watcher, compact_revision):
        self.cancelled.append(compact_revision)


class Hall(Collector):
    """A sink that is a crowd too, and remembers what it was offered for how many at once."""

    def __init__(self):
        super().__init__()
        self.together = []
        self.takes_all = True

    def offer_all(self, audience, revision, events):
        if self.takes_all:
            self.together.append((len(audience.watchers), revision, events))
        return self.takes_all


def make():
    class DirectWorker:
        def submit(self, job, done):
            done(job(), None)

    hub = WatchHub()
    return Store(WriteBuffer(MemoryBackend(DirectWorker())), hub), hub


def put(store, *keys):
    with store.write() as txn:
        for key in keys:
            txn.put(key, b"v")


@mark.parametrize(
    ("start", "end", "inside", "outside"),
    [
        (b"a", b"a\0", [b"a"], [b"a\0", b"b"]),
        (b"a", b"b", [b"a", b"a\xff\xff"], [b"b", b"\0"]),
        (b"a\xff", b"b", [b"a\xff", b"a\xffz"], [b"a\xfe", b"a", b"b"]),
        (b"\xff\xff", None, [b"\xff\xff", b"\xff\xff\xff"], [b"\xff", b"\xff\xfe"]),
        (b"\0", None, [b"\0", b"a", b"\xff"], []),
        (b"", None, [b"\0", b"z"], []),
        (b"b", None, [b"b", b"c"], [b"a\xff"]),
        (b"ab", b"ad", [b"ab", b"ac\xff"], [b"ad", b"aa\xff"]),
        (b"", b"b", [b"\0", b"a\xff"], [b"b"]),
        (b"b", b"a", [], [b"a", b"b", b"aa"]),
    ],
)
def test_matching_of_every_kind_of_range(start, end, inside, outside):
    store, hub = make()
    sink = Collector()
    watcher = hub.add(KeyRange(start, end), 0, sink=sink)
    for key in inside:
        put(store, key)
    seen = len(sink.offers)
    assert seen == len(inside)
    for key in outside:
        put(store, key)
    assert len(sink.offers) == seen
    hub.remove(watcher)
    for key in inside:
        put(store, key)
    assert len(sink.offers) == seen and hub.watcher_count == 0


def test_events_of_a_txn_come_together_and_bytes_are_shared():
    store, hub = make()
    sinks = [Collector() for _ in range(5)]
    for sink in sinks:
        hub.add(KeyRange(b"a", b"b"), 0, sink=sink)
    put(store, b"a1", b"b1", b"a2")
    for sink in sinks:
        ((revision, events),) = sink.offers
        assert revision == 2
        assert [Event.FromString(event).kv.key for event in events] == [b"a1", b"a2"]
        assert all(event is first for event, first in zip(events, sinks[0].offers[0][1], strict=True))


def test_many_watchers_on_many_keys_are_found_without_a_scan():
    store, hub = make()
    sinks = [Collector() for _ in range(2000)]
    for number, sink in enumerate(sinks):
        key = b"key%d" % number
        hub.add(KeyRange(key, key + b"\0"), 0, sink=sink)
    assert [len(watchers) for watchers in (hub.synced.match(b"key7"), hub.synced.match(b"nobody"))] == [1, 0]
    put(store, b"key1999")
    assert [number for number, sink in enumerate(sinks) if sink.offers] == [1999]


class CountingKey(bytes):
    """A key that counts what it is compared with."""

    compared = 0

    def _count(self):
        type(self).compared += 1

    def __lt__(self, other):
        self._count()
        return bytes(self) < bytes(other)

    def __le__(self, other):
        self._count()
        return bytes(self) <= bytes(other)

    def __gt__(self, other):
        self._count()
        return bytes(self) > bytes(other)

    def __ge__(self, other):
        self._count()
        return bytes(self) >= bytes(other)


@mark.parametrize("survivors", [1, 50], ids=["all", "every 50th"])
def test_many_watchers_on_ranges_of_any_kind_are_found_without_a_scan(survivors):
    """A range deletion of thousands of keys held the loop for seconds beside ten thousand ranges of other keys."""
    _, hub = make()
    watchers = []
    for number in range(10_000):
        keys = KeyRange(b"key%06d" % (10 * number), b"key%06d" % (10 * number + 5))
        watchers.append(hub.add(keys, 0, sink=Collector()))
    for endless in range(1000):
        hub.add(KeyRange(b"x%06d" % endless, None), 0, sink=Collector())
    kept = watchers[::survivors]
    for watcher in set(watchers) - set(kept):
        hub.remove(watcher)
    for key, found in ((b"a", 0), (b"key050003", 1), (b"key050007", 0), (b"key099999", 0), (b"x", 0), (b"x000001", 2)):
        CountingKey.compared = 0
        assert len(hub.synced.match(CountingKey(key))) == found
        assert CountingKey.compared < 500 * (found + 1)


def test_sinks_may_remove_watchers_during_an_offer():
    store, hub = make()
    watchers = []
    sinks = [Collector(during=lambda watcher: [hub.remove(each) for each in watchers]) for _ in range(3)]
    watchers += [hub.add(KeyRange(b"a", b"b"), 0, sink=sink) for sink in sinks]
    put(store, b"a")
    assert [len(sink.offers) for sink in sinks] == [1, 0, 0]
    assert hub.watcher_count == 0
    # the same while refusing, and while catching up
    for start, full in ((0, True), (1, False), (1, True)):
        watchers[:] = [hub.add(KeyRange(b"a", b"b"), start, sink=sink) for sink in sinks]
        for sink in sinks:
            sink.full = full
        put(store, b"a")
        hub.catch_up()
        assert hub.watcher_count == 0


def test_those_that_want_the_same_are_told_together():
    store, hub = make()
    hall, other = Hall(), Hall()
    keys = KeyRange(b"a", b"b")
    same = [hub.add(keys, 0, sink=hall, crowd=hall) for _ in range(3)]
    hub.add(keys, 0, sink=other, crowd=other)
    hub.add(keys, 0, sink=hall, crowd=hall, prev_kv=True)
    hub.add(keys, 0, sink=hall, crowd=hall, no_delete=True)
    hub.add(keys, 0, sink=hall, crowd=hall, no_put=True)
    hub.add(keys, store.revision + 2, sink=hall, crowd=hall)
    hub.add(KeyRange(b"a", b"a\0"), 0, sink=hall, crowd=hall)
    put(store, b"a")
    assert [count for count, *_ in hall.together] == [3] and len(hall.offers) == 3 and len(other.offers) == 1
    assert not other.together, "one alone is no audience"
    put(store, b"ab")
    assert [count for count, *_ in hall.together] == [3, 3] and len(hall.offers) == 6
    for watcher in same[:2]:
        hub.remove(watcher)
    put(store, b"ab")
    assert len(hall.together) == 2 and len(hall.offers) == 10
    assert [revision for revision, _ in hall.offers] == [2] * 3 + [3] * 3 + [4] * 4


@mark.parametrize("keys", [KeyRange(b"a", b"a\0"), KeyRange(b"a", b"b"), KeyRange(b"a", b"ab\0")])
def test_a_crowd_without_room_for_all_is_offered_one_by_one(keys):
    store, hub = make()
    hall = Hall()
    watchers = [hub.add(keys, 0, sink=hall, crowd=hall) for _ in range(4)]
    hall.takes_all = False
    hall.during = lambda watcher: setattr(hall, "full", watcher in watchers[2:])
    put(store, b"a")
    assert len(hall.offers) == 2 and hub.lagging_count == 2
    assert [watcher.synced for watcher in watchers] == [True, True, False, False]
    put(store, b"a")
    assert len(hall.offers) == 4
    hall.takes_all, hall.during, hall.full = True, None, False
    for watcher in watchers:
        hub.resume(watcher)
    assert not hub.catch_up() and hub.lagging_count == 0
    assert [(count, len(events)) for count, _, events in hall.together] == [(2, 2)]
    put(store, b"a")
    assert hall.together[1:] == [(4, 4, hall.together[1][2])]
    for watcher in watchers:
        hub.remove(watcher)
    assert hub.synced.match(b"a") == [] and not any((hub.synced.points, hub.synced.prefixes, hub.synced.odd))


def test_what_a_crowd_notes_of_an_audience_is_for_its_present_watchers():
    store, hub = make()
    hall = Hall()
    keys = KeyRange(b"a", b"b")
    first = [hub.add(keys, 0, sink=hall, crowd=hall) for _ in range(2)]
    (audience,) = hub.synced.match(b"a")
    audience.notes = "two"
    put(store, b"a")
    assert audience.notes == "two"
    third = hub.add(keys, 0, sink=hall, crowd=hall)
    assert audience.notes is None and list(audience.watchers) == [*first, third]
    audience.notes = "three"
    hub.remove(first[0])
    assert audience.notes is None and list(audience.watchers) == [first[1], third]


def test_one_removed_while_others_catch_up_is_not_told():
    store, hub = make()
    put(store, b"a")
    hall = Hall()
    watchers = []
    eager = Collector(during=lambda _: hub.remove(watchers[1]))
    hub.add(KeyRange(b"a", b"b"), 1, sink=eager)
    watchers += [hub.add(KeyRange(b"a", b"b"), 1, sink=hall, crowd=hall) for _ in range(3)]
    hub.catch_up()
    assert len(eager.offers) == 1 and len(hall.offers) == 2 and not hall.together
    assert hub.watcher_count == 3
    put(store, b"a")
    assert [count for count, *_ in hall.together] == [2]


def test_compaction_cancels_all_that_are_behind():
    store, hub = make()
    for _ in range(5):
        put(store, b"a")
    sinks = {start: Collector() for start in (1, 3, 4, 5)}
    for start, sink in sinks.items():
        hub.add(KeyRange(b"a", b"a\0"), start, sink=sink)
    store.compact(4)
    assert not hub.catch_up()
    assert {start: sink.cancelled for start, sink in sinks.items()} == {1: [4], 3: [4], 4: [], 5: []}
    assert [len(sinks[start].offers[0][1]) for start in (4, 5)] == [3, 2]
    assert (hub.watcher_count, hub.lagging_count) == (2, 0)


def test_refused_watchers_do_not_stop_the_others():
    store, hub = make()
    stuck, fine = Collector(), Collector()
    for _ in range(6):
        put(store, b"a")
    stuck.full = True
    blocked = hub.add(KeyRange(b"a", b"b"), 1, sink=stuck)
    hub.add(KeyRange(b"a", b"b"), 2, sink=fine)
    passes = 1
    while hub.catch_up(2, 2):
        passes += 1
        assert passes < 10
    assert sum(len(events) for _, events in fine.offers) == 6
    assert not hub.is_current(blocked) and hub.lagging_count == 1
    stuck.full = False
    hub.resume(blocked)
    while hub.catch_up(2, 2):
        pass
    assert sum(len(events) for _, events in stuck.offers) == 6 and hub.is_current(blocked)


def test_catch_up_groups_revisions_and_reports_the_current_one():
    store, hub = make()
    for _ in range(2500):
        put(store, b"a")
    sink = Collector()
    hub.add(KeyRange(b"a", b"b"), 2, sink=sink)
    while hub.catch_up():
        pass
    assert [(revision, len(events)) for revision, events in sink.offers] == [(2501, 1000), (2501, 1000), (2501, 500)]


def test_one_large_revision_is_never_split():
    store, hub = make()
    put(store, b"a")
    put(store, *(b"a%04d" % number for number in range(300)))
    put(store, b"a")
    sink = Collector()
    hub.add(KeyRange(b"a", b"b"), 1, sink=sink)
    while hub.catch_up(10, 20):
        pass
    assert [len(events) for _, events in sink.offers] == [1, 300, 1]


def test_an_idle_watcher_survives_compaction_and_restore():
    store, hub = make()
    idle = Collector()
    watcher = hub.add(KeyRange(b"z", b"z\0"), 0, sink=idle)
    for _ in range(5):
        put(store, b"a")
    store.compact(6)
    list(store.restore())
    assert not watcher.synced and not hub.catch_up()
    assert watcher.synced and idle.cancelled == []
    put(store, b"z")
    assert [revision for revision, _ in idle.offers] == [7]


def events_of(sink):
    return [Event.FromString(event) for _, events in sink.offers for event in events]


def test_previous_values_end_at_the_compacted_revision():
    store, hub = make()
    for _ in range(3):
        put(store, b"a")
    store.compact(3)
    sink = Collector()
    hub.add(KeyRange(b"a", b"b"), 3, sink=sink, prev_kv=True)
    hub.catch_up()
    assert [(event.kv.mod_revision, event.prev_kv.mod_revision) for event in events_of(sink)] == [(3, 0), (4, 3)]


def test_previous_values_are_those_before_the_revision():
    store, hub = make()
    put(store, b"a")
    live, late = Collector(), Collector()
    hub.add(KeyRange(b"a", b"b"), 0, sink=live, prev_kv=True)
    with store.write() as txn:
        txn.put(b"a", b"2")
        txn.put(b"a1", b"2")
        txn.delete_range(KeyRange(b"a", b"b"))
    hub.add(KeyRange(b"a", b"b"), 3, sink=late, prev_kv=True)
    hub.catch_up()
    for sink in (live, late):
        found = [(event.type, event.kv.key, event.prev_kv.mod_revision) for event in events_of(sink)]
        assert found == [
            (Event.PUT, b"a", 2),
            (Event.PUT, b"a1", 0),
            (Event.DELETE, b"a", 2),
            (Event.DELETE, b"a1", 0),
        ]


def test_a_pass_that_only_cancels_says_that_others_wait():
    """Those whose history is gone are the furthest behind; the others would wait for the next turn, a tick away."""
    store, hub = make()
    for _ in range(20):
        put(store, b"a")
    store.compact(15)
    gone, late = Collector(), Collector()
    for _ in range(4):
        hub.add(KeyRange(b"a", b"b"), 2, sink=gone)
    hub.add(KeyRange(b"a", b"b"), 16, sink=late)
    assert hub.catch_up(2) and hub.lagging_count == 3
    assert hub.catch_up(2) and hub.lagging_count == 1
    assert not hub.catch_up(2) and hub.lagging_count == 0
    assert gone.cancelled == [15] * 4 and len(events_of(late)) == 6
    for _ in range(3):
        put(store, b"a")
    store.compact(18)
    hub.add(KeyRange(b"a", b"b"), 2, sink=gone)
    assert not hub.catch_up(2) and len(gone.cancelled) == 5


def test_one_pass_offers_no_more_than_its_limits():
    """Hundreds of watchers of the same keys would otherwise get hundreds of copies of a thousand events at once."""
    store, hub = make()
    for number in range(300):
        with store.write() as txn:
            for key in (b"a", b"b"):
                txn.put(key, b"%d" % number)
    sinks = [Collector() for _ in range(200)]
    for sink in sinks:
        hub.add(KeyRange(b"a", b"c"), 2, sink=sink)
    passes, offered = 0, 0
    more = True
    while more:
        more = hub.catch_up()
        total = sum(len(events) for sink in sinks for _, events in sink.offers)
        assert total - offered <= MAX_EVENTS_PER_PASS + 200 * 52
        passes, offered = passes + 1, total
    assert offered == 200 * 600 and passes > 5
    for sink in sinks:
        assert all(len(events) % 2 == 0 for _, events in sink.offers), "a revision was torn apart"
        assert [event for _, events in sink.offers for event in events] == [
            event for _, events in sinks[0].offers for event in events
        ]


def test_one_pass_reads_no_more_than_its_limits():
    store, hub = make()
    for _ in range(40):
        with store.write() as txn:
            txn.put(b"a", bytes(1_000_000))
    sink = Collector()
    hub.add(KeyRange(b"a", b"b"), 2, sink=sink)
    passes = 1
    while hub.catch_up():
        passes += 1
    assert 4 <= passes <= 6
    assert sum(len(events) for _, events in sink.offers) == 40
