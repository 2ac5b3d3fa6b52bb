"""The ranges that hold a key, against asking each of them."""

from collections import Counter
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import MonkeyPatch

from ratifyd.keys import KeyRange
from ratifyd.mvcc import intervals
from ratifyd.mvcc.intervals import Intervals
from ratifyd.mvcc.watch import WatchHub

KEYS = [b"", *(bytes(key) for size in (1, 2) for key in product(b"\0abc\xff", repeat=size))]
keys = st.sampled_from(KEYS)
# Nested, overlapping, empty and equal ranges, and such without end.
ranges = st.builds(KeyRange, keys, st.one_of(keys, keys, st.none()))
# Ranges to add, or which of those that are there to remove.
steps = st.lists(st.one_of(ranges, ranges, st.integers(0, 1000)), max_size=60)


def expected(there, key):
    return Counter(each for each in there if key in each)


@settings(max_examples=200, deadline=None)
@given(steps)
def test_intervals_find_what_holds_a_key(script):
    with MonkeyPatch.context() as patch:
        patch.setattr(intervals, "_MOST_IN_BLOCK", 4)
        patch.setattr(intervals, "_FEWEST_IN_BLOCK", 2)
        table, there = Intervals(), []
        for step in script:
            if isinstance(step, KeyRange):
                if step in there:
                    continue
                there.append(step)
                table.add(step, step)
            elif there:
                table.remove(there.pop(step % len(there)))
            for key in KEYS:
                assert Counter(table.holding(key)) == expected(there, key)
        for each in there:
            table.remove(each)
        assert not any(table.holding(key) for key in KEYS)


class NoStore:
    """What a hub asks of its store when a watcher begins with the next write."""

    revision = 1


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 400), st.integers(1, 300))
def test_a_change_is_matched_to_the_watchers_whose_range_holds_it(random, count, widest):
    """Hundreds of ranges of all kinds, some of them watched more than once, and more and more of them removed."""
    hub = WatchHub()
    hub.bind(NoStore())
    names = [b"%03d" % number for number in range(400)]
    watchers = []
    for _ in range(count):
        start = random.randrange(400)
        last = min(start + random.randint(0, widest), 399)
        end = random.choice([names[last], names[last], None, names[start] + b"\0"])
        watched = KeyRange(random.choice([names[start], names[start][:2]]), end)
        watchers += [hub.add(watched, 0, sink=None) for _ in range(random.choice([1, 1, 2]))]
    random.shuffle(watchers)
    while watchers:
        for key in random.sample(names, 20):
            found = [watcher for audience in hub.synced.match(key) for watcher in audience.watchers]
            assert Counter(found) == Counter(watcher for watcher in watchers if key in watcher.keys)
        for _ in range(len(watchers) // 2 + 1):
            hub.remove(watchers.pop())
    assert not hub.synced.match(names[0]) and hub.watcher_count == 0
