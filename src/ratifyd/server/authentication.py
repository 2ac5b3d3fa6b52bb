"""Passwords of users: tried and hashed on a worker, because that is slow by intent, and tokens asked of the log.

A password is tried against what this member knows after a linearizable read; should the auth store have changed by
the time the token is made, it is tried again (semantics 9.22).
"""

import logging
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from ratifyd.apply import requests
from ratifyd.apply.entries import Answer
from ratifyd.apply.requests import Row
from ratifyd.auth.passwords import MAX_BYTES, SALT_BYTES, check_password, encode_hash, hash_password
from ratifyd.auth.store import AuthStore
from ratifyd.auth.tokens import TokenProvider
from ratifyd.errors import AuthFailed, AuthNotEnabled, EtcdError, PasswordTooLong, RequestTooManyRequests, Stopped
from ratifyd.ports import Clock, Worker
from ratifyd.proto.raft_internal_pb2 import InternalAuthenticateRequest
from ratifyd.server.parts import Parts
from ratifyd.server.reads import Read

MAX_WAITING = 1000
"""Passwords waiting for the worker above which more are refused."""
REMEMBERED_S = 30.0
"""How long a password that was right need not be tried anew: programs log in again and again with the same one."""
MAX_REMEMBERED = 1024

Hashed = Callable[[str, EtcdError | None], None]
"""Gets the text of a hash as requests carry it, or the error."""

log = logging.getLogger("ratifyd.server")


class _Attempt:
    """A user trying to log in."""

    __slots__ = ("answer", "name", "password", "revision")

    def __init__(self, name: str, password: bytes, answer: Answer) -> None:
        self.name = name
        self.password = password
        self.answer = answer
        self.revision = 0
        """Auth revision at which the password was looked up."""


class Authentication:
    """Logging in, and hashing passwords for those who set them."""

    __slots__ = (
        "_auth",
        "_clock",
        "_cost",
        "_entropy",
        "_propose",
        "_read",
        "_remembered",
        "_secret",
        "_stopped",
        "_tokens",
        "_waiting",
        "_worker",
    )

    def __init__(
        self,
        parts: Parts,
        *,
        cost: int,
        read: Callable[[Read, Any], None],
        propose: Callable[[Row, bytes, Answer], None],
    ) -> None:
        self._auth: AuthStore = parts.state.auth
        self._clock: Clock = parts.clock
        self._tokens: TokenProvider = parts.tokens
        self._worker: Worker = parts.password_worker
        self._entropy = parts.entropy
        self._cost = cost
        self._read = read
        self._propose = propose
        self._waiting = 0
        self._stopped = False
        self._secret = parts.entropy(SALT_BYTES)
        self._remembered: dict[bytes, float] = {}
        """Until when a password is known to be right, by the digest of it and of the text it was tried against."""

    # --- logging in ------------------------------------------------------------------------------------------------

    def log_in(self, name: str, password: str, answer: Answer) -> None:
        """Answer with an AuthenticateResponse, or with why there is no token."""
        self._read(self._look_up, _Attempt(name, password.encode()[:MAX_BYTES], answer))

    def stop(self) -> None:
        """Try no more passwords."""
        self._stopped = True

    def _look_up(self, attempt: _Attempt, error: EtcdError | None) -> None:
        try:
            if error is not None:
                raise error
            hashed = self._auth.password_of(attempt.name)
            attempt.revision = self._auth.revision
            self._check(attempt, hashed)
        except EtcdError as refused:
            self._refuse(attempt, refused)

    def _check(self, attempt: _Attempt, hashed: bytes) -> None:
        digest = blake2b(hashed + b"\0" + attempt.password, key=self._secret).digest()
        if self._remembered.get(digest, 0.0) > self._clock.time():
            self._make_token(attempt)
            return

        def checked(right: bool | None, error: BaseException | None) -> None:
            self._waiting -= 1
            if error is not None:
                raise error
            if self._stopped:
                attempt.answer(b"", Stopped())
            elif right:
                self._remember(digest)
                self._make_token(attempt)
            else:
                self._refuse(attempt, AuthFailed())

        self._submit(lambda: not self._stopped and check_password(attempt.password, hashed), checked)

    def _make_token(self, attempt: _Attempt) -> None:
        def answered(body: bytes, error: EtcdError | None) -> None:
            if error is None and attempt.revision != self._auth.revision:
                self._look_up(attempt, None)  # who knows whether the password is still right
            else:
                attempt.answer(body, error)

        request = InternalAuthenticateRequest(name=attempt.name, simple_token=self._tokens.prefix())
        self._propose(requests.AUTHENTICATE, request.SerializeToString(), answered)

    def _refuse(self, attempt: _Attempt, error: EtcdError) -> None:
        if not isinstance(error, AuthNotEnabled):
            fields = {"user": attempt.name, "error": error.message}
            log.warning("invalid authentication was requested", extra={"fields": fields})
        attempt.answer(b"", error)

    def _remember(self, digest: bytes) -> None:
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered[digest] = self._clock.time() + REMEMBERED_S

    # --- setting a password ----------------------------------------------------------------------------------------

    def hash(self, password: str, then: Hashed) -> None:
        """Hash a new password. Raises PasswordTooLong, RequestTooManyRequests."""
        raw = password.encode()
        if len(raw) > MAX_BYTES:
            raise PasswordTooLong
        salt = self._entropy(SALT_BYTES)

        def hashed(text: str | None, error: BaseException | None) -> None:
            self._waiting -= 1
            if error is not None:
                raise error
            if text:
                then(text, None)
            else:
                then("", Stopped())

        self._submit(lambda: "" if self._stopped else encode_hash(hash_password(raw, salt, self._cost)), hashed)

    def _submit(self, job: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        if self._waiting >= MAX_WAITING:
            raise RequestTooManyRequests
        self._waiting += 1
        self._worker.submit(job, done)
