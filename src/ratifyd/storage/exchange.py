"""The backend as a bbolt image and back: what snapshots between members, client snapshots and etcd's data dirs hold.

Images carry all buckets under etcd's names with etcd's bytes. Exporting and importing are long: run them on a worker;
they pause after every slice, and can be given up there. What is imported is checked whole before its name appears; a
crash leaves a `tmp` file that recovery discards. Does not know what the rows mean beyond the shape of their keys.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from ratifyd import schema
from ratifyd.formats.bbolt import BboltCorrupt, BoltFile, Pread, Row, newest_meta, read_pages
from ratifyd.formats.bboltwrite import BoltImage, OpenRows
from ratifyd.ports import BackendView, Rows
from ratifyd.storage.lmdb import LmdbBackend
from ratifyd.storage.worker import Pauses, SoonWorker

DIGEST_BYTES = 32
_SECTOR = 512
"""Images are whole sectors, so what is left over tells that a digest follows (etcd's client snapshot)."""

_SLICE_ROWS = 128
_SLICES_A_TURN = 4
_TURN_ROWS = 512
_TURN_BYTES = 256 << 10
_BATCH_BYTES = 2 << 20
_ROW_OVERHEAD_BYTES = 300
_MAX_KEY_BYTES = 511
_LONG_KEYS = frozenset((schema.AUTH_USERS, schema.AUTH_ROLES))
_FIRST_KEY = b"\0"
_REVISION_SIZES = frozenset((schema.REVISION_BYTES, schema.REVISION_BYTES + 1))
_NUMBER_BYTES = 8
_READ_BYTES = 1 << 20


class ImageRefused(Exception):
    """The file is no sound image of an etcd backend; the message says why. Nothing was changed."""


class Export(NamedTuple):
    """An image ready to be sent: its size in bytes, and its bytes, to be taken once."""

    size: int
    chunks: Iterator[bytes]


@dataclass(slots=True)
class Imported:
    """What an image held."""

    rows: dict[bytes, int] = field(default_factory=dict)
    """Rows of each bucket taken over."""
    skipped: list[bytes] = field(default_factory=list)
    """Buckets that are none of etcd's, left out."""
    consistent_index: int = 0
    term: int = 0
    """0 when it was written before etcd 3.5."""
    has_digest: bool = False
    """Whether a SHA-256 followed the image, as in the files `etcdctl snapshot save` writes."""


def export_image(view: BackendView, pauses: Pauses | None = None) -> Export:
    """Lay a pinned view out as a bbolt image; blocks for a first walk over the rows, the chunks do the second.

    `view` is one of the backend itself, taken after a seal: not of the write buffer, whose rows may change meanwhile.
    Close it on the loop after the last chunk. May be called again, for the same bytes, as long as it is open.
    """
    pause = pauses or Pauses()
    image = BoltImage({name: _rows_of(view, name) for name in schema.BUCKETS})
    for number, _ in enumerate(image.measure()):
        if not number % _SLICES_A_TURN:
            pause()
    return Export(image.size, _paced(image.chunks(), pause))


def with_digest(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The chunks and, last, the SHA-256 over them: the stream of Maintenance.Snapshot (etcd 3.5)."""
    digest = sha256()
    for chunk in chunks:
        digest.update(chunk)
        yield chunk
    yield digest.digest()


def is_image(path: str) -> bool:
    """Whether a file starts as a bbolt file does, as opposed to a backend of ours."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return newest_meta(_pread(fd)) is not None
    finally:
        os.close(fd)


def adopt_image(path: str, *, fsync: bool = True) -> Imported | None:
    """Turn the file at `path` into a backend if it is an image; None when there is no file, or none to turn.

    Call before opening a backend that etcd, or a snapshot, may have left. Raises as `import_image`.
    """
    if not Path(path).exists() or not is_image(path):
        return None
    return import_image(path, path, fsync=fsync)


def import_image(
    path: str, target: str, *, check_digest: bool = True, fsync: bool = True, pauses: Pauses | None = None
) -> Imported:
    """Make the backend file `target` of the bbolt image at `path`, verifying both image and digest (if it has one).

    `path` may be an image received from a member, a client's snapshot file, or the `member/snap/db` of a stopped etcd.
    `target` is replaced and durable on return; it may be `path` itself, which adopts a file in place. Raises
    ImageRefused, OSError or lmdb.Error when the disk fails, and GivenUp.
    """
    directory = str(Path(target).parent)
    unfinished = f"{directory}/tmp.{Path(target).name}.import"
    _remove(unfinished)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        imported = _import(fd, unfinished, pauses or Pauses(), check_digest=check_digest)
        if fsync:
            _sync(unfinished)
        Path(unfinished).replace(target)
        if fsync:
            _sync(directory)
    except (BboltCorrupt, ImageRefused) as error:
        raise ImageRefused(f"{path} cannot be imported: {error}") from error
    finally:
        os.close(fd)
        _remove(unfinished)
    return imported


def _rows_of(view: BackendView, bucket: bytes) -> OpenRows:
    """Walks over a bucket of a view in slices."""

    def rows() -> Iterator[list[Row]]:
        start: bytes | None = _FIRST_KEY
        while start is not None:
            found, start = view.scan(bucket, start, None, _SLICE_ROWS, _TURN_BYTES)
            if found:
                yield found

    return rows


def _paced(chunks: Iterator[bytes], pause: Pauses) -> Iterator[bytes]:
    """The chunks that hold anything; others get the interpreter after each, and after some slices without one."""
    slices = 0
    for chunk in chunks:
        slices += 1
        if chunk:
            yield chunk
        if chunk or slices == _SLICES_A_TURN:
            slices = 0
            pause()


def _import(fd: int, target: str, pause: Pauses, *, check_digest: bool) -> Imported:
    size = os.fstat(fd).st_size
    imported = Imported(has_digest=size % _SECTOR == DIGEST_BYTES)
    if imported.has_digest:
        size -= DIGEST_BYTES
        if check_digest and _digest(fd, size, pause) != os.pread(fd, DIGEST_BYTES, size):
            raise ImageRefused("its SHA-256 does not match its content")
    file = read_pages(_pread(fd), size)
    names = file.buckets()
    if schema.KEY not in names or schema.META not in names:
        raise ImageRefused("it is a bbolt file, but not one of etcd's: a bucket is missing")
    imported.skipped = [name for name in names if name not in schema.BUCKETS]
    backend = LmdbBackend(target, worker=SoonWorker(_at_once), fsync=False)
    try:
        imported.rows = _copy(file, backend, pause)
        imported.consistent_index = _number(backend, schema.CONSISTENT_INDEX)
        imported.term = _number(backend, schema.TERM)
    finally:
        backend.close()
    return imported


def _copy(file: BoltFile, backend: LmdbBackend, pause: Pauses) -> dict[bytes, int]:
    """Write all rows of etcd's buckets, in batches; the number of rows in each bucket."""
    counts = dict.fromkeys(schema.BUCKETS, 0)
    batch: dict[bytes, dict[bytes, bytes | None]] = {name: {} for name in counts}
    size = turn_rows = turn_bytes = 0
    for name, rows in file.audit():
        if name not in counts:
            pause()
            continue
        _check_keys(name, rows)
        counts[name] += len(rows)
        batch[name].update(rows)
        turn_rows += len(rows)
        turn_bytes += sum([len(value) for _, value in rows])
        if turn_rows < _TURN_ROWS and turn_bytes < _TURN_BYTES:
            continue
        size += turn_bytes + turn_rows * _ROW_OVERHEAD_BYTES
        turn_rows = turn_bytes = 0
        if size >= _BATCH_BYTES:
            _commit(backend, batch)
            batch = {name: {} for name in counts}
            size = 0
        pause()
    _commit(backend, batch)
    return counts


def _check_keys(bucket: bytes, rows: list[Row]) -> None:
    """Refuse keys that the bucket cannot hold."""
    sizes = {len(key) for key, _ in rows}
    if bucket == schema.KEY:
        fits = sizes <= _REVISION_SIZES
    else:
        fits = bucket in _LONG_KEYS or max(sizes) <= _MAX_KEY_BYTES
    if not fits:
        raise ImageRefused(f"bucket {bucket.decode()} has keys of {max(sizes)} bytes")


def _commit(backend: LmdbBackend, rows: Rows) -> None:
    failed: list[BaseException] = []
    backend.commit(rows, lambda error: failed.append(error) if error is not None else None)
    if failed:
        raise failed[0]


def _number(backend: LmdbBackend, key: bytes) -> int:
    value = backend.get(schema.META, key)
    if value is None:
        return 0
    if len(value) != _NUMBER_BYTES:
        raise ImageRefused(f"its {key.decode()} is unreadable: {value!r}")
    return schema.decode_u64(value)


def _digest(fd: int, size: int, pause: Pauses) -> bytes:
    digest = sha256()
    at = 0
    while at < size and (data := os.pread(fd, min(_READ_BYTES, size - at), at)):
        digest.update(data)
        at += len(data)
        pause()
    return digest.digest()


def _pread(fd: int) -> Pread:
    """Reads of a file, complete unless it ends."""

    def pread(size: int, offset: int) -> bytes:
        data = os.pread(fd, size, offset)
        while len(data) < size and (more := os.pread(fd, size - len(data), offset + len(data))):
            data += more
        return data

    return pread


def _at_once(callback: Callable[..., object], *args: object) -> None:
    callback(*args)


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)
    Path(path + "-lock").unlink(missing_ok=True)
