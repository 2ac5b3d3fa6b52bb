"""Disks that fail: small file systems for servers, filled up, read-only or torn away, and system calls that fail.

A disk is a tmpfs, or an ext4 in a file, under the temporary directory; nothing else of the machine is touched. Needs
root; `why_not` and `why_no_ext4` tell what is missing. Failing calls are injected by strace into one running process
(`why_no_injection`).
"""

import atexit
import errno
import fcntl
import functools
import os
import re
import shutil
import struct
import subprocess
import tempfile
import time
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

_NAME = re.compile(r"^ratifyd-disk-(\d+)-")
_CALLED = re.compile(r"^\d+ +(\w+)\(", re.MULTILINE)
_CHUNK = bytes(1 << 20)
_SHUTDOWN = 0x8004587D
"""FS_IOC_SHUTDOWN: from then on every access fails with EIO."""
_NO_LOG_FLUSH = struct.pack("I", 2)
"""What the file system has not written by itself yet is lost, as in a power cut."""
_open: "weakref.WeakSet[SmallDisk]" = weakref.WeakSet()


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


@functools.cache
def why_not() -> str | None:
    """The reason why no disk can be made here, if there is one."""
    if os.geteuid():
        return "mounting a small disk needs root"
    try:
        _remove_leftovers()
        with SmallDisk(1):
            return None
    except OSError as error:
        return f"mounting a small disk is not permitted: {error}"


@functools.cache
def why_no_ext4() -> str | None:
    """The reason why no ext4 can be made here, if there is one."""
    if os.geteuid():
        return "mounting a disk needs root"
    if shutil.which("mkfs.ext4") is None:
        return "not installed: mkfs.ext4"
    try:
        with SmallDisk(4, ext4=True) as disk:
            disk.tear_away()
            return None
    except OSError as error:
        return f"mounting an ext4 is not permitted: {error}"


@functools.cache
def why_no_injection() -> str | None:
    """The reason why no system call can be made to fail here, if there is one."""
    if shutil.which("strace") is None:
        return "not installed: strace"
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        with failing_calls(sleeper.pid, "fsync"):
            return None
    except OSError as error:
        return f"tracing other processes is not permitted: {error}"
    finally:
        sleeper.kill()
        sleeper.wait()


class SmallDisk:
    """A file system of `megabytes`, empty; `path` is where it is mounted. A tmpfs, or with `ext4` one that can die."""

    def __init__(self, megabytes: int, *, ext4: bool = False) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix=f"ratifyd-disk-{os.getpid()}-"))
        self.path = self._directory / "disk"
        self.path.mkdir()
        self._filler = self.path / "filler"
        if ext4:
            image = self._directory / "image"
            with image.open("wb") as file:
                file.truncate(megabytes << 20)
            self._mount = ("mount", "-t", "ext4", "-o", "loop", str(image), str(self.path))
        else:
            self._mount = ("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "ratifyd-disk", str(self.path))
        _open.add(self)
        try:
            if ext4:
                _run("mkfs.ext4", "-q", "-m", "0", str(image))
            _run(*self._mount)
        except OSError:
            self.close()
            raise

    @property
    def free_bytes(self) -> int:
        """What can still be written."""
        stat = os.statvfs(self.path)
        return stat.f_bavail * stat.f_frsize

    def fill(self, *, leave: int = 0) -> None:
        """Take all space but `leave` bytes."""
        with self._filler.open("ab", buffering=0) as filler:
            while (room := self.free_bytes - leave) > 0:
                try:
                    filler.write(_CHUNK[:room])
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    return

    def free(self) -> None:
        """Give back what `fill` took."""
        self._filler.unlink(missing_ok=True)

    def set_read_only(self, on: bool) -> None:
        """Remount. OSError while a file is open for writing."""
        _run("mount", "-o", f"remount,{'ro' if on else 'rw'}", str(self.path))

    def abort(self) -> None:
        """Make an ext4 read-only under whoever writes to it, as the kernel does after an error of the disk."""
        _run("mount", "-o", "remount,abort", str(self.path))

    def tear_away(self) -> None:
        """Fail every access to an ext4 with EIO from now on; what was not synced is lost."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, _NO_LOG_FLUSH)
        finally:
            os.close(fd)

    def plug_in(self) -> None:
        """Mount an ext4 again after `abort` or `tear_away`; nobody may use it."""
        _run("umount", str(self.path))
        _run(*self._mount)

    def close(self) -> None:
        """Unmount, with all that is on it. May be called twice."""
        _open.discard(self)
        _remove(self._directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def failing_calls(pid: int, *calls: str, error: str = "EIO", first: int = 1, timeout_s: float = 20.0) -> Iterator[None]:
    """From the `first` time on, these system calls of a process and its threads fail during the block."""
    names = ",".join(calls)
    with _traced(pid, [f"trace={names}", f"inject={names}:error={error}:when={first}+"], "/dev/null", timeout_s):
        yield


@contextmanager
def counted_calls(pid: int, *calls: str, timeout_s: float = 20.0) -> Iterator[Counter[str]]:
    """How often a process and its threads make these system calls during the block; filled at its end."""
    counts: Counter[str] = Counter()
    with tempfile.NamedTemporaryFile() as lines:
        with _traced(pid, [f"trace={','.join(calls)}"], lines.name, timeout_s):
            yield counts
        counts.update(_CALLED.findall(lines.read().decode()))


@contextmanager
def _traced(pid: int, expressions: Sequence[str], into: str, timeout_s: float) -> Iterator[None]:
    """strace is attached to a process and its threads during the block."""
    with tempfile.TemporaryFile() as output:
        command = ["strace", "-f", "-p", str(pid), "-o", into]
        for expression in expressions:
            command += ["-e", expression]
        tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + timeout_s
            while b"attached" not in (said := os.pread(output.fileno(), 4096, 0)):
                if tracer.poll() is not None or time.monotonic() > deadline:
                    raise OSError(f"strace: {said.decode(errors='replace').strip()}")
                time.sleep(0.01)
            yield
        finally:
            tracer.terminate()
            tracer.wait()


def _remove(directory: Path) -> None:
    """Unmount and delete a disk."""
    subprocess.run(["umount", "--lazy", str(directory / "disk")], capture_output=True, timeout=30)
    shutil.rmtree(directory, ignore_errors=True)


def _remove_leftovers() -> None:
    """Disks of test runs that were killed before they could clean up."""
    for directory in Path(tempfile.gettempdir()).glob("ratifyd-disk-*"):
        found = _NAME.match(directory.name)
        if found and not Path("/proc", found[1]).exists():
            _remove(directory)


def _close_all() -> None:
    for disk in list(_open):
        disk.close()


atexit.register(_close_all)
