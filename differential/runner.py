"""Carry operations to both sides, note what the answers mean for later checks, stop at the first difference."""

import asyncio
from dataclasses import dataclass
from functools import partial

from differential.compare import differences, sorted_range_differences
from differential.operations import Kind, Operation
from differential.sides import Side, Silent
from differential.watching import Watching, watcher_from
from harness.fastgrpc import Answer
from ratifyd.proto import rpc_pb2
from ratifyd.proto.services import METHODS

RANGE_PATH = "/etcdserverpb.KV/Range"
COMPACT_PATH = "/etcdserverpb.KV/Compact"
HASH_PATH = "/etcdserverpb.Maintenance/HashKV"
GRANT_PATH = "/etcdserverpb.Lease/LeaseGrant"
REVOKE_PATH = "/etcdserverpb.Lease/LeaseRevoke"
AUTHENTICATE_PATH = "/etcdserverpb.Auth/Authenticate"
AUTH_ENABLE_PATH = "/etcdserverpb.Auth/AuthEnable"
AUTH_DISABLE_PATH = "/etcdserverpb.Auth/AuthDisable"
ROOT_PASSWORD = "rootpw"
"""Sequences with users in them never change it."""

_NO_TOKEN = ("noSuchTokenAtAll.1", "noSuchTokenAtAll.1")

_SHOWN = 2000


@dataclass(frozen=True, slots=True)
class Difference:
    """The first disagreement of a sequence: which step, what differs, and both answers as text."""

    step: int
    operation: Operation | None
    problems: tuple[str, ...]
    left: str = ""
    right: str = ""

    def __str__(self) -> str:
        lines = [f"step {self.step}: {self.operation or 'final checks'}"]
        lines += [f"  {problem}" for problem in self.problems[:10]]
        if self.left or self.right:
            lines += [f"  left:  {self.left[:_SHOWN]}", f"  right: {self.right[:_SHOWN]}"]
        return "\n".join(lines)


