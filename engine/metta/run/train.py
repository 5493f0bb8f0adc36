"""The training loop: collect, update, report, evaluate, checkpoint. Resuming is the same loop, entered later."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Literal

import torch

from metta.checkpoint.policy_checkpoint import checkpoint_name
from metta.checkpoint.trainer_state import TrainingState, training_state_paths
from metta.config.loading.load import dump_config, parse_config
from metta.config.loading.overrides import Override
from metta.config.run import RunConfig
from metta.errors import CheckpointError, ConfigError, MapError, MettaError, TrainingError, UsageError
from metta.job_environment import local_size
from metta.rl.curricula.curriculum import Curriculum
from metta.rl.distributed import ProcessGroupError, Processes
from metta.run.events import (
    CheckpointSaved,
    EpochEnded,
    Listener,
    Notice,
    PhaseBegan,
    ReplaySaved,
    RunEnded,
    StopRequested,
)
from metta.run.interval_timer import Timer
from metta.run.loggers import Loggers, check_loggers
from metta.run.memory_check import check_memory, is_out_of_memory, telling_of_memory
from metta.run.metrics_file import MetricsFile
from metta.run.run_directory import RunDirectory
from metta.run.signals import Interrupted, Interruption
from metta.run.snapshot import Snapshot
from metta.run.training_run import TrainingRun, find_device

CHANGEABLE = (
    "run.total_timesteps",
    "run.device",
    "checkpoint.checkpoint_dir",
    "checkpoint.checkpoint_interval",
    "checkpoint.wandb_checkpoint_interval",
    "compile.",
    "distributed.timeout_seconds",
    "simulation.",
    "logging.",
)
"""What may change when a run goes on: nothing that touches what was learned so far."""

SIGNALS_WITHIN = 2.0
"""Seconds in which a signal sent to all processes of a job has come to each."""

MISFITS = (
    AttributeError,
    ConfigError,
    IndexError,
    KeyError,
    MapError,
    OverflowError,
    RuntimeError,
    TypeError,
    UsageError,
    ValueError,
)
"""What loading a trainer state raises where its parts are not those of the run: other names, other shapes."""


def train_run(config: RunConfig, listener: Listener) -> RunEnded:
    """Train from the beginning, in a new run directory. Nothing is created before the config has proved sound."""
    with Processes.connect() as processes:
        if not processes.is_rank_zero:
            return _follow(processes)
        check_loggers(config.logging)
        run = _begun(config, listener, processes)
        with closing(run), RunDirectory.create(config) as directory, _saying_what_is_kept(run, directory):
            _call_the_others(run, directory)
            with _interruption(listener) as interruption:
                saved = run.save(directory.checkpoints)
                ended = _train(run, directory, saved, listener, interruption)
            listener(ended)
            return ended


def resume_run(root: str | Path, listener: Listener, overrides: Sequence[Override] = ()) -> RunEnded:
    """Go on exactly where the newest sound checkpoint of a run stopped. `overrides` may change what is `CHANGEABLE`."""
    for override in overrides:
        key = ".".join(map(str, override.path))
        if not key.startswith(CHANGEABLE):
            raise UsageError(f"{override.option}: {key} cannot change while a run goes on; train anew for that")
    with Processes.connect() as processes:
        if not processes.is_rank_zero:
            return _follow(processes)
        with RunDirectory.open(root, overrides) as directory:
            check_loggers(directory.config.logging)
            if directory.was_begun:
                run = _restore(directory, listener, processes)
            else:  # stopped in its first moments, before there was anything to lose
                run = _begun(directory.config, listener, processes)
            if overrides:  # which have proved sound: a run that cannot go on with them must not keep them
                directory.write_config()
            if run.is_finished:
                listener(Notice(f"all {run.agent_step:,} agent steps are done; --total-timesteps trains on"))
            with closing(run), _saying_what_is_kept(run, directory):
                _call_the_others(run, directory)
                with _interruption(listener) as interruption:
                    if not directory.was_begun:
                        run.save(directory.checkpoints)
                    checkpoint = directory.checkpoints / checkpoint_name(run.epoch)
                    ended = _train(run, directory, checkpoint, listener, interruption)
                listener(ended)
                return ended


def _begun(config: RunConfig, listener: Listener, processes: Processes) -> TrainingRun:
    """A run at its very beginning. TrainingError, with what to lower, if it does not fit into memory."""
    curriculum = Curriculum.from_config(config)
    worlds, device = curriculum.env_configs, find_device(config.run.device)
    if close := check_memory(config, worlds, device, processes.size, local_size()):
        listener(Notice(close))
    with telling_of_memory(config, worlds, device):
        return TrainingRun(config, curriculum, processes=processes)


def _interruption(listener: Listener) -> Interruption:
    """Listens for a signal from before the run's first state is saved: there is none that would leave half a file."""
    return Interruption(lambda name: listener(StopRequested(name)))


