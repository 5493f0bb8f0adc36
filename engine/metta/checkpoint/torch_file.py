"""Torch files that hold tensors, numbers and text alone, and are checked before anything in them is believed."""

from __future__ import annotations

import io
import os
import pickle
import stat
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from metta.checkpoint.torch_archive import check_archive, check_content
from metta.errors import CheckpointError
from metta.files import without_waiting, write_whole
from metta.rl.plain_values import plain

FORMAT_VERSION = 1

# What torch's restricted unpickler raises on pickles that were not written by torch.save, beside UnpicklingError.
_BROKEN_PICKLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


def write_torch_file(path: Path, kind: str, content: Mapping[str, Any]) -> None:
    """Write `content` as a file of `kind` that `torch.load(weights_only=True)` can read.

    Raises UsageError where `content` holds an object that only code could rebuild.
    """
    buffer = io.BytesIO()
    torch.save({"format": kind, "format_version": FORMAT_VERSION, **plain(content, kind)}, buffer)
    write_whole(path, buffer.getbuffer())


def read_torch_file(path: Path, kind: str) -> dict[str, Any]:
    """The content of a file that `write_torch_file` wrote with this `kind`.

    torch.load alone reads flipped bits as other weights, so that every part is compared with its checksum first.
    Raises CheckpointError, in a sentence, for a file that is missing, damaged, of another kind or another program's.
    """
    try:
        archive = _read_archive(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except MemoryError:
        raise CheckpointError(f"{path} does not fit into memory") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of odd pickles; the answer below says more
            content = torch.load(io.BytesIO(archive), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} holds more than tensors, numbers and text; it may run code, so metta does not load it"
        ) from None
    except _BROKEN_PICKLE:
        raise CheckpointError(f"{path} is not a file of metta: torch cannot read it") from None
    check_content(path, content, len(archive))
    if not isinstance(content, dict) or not isinstance(content.get("format"), str):
        raise CheckpointError(f"{path} is a torch file of another program, not a {kind}")
    if content["format"] != kind:
        raise CheckpointError(f"{path} is a {content['format']}, not a {kind}")
    _check_version(path, content.get("format_version"))
    return {key: value for key, value in content.items() if key not in ("format", "format_version")}


def is_sound(path: Path) -> bool:
    """Whether a file is whole: every part of it matches its checksum. What it holds is not looked at."""
    try:
        _read_archive(path)
    except (OSError, CheckpointError):
        return False
    return True


def _read_archive(path: Path) -> bytes:
    """The bytes of a file that metta may have written; what is none is told by its beginning, and not read."""
    with open(path, "rb", opener=without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path} is not a regular file")
        check_archive(path, file, status.st_size)
        file.seek(0)
        return file.read()


def _check_version(path: Path, version: object) -> None:
    if not isinstance(version, int):
        raise CheckpointError(f"{path} is not laid out as a file of metta: its format has no number")
    if version > FORMAT_VERSION:
        raise CheckpointError(f"{path} has format {version}; this metta reads {FORMAT_VERSION}: update metta for it")
    if version < FORMAT_VERSION:
        raise CheckpointError(f"{path} has format {version}; no metta wrote one before {FORMAT_VERSION}")
