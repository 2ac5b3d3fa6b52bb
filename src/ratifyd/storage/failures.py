"""What a failing disk means for the operator: what failed, where, and what to do. Words only."""

import errno
import os

RESTORE_OR_REPLACE = (
    "If other members are healthy, remove this member, delete its data directory and add it again; otherwise restore "
    "the cluster from a snapshot"
)

_FULL = "the disk is full. Nothing acknowledged is lost: free space on its file system, then start the member again"
_READ_ONLY = (
    "the file system is read-only. If the kernel made it so (see dmesg), check the disk; make it writable, then start "
    "the member again"
)
_FAILING = (
    "the disk fails. Look at dmesg and check the disk before this member is started again. Should it be broken, go on "
    f"with another one. {RESTORE_OR_REPLACE}"
)
_FORBIDDEN = (
    "this is not permitted. The member needs to own its data directory with all its files, and to read and write them"
)
_ADVICE = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: "the file may not grow. Raise the limit on file sizes (ulimit -f), then start the member again",
    errno.EROFS: _READ_ONLY,
    errno.EIO: _FAILING,
    errno.ENXIO: _FAILING,
    errno.ENODEV: _FAILING,
    errno.EUCLEAN: _FAILING,
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.EMFILE: "too many files are open. Raise the limit (ulimit -n), then start the member again",
    errno.ENFILE: "too many files are open. Raise the limit (ulimit -n), then start the member again",
}


def explain(error: BaseException | None) -> str | None:
    """What to tell the operator when the disk is to blame for an error or for what caused it; else None."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _ADVICE:
            where = f"{error.filename}: " if error.filename else ""
            return f"{where}{os.strerror(error.errno)}: {_ADVICE[error.errno]}"
        error = error.__cause__
    return None