class Session:
    """Two connected sides and what is known about their common state from the left one's answers."""

    def __init__(self, left: Side, right: Side) -> None:
        self.left = left
        self.right = right
        self.watching = Watching(left, right)
        self.step = 0
        self.revision = 1
        self.compacted = -1
        self.compactions: set[int] = set()
        self.leases: set[int] = set()
        self.auth_on = False
        self.tokens: dict[str, tuple[str, str]] = {}
        """The last token of each user, of both sides."""

    @property
    def sides(self) -> tuple[Side, Side]:
        return (self.left, self.right)

    async def execute(self, operation: Operation) -> Difference | None:
        """Carry out one step on both sides; the difference it shows, if any."""
        self.step += 1
        try:
            async with asyncio.timeout(3 * self.left.timeout_s):
                if operation.kind is Kind.UNARY:
                    return await self._unary(operation)
                if operation.kind is Kind.KEEPALIVE:
                    return await self._keepalive(operation)
                if operation.kind is Kind.REOPEN:
                    return await self._reopen(operation)
                return await self._watch(operation)
        except Silent as silence:
            return Difference(self.step, operation, (str(silence),))
        except TimeoutError:
            return Difference(self.step, operation, ("no answer in time from at least one side",))

    async def finish(self) -> Difference | None:
        """The checks at the end of a sequence: all events arrived, nothing unasked came, contents and hashes equal."""
        try:
            problems = await self.watching.settle(self.watching.watchers(), self.revision)
        except Silent as silence:
            problems = [str(silence)]
        for side in self.sides:
            for number, stream in side.streams.items():
                unasked = [
                    *stream.created,
                    *stream.progress,
                    *(each for some in stream.canceled.values() for each in some),
                ]
                problems += [f"{side.name}: stream {number}: nobody asked for {response}" for response in unasked]
                if stream.call.done.done():
                    problems.append(f"{side.name}: stream {number} ended: {stream.call.done}")
        if problems:
            return Difference(self.step, None, tuple(problems))
        everything = rpc_pb2.RangeRequest(key=b"\0", range_end=b"\0").SerializeToString()
        last = [(RANGE_PATH, everything), (HASH_PATH, b"")]
        if self.auth_on:
            login = rpc_pb2.AuthenticateRequest(name="root", password=ROOT_PASSWORD)
            last.insert(0, (AUTHENTICATE_PATH, login.SerializeToString()))
        for path, request in last:
            found = await self.execute(Operation(Kind.UNARY, path, request, user="root"))
            if found is not None:
                return found
        return None

    def _difference(
        self, operation: Operation, problems: list[str], left: str = "", right: str = ""
    ) -> Difference | None:
        return Difference(self.step, operation, tuple(problems), left, right) if problems else None

    # Calls

    async def _unary(self, operation: Operation) -> Difference | None:
        if operation.path == COMPACT_PATH:
            # prev_kv is read when an event is sent: what is compacted by then is left out.
            await self.watching.catch_up(self.watching.watchers())
            problems = await self.watching.settle(self.watching.watchers(), self.revision)
            if problems:
                return self._difference(operation, problems)
        tokens = ("", "")
        if self.auth_on and operation.user:  # a token sent while auth is off is an error for 3.5.1 only
            tokens = self.tokens.get(operation.user, _NO_TOKEN)
        left_call = self.left.unary(operation.path, operation.request, tokens[0])
        right_call = self.right.unary(operation.path, operation.request, tokens[1])
        left, right = await left_call, await right_call
        if left.code == 0:
            self._observe(operation, left)
            self._observe_auth(operation, left, right)
        if left == right:
            return None
        return self._compared(operation, left, right)

    def _compared(self, operation: Operation, left: Answer, right: Answer) -> Difference | None:
        problems = compare_answers(operation, left, right)
        if not problems:
            return None
        return self._difference(operation, problems, show(operation, left), show(operation, right))

    def _observe(self, operation: Operation, left: Answer) -> None:
        method = METHODS.get(operation.path.encode())
        if method is None:
            return
        header = getattr(method.response.FromString(left.message), "header", None)
        if header is not None:
            self.revision = max(self.revision, header.revision)
        if operation.path == COMPACT_PATH:
            self.compacted = rpc_pb2.CompactionRequest.FromString(operation.request).revision
            self.compactions.add(self.compacted)
        elif operation.path == GRANT_PATH:
            self.leases.add(rpc_pb2.LeaseGrantRequest.FromString(operation.request).ID)
        elif operation.path == REVOKE_PATH:
            self.leases.discard(rpc_pb2.LeaseRevokeRequest.FromString(operation.request).ID)

    def _observe_auth(self, operation: Operation, left: Answer, right: Answer) -> None:
        if operation.path == AUTHENTICATE_PATH and right.code == 0:
            name = rpc_pb2.AuthenticateRequest.FromString(operation.request).name
            one, other = (rpc_pb2.AuthenticateResponse.FromString(answer.message).token for answer in (left, right))
            self.tokens[name] = (one, other)
        elif operation.path == AUTH_ENABLE_PATH:
            self.auth_on = True
        elif operation.path == AUTH_DISABLE_PATH:
            self.auth_on = False
            self.tokens.clear()

    async def _keepalive(self, operation: Operation) -> Difference | None:
        left, right = await asyncio.gather(*(side.keepalive(operation.request) for side in self.sides))
        return None if left == right else self._compared(operation, left, right)

    # Watch streams

    async def _reopen(self, operation: Operation) -> Difference | None:
        watchers = self.watching.watchers(operation.stream)
        problems = await self.watching.settle(watchers, self.revision)
        for watcher in watchers:
            self.watching.remove(watcher)
        for side in self.sides:
            side.close_stream(operation.stream)
        return self._difference(operation, problems)

    async def _watch(self, operation: Operation) -> Difference | None:
        request = rpc_pb2.WatchRequest.FromString(operation.request)
        if request.HasField("create_request"):
            return await self._create(operation, request.create_request)
        if request.HasField("cancel_request"):
            return await self._cancel(operation, request.cancel_request.watch_id)
        if request.HasField("progress_request"):
            await self.watching.catch_up(self.watching.watchers(operation.stream))
        for side in self.sides:
            side.watch_stream(operation.stream).call.send(operation.request)
        if request.HasField("progress_request"):
            return await self._progress(operation)
        return None

    async def _create(self, operation: Operation, create: rpc_pb2.WatchCreateRequest) -> Difference | None:
        answers = []
        streams = [side.watch_stream(operation.stream) for side in self.sides]
        for stream in streams:
            stream.call.send(operation.request)
        for side, stream in zip(self.sides, streams):
            await side.wait(partial(_has, stream.created), "the creation of a watcher")
            answers.append(stream.created.pop(0))
        if not answers[0].canceled:
            self.watching.add(watcher_from(operation.stream, create, answers[0], self.compacted))
        return self._difference(operation, differences(*answers), str(answers[0]), str(answers[1]))

    async def _cancel(self, operation: Operation, watch_id: int) -> Difference | None:
        watcher = self.watching.find(operation.stream, watch_id)
        problems = []
        if watcher is not None:
            problems = await self.watching.settle([watcher], self.revision)
        streams = [side.watch_stream(operation.stream) for side in self.sides]
        for stream in streams:
            stream.call.send(operation.request)
        if watcher is not None:
            for side, stream in zip(self.sides, streams):
                await side.wait(
                    lambda stream=stream: bool(stream.canceled.get(watch_id)), f"cancellation of {watch_id}"
                )  # type: ignore[misc]
            problems += self.watching.compare_canceled(watcher)
            self.watching.remove(watcher)
        return self._difference(operation, problems)

    async def _progress(self, operation: Operation) -> Difference | None:
        answers = []
        for side in self.sides:
            stream = side.watch_stream(operation.stream)
            await side.wait(partial(_has, stream.progress), "a progress answer")
            answers.append(stream.progress.pop(0))
        return self._difference(operation, differences(*answers), str(answers[0]), str(answers[1]))


def _has(responses: list[rpc_pb2.WatchResponse]) -> bool:
    return bool(responses)


def compare_answers(operation: Operation, left: Answer, right: Answer) -> list[str]:
    """In what two answers to one operation disagree."""
    if left.code != right.code:
        return [f"code {left.code} and {right.code}"]
    if left.code != 0:
        same = left.text == right.text or operation.loose_text
        return [] if same else [f"text {left.text!r} and {right.text!r}"]
    method = METHODS.get(operation.path.encode())
    if method is None:
        return [] if left.message == right.message else ["messages of an unknown method differ"]
    one, other = method.response.FromString(left.message), method.response.FromString(right.message)
    if operation.path == RANGE_PATH:
        request = rpc_pb2.RangeRequest.FromString(operation.request)
        if request.sort_target != rpc_pb2.RangeRequest.KEY:
            return sorted_range_differences(request, one, other)
    return differences(one, other)


def show(operation: Operation, answer: Answer) -> str:
    """An answer as text."""
    if answer.code != 0:
        return f"error {answer.code} {answer.text!r}"
    method = METHODS.get(operation.path.encode())
    if method is None:
        return answer.message.hex()
    return str(method.response.FromString(answer.message)).replace("\n", " ")
