"""What Linux says about a running process: CPU time and memory, its threads included."""

import os
import platform
from pathlib import Path


def cpu_seconds(pid: int) -> float:
    """User plus system time so far of all threads alive, to the nanosecond."""
    tasks = Path(f"/proc/{pid}/task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9


def resident_bytes(pid: int) -> int:
    """Resident set size: private memory and the touched part of mapped files."""
    return _status_bytes(pid, "VmRSS")


def private_bytes(pid: int) -> int:
    """The part of the resident set that is not a mapped file, which the kernel cannot simply drop."""
    return _status_bytes(pid, "RssAnon")


def _status_bytes(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise ValueError(f"no {field} for process {pid}")


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


def machine() -> str:
    """One line: processor, cores, kernel, Python."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{model}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"
