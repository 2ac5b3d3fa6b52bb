"""The backend on disk: one LMDB file, one named database per bucket, one transaction per commit.

The loop reads from a transaction that is exchanged when a commit is acknowledged, so what it sees never changes under
it; the worker owns everything that writes. Keys of LMDB end at 511 bytes: longer user and role names are stored under
a digest, with the name in the value. A failed commit is final. Does not know what rows mean.
"""

import errno
import fcntl
import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from time import perf_counter, sleep

import lmdb

from ratifyd import schema
from ratifyd.ports import BackendView, Done, Row, Rows, Scanned, Undone, Worker
from ratifyd.storage.failures import RESTORE_OR_REPLACE, explain

MAP_BYTES = 64 << 30
"""Address space set aside for the file, which itself only grows as it fills."""

SLICE_ROWS = 256
"""Rows written while holding the interpreter; the loop gets its turn in between."""

MAX_VIEWS = 1000
"""Views pinned at the same time, a page of LMDB's lock file each."""

_LONG_KEY_BUCKETS = frozenset((schema.AUTH_USERS, schema.AUTH_ROLES))
_PREFIX_BYTES = 511 - 32
_BBOLT_MAGIC_AT, _BBOLT_MAGIC = 16, 0xED0CDAED.to_bytes(4, "little")
_IS_BBOLT = (
    "it is the bbolt file of an etcd, whose data directory cannot be taken over. Join etcd's cluster with an empty "
    "data directory instead (etcdctl member add, --initial-cluster-state=existing), then remove the old member"
)
_LENGTH_BYTES = 4
_ERROR_NUMBERS = {os.strerror(number): number for number in errno.errorcode}
_FULL_BYTES = 64 << 10
_READERS_BYTES = (MAX_VIEWS + 3) * 64
"""LMDB's table of readers: a cache line for each and two for itself."""


class BackendInUse(Exception):
    """Another process has this backend file open."""


class BackendBroken(Exception):
    """The file is no backend, or an earlier commit failed."""


