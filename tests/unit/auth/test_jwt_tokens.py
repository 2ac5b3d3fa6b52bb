"""Signed tokens: every method, what is refused, and that nothing a client sends can do harm."""

import base64
import json
from random import Random
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from ratifyd.auth.identity import Identity
from ratifyd.auth.jwt import JwtTokens, Keys
from ratifyd.config.authtoken import METHODS
from ratifyd.errors import AuthVerifyOnly

SECRET = b"0123456789abcdef" * 4
_RSA = rsa.generate_private_key(65537, 2048)
_CURVES = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}


def private_key(method: str) -> Any:
    if method.startswith("ES"):
        return ec.generate_private_key(_CURVES[method])
    return ed25519.Ed25519PrivateKey.generate() if method == "EdDSA" else _RSA


def pem(key: Any) -> bytes:
    if hasattr(key, "private_bytes"):
        return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


class Wall:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def make(method: str, public: bytes = b"", private: bytes = b"", wall: Wall | None = None) -> JwtTokens:
    return JwtTokens(method, Keys(method, public, private), ttl_s=300, wall=wall or Wall())


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def tokens(wall: Wall) -> JwtTokens:
    return make("HS256", private=SECRET, wall=wall)


def signed(claims: dict[str, Any], method: str = "HS256", secret: bytes = SECRET) -> bytes:
    return jwt.encode(claims, secret, method).encode()


@pytest.mark.parametrize("method", METHODS)
def test_every_method(method: str) -> None:
    key = SECRET if method.startswith("HS") else pem(private_key(method))
    tokens = make(method, private=key)
    token = tokens.assign("alice", 7, "", 51, wanted=True).encode()
    assert tokens.identify(token, 99) == tokens.identify(token, 99) == Identity("alice", 7)
    assert tokens.assign("alice", 7, "", 51, wanted=False) == ""
    head, payload, signature = token.split(b".")
    assert json.loads(base64.b64decode(head + b"==")) == {"alg": method, "typ": "JWT"}
    claims = json.loads(base64.b64decode(payload + b"=="))
    assert claims == {"username": "alice", "revision": 7, "exp": 1_700_000_300}
    broken = bytes([signature[0] ^ 1]) + signature[1:]
    assert tokens.identify(b".".join((head, payload, broken)), 99) is None


@pytest.mark.parametrize("method", ["RS256", "PS384", "ES256", "EdDSA"])
def test_a_public_key_only_verifies(method: str) -> None:
    key = private_key(method)
    signer, verifier = make(method, private=pem(key)), make(method, public=pem(key.public_key()))
    token = signer.assign("u", 3, "", 1, wanted=True).encode()
    assert verifier.identify(token, 3) == Identity("u", 3)
    for wanted in (True, False):
        with pytest.raises(AuthVerifyOnly):
            verifier.assign("u", 3, "", 1, wanted=wanted)


def test_time(tokens: JwtTokens, wall: Wall) -> None:
    token = tokens.assign("u", 3, "", 1, wanted=True).encode()
    wall.now += 299
    assert tokens.identify(token, 3) is not None
    wall.now += 1
    assert tokens.identify(token, 3) is None
    later = signed({"username": "u", "revision": 1, "nbf": wall.now + 5})
    assert tokens.identify(later, 3) is None
    wall.now += 5
    assert tokens.identify(later, 3) == Identity("u", 1)


def test_claims_of_others(tokens: JwtTokens) -> None:
    """What etcd takes: no exp is for ever, numbers may be fractions, other claims mean nothing."""
    assert tokens.identify(signed({"username": "u", "revision": 4}), 9) == Identity("u", 4)
    assert tokens.identify(signed({"username": "u", "revision": 4.7, "exp": 0}), 9) == Identity("u", 4)
    foreign = {"username": "u", "revision": 4, "aud": "x", "iss": "y", "iat": 9e12, "sub": "z"}
    assert tokens.identify(signed(foreign), 9) == Identity("u", 4)
    for claims in (
        {"revision": 4},
        {"username": "u"},
        {"username": 5, "revision": 4},
        {"username": "u", "revision": "4"},
        {"username": "u", "revision": True},
        {"username": "u", "revision": 4, "exp": "tomorrow"},
        {"username": "u", "revision": 4, "exp": None},
    ):
        assert tokens.identify(signed(claims), 9) is None, claims