def _train(
    run: TrainingRun, directory: RunDirectory, checkpoint: Path, listener: Listener, interruption: Interruption
) -> RunEnded:
    """Train on from `checkpoint` until all agent steps are done or a signal asks to stop; either way all is saved."""
    config = run.config
    evaluations = Timer(config.simulation.evaluate_interval if run.can_evaluate else 0)
    replays = Timer(config.simulation.replay_interval)
    checkpoints = Timer(config.checkpoint.checkpoint_interval)
    saved = CheckpointSaved(checkpoint, run.epoch, run.agent_step)
    snapshot = run.snapshot()
    first = last = lost = None
    with (
        MetricsFile(directory.metrics, run.epoch) as metrics_file,
        Loggers(config, directory.root, run.epoch, metrics_file.lines()) as loggers,
    ):
        listener(run.beginning(directory.root))
        listener(saved)
        if config.simulation.evaluate_interval and not run.can_evaluate:
            listener(Notice("episodes never end here, so that the policy is not evaluated; set env.game.max_steps"))
        while not (run.is_finished or interruption.requested):
            try:
                listener(PhaseBegan("collect"))
                with interruption.may_break_off():
                    batch = run.collect()
                listener(PhaseBegan("update"))
                with interruption.may_break_off():
                    losses = run.update()
                metrics = run.report(batch, losses)
            except Interrupted:
                break  # the snapshot is of the moment before this epoch; who resumes plays it again, alike
            except ProcessGroupError as error:
                lost = None if _was_asked_to_stop(interruption) else error
                break
            if evaluations.is_due():
                listener(PhaseBegan("evaluate"))
                with suppress(Interrupted), interruption.may_break_off():
                    metrics = dataclasses.replace(metrics, evaluation=run.evaluate())
            directory.check_it_is_there()
            metrics_file.append(dataclasses.asdict(metrics))
            loggers.log(metrics)
            listener(EpochEnded(metrics))
            last = metrics if metrics.episodes else last
            first = first or last
            if replays.is_due():
                listener(PhaseBegan("record"))
                with suppress(Interrupted), interruption.may_break_off():
                    listener(_recorded(run, directory.replays))
            snapshot = run.snapshot()
            if checkpoints.is_due():
                saved = _saved(snapshot, directory, metrics_file, loggers, listener)
                loggers.upload(saved.path)
        if saved.epoch < snapshot.state.epoch:
            saved = _saved(snapshot, directory, metrics_file, loggers, listener)
        if saved.path != checkpoint:
            loggers.upload(saved.path, is_last=True)
    if lost is not None:
        raise lost
    reason: Literal["finished", "interrupted"] = "finished" if run.is_finished else "interrupted"
    root, path, epoch, agent_step = directory.root, saved.path, saved.epoch, saved.agent_step
    return RunEnded(reason, root, path, epoch, agent_step, snapshot.seconds, first, last)


def _recorded(run: TrainingRun, replays: Path) -> ReplaySaved | Notice:
    """Record an episode. Where that cannot be written training goes on: it has lost a picture and nothing else."""
    try:
        return run.record(replays)
    except OSError as error:
        return Notice(f"no replay of epoch {run.epoch}: {error.filename or replays}: {error.strerror or error}")


def _saved(
    snapshot: Snapshot, directory: RunDirectory, metrics_file: MetricsFile, loggers: Loggers, listener: Listener
) -> CheckpointSaved:
    """Save the run as it was at the snapshot, after all that was logged until then."""
    listener(PhaseBegan("save"))
    directory.check_it_is_there()
    metrics_file.sync()
    loggers.flush()
    path = snapshot.save(directory.checkpoints)
    saved = CheckpointSaved(path, snapshot.state.epoch, snapshot.state.total_agent_step)
    listener(saved)
    return saved


