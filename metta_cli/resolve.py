"""Load the policies and worlds that command-line arguments such as `CHECKPOINT.pt`, `RUN_DIR` and `--env` name."""

from __future__ import annotations

import glob
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

from metta import api
from metta.errors import UsageError, closest_name
from metta_cli import output
from metta_cli.torch_setup import set_up_torch

ALWAYS_SAMPLING = ("random", "scripted")
"""Policies without weights whose agents would block each other forever if they did not draw among equal actions."""


def newest_run(sources: Sequence[str], policy: str | None = None) -> str:
    """The file or directory that arguments name, where one is expected: the newest run, if they stand for several.

    A run is named by its directory, by its name or by a glob pattern; a note says which one is used. A path, the name
    of a registered policy, and a path that does not exist are returned unchanged, with `~` expanded. `RUN/best.pt` is
    the best policy of a run. `:NAME` at the end, one of several policies, is kept; the option `--policy` adds it.

    Raises UsageError if there is no run of that name, if several arguments contain no run, or if `policy` cannot name
    one of several policies.
    """
    source, name = api.split_policy_name(sources[0]) if len(sources) == 1 else ("", "")
    if policy is not None:
        if name:
            raise UsageError(f"{sources[0]} names a policy already; leave out --policy")
        if len(sources) == 1 and sources[0] in api.POLICIES:
            raise UsageError(f"--policy names one of several policies of a run; leave it out for {sources[0]}")
    return api.join_policy_name(_newest_run([str(source)] if name else sources), policy or name)


def _newest_run(sources: Sequence[str]) -> str:
    """`newest_run` of arguments that name no policy."""
    first = str(api.user_path(sources[0]))
    if len(sources) == 1 and (sources[0] in api.POLICIES or os.path.exists(first)):
        return first
    set_up_torch()  # to find runs imports it
    if len(sources) > 1:
        _check_exist(sources)
    if len(sources) == 1 and first.endswith(".pt"):
        return str(api.policy_file(first))
    if runs := api.find_runs(sources):
        if not api.job_rank():
            output.print_note(f"using {runs[0]}" + (f", the newest of {len(runs)} runs" if len(runs) > 1 else ""))
        return str(runs[0])
    if len(sources) == 1 and (found := _experiment_named(first)):
        return found
    if len(sources) > 1:
        raise UsageError(f"none of the {len(sources)} arguments is a run directory; name one")
    if glob.has_magic(sources[0]):
        raise UsageError(f"no run directory matches {sources[0]}")
    if os.path.basename(first) != first or first.endswith(".toml"):
        return first
    raise UsageError(_no_run(first))


def _check_exist(sources: Sequence[str]) -> None:
    """Raise UsageError for one of several arguments that is no pattern and does not exist, here or as a run."""
    for source in sources:
        if source in api.POLICIES:
            raise UsageError(f"{source} is a policy and no run; name it alone")
        if not (glob.has_magic(source) or os.path.lexists(api.user_path(source)) or api.find_runs([source])):
            raise UsageError(_no_run(source))


def experiment(source: str) -> str:
    """The directory of the experiment or the sweep that an argument names: its path, or the name of one in `./runs`.

    A path, and a name that there is not, are returned unchanged, with `~` expanded.
    """
    path = str(api.user_path(source))
    return path if os.path.lexists(path) else _experiment_named(path) or path


def _experiment_named(name: str) -> str | None:
    """The newest experiment or sweep of this name, which a note tells; None if there is none."""
    if (found := api.find_experiment(name)) is None:
        return None
    output.print_note(f"using {found}")
    return str(found)


def is_experiment(source: str) -> bool:
    """Whether an argument, or the part before its `:NAME`, is the directory of an experiment."""
    return api.is_experiment(api.split_policy_name(source)[0])


def policies_of_runs(source: str) -> dict[str, str]:
    """Name of each run of an experiment -> path of its newest policy, with the `:NAME` at the end of `source`.

    A note names the runs that have no checkpoint yet. Raises UsageError if none has one.
    """
    root, name = api.split_policy_name(source)
    newest = {run: api.newest_checkpoint(run) for run in api.experiment_runs(root)}
    found = {run.name: api.join_policy_name(path, name) for run, path in newest.items() if path}
    if not found:
        raise UsageError(f"{root} is an experiment of which no run has a checkpoint yet")
    for run, path in newest.items():
        if path is None:
            output.print_note(f"left out: {run} has no checkpoint yet")
    return found


def all_runs(sources: Sequence[str]) -> list[str]:
    """The directories of runs, experiments and sweeps that arguments name, in that order.

    A glob pattern stands for all runs that match it.
    """
    runs: list[str] = []
    problems: list[str] = []
    for source in sources:
        try:
            matches = api.find_runs([source]) if glob.has_magic(source) else []
            runs += [str(run) for run in reversed(matches)] or [newest_run([source])]
        except UsageError as error:
            problems.append(str(error))
    if not runs:
        raise UsageError("\n  ".join(problems))
    for problem in problems:
        output.print_note(f"left out: {problem}")
    return runs


