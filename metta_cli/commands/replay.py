"""`metta replay`: record episodes of a policy as web pages and MettaScope files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from metta import api
from metta_cli import output, resolve
from metta_cli.parameters import Checkpoint, Debug, Device, Json, Quiet, Set, World
from metta_cli.torch_setup import set_up_torch


def replay(
    checkpoint: Checkpoint,
    env: World = None,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes to record, with consecutive seeds.")] = 1,
    out: Annotated[str, typer.Option(metavar="DIR", help="Output directory.")] = "replays",
    max_steps: Annotated[int | None, typer.Option(min=1, help="Maximum number of steps of an episode.")] = None,
    device: Device = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first episode.")] = 0,
    set_: Set = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Record episodes as web pages and as files for MettaScope."""
    set_up_torch()
    checkpoint = resolve.newest_policy(checkpoint)
    policy, env_config = resolve.load("replay", checkpoint, env, set_, device)
    name = Path(checkpoint).stem
    for episode_seed in range(seed, seed + episodes):
        episode = api.record_episode(policy, env_config, episode_seed, max_steps)
        paths = api.write_replay(episode, out, f"{name}_seed_{episode_seed}")
        reward = float(episode.total_rewards[-1].mean())
        if json:
            values = {"seed": episode_seed, "steps": episode.steps, "reward": reward}
            output.print_json(values | {"page": str(paths.page), "mettascope": str(paths.mettascope)})
        elif not quiet:
            summary = f"seed {episode_seed}: {episode.steps} steps, reward per agent {output.format_number(reward)}"
            output.print_lines([summary, f"  {paths.page}", f"  {paths.mettascope}"])
