"""Syncs that the kernel carries out behind the loop's back (Linux AIO, IOCB_CMD_FDSYNC): no thread waits for them.

A thread that comes back from a sync must wait for the interpreter, milliseconds on a busy loop, and twice if it was
asleep before. The kernel's own threads need none: the end of a sync is an event like any other.
"""

import asyncio
import ctypes
import logging
import os
import platform
import select

from ratifyd.ports import Done, File
from ratifyd.storage.disk import OsFile

_log = logging.getLogger("ratifyd.storage")

_SYSCALLS = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2)}
"""Numbers of io_setup, io_destroy, io_getevents and io_submit, for which there is no function in libc."""
_FDSYNC = 3
_TELL_EVENTFD = 1
_TRIAL_MS = 1000


class _Request(ctypes.Structure):
    """struct iocb of linux/aio_abi.h, on a little-endian machine."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_int32),
        ("opcode", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("fd", ctypes.c_uint32),
        ("buffer", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("event_fd", ctypes.c_uint32),
    )


class _Event(ctypes.Structure):
    """struct io_event of linux/aio_abi.h."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("request", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("result2", ctypes.c_int64),
    )


class KernelSyncs:
    """`ports.Syncs` by Linux AIO, for one log: one sync at a time."""

    __slots__ = ("_context", "_done", "_event_fd", "_events", "_file", "_loop", "_request", "_requests", "_syscall")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Raises OSError where there is no such thing; `kernel_syncs` asks."""
        if platform.machine() not in _SYSCALLS:
            raise OSError(f"no system call numbers for {platform.machine()}")
        self._syscall = ctypes.CDLL(None, use_errno=True).syscall
        self._syscall.restype = ctypes.c_long
        self._context = ctypes.c_ulong(0)
        self._call(0, ctypes.c_long(1), ctypes.byref(self._context))
        self._loop = loop
        self._event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._request = _Request(opcode=_FDSYNC, flags=_TELL_EVENTFD, event_fd=self._event_fd)
        self._requests = (ctypes.c_void_p * 1)(ctypes.addressof(self._request))
        self._events = (_Event * 1)()
        self._file: OsFile | None = None
        self._done: Done | None = None
        try:
            self._try_out()
        except BaseException:
            self._release()
            raise
        loop.add_reader(self._event_fd, self._ended)

    def begin(self, file: File, done: Done) -> None:
        """Make what was written to `file` durable, then call `done` on the loop. Raises OSError, and forgets `done`."""
        assert isinstance(file, OsFile) and self._done is None, "one sync at a time"
        try:
            self._submit(file.fileno())
        except OSError as error:
            raise file.named(error) from error
        self._file = file
        self._done = done

    def close(self) -> None:
        """Let go of it; waits for a sync under way, of which nobody hears any more."""
        self._loop.remove_reader(self._event_fd)
        self._release()

    def _submit(self, fd: int) -> None:
        self._request.fd = fd
        self._call(3, self._context, ctypes.c_long(1), self._requests)

    def _result(self) -> int:
        """What came of the sync: 0 or the negative number of an error."""
        os.eventfd_read(self._event_fd)
        self._call(2, self._context, ctypes.c_long(1), ctypes.c_long(1), self._events, None)
        return int(self._events[0].result)

    def _ended(self) -> None:
        result = self._result()
        file, done, self._file, self._done = self._file, self._done, None, None
        assert file is not None and done is not None
        done(file.named(OSError(-result, os.strerror(-result))) if result else None)

    def _try_out(self) -> None:
        """Sync a file in memory. Old kernels refuse it, and who only pretends to be one might never answer."""
        fd = os.memfd_create("trial")
        try:
            self._submit(fd)
            poll = select.poll()
            poll.register(self._event_fd, select.POLLIN)
            if not poll.poll(_TRIAL_MS) or self._result():
                raise OSError("a sync of a file in memory failed")
        finally:
            os.close(fd)

    def _call(self, which: int, *arguments: object) -> None:
        if self._syscall(ctypes.c_long(_SYSCALLS[platform.machine()][which]), *arguments) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def _release(self) -> None:
        self._call(1, self._context)
        os.close(self._event_fd)


def kernel_syncs(loop: asyncio.AbstractEventLoop) -> KernelSyncs | None:
    """The kernel's syncs, or None where they are not to be had: on other systems, or by a filter of system calls."""
    try:
        return KernelSyncs(loop)
    except (AttributeError, OSError) as error:
        _log.debug("syncs run on a thread, as the kernel offers no other way: %s", error)
        return None