def _no_run(name: str) -> str:
    """Error message for the name of a run that does not exist."""
    missing = f"{name} does not exist, here or as a run in runs/"
    presets = {preset.name for preset in api.presets()}
    if name in presets:
        return f"{missing}; to train one: metta train {name}"
    runs = [run.name for run in api.find_runs(["runs/*"])]
    undated = [re.sub(r"-\d{8}-\d{6}(-\d+)?$", "", run) for run in runs]
    if closest := closest_name(name, [*undated, *api.POLICIES.names()]):
        return f'{missing}; did you mean "{closest}"?'
    if closest := closest_name(name, presets):
        return f"{missing}; to train the preset {closest}: metta train {closest}"
    if runs:
        return f"{missing}; the newest run is {runs[0]}"
    return f"{missing}; to train one, name a TOML file or a preset: metta train quickstart"


def newest_policy(*sources: str, policy: str | None = None) -> str:
    """Path of the newest policy of the run, or of the directory of checkpoints, that arguments name: see `newest_run`.

    The path of a file and the name of a registered policy are returned unchanged. Raises UsageError for a run without a
    policy.
    """
    source = newest_run(sources, policy)
    return source if source in api.POLICIES else str(api.policy_file(source))


def wait_for_policy(run_dir: Path) -> Path:
    """Path of the newest checkpoint of a run. Waits until there is one."""
    if (newest := api.newest_checkpoint(run_dir)) is None:
        output.print_note(f"{run_dir} has no checkpoint yet; waiting for the first one (Ctrl-C quits)")
        while (newest := api.newest_checkpoint(run_dir)) is None:
            time.sleep(0.2)
    return newest


def load(
    command: str, checkpoint: str, env: str | None, set_: list[str] | None, device: str | None
) -> tuple[api.Policy | api.Team, api.EnvConfig]:
    """The policy, or the team of a run of several policies, and the world that the arguments of `command` name.

    The world is by default that of the training.
    """
    return load_policy(checkpoint, load_env(command, checkpoint, env, set_), device)


def load_env(command: str, checkpoint: str, env: str | None, set_: list[str] | None) -> api.EnvConfig | None:
    """The world that `--env` names; None for the policy's training world.

    Raises UsageError if `--env` is missing for a registered policy or with `--set`.
    """
    if env is None and checkpoint in api.POLICIES:
        raise UsageError(
            f"the {checkpoint} policy was not trained in a world; name one: metta {command} {checkpoint} --env PRESET"
        )
    if env is None and set_:
        raise UsageError("--set changes the world that --env names; add --env")
    return api.load_world(env, set_ or ()) if env else None


def eval_worlds(
    checkpoint: str,
    env: str | None,
    suite: str | None,
    tasks: bool,
    set_: list[str] | None,
    file: api.PolicyFile | None = None,
) -> dict[str, api.EnvConfig | None]:
    """Name -> world of each world that `metta eval` evaluates in; None for the policy's training world.

    `file` is the content of the checkpoint; None for a policy without weights.
    """
    if suite:
        return {name: load_env("eval", checkpoint, name, set_) for name in api.find_suite(suite).worlds}
    env_config = load_env("eval", checkpoint, env, set_)
    if not tasks:
        return {env or "evaluation world": env_config}
    if env:
        return {**api.load_tasks(api.load_config(env, set_ or ())).by_name}
    return {**api.trained_tasks(checkpoint, file)}


def load_policy(
    checkpoint: str,
    env_config: api.EnvConfig | None,
    device: str | None,
    note_prefix: str | None = None,
    file: api.PolicyFile | None = None,
) -> tuple[api.Policy | api.Team, api.EnvConfig]:
    """The policies in a checkpoint, and the world that they were loaded for: `env_config`, or else that of training.

    `file` is the content of the checkpoint, if it was read before. A printed note starts with `note_prefix`. Raises
    CheckpointError if the policy does not fit the world.
    """
    if checkpoint in api.POLICIES:
        assert env_config is not None
        return api.make_policy(checkpoint, env_config), env_config
    loaded = api.load_policy(checkpoint, api.find_device(device or "auto"), env_config, file)
    for note in loaded.notes:
        output.print_note(f"{note_prefix}: {note}" if note_prefix else note)
    return loaded.team, loaded.env_config


def note_sampling(*policies: str) -> None:
    """For `--deterministic`: say which of the policies draw among equally good actions all the same."""
    for policy in dict.fromkeys(policies):
        if policy in ALWAYS_SAMPLING:
            output.print_note(f"--deterministic has no effect on the {policy} policy, which draws among equal actions")


def check_teacher(config: api.RunConfig) -> None:
    """Raise ConfigError if a registered policy is the teacher and cannot play in a world of the config."""
    tasks = api.load_tasks(config)
    for teacher in {policy.kickstarting.teacher for policy in api.policy_settings(config, tasks.env_configs[0])}:
        if teacher in api.POLICIES:
            api.teacher_policies(teacher, dict(zip(tasks.names, tasks.env_configs, strict=True)))
