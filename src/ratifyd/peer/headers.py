"""Headers by which members know each other, and the checks on them (formats 9.1). Quiet: no I/O."""

from collections.abc import Mapping, Sequence
from typing import Final

from ratifyd.version import ETCD_VERSION, MIN_CLUSTER_VERSION

INCOMPATIBLE_VERSION: Final = "incompatible version"
CLUSTER_ID_MISMATCH: Final = "cluster ID mismatch"
_OLDEST: Final = "2.0.0"
"""What a missing header stands for."""
_FIRST_WITH_STREAMS: Final = (2, 1)
_HEX: Final = frozenset("0123456789abcdefABCDEF")

Version = tuple[int, int]


def identity(local_id: int, cluster_id: int, peer_urls: Sequence[str]) -> list[tuple[str, str]]:
    """Headers of every request to a raft path."""
    headers = [
        ("X-Server-From", f"{local_id:x}"),
        ("X-Server-Version", ETCD_VERSION),
        ("X-Min-Cluster-Version", MIN_CLUSTER_VERSION),
        ("X-Etcd-Cluster-ID", f"{cluster_id:x}"),
    ]
    if peer_urls:
        headers.append(("X-PeerURLs", ",".join(peer_urls)))
    return headers


def major_minor(text: str) -> Version | None:
    """Major and minor part of a version; None if it is not one."""
    parts = text.split(".")
    if len(parts) < 3 or not all(part.isascii() and part.isdigit() and len(part) <= 9 for part in parts[:2]):
        return None
    return int(parts[0]), int(parts[1])


_LOCAL: Final = major_minor(ETCD_VERSION) or (0, 0)
_LOCAL_MIN: Final = major_minor(MIN_CLUSTER_VERSION) or (0, 0)


def refusal(headers: Mapping[str, str], cluster_id: int) -> str | None:
    """Why a request with these headers is answered with 412; None if it is not."""
    server = major_minor(headers.get("x-server-version", _OLDEST))
    minimum = major_minor(headers.get("x-min-cluster-version", _OLDEST))
    if server is None or minimum is None or server < _LOCAL_MIN or minimum > _LOCAL:
        return INCOMPATIBLE_VERSION
    if headers.get("x-etcd-cluster-id", "") != f"{cluster_id:x}":
        return CLUSTER_ID_MISMATCH
    return None


def has_streams(headers: Mapping[str, str]) -> bool:
    """Whether the member that answered with these headers knows our streams."""
    server = major_minor(headers.get("x-server-version", _OLDEST))
    return server is not None and server >= _FIRST_WITH_STREAMS


def parse_id(text: str) -> int | None:
    """A member or cluster id in hexadecimal; None if it is not one."""
    value = int(text, 16) if text and set(text) <= _HEX else 0
    return value if 0 < value < 1 << 64 else None


def sender_urls(headers: Mapping[str, str]) -> tuple[str, ...]:
    """Peer URLs the sender names; empty if it names none."""
    text = headers.get("x-peerurls", "")
    return tuple(url.strip() for url in text.split(",")) if text else ()
