"""The write-ahead log, byte for byte etcd's: files named by sequence and index, framed records, one rolling crc.

`append` encodes at once and makes durable in groups: one write and one sync in flight, and whatever arrives meanwhile
is the next group. Answers come in the order of the calls, always from the loop and never from inside a call. A failed
write or sync is final: every waiting call is told, later calls raise WalFailed, nothing is retried. Does not know what
entries mean, nor when they commit.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Protocol

from ratifyd.config.values import show_duration
from ratifyd.ports import Disk, Done, File, Syncs, Worker
from ratifyd.raft.codec import encode_entries, encode_hard_state
from ratifyd.raft.messages import Entry, HardState, SnapshotMeta
from ratifyd.storage.syncpolicy import ON_LOOP_BYTES, SMALL_BYTES, SyncPolicy
from ratifyd.storage.walread import (
    LogReading,
    SegmentName,
    WalContents,
    open_locked,
    read_log,
    repair,
    segment_names,
    select_segments,
)
from ratifyd.storage.walrecord import (
    RecordKind,
    encode_crc_record,
    encode_records,
    encode_snapshot_record,
)
from ratifyd.storage.walsegments import SPARES, SegmentWriter, discard_spares

SEGMENT_BYTES = 64_000_000
WARN_SYNC_S = 1.0
"""A sync that takes longer is logged (etcd warnSyncDuration)."""

_log = logging.getLogger("ratifyd.storage")


class WalFailed(Exception):
    """The disk failed under the log, or the log is closed. The member must stop; what is on disk stays valid."""


class Histogram(Protocol):
    def observe(self, value: float) -> object: ...


class WalMetrics(Protocol):
    """What the log counts."""

    wal_write_bytes: int

    @property
    def wal_fsync_seconds(self) -> Histogram: ...

    @property
    def wal_write_seconds(self) -> Histogram: ...


class _Flight:
    """Bytes written and synced together, and who waits for them; with `cut`, the last ones of their file."""

    __slots__ = ("chunks", "cut", "dones", "size")

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.size = 0
        self.dones: list[Done] = []
        self.cut: tuple[SegmentName, bytes] | None = None


class Wal:
    """The log of one member, open for appending. All calls come from the loop."""

    __slots__ = (
        "_clock",
        "_closed",
        "_closing",
        "_crc",
        "_delivering",
        "_failed",
        "_flying",
        "_gathering",
        "_last_index",
        "_metadata",
        "_metrics",
        "_name",
        "_offset",
        "_policy",
        "_segment_bytes",
        "_state",
        "_syncing",
        "_syncs",
        "_waiting",
        "_worker",
        "_writer",
    )

    def __init__(
        self,
        writer: SegmentWriter,
        *,
        metadata: bytes,
        name: SegmentName,
        offset: int,
        crc: int,
        last_index: int,
        state: HardState | None,
        worker: Worker,
        syncs: Syncs | None,
        segment_bytes: int,
        metrics: WalMetrics | None,
        policy: SyncPolicy | None,
        clock: Callable[[], float],
    ) -> None:
        """Use `create` or `open`."""
        self._writer = writer
        self._metadata = metadata
        self._name = name
        self._offset = offset
        self._crc = crc
        self._last_index = last_index
        self._state = state
        self._worker = worker
        self._segment_bytes = segment_bytes
        self._metrics = metrics
        self._syncs = syncs if writer.fsync else None
        """None: all that is not synced in place goes to the worker."""
        self._policy = policy or SyncPolicy(in_place_bytes=ON_LOOP_BYTES if self._syncs is None else SMALL_BYTES)
        self._clock = clock
        self._gathering = _Flight()
        self._waiting: deque[_Flight] = deque()
        self._flying: _Flight | None = None
        self._delivering = False
        self._failed: BaseException | None = None
        self._syncing = False
        """Whether the flight is the kernel's."""
        self._closed = False
        self._closing: Done | None = None
        self._prepare_spare()

    @classmethod
    def create(
        cls,
        disk: Disk,
        directory: str,
        metadata: bytes,
        *,
        worker: Worker,
        syncs: Syncs | None = None,
        fsync: bool = True,
        segment_bytes: int = SEGMENT_BYTES,
        entries: Sequence[Entry] = (),
        hard_state: HardState | None = None,
        metrics: WalMetrics | None = None,
        policy: SyncPolicy | None = None,
        clock: Callable[[], float] = perf_counter,
    ) -> "Wal":
        """Make a new log holding `entries` and `hard_state`, whole or not at all.

        Blocks; raises FileExistsError when something is there already, SegmentLocked when another process does this.
        """
        if not set(disk.list(directory)) <= set(SPARES):
            raise FileExistsError(f"{directory} is not empty, but a new log needs a directory of its own (--wal-dir)")
        discard_spares(disk, directory)
        out = [encode_crc_record(0)]
        crc = encode_records(RecordKind.METADATA, (metadata,), 0, out)
        crc = encode_records(RecordKind.SNAPSHOT, (encode_snapshot_record(SnapshotMeta()),), crc, out)
        crc = _encode(entries, hard_state, crc, out)
        image = b"".join(out)
        writer = SegmentWriter.create(disk, directory, image, fsync=fsync, segment_bytes=segment_bytes)
        return cls(
            writer,
            metadata=metadata,
            name=SegmentName(0, 0),
            offset=len(image),
            crc=crc,
            last_index=entries[-1].index if entries else 0,
            state=hard_state,
            worker=worker,
            syncs=syncs,
            segment_bytes=segment_bytes,
            metrics=metrics,
            policy=policy,
            clock=clock,
        )

    @classmethod
    def open(
        cls,
        disk: Disk,
        directory: str,
        *,
        snapshot_index: int,
        snapshot_term: int,
        reading: LogReading | None = None,
        worker: Worker,
        syncs: Syncs | None = None,
        fsync: bool = True,
        segment_bytes: int = SEGMENT_BYTES,
        metrics: WalMetrics | None = None,
        policy: SyncPolicy | None = None,
        clock: Callable[[], float] = perf_counter,
    ) -> tuple["Wal", WalContents]:
        """Read the log from a snapshot on, cut a torn write off its end, and go on writing there. Blocks the caller.

        A `reading` of the log, its lock included, is taken over: one from that snapshot on spares reading it again.
        What a crash left beside the log is removed, once the log is ours.

        Raises WalCorrupt, WalSnapshotMissing, and SegmentLocked when another process writes this log.
        """
        names = select_segments(disk, directory, snapshot_index)
        files: list[tuple[SegmentName, File]] = []
        tail = None if reading is None else reading.tail
        try:
            files.extend((name, open_locked(disk, f"{directory}/{name}")) for name in names[:-1])
            files.append((names[-1], tail or open_locked(disk, f"{directory}/{names[-1]}")))
            if reading is not None and (reading.index, reading.term) == (snapshot_index, snapshot_term):
                fitting = reading
            else:
                fitting = read_log(disk, directory, snapshot_index, snapshot_term)
            fitting.check(directory)
            contents, end = fitting.contents, fitting.end
            discard_spares(disk, directory)
            if end.torn:
                _log.warning("cutting a torn write off %s/%s at offset %d", directory, names[-1], end.offset)
                repair(disk, f"{directory}/{names[-1]}", end.offset)
            writer = SegmentWriter(disk, directory, files, end.offset, fsync=fsync, segment_bytes=segment_bytes)
            writer.zero_tail(needed=not end.clean)
            writer.sync_all()
        except BaseException:
            for _, file in files:
                file.close()
            raise
        if reading is not None:
            reading.tail = None
        wal = cls(
            writer,
            metadata=contents.metadata,
            name=names[-1],
            offset=end.offset,
            crc=end.crc,
            last_index=max(snapshot_index, contents.entries[-1].index if contents.entries else 0),
            state=contents.hard_state if contents.hard_state.term else None,
            worker=worker,
            syncs=syncs,
            segment_bytes=segment_bytes,
            metrics=metrics,
            policy=policy,
            clock=clock,
        )
        return wal, contents

    def append(self, entries: Sequence[Entry], hard_state: HardState | None, done: Done) -> bool:
        """Log entries, then the hard state; with neither, just wait for what was appended before.

        True: all is durable, and so is everything before; go on at once, `done` is *not* called. False: `done(None)` or
        `done(error)` follows from the loop, in the order of the appends. Raises WalFailed after any failure, this
        call's own included.
        """
        out: list[bytes] = []
        crc = _encode(entries, hard_state, self._crc, out)
        if entries:
            self._last_index = entries[-1].index
        if hard_state is not None:
            self._state = hard_state
        return self._add(out, crc, done)

    def save_snapshot(self, meta: SnapshotMeta, done: Done) -> bool:
        """Log that the snapshot of `meta` is on disk; answers as `append` does.

        A snapshot counts only if the state behind it has committed as much (see `valid_snapshots`), but raft lets a
        commit index wait for the next entries. So it goes along, and behind: without the snapshot it may be too high.
        """
        out: list[bytes] = []
        crc = encode_records(RecordKind.SNAPSHOT, (encode_snapshot_record(meta),), self._crc, out)
        if self._state is not None and self._state.commit < meta.index:
            self._state = self._state._replace(commit=meta.index)
            crc = _encode((), self._state, crc, out)
        self._last_index = max(self._last_index, meta.index)
        return self._add(out, crc, done)

    def release_to(self, index: int) -> None:
        """Unlock the files that reading from a snapshot at `index` no longer needs; `purge` may then delete them."""
        self._tidy(lambda: self._writer.release_to(index), "releasing WAL files")

    def purge(self, keep: int) -> None:
        """Delete the oldest released files, as long as more than `keep` files are left."""
        self._tidy(lambda: self._writer.purge(keep), "purging WAL files")

    @property
    def closed(self) -> bool:
        """Whether `close` was called: the member stops."""
        return self._closed

    def close(self, done: Done | None = None) -> None:
        """Write and sync what waits, then close the files, all on the worker; then the waiting and `done` are told."""
        if self._closed:
            return
        self._closed = True
        self._closing = done
        if not self._syncing:
            self._wind_up()

    def _add(self, chunks: list[bytes], crc: int, done: Done) -> bool:
        if self._failed is not None or self._closed:
            raise WalFailed("the log is closed" if self._failed is None else f"the disk failed: {self._failed!r}")
        self._crc = crc
        flight = self._gathering
        if chunks:
            data = b"".join(chunks)
            self._offset += len(data)
            flight.chunks.append(data)
            flight.size += len(data)
            if self._offset >= self._segment_bytes:
                self._begin_cut(flight)
        if self._flying is None and not self._delivering:
            if not chunks:
                return True
            if flight.cut is None and self._policy.in_place(flight.size):
                self._write_in_place(flight)
                return True
            flight.dones.append(done)
            self._fly()
            return False
        flight.dones.append(done)
        return False

    def _begin_cut(self, flight: _Flight) -> None:
        """The next record opens a new file, headed by crc, metadata and state."""
        head = [encode_crc_record(self._crc)]
        crc = encode_records(RecordKind.METADATA, (self._metadata,), self._crc, head)
        if self._state is not None:
            crc = encode_records(RecordKind.STATE, (encode_hard_state(self._state),), crc, head)
        image = b"".join(head)
        self._name = SegmentName(self._name.sequence + 1, self._last_index + 1)
        self._crc = crc
        self._offset = len(image)
        flight.cut = (self._name, image)
        self._waiting.append(flight)
        self._gathering = _Flight()

    def _write_in_place(self, flight: _Flight) -> None:
        try:
            seconds = self._write(flight)
        except BaseException as error:
            self._failed = error
            if isinstance(error, OSError):
                raise WalFailed(f"the disk failed: {error!r}") from error
            raise
        self._note(flight, seconds, in_place=True)
        flight.chunks.clear()
        flight.size = 0

    def _fly(self) -> None:
        """Send the next flight off."""
        if self._waiting:
            flight = self._waiting.popleft()
        else:
            flight = self._gathering
            self._gathering = _Flight()
        self._flying = flight
        if self._syncs is not None and flight.cut is None and self._policy.in_kernel(flight.size):
            self._write_ahead(flight, self._syncs)
        else:
            self._worker.submit(lambda: self._write(flight), self._landed)

    def _write_ahead(self, flight: _Flight, syncs: Syncs) -> None:
        """Write on the loop, and have the kernel sync it."""
        started = self._clock()

        def synced(error: BaseException | None) -> None:
            self._syncing = False
            closed = self._closed  # if an answer closes it, the next flight may be on its way: `close` sees to that
            if error is None:
                self._writer.settled()
            self._landed(self._clock() - started, error)
            if closed:
                self._wind_up()

        try:
            file = self._writer.begin(flight.chunks, flight.size)
            self._policy.note_write(self._clock() - started)
            syncs.begin(file, synced)
        except OSError as error:
            self._worker.submit(partial(_raise, error), self._landed)  # nobody is told from inside a call
        else:
            self._syncing = True

    def _write(self, flight: _Flight) -> float:
        """Write, sync, and cut when due; returns the seconds of write and sync. Runs on the worker, or in place."""
        started = self._clock()
        self._writer.write(flight.chunks, flight.size)
        seconds = self._clock() - started
        if flight.cut is not None:
            self._writer.cut(*flight.cut)
        return seconds

    def _landed(self, seconds: float | None, error: BaseException | None) -> None:
        flight = self._flying
        assert flight is not None
        self._flying = None
        if error is not None or seconds is None:
            self._fail(flight, error)
            return
        self._note(flight, seconds, in_place=False)
        if flight.cut is not None:
            self._prepare_spare()
        self._go_on()
        self._deliver(flight.dones)

    def _go_on(self) -> None:
        """Keep the disk busy while the loop deals with what landed."""
        if self._flying is None and not self._closed and (self._waiting or self._gathering.size):
            self._fly()

    def _deliver(self, dones: list[Done]) -> None:
        self._delivering = True
        try:
            while dones:
                for done in dones:
                    done(None)
                dones = []
                self._go_on()
                if self._flying is None and not self._closed:
                    # What has nothing to log waited for those before it only.
                    dones, self._gathering.dones = self._gathering.dones, dones
        finally:
            self._delivering = False

    def _note(self, flight: _Flight, seconds: float, *, in_place: bool) -> None:
        self._policy.note(seconds, in_place=in_place)
        synced = self._writer.fsync
        metrics = self._metrics
        if metrics is not None:
            metrics.wal_write_bytes += flight.size
            # One call to the kernel writes and syncs: its time counts as the sync's, unless there is none.
            (metrics.wal_fsync_seconds if synced else metrics.wal_write_seconds).observe(seconds)
        if seconds > WARN_SYNC_S and synced:
            fields = {"took": show_duration(seconds), "expected-duration": show_duration(WARN_SYNC_S)}
            _log.warning("slow fdatasync", extra={"fields": fields})

    def _fail(self, flight: _Flight, error: BaseException | None) -> None:
        self._failed = error = error or WalFailed("the log is closed")
        for failed in (flight, *self._waiting, self._gathering):
            for done in failed.dones:
                done(error)
            failed.dones = []
        self._waiting.clear()

    def _wind_up(self) -> None:
        """Write what waits, and close, on the worker."""
        flights, done = [*self._waiting, self._gathering], self._closing
        self._waiting.clear()
        self._gathering = _Flight()
        self._worker.submit(lambda: self._finish(flights), lambda _, error: self._finished(flights, done, error))

    def _finish(self, flights: list[_Flight]) -> None:
        try:
            if self._writer.intact:
                for flight in flights:
                    if flight.size:
                        self._write(flight)
        finally:
            self._writer.close()

    def _finished(self, flights: list[_Flight], done: Done | None, error: BaseException | None) -> None:
        error = error or self._failed
        for flight in flights:
            for waiting in flight.dones:
                waiting(error)
        if done is not None:
            done(error)

    def _prepare_spare(self) -> None:
        self._tidy(self._writer.prepare_spare, "preallocating a WAL file")

    def _tidy(self, job: Callable[[], None], what: str) -> None:
        """Run a job on the worker whose failure is no failure of the log."""
        if not self._closed:
            self._worker.submit(job, _warn_of(what))


def _encode(entries: Sequence[Entry], hard_state: HardState | None, crc: int, out: list[bytes]) -> int:
    if entries:
        crc = encode_records(RecordKind.ENTRY, encode_entries(entries), crc, out)
    if hard_state is not None:
        crc = encode_records(RecordKind.STATE, (encode_hard_state(hard_state),), crc, out)
    return crc


def _raise(error: BaseException) -> float:
    raise error


def _warn_of(what: str) -> Callable[[None, BaseException | None], None]:
    def check(_: None, error: BaseException | None) -> None:
        if error is not None:
            _log.warning("%s failed: %r", what, error)

    return check


def wal_exists(disk: Disk, directory: str) -> bool:
    """Whether a log was created here; an unfinished one is none."""
    return bool(segment_names(disk, directory))
