"""`metta eval`: evaluate a policy in one or several worlds, alone or against another policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn, Self

import typer

from metta import api
from metta.errors import CheckpointError, MapError, MettaError, UsageError
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
from metta_cli.views import evaluation_table
from metta_cli.views.evaluation_table import EvaluationRow

Suite = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE.toml|PRESET,PRESET",
        help="Evaluate in each world of a suite: a name that `metta presets` lists, a TOML file with worlds = [...], "
        "or presets separated by commas.",
    ),
]
Opponent = Annotated[
    str | None,
    typer.Option(
        metavar="OTHER.pt|RUN|POLICY",
        help="Play a match against this policy, which controls the other agents; named like the first one.",
    ),
]
Share = Annotated[
    float | None, typer.Option(help="With --against: fraction of the agents that the policy controls.  [default: 0.5]")
]
Groups = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME", help="With --against: group that the policy controls, instead of --share; repeatable."
    ),
]
Episodes = Annotated[int, integer_option("Episodes per world.", 1)]
Baseline = Annotated[bool, typer.Option(help="Also evaluate the random policy.")]
Tasks = Annotated[
    bool, typer.Option("--tasks", help="Evaluate in each task of the curriculum: the policy's, or that of --env.")
]
EpisodeSeed = Annotated[int, integer_option("Seed of maps, agent orders and sampled actions.", 0)]


def eval_(
    checkpoint: Checkpoint,
    policy: PolicyName = None,
    env: World = None,
    suite: Suite = None,
    against: Opponent = None,
    share: Share = None,
    group: Groups = None,
    episodes: Episodes = 10,
    baseline: Baseline = True,
    tasks: Tasks = False,
    deterministic: Deterministic = False,
    device: Device = None,
    seed: EpisodeSeed = 0,
    set_: Set = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Evaluate a policy or an experiment: mean rewards with intervals.

    Rewards are per agent and episode. The 95 % confidence interval of their mean is Student's t over episodes; of an
    experiment, whose runs are named by its directory, it is also given over the mean rewards of its runs. Maps are
    others than those of training and of evaluations during training, with every seed.
    """
    _check_options(suite, env, tasks, against, share, group)
    set_up_torch()
    source = resolve.newest_run(checkpoint, policy)
    against = against and resolve.newest_policy(against)
    kind = _kind(source, suite, tasks)
    policies = resolve.policies_of_runs(source) if kind == "run" else {"": resolve.newest_policy(source)}
    if deterministic:
        resolve.note_sampling(*policies.values(), *([against] if against else []))
    rows: list[EvaluationRow] = []
    refusals: list[MettaError] = []
    for run, path in policies.items():
        has_baseline = baseline and not rows  # of several runs once: it would be the same each time
        evaluation = _Evaluation.of(
            path, against, share, tuple(group or ()), episodes, has_baseline, seed, device, deterministic
        )
        for world, env_config in resolve.eval_worlds(path, env, suite, tasks, set_, evaluation.files.get(path)).items():
            try:
                rows.append(evaluation.row(run or world, env_config, is_named=kind is not None))
            except (CheckpointError, MapError, UsageError) as error:  # the policy may play in the other worlds
                refusals.append(error)
                rows.append(EvaluationRow(run or world, refusal=str(error)))
    if len(refusals) == len(rows):
        _raise_all(refusals, rows if env or kind else [])
    evaluated = source if kind == "run" else path
    if json:
        settings: dict[str, Any] = {"experiment" if kind == "run" else "checkpoint": evaluated}
        settings |= {"against": against, "suite": suite, "seed": seed, "deterministic": deterministic or None}
        evaluation_table.print_json(settings, rows, kind)
    elif not quiet:
        title = f"{evaluated} against {against}" if against else evaluated
        evaluation_table.print_table(title, rows, episodes, kind)


def _kind(source: str, suite: str | None, tasks: bool) -> evaluation_table.Kind:
    """What the rows of the evaluation are. Raises UsageError for an experiment in several worlds."""
    if not resolve.is_experiment(source):
        return "task" if tasks else "world" if suite else None
    if suite or tasks:
        option = "--suite" if suite else "--tasks"
        raise UsageError(f"{source} is an experiment, whose runs are evaluated in one world; leave out {option}")
    return "run"


