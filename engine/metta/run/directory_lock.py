"""Lock of a directory by one process: of a run during training, of an experiment, of a sweep or one of its trials."""

from __future__ import annotations

import errno
import os
import platform
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final, Self

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from metta.errors import TrainingError, printable
from metta.files import write_atomically

LOCK: Final = ".lock"
SOFT_LOCK: Final = ".lock_soft"
"""Replaces `LOCK` on network file systems without file locks; exists while the directory is locked."""
LOCK_HOLDER: Final = ".lock_holder"
"""Contains process id, host and time of the process with the lock. A killed process leaves this file, but no lock."""
PROBE_SECONDS: Final = 0.2
"""Time to wait for a lock: longer than `is_locked` holds it, too short to notice."""


class DirectoryLock:
    """A lock that this process has until `release`, or until it ends: a context manager that releases it."""

    def __init__(self, root: Path, timeout: float = PROBE_SECONDS):
        """Lock `root`. Raises TrainingError, naming the other process, if it still has the lock after `timeout` s."""
        self.root = root
        try:
            self._lock = _acquire(root, timeout)
        except Timeout as error:
            raise TrainingError(_locked_message(root, error.lock_file)) from None
        this_process = f"process {os.getpid()} on {platform.node()} since {datetime.now():%Y-%m-%d %H:%M:%S}"
        with suppress(OSError):  # only needed for the error message of other processes
            write_atomically(root / LOCK_HOLDER, this_process.encode())

    def release(self) -> None:
        """Give the lock up; a second time does nothing."""
        if self._lock.is_locked:
            with suppress(OSError):  # the disk may be gone
                (self.root / LOCK_HOLDER).unlink(missing_ok=True)
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


def is_locked(root: Path) -> bool:
    """Whether a process has locked the directory `root` now."""
    if not (root / LOCK_HOLDER).exists():  # it exists while the lock is held, and after the process was killed
        return False
    try:
        FileLock(root / LOCK, timeout=0).acquire().lock.release()
    except Timeout:
        return True
    except OSError:  # a file system without locks, or without permission to write
        return (root / SOFT_LOCK).exists()
    return False


def _acquire(root: Path, timeout: float) -> BaseFileLock:
    lock: BaseFileLock = FileLock(root / LOCK, timeout=timeout)
    try:
        lock.acquire()
    except OSError as error:
        if isinstance(error, Timeout) or error.errno != errno.ENOLCK:
            raise
        lock = SoftFileLock(root / SOFT_LOCK, timeout=timeout)
        lock.acquire()
    return lock


def _locked_message(root: Path, lock_file: str) -> str:
    try:
        holder = printable((root / LOCK_HOLDER).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        holder = "another process"
    is_remote = " on " in holder and f" on {platform.node()} " not in holder
    otherwise = f", or remove {lock_file} if that host is down" if is_remote else ""
    return f"{root} is being trained by {holder}; wait for it or stop it first{otherwise}"
