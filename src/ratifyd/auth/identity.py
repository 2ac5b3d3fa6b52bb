"""Who a request comes from, and names as the log has them."""

from typing import Final, NamedTuple

ROOT: Final = "root"
"""The user that must exist before auth can be enabled, and the role that may do everything."""


class Identity(NamedTuple):
    """A user, and the revision of the auth store when that was established; 0 when nobody was."""

    user: str
    revision: int


NEWEST_REVISION: Final = (1 << 63) - 1
"""At least any that an auth store will have: whoever has it need not fear to be out of date."""

ANONYMOUS: Final = Identity("", 0)


def name_of(raw: bytes) -> str:
    """A name from the log or the backend. etcd takes any bytes: what is no UTF-8 has to survive the way back."""
    return raw.decode("utf-8", "surrogateescape")


def raw_name(name: str) -> bytes:
    """The bytes of a name."""
    return name.encode("utf-8", "surrogateescape")
