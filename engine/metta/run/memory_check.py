"""How much memory there is to be had here: what the system, the container and the process's own limit leave."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from metta.config.batch_plan import experience_of_process
from metta.config.env.env_config import EnvConfig
from metta.config.plan.memory_estimate import WARN_ABOVE, MemoryPart, memory_parts, size, too_large
from metta.config.run import RunConfig
from metta.errors import TrainingError

try:
    import resource
except ImportError:  # Windows: nothing is known, and nothing refused
    resource = None  # type: ignore[assignment]  # the stub knows only the module

_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Limit and use of the container this process is in, in both versions of cgroups."""


def free_memory() -> int | None:
    """Bytes that this process can still get; None where the system does not say."""
    found = [_of_the_system(), _of_the_process(), *(_of_the_container(*files) for files in _CGROUPS)]
    known = [count for count in found if count is not None]
    return max(0, min(known)) if known else None


def check_memory(
    config: RunConfig, worlds: Sequence[EnvConfig], device: torch.device, processes: int = 1, processes_here: int = 1
) -> str | None:
    """What to note where a run all but fills the memory; None where there is room, or nobody knows.

    Of a job of several `processes` those on this machine share its memory. Raises TrainingError, before anything is
    allocated, with what does not fit and which setting to lower.
    """
    available = free_memory()
    if available is None:
        return None
    experience = experience_of_process(config.experience, config.distributed, processes)
    parts = _on_the_host(config.model_copy(update={"experience": experience}), worlds, device)
    if processes_here > 1:
        parts = [
            replace(part, bytes=processes_here * part.bytes, reason=f"{processes_here} processes, each {part.reason}")
            for part in parts
        ]
    if problem := too_large(parts, available):
        raise TrainingError(f"this run {problem}")
    needed = sum(part.bytes for part in parts)
    if needed <= WARN_ABOVE * available:
        return None
    return f"this run needs about {size(needed)} of memory, nearly all of the {size(available)} that are free"


@contextmanager
def telling_of_memory(config: RunConfig, worlds: Sequence[EnvConfig], device: torch.device) -> Iterator[None]:
    """Turn what is raised where memory runs out into a TrainingError that says what to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        largest = max(memory_parts(config, worlds[0].spec, _cells(worlds)), key=lambda part: part.bytes)
        raise TrainingError(
            f"out of memory: the largest part is {largest.name}, about {size(largest.bytes)} for {largest.reason}; "
            f"lower {largest.setting}, now {largest.value:,}"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left; PyTorch says so on a CPU in a RuntimeError's words alone."""
    words = ("not enough memory", "can't allocate memory", "cannot allocate memory", "Cannot allocate memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(part in str(error) for part in words)
    )


def _on_the_host(config: RunConfig, worlds: Sequence[EnvConfig], device: torch.device) -> list[MemoryPart]:
    """The parts of a run that are in the computer's own memory; with CUDA most are on the device."""
    parts = memory_parts(config, worlds[0].spec, _cells(worlds))
    if device.type == "cpu":
        return parts
    there = ("worlds", "experience") if config.experience.cpu_offload else ("worlds",)
    return [part for part in parts if part.name in there]


def _cells(worlds: Sequence[EnvConfig]) -> int:
    """Of the largest map: all worlds have room for it."""
    return max(env.game.height * env.game.width for env in worlds)


def _of_the_system() -> int | None:
    line = re.search(r"^MemAvailable:\s+(\d+) kB", _text("/proc/meminfo"), re.MULTILINE)
    return int(line[1]) * 1024 if line else None


def _of_the_container(limit: str, use: str) -> int | None:
    most, used = _text(limit).strip(), _text(use).strip()
    return int(most) - int(used) if most.isdecimal() and used.isdecimal() else None


def _of_the_process() -> int | None:
    """What `ulimit -v` leaves."""
    pages = _text("/proc/self/statm").split()
    if resource is None or not pages:
        return None
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if most == resource.RLIM_INFINITY else most - int(pages[0]) * resource.getpagesize()


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
