"""glibc's allocator, told to keep what it has.

By default it returns every block above 32 MiB, and often smaller ones, to the kernel as soon as it is free. An update
allocates the same blocks again and pays for thousands of page faults.
"""

import ctypes
import platform

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
LARGEST = 32 * 2**20  # what glibc takes for the second on 64 bits
KEPT = 2**30  # free bytes at the top of the heap that are kept


def keep_memory() -> bool:
    """Raise both thresholds of this process; False where the allocator is not glibc's and nothing was changed."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(MMAP_THRESHOLD, LARGEST)) and bool(mallopt(TRIM_THRESHOLD, KEPT))
