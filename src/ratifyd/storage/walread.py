"""Reading etcd's WAL: which files to read, what their records say, and where a torn write begins.

A write that a crash tore off the end of the last file is cut, as etcd cuts it; any other damage is refused with
`WalCorrupt`, because what follows it may have been acknowledged. Reading never changes a file; `repair` does.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple, NoReturn

from google_crc32c import extend

from ratifyd.ports import Disk, File
from ratifyd.raft.codec import DecodeError, decode_entry, decode_hard_state, encode_hard_state
from ratifyd.raft.messages import Entry, EntryKind, HardState, SnapshotMeta
from ratifyd.storage.failures import RESTORE_OR_REPLACE
from ratifyd.storage.walrecord import (
    FRAME_BYTES,
    SECTOR_BYTES,
    RecordKind,
    decode_length_word,
    decode_record,
    decode_snapshot_record,
    decode_unframed_record,
    has_zero_sector,
)

_ADVICE = f"The log cannot be trusted from there on and was left untouched. {RESTORE_OR_REPLACE}."
_COPY_BYTES = 1 << 20
_KINDS = frozenset(RecordKind)
# Plain ints: looking a member up in an enum costs as much as reading its record.
_METADATA, _ENTRY, _STATE, _CRC, _SNAPSHOT = map(int, RecordKind)


class WalCorrupt(Exception):
    """The log on disk is damaged in a way no crash explains; the message says where, and what to do."""

    def __init__(self, path: str, offset: int, reason: str) -> None:
        super().__init__(f"WAL is damaged: {reason}, in {path} at offset {offset}. {_ADVICE}")
        self.path = path
        self.offset = offset
        self.reason = reason


class SegmentLocked(Exception):
    """Another process holds a file of this log; the message says what to do."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path} is locked by another process, which has this log open. Stop that one, or give this member "
            "directories of its own with --data-dir and --wal-dir"
        )


class WalSnapshotMissing(Exception):
    """The log does not hold the snapshot record it should be read from."""


class SegmentName(NamedTuple):
    """Name of a WAL file: its sequence number and the first log index it may hold."""

    sequence: int
    first_index: int

    def __str__(self) -> str:
        return f"{self.sequence:016x}-{self.first_index:016x}.wal"

    @classmethod
    def parse(cls, name: str) -> "SegmentName | None":
        """Read a file name; None for anything but a WAL file."""
        stem, dot, suffix = name.partition(".")
        sequence, dash, index = stem.partition("-")
        if suffix != "wal" or not dot or not dash or len(sequence) != 16 or len(index) != 16:
            return None
        try:
            return cls(int(sequence, 16), int(index, 16))
        except ValueError:
            return None


class WalContents:
    """What the log says from a snapshot on; `entries` hold every index above it, later writes over earlier ones."""

    __slots__ = ("entries", "hard_state", "metadata", "snapshots")

    def __init__(self) -> None:
        self.metadata = b""
        self.hard_state = HardState()
        self.entries: list[Entry] = []
        self.snapshots: list[SnapshotMeta] = []


class WalEnd(NamedTuple):
    """Where writing goes on, in the last file: `torn` when a torn write follows, `clean` when only zeros do."""

    offset: int
    crc: int
    torn: bool
    clean: bool


class _Torn(Exception):
    """The last record is a write cut short."""


def segment_names(disk: Disk, directory: str) -> list[SegmentName]:
    """WAL files of a directory in order; other files (preallocated, broken) are passed over."""
    return [name for text in disk.list(directory) if (name := SegmentName.parse(text)) is not None]


def select_segments(disk: Disk, directory: str, snapshot_index: int) -> list[SegmentName]:
    """Files to read from a snapshot on. Raises WalCorrupt when they are missing or not consecutive."""
    names = segment_names(disk, directory)
    first = max((at for at, name in enumerate(names) if name.first_index <= snapshot_index), default=-1)
    if first < 0:
        raise WalCorrupt(directory, 0, f"no file holds the log from snapshot index {snapshot_index} on")
    names = names[first:]
    for name, following in itertools.pairwise(names):
        if following.sequence != name.sequence + 1:
            raise WalCorrupt(f"{directory}/{following}", 0, f"the file after sequence {name.sequence} is missing")
    return names


def open_locked(disk: Disk, path: str, *, create: bool = False) -> File:
    """Open a file of a log for this process alone. Raises SegmentLocked."""
    file = disk.open(path, create=create)
    if not file.lock():
        file.close()
        raise SegmentLocked(path)
    return file


