"""Memory check before training: needed and free bytes, and which setting to lower if a run does not fit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from metta.config.batch_plan import experience_of_process
from metta.config.env.env_config import EnvConfig
from metta.config.loading.load import load_tasks
from metta.config.plan.check import Derived, derived
from metta.config.plan.memory_estimate import WARN_ABOVE, MemoryPart, memory_parts, size, times, too_large
from metta.config.run import RunConfig
from metta.errors import TrainingError, UsageError

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


def machine_memory() -> int:
    """Bytes that this machine or its container has, used or not."""
    limits = [int(text) for limit, _ in _CGROUPS if (text := _read(limit).strip()).isdecimal()]
    return min([int(psutil.virtual_memory().total), *limits])


def check_memory(
    config: RunConfig,
    worlds: Sequence[EnvConfig],
    device: str,
    processes: int = 1,
    processes_here: int = 1,
    gpu_bytes: int | None = None,
    runs: int = 1,
) -> str | None:
    """Return a warning if a run may exceed the free memory or nearly fills it, else None. Allocates nothing.

    `device` is the type of the device, cpu, cuda or mps, and `gpu_bytes` the memory of the GPU. `processes` is the
    number of processes of the job, of which `processes_here` share the memory of this machine, and `runs` the number of
    such runs that train at once. Raises UsageError if they cannot fit on this machine, TrainingError if they cannot fit
    into the memory that is free. Both messages, and the warning if they may not fit, say which setting to lower.
    """
    experience = experience_of_process(config.experience, config.distributed, processes)
    config = config.model_copy(update={"experience": experience})
    parts = memory_parts(config, worlds[0], _largest_map(worlds), device=device)
    names = {part.name for part in parts} if device != "cuda" else {"worlds", "workers"}
    names |= {"experience"} if config.experience.cpu_offload else set()
    here = [part for part in parts if part.name in names]
    here = [times(times(part, processes_here, "processes"), runs, "runs") for part in here]
    parts = [times(part, runs, "runs") for part in parts]
    subject = "this run"
    if runs > 1:
        subject = f"training {runs} runs at once, as --jobs says,"
    _refuse_certainly_too_large(here, machine_memory(), "this machine", subject)
    if gpu_bytes is not None:
        on_gpu = [part for part in parts if part.name not in names]
        _refuse_certainly_too_large(on_gpu, gpu_bytes, "the GPU", subject)
    available = free_memory()
    needed = sum(part.bytes for part in here)
    if problem := too_large(here, available):
        if CERTAIN_SHARE * needed > available:
            raise TrainingError(f"{subject} {problem}")
        return f"{subject} {problem} if memory runs out"
    if needed <= WARN_ABOVE * available:
        return None
    return f"{subject} needs about {size(needed)} of memory, nearly all of the {size(available)} that are free"


def _refuse_certainly_too_large(parts: list[MemoryPart], total: int, owner: str, subject: str) -> None:
    if CERTAIN_SHARE * sum(part.bytes for part in parts) > total:
        raise UsageError(f"{subject} {too_large(parts, total, owner)}")


@dataclass(frozen=True)
class ConfigCheck:
    """The result of `check_config`."""

    rows: tuple[Derived, ...]
    """the numbers derived from the config, and warnings"""
    error: UsageError | None
    """why the run certainly cannot fit on this machine; None if it may fit"""
    fits: bool
    """whether the run certainly fits into the memory that is free"""


def check_config(
    config: RunConfig, weights: Mapping[str, int] | None = None, device: str = "cpu", gpu_bytes: int | None = None
) -> ConfigCheck:
    """The numbers derived from a config and whether it fits into the memory of this machine. Allocates nothing.

    `weights` is the number of weights of each policy, by its name, by default that of `num_weights`; see `check_memory`
    for `device` and `gpu_bytes`. Raises ConfigError if the tasks of the curriculum are invalid.
    """
    rows = derived(config, weights)
    error, warning = None, None
    try:
        warning = check_memory(config, load_tasks(config).env_configs, device, gpu_bytes=gpu_bytes)
    except UsageError as refusal:
        error = refusal
    except TrainingError as refusal:
        warning = str(refusal)
    rows += [Derived("", "", warning, is_warning=True)] if warning else []
    return ConfigCheck(tuple(rows), error, fits=error is None and warning is None)


@contextmanager
def wrap_memory_errors(config: RunConfig, worlds: Sequence[EnvConfig]) -> Iterator[None]:
    """Convert out-of-memory errors of Python and PyTorch to a TrainingError that says which setting to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        largest = max(memory_parts(config, worlds[0], _largest_map(worlds)), key=lambda part: part.bytes)
        raise TrainingError(
            f"out of memory: the largest part is {largest.name}{largest.owner}, about {size(largest.bytes)} for "
            f"{largest.reason}; lower {largest.setting}, now {largest.value:,}"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory is exhausted; PyTorch raises a RuntimeError."""
    words = ("not enough memory", "can't allocate memory", "cannot allocate memory", "out of memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(part in str(error).lower() for part in words)
    )


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