class LmdbBackend:
    """`ports.Backend` over an LMDB file. Calls come from the loop; writing jobs run on the worker, in order."""

    __slots__ = ("_closed", "_file", "_fsync", "_map_bytes", "_path", "_reading", "_worker", "_writing", "on_commit")

    def __init__(self, path: str, *, worker: Worker, map_bytes: int = MAP_BYTES, fsync: bool = True) -> None:
        """Open or create the file at `path`, with all buckets. Raises BackendInUse and BackendBroken."""
        self._path = path
        self._worker = worker
        self._map_bytes = map_bytes
        self._fsync = fsync
        self._closed = False
        self.on_commit: Callable[[float, float], None] = lambda commit_s, flush_s: None
        """Called on the loop with the duration of a commit, and of its last phase: writing out and syncing."""
        self._writing = _LmdbFile(path, map_bytes=map_bytes, fsync=fsync)
        self._reading = self._writing.read()
        self._writing.views += 1

    def get(self, bucket: bytes, key: bytes) -> bytes | None:
        """Value of a key, None when absent."""
        return self._reading.get(bucket, key)

    def get_many(self, bucket: bytes, keys: Iterable[bytes]) -> list[bytes | None]:
        """Values of keys, in their order."""
        return self._reading.get_many(bucket, keys)

    def range(self, bucket: bytes, start: bytes, end: bytes | None) -> list[Row]:
        """Rows with start <= key < end in key order."""
        return self._reading.range(bucket, start, end)

    def scan(self, bucket: bytes, start: bytes, end: bytes | None, rows: int, max_bytes: int) -> Scanned:
        """The first `rows` rows of a range, fewer once their values come to `max_bytes`, and where to go on."""
        return self._reading.scan(bucket, start, end, rows, max_bytes)

    def view(self) -> BackendView:
        """The current read transaction, kept until the view is closed. Costs nothing until a commit replaces it."""
        return _PinnedView(self._reading.pin())

    def own_view(self) -> BackendView:
        """The last commit in a read transaction nobody else uses, fit to be read on another thread."""
        view = self._writing.read()
        view.file.views += 1
        return _PinnedView(view)

    def commit(self, rows: Rows, done: Done) -> None:
        """Write a sealed batch in one transaction; visible from the moment `done` is called."""
        took = 0.0

        def job() -> "_LmdbView":
            nonlocal took
            began = perf_counter()
            view = self._writing.write(rows)
            took = perf_counter() - began
            return view

        def committed(error: BaseException | None) -> None:
            if error is None:
                self.on_commit(took, self._writing.flush_s)
            done(error)

        self._exchange(job, committed)

    def defragment(self, done: Done) -> None:
        """Rewrite the file without its free pages; reads go on meanwhile, commits wait. Undone if there is no room."""
        self._exchange(self._compacted, done)

    def replace(self, source: str, done: Done) -> None:
        """Make the complete LMDB file `source`, in the same directory, the backend; it is renamed over the old one."""
        self._exchange(lambda: self._adopt(source), done)

    def size(self) -> int:
        """Bytes of the file up to its last used page (etcd dbSize)."""
        return self._reading.size

    def size_in_use(self) -> int:
        """Bytes of the pages that hold data (etcd dbSizeInUse)."""
        return self._reading.size_in_use()

    @property
    def open_views(self) -> int:
        """Read transactions that keep pages from being used again, the loop's own left out."""
        return self._writing.views - 1

    def close(self) -> None:
        """Close the file. Call when the worker has no more jobs of ours; views must not be used any more."""
        if not self._closed:
            self._closed = True
            self._reading.unpin()
            self._writing.close()

    def _exchange(self, job: "Callable[[], _LmdbView]", done: Done) -> None:
        """Run `job` on the worker; the transaction it opened replaces the loop's."""

        def exchanged(reading: "_LmdbView | None", error: BaseException | None) -> None:
            if reading is not None:
                old, self._reading = self._reading, reading
                reading.file.views += 1
                if old.file is not reading.file:
                    # Views of a replaced file keep it open until they are closed.
                    old.file.wanted = False
                old.unpin()
            done(error)

        self._worker.submit(job, exchanged)

    def _compacted(self) -> "_LmdbView":
        copy = f"{self._path}.tmp.defrag"
        _remove_file(copy)
        try:
            self._writing.copy_to(copy)
            _reserve_readers(copy + "-lock")
        except (OSError, BackendBroken) as error:
            _remove_file(copy)
            raise Undone(explain(error) or str(error)) from error
        return self._adopt(copy)

    def _adopt(self, source: str) -> "_LmdbView":
        new = _LmdbFile(source, map_bytes=self._map_bytes, fsync=self._fsync)
        try:
            new.rename(self._path)
        except BaseException:
            new.close()
            raise
        self._writing = new
        return new.read()


