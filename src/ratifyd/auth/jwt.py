"""JSON Web Tokens (RFC 7519) signed by members with a common key: nothing is kept of them, so they outlive a restart.

Claims are etcd's: username, revision (of the auth store when it was signed) and exp (semantics 9.25). Tokens signed by
somebody else with the same key are as good; exp and nbf are looked at where they are given, other claims are not.
"""

import json
import re
from collections.abc import Callable
from math import isfinite
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

from ratifyd.auth.identity import Identity
from ratifyd.errors import AuthVerifyOnly

MAX_REMEMBERED = 4096
"""Verified tokens remembered, so that a signature is checked once and not with every request."""

_MAX_REVISION = (1 << 64) - 1
"""For those that are no revision: etcd makes something as large of them."""
_SURROGATE = re.compile("[\ud800-\udfff]")
"""One alone, which JSON can name but no text contain."""

_CURVES = {"ES256": 256, "ES384": 384, "ES512": 521}
_KINDS: dict[str, tuple[tuple[type, ...], tuple[type, ...]]] = {
    "RS": ((rsa.RSAPrivateKey,), (rsa.RSAPublicKey,)),
    "PS": ((rsa.RSAPrivateKey,), (rsa.RSAPublicKey,)),
    "ES": ((ec.EllipticCurvePrivateKey,), (ec.EllipticCurvePublicKey,)),
    "Ed": ((ed25519.Ed25519PrivateKey,), (ed25519.Ed25519PublicKey,)),
}
"""Private and public keys by the first two letters of the method; methods without a row share a secret."""


class Keys:
    """What tokens are signed with (None: this member only verifies them) and verified with."""

    __slots__ = ("private", "public")

    def __init__(self, method: str, public_pem: bytes, private_pem: bytes) -> None:
        """Read the keys from the contents of their files, empty for none. Raises ValueError."""
        kinds = _KINDS.get(method[:2])
        self.private: Any = None
        self.public: Any = None
        if kinds is None:
            if not private_pem:
                raise ValueError("auth: missing key data")
            self.private = self.public = private_pem
            return
        if public_pem:
            self.public = _read(_load_public, public_pem, kinds[1], method)
        if private_pem:
            self.private = _read(_load_private, private_pem, kinds[0], method)
            own = self.private.public_key()
            if self.public is not None and self.public != own:
                raise ValueError("auth: public and private keys don't match")
            self.public = own
        if self.public is None:
            raise ValueError("auth: missing key data")


class JwtTokens:
    """`tokens.TokenProvider` of signed tokens. `wall()` is the time of day, as other members and issuers have it."""

    __slots__ = ("_algorithms", "_keys", "_method", "_remembered", "_ttl_s", "_wall")

    def __init__(self, method: str, keys: Keys, *, ttl_s: float, wall: Callable[[], float]) -> None:
        """Raises ValueError when the method cannot work with these keys."""
        self._method = method
        self._keys = keys
        self._ttl_s = ttl_s
        self._wall = wall
        self._algorithms = jwt.PyJWS(algorithms=[method])
        self._remembered: dict[bytes, tuple[Identity, float, float]] = {}
        try:
            if keys.private is not None:
                self._sign({})
        except (jwt.PyJWTError, TypeError) as error:
            raise ValueError(f"the key cannot be used with {method}: {error}") from error

    def prefix(self) -> str:
        """The log plays no part."""
        return ""

    def assign(self, user: str, auth_revision: int, simple_token: str, index: int, wanted: bool) -> str:
        """Sign a token, where somebody waits for it. Raises AuthVerifyOnly."""
        if self._keys.private is None:
            raise AuthVerifyOnly
        if not wanted:
            return ""
        return self._sign({"username": user, "revision": auth_revision, "exp": int(self._wall() + self._ttl_s)})

    def identify(self, token: bytes, auth_revision: int) -> Identity | None:
        """Whom a token names, at the revision it names, if its signature is good and its time is not over."""
        known = self._remembered.get(token)
        if known is None:
            known = self._verify(token)
            if known is None:
                return None
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[token] = known
        identity, not_before, expires = known
        return identity if not_before <= self._wall() < expires else None

    def made_at(self, token: bytes) -> int:
        """No entry makes tokens."""
        return 0

    def invalidate_user(self, user: str) -> None:
        """Their revision is old from now on: nothing to do."""

    def invalidate_all(self) -> None:
        """Their revision is old from now on: nothing to do."""

    def sweep(self, now: float) -> None:
        """Nothing is kept."""

    def _sign(self, claims: dict[str, Any]) -> str:
        payload = json.dumps(claims, separators=(",", ":"), sort_keys=True).encode()
        return self._algorithms.encode(payload, self._keys.private, self._method)

    def _verify(self, token: bytes) -> tuple[Identity, float, float] | None:
        try:
            claims = _read_claims(self._algorithms.decode(token, self._keys.public, [self._method]))
            user, revision = claims["username"], claims["revision"]
            not_before, expires = _moment(claims, "nbf", 0.0), _moment(claims, "exp", float("inf"))
            if not isinstance(user, str) or not isinstance(revision, float):
                return None
            number = int(revision)
            known = Identity(_SURROGATE.sub("\ufffd", user), number if 0 <= number <= _MAX_REVISION else _MAX_REVISION)
            return known, not_before, expires
        except (jwt.PyJWTError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return None


def _read_claims(payload: bytes) -> Any:
    """JSON as Go reads it: all numbers floats, bytes that are no text replaced. Raises ValueError."""
    text = payload.decode("utf-8", "replace")
    return json.loads(text, parse_int=_finite, parse_float=_finite, parse_constant=_no_number)


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError(text)
    return number


def _no_number(text: str) -> float:
    raise ValueError(text)


def _moment(claims: dict[str, Any], name: str, default: float) -> float:
    """A time of day among the claims. Raises TypeError."""
    value = claims.get(name, 0.0)
    if not isinstance(value, float):
        raise TypeError(name)
    return value or default  # zero is none, as for etcd's library


def _read(load: Callable[[bytes], Any], pem: bytes, kinds: tuple[type, ...], method: str) -> Any:
    key: Any
    try:
        key = load(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(f"not a PEM key for {method}: {error}") from error
    if not (isinstance(key, kinds) and _CURVES.get(method) in (None, getattr(key, "key_size", None))):
        raise ValueError(f"not a PEM key for {method}")
    return key


def _load_private(pem: bytes) -> Any:
    return load_pem_private_key(pem, password=None)


def _load_public(pem: bytes) -> Any:
    """A public key, or that of a certificate, as etcd takes both."""
    if b"BEGIN CERTIFICATE" in pem:
        return load_pem_x509_certificate(pem).public_key()
    return load_pem_public_key(pem)
