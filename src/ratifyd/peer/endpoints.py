"""The raft paths of the peer port: where other members post, dial and probe (http.tsv, rows of kind peer).

`PeerEndpoints` is a `net.http1.Handle`; paths it does not know go to the handler it was given. Its listener needs
`PEER_HTTP_LIMITS`, and `wants_body_stream` for snapshots, whose images are of any length.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

from ratifyd.logs import fields
from ratifyd.net.bodies import BodyStream
from ratifyd.net.http1 import Handle, Http1Limits, HttpRequest, HttpResponse
from ratifyd.peer import probing
from ratifyd.peer.codec import EnvelopeDecoder, StreamCorrupt, decode_peer_message
from ratifyd.peer.headers import CLUSTER_ID_MISMATCH, parse_id, refusal, sender_urls
from ratifyd.peer.host import ETCD_TIMING, PeerHost, Timing
from ratifyd.peer.inbound import TO_ANOTHER, is_joint, objection
from ratifyd.peer.streams import MESSAGE, MSGAPP
from ratifyd.peer.transport import PeerTransport
from ratifyd.raft.messages import Message, MessageKind
from ratifyd.version import ETCD_VERSION

PIPELINE_PATH: Final = "/raft"
SNAPSHOT_PATH: Final = "/raft/snapshot"
STREAM_PREFIX: Final = "/raft/stream/"
PEER_HTTP_LIMITS: Final = Http1Limits(body_bytes=512 * 1024 * 1024, body_timeout_s=300.0)
"""A posted message is as long as what clients may write, and that is set by the operator.
The time is etcd's."""
UNKNOWN_SENDER: Final = ("UNKNOWN_SNAPSHOT_SENDER",)
_STREAM_PATHS: Final = {f"{STREAM_PREFIX}{kind}/": kind for kind in (MSGAPP, MESSAGE)}

log = logging.getLogger("ratifyd.peer")


def wants_body_stream(method: str, path: str) -> bool:
    """Whether a request's body is read as it arrives (`net.connection.Acceptor.body_streams`)."""
    return method == "POST" and path == SNAPSHOT_PATH


