"""What the C library's allocator does with freed memory, for programs that are ours from start to end.

glibc gives the end of its heap back to the kernel as soon as some hundred KiB of it are free, and maps larger
blocks one by one. A tunnel that moves pieces of that size gets its pages from the kernel again for each, which
costs a third of its processor time as soon as other streams hold memory in between (``mallopt(3)``,
docs/PERFORMANCE.md).
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Final

KEPT: Final = 32 * 1024 * 1024
"""Bytes of freed memory that are kept, and from which on a block is mapped alone: the most that glibc takes."""
M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
OF_THE_USER: Final = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""Who sets one of these has an opinion of his own."""


def keep_pages() -> bool:
    """Have freed memory kept; whether that is possible here. Not from within somebody else's program."""
    if sys.platform != "linux" or any(name in os.environ for name in OF_THE_USER):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    # Both: setting one of them ends what glibc does about the other by itself.
    return all(mallopt(name, KEPT) for name in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD))
