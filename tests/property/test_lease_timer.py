"""LeaseBook and LeaseTimer against a model without heaps."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ratifyd.lease import RETRY_S, LeaseBook, LeaseTimer

ids = st.sampled_from([-3, 1, 2, 5])
names = st.sampled_from([b"a", b"b", b"c"])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("grant"), ids, st.integers(1, 9)),
        st.tuples(st.just("revoke"), ids),
        st.tuples(st.just("renew"), ids),
        st.tuples(st.just("attach"), ids, names),
        st.tuples(st.just("detach"), names),
        st.tuples(st.just("wait"), st.integers(1, 5)),
        st.tuples(st.just("lead")),
    ),
    max_size=60,
)


@settings(max_examples=100, deadline=None)
@given(steps)
def test_leases_end_exactly_when_they_should(script):
    book, now = LeaseBook(), 0.0
    timer = LeaseTimer(book, now)
    ttl, ends, asked, owner = {}, {}, {}, {}
    for step in script:
        timer.tick(now)
        match step:
            case ("grant", lease, seconds) if lease not in ttl:
                book.grant(lease, seconds)
                ttl[lease], ends[lease] = seconds, now + seconds
                asked.pop(lease, None)
            case ("revoke", lease) if lease in ttl:
                held = sorted(key for key, holder in owner.items() if holder == lease)
                assert book.revoke(lease) == held
                for key in held:
                    del owner[key]
                del ttl[lease], ends[lease]
            case ("renew", lease) if lease in ttl and ends[lease] > now:
                assert timer.renew(lease, now) == ttl[lease]
                ends[lease] = now + ttl[lease]
                asked.pop(lease, None)
            case ("attach", lease, key) if lease in ttl:
                book.attach(lease, key)
                owner[key] = lease
            case ("detach", key):
                book.detach(key)
                owner.pop(key, None)
            case ("wait", seconds):
                timer.tick(now)
                now += seconds
            case ("lead",):
                timer.close()
                timer = LeaseTimer(book, now, extend_s=1.0)
                ends = {lease: now + 1 + seconds for lease, seconds in ttl.items()}
                asked.clear()
        expected = {
            lease for lease, end in ends.items() if end <= now and (lease not in asked or asked[lease] + RETRY_S <= now)
        }
        found = timer.expired(now)
        assert len(found) == len(set(found)) and set(found) == expected
        asked.update(dict.fromkeys(found, now))
        book.check()
        assert {key: book.lease_of(key) for key in (b"a", b"b", b"c")} == {
            key: owner.get(key, 0) for key in (b"a", b"b", b"c")
        }
        assert timer.leases(now) == sorted(ttl, key=lambda lease: (ends[lease], lease))
        assert {lease: timer.remaining(lease, now) for lease in ttl} == {lease: ends[lease] - now for lease in ttl}