class PeerEndpoints:
    """Serves /raft, /raft/stream/, /raft/snapshot and /raft/probing."""

    def __init__(
        self,
        transport: PeerTransport,
        fallback: Handle,
        *,
        timing: Timing = ETCD_TIMING,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._transport = transport
        self._host: PeerHost = transport.host
        self._fallback = fallback
        self._timing = timing
        self._wall = wall

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer one request."""
        path = request.path
        if path == PIPELINE_PATH:
            return self._pipeline(request)
        if path.startswith(STREAM_PREFIX):
            return self._stream(request)
        if path == SNAPSHOT_PATH:
            return await self._snapshot(request)
        if path == probing.PATH:
            headers = [("Content-Type", "text/plain; charset=utf-8")]
            return HttpResponse(200, headers, probing.probe_answer(self._wall()))
        return await self._fallback(request)

    # -- POST /raft

    def _pipeline(self, request: HttpRequest) -> HttpResponse:
        if request.method != "POST":
            return _not_allowed("POST")
        identity = self._identity()
        refused = self._check(request, identity)
        if refused is not None:
            return refused
        self._remember_sender(request)
        metrics = self._host.metrics
        try:
            message = decode_peer_message(request.body)
        except StreamCorrupt as error:
            log.warning("failed to unmarshal Raft message", extra=fields(error=str(error), remote=request.peer))
            metrics.peer_received_failures_total[(request.peer,)] += 1
            return _text(400, "error unmarshalling raft message", identity)
        metrics.peer_received_bytes_total[(f"{message.sender:x}",)] += len(request.body)
        reason = objection(self._host, message)
        if reason is not None:
            return _objected(reason, identity)
        if message.kind is MessageKind.SNAP:  # without the image it stands for, it would only do harm
            return _text(500, "error processing raft message", identity)
        self._host.receive([message])
        return HttpResponse(204, identity)

    # -- GET /raft/stream/...

    def _stream(self, request: HttpRequest) -> HttpResponse:
        if request.method != "GET":
            return _not_allowed("GET")
        host = self._host
        identity = [("X-Server-Version", ETCD_VERSION), *self._identity()]
        refused = self._check(request, identity)
        if refused is not None:
            return refused
        prefix, _, name = request.path.rpartition("/")
        kind = _STREAM_PATHS.get(f"{prefix}/")
        if kind is None:
            return _text(404, "invalid path", identity)
        sender = parse_id(name)
        if sender is None:
            return _text(404, "invalid from", identity)
        if host.is_removed(sender):
            log.warning("rejected stream from removed member", extra=fields(remote_peer_id=name))
            return _text(410, "removed member", identity)
        peer = self._transport.peer(sender)
        if peer is None:
            self._add_remote(sender, request)
            return _text(404, "error sender not found", identity)
        if request.headers.get("x-raft-to", "") != f"{host.local_id:x}":
            return _text(412, "to field mismatch", identity)
        log.info("established stream to remote peer", extra=fields(stream=kind, remote_peer_id=name))
        return HttpResponse(200, identity, taker=peer.writers[kind].attachment())

    # -- POST /raft/snapshot

    async def _snapshot(self, request: HttpRequest) -> HttpResponse:
        failures = self._host.metrics.snapshot_receive_failures
        if request.method != "POST":
            failures[UNKNOWN_SENDER] += 1
            return _not_allowed("POST")
        identity = self._identity()
        refused = self._check(request, identity)
        if refused is not None:
            failures[UNKNOWN_SENDER] += 1
            return refused
        self._remember_sender(request)
        assert request.stream is not None, "the listener does not know wants_body_stream"
        try:
            message, rest = await self._envelope(request.stream)
        except (StreamCorrupt, ConnectionError, TimeoutError) as error:
            log.warning("failed to decode Raft message", extra=fields(error=str(error), remote=request.peer))
            self._host.metrics.peer_received_failures_total[(request.peer,)] += 1
            failures[("0",)] += 1
            return _text(400, f"failed to decode raft message ({error})", identity)
        sender = (f"{message.sender:x}",)
        if message.kind is not MessageKind.SNAP or message.snapshot is None or is_joint(message):
            failures[sender] += 1
            return _text(400, "wrong raft message type", identity)
        reason = objection(self._host, message)
        if reason is not None:
            failures[sender] += 1
            return _objected(reason, identity)
        return await self._save(message, _Image(rest, request.stream, self._timing.snapshot_stall_s), identity)

    async def _envelope(self, stream: BodyStream) -> tuple[Message, bytes]:
        decoder = EnvelopeDecoder()
        reason = "EOF"
        async with asyncio.timeout(self._timing.snapshot_stall_s):
            async for piece in stream:
                found = decoder.feed(piece)
                if found is not None:
                    return found
                reason = "unexpected EOF"
        raise StreamCorrupt(reason)

    async def _save(self, message: Message, image: "_Image", identity: list[tuple[str, str]]) -> HttpResponse:
        loop = asyncio.get_running_loop()
        metrics, sender = self._host.metrics, (f"{message.sender:x}",)
        assert message.snapshot is not None
        about = {"remote-snapshot-sender-id": sender[0], "incoming-snapshot-index": message.snapshot.meta.index}
        log.info("receiving database snapshot", extra={"fields": about})
        started = loop.time()
        metrics.snapshot_receive_inflights[sender] += 1
        try:
            await self._host.save_snapshot(message, image)
        except (OSError, ValueError) as error:
            log.warning("failed to save incoming database snapshot", extra={"fields": about | {"error": str(error)}})
            metrics.snapshot_receive_failures[sender] += 1
            return _text(500, f"failed to save KV snapshot ({error})", identity)
        finally:
            metrics.snapshot_receive_inflights[sender] -= 1
            metrics.peer_received_bytes_total[sender] += image.size
        log.info("received and saved database snapshot", extra={"fields": about | {"bytes": image.size}})
        metrics.snapshot_receive_success[sender] += 1
        metrics.snapshot_receive_seconds[sender].observe(loop.time() - started)
        return HttpResponse(204, identity)

    # -- common

    def _identity(self) -> list[tuple[str, str]]:
        return [("X-Etcd-Cluster-ID", f"{self._host.cluster_id:x}")]

    def _check(self, request: HttpRequest, identity: list[tuple[str, str]]) -> HttpResponse | None:
        """The refusal of a member that is not one of ours."""
        reason = refusal(request.headers, self._host.cluster_id)
        if reason is None:
            return None
        log.warning(
            "request cluster ID mismatch" if reason == CLUSTER_ID_MISMATCH else "failed version compatibility check",
            extra=fields(
                local_member_id=f"{self._host.local_id:x}",
                local_member_cluster_id=f"{self._host.cluster_id:x}",
                local_member_server_version=ETCD_VERSION,
                remote_peer_server_name=request.headers.get("x-server-from", ""),
                remote_peer_server_version=request.headers.get("x-server-version", ""),
                remote_peer_cluster_id=request.headers.get("x-etcd-cluster-id", ""),
            ),
        )
        return _text(412, reason, identity)

    def _remember_sender(self, request: HttpRequest) -> None:
        sender = parse_id(request.headers.get("x-server-from", ""))
        if sender is not None:
            self._add_remote(sender, request)

    def _add_remote(self, sender: int, request: HttpRequest) -> None:
        urls = sender_urls(request.headers)
        if urls and not self._host.is_removed(sender):
            try:
                self._transport.add_remote(sender, urls)
            except ValueError as error:
                log.warning("bad X-PeerURLs", extra=fields(remote_peer_id=f"{sender:x}", error=str(error)))


class _Image:
    """The rest of a snapshot's body, counted, each piece due within a time."""

    def __init__(self, first: bytes, stream: BodyStream, stall_s: float) -> None:
        self.size = 0
        self._first = first
        self._stream = stream
        self._stall_s = stall_s

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._first:
            data, self._first = self._first, b""
        else:
            try:
                async with asyncio.timeout(self._stall_s):
                    data = await self._stream.__anext__()
            except TimeoutError:
                raise ConnectionResetError(f"no data for {self._stall_s:g} s") from None
        self.size += len(data)
        return data


def _text(status: int, text: str, headers: list[tuple[str, str]]) -> HttpResponse:
    """An error as Go's http.Error words it."""
    kind = [("Content-Type", "text/plain; charset=utf-8"), ("X-Content-Type-Options", "nosniff")]
    return HttpResponse(status, [*kind, *headers], f"{text}\n".encode())


def _not_allowed(method: str) -> HttpResponse:
    return _text(405, "Method Not Allowed", [("Allow", method)])


def _objected(message: str, headers: list[tuple[str, str]]) -> HttpResponse:
    """What a message is answered that must not be processed.

    403 is for members that were removed only: an etcd that gets one takes itself for removed, and ends.
    """
    if message == TO_ANOTHER:
        return _text(412, message, headers)
    body = json.dumps({"message": message}, separators=(",", ":")).encode()
    return HttpResponse(403, [("Content-Type", "application/json"), *headers], body)
