"""Policies and worlds by their names on the command line: loads what arguments such as `RUN_DIR` and `--env` name."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from metta import api
from metta.errors import UsageError
from metta_cli import output

WITHOUT_WEIGHTS: dict[str, Callable[[api.EnvConfig], api.Policy]] = {
    "random": lambda env_config: api.RandomPolicy(env_config.spec),
    "scripted": lambda env_config: api.ScriptedPolicy(env_config),
}
"""Policies that need no checkpoint, by name."""

MOST_LISTED = 8
"""Names listed in a note; the others are counted."""


def newest_policy(source: str) -> str:
    """Path of the newest policy of a run directory or directory of checkpoints; any other `source` unchanged.

    Raises UsageError for a run without a policy.
    """
    if source in WITHOUT_WEIGHTS or not os.path.isdir(source):  # unlike Path, isdir takes names of any length
        return source
    if (newest := api.newest_checkpoint(source)) is None:
        raise UsageError(f"{source} has no checkpoint yet")
    return str(newest)


def wait_for_policy(run_dir: Path) -> Path:
    """Path of the newest policy of a run; waits for the first one."""
    if (newest := api.newest_checkpoint(run_dir)) is None:
        output.note(f"{run_dir} has no checkpoint yet; waiting for the first one (Ctrl-C quits)")
        while (newest := api.newest_checkpoint(run_dir)) is None:
            time.sleep(0.2)
    return newest


def load(
    command: str, checkpoint: str, env: str | None, set_: list[str] | None, device: str | None
) -> tuple[api.Policy, api.EnvConfig]:
    """The policy and the world that a command's arguments name."""
    return load_policy(checkpoint, load_env(command, checkpoint, env, set_), device)


def load_env(command: str, checkpoint: str, env: str | None, set_: list[str] | None) -> api.EnvConfig | None:
    """The world that `--env` names; None for the policy's own.

    Raises UsageError without `--env` for a policy without weights, and for `--set`.
    """
    if env is None and checkpoint in WITHOUT_WEIGHTS:
        raise UsageError(
            f"the {checkpoint} policy was not trained in a world; name one: metta {command} {checkpoint} --env PRESET"
        )
    if env is None and set_:
        raise UsageError("--set changes the world that --env names; add --env")
    return api.load_world(env, set_ or ()) if env else None


def eval_worlds(
    checkpoint: str, env: str | None, suite: str | None, tasks: bool, set_: list[str] | None
) -> dict[str, api.EnvConfig | None]:
    """The worlds that `metta eval` plays in, by name; None for the policy's own."""
    if suite:
        return {name: load_env("eval", checkpoint, name, set_) for name in api.find_suite(suite).worlds}
    env_config = load_env("eval", checkpoint, env, set_)
    if not tasks:
        return {env or "its own world": env_config}
    if env:
        return {**api.load_tasks(api.load_config(env, set_ or ())).by_name}
    return {**api.trained_tasks(checkpoint)}


def load_policy(
    checkpoint: str, env_config: api.EnvConfig | None, device: str | None, place: str | None = None
) -> tuple[api.Policy, api.EnvConfig]:
    """A policy for a world, by default its own, and that world. Notes begin with `place`.

    Raises CheckpointError if the policy does not fit the world.
    """
    if checkpoint in WITHOUT_WEIGHTS:
        assert env_config is not None
        return WITHOUT_WEIGHTS[checkpoint](env_config), env_config
    loaded = api.load_policy(checkpoint, api.find_device(device or "auto"), env_config)
    if loaded.unknown:
        names = ", ".join(loaded.unknown[:MOST_LISTED])
        more = f" and {len(loaded.unknown) - MOST_LISTED} more" if len(loaded.unknown) > MOST_LISTED else ""
        prefix = f"{place}: " if place else ""
        output.note(f"{prefix}the policy was trained without these and ignores them: {names}{more}")
    return loaded.agent, loaded.agent.env_config
