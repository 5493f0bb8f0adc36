"""Memory that stays: the C library's habit of giving large blocks back costs training up to half its speed."""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Have glibc's malloc keep freed memory for the next large tensor, instead of returning it to the system.

    By default every tensor beyond some megabytes is mapped afresh and unmapped when freed, so that each training step
    faults all its pages in again. To be called by a program that trains, once, before it does; a library has no
    business changing its host's allocator. Returns whether it took effect: other C libraries (musl, macOS, Windows)
    have other allocators and are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 64 * 2**20}
    return all(libc.mallopt(name, value) == 1 for name, value in settings.items())
