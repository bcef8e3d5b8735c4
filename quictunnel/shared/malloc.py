"""Tuning of glibc's allocator, for programs of this project only.

glibc returns the end of its heap to the kernel as soon as a few hundred KiB are free, and maps larger blocks one
by one. A tunnel that moves chunks of that size then gets new pages from the kernel for each chunk. With other
streams' memory in between this costs a third of the processor time (``mallopt(3)``, docs/PERFORMANCE.md).
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Final

MAX_RETAINED: Final = 32 * 1024 * 1024
"""Bytes of freed memory to keep, and size from which a block is mapped alone: the largest value that glibc
accepts."""
M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
USER_VARIABLES: Final = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""Environment variables by which a user tunes the allocator; their settings win."""


def keep_freed_memory() -> bool:
    """Make the allocator keep freed memory. Return True if it was set. Do not call this in a user's own
    program."""
    if sys.platform != "linux" or any(name in os.environ for name in USER_VARIABLES):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    # Both: setting either one ends glibc's dynamic adjustment of both.
    return all(mallopt(name, MAX_RETAINED) for name in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD))
