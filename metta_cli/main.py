"""The commands of metta: each takes its options apart, calls the engine and hands what comes back to the output."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from metta.api import (
    SUITES,
    EpisodePlayer,
    Override,
    Policy,
    RandomPolicy,
    broken_preset_packages,
    check_text,
    config_schema,
    evaluate,
    export_policy,
    find_preset,
    job_rank,
    keep_freed_memory,
    load_config,
    load_policy,
    load_world,
    make_environment,
    newest_checkpoint,
    play_match,
    presets,
    record_episode,
    resume_run,
    train_run,
    write_replay,
    write_report,
)
from metta.errors import CheckpointError, MettaError, UsageError
from metta_cli import interactive, output, resolve
from metta_cli.command_group import Commands
from metta_cli.keyboard import Keyboard
from metta_cli.parameters import (
    Checkpoint,
    Debug,
    Device,
    Json,
    Quiet,
    RunDir,
    Seed,
    Set,
    Source,
    Timesteps,
    World,
    presets_beginning,
)
from metta_cli.training_view import LiveView

app = typer.Typer(
    cls=Commands,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
presets_app = typer.Typer(help="List the presets, or show one.", rich_markup_mode=None)
app.add_typer(presets_app, name="presets")


@app.callback(invoke_without_command=True)
def metta(context: typer.Context) -> None:
    """Train teams of agents in gridworlds from one TOML file."""
    if context.invoked_subcommand is None:
        output.print_lines([context.get_help()])


@app.command()
def train(
    source: Source,
    run_dir: RunDir = None,
    device: Device = None,
    seed: Seed = None,
    set_: Set = None,
    total_timesteps: Timesteps = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a policy; ends with a summary and what to type next."""
    config = load_config(source, _overrides(set_, run_dir, device, seed, total_timesteps))
    keep_freed_memory()
    with _view(json, quiet) as listener:
        ended = train_run(config, listener)
    raise typer.Exit(130 if ended.reason == "interrupted" else 0)


