"""Versions this member reports: its own, and the etcd release whose behaviour and API it follows."""

RATIFYD_VERSION = "0.1.0"

ETCD_VERSION = "3.6.6"
"""The etcd release whose answers we give: Status.version, `/version`, X-Server-Version between members."""

MIN_CLUSTER_VERSION = "3.0.0"
"""Oldest cluster version this member can live in (etcd's own floor)."""

CLUSTER_VERSION = "3.6.0"
"""Highest cluster version this member supports: major.minor of ETCD_VERSION."""

STORAGE_VERSION = "3.6.0"
"""Schema version recorded in bucket `meta`, key `storageVersion`, since etcd 3.6."""


def minor_of(version: str) -> tuple[int, int]:
    """Major and minor number of a version. Raises ValueError."""
    major, minor, *_ = version.split(".")
    return int(major), int(minor)
