"""Backends as bbolt images: what goes out comes back, and what is no image changes nothing."""

import os
from hashlib import sha256
from pathlib import Path

import pytest

from ratifyd import schema
from ratifyd.formats.bbolt import BoltFile, read_pages
from ratifyd.formats.bboltwrite import BoltImage
from ratifyd.storage.disk import OsDisk
from ratifyd.storage.exchange import ImageRefused, adopt_image, export_image, import_image, is_image, with_digest
from ratifyd.storage.lmdb import LmdbBackend
from ratifyd.storage.memory import MemoryBackend
from ratifyd.storage.snapshots import received_name
from ratifyd.storage.worker import GivenUp, Pauses
from simulation.disk import StepWorker

Content = dict[bytes, dict[bytes, bytes | None]]


def open_lmdb(path: Path) -> tuple[LmdbBackend, StepWorker]:
    worker = StepWorker()
    return LmdbBackend(str(path), worker=worker, map_bytes=1 << 30, fsync=False), worker


def sample() -> Content:
    """All ten buckets: revisions in many pages with some tombstones, huge and empty values, names of any length."""
    revisions: dict[bytes, bytes | None] = {
        schema.encode_revision(main, sub): b"%d" % main * (main % 90) for main in range(2, 1500) for sub in range(2)
    }
    revisions[schema.encode_revision(77, 0)] = b"huge" * 300_000
    revisions[schema.encode_tombstone(1500, 0)] = b"\x0a\x01k"
    return {
        schema.KEY: revisions,
        schema.META: {
            schema.CONSISTENT_INDEX: schema.encode_u64(4321),
            schema.TERM: schema.encode_u64(5),
            schema.CONF_STATE: b'{"voters":[1],"auto_leave":false}',
        },
        schema.LEASE: {schema.encode_lease_id(-5): b"\x08\x01"},
        schema.ALARM: {b"\x08\x01\x10\x01": b""},
        schema.AUTH: {schema.AUTH_ENABLED: b"\x00", schema.AUTH_REVISION: schema.encode_u64(1)},
        schema.AUTH_USERS: {b"u" * size: b"user%d" % size for size in (1, 478, 479, 480, 511, 512, 4000)},
        schema.AUTH_ROLES: {b"r" * 900 + b"%d" % number: b"role" for number in range(60)},
        schema.CLUSTER: {schema.CLUSTER_VERSION: b"3.5.0"},
        schema.MEMBERS: {b"8e9e05c52164694d": b"{}"},
        schema.MEMBERS_REMOVED: {},
    }


def exported(backend: LmdbBackend | MemoryBackend) -> bytes:
    view = backend.view()
    size, chunks = export_image(view)
    data = b"".join(chunks)
    view.close()
    assert len(data) == size
    return data


def opened(data: bytes) -> BoltFile:
    file = read_pages(lambda size, offset: data[offset : offset + size], len(data))
    file.check()
    return file


def image_of(content: Content, tmp_path: Path) -> bytes:
    backend, worker = open_lmdb(tmp_path / "source")
    backend.commit(content, lambda _: None)
    worker.run()
    data = exported(backend)
    backend.close()
    return data


def test_an_image_holds_every_row_under_its_real_key(tmp_path: Path) -> None:
    content = sample()
    file = opened(image_of(content, tmp_path))
    assert file.buckets() == sorted(schema.BUCKETS)
    for name in schema.BUCKETS:
        assert list(file.items(name)) == sorted(content[name].items())


def test_chunks_are_small_unless_a_row_is_not(tmp_path: Path) -> None:
    backend, worker = open_lmdb(tmp_path / "source")
    content = sample()
    del content[schema.KEY][schema.encode_revision(77, 0)]
    content[schema.KEY].update({schema.encode_revision(main, 0): b"v" * 2000 for main in range(2000, 3000)})
    backend.commit(content, lambda _: None)
    worker.run()
    view = backend.view()
    sizes = [len(chunk) for chunk in export_image(view).chunks]
    view.close()
    backend.close()
    assert max(sizes) <= (256 << 10) + 2 * 4096
    assert len(sizes) > 8
    assert all(sizes)


