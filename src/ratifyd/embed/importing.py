"""LMDB backends made of other members' images."""

from collections.abc import Callable, Iterable

from ratifyd import schema
from ratifyd.formats.v2 import V2Corrupt, V2Store, decode_v2
from ratifyd.membership import Member, hex_id
from ratifyd.raft.confstate import decode_conf_state_json
from ratifyd.raft.messages import Snapshot, SnapshotMeta
from ratifyd.storage.exchange import ImageRefused, import_image
from ratifyd.storage.lmdb import BackendBroken, LmdbBackend
from ratifyd.storage.worker import Pauses, SoonWorker


class LmdbImports:
    """`embed.received.Makes` for LMDB."""

    def __init__(self, call_soon: Callable[..., object], *, fsync: bool) -> None:
        self._call_soon = call_soon
        self._fsync = fsync

    def make(self, image: str, path: str, snapshot: Snapshot, pauses: Pauses) -> None:
        """Verify a bbolt image and make an LMDB file of it, not synced. Raises OSError, ValueError and GivenUp."""
        try:
            imported = import_image(image, path, fsync=False, pauses=pauses)
            backend = LmdbBackend(path, worker=SoonWorker(_at_once), fsync=False)
            try:
                check_applied(imported.consistent_index, backend.get(schema.META, schema.CONF_STATE), snapshot.meta)
                _correct_members(backend, snapshot)
            finally:
                backend.close()
        except (BackendBroken, ImageRefused) as error:
            raise ValueError(str(error)) from error

    def open(self, path: str) -> LmdbBackend:
        """Open a backend that was made."""
        return LmdbBackend(path, worker=SoonWorker(self._call_soon), fsync=self._fsync)


def check_applied(index: int, conf_state: bytes | None, snapshot: SnapshotMeta) -> None:
    """Refuse an image that does not go with its snapshot. Raises ValueError.

    An etcd that applies again what its backend has sends one that is ahead, and the entries in between; changes of
    members among those would not be made again, so there must be none.
    """
    if index < snapshot.index:
        raise ValueError(f"the image has applied index {index}, its snapshot is of {snapshot.index}")
    if index > snapshot.index and conf_state is not None and decode_conf_state_json(conf_state) != snapshot.conf_state:
        raise ValueError(f"the image has applied index {index}, and has other members than its snapshot has")


def _correct_members(backend: LmdbBackend, snapshot: Snapshot) -> None:
    """Take the members from the snapshot's v2 data: etcd up to 3.5.19 never updates its own rows of them."""
    try:
        store = decode_v2(snapshot.data)
    except V2Corrupt:
        return  # etcd 3.8 sends none, and keeps its rows up to date
    rows = member_rows((key for key, _ in backend.range(schema.MEMBERS, b"", None)), store)
    failed: list[BaseException] = []
    for _ in range(2):  # so that the commit before the last one, which a damaged file goes back to, has them too
        backend.commit(rows, lambda error: failed.append(error) if error is not None else None)
    if failed:
        raise failed[0]


def member_rows(present: Iterable[bytes], store: V2Store) -> dict[bytes, dict[bytes, bytes | None]]:
    """The rows that bring the membership buckets, which hold members `present`, to what a snapshot's v2 data say."""
    members: dict[bytes, bytes | None] = dict.fromkeys(present)
    for member in store.members:
        record = Member(member.id, member.peer_urls, member.name, member.client_urls, member.is_learner)
        members[hex_id(member.id).encode()] = record.to_json()
    removed: dict[bytes, bytes | None] = {hex_id(member).encode(): b"removed" for member in store.removed}
    rows = {schema.MEMBERS: members, schema.MEMBERS_REMOVED: removed}
    if store.cluster_version:
        rows[schema.CLUSTER] = {schema.CLUSTER_VERSION: store.cluster_version.encode()}
    return rows


def _at_once(callback: Callable[..., object], *args: object) -> None:
    callback(*args)
