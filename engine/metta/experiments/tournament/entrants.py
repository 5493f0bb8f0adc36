"""Entrants of a tournament: the policies that arguments name, of a run its checkpoints over time."""

from __future__ import annotations

import glob
import hashlib
import inspect
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from metta.agent.policy import Policy
from metta.agent.team import Team
from metta.baselines.registered import make_policy
from metta.checkpoint.policy_checkpoint import load_policy
from metta.checkpoint.policy_file import checkpoint_paths, newest_valid, read_policy_file
from metta.config.env.env_config import EnvConfig
from metta.config.training import POLICIES
from metta.config.validation.file_paths import split_policy_name, user_path
from metta.errors import CheckpointError, SkippedFileWarning, UsageError
from metta.evaluation.match import two_sides
from metta.experiments.names import find_experiment
from metta.run.run_directory import find_runs, newest_checkpoint, policy_file
from metta.run.write_permissions import is_run


@dataclass(frozen=True)
class Entrant:
    """A policy of a tournament."""

    name: str
    """short name in tables: of a checkpoint of a run `RUN epoch 100`"""
    source: str
    """path of the checkpoint file, or name of the registered policy"""
    digest: str
    """SHA-256 of the file; of a registered policy, that of its name and its source file"""
    run: str | None = None
    """the run directory, if it was named for its policies"""
    agent_steps: int | None = None
    """agent steps of training that the checkpoint records"""
    notes: tuple[str, ...] = ()
    """how the world differs from that of its training, in sentences"""

    @property
    def is_registered(self) -> bool:
        """Whether this is a registered policy, without a file."""
        return self.source in POLICIES and not os.path.isfile(self.source)

    def load(self, env_config: EnvConfig, device: torch.device) -> Policy | Team:
        """The policy, or the team of a run with several, for environments of `env_config`.

        Raises CheckpointError or UsageError if it does not fit.
        """
        if self.is_registered:
            return make_policy(self.source, env_config)
        return load_policy(self.source, device, env_config).team


def find_entrants(
    sources: Sequence[str | Path], env_config: EnvConfig | None = None, checkpoints: int = 10
) -> tuple[list[Entrant], EnvConfig]:
    """The policies that `sources` name, without those that are named indirectly a second time, and their world.

    A source is a checkpoint file, a registered policy, a run, or a directory of checkpoints or of runs. A run, also by
    its name or by a glob pattern, stands for its policies: if it has more than `checkpoints`, for so many, evenly
    spaced in the order of their epochs, with the first and the newest. A directory of runs, such as those of several
    seeds, stands for the newest policy of each run. The world is `env_config`, by default the training world of the
    first policy with a file.

    Raises UsageError with all problems: sources that do not exist, the same policy twice, fewer than two policies, a
    world in which no match is possible, policies that cannot play in it.
    """
    problems: list[str] = []
    if checkpoints < 1:
        problems.append(f"checkpoints must be at least 1; got {checkpoints}")
    named: list[tuple[Entrant, bool]] = []
    for source in sources:
        try:
            named += _entrants(os.fspath(source), max(1, checkpoints))
        except (CheckpointError, UsageError) as error:
            problems.append(str(error))
    entrants: dict[str, Entrant] = {}
    explicit: dict[str, Entrant] = {}
    for entrant, is_explicit in named:
        if is_explicit and (twin := explicit.setdefault(entrant.digest, entrant)) is not entrant:
            problems.append(
                f"{entrant.source} is named twice"
                if twin.source == entrant.source
                else f"{twin.source} and {entrant.source} are the same policy; leave out one"
            )
        entrants.setdefault(entrant.digest, entrant)
    if len(entrants) < 2 and not problems:
        only = next(iter(entrants.values())).name if entrants else "none"
        problems.append(f"a tournament needs at least two policies; got {only}")
    found = _with_distinct_names(list(entrants.values()))
    try:
        env_config = env_config or _training_world(found)
        two_sides(env_config)
        found = _fitted(found, env_config, problems)
    except UsageError as error:
        problems.append(str(error))
    if problems or env_config is None:
        raise UsageError("\n  ".join(problems))
    return found, env_config


def _training_world(entrants: Sequence[Entrant]) -> EnvConfig:
    """The world in which the first policy with a file was trained. Raises UsageError if none has a file."""
    for entrant in entrants:
        if not entrant.is_registered:
            return read_policy_file(Path(entrant.source)).env_config.without_reserved
    raise UsageError("none of these policies was trained in a world; name one: --env PRESET")


