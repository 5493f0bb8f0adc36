"""The training loop: collect, update, report, evaluate, checkpoint. Resuming is the same loop, entered later."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import torch

from metta.config.overrides import Override
from metta.config.run import RunConfig
from metta.errors import CheckpointError, TrainingError, UsageError
from metta.rl.checkpoint import checkpoint_name
from metta.rl.curriculum import Curriculum
from metta.rl.events import CheckpointSaved, EpochEnded, Listener, Notice, PhaseBegan, RunEnded, StopRequested
from metta.rl.interruption import Interruption
from metta.rl.loggers import Loggers, check_loggers
from metta.rl.metrics import MetricsFile
from metta.rl.run_directory import RunDirectory
from metta.rl.timer import Timer
from metta.rl.training_run import TrainingRun
from metta.rl.training_state import TrainingState, training_state_paths

CHANGEABLE = (
    "run.total_timesteps",
    "run.device",
    "checkpoint.checkpoint_interval",
    "checkpoint.wandb_checkpoint_interval",
    "simulation.",
    "logging.",
)
"""What may change when a run goes on: nothing that touches what was learned so far."""


def train_run(config: RunConfig, listener: Listener) -> RunEnded:
    """Train from the beginning, in a new run directory. Nothing is created before the config has proved sound."""
    check_loggers(config.logging)
    run = TrainingRun(config, Curriculum.of_run(config))
    with closing(run), RunDirectory.create(config) as directory, _saying_what_is_kept(run, directory):
        saved = run.save(directory.checkpoints)
        return _train(run, directory, saved, listener)


def resume_run(root: str | Path, listener: Listener, overrides: Sequence[Override] = ()) -> RunEnded:
    """Go on exactly where the newest sound checkpoint of a run stopped. `overrides` may change what is `CHANGEABLE`."""
    for override in overrides:
        key = ".".join(map(str, override.path))
        if not key.startswith(CHANGEABLE):
            raise UsageError(f"{override.option}: {key} cannot change while a run goes on; train anew for that")
    with RunDirectory.open(root, overrides) as directory:
        check_loggers(directory.config.logging)
        run = _restore(directory, listener)
        if overrides:  # which have proved sound: a run that cannot go on with them must not keep them
            directory.write_config()
        if run.is_finished:
            listener(Notice(f"all {run.agent_step:,} agent steps are done; --total-timesteps trains on"))
        with closing(run), _saying_what_is_kept(run, directory):
            return _train(run, directory, directory.checkpoints / checkpoint_name(run.epoch), listener)


def _train(run: TrainingRun, directory: RunDirectory, checkpoint: Path, listener: Listener) -> RunEnded:
    """Train on from `checkpoint` until all agent steps are done or a signal asks to stop; either way all is saved."""
    config = run.config
    evaluations = Timer(config.simulation.evaluate_interval if run.can_evaluate else 0)
    replays = Timer(config.simulation.replay_interval)
    checkpoints = Timer(config.checkpoint.checkpoint_interval)
    saved = CheckpointSaved(checkpoint, run.epoch, run.agent_step)
    first = last = None
    with (
        MetricsFile(directory.metrics, run.epoch) as metrics_file,
        Loggers(config, directory.root, run.epoch) as loggers,
        Interruption(lambda name: listener(StopRequested(name))) as interruption,
    ):
        listener(run.beginning(directory.root))
        listener(saved)
        if config.simulation.evaluate_interval and not run.can_evaluate:
            listener(Notice("episodes never end here, so that the policy is not evaluated; set env.game.max_steps"))
        is_last = run.is_finished
        while not is_last:
            listener(PhaseBegan("collect"))
            batch = run.collect()
            listener(PhaseBegan("update"))
            losses = run.update()
            metrics = run.report(batch, losses)
            if evaluations.is_due():
                listener(PhaseBegan("evaluate"))
                metrics = dataclasses.replace(metrics, evaluation=run.evaluate())
            metrics_file.append(dataclasses.asdict(metrics))
            loggers.log(metrics)
            listener(EpochEnded(metrics))
            last = metrics if metrics.episodes else last
            first = first or last
            if replays.is_due():
                listener(PhaseBegan("record"))
                listener(run.record(directory.replays))
            # read once: what ends the loop must be what saves
            is_last = run.is_finished or interruption.requested
            if checkpoints.is_due() or is_last:
                listener(PhaseBegan("save"))
                metrics_file.sync()
                saved = CheckpointSaved(run.save(directory.checkpoints), run.epoch, run.agent_step)
                loggers.upload(saved.path, is_last=is_last)
                listener(saved)
    ended = RunEnded(
        "finished" if run.is_finished else "interrupted",
        directory.root,
        saved.path,
        run.epoch,
        run.agent_step,
        run.seconds,
        first,
        last,
    )
    listener(ended)
    return ended


def _restore(directory: RunDirectory, listener: Listener) -> TrainingRun:
    """The run at its newest sound trainer state; a damaged one is named, and the one before it used."""
    paths = training_state_paths(directory.checkpoints)
    if not paths:
        raise CheckpointError(
            f"{directory.checkpoints} has no trainer state: the run stopped before its first checkpoint; train it anew"
        )
    problems = []
    for path in paths:
        try:
            run = TrainingRun.restore(directory.config, TrainingState.load(path), directory.checkpoints)
        except CheckpointError as error:
            problems.append(str(error))
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
            return run
    raise CheckpointError("\n  ".join([f"{directory.root} has no trainer state that loads:", *problems]))


@contextmanager
def _saying_what_is_kept(run: TrainingRun, directory: RunDirectory) -> Iterator[None]:
    """Turn what can stop a run into a TrainingError that says where it can go on."""
    try:
        yield
    except (TrainingError, OSError, MemoryError, torch.OutOfMemoryError) as error:
        paths = training_state_paths(directory.checkpoints)
        kept = f"metta resume {directory.root} goes on from {paths[0].name}" if paths else "nothing was saved yet"
        if isinstance(error, OSError):
            reason = f"{error.filename or directory.root}: {error.strerror or error}"
        elif isinstance(error, TrainingError):
            reason = str(error)
        else:
            reason = "out of memory: lower experience.minibatch_size, batch_size or agent.hidden_dim"
        raise TrainingError(f"stopped in epoch {run.epoch + 1}: {reason}; {kept}") from error
