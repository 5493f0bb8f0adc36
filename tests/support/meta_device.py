"""torch's `meta` device in place of a GPU: the code of the device path runs, and whatever would wait for it fails.

Tensors of this device have shapes and no values. A step of training reads values of the device in one place,
`HostCopy.wait`, which returns made-up values here; every other operation that would need them, or a blocking copy, is
an error. The worlds are real.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from metta.agent.devices import HostCopy

META = torch.device("meta")

_ATEN = torch.ops.aten
SIZED_BY_VALUES = {
    _ATEN.nonzero,
    _ATEN.masked_select,
    _ATEN._unique2,
    _ATEN.unique_dim,
    _ATEN.unique_consecutive,
    _ATEN.bincount,
}
READ_BY_HOST = {_ATEN._local_scalar_dense, _ATEN.equal, _ATEN.is_nonzero, _ATEN.item}
INDEXED = {_ATEN.index, _ATEN.index_put, _ATEN.index_put_, _ATEN._index_put_impl_}
COPIES = {_ATEN._to_copy, _ATEN.copy_}


class WaitError(AssertionError):
    """An operation would wait for the device."""


class NoWaits(TorchDispatchMode):
    """Context manager in which operations that would wait for the meta device raise WaitError."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        is_there = [tensor.device == META for tensor in tensors]
        packet = func.overloadpacket
        if packet in COPIES:
            _check_copy(func, tensors, kwargs, args)
        elif any(is_there):
            if packet in SIZED_BY_VALUES | READ_BY_HOST:
                raise WaitError(f"{func} waits for the device")
            if packet in INDEXED and any(
                tensor.dtype in (torch.bool, torch.uint8) for tensor in args[1] if tensor is not None
            ):
                raise WaitError(f"{func} with a mask waits for the device")
            if packet is _ATEN.repeat_interleave and kwargs.get("output_size") is None:
                raise WaitError(f"{func} without output_size waits for the device")
            for tensor in tensors:
                if tensor.device != META and tensor.ndim > 0:
                    raise WaitError(f"{func} mixes a tensor {list(tensor.shape)} of the host with the device")
        return func(*args, **kwargs)


def _check_copy(func: Any, tensors: list[Tensor], kwargs: dict[str, Any], args: Any) -> None:
    """Raise WaitError for a copy from the device, and for a blocking copy to it."""
    if func.overloadpacket is _ATEN.copy_:
        target, source = tensors[0].device, tensors[1].device
        is_asynchronous = bool(kwargs.get("non_blocking", args[2] if len(args) > 2 else False))
    else:
        source, target = tensors[0].device, torch.device(kwargs.get("device") or tensors[0].device)
        is_asynchronous = bool(kwargs.get("non_blocking", False))
    if source == META and target != META:
        raise WaitError(f"{func} of {list(tensors[-1].shape)} waits for the device")
    if source != META and target == META and not is_asynchronous:
        raise WaitError(f"{func} of {list(tensors[-1].shape)} to the device blocks")


@contextmanager
def forbidden_waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, ...]]]:
    """Context manager in which waits raise WaitError, but for `HostCopy.wait`; gives the shapes fetched with it."""
    fetched: list[tuple[int, ...]] = []

    def wait(self: HostCopy) -> Tensor:
        tensor = self._copy
        if tensor.device != META:
            return tensor
        fetched.append(tuple(tensor.shape))
        values = torch.ones if tensor.dtype == torch.bool or tensor.is_floating_point() else torch.zeros
        return values(tensor.shape, dtype=tensor.dtype)

    with monkeypatch.context() as patch, NoWaits():
        patch.setattr(HostCopy, "wait", wait)
        yield fetched
