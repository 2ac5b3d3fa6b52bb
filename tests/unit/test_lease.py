"""LeaseBook and LeaseTimer, rule by rule."""

from itertools import pairwise

from pytest import approx, raises

from ratifyd import errors
from ratifyd.lease import MAX_TTL_S, RETRY_S, LeaseBook, LeaseTimer


def book_with(*ttls, min_ttl_s=0):
    book = LeaseBook(min_ttl_s=min_ttl_s)
    for number, ttl in enumerate(ttls, 1):
        book.grant(number, ttl)
    return book


def test_grant_checks_and_raises_the_ttl():
    book = LeaseBook(min_ttl_s=2)
    assert book.grant(-5, 0).ttl_s == 2
    assert book.grant(7, MAX_TTL_S).ttl_s == MAX_TTL_S
    with raises(errors.LeaseExist):
        book.grant(-5, 10)
    with raises(errors.LeaseTTLTooLarge):
        book.grant(8, MAX_TTL_S + 1)
    with raises(errors.LeaseNotFound):
        book.grant(0, 10)
    assert list(book.leases) == [-5, 7]


def test_a_key_has_one_lease():
    book = book_with(10, 10)
    book.attach(1, b"b")
    book.attach(1, b"a")
    book.attach(2, b"b")
    book.attach(2, b"b")
    assert (book.lease_of(b"a"), book.lease_of(b"b"), book.lease_of(b"c")) == (1, 2, 0)
    assert (book.keys(1), book.keys(2)) == ([b"a"], [b"b"])
    book.check()
    book.detach(b"a")
    book.detach(b"a")
    assert book.keys(1) == [] and book.lease_of(b"a") == 0
    book.check()


def test_revoke_names_keys_in_byte_order():
    book = book_with(10, 10)
    for key in (b"b", b"\xff", b"a", b"ab"):
        book.attach(1, key)
    book.attach(2, b"other")
    assert book.revoke(1) == [b"a", b"ab", b"b", b"\xff"]
    assert book.lease_of(b"a") == 0 and list(book.leases) == [2]
    book.check()
    with raises(errors.LeaseNotFound):
        book.revoke(1)
    with raises(errors.LeaseNotFound):
        book.attach(1, b"a")
    with raises(errors.LeaseNotFound):
        book.keys(1)


def test_clear_forgets_everything():
    book = book_with(10)
    book.attach(1, b"a")
    book.clear()
    assert not book.leases and book.lease_of(b"a") == 0
    book.restore(1, 10, remaining_s=4)
    assert book.get(1).effective_ttl_s == 4


def test_lease_ends_after_its_ttl_and_is_named_again_until_gone():
    book = book_with(5)
    timer = LeaseTimer(book, 100.0)
    assert timer.expired(104.9) == []
    assert timer.expired(105.0) == [1]
    assert timer.expired(107.9) == []
    assert timer.expired(108.0) == [1]
    book.revoke(1)
    assert timer.expired(200.0) == []


def test_new_leases_start_at_the_next_tick_never_early():
    book = book_with()
    timer = LeaseTimer(book, 0.0, min_ttl_s=2)
    book.grant(9, 1)
    timer.tick(10.0)
    assert timer.expired(11.9) == []
    assert timer.expired(12.0) == [9]
    book.grant(4, 5)
    assert timer.remaining(4, 20.0) == 5.0


def test_an_id_granted_again_starts_afresh():
    book = book_with(5)
    timer = LeaseTimer(book, 0.0)
    book.revoke(1)
    book.grant(1, 50)
    timer.tick(4.0)
    assert timer.expired(53.9) == []
    assert timer.expired(54.0) == [1]


def test_renewal_restarts_the_clock():
    book = book_with(10)
    timer = LeaseTimer(book, 0.0)
    assert timer.renew(1, 9.0) == 10
    assert timer.expired(18.9) == []
    assert timer.remaining(1, 18.9) == approx(0.1)
    assert timer.expired(19.0) == [1]
    assert timer.is_expired(1, 19.0)
    with raises(errors.LeaseNotFound):
        timer.renew(1, 19.0)
    with raises(errors.LeaseNotFound):
        timer.renew(2, 19.0)
    with raises(errors.LeaseNotFound):
        timer.remaining(2, 19.0)
    assert not timer.is_expired(2, 19.0)


def test_leases_are_renewed_together_or_not_at_all():
    book = book_with(10, 2, 20)
    timer = LeaseTimer(book, 0.0)
    assert not timer.renew_unexpired(list(book.leases.values()), 2.0)
    assert [timer.remaining(lease, 2.0) for lease in (1, 2, 3)] == [8.0, 0.0, 18.0]
    assert timer.renew_unexpired([book.get(1), book.get(3)], 2.0)
    assert [timer.remaining(lease, 2.0) for lease in (1, 2, 3)] == [10.0, 0.0, 20.0]