def test_a_backend_in_memory_gives_the_same_image(tmp_path: Path) -> None:
    worker = StepWorker()
    memory = MemoryBackend(worker)
    memory.commit(sample(), lambda _: None)
    worker.run()
    assert exported(memory) == image_of(sample(), tmp_path)


def test_a_view_can_be_exported_twice_while_the_backend_goes_on(tmp_path: Path) -> None:
    backend, worker = open_lmdb(tmp_path / "source")
    backend.commit(sample(), lambda _: None)
    worker.run()
    view = backend.view()
    first = export_image(view)
    backend.commit({schema.KEY: {schema.encode_revision(9000, 0): b"later"}}, lambda _: None)
    worker.run()
    data = b"".join(first.chunks)
    assert b"".join(export_image(view).chunks) == data
    view.close()
    assert schema.encode_revision(9000, 0) not in dict(opened(data).items(schema.KEY))
    backend.close()


@pytest.mark.parametrize("digest", [False, True])
def test_an_image_becomes_the_same_backend(tmp_path: Path, digest: bool) -> None:
    content = sample()
    data = image_of(content, tmp_path)
    chunks = with_digest([data[:5000], data[5000:]]) if digest else iter([data])
    (tmp_path / "image").write_bytes(b"".join(chunks))
    imported = import_image(str(tmp_path / "image"), str(tmp_path / "db"))
    assert imported.rows == {name: len(rows) for name, rows in content.items()}
    assert (imported.consistent_index, imported.term, imported.has_digest) == (4321, 5, digest)
    assert imported.skipped == []
    backend, _ = open_lmdb(tmp_path / "db")
    for name in schema.BUCKETS:
        assert backend.range(name, b"\0", None) == sorted(content[name].items())
    assert exported(backend) == data
    backend.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["db", "db-lock", "image", "source", "source-lock"]


def test_a_received_image_is_adopted_in_place(tmp_path: Path) -> None:
    path = tmp_path / received_name(4321)
    path.write_bytes(image_of(sample(), tmp_path))
    assert is_image(str(path))
    adopted = adopt_image(str(path))
    assert adopted is not None
    assert adopted.consistent_index == 4321
    assert not is_image(str(path))
    assert adopt_image(str(path)) is None
    assert adopt_image(str(tmp_path / "missing")) is None
    backend, worker = open_lmdb(tmp_path / "db")
    failures: list[BaseException | None] = []
    backend.replace(str(path), failures.append)
    worker.run()
    assert failures == [None]
    assert backend.get(schema.META, schema.CONSISTENT_INDEX) == schema.encode_u64(4321)
    backend.close()


def test_a_damaged_image_is_not_taken_for_something_else(tmp_path: Path) -> None:
    path = tmp_path / "db"
    data = bytearray(image_of(sample(), tmp_path))
    data[3 * 4096 : 4 * 4096] = bytes(4096)
    path.write_bytes(data)
    with pytest.raises(ImageRefused, match="page 3 says it is page 0"):
        adopt_image(str(path))
    assert path.read_bytes() == data


def test_the_digest_is_the_last_chunk() -> None:
    chunks = list(with_digest([b"ab", b"c"]))
    assert chunks == [b"ab", b"c", sha256(b"abc").digest()]


def refuse(tmp_path: Path, data: bytes, reason: str) -> None:
    """An import that fails for this reason and leaves the old target, and nothing else, behind."""
    (tmp_path / "image").write_bytes(data)
    (tmp_path / "db").write_bytes(b"as before")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ImageRefused, match=reason):
        import_image(str(tmp_path / "image"), str(tmp_path / "db"))
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "db").read_bytes() == b"as before"


