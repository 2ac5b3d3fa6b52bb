"""Mistakes with the log, the disk, recovery and the backend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ratifyd.apply.entries import apply_entry
from ratifyd.apply.state import State
from ratifyd.embed.received import ReceivedFiles
from ratifyd.lease import LeaseBook
from ratifyd.mvcc.hash import CompactionHasher
from ratifyd.mvcc.store import Store
from ratifyd.raft.core import Raft
from ratifyd.raft.messages import HardState
from ratifyd.schema import CONSISTENT_INDEX, FINISHED_COMPACT, META, decode_u64, encode_u64
from ratifyd.server import node
from ratifyd.server.committer import Committer
from ratifyd.storage import recover, walread
from ratifyd.storage.snapshots import SnapshotFiles
from ratifyd.storage.wal import Wal
from ratifyd.storage.walread import SegmentName
from ratifyd.storage.walsegments import SegmentWriter
from simulation.mutants.planting import Patch, mutant

# --- log and disk ----------------------------------------------------------------------------------------------------


@mutant
def skip_fsync(patch: Patch) -> None:
    """The log is written, not synced."""

    def init(self: Any, disk: Any, directory: Any, segments: Any, offset: int, **rest: Any) -> None:
        original(self, disk, directory, segments, offset, **{**rest, "fsync": False})

    original = SegmentWriter.__init__
    patch(SegmentWriter, "__init__", init)


@mutant
def acknowledge_before_fsync(patch: Patch) -> None:
    """An append counts as durable at once."""

    def append(self: Any, entries: Any, hard_state: Any, done: Any) -> bool:
        original(self, entries, hard_state, lambda error: None)
        return True

    original = Wal.append
    patch(Wal, "append", append)


@mutant
def vote_not_persisted(patch: Patch) -> None:
    """The log keeps the term, but not for whom a member voted."""

    def append(self: Any, entries: Any, hard_state: Any, done: Any) -> bool:
        forgetful = hard_state and HardState(hard_state.term, 0, hard_state.commit)
        return original(self, entries, forgetful, done)

    original = Wal.append
    patch(Wal, "append", append)


@mutant
def term_not_persisted(patch: Patch) -> None:
    """Hard states are logged only together with entries."""

    def append(self: Any, entries: Any, hard_state: Any, done: Any) -> bool:
        return original(self, entries, hard_state if entries else None, done)

    original = Wal.append
    patch(Wal, "append", append)


@mutant
def torn_tail_accepted(patch: Patch) -> None:
    """A record whose checksum does not match is taken for good."""

    def refuse(self: Any, start: int, end: int, reason: str) -> None:
        if reason != "crc mismatch":
            original(self, start, end, reason)

    original = walread._Segment._refuse
    patch(walread._Segment, "_refuse", refuse)


@mutant
def log_made_in_place(patch: Patch) -> None:
    """A first start writes its log where later ones look for it, not whole or not at all."""

    def create(cls: Any, disk: Any, directory: str, image: bytes, *, fsync: bool, segment_bytes: int) -> Any:
        disk.make_dirs(directory)
        file = disk.open(f"{directory}/{SegmentName(0, 0)}", create=True)
        file.lock()
        file.allocate(segment_bytes)
        file.pwrite(image, 0)
        file.datasync()
        disk.sync_dir(directory)
        disk.sync_dir(directory.rpartition("/")[0])
        return cls(disk, directory, [(SegmentName(0, 0), file)], len(image), fsync=fsync, segment_bytes=segment_bytes)

    patch(SegmentWriter, "create", classmethod(create))


@mutant
def end_of_log_written_again(patch: Patch) -> None:
    """A start cuts the end of the log off and writes it again: good, unless that start is the next to crash."""

    def zero_tail(self: Any, *, needed: bool) -> None:
        file = self._segments[-1][1]
        begin = max(0, self._offset - 400)
        end = file.pread(self._offset - begin, begin)
        file.truncate(begin)
        file.pwrite(end, begin)
        file.datasync()
        original(self, needed=True)

    original = SegmentWriter.zero_tail
    patch(SegmentWriter, "zero_tail", zero_tail)


@mutant
def torn_tail_refused(patch: Patch) -> None:
    """A torn write at the end of the log is taken for damage."""
    patch(walread, "has_zero_sector", lambda data, offset: False)


@mutant
def damage_taken_for_torn(patch: Patch) -> None:
    """Whatever cannot be read ends the log, in the middle of it as well."""

    def refuse(self: Any, start: int, end: int, reason: str) -> None:
        raise walread._Torn

    patch(walread._Segment, "_refuse", refuse)


@mutant
def snapshot_ahead_of_backend(patch: Patch) -> None:
    """Snapshots do not wait until the backend holds what they stand for."""
    patch(Committer, "sync", lambda self, done: done())


@mutant
def snapshot_file_not_synced(patch: Patch) -> None:
    """Snapshot files are renamed into place without a sync."""

    def init(self: Any, disk: Any, directory: str, *, fsync: bool = True) -> None:
        original(self, disk, directory, fsync=False)

    original = SnapshotFiles.__init__
    patch(SnapshotFiles, "__init__", init)


@mutant
def segments_released_too_early(patch: Patch) -> None:
    """Log files go although the newest snapshot is before their entries."""
    original = SegmentWriter.release_to
    patch(SegmentWriter, "release_to", lambda self, index: original(self, index + 1_000_000))


@mutant
def start_trusts_the_kernel(patch: Patch) -> None:
    """A start does not sync what it finds in the log: a process that was killed may have left it to the kernel."""
    patch(SegmentWriter, "sync_all", lambda self: None)


@mutant
def cut_name_not_synced(patch: Patch) -> None:
    """The name of a new log file is not synced."""

    def cut(self: Any, name: SegmentName, head: bytes) -> None:
        disk, self._disk = self._disk, _WithoutNames(self._disk)
        try:
            original(self, name, head)
        finally:
            self._disk = disk

    original = SegmentWriter.cut
    patch(SegmentWriter, "cut", cut)


class _WithoutNames:
    """A disk that does not sync names."""

    def __init__(self, disk: Any) -> None:
        self._disk = disk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._disk, name)

    def sync_dir(self, path: str) -> None:
        """Do nothing."""


@mutant
def tail_not_zeroed(patch: Patch) -> None:
    """What a torn write left behind the end of the log stays there, to be read with what is written later."""
    original = SegmentWriter.zero_tail
    patch(SegmentWriter, "zero_tail", lambda self, *, needed: original(self, needed=False))


@mutant
def acks_ahead_of_an_older_sync(patch: Patch) -> None:
    """What needs no sync itself is acknowledged at once, although an older sync is still under way."""

    def ready(self: Any) -> Any:
        syncing, self._syncing = self._syncing, 0
        found = original(self)
        self._syncing += syncing
        return found

    original = Raft.ready
    patch(Raft, "ready", ready)


# --- images of other members -----------------------------------------------------------------------------------------


@mutant
def image_not_synced(patch: Patch) -> None:
    """A backend made of an image is not synced before it gets its name."""

    def convert(self: Any, path: str, snapshot: Any, pauses: Any) -> float:
        self._fsync = False
        try:
            return original(self, path, snapshot, pauses)
        finally:
            self._fsync = True

    original = ReceivedFiles._convert
    patch(ReceivedFiles, "_convert", convert)


@mutant
def pieces_of_images_stay(patch: Patch) -> None:
    """What is left of an image whose sender hung up is not removed."""
    patch(ReceivedFiles, "_discard", lambda self, path: None)


@mutant
def unwanted_images_stay(patch: Patch) -> None:
    """Backends that raft did not want are not removed."""
    patch(ReceivedFiles, "remove", lambda self, index: None)


# --- recovery and backend --------------------------------------------------------------------------------------------


@mutant
def forget_consistent_index(patch: Patch) -> None:
    """Data are committed, the index they reflect only now and then."""

    def seal(self: Any, done: Any) -> bool:
        index = self.consistent_index
        self.consistent_index = (
            index if not index % 4 else decode_u64(self.buffer.get(META, CONSISTENT_INDEX) or bytes(8))
        )
        try:
            return original(self, done)
        finally:
            self.consistent_index = index

    original = State.seal
    patch(State, "seal", seal)


@mutant
def index_ahead_of_data(patch: Patch) -> None:
    """The committed index is one more than what the data reflect."""

    def seal(self: Any, done: Any) -> bool:
        self.consistent_index += 1
        try:
            return original(self, done)
        finally:
            self.consistent_index -= 1

    original = State.seal
    patch(State, "seal", seal)


@mutant
def index_in_another_commit(patch: Patch) -> None:
    """The index is committed before the data, not with them (etcd issue 13766)."""

    def seal(self: Any, done: Any) -> bool:
        if self.buffer.flushing:
            return False
        rows = {META: {CONSISTENT_INDEX: encode_u64(self.consistent_index)}}
        self.buffer._backend.commit(rows, lambda error: None)
        return original(self, done)

    original = State.seal
    patch(State, "seal", seal)


@mutant
def committed_index_of_the_answer(patch: Patch) -> None:
    """When a commit ends, the backend is said to hold all that is applied by then, not by its beginning."""
    slot: Any = vars(Committer)["committed_index"]

    def end(self: Any, index: int) -> None:
        slot.__set__(self, self._state.consistent_index)

    patch(Committer, "committed_index", property(slot.__get__, end))


@mutant
def resumed_compaction_hash_complete(patch: Patch) -> None:
    """The hash of a compaction that a restart interrupted is taken for that of all its rows."""

    def restore(self: Any) -> None:
        original(self)
        finished = self._meta_revision(FINISHED_COMPACT)
        for job in self._compaction._jobs:
            job.hasher = CompactionHasher(revision=job.revision, previous=finished)

    original = Store._restore_compaction
    patch(Store, "_restore_compaction", restore)


@mutant
def replay_from_snapshot(patch: Patch) -> None:
    """After a restart entries are applied again, whatever the backend says it holds."""

    def restore(self: Any) -> Iterator[int]:
        yield from original(self)
        self.consistent_index = max(0, self.consistent_index - 2)

    original = State.restore
    patch(State, "restore", restore)
    fit = recover._fit_together

    def fit_together(*arguments: Any) -> Any:
        recovered = fit(*arguments)
        recovered.applied = max(recovered.snapshot.meta.index, recovered.applied - 2)
        return recovered

    patch(recover, "_fit_together", fit_together)


@mutant
def apply_twice(patch: Patch) -> None:
    """Now and then an entry is executed again."""

    def apply(state: Any, index: int, term: int, data: bytes, waiters: Any) -> Any:
        outcome = apply_entry(state, index, term, data, waiters)
        if not index % 50 and data and outcome is not None and not outcome.error:
            state.consistent_index = index - 1
            apply_entry(state, index, term, data, {})
        return outcome

    patch(node, "apply_entry", apply)


@mutant
def snapshot_keeps_leases(patch: Patch) -> None:
    """A snapshot from the leader replaces everything but the leases."""
    patch(LeaseBook, "take_over", lambda self, other: None)
