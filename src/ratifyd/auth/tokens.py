"""Tokens that stand for a user who has given a password: simple ones, and none at all. The signed ones are in `jwt`.

A member keeps simple tokens in memory. It learns them by applying the Authenticate entries of the log, so one made
through another member is valid here once its entry is applied; its end names that entry (semantics 9.23).
"""

from collections.abc import Callable
from itertools import takewhile
from typing import Protocol

from ratifyd.auth.identity import Identity
from ratifyd.errors import AuthFailed

PREFIX_LETTERS = 16
DEFAULT_TTL_S = 300.0
SWEEP_INTERVAL_S = 1.0

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_FAIR_BYTES = 256 // len(_LETTERS) * len(_LETTERS)
"""Bytes below this one stand for each letter equally often."""
_MAX_INDEX_DIGITS = 20


class TokenProvider(Protocol):
    """One kind of tokens."""

    def prefix(self) -> str:
        """The part of a new token that goes through the log; empty when the log plays no part."""
        ...

    def assign(self, user: str, auth_revision: int, simple_token: str, index: int, wanted: bool) -> str:
        """The token of a user whose Authenticate is applied; it may be empty unless `wanted`. Raises RequestError."""
        ...

    def identify(self, token: bytes, auth_revision: int) -> Identity | None:
        """Whose token this is; None for nobody's."""
        ...

    def made_at(self, token: bytes) -> int:
        """The entry that an unknown token says it comes from; 0 if it says nothing of the kind."""
        ...

    def invalidate_user(self, user: str) -> None: ...

    def invalidate_all(self) -> None: ...

    def sweep(self, now: float) -> None:
        """Forget what has ended."""
        ...


class NoTokens:
    """Passwords are good for nothing: who authenticates without certificates is refused (semantics 9.29)."""

    def prefix(self) -> str:
        """Nothing to send."""
        return ""

    def assign(self, user: str, auth_revision: int, simple_token: str, index: int, wanted: bool) -> str:
        """Raises AuthFailed."""
        raise AuthFailed

    def identify(self, token: bytes, auth_revision: int) -> Identity | None:
        """Nobody's."""
        return None

    def made_at(self, token: bytes) -> int:
        """No entry makes tokens."""
        return 0

    def invalidate_user(self, user: str) -> None:
        """There are none."""

    def invalidate_all(self) -> None:
        """There are none."""

    def sweep(self, now: float) -> None:
        """There are none."""


class SimpleTokens:
    """Random tokens known to every member, each valid for `ttl_s` after its last use on this one.

    Known by their letters alone: what follows the dot is the index of their entry for some versions of etcd and the one
    before it for others. `entropy(count)` gives bytes nobody can guess.
    """

    __slots__ = ("_entropy", "_now", "_swept_at", "_tokens", "_ttl_s")

    def __init__(self, *, ttl_s: float, now: Callable[[], float], entropy: Callable[[int], bytes]) -> None:
        self._ttl_s = ttl_s if ttl_s > 0 else DEFAULT_TTL_S
        self._now = now
        self._entropy = entropy
        self._tokens: dict[bytes, tuple[str, float]] = {}
        """User and end of each, in the order of their ends."""
        self._swept_at = now()

    def prefix(self) -> str:
        """Random letters."""
        letters = ""
        while len(letters) < PREFIX_LETTERS:
            fair = (byte for byte in self._entropy(PREFIX_LETTERS) if byte < _FAIR_BYTES)
            letters += "".join(_LETTERS[byte % len(_LETTERS)] for byte in fair)
        return letters[:PREFIX_LETTERS]

    def assign(self, user: str, auth_revision: int, simple_token: str, index: int, wanted: bool) -> str:
        """Register a token. One without letters, from a member with another kind of tokens, could be guessed."""
        if simple_token:
            letters = simple_token.encode()
            self._tokens.pop(letters, None)
            self._tokens[letters] = user, self._now() + self._ttl_s
        return f"{simple_token}.{index}"

    def identify(self, token: bytes, auth_revision: int) -> Identity | None:
        """Whose it is, at the auth revision of the moment; prolongs it."""
        letters, _, index = token.partition(b".")
        known = self._tokens.get(letters)
        if known is None or not index.isdigit():
            return None
        user, end = known
        now = self._now()
        del self._tokens[letters]
        if now > end:
            return None
        self._tokens[letters] = user, now + self._ttl_s
        return Identity(user, auth_revision)

    def made_at(self, token: bytes) -> int:
        """The number after its only dot."""
        _, dot, digits = token.partition(b".")
        if not dot or not digits.isdigit() or len(digits) > _MAX_INDEX_DIGITS:
            return 0
        return int(digits)

    def invalidate_user(self, user: str) -> None:
        """The user is gone, or has another password."""
        for letters in [letters for letters, (owner, _) in self._tokens.items() if owner == user]:
            del self._tokens[letters]

    def invalidate_all(self) -> None:
        """Auth is switched off."""
        self._tokens.clear()

    def sweep(self, now: float) -> None:
        """Forget tokens that nobody has used for their whole time; call it as often as you like."""
        if now - self._swept_at < SWEEP_INTERVAL_S:
            return
        self._swept_at = now
        ended = takewhile(lambda token: now > token[1][1], self._tokens.items())
        for letters in [letters for letters, _ in ended]:
            del self._tokens[letters]
