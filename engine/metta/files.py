"""File system functions: atomic writes, names that no other file has, directories that are removed after an error."""

from __future__ import annotations

import errno
import operator
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain, count
from pathlib import Path

TEMPORARY_SUFFIX = ".partial"
"""Suffix of the temporary file into which `write_atomically` writes."""

MAX_NAME_BYTES = 200
"""Maximum length of a name that is put together from others; file systems allow 255 bytes with suffixes."""


def write_atomically(path: Path, content: bytes | memoryview, is_new: bool = False) -> None:
    """Write `content` to `path` so that a crash at any time leaves either the old or the new file, never a partial one.

    Several processes may write the same path at once; the file is then that of the last one, or with `is_new` of the
    first one, and the others raise FileExistsError. Raises OSError with the path (disk full, read-only, no such
    directory); the old file is then unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            _rename_to_new(temporary, path)
        else:
            temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):  # on a read-only file system, removing a file that is not there fails, too
            temporary.unlink()
        if isinstance(error, OSError):
            error.filename = str(path)
        raise
    sync_directory(path.parent)


def write_together(
    directory: Path,
    name: str,
    contents: Mapping[str, bytes],
    overwrite: bool,
    is_same: Callable[[bytes, bytes], bool] = operator.eq,
) -> dict[str, Path]:
    """Write files `NAME` + suffix into `directory`, which is created if it does not exist; returns suffix -> path.

    `contents` maps suffixes such as ".html" to contents. Without `overwrite`, a file of that name stays unless
    `is_same(old content, new content)`; all files are then named `NAME_2`, or else `NAME_3`, and so on. Names longer
    than `MAX_NAME_BYTES` are cut. Raises OSError if a file cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    name = os.fsencode(name)[:MAX_NAME_BYTES].decode(errors="ignore")
    for free_name in chain([name], (f"{name}_{number}" for number in count(2))):
        paths = {suffix: directory / f"{free_name}{suffix}" for suffix in contents}
        existing = {suffix for suffix, path in paths.items() if os.path.lexists(path)}
        if not overwrite and any(not _has(paths[suffix], contents[suffix], is_same) for suffix in existing):
            continue
        written = []
        try:
            for suffix, path in paths.items():
                write_atomically(path, contents[suffix], is_new=not overwrite and suffix not in existing)
                if suffix not in existing:
                    written.append(suffix)
        except FileExistsError:  # another process has taken the name
            for suffix in written:
                paths[suffix].unlink(missing_ok=True)
            continue
        break
    return paths


def _has(path: Path, content: bytes, is_same: Callable[[bytes, bytes], bool]) -> bool:
    """Whether `path` is a file with `content`, in the sense of `is_same`."""
    try:
        return path.is_file() and is_same(path.read_bytes(), content)
    except OSError:  # it may not be read
        return False


def _rename_to_new(old: Path, new: Path) -> None:
    """Rename a file. Raises FileExistsError if there is a file of the new name."""
    try:
        os.link(old, new)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(new):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new)) from None
        old.replace(new)
    else:
        old.unlink()


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
    """Remove temporary files in `directory` that killed processes left behind, but not those of running processes."""
    for path in directory.glob(f".*{TEMPORARY_SUFFIX}"):
        pid = re.search(r"\.(\d{1,9})(\.[0-9a-f]{8})?$", path.name.removesuffix(TEMPORARY_SUFFIX))
        if pid is None or not _is_running(int(pid[1])):
            path.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    """Whether another process of this machine has this id."""
    if pid in (0, os.getpid()):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # a process of another user
        return True
    return True


@contextmanager
def new_directory(parent: Path, name: str) -> Iterator[Path]:
    """Create the directory `name` in `parent`, or `name-2` and so on where another process or run has created it.

    If the block raises, the directory is removed if it is still empty.
    """
    with created_directories(parent):
        for number in count(1):
            path = parent / (name if number == 1 else f"{name}-{number}")
            with suppress(FileExistsError):
                path.mkdir()
                break
        try:
            yield path
        except BaseException:
            with suppress(OSError):
                path.rmdir()
            raise


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
