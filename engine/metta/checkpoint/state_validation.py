"""Could a run have come to this? A trainer state judged whole, against the fresh run that is to go on from it.

What torch is handed unjudged it may crash on without a word (an Adam mean of another shape), or train on as nonsense.
Each check names the first part that cannot be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from metta.checkpoint.policy_checkpoint import checkpoint_name
from metta.checkpoint.trainer_state import TrainingState
from metta.errors import UsageError
from metta.rl.experience import Experience
from metta.rl.plain_values import tensors_to_arrays
from metta.rl.self_play import Opponents

MOST = 2**53
"""Of anything that is counted."""

_ADAM = ("step", "exp_avg", "exp_avg_sq")
_MUON = ("momentum_buffer",)


def check_counts(state: TrainingState) -> None:
    """Raise UsageError unless what a trainer state counts can be counted, and its policy is beside it."""
    _count(state.epoch, "epoch")
    _count(state.total_agent_step, "total_agent_step")
    _count(state.agent_step, "agent_step", state.total_agent_step)
    seconds = (state.stopwatch_state or {}).get("seconds")
    is_time = isinstance(seconds, int | float) and math.isfinite(seconds) and seconds >= 0
    _check(is_time, "stopwatch_state.seconds must be a number from 0")
    _count(state.extra_args["episodes_recorded"], "extra_args.episodes_recorded")
    _count(state.extra_args["torch_threads"], "extra_args.torch_threads", 2**20)
    beside = checkpoint_name(state.epoch)
    _check(state.policy_path == beside, f"policy_path must be {beside}, the policy of the same epoch beside it")


def check_like(found: Any, own: Any, where: str) -> None:
    """Raise UsageError unless `found` has all that `own` has: entries, types, shapes; and its numbers are finite."""
    if isinstance(own, Mapping):
        _check(isinstance(found, Mapping), f"{where} is no table")
        for key, value in own.items():
            _check(key in found, f"{where}.{key} is missing")
            check_like(found[key], value, f"{where}.{key}")
    elif isinstance(own, list | tuple):
        _check(isinstance(found, list | tuple), f"{where} is no list")
        _check(len(found) == len(own), f"{where} has {len(found)} entries, not {len(own)}")
        for index, (entry, value) in enumerate(zip(found, own, strict=True)):
            check_like(entry, value, f"{where}.{index}")
    elif isinstance(own, Tensor):
        _tensor(found, (own.dtype,), own.shape, where)
    else:
        is_number = type(own) is float and type(found) is int
        _check(type(found) is type(own) or is_number, f"{where} is a {type(found).__name__}")
        _check(not isinstance(found, float) or math.isfinite(found), f"{where} is not finite")


def sound_optimizer_state(found: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What `optimizer` can load of `found`, with its own settings. UsageError if that is of other ones or weights."""
    where, own = "optimizer_state_dict", optimizer.state_dict()
    groups, ours = _entries(found, "param_groups", where), own["param_groups"]
    _check(len(groups) == len(ours), f"{where}.param_groups are {len(groups)}, not {len(ours)}")
    for index, (group, settings) in enumerate(zip(groups, ours, strict=True)):
        place = f"{where}.param_groups.{index}"
        _check(isinstance(group, Mapping), f"{place} is no table")
        for key, value in settings.items():  # of which another version of torch may have others
            there = list(group.get(key, value)) if isinstance(value, list | tuple) else group.get(key, value)
            is_same = there == (list(value) if isinstance(value, list | tuple) else value)
            _check(is_same or key == "lr", f"{place}.{key} is not the run's, {value}")
        check_like(group.get("lr"), 0.0, f"{place}.lr")
        _check(group["lr"] >= 0, f"{place}.lr is below 0")
    weights = [(weight, group) for group in optimizer.param_groups for weight in group["params"]]
    kept = found.get("state")
    is_known = isinstance(kept, Mapping) and all(type(key) is int and 0 <= key < len(weights) for key in kept)
    _check(is_known, f"{where}.state is not of the run's {len(weights)} weights")
    for key, entry in found["state"].items():
        (weight, group), place = weights[key], f"{where}.state.{key}"
        names = _ADAM if "betas" in group else _MUON
        _check(isinstance(entry, Mapping) and set(entry) == set(names), f"{place} must hold {', '.join(names)}")
        for name in names:
            shape = torch.Size() if name == "step" else weight.shape
            _tensor(entry[name], (torch.float32 if name == "step" else weight.dtype,), shape, f"{place}.{name}")
            is_square = name in ("step", "exp_avg_sq")
            _check(not is_square or bool((entry[name] >= 0).all()), f"{place}.{name} is below 0")
    learning_rates = [{"lr": group["lr"]} for group in groups]
    return {
        "state": found["state"],
        "param_groups": [ours[index] | learning_rate for index, learning_rate in enumerate(learning_rates)],
    }