def _call_the_others(run: TrainingRun, directory: RunDirectory) -> None:
    """Tell the other processes, if there are any, what to train, and begin with them."""
    if run.processes.size > 1:
        root, checkpoints = str(directory.root.absolute()), str(directory.checkpoints.absolute())
        state = dataclasses.asdict(run.state()) if directory.was_begun else None
        orders = {"config": dump_config(run.config), "state": state, "directory": root, "checkpoints": checkpoints}
        run.processes.broadcast(orders)
        run.sync_ranks()
        run.processes.set_timeout(run.config.distributed.timeout_seconds)


def _was_asked_to_stop(interruption: Interruption) -> bool:
    """Whether a process that lost another is to stop as well: a signal for all of them reaches one after the other."""
    with suppress(Interrupted), interruption.may_break_off():
        time.sleep(SIGNALS_WITHIN)
    return interruption.requested


def _follow(processes: Processes) -> RunEnded:
    """Train as the leader says, and write nothing, until all agent steps are done or a signal asks to stop."""
    orders = processes.broadcast()
    directory, checkpoints = Path(orders["directory"]), Path(orders["checkpoints"])
    config = parse_config(orders["config"], "the leader's config")
    if orders["state"] is None:
        run = TrainingRun(config, Curriculum.from_config(config), processes=processes)
    else:
        run = TrainingRun.restore(config, TrainingState(**orders["state"]), checkpoints, processes)
    last = None
    with closing(run), Interruption(lambda name: None) as interruption:
        run.sync_ranks()
        processes.set_timeout(config.distributed.timeout_seconds)
        while not (run.is_finished or interruption.requested):
            try:
                with interruption.may_break_off():
                    batch = run.collect()
                    last = run.report(batch, run.update())
            except Interrupted:
                break
            except ProcessGroupError:
                if not _was_asked_to_stop(interruption):
                    raise
    reason: Literal["finished", "interrupted"] = "finished" if run.is_finished else "interrupted"
    checkpoint = checkpoints / checkpoint_name(run.epoch)
    return RunEnded(reason, directory, checkpoint, run.epoch, run.agent_step, run.seconds, None, last)


def _restore(directory: RunDirectory, listener: Listener, processes: Processes) -> TrainingRun:
    """The run at its newest sound trainer state; a damaged one is named, and the one before it used."""
    paths = training_state_paths(directory.checkpoints)
    if not paths:
        raise CheckpointError(
            f"{directory.checkpoints} has no trainer state: the run stopped before its first checkpoint; train it anew"
        )
    problems = []
    for path in paths:
        try:
            run = TrainingRun.restore(directory.config, TrainingState.load(path), directory.checkpoints, processes)
        except CheckpointError as error:
            problems.append(str(error))
        except MISFITS as error:
            if is_out_of_memory(error):
                raise TrainingError(f"out of memory while loading {path}; free some, or go on elsewhere") from error
            what = str(error).partition("\n")[0]
            kind = "" if isinstance(error, MettaError) else f"{type(error).__name__}, "
            problems.append(f"{path} does not fit the run in {directory.root}: {kind}{what}")
        else:
            for problem in problems:
                listener(Notice(f"{problem}; going on from {path.name}"))
            if (threads := run.restored_threads) != torch.get_num_threads():
                listener(
                    Notice(
                        f"torch ran on {threads} threads before and runs on {torch.get_num_threads()} now; "
                        "sums may differ in their last bits"
                    )
                )
            if (others := run.restored_processes) != processes.size:
                listener(
                    Notice(
                        f"processes that train this: {others} before, {processes.size} now; "
                        "what was learned goes on, the worlds begin anew"
                    )
                )
            return run
    raise CheckpointError("\n  ".join([f"{directory.root} has no trainer state that loads:", *problems]))


@contextmanager
def _saying_what_is_kept(run: TrainingRun, directory: RunDirectory) -> Iterator[None]:
    """Turn what can stop a run into a TrainingError that says where it can go on."""
    try:
        yield
    except (TrainingError, OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        paths = training_state_paths(directory.checkpoints)
        kept = f"metta resume {directory.root} goes on from {paths[0].name}" if paths else "no checkpoint is there"
        if isinstance(error, OSError):
            reason = f"{error.filename or directory.root}: {error.strerror or error}"
        elif isinstance(error, TrainingError):
            reason = str(error)
        else:
            reason = "out of memory: lower experience.minibatch_size, batch_size or agent.hidden_dim"
        raise TrainingError(f"stopped in epoch {run.epoch + 1}: {reason}; {kept}") from error
