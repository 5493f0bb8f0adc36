"""Memory allocator settings (glibc `mallopt`): keep freed memory in the process to avoid page faults of new tensors."""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Make glibc's malloc keep freed memory for the next large tensor, instead of returning it to the system.

    By default, malloc calls mmap for each tensor of more than a few megabytes and munmap when it is freed, so that each
    training step page-faults its memory again.

    Programs call this once, before training; a library should not change the allocator of its host process. Returns
    True if the settings took effect, False with other C libraries (musl, macOS, Windows).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 64 * 2**20}
    return all(libc.mallopt(name, value) == 1 for name, value in settings.items())