class _LmdbFile:
    """One open LMDB environment and its buckets, with an advisory lock on the file."""

    __slots__ = ("_broken", "_buckets", "_env", "_fsync", "_lock_fd", "_path", "flush_s", "views", "wanted")

    def __init__(self, path: str, *, map_bytes: int, fsync: bool) -> None:
        self._path = path
        self._fsync = fsync
        self.views = 0
        """Read transactions the loop knows of; the file is closed with the last one once it is not `wanted`."""
        self.wanted = True
        self.flush_s = 0.0
        """How long the last commit took to write out and sync what it had gathered."""
        self._broken = False
        self._lock_fd = _lock_file(path)
        try:
            _reserve_readers(path + "-lock")
            self._env = lmdb.open(
                path,
                subdir=False,
                map_size=map_bytes,
                max_dbs=len(schema.BUCKETS) + 1,
                max_readers=MAX_VIEWS,
                max_spare_txns=4,
                mode=0o600,
                sync=fsync,
                metasync=fsync,
            )
            with self._env.begin(write=True) as txn:  # one, for a transaction costs syncs where a bucket is new
                self._buckets = {name: self._env.open_db(name, txn=txn) for name in schema.BUCKETS}
        except lmdb.Error as error:
            os.close(self._lock_fd)
            if _is_bbolt(path):
                raise BackendBroken(f"{path} is not usable as a backend: {_IS_BBOLT}") from error
            raise _failure(error, path) from error
        except BaseException:
            os.close(self._lock_fd)
            raise

    def read(self) -> "_LmdbView":
        """A new read transaction of the last commit. The loop counts it in `views` when it takes it."""
        return _LmdbView(self, self._env, self._buckets)

    def released(self) -> None:
        """A read transaction ended."""
        self.views -= 1
        if not self.views and not self.wanted:
            self.close()

    def write(self, rows: Rows) -> "_LmdbView":
        """Commit a batch and open a read transaction of it. After a failure every later commit is refused."""
        if self._broken:
            raise BackendBroken(f"an earlier commit to {self._path} failed")
        self._broken = True
        try:
            with self._env.begin(write=True) as txn:
                for name in sorted(rows):
                    if rows[name]:
                        _write_bucket(txn, self._buckets[name], name, rows[name])
                began = perf_counter()
        except lmdb.Error as error:
            raise _failure(error, self._path) from error
        self.flush_s = perf_counter() - began
        self._broken = False
        return self.read()

    def copy_to(self, path: str) -> None:
        """Write a compact copy of the last commit, durably; LMDB would let the world read a file that it makes."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            self._env.copyfd(fd, compact=True)
            if self._fsync:
                os.fsync(fd)
        except lmdb.Error as error:
            raise _failure(error, path) from error
        finally:
            os.close(fd)

    def rename(self, path: str) -> None:
        """Move the open file over another one."""
        Path(self._path).replace(path)
        Path(self._path + "-lock").replace(path + "-lock")
        self._path = path
        if self._fsync:
            _sync(str(Path(path).parent))

    def close(self) -> None:
        self._env.close()
        os.close(self._lock_fd)


class _LmdbView:
    """A read transaction, shared by those who pinned it. Opened on the worker, used on the loop."""

    __slots__ = ("_buckets", "_env", "_get", "_in_use", "_page_bytes", "_pins", "_txn", "file", "size")

    def __init__(self, file: _LmdbFile, env: lmdb.Environment, buckets: "dict[bytes, lmdb._Database]") -> None:
        self.file = file
        self._env = env
        self._buckets = buckets
        self._txn = env.begin()
        self._get = self._txn.get
        self._pins = 1
        self._page_bytes: int = env.stat()["psize"]
        self.size: int = (env.info()["last_pgno"] + 1) * self._page_bytes
        self._in_use = 0

    def pin(self) -> "_LmdbView":
        self._pins += 1
        return self

    def unpin(self) -> None:
        self._pins -= 1
        if not self._pins:
            self._txn.abort()
            self.file.released()

    def get(self, bucket: bytes, key: bytes) -> bytes | None:
        if len(key) > _PREFIX_BYTES and bucket in _LONG_KEY_BUCKETS:
            value = self._get(_long_key(key), None, self._buckets[bucket])
            return None if value is None else _decode_long(value)[1]
        return self._get(key, None, self._buckets[bucket])

    def get_many(self, bucket: bytes, keys: Iterable[bytes]) -> list[bytes | None]:
        if bucket in _LONG_KEY_BUCKETS:
            return [self.get(bucket, key) for key in keys]
        get, database = self._get, self._buckets[bucket]
        return [get(key, None, database) for key in keys]

    def range(self, bucket: bytes, start: bytes, end: bytes | None) -> list[Row]:
        if bucket in _LONG_KEY_BUCKETS:
            return self._range_of_names(bucket, start, end)
        found: list[Row] = []
        with self._txn.cursor(self._buckets[bucket]) as cursor:
            if not cursor.set_range(start):
                return found
            append = found.append
            for row in cursor.iternext():
                if end is not None and row[0] >= end:
                    break
                append(row)
        return found

    def scan(self, bucket: bytes, start: bytes, end: bytes | None, rows: int, max_bytes: int) -> Scanned:
        if bucket in _LONG_KEY_BUCKETS:
            return self._range_of_names(bucket, start, end), None
        found: list[Row] = []
        with self._txn.cursor(self._buckets[bucket]) as cursor:
            if not cursor.set_range(start):
                return found, None
            append = found.append
            for row in cursor.iternext():
                if end is not None and row[0] >= end:
                    break
                append(row)
                rows -= 1
                max_bytes -= len(row[1])
                if rows <= 0 or max_bytes <= 0:
                    return found, row[0] + b"\0"
        return found, None

    def _range_of_names(self, bucket: bytes, start: bytes, end: bytes | None) -> list[Row]:
        """Names sharing a long prefix lie in the order of their digests: the bucket is small, so sort it."""
        rows: list[Row] = []
        with self._txn.cursor(self._buckets[bucket]) as cursor:
            for key, value in cursor:
                row = (key, value) if len(key) <= _PREFIX_BYTES else _decode_long(value)
                if start <= row[0] and (end is None or row[0] < end):
                    rows.append(row)
        rows.sort()
        return rows

    def size_in_use(self) -> int:
        if not self._in_use:
            stats = [self._env.stat(), *(self._txn.stat(database) for database in self._buckets.values())]
            pages = sum(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] for stat in stats)
            self._in_use = (pages + 2) * self._page_bytes
        return self._in_use


class _PinnedView:
    """A caller's share of a read transaction."""

    __slots__ = ("_shared", "get", "get_many", "range", "scan")

    def __init__(self, shared: _LmdbView) -> None:
        self._shared: _LmdbView | None = shared
        self.get = shared.get
        self.get_many = shared.get_many
        self.range = shared.range
        self.scan = shared.scan

    def close(self) -> None:
        if self._shared is not None:
            self._shared.unpin()
            self._shared = None


