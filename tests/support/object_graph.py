"""Comparison of an object with its copy: which parts are the same object, and which arrays share memory."""

from __future__ import annotations

from collections.abc import Iterator
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

ATOMS = (str, bytes, int, float, complex, bool, type(None), type, np.dtype, np.generic, range, slice)
OPAQUE = (ModuleType, FunctionType, BuiltinFunctionType, property, torch.Generator, torch.device, torch.dtype)


def parts(value: Any) -> Iterator[tuple[str, Any]]:
    """The objects that an object refers to, with their names."""
    if isinstance(value, dict):
        for index, (key, entry) in enumerate(value.items()):
            yield f"[{key!r}]" if isinstance(key, ATOMS) else f"[key {index}]", entry
            yield f".keys()[{index}]", key
    elif isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.dtype == object):
        yield from ((f"[{index}]", entry) for index, entry in enumerate(value))
    elif isinstance(value, MethodType):
        yield ".__self__", value.__self__
    names = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    slots = {name: getattr(value, name) for name in names if isinstance(name, str) and hasattr(value, name)}
    attributes = {**slots, **getattr(value, "__dict__", {})}
    attributes.pop("__orig_class__", None)  # of generic classes; a type
    yield from ((f".{name}", entry) for name, entry in attributes.items())


def memory(array: np.ndarray | torch.Tensor) -> tuple[int, int]:
    """The first address of the memory that an array uses or is a view of, and the one after the last."""
    if isinstance(array, torch.Tensor):
        storage = array.untyped_storage()
        return storage.data_ptr(), storage.data_ptr() + storage.nbytes()
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array.ctypes.data, array.ctypes.data + array.nbytes


def check_copy(original: Any, copied: Any) -> int:
    """Assert that a copy has the same structure, and shares no array and no changeable part with the original.

    Where two paths of the original lead to one object, or to arrays that share memory, so do the paths of the copy.
    Returns the number of arrays.
    """
    counterparts: dict[int, Any] = {}
    arrays: list[tuple[str, tuple[int, int], tuple[int, int]]] = []
    waiting = [("", original, copied)]
    while waiting:
        path, mine, theirs = waiting.pop()
        assert type(mine) is type(theirs), path
        if isinstance(mine, (*ATOMS, *OPAQUE)):
            continue
        if id(mine) in counterparts:
            assert counterparts[id(mine)] is theirs or isinstance(mine, tuple), f"{path} has become another object"
            continue
        counterparts[id(mine)] = theirs
        if isinstance(mine, np.ndarray | torch.Tensor):
            arrays.append((path, memory(mine), memory(theirs)))
        own, other = dict(parts(mine)), dict(parts(theirs))
        assert own.keys() == other.keys(), path
        waiting += [(path + name, own[name], other[name]) for name in own]
    paths = [path for path, _, _ in arrays]
    mine, theirs = (np.array([bounds[side] for bounds in arrays], np.uint64).T for side in (1, 2))
    for first, second in np.argwhere(overlap(mine, mine) != overlap(theirs, theirs)).tolist()[:1]:
        raise AssertionError(f"{paths[first]} and {paths[second]}")
    for first, second in np.argwhere(overlap(mine, theirs)).tolist()[:1]:
        raise AssertionError(f"{paths[first]} of the original and {paths[second]} of the copy")
    return len(arrays)


def overlap(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether each memory of `one [2, arrays]` overlaps with each of `other`. `[arrays, arrays] bool`"""
    first, last = np.maximum.outer(one[0], other[0]), np.minimum.outer(one[1], other[1])
    return np.asarray(first < last)
