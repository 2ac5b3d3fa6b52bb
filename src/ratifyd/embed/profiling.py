"""/debug/pprof/ with --enable-pprof: what can be told of a running Python process in the format of Go's pages.

`cmdline`, `profile` (processor time by function) and `goroutine` (where all threads and tasks are) are served; profiles
that would be about Go's memory, locks and scheduler are unknown here.
"""

import asyncio
import html
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from urllib.parse import parse_qs

from ratifyd.api.pages import ERROR, TEXT, Answer, Headers, Page
from ratifyd.embed.pprofile import Profile, stack_of, stack_text

PREFIX = "/debug/pprof/"
INTERVAL_S = 0.01
"""Between two looks at all threads (Go samples a hundred times a second, too)."""
SWITCH_S = 0.00001
"""How long a thread may keep the interpreter when the profiler wants it."""
DEFAULT_S = 30
MAX_S = 300
"""Longest profile: nobody can take another one meanwhile."""

_SCHEDSTAT = "/proc/self/task/{}/schedstat"
"""Its first number is the processor time of a thread, in nanoseconds."""
_ABSENT = ("allocs", "block", "heap", "mutex", "symbol", "threadcreate", "trace")
_MARK = ("X-Go-Pprof", "1")


def pprof_pages(loop: asyncio.AbstractEventLoop) -> Mapping[str, Page]:
    """The pages by path; they are asked for, and answer, on `loop`."""
    profiler = _Profiler(loop)
    pages: dict[str, Page] = {
        "": _index,
        "cmdline": _cmdline,
        "goroutine": lambda method, query, answer: _stacks(loop, query, answer),
        "profile": profiler.page,
    }
    known = {**dict.fromkeys(_ABSENT, _unknown), **pages}
    return {PREFIX.rstrip("/"): _moved, **{PREFIX + name: page for name, page in known.items()}}


def _moved(method: str, query: str, answer: Answer) -> None:
    """As Go's mux sends to the path with a slash at its end."""
    target = f"{PREFIX}?{query}" if query else PREFIX
    body = f'<a href="{html.escape(target)}">Moved Permanently</a>.\n\n' if method == "GET" else ""
    answer(301, [("Content-Type", "text/html; charset=utf-8"), ("Location", target)], body.encode())


def _index(method: str, query: str, answer: Answer) -> None:
    links = "".join(
        f"<li><a href='{name}'>{html.escape(text)}</a></li>\n"
        for name, text in (
            ("cmdline", "cmdline: the command line of this process"),
            ("goroutine?debug=2", "goroutine: the stacks of all threads and tasks"),
            ("profile", "profile: processor time by function; argument seconds says for how long"),
        )
    )
    body = f"<html><head><title>{PREFIX}</title></head><body>\n<p>Profiles:</p>\n<ul>\n{links}</ul>\n</body></html>\n"
    answer(200, [("Content-Type", "text/html; charset=utf-8"), ERROR[1]], body.encode())


def _cmdline(method: str, query: str, answer: Answer) -> None:
    answer(200, [*TEXT, ERROR[1]], "\0".join(sys.argv).encode("utf-8", "surrogateescape"))


def _unknown(method: str, query: str, answer: Answer) -> None:
    _refuse(404, "Unknown profile", answer)


def _refuse(status: int, reason: str, answer: Answer) -> None:
    answer(status, [*ERROR, _MARK], f"{reason}\n".encode())


def _file(name: str, data: bytes, answer: Answer) -> None:
    headers: Headers = [("Content-Type", "application/octet-stream"), ERROR[1]]
    answer(200, [*headers, ("Content-Disposition", f'attachment; filename="{name}"')], data)


def _argument(query: str, name: str, default: int) -> int | None:
    """A whole number given in the query; None when it is none."""
    text = parse_qs(query).get(name, [str(default)])[0]
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


# --- where everything is ----------------------------------------------------------------------------------------------