def _write_bucket(
    txn: lmdb.Transaction, database: "lmdb._Database", name: bytes, changes: Mapping[bytes, bytes | None]
) -> None:
    keys = sorted(changes)
    with txn.cursor(database) as cursor:
        behind = len(keys)
        if name == schema.KEY:
            # Revisions only ever go up: rows behind the last one skip the search for their place.
            behind = bisect_right(keys, bytes(cursor.key())) if cursor.last() else 0
        for start, end, append in ((0, behind, False), (behind, len(keys), True)):
            for at in range(start, end, SLICE_ROWS):
                _write_slice(cursor, name, keys[at : min(end, at + SLICE_ROWS)], changes, append=append)
                sleep(0)


def _write_slice(
    cursor: lmdb.Cursor, name: bytes, keys: list[bytes], changes: Mapping[bytes, bytes | None], *, append: bool
) -> None:
    puts = []
    for key in keys:
        value = changes[key]
        if len(key) > _PREFIX_BYTES and name in _LONG_KEY_BUCKETS:
            key, value = _long_key(key), None if value is None else _encode_long(key, value)
        if value is not None:
            puts.append((key, value))
        elif cursor.set_key(key):
            cursor.delete()
    cursor.putmulti(puts, append=append)


def _is_bbolt(path: str) -> bool:
    with Path(path).open("rb") as file:
        file.seek(_BBOLT_MAGIC_AT)
        return file.read(len(_BBOLT_MAGIC)) == _BBOLT_MAGIC


def _long_key(key: bytes) -> bytes:
    return key[:_PREFIX_BYTES] + sha256(key).digest()


def _encode_long(key: bytes, value: bytes) -> bytes:
    return len(key).to_bytes(_LENGTH_BYTES) + key + value


def _decode_long(stored: bytes) -> tuple[bytes, bytes]:
    end = _LENGTH_BYTES + int.from_bytes(stored[:_LENGTH_BYTES])
    return stored[_LENGTH_BYTES:end], stored[end:]


def _lock_file(path: str) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise BackendInUse(f"{path} is in use by another process") from None
    return fd


def _failure(error: lmdb.Error, path: str) -> Exception:
    """What an error of LMDB is: the system's, whose number it keeps to itself, or its own."""
    number = _ERROR_NUMBERS.get(str(error).rpartition(": ")[2])
    if number == errno.EIO:
        stat = os.statvfs(Path(path).parent)
        if stat.f_bavail * stat.f_frsize < _FULL_BYTES:
            number = errno.ENOSPC  # LMDB calls a write that was cut short, as on a full disk, an I/O error
    if number is not None:
        return OSError(number, os.strerror(number), path)
    return BackendBroken(f"{path} is not usable as a backend: {error}. {RESTORE_OR_REPLACE}")


def _reserve_readers(path: str) -> None:
    """Give the table of readers, which LMDB maps, its place on the disk: a full one would end the process later."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, _READERS_BYTES)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(fd)


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove_file(path: str) -> None:
    Path(path).unlink(missing_ok=True)
    Path(path + "-lock").unlink(missing_ok=True)
