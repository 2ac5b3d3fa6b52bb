"""Password hashes are those of Go's bcrypt, which etcd uses."""

from random import Random

import pytest

from ratifyd.auth.passwords import MAX_BYTES, check_password, encode_hash, hash_password

# Made by etcd 3.5.1 with --bcrypt-cost=4, for the user and password "alice".
BY_ETCD = b"$2a$04$LmeVKz05q.9j1.B/.7Z6pOkU5ppp2sl8dB61LYbKf5P/.OsBVBnui"


def test_a_hash_fits_its_password_alone() -> None:
    salt = Random(1).randbytes(16)
    hashed = hash_password(b"secret", salt, 4)
    assert hashed.startswith(b"$2a$04$") and len(hashed) == 60
    assert hash_password(b"secret", salt, 4) == hashed
    assert check_password(b"secret", hashed)
    assert not check_password(b"Secret", hashed) and not check_password(b"", hashed)


def test_every_salt_is_written_as_bcrypt_writes_it() -> None:
    """A salt that came out wrong would make another hash when it is read again."""
    random = Random(2)
    for _ in range(20):
        assert check_password(b"x", hash_password(b"x", random.randbytes(16), 4))


def test_bytes_beyond_the_limit_do_not_count() -> None:
    longest = b"x" * MAX_BYTES
    assert check_password(longest + b"y", hash_password(longest, bytes(16), 4))


def test_zero_bytes_count() -> None:
    hashed = hash_password(b"a\0b", bytes(16), 4)
    assert check_password(b"a\0b", hashed) and not check_password(b"a", hashed)


@pytest.mark.parametrize("hashed", [b"", b"x", b"$2a$04$", b"$2a$99$" + b"a" * 53, b"\xff" * 60, b"$1$04$" + b"a" * 54])
def test_nothing_fits_what_is_no_hash(hashed: bytes) -> None:
    assert not check_password(b"", hashed)


def test_requests_carry_base64() -> None:
    assert encode_hash(b"$2a$") == "JDJhJA=="


def test_made_by_etcd() -> None:
    assert check_password(b"alice", BY_ETCD) and not check_password(b"Alice", BY_ETCD)
