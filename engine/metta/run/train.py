"""Training loop: starts or resumes a run, trains epoch by epoch, evaluates, records replays and saves checkpoints."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Literal, TypeVar

from metta.checkpoint.kept_policies import BestPolicy, read_best, remove_old_policies
from metta.checkpoint.policy_file import checkpoint_name
from metta.checkpoint.trainer_state import TrainingState, training_state_paths
from metta.config.loading.load import dump_config, parse_config, with_worlds
from metta.config.loading.overrides import Override
from metta.config.run import RunConfig
from metta.config.validation.file_paths import user_path
from metta.errors import CheckpointError, TrainingError, UsageError
from metta.evaluation.confidence_intervals import Interval
from metta.job_environment import JOB_VARIABLES, ignored_job_variables, local_size
from metta.rl.curricula.curriculum import Curriculum
from metta.rl.distributed import Processes, ProcessGroupError
from metta.rl.rollout import ProgressCallback
from metta.run.device import find_device, gpu_memory
from metta.run.epoch_metrics import EpochMetrics, epoch_metrics, evaluation_metrics
from metta.run.events import (
    CheckpointSaved,
    EpochEnded,
    Listener,
    Notice,
    PhaseBegan,
    PhaseProgressed,
    ReplaySaved,
    RunEnded,
    StopRequested,
)
from metta.run.interval_timer import IntervalTimer
from metta.run.loggers import Loggers, check_loggers
from metta.run.memory_check import check_memory, is_out_of_memory, wrap_memory_errors
from metta.run.metrics_file import MetricsFile
from metta.run.pending_checkpoint import PendingCheckpoint
from metta.run.resume.changed_settings import changes_since, check_changeable
from metta.run.resume.restore_run import restore_newest, restore_run
from metta.run.run_directory import RunDirectory, read_run_config, replay_prefix
from metta.run.signals import SPREAD_SECONDS, Interrupted, StopSignals
from metta.run.training_run import TrainingRun
from metta.run.write_permissions import is_run
from metta.world.processes.worker_processes import WorkerError

_Result = TypeVar("_Result")

PROGRESS_SECONDS = 0.25
"""Seconds between two `PhaseProgressed` events."""


def train_run(config: RunConfig, listener: Listener, or_resume: bool = False) -> RunEnded:
    """Train a new run in a new directory. Writes no files until the run has been built.

    With `or_resume`, if the directory `run.run_dir` already holds a run, resume it: so the same command can be repeated
    until the run is finished. Settings of `CHANGEABLE` keys are then those of `config`, with a Notice for each that has
    changed.

    Raises UsageError if the directory already holds a run, or with `or_resume` if no directory is given; ConfigError,
    with all keys, if other settings than the `CHANGEABLE` ones differ from those of the run that would be resumed.
    """
    root = user_path(config.run.run_dir)
    if or_resume and not config.run.run_dir:
        raise UsageError(
            "--or-resume needs a run directory, in which the repeated command finds the run; add --run-dir DIRECTORY"
        )
    with _connect(listener) as processes:
        if not processes.is_rank_zero:
            return _run_other_rank(processes)
        if or_resume and is_run(root):
            return _resume(root, listener, processes, changes_since(read_run_config(root), config, root, listener))
        check_loggers(config.logging)
        run = _new_run(config, listener, processes)
        with closing(run), RunDirectory.create(run.config) as directory, _wrap_errors(run, directory):
            return _train_and_save(run, directory, listener, is_new=True)


def resume_run(root: str | Path, listener: Listener, overrides: Sequence[Override] = ()) -> RunEnded:
    """Resume a run from its newest valid trainer state. `overrides` may change `CHANGEABLE` keys.

    Raises CheckpointError if the run made progress but has no valid trainer state, UsageError if an override is not
    `CHANGEABLE`.
    """
    check_changeable(overrides)
    with _connect(listener) as processes:
        if not processes.is_rank_zero:
            return _run_other_rank(processes)
        return _resume(root, listener, processes, overrides)


def _resume(root: str | Path, listener: Listener, processes: Processes, overrides: Sequence[Override]) -> RunEnded:
    """Resume a run on rank 0."""
    with RunDirectory.open(root, overrides) as directory:
        check_loggers(directory.config.logging)
        is_new = not directory.has_progress  # stopped before its first checkpoint
        if is_new:
            run = _new_run(directory.config, listener, processes)
        else:
            run = restore_newest(directory, listener, processes)
        with closing(run):
            if overrides:  # saved only after a run could be built with them
                directory.write_config()
            if run.is_finished:
                listener(Notice(f"all {run.agent_step:,} agent steps are done; increase --total-timesteps to continue"))
            with _wrap_errors(run, directory):
                return _train_and_save(run, directory, listener, is_new)


@contextmanager
def _connect(listener: Listener) -> Iterator[Processes]:
    """Connect the processes of this job; says which variables of an incomplete job are ignored."""
    with Processes.connect() as processes:
        ignored = ignored_job_variables()
        if ignored and processes.size == 1:
            listener(
                Notice(
                    f"training in a single process: {', '.join(ignored)} is set, but a job of several processes needs "
                    f"all of {', '.join(JOB_VARIABLES)} (torchrun sets them)"
                )
            )
        yield processes


def _new_run(config: RunConfig, listener: Listener, processes: Processes) -> TrainingRun:
    """Build a run at epoch 0. Raises TrainingError, naming the setting to lower, if it does not fit into memory."""
    config = with_worlds(config)
    curriculum = Curriculum.from_config(config)
    worlds, device = curriculum.env_configs, find_device(config.run.device)
    if warning := check_memory(config, worlds, device.type, processes.size, local_size(), gpu_memory(device)):
        listener(Notice(warning))
    with wrap_memory_errors(config, worlds):
        return TrainingRun(config, curriculum, processes=processes)


def _train_and_save(run: TrainingRun, directory: RunDirectory, listener: Listener, is_new: bool) -> RunEnded:
    """Train on rank 0 until all agent steps are done or a signal requests a stop, and save."""
    _broadcast_run(run, directory, is_new)
    with StopSignals(lambda name: listener(StopRequested(name))) as signals:
        if is_new:
            run.save(directory.checkpoints)
        else:
            remove_old_policies(directory.checkpoints, run.epoch, run.config.checkpoint.keep_last)
        if run.config.checkpoint.keep_best:
            run.best = _best_so_far(directory, listener)
        checkpoint = directory.checkpoints / checkpoint_name(run.epoch)
        ended = _train(run, directory, checkpoint, listener, signals)
    listener(ended)
    return ended


def _train(
    run: TrainingRun, directory: RunDirectory, checkpoint: Path, listener: Listener, signals: StopSignals
) -> RunEnded:
    """Run the training loop on rank 0. `checkpoint` is the path of the policy from which it starts."""
    config = run.config
    evaluations = IntervalTimer(config.simulation.evaluate_interval if run.can_evaluate else 0)
    replays = IntervalTimer(config.simulation.replay_interval)
    checkpoints = IntervalTimer(config.checkpoint.checkpoint_interval)
    saved = CheckpointSaved(checkpoint, run.epoch, run.agent_step)
    pending = run.pending_checkpoint()
    directory.remove_evicted_snapshots(pending.frozen_policies)
    first = last = None
    with (
        MetricsFile(directory.metrics, run.epoch) as metrics_file,
        Loggers(config, directory.root, run.epoch, metrics_file.lines()) as loggers,
    ):
        _announce(run, directory, saved, listener)
        try:
            while not (run.is_finished or signals.requested):
                try:
                    metrics = _train_epoch(run, listener, signals)
                except Interrupted:
                    break  # `pending` was copied before this epoch; a resumed run repeats the epoch exactly
                except (ProcessGroupError, WorkerError):
                    if not _stop_follows(signals):
                        raise
                    break
                result = None
                if evaluations.is_due() or (config.checkpoint.keep_best and run.is_finished):
                    result = _interruptible(run.evaluate, listener, signals)
                    metrics = dataclasses.replace(metrics, evaluation=evaluation_metrics(result) if result else {})
                directory.check_exists()
                metrics_file.append(metrics.line())
                if result is not None and config.checkpoint.keep_best:
                    run.keep_if_best(result, directory.checkpoints)
                loggers.log(metrics)
                listener(EpochEnded(metrics))
                last = metrics if metrics.episodes else last
                first = first or last
                if replays.is_due():
                    listener(PhaseBegan("record"))
                    with suppress(Interrupted), signals.interruptible():
                        listener(_record_replay(run, directory))
                pending = run.pending_checkpoint()
                if checkpoints.is_due():
                    saved = _save(pending, directory, metrics_file, loggers, listener)
                    loggers.upload(saved.path)
        except Exception:  # whatever it is, the epochs before it are saved
            if saved.epoch < pending.state.epoch:
                with suppress(OSError, TrainingError):  # the first error is the one to tell
                    _save(pending, directory, metrics_file, loggers, listener)
            raise
        if saved.epoch < pending.state.epoch:
            saved = _save(pending, directory, metrics_file, loggers, listener)
        if saved.path != checkpoint:
            loggers.upload(saved.path, is_last=True)
    best_reward = _best_reward(run, directory, listener, signals) if saved.path != checkpoint else None
    root, path, epoch, agent_step = directory.root, saved.path, saved.epoch, saved.agent_step
    return RunEnded(_reason(run), root, path, epoch, agent_step, pending.seconds, first, last, run.best, best_reward)


def _best_reward(
    run: TrainingRun, directory: RunDirectory, listener: Listener, signals: StopSignals
) -> Interval | None:
    """Mean reward of the best policy of a finished run in other episodes.

    None without one, if a signal arrives, or with a Notice if its file is damaged.
    """
    if not run.is_finished or run.best is None:
        return None
    try:
        return _interruptible(lambda: run.evaluate_best(directory.checkpoints), listener, signals)
    except CheckpointError as error:  # everything is saved; the run has not failed
        listener(Notice(f"the best policy was not evaluated: {error}"))
        return None


def _interruptible(evaluate: Callable[[], _Result], listener: Listener, signals: StopSignals) -> _Result | None:
    """The result of an evaluation; None if a signal arrives before it is finished."""
    listener(PhaseBegan("evaluate"))
    with suppress(Interrupted), signals.interruptible():
        return evaluate()
    return None


def _best_so_far(directory: RunDirectory, listener: Listener) -> BestPolicy | None:
    """The best policy of the run; None, with a Notice, if its file is damaged: the next evaluation replaces it."""
    try:
        return read_best(directory.checkpoints)
    except CheckpointError as error:
        listener(Notice(f"{error}; the next evaluated policy replaces it"))
        return None


def _announce(run: TrainingRun, directory: RunDirectory, saved: CheckpointSaved, listener: Listener) -> None:
    """Send the first events of a run to the listener."""
    listener(run.description(directory.root))
    for learner in run.learners.values():
        if learner.transfer is not None:
            listener(learner.transfer)
    listener(saved)
    if run.config.simulation.evaluate_interval and not run.can_evaluate:
        listener(Notice("the policy is not evaluated because episodes never end; set env.game.max_steps"))


def _train_epoch(run: TrainingRun, listener: Listener, signals: StopSignals) -> EpochMetrics:
    """Collect a batch and update the policy. Raises Interrupted if a signal arrives before both are finished."""
    listener(PhaseBegan("collect"))
    with signals.interruptible():
        batches = run.collect(_progress(run, listener, "collect"))
    listener(PhaseBegan("update"))
    with signals.interruptible():
        losses = run.update(_progress(run, listener, "update"))
    return epoch_metrics(run.finish_epoch(batches), batches, losses, run.learners, run.curriculum)


def _progress(run: TrainingRun, listener: Listener, phase: Literal["collect", "update"]) -> ProgressCallback:
    """A callback that tells the listener how far a phase is, every `PROGRESS_SECONDS`."""
    timer = IntervalTimer(PROGRESS_SECONDS)

    def report(done: int, total: int) -> None:
        if timer.is_due():
            listener(PhaseProgressed(phase, done * run.processes.size, total * run.processes.size))

    return report


def _record_replay(run: TrainingRun, directory: RunDirectory) -> ReplaySaved | Notice:
    """Record an episode. Returns a Notice if it cannot be written: training continues without it."""
    try:
        prefix = replay_prefix(directory.root, run.config)
        return run.record(directory.replays, directory.root.absolute().name, prefix)
    except OSError as error:
        place = error.filename or directory.replays
        return Notice(f"the replay of epoch {run.epoch} was not saved: {place}: {error.strerror or error}")


def _save(
    pending: PendingCheckpoint, directory: RunDirectory, metrics_file: MetricsFile, loggers: Loggers, listener: Listener
) -> CheckpointSaved:
    """Flush all metrics to disk, then write a checkpoint, so that no checkpoint is newer than the metrics."""
    listener(PhaseBegan("save"))
    directory.check_exists()
    metrics_file.sync()
    loggers.flush()
    path = pending.save(directory.checkpoints)
    remove_old_policies(directory.checkpoints, pending.state.epoch, directory.config.checkpoint.keep_last)
    directory.remove_evicted_snapshots(pending.frozen_policies)
    saved = CheckpointSaved(path, pending.state.epoch, pending.state.total_agent_step)
    listener(saved)
    return saved


def _broadcast_run(run: TrainingRun, directory: RunDirectory, is_new: bool) -> None:
    """Broadcast config, state and paths to the other ranks, then synchronize weights; does nothing with one process."""
    if run.processes.size > 1:
        root, checkpoints = str(directory.root.absolute()), str(directory.checkpoints.absolute())
        state = None if is_new else dataclasses.asdict(run.state())
        message = {"config": dump_config(run.config), "state": state, "directory": root, "checkpoints": checkpoints}
        run.processes.broadcast(message)
        run.sync_ranks()
        run.processes.set_timeout(run.config.distributed.timeout_seconds)


def _run_other_rank(processes: Processes) -> RunEnded:
    """Train on a rank other than 0, without writing files, until all agent steps are done or a stop is requested."""
    message = processes.broadcast()
    directory, checkpoints = Path(message["directory"]), Path(message["checkpoints"])
    config = parse_config(message["config"], "the config from rank 0")
    if message["state"] is None:
        run = TrainingRun(config, Curriculum.from_config(config), processes=processes)
    else:
        run = restore_run(config, TrainingState(**message["state"]), checkpoints, processes)
    last = None
    with closing(run), StopSignals(lambda name: None) as signals:
        run.sync_ranks()
        processes.set_timeout(config.distributed.timeout_seconds)
        while not (run.is_finished or signals.requested):
            try:
                last = _train_epoch(run, lambda event: None, signals)
            except Interrupted:
                break
            except (ProcessGroupError, WorkerError):
                if not _stop_follows(signals):
                    raise
    checkpoint = checkpoints / checkpoint_name(run.epoch)
    return RunEnded(_reason(run), directory, checkpoint, run.epoch, run.agent_step, run.seconds, None, last)


def _stop_follows(signals: StopSignals) -> bool:
    """Whether a stop is requested within `SPREAD_SECONDS`: the processes of a job are not signaled at once."""
    with suppress(Interrupted), signals.interruptible():
        time.sleep(SPREAD_SECONDS)
    return signals.requested


def _reason(run: TrainingRun) -> Literal["finished", "interrupted"]:
    return "finished" if run.is_finished else "interrupted"


@contextmanager
def _wrap_errors(run: TrainingRun, directory: RunDirectory) -> Iterator[None]:
    """Convert TrainingError, OSError and out-of-memory errors to a TrainingError that says how to resume."""
    try:
        yield
    except (TrainingError, OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        paths = training_state_paths(directory.checkpoints)
        advice = f"metta resume {directory.root} continues from {paths[0].name}" if paths else "no checkpoint was saved"
        if isinstance(error, OSError):
            reason = f"{error.filename or directory.root}: {error.strerror or error}"
        elif isinstance(error, TrainingError):
            reason = str(error)
        else:
            reason = "out of memory: lower experience.minibatch_size, batch_size or agent.hidden_dim"
        raise TrainingError(f"stopped in epoch {run.epoch + 1}: {reason}; {advice}") from error
