"""`Etcd(config)`: recover, wire everything together, serve, stop. The only place that picks concrete I/O.

etcd = Etcd(config)
await etcd.start()          # StartError says what to do
failure = await etcd.wait() # None when stopped, else what ended the member
await etcd.stop()
"""

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

from ratifyd import metrics as metrics_table
from ratifyd.api.front import Access, ClientFront
from ratifyd.api.gateway import Gateway
from ratifyd.api.http import HttpPages, Pages
from ratifyd.api.peers import PeerPages
from ratifyd.api.routes import Route, build_routes
from ratifyd.api.session import Session
from ratifyd.apply.state import State
from ratifyd.config import Config
from ratifyd.embed.bootstrap import NewCluster, force_new_cluster
from ratifyd.embed.collecting import CollectorPace
from ratifyd.embed.descriptors import DescriptorWatch, TooFewDescriptors, room_for_clients
from ratifyd.embed.host import ClientCalls, MemberHost
from ratifyd.embed.http import process_variables, serve_front
from ratifyd.embed.images import BackendImages
from ratifyd.embed.importing import LmdbImports
from ratifyd.embed.joining import JoinedCluster, JoinRefused, check_not_bootstrapped, initial_members, join
from ratifyd.embed.profiling import pprof_pages
from ratifyd.embed.received import ReceivedFiles
from ratifyd.embed.tokens import TokensRefused, make_tokens
from ratifyd.errors import EtcdError
from ratifyd.membership import Membership, hex_id
from ratifyd.net.clock import LoopClock
from ratifyd.net.connection import Acceptor, Link
from ratifyd.net.http1 import Http1Limits, HttpRequest, HttpResponse
from ratifyd.net.lingering import Lingering
from ratifyd.net.listener import Listener, ListenError
from ratifyd.peer.client import PeerClient
from ratifyd.peer.endpoints import PEER_HTTP_LIMITS, PeerEndpoints, wants_body_stream
from ratifyd.peer.transport import PeerTransport
from ratifyd.ports import File
from ratifyd.proto.etcdserver_pb2 import Metadata
from ratifyd.raft.core import Raft
from ratifyd.raft.log import RaftLog
from ratifyd.raft.messages import SnapshotMeta
from ratifyd.server import readings
from ratifyd.server.corruption import HASH_PATH
from ratifyd.server.parts import Parts
from ratifyd.server.server import MemberRemoved, Server
from ratifyd.storage.disk import OsDisk
from ratifyd.storage.failures import explain
from ratifyd.storage.kernelsync import KernelSyncs, kernel_syncs
from ratifyd.storage.lmdb import BackendBroken, BackendInUse, LmdbBackend
from ratifyd.storage.lmdbcheck import BackendDamaged, BackendOfEtcd, check_backend
from ratifyd.storage.recover import DataDir, DataDirInUse, Recovered, RecoveryRefused, lock_data_dir, recover
from ratifyd.storage.snapshots import SaveTimes, SnapshotFiles, SnapshotStore
from ratifyd.storage.wal import Wal
from ratifyd.storage.walread import LogReading, SegmentLocked, WalContents, WalCorrupt, WalSnapshotMissing
from ratifyd.storage.worker import ThreadWorker
from ratifyd.version import ETCD_VERSION
from ratifyd.wire.limits import Limits

GRPC_OVERHEAD_BYTES = 512 * 1024
"""What a gRPC message may exceed --max-request-bytes by (semantics 13.2)."""
MAX_MESSAGE_BYTES = 1 << 20
MAX_INFLIGHT = 512
MAX_UNCOMMITTED_BYTES = 1 << 30
STOP_TIMEOUT_S = 2.0
"""How long requests under way keep a member that stops; etcd cuts its connections at once."""
_STOPPED = "the member was stopped"

_OPERATOR_ERRORS = (
    JoinRefused,
    ListenError,
    DataDirInUse,
    RecoveryRefused,
    WalCorrupt,
    WalSnapshotMissing,
    SegmentLocked,
    BackendInUse,
    BackendBroken,
    BackendDamaged,
    BackendOfEtcd,
    TokensRefused,
    TooFewDescriptors,
)
"""What can be wrong with a start besides the disk; their texts say what to do."""

log = logging.getLogger("ratifyd.embed")


class StartError(Exception):
    """The member cannot start; the text says why and what to do."""


