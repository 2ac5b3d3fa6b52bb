"""The files of the WAL behind the one being written: preallocation ahead of time, cuts, locks and deletion.

Writes come one at a time, from the worker or the loop; everything else runs on the worker only.
"""

from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Protocol, runtime_checkable

from ratifyd.ports import Disk, File
from ratifyd.storage.walread import SegmentName, open_locked, segment_names

SPARES = ("0.tmp", "1.tmp")
"""Names of files that are not part of the log yet, in turn."""


@runtime_checkable
class _SyncingFile(Protocol):
    """A file that can write and sync in one call: a thread then meets the interpreter's lock once, not twice."""

    def pwrite_datasync(self, chunks: Sequence[bytes], offset: int) -> None: ...


class SegmentWriter:
    """The open files of a log; writes go to the end of the last one."""

    __slots__ = (
        "_directory",
        "_disk",
        "_offset",
        "_segment_bytes",
        "_segments",
        "_spare",
        "_spares_made",
        "_write_at",
        "fsync",
        "intact",
    )

    def __init__(
        self,
        disk: Disk,
        directory: str,
        segments: list[tuple[SegmentName, File]],
        offset: int,
        *,
        fsync: bool,
        segment_bytes: int,
    ) -> None:
        """Take over locked files, oldest first; writing goes on at `offset` of the last."""
        self._disk = disk
        self._directory = directory
        self._segments = segments
        self._offset = offset
        self.fsync = fsync
        self._segment_bytes = segment_bytes
        self._spare: tuple[str, File] | None = None
        self._spares_made = 0
        self._write_at = self._writing(segments[-1][1])
        self.intact = True
        """False after a failed write or sync: nothing may be written behind it."""

    @classmethod
    def create(cls, disk: Disk, directory: str, image: bytes, *, fsync: bool, segment_bytes: int) -> "SegmentWriter":
        """Make a first file that starts with `image`, whole or not at all, and its directory if there is none.

        The file is renamed, and not its directory as etcd does: that may be a mount point, or named by a link.
        """
        disk.make_dirs(directory)
        name, unfinished = SegmentName(0, 0), f"{directory}/{SPARES[0]}"
        file = _preallocated(disk, unfinished, segment_bytes)
        try:
            if segment_names(disk, directory):  # only now that the file is ours can there be no other log any more
                raise FileExistsError(f"another process has just made a log in {directory}")
            file.pwrite(image, 0)
            if fsync:
                file.datasync()
            disk.rename(unfinished, f"{directory}/{name}")
            writer = cls(disk, directory, [(name, file)], len(image), fsync=fsync, segment_bytes=segment_bytes)
            writer._sync_names()
        except BaseException:
            file.close()
            if disk.exists(unfinished):
                disk.remove(unfinished)
            raise
        return writer

    def zero_tail(self, *, needed: bool) -> None:
        """Make the rest of the last file zeros, preallocated: leftovers of a torn write must not be read later."""
        file = self._segments[-1][1]
        if needed:
            file.truncate(self._offset)
        if file.size() < self._segment_bytes:
            file.allocate(self._segment_bytes)

    def sync_all(self) -> None:
        """Make durable what was found: a process that was killed may have left it to the kernel, names included."""
        if self.fsync:
            for _, file in self._segments:
                file.datasync()
        self._sync_names()

    def write(self, chunks: Sequence[bytes], size: int) -> None:
        """Write chunks of `size` bytes in all at the end, durably unless syncs are off."""
        self.intact = False
        self._write_at(chunks, self._offset)
        self._offset += size
        self.intact = True

    def begin(self, chunks: Sequence[bytes], size: int) -> File:
        """Write chunks as `write` does, but for the sync: sync the file returned, then call `settled`."""
        self.intact = False
        file = self._segments[-1][1]
        file.pwrite(b"".join(chunks), self._offset)
        self._offset += size
        return file

    def settled(self) -> None:
        """What was begun is durable."""
        self.intact = True

    def cut(self, name: SegmentName, head: bytes) -> None:
        """Close the file at its end and go on in a new one that starts with `head`."""
        self.intact = False
        tail = self._segments[-1][1]
        tail.truncate(self._offset)
        if self.fsync:
            tail.datasync()
        if self._spare is None:
            self.prepare_spare()
        assert self._spare is not None
        path, file = self._spare
        self._spare = None
        file.pwrite(head, 0)
        if self.fsync:
            file.datasync()
        self._disk.rename(path, f"{self._directory}/{name}")
        if self.fsync:
            self._disk.sync_dir(self._directory)
        self._segments.append((name, file))
        self._write_at = self._writing(file)
        self._offset = len(head)
        self.intact = True

    def prepare_spare(self) -> None:
        """Preallocate the next file, unless there is one."""
        if self._spare is not None:
            return
        path = f"{self._directory}/{SPARES[self._spares_made % 2]}"
        file = _preallocated(self._disk, path, self._segment_bytes)
        self._spares_made += 1
        self._spare = (path, file)

    def release_to(self, index: int) -> None:
        """Close the files before the last one that may hold entry `index`."""
        needed = max((at for at, (name, _) in enumerate(self._segments) if name.first_index < index), default=0)
        for _, file in self._segments[:needed]:
            file.close()
        del self._segments[:needed]

    def purge(self, keep: int) -> None:
        """Delete the oldest files while more than `keep` exist, up to the first that is locked, by us or by others."""
        names = segment_names(self._disk, self._directory)
        removed = False
        for name in names[: max(0, len(names) - keep)]:
            path = f"{self._directory}/{name}"
            file = self._disk.open(path)
            try:
                if not file.lock():
                    break
                self._disk.remove(path)
                removed = True
            finally:
                file.close()
        if removed and self.fsync:
            self._disk.sync_dir(self._directory)

    def close(self) -> None:
        """Close all files and drop the preallocated one. Syncs nothing: `write` did."""
        for _, file in self._segments:
            file.close()
        if self._spare is not None:
            path, file = self._spare
            file.close()
            self._disk.remove(path)
            self._spare = None

    def _sync_names(self) -> None:
        if self.fsync:
            self._disk.sync_dir(self._directory)
            self._disk.sync_dir(str(PurePath(self._directory).parent))

    def _writing(self, file: File) -> Callable[[Sequence[bytes], int], None]:
        if self.fsync and isinstance(file, _SyncingFile):
            return file.pwrite_datasync

        def write(chunks: Sequence[bytes], offset: int) -> None:
            file.pwrite(b"".join(chunks), offset)
            if self.fsync:
                file.datasync()

        return write


def discard_spares(disk: Disk, directory: str) -> None:
    """Remove what a crash left preallocated or unfinished. Raises SegmentLocked when a process is at work on it."""
    for name in disk.list(directory):
        if name in SPARES:
            path = f"{directory}/{name}"
            file = open_locked(disk, path)
            disk.remove(path)
            file.close()


def _preallocated(disk: Disk, path: str, size: int) -> File:
    """A file of zeros, locked."""
    file = open_locked(disk, path, create=True)
    try:
        file.truncate(0)
        file.allocate(size)
    except BaseException:
        file.close()
        disk.remove(path)  # what it holds of a full disk, others need
        raise
    return file
