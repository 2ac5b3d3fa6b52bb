"""The C library's allocator, told to keep what it gets: large buffers come and go with every large request.

By default glibc gives blocks of a few hundred KiB back to the kernel as soon as they are free and gets them afresh the
next time, page by page: half the cost of an answer of 300 KiB.
"""

import ctypes

MMAP_FROM_BYTES = 16 << 20
"""Blocks from here on are got from the kernel and given back one by one."""
KEEP_BYTES = 64 << 20
"""Free memory at the end of the heap that is kept."""

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def keep_freed_memory() -> None:
    """Set the allocator of this process so; nothing where the C library is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, MMAP_FROM_BYTES)
        mallopt(_M_TRIM_THRESHOLD, KEEP_BYTES)
