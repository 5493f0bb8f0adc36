"""File format of policies and trainer states: torch files of tensors, numbers and text, checked before they are read.

A torch file is a zip archive of uncompressed parts: one pickle, `NAME/data.pkl`, and the bytes of each tensor. Every
part has a checksum, which `torch.load` does not verify. A pickle can call any Python function; metta rejects every file
whose pickle calls functions other than those that build tensors.
"""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import re
import stat
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal

import torch
from torch import Tensor

from metta.errors import CheckpointError
from metta.files import nonblocking_opener, write_atomically
from metta.rl.plain_values import plain

FORMAT_VERSION = 1
MAX_VALUES = 2_000_000
"""Values in a file, counted once per reference; a state of 65,536 agents has several thousand."""

_CALLED = {"torch._utils _rebuild_tensor_v2", "collections OrderedDict"}
_OPCODES_THAT_CALL = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}
_ZIP_FLAGS = 0x808
"""The flags that torch sets: the size follows the data, names are UTF-8. Other flags mean encryption or patches."""

_ZIP_ERRORS = (zipfile.BadZipFile, EOFError, NotImplementedError, OverflowError, ValueError, struct.error)
"""Exceptions that zipfile and pickletools raise for damaged files: truncated headers, offsets and versions out of
range, names and numbers that cannot be decoded."""
_UNPICKLER_ERRORS = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""Exceptions, in addition to UnpicklingError, that `torch.load` raises for pickles that `torch.save` did not write."""

_OTHER_FORMATS = (
    (b"\x80", "is a pickle, not a metta file; it may run code, so metta does not load it"),
    (b"\x89PNG", "is a PNG image, not a metta file"),
    (b"", "is not a metta file; metta files are torch files"),
)
"""First bytes of files that are not zip archives, and the message for each."""


def write_torch_file(path: Path, kind: str, content: Mapping[str, Any]) -> None:
    """Write `content` as a file of `kind` that `torch.load(weights_only=True)` can read.

    Raises UsageError if `content` contains objects other than tensors, numbers, text and collections of them.
    """
    buffer = io.BytesIO()
    torch.save({"format": kind, "format_version": FORMAT_VERSION, **plain(content, kind)}, buffer)
    write_atomically(path, buffer.getbuffer())


def read_torch_file(path: Path, kind: str) -> dict[str, Any]:
    """The content of a file that `write_torch_file` wrote with this `kind`.

    Raises CheckpointError if the file is missing, damaged, of another kind, or not written by metta.
    """
    try:
        archive = _read_archive(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except MemoryError:
        raise CheckpointError(f"{path} does not fit into memory") from None
    content = _unpickle(path, archive)
    _check_size(path, content, len(archive))
    if not isinstance(content, dict) or not isinstance(content.get("format"), str):
        raise CheckpointError(f"{path} is a torch file of another program, not a {kind}")
    if content["format"] != kind:
        raise CheckpointError(f"{path} is a {content['format']}, not a {kind}")
    version = content.get("format_version")
    if not isinstance(version, int):
        raise CheckpointError(f"{path} is not a valid metta file: it has no format_version")
    if version != FORMAT_VERSION:
        advice = "; update metta to read it" if version > FORMAT_VERSION else ""
        raise CheckpointError(f"{path} has format {version}; this metta reads format {FORMAT_VERSION}{advice}")
    return {key: value for key, value in content.items() if key not in ("format", "format_version")}


def is_undamaged(path: Path) -> bool:
    """Whether every part of a file matches its checksum. Does not unpickle the content."""
    try:
        _read_archive(path)
    except (OSError, CheckpointError):
        return False
    return True


def _read_archive(path: Path) -> bytes:
    """The bytes of a file. Raises CheckpointError unless it is an undamaged archive with the parts of a torch file."""
    with open(path, "rb", opener=nonblocking_opener) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path} is not a regular file")
        if not status.st_size:
            raise CheckpointError(f"{path} is damaged: it is empty")
        beginning = file.read(4)
        if not beginning.startswith(b"PK"):
            message = next(message for magic, message in _OTHER_FORMATS if beginning.startswith(magic))
            raise CheckpointError(f"{path} {message}")
        _check_archive(path, file, status.st_size)
        file.seek(0)
        return file.read()


def _check_archive(path: Path, file: IO[bytes], size: int) -> None:
    """Raise CheckpointError unless `file` is an undamaged archive with the parts of a torch file."""
    try:
        with zipfile.ZipFile(file) as archive:
            pickled = _pickle_part(path, archive.infolist(), size)
            if (damaged := archive.testzip()) is not None:
                raise CheckpointError(f"{path} is damaged: its part {damaged} does not match its checksum")
            _check_calls(path, archive.read(pickled))
    except _ZIP_ERRORS:
        raise CheckpointError(f"{path} is damaged or truncated") from None


def _pickle_part(path: Path, parts: list[zipfile.ZipInfo], size: int) -> str:
    """The name of the pickle among the parts of an archive of `size` bytes."""
    names = [part.filename.lower() for part in parts]
    # Compressed or overlapping parts can unpack to many times the size of the file. If two parts have the same name,
    # the part that is checked may not be the part that torch loads.
    is_plain = all(part.compress_type == zipfile.ZIP_STORED and not part.flag_bits & ~_ZIP_FLAGS for part in parts)
    if not is_plain or len(set(names)) < len(names) or sum(part.file_size for part in parts) > size:
        raise CheckpointError(f"{path} is not a metta file; metta files are torch files")
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise CheckpointError(f"{path} is a TorchScript program, not a metta file; metta does not run it")
    pickles = [part.filename for part in parts if part.filename.lower().endswith("/data.pkl")]
    if len(pickles) != 1 or pickles[0].count("/") != 1:
        raise CheckpointError(f"{path} is an archive of another program, not a metta file")
    return pickles[0]


def _check_calls(path: Path, pickled: bytes) -> None:
    """Raise CheckpointError if a pickle calls functions other than those that build tensors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about invalid escapes in strings; torch rejects those
        operations = list(pickletools.genops(pickled))
    for opcode, value, _ in operations:
        argument = str(value)
        is_storage = argument.startswith("torch ") and argument.endswith("Storage")
        is_foreign = opcode.name == "GLOBAL" and argument not in _CALLED and not is_storage
        if is_foreign or opcode.name in _OPCODES_THAT_CALL:
            raise CheckpointError(
                f"{path} contains more than tensors, numbers and text; it may run code, so metta does not load it"
            )


