"""Validation of a trainer state before a run resumes from it: entries, types, shapes and finite numbers.

A state is compared with the newly built run that will load it. torch does not validate optimizer states: `exp_avg` of
Adam with a wrong shape can crash the process.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from metta.config.env.env_spec import EnvSpec
from metta.errors import CheckpointError
from metta.rl.experience import Experience
from metta.rl.plain_values import tensors_to_arrays
from metta.rl.worlds.agent_batch import AgentBatch
from metta.rl.worlds.shared_worlds import SharedWorlds

_ADAM = ("step", "exp_avg", "exp_avg_sq")
_MUON = ("momentum_buffer",)
_CUDA_STATE_BYTES = 16
"""Length of the state of a generator of a GPU: a seed, and an offset into the random numbers, a multiple of 4."""

_GENERATORS = ("policy_generator", "shuffle_generator", "opponent_generator", "teacher_generator")

SCHEDULE_PROGRESS = ("last_epoch", "_step_count", "_last_lr")
"""The entries of a scheduler's state that `step` changes."""


def check_like(found: Any, expected: Any, where: str) -> None:
    """Raise CheckpointError unless `found` has the entries, types and shapes of `expected`, and is finite.

    `where` is the path of `found` in the state, for the message. Floating-point tensors may have a lower precision;
    dictionaries may have additional entries.
    """
    if isinstance(expected, Mapping):
        _check(isinstance(found, Mapping), f"{where} is not a dictionary")
        for key, value in expected.items():
            _check(key in found, f"{where}.{key} is missing")
            check_like(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list | tuple):
        _check(isinstance(found, list | tuple), f"{where} is not a list")
        _check(len(found) == len(expected), f"{where} has {len(found)} entries, not {len(expected)}")
        for index, (entry, value) in enumerate(zip(found, expected, strict=True)):
            check_like(entry, value, f"{where}.{index}")
    elif isinstance(expected, Tensor):
        _check_tensor(found, expected, where)
    elif isinstance(expected, float):
        _check(type(found) in (int, float) and math.isfinite(found), f"{where} is not a finite number")
    else:
        _check(type(found) is type(expected), f"{where} is a {type(found).__name__}, not a {type(expected).__name__}")


def check_generator(found: Any, where: str) -> None:
    """Raise CheckpointError unless `found` is the state of a random generator of the CPU or of a GPU."""
    if isinstance(found, Tensor) and found.shape == (_CUDA_STATE_BYTES,):
        check_like(found, torch.zeros(_CUDA_STATE_BYTES, dtype=torch.uint8), where)
        offset = int.from_bytes(found[8:].numpy().tobytes(), "little", signed=True)
        is_valid = offset >= 0 and offset % 4 == 0
    else:
        check_like(found, torch.Generator().get_state(), where)
        try:
            torch.Generator().set_state(found)
            is_valid = True
        except RuntimeError:
            is_valid = False
    _check(is_valid, f"{where} is not the state of a random generator")


def check_optimizer_state(found: Mapping[str, Any], optimizer: torch.optim.Optimizer, where: str) -> None:
    """Raise CheckpointError unless `found` fits the optimizer's weights. Ignores its settings, which are not loaded."""
    where, weights = f"{where}.state", []
    for group in optimizer.param_groups:
        weights += [(weight, _ADAM if "betas" in group else _MUON) for weight in group["params"]]
    state = found.get("state")
    is_known = isinstance(state, Mapping) and all(type(key) is int and 0 <= key < len(weights) for key in state)
    _check(is_known, f"{where} does not fit the {len(weights)} weights of the run")
    for key, entry in found["state"].items():
        weight, names = weights[key]
        check_like(entry, {name: torch.zeros(()) if name == "step" else weight for name in names}, f"{where}.{key}")
        _check(len(entry) == len(names), f"{where}.{key} must contain only {', '.join(names)}")


def check_schedule_state(found: Any, scheduler: torch.optim.lr_scheduler.LRScheduler, where: str) -> None:
    """Raise CheckpointError unless `found` has the scheduler's progress. Ignores its settings, which are not loaded."""
    own = scheduler.state_dict()
    check_like(found, {name: own[name] for name in SCHEDULE_PROGRESS}, where)
    _check(0 <= found["last_epoch"] < 2**53, f"{where}.last_epoch must be an integer from 0 to 2**53")


