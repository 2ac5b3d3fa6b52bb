"""Passwords as etcd stores them: bcrypt. Slow by intent: run these on a worker."""

import base64
import binascii

import bcrypt

MAX_BYTES = 72
"""What bcrypt looks at. etcd 3.6 refuses to set a longer password; older versions cut it, so it may still be tried."""
SALT_BYTES = 16

_BASE64 = bytes.maketrans(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
    b"./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
)


def hash_password(password: bytes, salt: bytes, cost: int) -> bytes:
    """The text to store for a password of at most `MAX_BYTES`, with a salt of `SALT_BYTES`."""
    digits = binascii.b2a_base64(salt, newline=False).rstrip(b"=").translate(_BASE64)
    return bcrypt.hashpw(password, b"$2a$%02d$%s" % (cost, digits))


def check_password(password: bytes, hashed: bytes) -> bool:
    """Whether a password belongs to a stored text; nothing belongs to a text that is not bcrypt's."""
    try:
        return bcrypt.checkpw(password[:MAX_BYTES], hashed)
    except ValueError:
        return False


def encode_hash(hashed: bytes) -> str:
    """A stored text as requests carry it."""
    return base64.b64encode(hashed).decode()
