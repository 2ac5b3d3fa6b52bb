"""The table of errors, against the codes and texts etcd itself uses."""

import pytest

from ratifyd import errors
from ratifyd.errors import Code, EtcdError, RequestError, Unavailable

ROWS = {
    name: value
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, EtcdError) and value.message
}


def test_rows_know_their_name_and_say_their_text() -> None:
    assert len(ROWS) > 60
    for name, row in ROWS.items():
        assert row.__name__ == name
        assert str(row()) == row.message
        assert row.code != Code.OK
        assert issubclass(row, RequestError) != issubclass(row, Unavailable)


def test_no_two_rows_say_the_same_with_another_code() -> None:
    by_text: dict[str, set[Code]] = {}
    for row in ROWS.values():
        by_text.setdefault(row.message, set()).add(row.code)
    assert all(len(codes) == 1 for codes in by_text.values())


@pytest.mark.parametrize(
    ("row", "code", "text"),
    [
        ("EmptyKey", 3, "etcdserver: key is not provided"),
        ("Compacted", 11, "etcdserver: mvcc: required revision has been compacted"),
        ("NoSpace", 8, "etcdserver: mvcc: database space exceeded"),
        ("LeaseNotFound", 5, "etcdserver: requested lease not found"),
        ("NoLeader", 14, "etcdserver: no leader"),
        ("Timeout", 14, "etcdserver: request timed out"),
        ("RequestTooManyRequests", 2, "etcdserver: too many requests"),
        ("Corrupt", 15, "etcdserver: corrupt cluster"),
        ("PermissionDenied", 7, "etcdserver: permission denied"),
        ("InvalidAuthToken", 16, "etcdserver: invalid auth token"),
        ("DeadlineExceeded", 4, "etcdserver: context deadline exceeded"),
    ],
)
def test_rows_as_they_stand_on_the_wire(row: str, code: int, text: str) -> None:
    assert (ROWS[row].code, ROWS[row].message) == (code, text)


def test_texts_made_from_a_request() -> None:
    error = RequestError.with_text(Code.INTERNAL, "grpc: something")
    assert (error.code, error.message, str(error)) == (Code.INTERNAL, "grpc: something", "grpc: something")
    assert isinstance(error, RequestError)
    assert RequestError.message == ""
