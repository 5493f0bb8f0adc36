"""Restore a training run from a given trainer state, or from the newest valid trainer state in its directory."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from metta.checkpoint.policy_checkpoint import load_checkpoint
from metta.checkpoint.policy_file import checkpoint_name, checkpoint_paths, newest_valid
from metta.checkpoint.state_validation import (
    check_experience,
    check_generator,
    check_like,
    check_optimizer_state,
    check_schedule_state,
    check_worlds,
)
from metta.checkpoint.trainer_state import TrainingState, learner_states, own_states, training_state_paths
from metta.config.loading.load import parse_config
from metta.config.policies import PolicySettings
from metta.config.run import RunConfig, policy_settings
from metta.config.validation.error_messages import first_problem
from metta.errors import CheckpointError, ConfigError, RenamedKeyWarning, TrainingError
from metta.job_environment import local_size
from metta.rl.curricula.curriculum import Curriculum
from metta.rl.distributed import SINGLE_PROCESS, Processes
from metta.rl.frozen_policies.self_play import OPPONENTS, check_opponent_names, snapshot_epoch
from metta.rl.prioritized_sampling import annealed_beta
from metta.run.device import find_device, gpu_memory
from metta.run.events import Listener, Notice
from metta.run.learners.learner import Learner
from metta.run.learners.policy_files import SavedPolicies, own_file
from metta.run.memory_check import check_memory, is_out_of_memory
from metta.run.resume.changed_settings import check_edits
from metta.run.run_directory import RunDirectory, read_run_config
from metta.run.training_run import TrainingRun
from metta.run.write_permissions import CONFIG

_Count = Annotated[int, Field(ge=0, le=2**53)]


class _RunState(BaseModel):
    """The entries of a run in `TrainingState.extra_args`."""

    model_config = ConfigDict(arbitrary_types_allowed=True, strict=True)

    curriculum: dict[str, Any]
    experience: dict[str, Any]
    other_experiences: list[dict[str, Any]] = []
    opponents: list[str] | dict[str, list[str]] = []
    initial_weights: dict[str, Any] | None
    episodes_recorded: _Count
    torch_generator: torch.Tensor
    torch_threads: _Count
    device: str = ""  # missing in states of earlier versions, as `config`
    config: str = ""


def restore_newest(directory: RunDirectory, listener: Listener, processes: Processes) -> TrainingRun:
    """Restore a run from its newest valid trainer state. Notices name newer states that are damaged or do not fit.

    Raises CheckpointError if no state is valid, or only that of epoch 0: a run that has learned something never starts
    over. Raises ConfigError if settings of `config.toml` were edited since, other than the `CHANGEABLE` ones.
    """
    paths = training_state_paths(directory.checkpoints)
    if not paths:
        raise CheckpointError(_no_state_message(directory))
    problems = []
    for path in paths:
        try:
            state = TrainingState.load(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        if problems and not state.epoch:
            problems.append(f"{path} is of epoch 0: the run would start over")
            break
        try:
            before = _saved_config(state, directory.root)
            with _ignore_renamed_keys():
                check_edits(before, directory.root, listener)
            run = restore_run(directory.config, state, directory.checkpoints, processes, listener)
        except CheckpointError as error:
            problems.append(f"{path} cannot be resumed from: {error}")
            continue
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(
                f"out of memory while loading {path}; free memory, or resume on another machine"
            ) from error
        for problem in problems:
            listener(Notice(f"{problem}; resuming from {path.name}"))
        _announce_changes(state, run, listener, processes)
        _announce_schedules(before, run, listener)
        return run
    problems.append(f"restore one from a copy of the run, or: {_new_run_advice(directory)}")
    raise CheckpointError("\n  ".join([f"{directory.root} has no valid trainer state:", *problems]))


@contextmanager
def _ignore_renamed_keys() -> Iterator[None]:
    """Suppress warnings of renamed keys in checkpoints: `config.toml` has the same keys, which were warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RenamedKeyWarning)
        yield


