"""Memory that stays: by itself the C library gives large blocks back, to fetch and clear them anew each step."""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Have glibc's malloc keep freed memory for the next large tensor, instead of returning it to the system.

    By default every tensor beyond some megabytes is mapped afresh and unmapped when freed, so that each training step
    faults all its pages in again: 255,000 page faults in each epoch of quickstart, and a fifth of its processor time on
    one thread (more on several, which wait for each other there).

    To be called once, by a program, before it trains; a library has no business changing its host's allocator. Returns
    whether it took effect: other C libraries (musl, macOS, Windows) have other allocators and are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 64 * 2**20}
    return all(libc.mallopt(name, value) == 1 for name, value in settings.items())