def _raise_all(refusals: list[MettaError], rows: list[EvaluationRow]) -> NoReturn:
    """Raise all refusals as one error, each with the name of its row if there are rows."""
    if not rows:
        raise refusals[0]
    raise type(refusals[0])("\n  ".join(f"{row.name}: {row.refusal}" for row in rows))


def _note_choice(path: str, metadata: Mapping[str, Any]) -> None:
    """Say by what the best policy of a run was chosen, if this is one: that score is optimistic."""
    if best := api.BestPolicy.from_metadata(metadata):
        chosen_by = evaluation_table.estimate(api.Interval(best.mean_reward, best.half_width))
        output.print_note(
            f"{path} is the policy of epoch {best.epoch}, chosen by its mean reward in {best.episodes} episodes "
            f"during training, {chosen_by}, likely too high since the highest was chosen; these episodes are others"
        )


def _check_options(
    suite: str | None, env: str | None, tasks: bool, against: str | None, share: float | None, group: list[str] | None
) -> None:
    """Raises UsageError for options that cannot be combined."""
    if suite and (env or tasks):
        raise UsageError(f"--suite names the worlds to play in; leave out {'--env' if env else '--tasks'}")
    if not against and (share is not None or group):
        raise UsageError("--share and --group divide the agents between two policies; name the other with --against")
    if share is not None and group:
        raise UsageError("--share and --group both select the agents that the policy controls; leave out one")


@dataclass(frozen=True)
class _Evaluation:
    """Settings of the evaluation, equal for all worlds."""

    checkpoint: str
    against: str | None
    files: Mapping[str, api.PolicyFile]
    """content of the files of the policies, read once: a run in training may remove them meanwhile"""
    share: float | None
    groups: tuple[str, ...]
    episodes: int
    baseline: bool
    seed: int
    device: str | None
    deterministic: bool

    @classmethod
    def of(cls, checkpoint: str, against: str | None, *settings: Any) -> Self:
        """The evaluation with these `settings`, the fields after `files`. Says how a best policy was chosen."""
        paths = [path for path in (checkpoint, against) if path and path not in api.POLICIES]
        files = {path: api.read_policy_file(path) for path in paths}
        for path, file in files.items():  # a policy that plays nowhere is one error, without a world's name
            _note_choice(path, api.load_policy(path, file=file).metadata)
        return cls(checkpoint, against, files, *settings)

    def row(self, name: str, env_config: api.EnvConfig | None, is_named: bool) -> EvaluationRow:
        """The result in one world, by default the policy's training world.

        With `is_named`, printed notes start with the world's name.

        Raises CheckpointError or UsageError if a policy does not fit the world.
        """
        note_prefix = name if is_named else None
        policy, env_config = self._load(self.checkpoint, env_config, note_prefix)
        env = api.make_environment(env_config)
        if self.against:
            note_prefix = f"{name}, {self.against}" if is_named else self.against
            opponent, _ = self._load(self.against, env_config, note_prefix)
            share = 0.5 if self.share is None else self.share
            match = api.play_match(
                policy, opponent, env, self.episodes, self.seed, share, self.groups, self.deterministic
            )
            return EvaluationRow(name, match=match)
        policies: dict[str, api.Policy | api.Team] = {
            self.checkpoint if self.checkpoint in api.POLICIES else "policy": policy
        }
        if self.baseline:
            policies["random"] = api.RandomPolicy(env_config.spec)
        results = {
            column: api.evaluate(policies[column], env, self.episodes, self.seed, self.deterministic)
            for column in policies
        }
        return EvaluationRow(name, results)

    def _load(
        self, path: str, env_config: api.EnvConfig | None, note_prefix: str | None
    ) -> tuple[api.Policy | api.Team, api.EnvConfig]:
        return resolve.load_policy(path, env_config, self.device, note_prefix, self.files.get(path))
