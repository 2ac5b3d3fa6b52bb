"""Sizes as a real etcd logged them."""

import pytest

from ratifyd.logs import show_bytes


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (9, "9 B"),
        (10, "10 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (16384, "16 kB"),
        (20480, "20 kB"),
        (2147483648, "2.1 GB"),
        (8589934592, "8.6 GB"),
    ],
)
def test_sizes(size: int, shown: str) -> None:
    assert show_bytes(size) == shown