@app.command()
def resume(
    run_dir: Annotated[str, typer.Argument(metavar="RUN_DIR", help="The directory of a run.")],
    device: Device = None,
    set_: Set = None,
    total_timesteps: Timesteps = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Go on exactly where the newest sound checkpoint of a run stopped."""
    keep_freed_memory()
    with _view(json, quiet) as listener:
        ended = resume_run(run_dir, listener, _overrides(set_, None, device, None, total_timesteps))
    raise typer.Exit(130 if ended.reason == "interrupted" else 0)


@app.command("eval")
def eval_(
    checkpoint: Checkpoint,
    env: World = None,
    suite: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE.toml|PRESET,PRESET",
            help=f"Play in each world of a suite: {', '.join(SUITES)}; "
            "or of your own: a list, a file with worlds = [...].",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="OTHER.pt|RUN_DIR|random|scripted", help="Who plays the other agents, to see who earns more."
        ),
    ] = None,
    share: Annotated[
        float | None, typer.Option(help="With --against: the policy's share of the agents.  [default: 0.5]")
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="With --against: a group that the policy plays, not a share; repeatable."),
    ] = None,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes to play in each world.")] = 10,
    baseline: Annotated[bool, typer.Option(help="Play the random policy too, for the scale.")] = True,
    tasks: Annotated[
        bool, typer.Option("--tasks", help="Play in each task of its curriculum, a row for each.")
    ] = False,
    device: Device = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of maps, turn orders and actions.")] = 0,
    set_: Set = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Play episodes with a policy and print what they were worth.

    Rewards are per agent and episode, with the 95 % interval of their mean (Student's t over episodes).
    """
    if suite and (env or tasks):
        raise UsageError(f"--suite names the worlds to play in; leave out {'--env' if env else '--tasks'}")
    if not against and (share is not None or group):
        raise UsageError("--share and --group divide the agents between two policies; name the other by --against")
    if share is not None and group:
        raise UsageError("--share and --group both say whom the policy plays; leave out one")
    keep_freed_memory()
    checkpoint, against = resolve.checkpoint_of(checkpoint), against and resolve.checkpoint_of(against)
    rows: list[output.EvaluationRow] = []
    refusals: list[MettaError] = []
    for name, asked in resolve.worlds_of(checkpoint, env, suite, tasks, set_).items():
        try:
            policy, env_config = resolve.policy_in(asked, checkpoint, device, name if suite else None)
            world = make_environment(env_config)
            if against:
                opponent, _ = resolve.policy_in(env_config, against, device, f"{name}, {against}" if suite else against)
                own_share = 0.5 if share is None else share
                match = play_match(policy, opponent, world, episodes, seed, own_share, group or ())
                rows.append(output.EvaluationRow(name, match=match))
            else:
                policies = {checkpoint if checkpoint in resolve.WITHOUT_WEIGHTS else "policy": policy}
                if baseline:
                    policies["random"] = RandomPolicy(env_config.spec)
                results = {player: evaluate(policies[player], world, episodes, seed) for player in policies}
                rows.append(output.EvaluationRow(name, results))
        except (CheckpointError, UsageError) as error:  # it cannot play there; elsewhere it may
            refusals.append(error)
            rows.append(output.EvaluationRow(name, refusal=str(error)))
    if len(refusals) == len(rows):
        raise refusals[0]
    if json:
        named = {"checkpoint": checkpoint, "against": against, "suite": suite, "seed": seed}
        named = {key: value for key, value in named.items() if value is not None}
        if tasks:
            output.print_json(named | {"tasks": {row.name: row.values for row in rows}})
        else:
            for row in rows:
                output.print_json(named | ({"env": row.name} if suite else {}) | row.values)
    elif not quiet:
        title = f"{checkpoint} against {against}" if against else checkpoint
        output.print_evaluation(title, rows, episodes, is_single=not suite and not tasks)


@app.command("map")
def map_(
    source: Source,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the map; others give other maps.")] = 0,
    set_: Set = None,
    debug: Debug = False,
) -> None:
    """Print the map that an episode begins with, in glyphs."""
    world = make_environment(load_world(source, set_ or ()))
    world.reset(seed=seed)
    output.print_lines([world.render()])


@app.command()
def replay(
    checkpoint: Checkpoint,
    env: World = None,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes to record, each with a seed of its own.")] = 1,
    out: Annotated[str, typer.Option(metavar="DIR", help="Where the files go.")] = "replays",
    max_steps: Annotated[int | None, typer.Option(min=1, help="Steps of an episode, at most.")] = None,
    device: Device = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first episode; the next has the next.")] = 0,
    set_: Set = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Record episodes: a page for a browser, a file for MettaScope."""
    keep_freed_memory()
    checkpoint = resolve.checkpoint_of(checkpoint)
    policy, env_config = resolve.policy_and_world("replay", checkpoint, env, set_, device)
    name = Path(checkpoint).stem
    for episode_seed in range(seed, seed + episodes):
        episode = record_episode(policy, env_config, episode_seed, max_steps)
        try:
            paths = write_replay(episode, out, f"{name}_seed_{episode_seed}")
        except OSError as error:
            raise UsageError(f"{error.filename or out} cannot be written: {error.strerror}") from None
        values = {"seed": episode_seed, "steps": episode.steps, "reward": float(episode.total_rewards[-1].mean())}
        if json:
            output.print_json(values | {"page": str(paths.page), "mettascope": str(paths.mettascope)})
        elif not quiet:
            output.print_replay(values, paths)


@app.command()
def watch(
    source: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT.pt|RUN_DIR|random|scripted",
            help="A policy's file; or a run to follow; or the random policy, or the scripted one.",
        ),
    ],
    env: World = None,
    speed: Annotated[int, typer.Option(min=1, max=1000, help="Steps per second.")] = 10,
    device: Device = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first map.")] = 0,
    set_: Set = None,
    debug: Debug = False,
) -> None:
    """Watch a policy play in this terminal, or follow a run.

    Of a run in progress each episode is played by the newest policy there is; its first one is waited for.
    """
    keyboard = Keyboard("watch", f"metta replay {source} writes a page for a browser")
    keep_freed_memory()
    run_dir = Path(source) if Path(source).is_dir() else None
    checkpoint = str(resolve.first_checkpoint(run_dir)) if run_dir else source
    policy, env_config = resolve.policy_and_world("watch", checkpoint, env, set_, device)

    def newer() -> tuple[str, Policy] | None:
        nonlocal checkpoint
        newest = newest_checkpoint(run_dir) if run_dir else None
        if newest is None or str(newest) == checkpoint:
            return None
        checkpoint = str(newest)
        return newest.stem, resolve.policy_and_world("watch", checkpoint, env, set_, device)[0]

    interactive.watch(keyboard, EpisodePlayer(policy, env_config, seed), Path(checkpoint).stem, speed, newer)


@app.command()
def play(
    source: Source,
    agent: Annotated[int, typer.Option(min=0, help="Which agent is yours.")] = 0,
    policy: Annotated[
        str, typer.Option(metavar="CHECKPOINT.pt|RUN_DIR|random|scripted", help="Who plays the other agents.")
    ] = "random",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first map.")] = 0,
    set_: Set = None,
    debug: Debug = False,
) -> None:
    """Steer one agent yourself; a policy plays the others.

    The world waits for you: each key is a step.
    """
    keyboard = Keyboard("play", "it takes your keys from one")
    others, env_config = resolve.policy_and_world("play", resolve.checkpoint_of(policy), source, set_, None)
    if agent >= env_config.game.num_agents:
        raise UsageError(f"--agent must be below {env_config.game.num_agents}, the number of agents; got {agent}")
    interactive.play(keyboard, EpisodePlayer(others, env_config, seed), Path(source).stem, agent)


@app.command()
def export(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT.pt|RUN_DIR", help="A policy's file; or a run, for its newest.")
    ],
    out: Annotated[str | None, typer.Option(metavar="FILE.onnx", help="Where it goes.  [default: beside]")] = None,
    debug: Debug = False,
) -> None:
    """Write a policy as an ONNX model, for programs without torch."""
    checkpoint = resolve.checkpoint_of(checkpoint)
    target = out or Path(checkpoint).with_suffix(".onnx")
    try:
        path = export_policy(load_policy(checkpoint).agent, target)
    except OSError as error:
        raise UsageError(f"{error.filename or target} cannot be written: {error.strerror}") from None
    output.print_lines([str(path)])


@app.command()
def report(
    run_dirs: Annotated[list[str], typer.Argument(metavar="RUN_DIR", help="Directories of runs.")],
    out: Annotated[str, typer.Option(metavar="FILE.html", help="Where the page goes.")] = "report.html",
    debug: Debug = False,
) -> None:
    """Put runs side by side on one page: curves, configs, replays."""
    try:
        path = write_report(run_dirs, out)
    except OSError as error:
        raise UsageError(f"{error.filename or out} cannot be written: {error.strerror}") from None
    output.print_lines([str(path)])


@app.command()
def check(source: Source, set_: Set = None, debug: Debug = False) -> None:
    """Validate a file; print each value and each derived number."""
    config = load_config(source, set_ or ())
    text = check_text(config)
    kept = "is kept for the next tensor" if keep_freed_memory() else "is the C library's business: it is not glibc"
    output.print_lines([text, f"# freed memory {kept}"])


@presets_app.callback(invoke_without_command=True)
def list_presets(context: typer.Context) -> None:
    """List the presets, one line each."""
    if context.invoked_subcommand is None:
        output.print_glossary([(preset.name, preset.aim) for preset in presets()])
        output.print_lines(["", "suites, for metta eval --suite:"])
        output.print_glossary([(name, suite.aim) for name, suite in SUITES.items()])
        for problem in broken_preset_packages():
            output.note(problem)


@presets_app.command("show")
def show_preset(
    name: Annotated[
        str, typer.Argument(metavar="PRESET", help="The name of a preset.", autocompletion=presets_beginning)
    ],
) -> None:
    """Print a preset: a starting point for a file of your own."""
    output.print_lines([find_preset(name).text.rstrip("\n")])


@app.command()
def schema() -> None:
    """Print the JSON Schema of the TOML file, for your editor."""
    output.print_json(config_schema())


def main() -> None:
    """The console script."""
    try:
        app(prog_name="metta")
    finally:  # the interpreter takes a while to end, and a Ctrl-C in it would hide the exit code
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _overrides(
    set_: list[str] | None,
    run_dir: str | None,
    device: str | None,
    seed: int | None,
    total_timesteps: int | None,
) -> list[Override]:
    """What the command line puts over the file, by the option that says so."""
    named = {"run_dir": run_dir, "device": device, "seed": seed, "total_timesteps": total_timesteps}
    return [Override.parse(text) for text in set_ or ()] + [
        Override(f"--{key.replace('_', '-')}", ("run", key), str(value))
        for key, value in named.items()
        if value is not None
    ]


def _view(json: bool, quiet: bool) -> output.View:
    """The view for this output: JSON or nothing if asked, a live picture on a terminal, else plain lines.

    Of several processes the first alone shows anything.
    """
    if quiet or job_rank():
        return output.View()
    if json:
        return output.JsonView()
    console = Console()
    return LiveView(console) if console.is_terminal and not console.is_dumb_terminal else output.PlainView()