class LogReading:
    """A whole log, read once: its `contents` from the snapshot at `index` and `term` on, and where it ends."""

    __slots__ = ("contents", "end", "index", "matched", "tail", "term")

    def __init__(
        self, contents: WalContents, end: WalEnd, index: int, term: int, *, matched: bool, tail: File | None
    ) -> None:
        self.contents = contents
        self.end = end
        self.index = index
        self.term = term
        self.matched = matched
        """Whether the log has a record of that snapshot."""
        self.tail = tail
        """The last file, if it was locked, until whoever goes on writing there takes it over."""

    def close(self) -> None:
        """Unlock the log, unless it is written by now."""
        if self.tail is not None:
            self.tail.close()

    def valid_snapshots(self) -> list[SnapshotMeta]:
        """Snapshots the log names at or below its last commit index, oldest first."""
        contents = self.contents
        return [meta for meta in contents.snapshots if meta.index <= contents.hard_state.commit]

    def check(self, directory: str) -> None:
        """Raise WalCorrupt or WalSnapshotMissing unless a member can go on from the snapshot."""
        if not self.contents.metadata:
            raise WalCorrupt(directory, 0, "there is no metadata record")
        if self.matched:
            return
        for meta in self.contents.snapshots:
            if meta.index == self.index:
                raise WalSnapshotMissing(
                    f"wal: snapshot mismatch: index {meta.index} has term {meta.term}. {RESTORE_OR_REPLACE}"
                )
        raise WalSnapshotMissing(
            f"wal: snapshot not found: {directory} has no record of index {self.index}, term {self.term}. "
            f"{RESTORE_OR_REPLACE}"
        )


def read_log(
    disk: Disk, directory: str, snapshot_index: int = 0, snapshot_term: int = 0, *, lock: bool = False
) -> LogReading:
    """Read all files of a log; entries from a snapshot on, which the log need not know. Raises WalCorrupt.

    With `lock` nobody else can write it until the reading is closed or written on from. Raises SegmentLocked then.
    """
    contents = WalContents()
    collect = _Collector(contents, snapshot_index, snapshot_term)
    paths = [f"{directory}/{name}" for name in segment_names(disk, directory)]
    files: list[tuple[str, File]] = []
    tail = None
    try:
        for path in paths:
            locked = lock and path == paths[-1]  # whoever writes the log has that one
            files.append((path, open_locked(disk, path) if locked else disk.open(path)))
        wanted = select_segments(disk, directory, snapshot_index)
        end = _read_files(files, len(files) - len(wanted), collect)
        if lock:
            _, tail = files.pop()
    finally:
        for _, file in files:
            file.close()
    return LogReading(contents, end, snapshot_index, snapshot_term, matched=collect.matched, tail=tail)


def repair(disk: Disk, path: str, offset: int) -> None:
    """Cut a torn write off the last file, keeping a copy beside it under `.broken`, with holes for its zeros."""
    source = disk.open(path)
    copy = disk.open(path + ".broken", create=True)
    try:
        copy.truncate(0)
        size = source.size()
        for position in range(0, size, _COPY_BYTES):
            data = source.pread(min(_COPY_BYTES, size - position), position)
            if data.count(0) < len(data):
                copy.pwrite(data, position)
        copy.truncate(size)
        copy.datasync()
        source.truncate(offset)
        source.datasync()
    finally:
        copy.close()
        source.close()


class _Collector:
    """Keeps what records say, and looks for the one of the starting snapshot."""

    __slots__ = ("_contents", "_index", "_term", "matched")

    def __init__(self, contents: WalContents, index: int, term: int) -> None:
        self._contents = contents
        self._index = index
        self._term = term
        self.matched = False

    def take_old(self, kind: int, data: bytes) -> None:
        """One record of a file whose entries are not needed. Raises DecodeError when its content cannot be right."""
        if kind != _ENTRY:
            self._take_other(kind, data)

    def take(self, kind: int, data: bytes) -> None:
        """One record. Raises DecodeError when its content cannot be right."""
        if kind == _ENTRY:
            self._take_entry(decode_entry(data))
        else:
            self._take_other(kind, data)

    def _take_other(self, kind: int, data: bytes) -> None:
        contents = self._contents
        if kind == _STATE:
            state = decode_hard_state(data)
            if not state.term or len(data) > len(encode_hard_state(state)):
                raise DecodeError("record is no hard state")
            contents.hard_state = state
        elif kind == _SNAPSHOT:
            meta = decode_snapshot_record(data)
            contents.snapshots.append(meta)
            self.matched |= meta.index == self._index and meta.term == self._term
        elif kind == _METADATA:
            if contents.metadata and contents.metadata != data:
                raise DecodeError("metadata differs from an earlier file's")
            contents.metadata = data
        else:
            raise DecodeError(f"unexpected block type {kind}")

    def _take_entry(self, entry: Entry) -> None:
        if not entry.term or not entry.index or (entry.kind is EntryKind.CONF_CHANGE and not entry.data):
            raise DecodeError(f"entry {entry.index} is no entry")
        position = entry.index - self._index - 1
        if position < 0:
            return
        entries = self._contents.entries
        if position < len(entries):
            del entries[position:]
        elif position > len(entries):
            raise DecodeError(f"entries between {self._index + len(entries)} and {entry.index} are missing")
        if entries and entries[-1].term > entry.term:
            raise DecodeError(f"term goes back to {entry.term} at entry {entry.index}")
        entries.append(entry)