def _stacks(loop: asyncio.AbstractEventLoop, query: str, answer: Answer) -> None:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    found = [(f"thread {names.get(ident, ident)}", stack_of(frame)) for ident, frame in sys._current_frames().items()]
    for task in asyncio.all_tasks(loop):
        frames = task.get_stack()
        if frames:  # from outside inwards, each frame on its own
            found.append((f"task {task.get_name()}", tuple(stack_of(frame)[0] for frame in reversed(frames))))
    if _argument(query, "debug", 0):
        text = "".join(f"{name}:\n{stack_text(stack)}\n" for name, stack in found)
        answer(200, [*TEXT, ERROR[1]], text.encode("utf-8", "replace"))
        return
    profile = Profile(("goroutine", "count"))
    for _, stack in found:
        profile.add(stack, 1)
    _file("goroutine", profile.encode(time_ns=time.time_ns()), answer)


# --- processor time ---------------------------------------------------------------------------------------------------


class _Profiler:
    """Measures processor time, one request at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._running = False

    def page(self, method: str, query: str, answer: Answer) -> None:
        """Answer with the profile of the seconds to come."""
        seconds = _argument(query, "seconds", DEFAULT_S)
        if seconds is None or not 0 < seconds <= MAX_S:
            _refuse(400, f"seconds must be from 1 to {MAX_S}", answer)
        elif self._running:
            _refuse(500, "Could not enable CPU profiling: cpu profiling already in use", answer)
        else:
            self._running = True
            thread = threading.Thread(target=self._measure, args=(seconds, answer), name="pprof", daemon=True)
            thread.start()

    def _measure(self, seconds: int, answer: Answer) -> None:
        began = time.time_ns()
        try:
            profile = measure(seconds)
            data = profile.encode(time_ns=began, duration_ns=time.time_ns() - began, period_ns=int(INTERVAL_S * 1e9))
        except OSError as error:
            reason = f"Could not enable CPU profiling: {error}"
            self._tell(lambda: _refuse(500, reason, answer))
        else:
            self._tell(lambda: _file("profile", data, answer))

    def _tell(self, tell: Callable[[], None]) -> None:
        def told() -> None:
            self._running = False
            tell()

        try:
            self._loop.call_soon_threadsafe(told)
        except RuntimeError:  # the loop has ended meanwhile
            return


def measure(seconds: float) -> Profile:
    """The processor time that all other threads use in so many seconds, by their stacks. Raises OSError.

    Whoever looks needs the interpreter, and would get it most easily from a thread that is done: so that those at work
    are met, they must give it up at once. Time in long calls of C goes to their callers.
    """
    profile = Profile(("samples", "count"), ("cpu", "nanoseconds"))
    clocks = _ThreadClocks()
    own, end = threading.get_ident(), time.monotonic() + seconds
    pause = threading.Event()  # which nobody sets
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        clocks.used()
        while time.monotonic() < end:
            pause.wait(INTERVAL_S)
            frames = sys._current_frames()
            for ident, used_ns in clocks.used().items():
                if used_ns and ident != own and ident in frames:
                    profile.add(stack_of(frames[ident]), 1, used_ns)
            del frames
    finally:
        sys.setswitchinterval(before_s)
        clocks.close()
    return profile


class _ThreadClocks:
    """What the system says about the processor time of this process's threads."""

    def __init__(self) -> None:
        self._files: dict[int, int] = {}
        self._before: dict[int, int] = {}

    def used(self) -> dict[int, int]:
        """Nanoseconds each thread has used since the last call, by its identity; none for new ones. Raises OSError."""
        found: dict[int, int] = {}
        for thread in threading.enumerate():
            ident, native = thread.ident, thread.native_id
            if ident is None or native is None:
                continue
            try:
                if native not in self._files:
                    self._files[native] = os.open(_SCHEDSTAT.format(native), os.O_RDONLY)
                total = int(os.pread(self._files[native], 100, 0).split()[0])
            except OSError:
                if native == os.getpid():
                    raise  # not only this thread is gone: nothing of the kind can be had here
                continue
            found[ident] = total - self._before.get(native, total)
            self._before[native] = total
        return found

    def close(self) -> None:
        """Forget all of them."""
        for file in self._files.values():
            os.close(file)
        self._files.clear()
