"""`metta replay`: record episodes of a policy as web pages, MettaScope files and videos."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from metta import api
from metta.errors import UsageError
from metta_cli import output, resolve
from metta_cli.parameters import (
    Checkpoint,
    Debug,
    Deterministic,
    Device,
    Json,
    PolicyName,
    Quiet,
    Set,
    World,
    integer_option,
)
from metta_cli.torch_setup import set_up_torch
from metta_cli.views.progress_line import ProgressLine

VIDEOS = {"--gif": ".gif", "--mp4": ".mp4"}
"""Options for videos, whose value may be left out -> suffix of the file."""


class ReplayCommand(TyperCommand):
    """The command, whose options `--gif` and `--mp4` take a file or nothing."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; what follows `--gif` is its value only if it ends with `.gif`."""
        given = [
            f"{argument}=" if (suffix := VIDEOS.get(argument)) and not following.endswith(suffix) else argument
            for argument, following in zip(args, [*args, ""][1:], strict=True)
        ]
        return super().parse_args(ctx, given)


def _video_option(name: str, kind: str) -> Any:
    return typer.Option(metavar=f"[FILE{name}]", help=f"Also write {kind}.  [default file: beside the page]")


def _parse_steps(text: str) -> tuple[int, int]:
    """(first, last) step of `100-200` or `200`."""
    first, dash, last = text.partition("-")
    ends = [api.whole_number(end) for end in ((first, last) if dash else ("0", text))]
    if None in ends:
        raise typer.BadParameter(f'"{text}" is not a range of steps such as 100-200, or a last step such as 200')
    return ends[0] or 0, ends[1] or 0


def replay(
    checkpoint: Checkpoint,
    policy: PolicyName = None,
    env: World = None,
    episodes: Annotated[int, integer_option("Episodes to record, with consecutive seeds.", 1)] = 1,
    out: Annotated[str, typer.Option(metavar="DIR", help="Output directory.")] = "replays",
    max_steps: Annotated[int | None, integer_option("Maximum number of steps of an episode.", 1)] = None,
    deterministic: Deterministic = False,
    gif: Annotated[str | None, _video_option(".gif", "an animated GIF of the map")] = None,
    mp4: Annotated[str | None, _video_option(".mp4", "an MP4 video of the map")] = None,
    steps: Annotated[
        Any, typer.Option(parser=_parse_steps, metavar="FIRST-LAST|LAST", help="Steps in the video.  [default: all]")
    ] = None,
    speed: Annotated[int, integer_option("Steps per second of the video.", 1, 1000)] = 10,
    size: Annotated[int, integer_option("Pixels of the longer side of the video.", 16, 4096)] = 640,
    device: Device = None,
    seed: Annotated[int, integer_option("Seed of the first episode.", 0)] = 0,
    set_: Set = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Record episodes as web pages, MettaScope files and videos.

    Files are named after run, policy, world and seed. A file of another episode is never overwritten: the new one gets
    a number. Videos show the map; those faster than 50 steps per second leave out steps.
    """
    videos = {suffix: file for suffix, file in ((".gif", gif), (".mp4", mp4)) if file is not None}
    _check_videos(videos, episodes)
    first, last = steps or (0, None)
    settings = api.VideoSettings(first, last, speed, size)
    set_up_torch()
    source = resolve.newest_run(checkpoint, policy)
    path = resolve.newest_policy(source)
    players, env_config = resolve.load("replay", path, env, set_, device)
    name, title = _name_and_title(source, path, env, set_)
    if deterministic:
        resolve.note_sampling(path)
        name, title = f"{name}_deterministic", f"{title}, deterministic"
    for episode_seed in range(seed, seed + episodes):
        episode = api.record_episode(players, env_config, episode_seed, max_steps, deterministic)
        if videos:
            settings.check(episode)
        paths = api.write_replay(episode, out, f"{name}_seed_{episode_seed}", title, overwrite=False)
        files = {"page": str(paths.page), "mettascope": str(paths.mettascope)}
        for suffix, file in videos.items():
            files[suffix[1:]] = _write_video(episode, Path(file or paths.page.with_suffix(suffix)), settings)
        reward = float(episode.total_rewards[-1].mean())
        if json:
            output.print_json({"seed": episode_seed, "steps": episode.steps, "reward": reward} | files)
        elif not quiet:
            summary = f"seed {episode_seed}: {episode.steps} steps, reward per agent {output.format_number(reward)}"
            output.print_lines([summary, *(f"  {file}" for file in files.values())])


def _check_videos(videos: dict[str, str], episodes: int) -> None:
    """Raises UsageError if a video cannot be written, before anything is played."""
    for suffix, file in videos.items():
        option = f"--{suffix[1:]}"
        if file and not file.endswith(suffix):
            raise UsageError(f"{option} writes files whose names end with {suffix}; got {file}")
        if file and episodes > 1:
            raise UsageError(f"{option} {file} names one file for {episodes} episodes; leave out the file")
        api.check_video_path(file or f"replay{suffix}")


def _write_video(episode: api.Replay, path: Path, settings: api.VideoSettings) -> str:
    with ProgressLine() as line:
        return str(
            api.write_video(
                episode,
                path,
                settings,
                lambda done, total: line(f"{path.name}: {done} of {total} frames", done / total),
            )
        )


def _name_and_title(source: str, checkpoint: str, env: str | None, set_: list[str] | None) -> tuple[str, str]:
    """Start of the names of the files, and title of the page: run, policy and world. `source` led to `checkpoint`."""
    world = Path(env).name.removesuffix(".toml").strip("-") or "world" if env else ""
    shown_world = f"{world} with {', '.join(set_)}" if set_ else world
    if checkpoint in api.POLICIES:
        return f"{checkpoint}_{world}", api.replay_title("", f"{checkpoint} policy", shown_world)
    (file, name), (named, _) = api.split_policy_name(checkpoint), api.split_policy_name(source)
    epoch = re.fullmatch(r"checkpoint_(\d+)", file.stem)
    folder = (named if named.is_dir() else file.parent).absolute()
    run = folder.parent.name if folder.name == "checkpoints" else folder.name if epoch else ""
    trained_in = str(api.load_policy(checkpoint).metadata.get("run", ""))
    shown = f"epoch {int(epoch[1])}" if epoch else file.stem
    title = api.replay_title(run, f"{shown}, policy {name}" if name else shown, shown_world or trained_in)
    return "_".join(filter(None, [run, file.stem, name, world])), title