class _NoTracer:
    def mark(self, name: str, **fields: object) -> None:
        """Marks are for tests."""


class Etcd:
    """One member: made from its configuration, started, waited for, stopped."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.metrics = metrics_table.Metrics()
        self._server: Server | None = None
        self._listeners: list[Listener] = []
        self._acceptors: list[Acceptor] = []
        self._peer_acceptor: Acceptor | None = None
        self._workers: list[ThreadWorker] = []
        self._syncs: KernelSyncs | None = None
        self._recovered: Recovered | None = None
        self._transport: PeerTransport | None = None
        self._calls: ClientCalls | None = None
        self._joined: JoinedCluster | None = None
        self.removed = False
        """Whether the member has ended because its cluster removed it."""
        self._wal: Wal | None = None
        self._lock: File | None = None
        self._collector: CollectorPace | None = None
        self._descriptors: DescriptorWatch | None = None
        self._room: int | None = None
        """How many clients may be connected."""
        self._received: ReceivedFiles | None = None
        self._images: BackendImages | None = None
        self._failure: asyncio.Future[BaseException | None] | None = None
        self._ready = False
        self._starting: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None

    @property
    def server(self) -> Server:
        """The running member."""
        assert self._server is not None, "not running"
        return self._server

    async def start(self) -> None:
        """Recover, join, and serve; returns when clients are served. Raises StartError, when it is stopped too."""
        if self._stopping is not None:
            raise StartError(_STOPPED)
        loop = asyncio.get_running_loop()
        self._failure = loop.create_future()
        self._starting = loop.create_task(self._start(loop))
        try:
            await self._starting
        except (*_OPERATOR_ERRORS, OSError) as error:
            await self.stop()
            raise StartError(explain(error) or str(error)) from error
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            stopped = self._stopping is not None and caller is not None and not caller.cancelling()
            await self.stop()
            if stopped:
                raise StartError(_STOPPED) from None
            raise
        except BaseException:
            await self.stop()
            raise
        if self._stopping is not None:
            await self.stop()
            raise StartError(_STOPPED)

    async def wait(self) -> BaseException | None:
        """Wait until the member is stopped (None) or has failed (why)."""
        assert self._failure is not None, "not started"
        return await asyncio.shield(self._failure)

    async def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._room = room_for_clients()
        self._bind()
        config = self.config
        disk = OsDisk()
        data_dir = DataDir(config.data_dir, config.wal_dir)
        self._lock = lock_data_dir(disk, data_dir)
        recovered = self._recovered = await self._recover(disk, data_dir, loop)
        ids = Metadata.FromString(recovered.metadata)
        clock = LoopClock(loop)
        members = Membership(ids.NodeID, ids.ClusterID, config.max_learners)
        state = State(recovered.backend, members, min_ttl_s=_min_ttl_s(config))
        await _restore(state, data_dir)
        assert self._wal is not None
        raft = self._raft(recovered, ids.NodeID)
        self._server = server = self._wire(disk, data_dir, recovered, state, raft, clock, loop)
        assert self._transport is not None
        log.info(
            "starting etcd server",
            extra={
                "fields": {
                    "local-member-id": hex_id(ids.NodeID),
                    "local-server-version": ETCD_VERSION,
                    "cluster-id": hex_id(ids.ClusterID),
                    "data-dir": config.data_dir,
                    "revision": state.store.revision,
                    "applied-index": recovered.applied,
                }
            },
        )
        if not recovered.fresh and config.features["InitialCorruptCheck"]:
            await self._check_for_corruption(server, loop)
        self._collector = CollectorPace(loop, lambda: state.store.key_count)
        self._collector.start()
        ready: asyncio.Future[None] = loop.create_future()
        server.on_ready = partial(_settle_future, ready)
        await self._serve_peers(PeerEndpoints(self._transport, adapt_peers(PeerPages(server))))
        if self._joined is not None:
            for other in self._joined.others:
                self._transport.add_remote(other.id, other.peer_urls)
        server.start()
        assert self._failure is not None
        await self._first_of(ready)
        if self.removed:
            return  # there is nothing to serve; `wait` says at once that it is over
        if self._failure.done():
            failure = self._failure.result()
            raise StartError(f"the member failed while starting: {explain(failure) or repr(failure)}")
        self._ready = True
        await self._serve(server)
        self._descriptors = DescriptorWatch(loop)
        self._descriptors.start()

    async def _check_for_corruption(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        """Compare with the other members before anything is served (semantics 10.13). Raises StartError."""
        checked: asyncio.Future[str] = loop.create_future()
        server.corruption.check_initially(lambda reason: None if checked.done() else checked.set_result(reason))
        if reason := await checked:
            raise StartError(reason)

    def _wire(
        self,
        disk: OsDisk,
        data_dir: DataDir,
        recovered: Recovered,
        state: State,
        raft: Raft,
        clock: LoopClock,
        loop: asyncio.AbstractEventLoop,
    ) -> Server:
        """Put the member together from what was recovered and the real ports."""
        config = self.config
        fsync = not config.unsafe_no_fsync
        backend = recovered.backend
        assert isinstance(backend, LmdbBackend)
        assert self._wal is not None
        image_worker = self._worker(loop, "image")
        imports = LmdbImports(loop.call_soon, fsync=fsync)
        self._received = received = ReceivedFiles(
            disk, data_dir.snap, backend, imports, image_worker, loop, self.metrics, fsync=fsync
        )
        self._images = BackendImages(backend, image_worker)
        backend.on_commit = self._committed
        self.metrics.backend_open_reads = lambda: backend.open_views
        host = MemberHost(state.members, config.initial_advertise_peer_urls, self.metrics, received)
        dial_timeout_s = 1.0 + config.election_timeout_ms / 1000
        self._transport = PeerTransport(host, dial_timeout_s=dial_timeout_s)
        self._calls = ClientCalls(PeerClient(dial_timeout_s=dial_timeout_s))
        files = SnapshotFiles(disk, data_dir.snap, fsync=fsync)
        parts = Parts(
            clock=clock,
            raft=raft,
            wal=self._wal,
            state=state,
            backend=backend,
            transport=self._transport,
            calls=self._calls,
            images=self._images,
            received=received,
            snapshot_store=SnapshotStore(
                files,
                self._wal,
                self._worker(loop, "snapshot"),
                keep_files=config.max_snapshots,
                keep_segments=config.max_wals,
                saved=self._snapshot_saved,
            ),
            snapshot_index=recovered.snapshot.meta.index,
            jitter=random.random,
            tokens=make_tokens(config, clock),
            password_worker=self._worker(loop, "password"),
            entropy=secrets.token_bytes,
            fail=self._fail,
            answered=Lingering(loop.call_soon, time.monotonic).answered,
            stopwatch=time.monotonic,
        )
        server = host.server = Server(config, parts, self.metrics)
        readings.connect(self.metrics, server)
        return server

    def _snapshot_saved(self, times: SaveTimes) -> None:
        self.metrics.snapshot_marshal_seconds.observe(times.encode_s)
        self.metrics.snapshot_fsync_seconds.observe(times.sync_s)
        self.metrics.snapshot_save_seconds.observe(times.total_s)

    def _committed(self, commit_s: float, flush_s: float) -> None:
        self.metrics.backend_commit_seconds.observe(commit_s)
        self.metrics.backend_write_seconds.observe(flush_s)

    # --- recovery --------------------------------------------------------------------------------------------------

    def _worker(self, loop: asyncio.AbstractEventLoop, name: str) -> ThreadWorker:
        worker = ThreadWorker(loop, name=name)
        self._workers.append(worker)
        return worker

    async def _recover(self, disk: OsDisk, data_dir: DataDir, loop: asyncio.AbstractEventLoop) -> Recovered:
        config = self.config
        fsync = not config.unsafe_no_fsync
        backend_worker = self._worker(loop, "backend")
        wal_worker = self._worker(loop, "wal")
        self._syncs = kernel_syncs(loop) if fsync else None

        def open_backend(path: str) -> LmdbBackend:
            began = loop.time()
            if disk.exists(path) and (given_up := check_backend(path, sync=fsync)):
                fields = {"path": path, "reason": given_up}
                log.warning(
                    "the last commit of the backend is damaged; going back to the one before", extra={"fields": fields}
                )
            backend = LmdbBackend(path, worker=backend_worker, fsync=fsync)
            log.info("opened backend db", extra={"fields": {"path": path, "took": f"{loop.time() - began:.3f}s"}})
            return backend

        def open_wal(directory: str, meta: SnapshotMeta, reading: LogReading) -> tuple[Wal, WalContents]:
            return Wal.open(
                disk,
                directory,
                snapshot_index=meta.index,
                snapshot_term=meta.term,
                reading=reading,
                worker=wal_worker,
                syncs=self._syncs,
                fsync=fsync,
                metrics=self.metrics,
            )

        recovered = recover(
            disk,
            data_dir,
            open_backend=open_backend,
            open_wal=open_wal,
            alone=config.force_new_cluster,
        )
        self._recovered = recovered
        if recovered.fresh:
            await self._begin(recovered)
            self._wal = Wal.create(
                disk,
                data_dir.wal,
                recovered.metadata,
                worker=wal_worker,
                syncs=self._syncs,
                fsync=fsync,
                entries=recovered.entries,
                hard_state=recovered.hard_state if recovered.entries else None,
                metrics=self.metrics,
            )
        else:
            self._wal = recovered.wal
            if config.force_new_cluster:
                self._force_new_cluster(recovered)
        return recovered

    async def _begin(self, recovered: Recovered) -> None:
        """Decide what a member without data is to be: a founder of a new cluster, or one that joins."""
        config = self.config
        if config.initial_cluster_state == "existing":
            self._joined = await join(config)
            recovered.metadata = self._joined.metadata
            return
        members = await initial_members(config)
        if len(members) > 1:
            await check_not_bootstrapped(config, members)
        first = NewCluster(config)
        recovered.metadata = first.metadata
        recovered.entries = first.entries
        recovered.hard_state = first.hard_state

    def _force_new_cluster(self, recovered: Recovered) -> None:
        assert self._wal is not None
        added, hard_state = force_new_cluster(recovered, self.config.initial_advertise_peer_urls)
        log.warning("forcing a new cluster of this member alone", extra={"fields": {"changes": len(added)}})
        self._wal.append(added, hard_state, _ignore_done)
        recovered.entries = [*recovered.entries, *added]
        recovered.hard_state = hard_state

    def _raft(self, recovered: Recovered, member_id: int) -> Raft:
        config = self.config
        snapshot = recovered.snapshot.meta
        return Raft(
            member_id,
            election_ticks=config.election_ticks,
            heartbeat_ticks=1,
            pre_vote=config.pre_vote,
            check_quorum=True,
            max_message_bytes=MAX_MESSAGE_BYTES,
            max_inflight=MAX_INFLIGHT,
            max_uncommitted_bytes=MAX_UNCOMMITTED_BYTES,
            random=random.Random(),
            log=RaftLog(snapshot.index, snapshot.term, recovered.entries),
            hard_state=recovered.hard_state,
            conf_state=recovered.conf_state,
            applied=recovered.applied,
            tracer=_NoTracer(),
        )

    # --- serving ---------------------------------------------------------------------------------------------------

    def _bind(self) -> None:
        """Take the addresses early, so that a conflict is known before anything is written; serve later."""
        config = self.config
        for flag, urls in (
            ("--listen-client-urls", config.listen_client_urls),
            ("--listen-peer-urls", config.listen_peer_urls),
            ("--listen-metrics-urls", config.listen_metrics_urls),
        ):
            for url in urls:
                self._listeners.append(
                    Listener.bind(
                        url, flag=flag, reuse_port=config.socket_reuse_port, reuse_address=config.socket_reuse_address
                    )
                )

    async def _serve(self, server: Server) -> None:
        config = self.config
        max_message_bytes = config.max_request_bytes + GRPC_OVERHEAD_BYTES
        # JSON is longer than the message in it: base64 by a third, names and quotes by the rest.
        max_body_bytes = 2 * max_message_bytes
        limits = Limits(
            max_concurrent_streams=config.max_concurrent_streams,
            max_message_bytes=max_message_bytes,
            max_http_body_bytes=max_body_bytes,
            min_ping_interval_s=config.min_ping_interval_s,
        )
        routes = build_routes(self.metrics.rpcs)
        render = partial(metrics_table.render, self.metrics)
        gateway = Gateway(server, routes, max_message_bytes=max_message_bytes) if config.enable_grpc_gateway else None
        access = Access(origins=config.cors, hosts=config.host_whitelist)
        profiles = pprof_pages(asyncio.get_running_loop()) if config.enable_pprof else {}
        front = ClientFront(HttpPages(server, render, process_variables, profiles), gateway, access)
        clients = Acceptor(
            partial(_open_session, server, routes, limits, front),
            serve_front(front),
            http1_limits=Http1Limits(body_bytes=max_body_bytes),
            body_streams=front.wants_body_stream,
            max_connections=self._room,
        )
        monitors = Acceptor(None, _adapt(HttpPages(server, render)))
        self._acceptors += [clients, monitors]
        first_peer = len(config.listen_client_urls)
        for listener in self._listeners[:first_peer]:
            await listener.serve(clients)
            log.info("serving client traffic insecurely", extra={"fields": {"address": listener.url}})
        for listener in self._listeners[first_peer + len(config.listen_peer_urls) :]:
            await listener.serve(monitors)
        log.info("ready to serve client requests")

    async def _serve_peers(self, endpoints: PeerEndpoints) -> None:
        """Serve other members, who must be heard before there can be a leader."""
        config = self.config
        peers = Acceptor(None, endpoints, http1_limits=PEER_HTTP_LIMITS, body_streams=wants_body_stream)
        self._peer_acceptor = peers
        first = len(config.listen_client_urls)
        for listener in self._listeners[first : first + len(config.listen_peer_urls)]:
            await listener.serve(peers)
            log.info("serving peer traffic insecurely", extra={"fields": {"address": listener.url}})

    async def stop(self) -> None:
        """Stop politely: no new work, answers out, everything durable. Killing the process would be just as safe.

        Once begun it goes on to its end, whoever is cancelled: a caller that comes meanwhile, or again, waits for that.
        """
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._stop())
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        config = self.config
        fields = {
            "name": config.name,
            "data-dir": config.data_dir,
            "advertise-peer-urls": config.initial_advertise_peer_urls,
            "advertise-client-urls": config.advertise_client_urls,
        }
        log.info("closing etcd server", extra={"fields": fields})
        try:
            for step in self._steps_of_stop():
                try:
                    under_way = step()
                    if under_way is not None:
                        await under_way
                except (Exception, asyncio.CancelledError):  # what would stay open then keeps the next start out
                    log.exception("a step of the stop failed", extra={"fields": {"step": step.__qualname__}})
            self._let_go()
            log.info("closed etcd server", extra={"fields": fields})
        finally:
            if self._failure is not None and not self._failure.done():
                self._failure.set_result(None)

    def _steps_of_stop(self) -> Iterator[Callable[[], Awaitable[object] | None]]:
        """Each is made when those before have been taken."""
        yield self._give_up_start
        if self._descriptors is not None:
            yield self._descriptors.stop
        yield self._hand_over
        for listener in self._listeners:
            yield listener.close
        for acceptor in self._acceptors:
            yield acceptor.go_away
        yield self._see_clients_off
        for acceptor in self._acceptors:
            yield acceptor.abort
        if self._server is not None:
            yield self._server.stop
        if self._images is not None:
            yield self._images.stop
        if self._transport is not None:
            yield self._transport.stop
        if self._calls is not None:
            yield self._calls.stop
        if self._peer_acceptor is not None:
            yield self._peer_acceptor.go_away
            yield self._peer_acceptor.abort
        if self._received is not None:
            yield self._received.stop
        yield self._settle
        if self._wal is not None:
            yield self._close_log
        if self._syncs is not None:
            yield self._syncs.close
        for worker in self._workers:
            yield worker.close  # after this nothing uses the backend any more: a copy of it may have been under way
        if self._recovered is not None:
            yield self._recovered.backend.close
        if self._lock is not None:
            yield self._lock.close
        if self._collector is not None:
            yield self._collector.stop  # no sooner: clients and successors should not wait while it is walked

    async def _give_up_start(self) -> None:
        """Have a start under way end first: it would go on with what is closed meanwhile."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait((self._starting,))

    def _let_go(self) -> None:
        """Hold nothing of what was running: who keeps this object need not keep all keys in memory."""
        self.metrics = metrics_table.Metrics()  # the former one has readings of the server
        self._starting = self._server = self._recovered = self._wal = self._transport = self._calls = None
        self._received = self._images = self._peer_acceptor = self._collector = self._descriptors = None
        self._listeners, self._acceptors, self._workers = [], [], []

    async def _see_clients_off(self) -> None:
        """Streams end at once, requests under way have a moment to finish."""
        if self._server is not None and self._failure is not None and not self._failure.done():
            self._server.leave()
            await asyncio.gather(*(acceptor.drained(STOP_TIMEOUT_S) for acceptor in self._acceptors))

    async def _hand_over(self) -> None:
        """Have another member lead before this one goes, so that the others need no election timeout to notice."""
        if self._server is None or self._failure is None or self._failure.done():
            return
        leadership = self._server.leadership
        successor = leadership.successor()
        if not successor:
            return
        handed_over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(error: EtcdError | None) -> None:
            if error is not None:
                log.warning("leadership transfer failed", extra={"fields": {"error": error.message}})
            _settle_future(handed_over)

        leadership.transfer(successor, done, timeout_s=None)
        self._server.node.wake()
        await self._first_of(handed_over)

    async def _settle(self) -> None:
        """Bring the backend up to what was applied, unless the member has failed: then nothing more is written."""
        if self._server is None or self._failure is None or self._failure.done():
            return
        settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._server.committer.sync(partial(_settle_future, settled))
        await self._first_of(settled)

    async def _close_log(self) -> None:
        assert self._wal is not None
        closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._wal.close(partial(_settle_future, closed))
        await closed

    async def _first_of(self, event: "asyncio.Future[None]") -> None:
        """Wait for an event, or for the member to fail."""
        waiting: list[asyncio.Future[Any]] = [event]
        if self._failure is not None:
            waiting.append(self._failure)
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)

    def _fail(self, error: BaseException) -> None:
        """End the member: its state or its disk can no longer be trusted, or its cluster has removed it."""
        if self._failure is None or self._failure.done():
            return  # what follows from the first failure is of no interest
        self.removed = isinstance(error, MemberRemoved)
        if self.removed:
            fields = {"reason": str(error)}
            log.error("the member has been permanently removed from the cluster", extra={"fields": fields})
        elif (reason := explain(error)) is None:
            log.critical("the member failed", exc_info=error)
        elif self._ready:  # else it is what `start` raises
            log.critical("the disk failed; the member ends", extra={"fields": {"error": reason}})
        if self._server is not None:
            self._server.halt()
        self._failure.set_result(None if self.removed else error)


