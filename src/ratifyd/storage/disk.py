"""Files of this machine behind the `Disk` port.

Paths are plain strings, writes are complete or raise, files are mode 0600 and directories 0700 (as etcd's). Every file
is opened close-on-exec. Knows nothing of what is stored.
"""

import errno
import fcntl
import os
import struct
from collections.abc import Sequence
from pathlib import Path

_FILE_MODE = 0o600
_DIRECTORY_MODE = 0o700
_NO_FALLOCATE = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
_OFD_SETLK = getattr(fcntl, "F_OFD_SETLK", -1)
"""Locks of an open file; where the kernel has none, etcd, too, takes flock."""
_WHOLE_FILE = struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
"""A `struct flock`."""
_DSYNC = getattr(os, "RWF_DSYNC", 0)
_MAX_CHUNKS = 1024
"""Buffers of one vectored write (Linux UIO_MAXIOV)."""
_ZEROS = bytes(1 << 20)


class OsFile:
    """An open file; safe to use from one thread at a time."""

    __slots__ = ("_fd", "_path")

    def __init__(self, path: str, *, create: bool = False) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), _FILE_MODE)

    def pread(self, size: int, offset: int) -> bytes:
        """At most `size` bytes from `offset`; fewer only at the end of the file."""
        try:
            data = os.pread(self._fd, size, offset)
            if len(data) == size or not data:
                return data
            parts = [data]
            got = len(data)
            while got < size and (data := os.pread(self._fd, size - got, offset + got)):
                parts.append(data)
                got += len(data)
            return b"".join(parts)
        except OSError as error:
            raise self.named(error) from error

    def pwrite(self, data: bytes, offset: int) -> None:
        try:
            written = os.pwrite(self._fd, data, offset)
            while written < len(data):
                written += os.pwrite(self._fd, memoryview(data)[written:], offset + written)
        except OSError as error:
            raise self.named(error) from error

    def pwrite_datasync(self, chunks: Sequence[bytes], offset: int) -> None:
        """Write all of the chunks, one behind the other, and make them durable, in one call to the kernel if it can."""
        if not _DSYNC or len(chunks) > _MAX_CHUNKS:
            self.pwrite(b"".join(chunks), offset)
            self.datasync()
            return
        size = sum(map(len, chunks))
        try:
            written = os.pwritev(self._fd, chunks, offset, _DSYNC)
            if written < size:
                rest = memoryview(b"".join(chunks))
                while written < size:
                    written += os.pwritev(self._fd, (rest[written:],), offset + written, _DSYNC)
        except OSError as error:
            raise self.named(error) from error

    def truncate(self, size: int) -> None:
        try:
            os.ftruncate(self._fd, size)
        except OSError as error:
            raise self.named(error) from error

    def allocate(self, size: int) -> None:
        """Reserve blocks up to `size`; where the file system cannot, write zeros."""
        try:
            os.posix_fallocate(self._fd, 0, size)
        except OSError as error:
            if error.errno not in _NO_FALLOCATE:
                raise self.named(error) from error
            for offset in range(self.size(), size, len(_ZEROS)):
                self.pwrite(_ZEROS[: size - offset], offset)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def datasync(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise self.named(error) from error

    def fileno(self) -> int:
        """The descriptor, for as long as the file is open."""
        return self._fd

    def lock(self) -> bool:
        """Lock the file as etcd does, which neither sees nor respects locks of another kind."""
        try:
            try:
                fcntl.fcntl(self._fd, _OFD_SETLK, _WHOLE_FILE)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Close the file and drop its lock; closing twice is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def named(self, error: OSError) -> OSError:
        """The error with the file it is about, by the name it has now: the kernel tells neither of open files."""
        try:
            path = str(Path(f"/proc/self/fd/{self._fd}").readlink())
        except OSError:
            path = self._path
        return OSError(error.errno, error.strerror, path)

    def __repr__(self) -> str:
        return f"OsFile({self._path!r})"


class OsDisk:
    """The file system of this machine."""

    __slots__ = ()

    def open(self, path: str, *, create: bool = False) -> OsFile:
        return OsFile(path, create=create)

    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

    def list(self, directory: str) -> list[str]:
        try:
            with os.scandir(directory) as entries:
                return sorted(entry.name for entry in entries)
        except FileNotFoundError:
            return []

    def make_dirs(self, directory: str) -> None:
        """Create a directory and its missing parents, all mode 0700."""
        path = Path(directory)
        for missing in reversed([path, *path.parents]):
            missing.mkdir(_DIRECTORY_MODE, exist_ok=True)

    def rename(self, old: str, new: str) -> None:
        Path(old).replace(new)

    def remove(self, path: str) -> None:
        Path(path).unlink()

    def sync_dir(self, directory: str) -> None:
        """Make created, renamed and removed names of a directory durable."""
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        except OSError as error:
            raise OSError(error.errno, error.strerror, directory) from error
        finally:
            os.close(fd)

    def free_bytes(self, directory: str) -> int:
        stat = os.statvfs(directory)
        return stat.f_bavail * stat.f_frsize