def sound_scheduler_state(found: Any, scheduler: Any) -> dict[str, Any]:
    """What the schedule of the learning rate can load of `found`. UsageError if that is of another one."""
    where, own = "lr_scheduler_state_dict", scheduler.state_dict()
    _check(isinstance(found, Mapping), f"{where} is missing, and the run has a schedule")
    kept = {key: found[key] for key in own if key in found}  # another version of torch may have others
    check_like(kept, {key: own[key] for key in kept}, where)
    _check(kept.get("base_lrs") == own["base_lrs"], f"{where}.base_lrs are not the run's learning rate")
    _count(kept.get("last_epoch"), f"{where}.last_epoch")
    return {**own, **kept}


def check_experience(found: Any, experience: Experience, where: str) -> None:
    """Raise UsageError unless `found` is a state of this experience; worlds and all."""
    own = experience.state()
    optional = {"worlds", "memory", "teacher_memory", "reward_scale", "opponent_generator", "opponents"}
    check_like(found, {key: value for key, value in own.items() if key not in optional}, where)
    _memories(_entries(found, "memory", where), own["memory"], f"{where}.memory")
    for key in ("reward_scale", "opponent_generator"):  # which runs of older versions lack
        if key in found:
            check_like(found[key], own[key], f"{where}.{key}")
    if "reward_scale" in found:
        scale = found["reward_scale"]
        _count(scale["count"], f"{where}.reward_scale.count")
        _check(scale["squares"] >= 0, f"{where}.reward_scale.squares is below 0")
        _check(scale["count"] > 0 or scale["squares"] == 0, f"{where}.reward_scale varies without a count")
    if found.get("teacher_memory"):
        _memories(_entries(found, "teacher_memory", where), own["teacher_memory"], f"{where}.teacher_memory")
    spec = experience.world_batches[0].env.spec
    orientation = spec.feature_names.index("agent:orientation")
    _check_seen(found["observations"], orientation, f"{where}.observations")
    groups = len(_entries(found, "worlds", where))
    _check(groups == len(own["worlds"]), f"{where}.worlds are {groups} groups, not {len(own['worlds'])}")
    for worlds, group in zip(found["worlds"], experience.world_batches, strict=True):
        group.env.check_state(tensors_to_arrays(worlds))
    sides = _entries(found, "opponents", where) if "opponents" in found else []
    _check(len(sides) == len(own["opponents"]), f"{where}.opponents are {len(sides)}, not {len(own['opponents'])}")
    for index, (side, group) in enumerate(zip(sides, experience.world_batches, strict=False)):
        assert group.opponents is not None
        _check_opponents(side, group.opponents, orientation, f"{where}.opponents.{index}")


def _check_opponents(found: Any, opponents: Opponents, orientation: int, where: str) -> None:
    check_like(found, {key: value for key, value in opponents.state().items() if key != "memories"}, where)
    seated, members = found["seats"].sort(1).values, opponents.pool.policies
    _check(bool((seated == torch.arange(seated.shape[1])).all()), f"{where}.seats do not have each agent once")
    in_pool = (found["places"] >= 0) & (found["places"] < len(members))
    _check(bool(in_pool.all()), f"{where}.places must be below {len(members)}, the number of opponents")
    _check_seen(found["observations"], orientation, f"{where}.observations")
    kept = _entries(found, "memories", where)
    fresh = [member.agent.initial_memory(len(opponents.episode_starts)) for member in members[: len(kept)]]
    _memories(kept, [{"hidden": memory.hidden, "cell": memory.cell} for memory in fresh], f"{where}.memories")


def _check_seen(observations: Tensor, orientation: int, where: str) -> None:
    """Any byte may stand in a token but one: a direction leads to a cell."""
    is_one = (observations[..., 1] == orientation) & (observations[..., 0] != 255)
    _check(not bool((is_one & (observations[..., 2] > 3)).any()), f"{where} has a direction that there is not")


def _memories(found: Sequence[Any], own: Sequence[Mapping[str, Tensor]], where: str) -> None:
    """What a policy remembers is as large as its network, in one precision or the other."""
    _check(len(found) == len(own), f"{where} has {len(found)} entries, not {len(own)}")
    for index, (memory, ours) in enumerate(zip(found, own, strict=True)):
        for key, value in ours.items():
            there = memory.get(key) if isinstance(memory, Mapping) else None
            _tensor(there, (value.dtype, torch.bfloat16, torch.float16), value.shape, f"{where}.{index}.{key}")


def _entries(found: Any, key: str, where: str) -> list[Any]:
    entries = found.get(key) if isinstance(found, Mapping) else None
    _check(isinstance(entries, list), f"{where}.{key} is no list")
    assert isinstance(entries, list)
    return entries


def _tensor(found: Any, dtypes: Sequence[torch.dtype], shape: Sequence[int], where: str) -> None:
    _check(isinstance(found, Tensor), f"{where} is no array")
    there, here = (str(kind).removeprefix("torch.") for kind in (found.dtype, dtypes[0]))
    fits = found.dtype in dtypes and found.shape == torch.Size(shape)
    _check(fits, f"{where} is {there} {list(found.shape)}, not {here} {list(shape)}")
    _check(not found.is_floating_point() or bool(found.isfinite().all()), f"{where} is not finite")


def _count(found: Any, where: str, most: int = MOST) -> None:
    _check(type(found) is int and 0 <= found <= most, f"{where} must be a whole number from 0 to {most}")


def _check(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise UsageError(f"its {otherwise}")
