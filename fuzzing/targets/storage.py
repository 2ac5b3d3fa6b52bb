"""Files: the log, .snap files, bbolt images and the v2 store in snapshots, as a bad disk or a stranger made them."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from fuzzing.mutate import join_wal, plain, protobuf, text, wal
from fuzzing.target import Run, Target
from ratifyd import schema
from ratifyd.formats.bbolt import BboltCorrupt, read_pages
from ratifyd.formats.bboltpage import META_BYTES, decode_meta, encode_meta
from ratifyd.formats.bboltwrite import BoltImage
from ratifyd.formats.snap import SnapCorrupt, decode_snap, encode_snap
from ratifyd.formats.v2 import V2Corrupt, V2Member, V2Store, decode_v2, encode_v2
from ratifyd.raft.codec import DecodeError, decode_snapshot, encode_entry, encode_hard_state, encode_snapshot
from ratifyd.raft.messages import ConfState, Entry, EntryKind, HardState, Snapshot, SnapshotMeta
from ratifyd.storage.exchange import ImageRefused, import_image
from ratifyd.storage.recover import DataDir
from ratifyd.storage.wal import Wal
from ratifyd.storage.walread import WalCorrupt, WalSnapshotMissing, read_log
from ratifyd.storage.walrecord import encode_snapshot_record
from ratifyd.storage.worker import SoonWorker
from simulation.disk import SimDisk

PAGE = 512
DIR = DataDir("d")
FIRST = "d/member/wal/0000000000000000-0000000000000000.wal"


def _same(run: Run) -> Callable[[], Run]:
    return lambda: run


# --- the log ---------------------------------------------------------------------------------------------------------


def _wal_seeds() -> list[bytes]:
    conf_state = ConfState((1, 2))
    records = [b"\x04", b"\x01metadata", b"\x05" + encode_snapshot_record(SnapshotMeta())]
    found = [join_wal(records)]
    for index in range(1, 12):
        kind = EntryKind.CONF_CHANGE if index < 3 else EntryKind.NORMAL
        records.append(b"\x02" + encode_entry(Entry(1 + index // 4, index, b"data" * index, kind)))
        if index % 3 == 0:
            records.append(b"\x03" + encode_hard_state(HardState(1 + index // 4, 1, index)))
        if index == 6:
            records.append(b"\x05" + encode_snapshot_record(SnapshotMeta(6, 2, conf_state)))
        found.append(join_wal(records) + bytes(64 * (index % 4)))
    return found


def _open_wal(data: bytes) -> None:
    """Open a log of one file; what was opened can be written to, closed, and read again to the same end."""
    disk = SimDisk()
    disk.make_dirs("d/member/wal")
    file = disk.open(FIRST, create=True)
    file.pwrite(data, 0)
    file.datasync()
    metas = read_log(disk, DIR.wal).valid_snapshots()
    for meta in metas[-1:] or [SnapshotMeta()]:
        seen = _read(disk, meta)
        assert _read(disk, meta) == seen, "opened twice, read differently"


def _read(disk: SimDisk, meta: SnapshotMeta) -> tuple[bytes, HardState, list[Entry]]:
    log, contents = Wal.open(
        disk,
        DIR.wal,
        snapshot_index=meta.index,
        snapshot_term=meta.term,
        worker=SoonWorker(lambda callback, *args: callback(*args)),
        segment_bytes=1 << 12,
    )
    log.close()
    disk.abandon()
    return contents.metadata, contents.hard_state, contents.entries


# --- snapshots -------------------------------------------------------------------------------------------------------


def _snapshots() -> list[bytes]:
    store = V2Store((V2Member(1, ("http://a:1",), "a", ("http://b:1",)), V2Member(2, ("http://c:1",))), (3,), "3.5.0")
    meta = SnapshotMeta(7, 2, ConfState((1, 2), (3,), (1,), (2,), True))
    return [encode_snapshot(Snapshot(meta, data)) for data in (b"", b"data", encode_v2(store))]


def _snap(data: bytes) -> None:
    decode_snapshot(decode_snap(data))


def _snap_inside(data: bytes) -> None:
    """A rightly checked file around anything."""
    if data:
        decode_snapshot(decode_snap(encode_snap(data)))


def _v2_seeds() -> list[bytes]:
    store = V2Store((V2Member(1, ("http://a:1",), "a", ("http://b:1",), True),), (3, 4), "3.5.0")
    small = json.loads(encode_v2(store))
    small["WatcherHub"] = None
    return [json.dumps(small).encode(), json.dumps(small["Root"]).encode()]


def _v2(data: bytes) -> None:
    """What is read can be written, and read again."""
    store = decode_v2(data)
    assert decode_v2(encode_v2(store)).members == store.members


# --- bbolt -----------------------------------------------------------------------------------------------------------


def _rows(content: dict[bytes, bytes]) -> list[list[tuple[bytes, bytes]]]:
    return [list(content.items())] if content else []


def _image(rows: int, size: int) -> bytes:
    data = {b"%08d" % number: b"v" * (size * (number % 3)) for number in range(rows)}
    meta = {schema.CONSISTENT_INDEX: schema.encode_u64(9), schema.TERM: schema.encode_u64(2)}
    key = {schema.encode_u64(1 + number) + b"_" + bytes(8): value for number, value in enumerate(data.values())}
    buckets = {schema.KEY: key, schema.META: meta, schema.LEASE: {}, schema.AUTH: data}
    image = BoltImage({name: partial(_rows, content) for name, content in buckets.items()}, page_size=PAGE)
    for _ in image.measure():
        pass
    return b"".join(image.chunks())


def _images() -> list[bytes]:
    return [_image(rows, size) for rows, size in ((0, 0), (3, 10), (60, 20), (4, 900))]


def bolt(random: Random, data: bytes, other: bytes) -> bytes:
    """Change pages, or numbers of the metas with checksums made right again."""
    changed = bytearray(plain(random, data, other))
    if random.random() < 0.5:
        changed = bytearray(data)
        at = 16 + PAGE * random.randrange(2)
        meta = decode_meta(data[at : at + META_BYTES])
        if meta is not None and len(data) >= at + META_BYTES:
            field = random.choice(("root", "freelist", "high_water", "txid"))
            number = random.choice((0, 1, 2, 3, random.randrange(40), 1 << 32, (1 << 64) - 1))
            changed[at : at + META_BYTES] = encode_meta(meta._replace(**{field: number}))
    elif random.random() < 0.7 and len(data) > 3 * PAGE:
        # Headers and element tables are where the structure is.
        changed = bytearray(data)
        page = PAGE * random.randrange(len(data) // PAGE)
        for _ in range(random.randrange(1, 4)):
            changed[page + random.randrange(min(64, len(changed) - page))] = random.randrange(256)
    return bytes(changed)


def _bolt(data: bytes) -> None:
    file = read_pages(lambda size, offset: data[offset : offset + size], len(data))
    for name in file.buckets():
        for _ in file.items(name):
            pass
    file.check()


class _Import:
    """An image made into a backend, on a real disk."""

    def __init__(self) -> None:
        self._directory = TemporaryDirectory()
        self._source = Path(self._directory.name, "image")
        self._target = str(Path(self._directory.name, "db"))

    def __call__(self, data: bytes) -> None:
        self._source.write_bytes(data)
        import_image(str(self._source), self._target, fsync=False)

    def finish(self) -> None:
        """Leave nothing behind."""
        self._directory.cleanup()


TARGETS = (
    Target("wal", _wal_seeds, _same(_open_wal), (WalCorrupt, WalSnapshotMissing), (plain, wal, wal), sample=1200),
    Target("snap", lambda: [encode_snap(each) for each in _snapshots()], _same(_snap), (SnapCorrupt, DecodeError)),
    Target("snap_inside", _snapshots, _same(_snap_inside), (DecodeError,), (plain, protobuf)),
    Target("v2_store", _v2_seeds, _same(_v2), (V2Corrupt,), (text,)),
    Target("bbolt", _images, _same(_bolt), (BboltCorrupt,), (bolt,)),
    Target("image", _images, _Import, (ImageRefused,), (bolt,), batch=200, sample=100),
)