@_ignore_renamed_keys()
def restore_run(
    config: RunConfig,
    state: TrainingState,
    checkpoints: Path,
    processes: Processes = SINGLE_PROCESS,
    listener: Listener = lambda event: None,
) -> TrainingRun:
    """Restore a run from `state` and the policies of the same epoch in `checkpoints`.

    If the number of processes has changed, environments are reset. Only rank 0 loads the policies in training; the
    others receive them in `sync_ranks`. Raises CheckpointError, naming the entry, if state or policies do not fit the
    config.
    """
    saved = _run_state(state)
    policy = checkpoint_name(state.epoch)
    if state.policy_path != policy:
        raise CheckpointError(f"its policy_path must be {policy}, the policy of the same epoch in the same directory")
    check_like(state.stopwatch_state, {"seconds": 0.0}, "stopwatch_state")
    check_generator(saved.torch_generator, "extra_args.torch_generator")
    curriculum = Curriculum.from_state(saved.curriculum)
    curriculum.check_matches(config)
    names = [each.name for each in policy_settings(config, curriculum.env_configs[0]) if each.train]
    opponents = {name: values["opponents"] or [] for name, values in learner_states(state, names).items()}
    for opponent_names in opponents.values():
        check_opponent_names(opponent_names)
    worlds, device = curriculum.env_configs, find_device(config.run.device)
    if warning := check_memory(config, worlds, device.type, processes.size, local_size(), gpu_memory(device)):
        listener(Notice(warning))
    run = TrainingRun(config, curriculum, SavedPolicies(checkpoints, state.epoch, opponents), processes)
    with ExitStack() as on_error:
        on_error.callback(run.close)
        if processes.is_rank_zero:
            load_checkpoint(run.team, checkpoints / policy)
        _check_state(run, state, saved)
        run.load_state(state)
        on_error.pop_all()
    if processes.is_rank_zero:
        for name in names:
            _remove_later_opponents(checkpoints / own_file(name, OPPONENTS), state.epoch)
    return run


@_ignore_renamed_keys()
def _saved_config(state: TrainingState, root: Path) -> RunConfig:
    """The config with which a state was saved. States of earlier versions do not hold it: that of the run in `root`."""
    text = _run_state(state).config
    try:
        return parse_config(text, "its extra_args.config") if text else read_run_config(root)
    except ConfigError as error:
        raise CheckpointError(str(error)) from None


def _run_state(state: TrainingState) -> _RunState:
    try:
        return _RunState.model_validate(state.extra_args)
    except ValidationError as error:
        raise CheckpointError(f"its extra_args are invalid: {first_problem(error)}") from None


def _check_state(run: TrainingRun, state: TrainingState, saved: _RunState) -> None:
    """Raise CheckpointError if `run.load_state` cannot load the state."""
    for name, values in learner_states(state, list(run.learners)).items():
        learner, end = run.learners[name], f".{name}" if name else ""
        check_like(values["optimizer_state_dict"], {}, f"optimizer_state_dict{end}")
        check_optimizer_state(values["optimizer_state_dict"], learner.optimizer, f"optimizer_state_dict{end}")
        schedule = values["lr_scheduler_state_dict"]
        if learner.scheduler is not None and schedule is not None:
            check_schedule_state(schedule, learner.scheduler, f"lr_scheduler_state_dict{end}")
        if learner.settings.ppo.l2_init_loss_coef > 0:
            where = f"extra_args.initial_weights{end}"
            check_like(values["initial_weights"], learner.agent.initial_weights, where)
    if 1 + len(saved.other_experiences) == run.processes.size:
        _check_experiences(saved.experience, run, "extra_args.experience")
        for index, experience in enumerate(saved.other_experiences):
            _check_experiences(experience, run, f"extra_args.other_experiences.{index}")


def _check_experiences(found: dict[str, Any], run: TrainingRun, where: str) -> None:
    """Raise CheckpointError if the worlds or the experience of a policy, in the state of a process, do not fit."""
    experiences = run.experiences
    check_worlds(found, next(iter(experiences.values())).worlds, where)
    own = own_states(found)
    check_like(own, {name: {} for name in experiences}, f"{where}.policies")
    for name, experience in experiences.items():
        check_experience(own[name], experience, f"{where}.policies.{name}" if name else where)


