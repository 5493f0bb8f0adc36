"""Who plays, and where: policies and worlds by the names they have on the command line."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from metta.api import (
    EnvConfig,
    Policy,
    RandomPolicy,
    ScriptedPolicy,
    find_device,
    find_suite,
    load_config,
    load_policy,
    load_tasks,
    load_world,
    newest_checkpoint,
    trained_tasks,
)
from metta.errors import UsageError
from metta_cli import output

WITHOUT_WEIGHTS: dict[str, Callable[[EnvConfig], Policy]] = {
    "random": lambda env_config: RandomPolicy(env_config.spec),
    "scripted": ScriptedPolicy,
}
"""Policies that need no checkpoint, by the name they have on the command line."""


def checkpoint_of(source: str) -> str:
    """The newest policy of a run, or of a directory of checkpoints, if `source` is one; else `source` itself."""
    if source in WITHOUT_WEIGHTS or not os.path.isdir(source):  # which takes any name, however long
        return source
    if (newest := newest_checkpoint(source)) is None:
        raise UsageError(f"{source} has no checkpoint yet")
    return str(newest)


def first_checkpoint(run_dir: Path) -> Path:
    """The newest policy of a run; of one that has none yet the first, once it is there."""
    if (newest := newest_checkpoint(run_dir)) is None:
        output.note(f"{run_dir} has no checkpoint yet; waiting for its first one (Ctrl-C leaves)")
        while (newest := newest_checkpoint(run_dir)) is None:
            time.sleep(0.2)
    return newest


def policy_and_world(
    command: str, checkpoint: str, env: str | None, set_: list[str] | None, device: str | None
) -> tuple[Policy, EnvConfig]:
    """The policy that a command names, and the world it plays in."""
    return policy_in(world_of(command, checkpoint, env, set_), checkpoint, device)


def world_of(command: str, checkpoint: str, env: str | None, set_: list[str] | None) -> EnvConfig | None:
    """The world that a command names; None for the policy's own."""
    if env is None and checkpoint in WITHOUT_WEIGHTS:
        raise UsageError(
            f"the {checkpoint} policy has no world of its own; name one: metta {command} {checkpoint} --env PRESET"
        )
    if env is None and set_:
        raise UsageError("--set changes the world that --env names; without --env the policy plays in its own")
    return load_world(env, set_ or ()) if env else None


def worlds_of(
    checkpoint: str, env: str | None, suite: str | None, tasks: bool, set_: list[str] | None
) -> dict[str, EnvConfig | None]:
    """The worlds that `metta eval` plays in, by name; None for the policy's own."""
    if suite:
        return {name: world_of("eval", checkpoint, name, set_) for name in find_suite(suite).worlds}
    own = world_of("eval", checkpoint, env, set_)
    if not tasks:
        return {env or "its own world": own}
    return {**(load_tasks(load_config(env, set_ or ())).by_name if env else trained_tasks(checkpoint))}


def policy_in(
    env_config: EnvConfig | None, checkpoint: str, device: str | None, place: str | None = None
) -> tuple[Policy, EnvConfig]:
    """The policy in a world, by default its own, and that world; `place` is where notes say they are about."""
    if checkpoint in WITHOUT_WEIGHTS:
        assert env_config is not None
        return WITHOUT_WEIGHTS[checkpoint](env_config), env_config
    loaded = load_policy(checkpoint, find_device(device or "auto"), env_config)
    if loaded.unknown:
        more = f" and {len(loaded.unknown) - 8} more" if len(loaded.unknown) > 8 else ""
        unknown = f"what it was not made for: {', '.join(loaded.unknown[:8])}{more}"
        output.note(f"{f'{place}: ' if place else ''}the policy neither sees nor does {unknown}")
    return loaded.agent, loaded.agent.env_config