def test_many_renewals_keep_the_queue_small():
    book = book_with(*[10] * 10)
    timer = LeaseTimer(book, 0.0)
    for step in range(10_000):
        timer.renew(step % 10 + 1, step / 10_000)
    assert len(timer._due) == 10
    assert timer.expired(9.9) == []
    assert timer.expired(10.5) == []
    assert len(timer._due) == 10
    assert sorted(timer.expired(11.0)) == list(range(1, 11))


def test_a_renewal_may_end_a_lease_earlier_than_a_new_leader_would_have():
    book = book_with(10)
    timer = LeaseTimer(book, 0.0, extend_s=5.0)
    assert timer.renew(1, 1.0) == 10
    assert timer.expired(10.9) == []
    assert timer.expired(11.0) == [1]
    assert timer.expired(11.0 + RETRY_S - 0.1) == []
    assert timer.expired(15.0) == [1]


def test_leases_revoked_long_before_their_end_are_forgotten():
    """A session lives for seconds and asks for days: what it had must not stay until then."""
    book = LeaseBook()
    timer = LeaseTimer(book, 0)
    kept = book.grant(1_000_000, 100)
    for number in range(1, 20_001):
        book.grant(number, 864_000)
        timer.tick(number / 1000)
        book.revoke(number)
    for part in (timer._scheduled, timer._due, timer._armed, timer._expiry, timer._next_checkpoint):
        assert len(part) < 2500
    assert timer.expired(99) == []
    assert timer.expired(100.1) == [kept.id]


def test_promotion_extends_and_uses_the_checkpoint():
    book = book_with(600, 600)
    book.checkpoint(2, 100)
    timer = LeaseTimer(book, 0.0, extend_s=1.0)
    assert timer.remaining(1, 0.0) == 601.0
    assert timer.remaining(2, 0.0) == 101.0
    assert timer.leases(0.0) == [2, 1]
    book.checkpoint(2, 0)
    timer.renew(2, 50.0)
    assert timer.remaining(2, 50.0) == 600.0


def test_expired_respects_its_limit():
    book = book_with(*[1] * 7)
    timer = LeaseTimer(book, 0.0)
    assert [timer.expired(2.0, 3) for _ in range(4)] == [[1, 2, 3], [4, 5, 6], [7], []]


def test_pile_ups_are_spread_at_promotion():
    book = book_with(*[10] * 3000)
    timer = LeaseTimer(book, 0.0)
    ends = sorted(timer.remaining(number, 0.0) for number in book.leases)
    assert ends[0] == 10.0
    assert ends[-1] == approx(14.0, abs=0.1)
    per_second = [sum(10 + n <= end < 11 + n for end in ends) for n in range(5)]
    assert max(per_second) <= 751
    small = LeaseTimer(book_with(*[10] * 999), 0.0)
    assert {small.remaining(number, 0.0) for number in range(1, 1000)} == {10.0}
    spread_out = LeaseTimer(book_with(*range(10, 2010)), 0.0)
    assert all(b - a == 1 for a, b in pairwise([spread_out.remaining(n, 0.0) for n in range(1, 2001)]))


def test_checkpoints_only_for_long_leases_every_five_minutes():
    book = book_with(300, 1000, 1000)
    timer = LeaseTimer(book, 0.0)
    assert timer.checkpoints(299.9) == []
    timer.renew(3, 300.0)
    assert timer.checkpoints(300.0, 1) == [(2, 700)]
    # renewed this very moment: nothing to record, looked at again later
    assert timer.checkpoints(300.0) == []
    assert timer.checkpoints(599.0) == []
    book.checkpoint(2, 700)
    timer.tick(301.0)
    assert timer.checkpoints(600.5) == [(3, 700)]
    assert timer.checkpoints(601.0) == [(2, 399)]
    book.checkpoint(2, 399)
    assert book.get(2).effective_ttl_s == 399
    assert book.checkpoint(99, 5) is None


def test_only_the_timer_in_office_learns_from_the_book():
    book = book_with(10)
    first = LeaseTimer(book, 0.0)
    second = LeaseTimer(book, 0.0)
    first.close()
    book.grant(2, 10)
    assert second.remaining(2, 0.0) == 10
    second.close()
    assert book.changed is None
    book.grant(3, 10)
    assert LeaseTimer(book, 5.0).remaining(3, 5.0) == 10
