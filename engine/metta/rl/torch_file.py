"""Torch files that hold tensors, numbers and text alone, and are checked before anything in them is believed."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from metta.errors import CheckpointError, UsageError
from metta.files import write_whole

FORMAT_VERSION = 1

# What zipfile raises on archives that are torn or were tampered with, beside its own BadZipFile.
_BROKEN_ARCHIVE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OverflowError, ValueError)
# What torch's restricted unpickler raises on pickles that were not written by torch.save, beside UnpicklingError.
_BROKEN_PICKLE = (
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
)


def write_torch_file(path: Path, kind: str, content: Mapping[str, Any]) -> None:
    """Write `content` as a file of `kind` that `torch.load(weights_only=True)` can read.

    Raises UsageError where `content` holds an object that only code could rebuild.
    """
    buffer = io.BytesIO()
    torch.save({"format": kind, "format_version": FORMAT_VERSION, **_pack(content, kind)}, buffer)
    write_whole(path, buffer.getbuffer())


def read_torch_file(path: Path, kind: str) -> dict[str, Any]:
    """The content of a file that `write_torch_file` wrote with this `kind`.

    torch.load alone reads flipped bits as other weights, so that every part is compared with its checksum first.
    Raises CheckpointError, in a sentence, for a file that is missing, damaged, of another kind or another program's.
    """
    try:
        archive = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    _check_archive(path, archive)
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
    if not isinstance(content, dict) or not isinstance(content.get("format"), str):
        raise CheckpointError(f"{path} is a torch file of another program, not a {kind}")
    if content["format"] != kind:
        raise CheckpointError(f"{path} is a {content['format']}, not a {kind}")
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format {version} of another version of metta; this one reads {FORMAT_VERSION}"
        )
    return {key: value for key, value in content.items() if key not in ("format", "format_version")}


def first_problem(error: ValidationError) -> str:
    """The first thing wrong with a file's content, in a few words."""
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"


def _check_archive(path: Path, content: bytes) -> None:
    """Raise CheckpointError unless this is a zip archive whose parts are stored plainly and match their checksums."""
    if not content:
        raise CheckpointError(f"{path} is damaged: it is empty")
    if not content.startswith(b"PK"):
        raise CheckpointError(f"{path} is not a file of metta, which are torch files")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            # A torch file is never compressed: a part that is could unpack to any size.
            squeezed = any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist())
            wrong = None if squeezed else archive.testzip()
    except _BROKEN_ARCHIVE:
        raise CheckpointError(f"{path} is damaged or cut short") from None
    if squeezed:
        raise CheckpointError(f"{path} is not a file of metta, which are torch files")
    if wrong is not None:
        raise CheckpointError(f"{path} is damaged: its part {wrong} does not match its checksum")


def _pack(value: Any, where: str) -> Any:
    """`value` in what the restricted unpickler reads back: tensors on the CPU, exact built-in types."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()  # a clone, since a view would bring its whole storage along
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {_pack(key, where): _pack(entry, f"{where}, {key}") for key, entry in value.items()}
    if isinstance(value, list | tuple):
        entries = [_pack(entry, f"{where}, {index}") for index, entry in enumerate(value)]
        return entries if isinstance(value, list) else tuple(entries)
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    kind = type(value).__name__
    raise UsageError(f"{where} is a {kind}; files of metta hold only tensors, numbers, text, lists and dicts of them")
