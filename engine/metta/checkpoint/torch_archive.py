"""Is this archive one that metta may have written? Looked at from outside, before anything in it is unpacked.

A torch file is a zip archive of plainly stored parts: one pickle, `NAME/data.pkl`, and the bytes of each tensor. The
pickle is a program; the only things that one of metta's calls are those that put tensors together.
"""

from __future__ import annotations

import pickletools
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from metta.errors import CheckpointError

MOST_ENTRIES = 2_000_000
"""Values in a file, each counted as often as it is referred to; a state of 65,536 agents has some thousands."""

_CALLED = {"torch._utils _rebuild_tensor_v2", "collections OrderedDict"}
_OPCODES_THAT_CALL = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}
# What zipfile raises on archives that are torn or were tampered with, beside its own BadZipFile.
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OverflowError, ValueError, RuntimeError)

_OTHERS = (
    (b"\x80", "is a pickle, not a file of metta; it may run code, so metta does not load it"),
    (b"\x89PNG", "is a picture, not a file of metta"),
    (b"", "is not a file of metta, which are torch files"),
)
"""What files begin with that are no archives, and what is said of them."""


def check_archive(path: Path, file: IO[bytes], size: int) -> None:
    """Raise CheckpointError, in a sentence, unless `file` is an archive that metta may have written, undamaged."""
    if not size:
        raise CheckpointError(f"{path} is damaged: it is empty")
    beginning = file.read(4)
    if not beginning.startswith(b"PK"):
        answer = next(answer for magic, answer in _OTHERS if beginning.startswith(magic))
        raise CheckpointError(f"{path} {answer}")
    file.seek(0)
    try:
        with zipfile.ZipFile(file) as archive:
            _check_parts(path, archive, size)
            _check_pickle(path, archive)
    except _BROKEN:
        raise CheckpointError(f"{path} is damaged or cut short") from None


def check_content(path: Path, content: Any, size: int) -> None:
    """Raise CheckpointError if what was unpacked takes more room than the file of `size` bytes can have had."""
    tensor_bytes = 0
    for entries, value in enumerate(_values(content)):
        if isinstance(value, Tensor):
            if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
                raise CheckpointError(f"{path} is not a file of metta: it holds a tensor of an odd kind")
            tensor_bytes += value.numel() * value.element_size()
        if entries > MOST_ENTRIES or tensor_bytes > size:
            raise CheckpointError(f"{path} is not a file of metta: it unpacks to more than it can hold")


def _check_parts(path: Path, archive: zipfile.ZipFile, size: int) -> None:
    parts = archive.infolist()
    names = [part.filename.lower() for part in parts]
    # A torch file is never compressed: a part that is could unpack to any size, and parts that overlap to many times
    # the file's. Of two parts of one name, one program reads the first and another the last.
    is_plain = all(part.compress_type == zipfile.ZIP_STORED for part in parts)
    if not is_plain or len(set(names)) < len(names) or sum(part.file_size for part in parts) > size:
        raise CheckpointError(f"{path} is not a file of metta, which are torch files")
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise CheckpointError(f"{path} is a TorchScript program, not a file of metta; metta does not run it")
    if sum(name.endswith("/data.pkl") and name.count("/") == 1 for name in names) != 1:
        raise CheckpointError(f"{path} is an archive of another program, not a torch file of metta")
    if (wrong := archive.testzip()) is not None:
        raise CheckpointError(f"{path} is damaged: its part {wrong} does not match its checksum")


def _check_pickle(path: Path, archive: zipfile.ZipFile) -> None:
    name = next(part for part in archive.namelist() if part.lower().endswith("/data.pkl"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of odd strings; torch will judge them
        operations = list(pickletools.genops(archive.read(name)))
    for opcode, value, _ in operations:
        argument = str(value)
        is_storage = opcode.name == "GLOBAL" and argument.startswith("torch ") and argument.endswith("Storage")
        calls = opcode.name in _OPCODES_THAT_CALL or (opcode.name == "GLOBAL" and argument not in _CALLED)
        if calls and not is_storage:
            raise CheckpointError(
                f"{path} holds more than tensors, numbers and text; it may run code, so metta does not load it"
            )


def _values(content: Any) -> Iterator[Any]:
    """Every value inside dictionaries, lists and tuples, as often as it stands there."""
    waiting = [iter([content])]
    while waiting:
        for value in waiting[-1]:
            yield value
            if isinstance(value, dict):
                waiting.append(iter([*value.keys(), *value.values()]))
                break
            if isinstance(value, list | tuple | set | frozenset):
                waiting.append(iter(value))
                break
        else:
            waiting.pop()
