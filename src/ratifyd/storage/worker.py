"""Workers: where jobs that release the GIL or take long run, so that the loop does not wait for them.

Each is FIFO, gets immutable input, and answers on the loop; answers of one burst share one wake-up. Threads of the
server are created here only.
"""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Lock, Thread
from time import sleep
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Answer = Callable[[Any, BaseException | None], None]


class Loop(Protocol):
    """What a worker needs of the event loop (asyncio and uvloop have it)."""

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any) -> object: ...

    def create_future(self) -> Any: ...


class GivenUp(Exception):
    """Nobody wants any more what a long job would give."""


class Pauses:
    """What a long job calls between its slices: others get the interpreter, and it ends once nobody waits for it."""

    __slots__ = ("_given_up",)

    def __init__(self) -> None:
        self._given_up = False

    def give_up(self) -> None:
        """End the job at its next pause."""
        self._given_up = True

    def __call__(self) -> None:
        """Pause. Raises GivenUp."""
        if self._given_up:
            raise GivenUp
        sleep(0)


class ThreadWorker:
    """One daemon thread running jobs in order of submission."""

    __slots__ = ("_answers", "_closed", "_jobs", "_lock", "_loop", "_thread", "_woken")

    def __init__(self, loop: Loop, *, name: str = "worker") -> None:
        self._loop = loop
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Answer] | None] = SimpleQueue()
        self._answers: deque[tuple[Answer, Any, BaseException | None]] = deque()
        self._lock = Lock()
        self._woken = False
        self._closed = False
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], T], done: Callable[[T | None, BaseException | None], None]) -> None:
        """Run `job` on the thread, then `done(result, error)` on the loop. Once closed, that is a RuntimeError."""
        if self._closed:  # not raised: answers given during the close may ask for more, and must not break off
            self._answer(done, None, RuntimeError("worker is closed"))
            return
        self._jobs.put((job, done))

    async def close(self) -> None:
        """Refuse new jobs, and wait until those submitted have run and were answered.

        Who is cancelled waits for them all the same, holding up the loop: what they use is going to be closed.
        """
        if self._closed:
            return
        answered = self._loop.create_future()
        self.submit(_nothing, lambda _, __: answered.done() or answered.set_result(None))
        self._closed = True
        self._jobs.put(None)
        try:
            await answered
        finally:
            self._thread.join()

    def abandon(self) -> None:
        """Refuse new jobs and wait for nothing: only for jobs that use nothing anybody closes."""
        self._closed = True
        self._jobs.put(None)

    def _run(self) -> None:
        get = self._jobs.get
        while (item := get()) is not None:
            job, done = item
            try:
                result = job()
            except BaseException as error:  # the submitter decides what a failure means, on the loop
                self._answer(done, None, error)
            else:
                self._answer(done, result, None)

    def _answer(self, done: Answer, result: Any, error: BaseException | None) -> None:
        with self._lock:
            self._answers.append((done, result, error))
            if self._woken:
                return
            self._woken = True
        self._wake()

    def _wake(self) -> None:
        # A loop that is closed already takes no calls, and nobody is left who waits for an answer.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            self._woken = False
            count = len(self._answers)
        try:
            while count:
                done, result, error = self._answers.popleft()
                count -= 1
                done(result, error)
        finally:
            if count:
                self._wake()


class SoonWorker:
    """A worker without a thread: each job runs in a later callback of the loop. For embedded in-memory members."""

    __slots__ = ("_call_soon",)

    def __init__(self, call_soon: Callable[..., object]) -> None:
        self._call_soon = call_soon

    def submit(self, job: Callable[[], T], done: Callable[[T | None, BaseException | None], None]) -> None:
        """Run `job` and then `done` in a later callback."""
        self._call_soon(_run_soon, job, done)

    def close(self) -> None:
        """Nothing is held."""


def _run_soon(job: Callable[[], T], done: Callable[[T | None, BaseException | None], None]) -> None:
    try:
        result = job()
    except BaseException as error:  # as ThreadWorker: the submitter decides
        done(None, error)
    else:
        done(result, None)


def _nothing() -> None:
    """Runs when everything submitted before has."""
