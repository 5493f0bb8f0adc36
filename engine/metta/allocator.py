"""Memory allocator settings (glibc `mallopt`): freed memory stays in the process, so that tensors reuse its pages."""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Make glibc's malloc keep freed memory for the next large tensor, instead of returning it to the system.

    By default, malloc maps each tensor beyond some megabytes anew and unmaps it when it is freed, so that every
    training step faults its pages in again.

    For programs, once, before they train; a library should not change the allocator of its host. Returns whether it
    took effect: with other C libraries (musl, macOS, Windows) nothing changes.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 64 * 2**20}
    return all(libc.mallopt(name, value) == 1 for name, value in settings.items())
