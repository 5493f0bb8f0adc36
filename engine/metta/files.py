"""File system functions: atomic writes, removal of temporary files, and directories that are removed after an error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TEMPORARY_SUFFIX = ".partial"
"""Suffix of the temporary file into which `write_atomically` writes."""


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write `content` to `path` so that a crash at any time leaves either the old or the new file, never a partial one.

    Raises OSError with the path (disk full, read-only, no such directory); the old file is then unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Flush the entries of a directory to disk, so that they survive a power failure; does nothing on Windows."""
    if os.name == "posix":
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def nonblocking_opener(path: str | Path, flags: int) -> int:
    """An `opener` for `open` that does not block on a named pipe (FIFO)."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)


def remove_temporary_files(directory: Path) -> None:
    """Remove temporary files in `directory` that killed processes left behind."""
    for path in directory.glob(f".*{TEMPORARY_SUFFIX}"):
        path.unlink(missing_ok=True)


@contextmanager
def created_directories(*paths: Path) -> Iterator[None]:
    """Create missing directories; if the block raises, remove those of them that are still empty.

    Raises OSError if a directory cannot be created.
    """
    missing = {level for path in paths for level in (path, *path.parents) if not level.exists()}
    try:
        for path in paths:
            path.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for level in sorted(missing, key=lambda path: len(path.parts), reverse=True):
            with suppress(OSError):  # it was not created, or is not empty
                level.rmdir()
        raise
