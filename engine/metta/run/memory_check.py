"""Memory check before training: how much a run needs, how much is free, and what to lower where it does not fit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import torch

from metta.config.batch_plan import experience_of_process
from metta.config.env.env_config import EnvConfig
from metta.config.plan.memory_estimate import WARN_ABOVE, MemoryPart, memory_parts, size, too_large
from metta.config.run import RunConfig
from metta.errors import TrainingError

CERTAIN_SHARE = 2 / 3
"""Share of the estimate that a run needs for certain: the estimate is right to a third."""

_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Limit and usage of the container of this process, in bytes, for cgroups v2 and v1; `memory.stat` lies beside."""

_RECLAIMABLE = ("active_file", "inactive_file", "slab_reclaimable")
"""Entries of `memory.stat` that the kernel frees when a process needs memory: cached files above all."""


def free_memory() -> int:
    """Bytes that this process can still allocate: the least that system, container and process limit leave."""
    limits = [_process_memory(), *(_container_memory(*files) for files in _CGROUPS)]
    system = int(psutil.virtual_memory().available)
    return max(0, min([system, *(limit for limit in limits if limit is not None)]))


def check_memory(
    config: RunConfig, worlds: Sequence[EnvConfig], device: torch.device, processes: int = 1, processes_here: int = 1
) -> str | None:
    """A warning where a run may not fit into the free memory, or barely fits; None where there is room.

    Of a job of several `processes`, the `processes_here` on this machine share its memory. Raises TrainingError, before
    anything is allocated, where the run does not fit for certain. Both messages say which setting to lower.
    """
    available = free_memory()
    experience = experience_of_process(config.experience, config.distributed, processes)
    parts = _host_parts(config.model_copy(update={"experience": experience}), worlds, device)
    if processes_here > 1:
        parts = [
            replace(part, bytes=processes_here * part.bytes, reason=f"{processes_here} processes, each {part.reason}")
            for part in parts
        ]
    needed = sum(part.bytes for part in parts)
    if problem := too_large(parts, available):
        if CERTAIN_SHARE * needed > available:
            raise TrainingError(f"this run {problem}")
        return f"this run {problem} if memory runs out"
    if needed <= WARN_ABOVE * available:
        return None
    return f"this run needs about {size(needed)} of memory, nearly all of the {size(available)} that are free"


@contextmanager
def wrap_memory_errors(config: RunConfig, worlds: Sequence[EnvConfig], device: torch.device) -> Iterator[None]:
    """Raise a TrainingError that says what to lower in place of the errors that Python and PyTorch raise."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        largest = max(memory_parts(config, worlds[0].spec, _largest_map(worlds)), key=lambda part: part.bytes)
        raise TrainingError(
            f"out of memory: the largest part is {largest.name}, about {size(largest.bytes)} for {largest.reason}; "
            f"lower {largest.setting}, now {largest.value:,}"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory is exhausted; on a CPU, PyTorch raises a RuntimeError that says so."""
    words = ("not enough memory", "can't allocate memory", "cannot allocate memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(part in str(error).lower() for part in words)
    )


def _host_parts(config: RunConfig, worlds: Sequence[EnvConfig], device: torch.device) -> list[MemoryPart]:
    """The parts of a run in the memory of the host; with CUDA most are on the device."""
    parts = memory_parts(config, worlds[0].spec, _largest_map(worlds))
    if device.type == "cpu":
        return parts
    names = ("worlds", "experience") if config.experience.cpu_offload else ("worlds",)
    return [part for part in parts if part.name in names]


def _largest_map(worlds: Sequence[EnvConfig]) -> int:
    """Cells of the largest map, for which every world has room."""
    return max(env.game.height * env.game.width for env in worlds)


def _container_memory(limit: str, usage: str) -> int | None:
    """Bytes that the limit of the container leaves; None outside of a container and without a limit ("max")."""
    most, used = _read(limit).strip(), _read(usage).strip()
    if not (most.isdecimal() and used.isdecimal()):
        return None
    statistics = _read(str(Path(usage).with_name("memory.stat")))
    entries: dict[str, str] = dict(re.findall(r"^(\w+) (\d+)$", statistics, re.MULTILINE))
    # version 1 counts nested cgroups, as its usage does, in entries of their own
    reclaimable = sum(int(entries.get(f"total_{name}", entries.get(name, "0"))) for name in _RECLAIMABLE)
    return int(most) - max(0, int(used) - reclaimable)


def _process_memory() -> int | None:
    """Bytes that `ulimit -v` leaves; None without a limit, and where the system has none."""
    process = psutil.Process()
    if not hasattr(process, "rlimit"):
        return None
    most, _ = process.rlimit(psutil.RLIMIT_AS)
    return None if most == psutil.RLIM_INFINITY else int(most) - int(process.memory_info().vms)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except OSError:
        return ""
