"""Files that are there in whole or not at all: temporary name, sync, rename, sync of the directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TEMPORARY_SUFFIX = ".partial"


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write `content` to `path` so that a crash at any moment leaves the old file or the new one, never half of one.

    Raises OSError (disk full, read-only, directory gone), with the path; what stood there is then still there.
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
    """Make the names in a directory survive a power cut, where the system can do that (Windows cannot)."""
    if os.name == "posix":
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def without_waiting(path: str | Path, flags: int) -> int:
    """An opener for `open`: a pipe is opened at once, whoever may be at its other end."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)


def remove_partial(directory: Path) -> None:
    """Remove what writers that were killed left behind in `directory`."""
    for path in directory.glob(f".*{TEMPORARY_SUFFIX}"):
        path.unlink(missing_ok=True)


@contextmanager
def made_directories(*paths: Path) -> Iterator[None]:
    """Make directories that are missing, and take those away again that are still empty if the block raises.

    Raises OSError where one cannot be made.
    """
    missing = {level for path in paths for level in (path, *path.parents) if not level.exists()}
    try:
        for path in paths:
            path.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for level in sorted(missing, key=lambda path: len(path.parts), reverse=True):
            with suppress(OSError):  # it was never made, or somebody put something there
                level.rmdir()
        raise