def _announce_changes(state: TrainingState, run: TrainingRun, listener: Listener, processes: Processes) -> None:
    """Send a notice for each difference that may change the results of the resumed run."""
    device, device_now = state.extra_args.get("device", run.device.type), run.device.type
    if device != device_now:
        listener(Notice(f"The device changed from {device} to {device_now}: results may not be bit-identical"))
    threads, threads_now = state.extra_args["torch_threads"], torch.get_num_threads()
    if threads != threads_now:
        listener(
            Notice(f"torch used {threads} threads before and uses {threads_now} now: results may not be bit-identical")
        )
    size = 1 + len(state.extra_args.get("other_experiences", ()))
    if size != processes.size:
        listener(Notice(f"World size changed from {size} to {processes.size}: weights restored, environments reset."))


def _announce_schedules(before: RunConfig, run: TrainingRun, listener: Listener) -> None:
    """Send a notice for each schedule by which the next epoch differs from that of the config `before`."""
    if not run.epoch or run.is_finished:
        return
    settings = {policy.name: policy for policy in policy_settings(before, run.curriculum.env_configs[0])}
    for learner in run.learners.values():
        _announce_learning_rate(settings[learner.name], before.run.total_timesteps, learner, run, listener)
        _announce_beta(before.run.total_timesteps, learner, run, listener)


def _announce_learning_rate(
    before: PolicySettings, total_before: int, learner: Learner, run: TrainingRun, listener: Listener
) -> None:
    total, step = run.config.run.total_timesteps, run.agent_step
    # of a run that was longer before it was shortened, the last epoch is beyond the end
    last = learner.learning_rate(before, max(total_before, step), step - learner.batch_size)
    planned = learner.learning_rate(before, total_before, step)
    now = learner.learning_rate(learner.settings, total, step)
    if now != planned and f"{now:.3g}" != f"{last:.3g}":
        of, place = (f" of {learner.name}", f"policies.{learner.table}.") if learner.name else ("", "")
        text = f"the learning rate{of} was {last:.3g} in the last epoch and is {now:.3g} in the next one"
        if learner.settings.lr_schedule.anneal_lr:
            text += f"; it is annealed to 0 at the end of the run, at {total:,} agent steps"
            if learner.settings.optimizer.learning_rate == before.optimizer.learning_rate:
                text += (
                    f"; to hold it, resume with --set {place}lr_schedule.anneal_lr=false "
                    f"--set {place}optimizer.learning_rate={last:.3g}"
                )
        listener(Notice(text))


def _announce_beta(total_before: int, learner: Learner, run: TrainingRun, listener: Listener) -> None:
    sampling, total = learner.settings.prioritized_sampling, run.config.run.total_timesteps
    betas = [annealed_beta(sampling.beta, run.agent_step / end) for end in (total_before, total)]
    if sampling.enabled and betas[0] != betas[1]:
        of = f" of {learner.name}" if learner.name else ""
        listener(
            Notice(
                f"beta of prioritized_sampling{of} is {betas[1]:.3g} in the next epoch instead of {betas[0]:.3g}, "
                f"since it rises to 1 at the end of the run, at {total:,} agent steps"
            )
        )


def _no_state_message(directory: RunDirectory) -> str:
    """Error message: a run without trainer state cannot resume; how to train from its policy or its config."""
    return (
        f"{directory.root} cannot be resumed: {directory.checkpoints} has no trainer state (trainer_state_*.pt); "
        f"restore one from a copy of the run, or: {_new_run_advice(directory)}"
    )


def _new_run_advice(directory: RunDirectory) -> str:
    """The command that trains a new run from the newest policy of a run, or with its config."""
    advice = f"metta train {shlex.quote(str(directory.root / CONFIG))} --run-dir NEW_DIRECTORY"
    try:
        policy = newest_valid(checkpoint_paths(directory.checkpoints))
        advice += f" --from {shlex.quote(str(policy))} starts a new run with the weights of the newest policy"
    except CheckpointError:
        advice += " starts a new run with the same config"
    return advice


def _remove_later_opponents(opponents: Path, epoch: int) -> None:
    """Remove snapshots of epochs after `epoch`, which will be trained again, in a directory of opponents."""
    for path in opponents.glob("*.pt"):
        if (snapshot_epoch(path.stem) or 0) > epoch:
            path.unlink()