async def _restore(state: State, data_dir: DataDir) -> None:
    """Read the state from its backend, letting the loop turn. Raises BackendDamaged."""
    try:
        for _ in state.restore():
            await asyncio.sleep(0)
    except Exception as error:  # whatever a record makes its reader raise, it is not what was written
        raise BackendDamaged(data_dir.backend, f"a record is unreadable ({error!r})") from error


def _open_session(
    server: Server, routes: dict[bytes, Route], limits: Limits, front: ClientFront, link: Link
) -> Session:
    return Session(server, routes, limits, link, front)


def _adapt(pages: Pages) -> Callable[[HttpRequest], Awaitable[HttpResponse]]:
    """Pages answer through a callback, connections await a response."""

    async def handle(request: HttpRequest) -> HttpResponse:
        answered: asyncio.Future[HttpResponse] = asyncio.get_running_loop().create_future()

        def answer(status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            if not answered.done():
                answered.set_result(HttpResponse(status, headers, body))

        pages.handle(request.method, request.path, request.query, answer)
        return await answered

    return handle


def adapt_peers(pages: PeerPages) -> Callable[[HttpRequest], Awaitable[HttpResponse]]:
    """As `_adapt`, for pages that read the body."""

    async def handle(request: HttpRequest) -> HttpResponse:
        answered: asyncio.Future[HttpResponse] = asyncio.get_running_loop().create_future()

        def answer(status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            if not answered.done():
                answered.set_result(HttpResponse(status, headers, body))

        request.ends_with_client = request.path == HASH_PATH  # the only one that is work as long as it lasts
        pages.handle(request, answer, lambda: not answered.done())
        return await answered

    return handle


def _min_ttl_s(config: Config) -> int:
    """Shortest lease: one and a half election timeouts, in whole seconds (semantics 8.3)."""
    ticks = 3 * config.election_ticks // 2
    return -(-ticks * config.heartbeat_interval_ms // 1000)


def _settle_future(future: "asyncio.Future[None]", error: BaseException | None = None) -> None:
    """Wake whoever awaits a callback; a late or repeated one is harmless."""
    if not future.done():
        future.set_result(None)


def _ignore_done(error: BaseException | None) -> None:
    if error is not None:
        raise error