def _unpickle(path: Path, archive: bytes) -> Any:
    """The content, loaded with `weights_only=True`. Raises CheckpointError if torch cannot load it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about unusual pickles; the error is more specific
            return torch.load(io.BytesIO(archive), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} contains more than tensors, numbers and text; it may run code, so metta does not load it"
        ) from None
    except _UNPICKLER_ERRORS:
        raise CheckpointError(f"{path} is not a metta file: torch cannot load it") from None


def _check_size(path: Path, content: Any, size: int) -> None:
    """Raise CheckpointError if the content is larger than its file of `size` bytes, or has unsupported tensors."""
    tensor_bytes = 0
    for count, value in enumerate(_values(content)):
        if isinstance(value, Tensor):
            is_plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
            if not is_plain or value.requires_grad or value.is_conj() or value.is_neg():
                raise CheckpointError(
                    f"{path} is not a metta file: it contains a sparse, quantized or other unsupported tensor"
                )
            tensor_bytes += value.numel() * value.element_size()
        if count > MAX_VALUES or tensor_bytes > size:
            raise CheckpointError(f"{path} is not a metta file: its content is larger than the file")


def _values(content: Any) -> Iterator[Any]:
    """Every value inside dictionaries, lists and tuples, once per reference."""
    stack = [iter([content])]
    while stack:
        for value in stack[-1]:
            yield value
            if isinstance(value, dict):
                stack.append(iter([*value.keys(), *value.values()]))
                break
            if isinstance(value, list | tuple | set | frozenset):
                stack.append(iter(value))
                break
        else:
            stack.pop()


def files_by_epoch(directory: Path, kind: Literal["checkpoint", "trainer_state"]) -> dict[Path, int]:
    """The policies or trainer states in a directory with their epochs, latest first.

    Files with other names, such as a user's for a copy, are left out.
    """
    found = {}
    for path in directory.glob(f"{kind}_*.pt"):
        if match := re.fullmatch(rf"{kind}_([0-9]{{6,15}})\.pt", path.name):
            found[path] = int(match[1])
    return dict(sorted(found.items(), key=lambda entry: entry[1], reverse=True))