def bolt(content: dict[bytes, dict[bytes, bytes]]) -> bytes:
    image = BoltImage({name: lambda rows=rows: [sorted(rows.items())] for name, rows in content.items()})  # type: ignore[misc]
    for _ in image.measure():
        pass
    return b"".join(image.chunks())


def test_what_is_no_sound_image_is_refused(tmp_path: Path) -> None:
    data = image_of(sample(), tmp_path)
    refuse(tmp_path, b"", "no valid meta")
    refuse(tmp_path, os.urandom(9000), "no valid meta")
    refuse(tmp_path, data[: len(data) - 4096], "pages of 4096 bytes in a file of")
    page = 10 * 4096
    refuse(tmp_path, data[:page] + data[page + 4096 : page + 8192] + data[page + 4096 :], "page 10 says it is page 11")
    signed = data + sha256(data).digest()
    refuse(tmp_path, signed[:9000] + b"?" + signed[9001:], "SHA-256 does not match")
    refuse(tmp_path, bolt({schema.KEY: {}}), "a bucket is missing")
    refuse(tmp_path, bolt({schema.META: {}, schema.KEY: {b"short": b"v"}}), "bucket key has keys of 5 bytes")
    refuse(tmp_path, bolt({schema.KEY: {}, schema.META: {b"k" * 600: b""}}), "bucket meta has keys of 600 bytes")
    refuse(tmp_path, bolt({schema.KEY: {}, schema.META: {schema.TERM: b"5"}}), "term is unreadable")


class Impatient(Pauses):
    """Gives up after some pauses."""

    __slots__ = ("_left",)

    def __init__(self, left: int) -> None:
        super().__init__()
        self._left = left

    def __call__(self) -> None:
        self._left -= 1
        if self._left < 0:
            self.give_up()
        super().__call__()


def test_an_import_can_be_given_up_and_leaves_nothing(tmp_path: Path) -> None:
    """At any of its pauses, of which there are more the larger it is: also where buckets are left out."""
    data = image_of(sample(), tmp_path)
    (tmp_path / "image").write_bytes(data + sha256(data).digest())
    before = sorted(path.name for path in tmp_path.iterdir())
    for left in range(100):
        try:
            import_image(str(tmp_path / "image"), str(tmp_path / "db"), fsync=False, pauses=Impatient(left))
        except GivenUp:
            assert sorted(path.name for path in tmp_path.iterdir()) == before
        else:
            break
    assert 5 < left < 99


def test_an_export_can_be_given_up(tmp_path: Path) -> None:
    backend, worker = open_lmdb(tmp_path / "source")
    backend.commit(sample(), lambda _: None)
    worker.run()
    view = backend.own_view()
    with pytest.raises(GivenUp):
        export_image(view, Impatient(2))
    view.close()
    backend.close()


def test_a_wrong_digest_can_be_overlooked_on_demand(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(image_of(sample(), tmp_path) + bytes(32))
    assert import_image(str(tmp_path / "image"), str(tmp_path / "db"), check_digest=False).has_digest


def test_other_buckets_are_left_out_by_name(tmp_path: Path) -> None:
    data = bolt({schema.KEY: {}, schema.META: {b"m": b"1"}, b"test": {b"%04d" % n: b"x" * 50 for n in range(500)}})
    (tmp_path / "image").write_bytes(data)
    imported = import_image(str(tmp_path / "image"), str(tmp_path / "db"))
    assert imported.skipped == [b"test"]
    assert sum(imported.rows.values()) == 1


def test_what_a_crash_left_of_an_import_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(image_of(sample(), tmp_path))
    (tmp_path / "tmp.db.import").write_bytes(b"half")
    (tmp_path / "tmp.db.import-lock").write_bytes(b"half")
    import_image(str(tmp_path / "image"), str(tmp_path / "db"))
    assert OsDisk().list(str(tmp_path)) == ["db", "image", "source", "source-lock"]