def check_worlds(found: Any, worlds: SharedWorlds, where: str) -> None:
    """Raise CheckpointError unless `worlds.load_state` can load `found`, including the policies that do not learn."""
    own = worlds.state()
    check_like(found, {"worlds": [{}] * len(own["worlds"])}, where)
    for state, batch in zip(found["worlds"], worlds.world_batches, strict=True):
        try:
            arrays = tensors_to_arrays(state)
        except TypeError:  # such as bfloat16
            raise CheckpointError(f"its {where}.worlds has a dtype that NumPy does not support") from None
        batch.env.check_state(arrays)
    frozen = found.get("frozen", {})  # missing in states of older versions
    check_like(frozen, {name: {} for name in own["frozen"]}, f"{where}.frozen")
    for name in own["frozen"]:
        check_generator(frozen[name].get("generator"), f"{where}.frozen.{name}.generator")
        _check_opponents(frozen[name].get("opponents"), worlds.batches_of(name), f"{where}.frozen.{name}.opponents")


def check_experience(found: Any, experience: Experience, where: str) -> None:
    """Raise CheckpointError unless `experience.load_own_state` can load `found`."""
    own = experience.own_state()
    added = ("reward_scale", "opponent_generator", "opponents", "teacher_generator")  # missing in states of version 1
    apart = ("teacher_memory", "policy_generator", *added)  # a generator of another device has another state
    check_like(found, {key: own[key] for key in own if key not in apart}, where)
    _check("policy_generator" in found, f"{where}.policy_generator is missing")
    defaults = {key: own[key] for key in ("reward_scale", "opponent_generator", "teacher_generator")}
    found = {**defaults, **found}
    check_like(found, defaults, where)
    _check_teacher_memory(found.get("teacher_memory"), own["teacher_memory"], f"{where}.teacher_memory")
    for key in _GENERATORS:
        check_generator(found[key], f"{where}.{key}")
    _check_orientations(found, experience.agent_batches[0].env.spec, where)
    _check_opponents(found.get("opponents", []), experience.agent_batches, f"{where}.opponents")


def _check_teacher_memory(found: Any, own: list[Any], where: str) -> None:
    """Raise CheckpointError unless `found` has the teacher's memories of each world batch, or none."""
    if isinstance(found, list):  # in states of older versions, a batch had one memory instead of a list
        found = [memories if isinstance(memories, list) else [memories] for memories in found]
    check_like(found or own, own, where)


def _check_opponents(found: Any, batches: Sequence[AgentBatch], where: str) -> None:
    """Raise CheckpointError unless `found` has the states of the opponents of a policy in each world batch."""
    with_opponents = [batch for batch in batches if batch.opponents is not None]
    check_like(found, [{}] * len(with_opponents), where)
    for index, (state, batch) in enumerate(zip(found, with_opponents, strict=True)):
        _check_opponents_of_batch(state, batch, f"{where}.{index}")


def _check_opponents_of_batch(found: Any, batch: AgentBatch, where: str) -> None:
    opponents = batch.opponents
    assert opponents is not None
    policies, num_agents = opponents.pool.policies, len(opponents.episode_starts)
    check_like(found, {key: value for key, value in batch.opponents_state().items() if key != "memories"}, where)
    for name, limit in (("seats", batch.env.num_agents), ("places", len(policies))):
        in_range = (found[name] >= 0) & (found[name] < limit)
        _check(bool(in_range.all()), f"{where}.{name} must be from 0 to {limit - 1}")
    memories = found.get("memories")  # of the policies that have played so far
    _check(
        isinstance(memories, list) and len(memories) <= len(policies),
        f"{where}.memories is not a list of at most {len(policies)} memories",
    )
    expected = [policy.agent.initial_memory(num_agents) for policy in policies[: len(memories or ())]]
    check_like(memories, [memory.state() for memory in expected], f"{where}.memories")
    _check_orientations(found, batch.env.spec, where)


def _check_orientations(found: Mapping[str, Any], spec: EnvSpec, where: str) -> None:
    """Raise CheckpointError for orientations above 3: a policy uses them as an index. Other values may be any byte."""
    feature = spec.feature_names.index("agent:orientation")
    location, features, values = found["observations"].unbind(-1)
    is_invalid = (location != 255) & (features == feature) & (values > 3)
    _check(not bool(is_invalid.any()), f"{where}.observations has an orientation above 3")


def _check_tensor(found: Any, expected: Tensor, where: str) -> None:
    _check(isinstance(found, Tensor), f"{where} is not a tensor")
    types = [str(tensor.dtype).removeprefix("torch.") for tensor in (found, expected)]
    is_lower = found.is_floating_point() and expected.is_floating_point() and found.itemsize <= expected.itemsize
    fits = (found.dtype == expected.dtype or is_lower) and found.shape == expected.shape
    _check(fits, f"{where} is {types[0]} {list(found.shape)}, not {types[1]} {list(expected.shape)}")
    _check(not found.is_floating_point() or bool(found.isfinite().all()), f"{where} has values that are not finite")


def _check(is_valid: object, problem: str) -> None:
    if not is_valid:
        raise CheckpointError(f"its {problem}")
