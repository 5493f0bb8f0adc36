"""Memory check before training: needed and free bytes, and which setting to lower if a run does not fit."""

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
"""Fraction of the estimate that a run needs at least: the actual need is at most a third below the estimate."""

_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Files with memory limit and usage in bytes, for cgroups v2 and v1; `memory.stat` is in the same directory."""

_RECLAIMABLE = ("active_file", "inactive_file", "slab_reclaimable")
"""Entries of `memory.stat` that the kernel frees when a process needs memory: mostly cached files."""


def free_memory() -> int:
    """Bytes that this process can still allocate: the minimum over system, container and process limit."""
    limits = [_process_memory(), *(_container_memory(*files) for files in _CGROUPS)]
    system = int(psutil.virtual_memory().available)
    return max(0, min([system, *(limit for limit in limits if limit is not None)]))


def check_memory(
    config: RunConfig, worlds: Sequence[EnvConfig], device: torch.device, processes: int = 1, processes_here: int = 1
) -> str | None:
    """Return a warning if a run may exceed the free memory or nearly fills it, else None. Allocates nothing.

    `processes` is the number of processes of the job, of which `processes_here` share the memory of this machine.
    Raises TrainingError if the run cannot fit. Its message, and the warning if the run may not fit, say which setting
    to lower.
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
    """Convert out-of-memory errors of Python and PyTorch to a TrainingError that says which setting to lower."""
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
    """Whether an error means that memory is exhausted; for CPU tensors, PyTorch raises a plain RuntimeError."""
    words = ("not enough memory", "can't allocate memory", "cannot allocate memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(part in str(error).lower() for part in words)
    )


def _host_parts(config: RunConfig, worlds: Sequence[EnvConfig], device: torch.device) -> list[MemoryPart]:
    """The parts of a run in host memory; with CUDA, most parts are in device memory instead."""
    parts = memory_parts(config, worlds[0].spec, _largest_map(worlds))
    if device.type == "cpu":
        return parts
    names = ("worlds", "experience") if config.experience.cpu_offload else ("worlds",)
    return [part for part in parts if part.name in names]


def _largest_map(worlds: Sequence[EnvConfig]) -> int:
    """Cells of the largest map; every world allocates this many."""
    return max(env.game.height * env.game.width for env in worlds)


def _container_memory(limit: str, usage: str) -> int | None:
    """Bytes below the limit of the container; None outside of a container or without a limit ("max").

    `limit` and `usage` are paths of cgroup files.
    """
    maximum, used = _read(limit).strip(), _read(usage).strip()
    if not (maximum.isdecimal() and used.isdecimal()):
        return None
    statistics = _read(str(Path(usage).with_name("memory.stat")))
    entries: dict[str, str] = dict(re.findall(r"^(\w+) (\d+)$", statistics, re.MULTILINE))
    # in cgroups v1, usage includes nested cgroups, and so do the entries named total_*
    reclaimable = sum(int(entries.get(f"total_{name}", entries.get(name, "0"))) for name in _RECLAIMABLE)
    return int(maximum) - max(0, int(used) - reclaimable)


def _process_memory() -> int | None:
    """Bytes below the limit of `ulimit -v`; None without a limit, or on systems that have no such limit."""
    process = psutil.Process()
    if not hasattr(process, "rlimit"):
        return None
    limit, _ = process.rlimit(psutil.RLIMIT_AS)
    return None if limit == psutil.RLIM_INFINITY else int(limit) - int(process.memory_info().vms)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except OSError:
        return ""