def raw(payload: bytes) -> bytes:
    """A token of claims that Python would not write."""
    return jwt.PyJWS(algorithms=["HS256"]).encode(payload, SECRET, "HS256").encode()


@pytest.mark.parametrize("revision", [b"-1", b"1e30", b"-1e30", b"18446744073709551616"])
def test_a_revision_out_of_bounds_is_newer_than_any(tokens: JwtTokens, revision: bytes) -> None:
    claims = b'{"username":"u","revision":' + revision + b"}"
    assert tokens.identify(raw(claims), 9) == Identity("u", (1 << 64) - 1)


@pytest.mark.parametrize("number", [b"Infinity", b"-Infinity", b"NaN", b"1e400", b"1" + b"0" * 400])
def test_what_is_no_number_in_json(tokens: JwtTokens, number: bytes) -> None:
    for name in (b"exp", b"nbf", b"revision", b"other"):
        assert tokens.identify(raw(b'{"username":"u","revision":3,"' + name + b'":' + number + b"}"), 9) is None


@pytest.mark.parametrize(
    ("name", "user"),
    [
        (rb"ber\ud800", "ber\ufffd"),
        (rb"\udc00\ud83d\ude00", "\ufffd\U0001f600"),
        (b"ber\xff", "ber\ufffd"),
        ("bér".encode(), "bér"),
    ],
)
def test_a_name_that_is_no_text(tokens: JwtTokens, name: bytes, user: str) -> None:
    """As Go reads it; written to the log, a half of a character ended the client's connection."""
    found = tokens.identify(raw(b'{"username":"' + name + b'","revision":3}'), 9)
    assert found == Identity(user, 3)
    assert found.user.encode()


def test_another_method_or_key_is_refused(tokens: JwtTokens) -> None:
    claims = {"username": "root", "revision": 4}
    assert tokens.identify(signed(claims, "HS512"), 9) is None
    assert tokens.identify(signed(claims, secret=b"another" * 8), 9) is None
    assert tokens.identify(jwt.encode(claims, None, "none").encode(), 9) is None
    public = pem(_RSA.public_key())
    verifier = make("RS256", public=public)
    forged = base64.urlsafe_b64encode(b'{"alg":"HS256"}').rstrip(b"=") + b".e30."
    assert verifier.identify(forged, 9) is None


def test_rubbish(tokens: JwtTokens) -> None:
    good = tokens.assign("u", 3, "", 1, wanted=True).encode()
    random = Random(5)
    nested = base64.urlsafe_b64encode(b"[" * 40_000).rstrip(b"=")
    for token in (b"", b".", b"..", b"a.b.c", b"\xff.\xff.\xff", b"x" * 60_000, nested + b".e30.x", b"bad.1"):
        assert tokens.identify(token, 3) is None
    for _ in range(2000):
        token = bytearray(good)
        for _ in range(random.randrange(1, 4)):
            token[random.randrange(len(token))] = random.randrange(256)
        if bytes(token) != good:
            found = tokens.identify(bytes(token), 3)
            assert found is None or found == Identity("u", 3)  # base64 has idle bits at its end


def test_memory_is_bounded(tokens: JwtTokens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ratifyd.auth.jwt.MAX_REMEMBERED", 3)
    for user in "abcdefgh":
        token = tokens.assign(user, 3, "", 1, wanted=True).encode()
        assert tokens.identify(token, 3) == Identity(user, 3)
        assert len(tokens._remembered) <= 3


def test_keys_that_will_not_do() -> None:
    other = rsa.generate_private_key(65537, 2048)
    for method, public, private, text in (
        ("RS256", b"", b"", "auth: missing key data"),
        ("HS256", b"", b"", "auth: missing key data"),
        ("HS256", SECRET, b"", "auth: missing key data"),
        ("RS256", pem(other.public_key()), pem(_RSA), "auth: public and private keys don't match"),
        ("RS256", b"rubbish", b"", "not a PEM key for RS256"),
        ("ES256", b"", pem(_RSA), "not a PEM key for ES256"),
        ("ES256", b"", pem(private_key("ES384")), "not a PEM key for ES256"),
        ("EdDSA", pem(_RSA.public_key()), b"", "not a PEM key for EdDSA"),
        ("RS256", pem(_RSA), b"", "not a PEM key for RS256"),
    ):
        with pytest.raises(ValueError, match=text):
            make(method, public, private)
    assert make("RS256", pem(_RSA.public_key()), pem(_RSA)).assign("u", 1, "", 1, wanted=True)
