"""Simple tokens: random, known by their letters, for a time after their last use."""

from collections import Counter
from random import Random

import pytest

from ratifyd.auth.identity import Identity
from ratifyd.auth.tokens import DEFAULT_TTL_S, NoTokens, SimpleTokens
from ratifyd.errors import AuthFailed

LETTERS = "abcdefghijklmnop"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(clock: Clock) -> SimpleTokens:
    return SimpleTokens(ttl_s=10, now=clock, entropy=Random(1).randbytes)


def test_a_token_is_the_letters_and_the_index(tokens: SimpleTokens) -> None:
    assert tokens.assign("u", 5, LETTERS, 51, wanted=False) == f"{LETTERS}.51"
    assert tokens.identify(f"{LETTERS}.51".encode(), 9) == Identity("u", 9)


@pytest.mark.parametrize("index", [b"50", b"51", b"7"])
def test_versions_differ_about_the_index(tokens: SimpleTokens, index: bytes) -> None:
    tokens.assign("u", 5, LETTERS, 51, wanted=True)
    assert tokens.identify(LETTERS.encode() + b"." + index, 9) == Identity("u", 9)


@pytest.mark.parametrize("token", [b"", b".51", b"x", LETTERS.encode(), LETTERS.encode() + b".", b"a.1", b"a.b.1"])
def test_what_is_nobodys(tokens: SimpleTokens, token: bytes) -> None:
    tokens.assign("u", 5, LETTERS, 51, wanted=True)
    assert tokens.identify(token, 9) is None


def test_letters_with_something_else_behind(tokens: SimpleTokens) -> None:
    tokens.assign("u", 5, LETTERS, 51, wanted=True)
    for rest in (b".x", b".1.1", b".-1", b"..1", b".\xff"):
        assert tokens.identify(LETTERS.encode() + rest, 9) is None


def test_one_without_letters_could_be_guessed(tokens: SimpleTokens) -> None:
    """Such an entry is from a member that signs its tokens."""
    tokens.assign("u", 5, "", 51, wanted=False)
    assert tokens.identify(b".51", 9) is None


def test_use_prolongs(tokens: SimpleTokens, clock: Clock) -> None:
    tokens.assign("u", 1, LETTERS, 1, wanted=True)
    for _ in range(5):
        clock.now += 9.5
        assert tokens.identify(LETTERS.encode() + b".1", 1) is not None
    clock.now += 10.1
    assert tokens.identify(LETTERS.encode() + b".1", 1) is None
    clock.now -= 5
    assert tokens.identify(LETTERS.encode() + b".1", 1) is None


def test_the_sweep_forgets_the_unused(tokens: SimpleTokens, clock: Clock) -> None:
    for user in ("a", "b"):
        tokens.assign(user, 1, user * 16, 1, wanted=True)
    clock.now += 6
    tokens.identify(b"a" * 16 + b".1", 1)
    clock.now += 6
    tokens.sweep(clock.now)
    assert list(tokens._tokens) == [b"a" * 16]


def test_users_and_all_are_invalidated(tokens: SimpleTokens) -> None:
    for user in ("a", "b", "c"):
        tokens.assign(user, 1, user * 16, 1, wanted=True)
    tokens.invalidate_user("b")
    assert [tokens.identify(user * 16 + b".1", 1) is None for user in (b"a", b"b", b"c")] == [False, True, False]
    tokens.invalidate_all()
    assert tokens.identify(b"a" * 16 + b".1", 1) is None


@pytest.mark.parametrize(
    ("token", "index"),
    [(b"abc.17", 17), (b"abc", 0), (b"abc.", 0), (b"a.b.3", 0), (b"abc.1x", 0), (b"abc." + b"9" * 21, 0), (b"", 0)],
)
def test_the_entry_a_token_names(tokens: SimpleTokens, token: bytes, index: int) -> None:
    assert tokens.made_at(token) == index


def test_letters_are_drawn_fairly() -> None:
    tokens = SimpleTokens(ttl_s=10, now=lambda: 0.0, entropy=Random(7).randbytes)
    drawn = [tokens.prefix() for _ in range(3000)]
    assert len(set(drawn)) == 3000
    counts = Counter("".join(drawn))
    assert len(counts) == 52 and max(counts.values()) < 1.25 * min(counts.values())
    assert {len(each) for each in drawn} == {16}


def test_no_time_to_live_means_the_default(clock: Clock) -> None:
    tokens = SimpleTokens(ttl_s=0, now=clock, entropy=Random(1).randbytes)
    tokens.assign("u", 1, LETTERS, 1, wanted=True)
    clock.now += DEFAULT_TTL_S - 1
    assert tokens.identify(LETTERS.encode() + b".1", 1) is not None


def test_no_tokens_at_all() -> None:
    tokens = NoTokens()
    with pytest.raises(AuthFailed):
        tokens.assign("u", 1, "x", 1, wanted=True)
    assert tokens.identify(b"x.1", 1) is None and tokens.made_at(b"x.1") == 0 and tokens.prefix() == ""