def _fitted(entrants: Sequence[Entrant], env_config: EnvConfig, problems: list[str]) -> list[Entrant]:
    """The entrants with their `notes` about this world; adds a message to `problems` for each that does not fit."""
    checked = []
    for entrant in entrants:
        try:
            if entrant.is_registered:
                make_policy(entrant.source, env_config)
                checked.append(entrant)
            else:
                checked.append(replace(entrant, notes=load_policy(entrant.source, env_config=env_config).notes))
        except (CheckpointError, UsageError) as error:
            problems.append(f"{entrant.name}: {error}")
    return checked


def _entrants(source: str, checkpoints: int) -> Iterator[tuple[Entrant, bool]]:
    """Each policy that one argument stands for, and whether the argument names it directly."""
    path = user_path(source)
    if not os.path.lexists(path) and source in POLICIES:
        yield Entrant(source, source, _registered_digest(source)), True
        return
    if not os.path.lexists(path) and not find_runs([source]):
        path = find_experiment(source) or path
    if os.path.isdir(path) and not is_run(path) and not checkpoint_paths(path):
        runs = sorted(inner for inner in path.iterdir() if is_run(inner))
        if not runs:
            raise UsageError(f"{path} has no policy checkpoint, and no run directories")
        checkpoints = 1
    else:
        runs = find_runs([source])
        if not glob.has_magic(source):
            runs = runs[:1]
        elif not runs:
            raise UsageError(f"no run directory matches {source}")
    if not runs and not os.path.isdir(path):
        yield _checkpoint(policy_file(source, POLICIES.names())), True
        return
    for directory in runs or [path]:
        for file in _spaced_checkpoints(directory, checkpoints):
            yield _checkpoint(file, directory if is_run(directory) else directory.absolute().parent), False


def _spaced_checkpoints(directory: Path, count: int) -> list[Path]:
    """At most `count` valid policies of a run or a directory of checkpoints, evenly spaced, earliest epoch first."""
    newest = newest_checkpoint(directory)
    if newest is None:
        raise UsageError(f"{directory} has no checkpoint yet")
    paths = checkpoint_paths(newest.parent)[::-1]
    paths = paths[: paths.index(newest) + 1]
    chosen = [paths[index] for index in np.linspace(len(paths) - 1, 0, count).round().astype(int)]
    valid = []
    for path in sorted(set(chosen), key=paths.index):
        try:
            valid.append(newest_valid([path]))
        except CheckpointError as error:
            warnings.warn(f"left out: {error}", SkippedFileWarning, stacklevel=2)
    return valid


def _checkpoint(path: Path, run: Path | None = None) -> Entrant:
    """The policies in a file, or the one of `FILE:NAME`. Raises CheckpointError if it is missing or not valid."""
    steps = read_policy_file(path).metadata.get("agent_step")
    file, policy_name = split_policy_name(path)
    digest = hashlib.sha256(file.read_bytes() + policy_name.encode()).hexdigest()
    epoch = re.fullmatch(r"checkpoint_(\d+)", file.stem)
    folder = file.absolute().parent
    directory = folder.parent if folder.name == "checkpoints" else folder
    policy = " ".join(filter(None, (policy_name, f"epoch {int(epoch[1])}" if epoch else file.stem)))
    name = f"{(run or directory).name} {policy}" if epoch or folder.name == "checkpoints" or is_run(folder) else policy
    return Entrant(name, str(path), digest, str(run) if run else None, steps if isinstance(steps, int) else None)


def _registered_digest(name: str) -> str:
    """SHA-256 of the name of a registered policy and of the file that defines it, as far as there is one."""
    source_file = inspect.getsourcefile(inspect.unwrap(POLICIES.find(name)))
    content = Path(source_file).read_bytes() if source_file and os.path.isfile(source_file) else b""
    return hashlib.sha256(name.encode() + b"\0" + content).hexdigest()


def _with_distinct_names(entrants: list[Entrant]) -> list[Entrant]:
    """The entrants; those that have the same name are called by their paths."""
    counts = Counter(entrant.name for entrant in entrants)
    return [replace(entrant, name=entrant.source) if counts[entrant.name] > 1 else entrant for entrant in entrants]
