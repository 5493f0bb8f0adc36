"""`metta replay`: record episodes of a policy as web pages and MettaScope files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from metta import api
from metta_cli import output, resolve
from metta_cli.parameters import Checkpoint, Debug, Deterministic, Device, Json, Quiet, Set, World, integer_option
from metta_cli.torch_setup import set_up_torch


def replay(
    checkpoint: Checkpoint,
    env: World = None,
    episodes: Annotated[int, integer_option("Episodes to record, with consecutive seeds.", 1)] = 1,
    out: Annotated[str, typer.Option(metavar="DIR", help="Output directory.")] = "replays",
    max_steps: Annotated[int | None, integer_option("Maximum number of steps of an episode.", 1)] = None,
    deterministic: Deterministic = False,
    device: Device = None,
    seed: Annotated[int, integer_option("Seed of the first episode.", 0)] = 0,
    set_: Set = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Record episodes as web pages and as files for MettaScope.

    Files are named after run, policy, world and seed. A file of another episode is never overwritten: the new one gets
    a number.
    """
    set_up_torch()
    source = resolve.newest_run(checkpoint)
    path = resolve.newest_policy(source)
    policy, env_config = resolve.load("replay", path, env, set_, device)
    name, title = _name_and_title(source, path, env, set_)
    if deterministic:
        resolve.note_sampling(path)
        name, title = f"{name}_deterministic", f"{title}, deterministic"
    for episode_seed in range(seed, seed + episodes):
        episode = api.record_episode(policy, env_config, episode_seed, max_steps, deterministic)
        paths = api.write_replay(episode, out, f"{name}_seed_{episode_seed}", title, overwrite=False)
        reward = float(episode.total_rewards[-1].mean())
        if json:
            values = {"seed": episode_seed, "steps": episode.steps, "reward": reward}
            output.print_json(values | {"page": str(paths.page), "mettascope": str(paths.mettascope)})
        elif not quiet:
            summary = f"seed {episode_seed}: {episode.steps} steps, reward per agent {output.format_number(reward)}"
            output.print_lines([summary, f"  {paths.page}", f"  {paths.mettascope}"])


def _name_and_title(source: str, checkpoint: str, env: str | None, set_: list[str] | None) -> tuple[str, str]:
    """Start of the names of the files, and title of the page: run, policy and world. `source` led to `checkpoint`."""
    world = Path(env).name.removesuffix(".toml").strip("-") or "world" if env else ""
    shown_world = f"{world} with {', '.join(set_)}" if set_ else world
    if checkpoint in api.POLICIES:
        return f"{checkpoint}_{world}", api.replay_title("", f"{checkpoint} policy", shown_world)
    policy = Path(checkpoint).stem
    epoch = re.fullmatch(r"checkpoint_(\d+)", policy)
    folder = (Path(source) if Path(source).is_dir() else Path(checkpoint).parent).absolute()
    run = (folder.parent if folder.name == "checkpoints" else folder).name if epoch or policy == "best" else ""
    trained_in = str(api.load_policy(checkpoint).metadata.get("run", ""))
    title = api.replay_title(run, f"epoch {int(epoch[1])}" if epoch else policy, shown_world or trained_in)
    return "_".join(filter(None, [run, policy, world])), title
