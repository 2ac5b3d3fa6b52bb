"""What Linux says about a running process: CPU time and memory, its threads included."""

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


def allocated_bytes(directory: Path) -> int:
    """Disk space that a directory's files occupy, preallocated parts included and holes not."""
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())
