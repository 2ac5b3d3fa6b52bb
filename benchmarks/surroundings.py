"""What the figures were taken on, and how much else went on meanwhile."""

import importlib.metadata
import os
import platform
import re
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.load import find_h2load
from harness.binaries import server_command

_TICKS = os.sysconf("SC_CLK_TCK")
_GIB = 2**30


def file_system(directory: Path) -> str:
    """Type of the file system a directory lies on, such as ext4; tmpfs makes every fsync free."""
    best, kind = "", "unknown"
    real = str(directory.resolve())
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, mounted_kind, *_ = line.split()
        inside = real == mount or real.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, mounted_kind
    return kind


def processor() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def version_of(kind: str) -> str:
    """What a server of this kind calls itself."""
    if kind == "ratifyd":
        return importlib.metadata.version("ratifyd")
    printed = subprocess.run([*server_command(kind), "--version"], capture_output=True, text=True, timeout=30).stdout
    found = re.search(r"etcd Version: (\S+)", printed)
    return found[1] if found else "unknown"


def _commit() -> str:
    """The commit of this checkout, with a plus sign when files differ from it; empty outside of one."""
    root = Path(__file__).resolve().parent.parent
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.strip()
    except OSError:
        return ""


def environment(names: tuple[str, str], directory: Path, note: str) -> dict[str, Any]:
    """Hardware and versions, as they stand in a file of results."""
    h2load = subprocess.run([find_h2load(), "--version"], capture_output=True, text=True, timeout=30).stdout
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / _GIB),
        "kernel": platform.release(),
        "file_system": file_system(directory),
        "python": f"{platform.python_version()} built {' '.join(platform.python_build()[1].split()[:3])}",
        "h2load": h2load.strip(),
        "commit": _commit(),
        "reference": names[0].removeprefix("other-"),
        "reference_version": version_of(names[0]),
        "subject": names[1].removeprefix("other-"),
        "subject_version": version_of(names[1]),
        "note": note,
    }


def _machine_s() -> float:
    """Seconds all cores together were busy since boot, by what runs in processes."""
    fields = [int(each) for each in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    user, nice, system = fields[:3]
    stolen = fields[7] if len(fields) > 7 else 0
    return (user + nice + system + stolen) / _TICKS


def _our_s() -> float:
    """Processor seconds of this process and of all it has started, those that have ended included."""
    times: dict[int, tuple[int, float]] = {}
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        times[int(path.name)] = int(fields[1]), sum(int(each) for each in fields[11:15]) / _TICKS
    ours = {os.getpid()}
    while grown := {pid for pid, (parent, _) in times.items() if parent in ours} - ours:
        ours |= grown
    return sum(times[pid][1] for pid in ours)


class Others:
    """How many cores processes other than ours keep busy."""

    def __init__(self) -> None:
        self._began = time.monotonic(), _machine_s(), _our_s()

    def cores(self) -> float:
        """On the average, since the beginning."""
        began, machine, ours = self._began
        elapsed = max(time.monotonic() - began, 1e-3)
        return max(0.0, (_machine_s() - machine - (_our_s() - ours)) / elapsed)