def _read_files(files: Sequence[tuple[str, File]], old: int, collector: _Collector) -> WalEnd:
    """Read open files; entries in the first `old` of them are passed over."""
    end = WalEnd(0, 0, torn=False, clean=True)
    for number, (path, file) in enumerate(files, 1):
        take = collector.take if number > old else collector.take_old
        image = file.pread(file.size(), 0)
        segment = _Segment(image, end.crc, last=number == len(files))
        try:
            for kind, data in segment.records():
                take(kind, data)
        except DecodeError as error:
            raise WalCorrupt(path, segment.offset, str(error)) from error
        except _Torn:
            return WalEnd(segment.offset, segment.crc, torn=True, clean=False)
        offset = segment.offset
        end = WalEnd(offset, segment.crc, torn=False, clean=image.count(0, offset) == len(image) - offset)
    return end


class _Segment:
    """One file's bytes and the rolling crc through them; `offset` is behind the last good record."""

    __slots__ = ("_image", "_last", "crc", "offset")

    def __init__(self, image: bytes, crc: int, *, last: bool) -> None:
        self._image = image
        self._last = last
        self.crc = crc
        self.offset = 0

    def records(self) -> Iterator[tuple[int, bytes]]:
        """(type, data) of each record but crc records. Raises DecodeError, or _Torn in the last file."""
        image, size = self._image, len(self._image)
        offset = 0
        while offset + FRAME_BYTES <= size:
            record_size, pad = decode_length_word(image, offset)
            if not record_size and not pad:
                self._check_end(offset)
                return
            start = offset + FRAME_BYTES
            end = start + record_size
            if pad != -record_size & 7:
                raise DecodeError("impossible length word")
            if end + pad > size:
                self._refuse(start, end, "record is longer than its file")
            try:
                kind, crc, data = decode_record(image, start, end)
            except DecodeError as error:
                self._refuse(start, end, str(error))
            if kind == _CRC:
                if self.crc and crc != self.crc:
                    raise DecodeError("crc mismatch with what came before")
                self.crc = crc
            else:
                after = extend(self.crc, data)
                if after != crc:
                    self._refuse(start, end, "crc mismatch")
                self.crc = after
                yield kind, data
            self.offset = offset = end + pad
        if offset < size:
            self._refuse(offset, size + 1, "file ends within a length word")

    def _refuse(self, start: int, end: int, reason: str) -> NoReturn:
        """Tell a torn write from damage: only the former leaves a zero sector, or a record running over the file's end.

        A record that is whole, but ends elsewhere than its length word says, proves that the word was damaged later.
        """
        image = self._image
        torn = self._last and (end + (start - end & 7) > len(image) or has_zero_sector(image[start:end], start))
        if torn and self._whole_until(start) in (0, end):
            raise _Torn
        raise DecodeError(reason)

    def _whole_until(self, start: int) -> int:
        """Where the intact record starting here ends, whatever its length word says; 0 when none does."""
        try:
            kind, crc, data, end = decode_unframed_record(self._image, start)
        except DecodeError:
            return 0
        return end if kind in _KINDS and extend(self.crc, data) == crc else 0

    def _check_end(self, offset: int) -> None:
        """A lost write zeroes whole sectors: bytes behind a zero length word in its own sector are damage."""
        start = offset + FRAME_BYTES
        end = min(len(self._image), (offset // SECTOR_BYTES + 1) * SECTOR_BYTES)
        if self._image.count(0, start, end) != end - start:
            raise DecodeError("length word was zeroed")
