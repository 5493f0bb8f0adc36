"""Sweeps: start one, or work on one that exists, trial by trial, until no trial is left."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch

from metta.config.loading.sweep_file import SweepFile
from metta.config.run import RunConfig
from metta.config.validation.file_paths import user_path
from metta.errors import ConfigError, MettaError, UsageError
from metta.experiments.job_pool import Job, JobEnded, JobEvent, JobPool
from metta.experiments.sweep.events import SweepBegan, SweepEnded, SweepListener, TrialBegan, TrialEnded, TrialRunEvent
from metta.experiments.sweep.results import BEST, summarize, summarize_trial, write_best
from metta.experiments.sweep.score import EpochReward, part_rewards, read_rewards, score_run
from metta.experiments.sweep.study import PARTS, ClaimedTrial, SweepStudy, storage_in_use
from metta.experiments.sweep.summary import is_sweep
from metta.run.events import EpochEnded, Event, Notice, RunBegan, StopRequested
from metta.run.run_directory import new_run_directory

MAX_RESTARTS: Final = 2
"""Times that a run whose process was killed is resumed before its trial counts as failed."""


def start_sweep(
    sweep: SweepFile, listener: SweepListener, run_dir: str | Path | None = None, jobs: int = 1
) -> SweepEnded:
    """Begin a sweep in a new directory, by default `runs/NAME-DATE-TIME`, and train its trials, `jobs` runs at once.

    Raises UsageError if the directory already has a sweep, or the storage cannot be used.
    """
    with new_run_directory("sweep", sweep.config.name, str(run_dir or "")) as root:
        if is_sweep(root):
            raise UsageError(f"{root} already has a sweep; to continue it: metta resume {root}")
        if any(root.iterdir()):
            raise UsageError(f"{root} is not an empty directory; name another one for the sweep")
        study = SweepStudy.create(root, sweep)
    return _work(study, listener, jobs)


def resume_sweep(root: str | Path, listener: SweepListener, jobs: int = 1, storage: str | None = None) -> SweepEnded:
    """Work on an existing sweep, also while other processes do: resume its unfinished trials, then train new ones.

    `storage` replaces the one that the sweep was created with. Raises UsageError if there is no sweep.
    """
    return _work(SweepStudy.open(user_path(root), storage), listener, jobs)


def _work(study: SweepStudy, listener: SweepListener, jobs: int) -> SweepEnded:
    """Train trials until none is left that no other process works on, or a signal requests a stop."""
    with storage_in_use(study), JobPool(jobs, on_stop=lambda name: listener(StopRequested(name))) as pool:
        if pool.threads:
            torch.set_num_threads(pool.threads)  # evaluations share the cores with the runs
        listener(SweepBegan(summarize(study), jobs))
        worker = _Worker(study, pool, listener)
        worker.claim_trials()
        for event in pool.events():
            if isinstance(event, JobEvent):
                worker.receive(event.name, event.event)
            else:
                worker.end_job(event)
                worker.claim_trials()
        reason: Final = "interrupted" if pool.is_stopping else "finished"
        worker.release()
    best_file = study.root / BEST
    ended = SweepEnded(reason, summarize(study), best_file if best_file.exists() else None, jobs)
    listener(ended)
    return ended


@dataclass
class _Trial:
    """A trial in progress."""

    claimed: ClaimedTrial
    configs: dict[str, RunConfig]
    """config of each run, by the name of its job"""
    unfinished: set[str]
    """names of jobs that have not ended"""
    rewards: list[EpochReward] = field(default_factory=list)
    """of the first run, by which trials are compared while they run"""
    part: int = 0
    """last part of the first run whose reward was reported"""
    pruned: str = ""
    """why the trial is pruned; empty if it is not"""
    failed: str = ""
    """why the trial has failed; empty if it has not"""
    is_interrupted: bool = False
    """whether a run was interrupted, so that the trial can be resumed"""
    restarts: int = 0
    """times that a run was resumed because its process was killed"""

    @property
    def is_stopping(self) -> bool:
        """Whether the trial ends as soon as its runs have been saved."""
        return bool(self.pruned or self.failed)


class _Worker:
    """The trials that this process works on."""

    def __init__(self, study: SweepStudy, pool: JobPool, listener: SweepListener):
        self._study = study
        self._pool = pool
        self._listener = listener
        self._trials: dict[int, _Trial] = {}
        """by number"""
        self._numbers: dict[str, int] = {}
        """number of the trial of each job, by its name"""

    def claim_trials(self) -> None:
        """Begin as many trials as there are free jobs."""
        while not self._pool.is_stopping and self._pool.num_left < self._pool.max_jobs:
            claimed = self._study.claim()
            if claimed is None:
                return
            self._begin(claimed)

    def release(self) -> None:
        """Leave the trials that have not ended for a later process."""
        for trial in self._trials.values():
            self._study.release(trial.claimed)
        self._trials.clear()

    def _begin(self, claimed: ClaimedTrial) -> None:
        sweep, seeds = self._study.sweep, self._study.seeds
        self._listener(TrialBegan(claimed.number, claimed.values, seeds, claimed.is_resumed))
        configs: dict[str, RunConfig] = {}
        trial = self._trials[claimed.number] = _Trial(claimed, configs, set())
        try:
            for index, seed in enumerate(seeds):
                name = f"{claimed.directory.name}/seed_{seed}"
                configs[name] = sweep.run_config(claimed.values, self._study.root / name, index)
                self._numbers[name] = claimed.number
        except ConfigError as error:
            reasons = "; ".join(f"{problem.key} {problem.message}" for problem in error.problems)
            trial.pruned = f"the combination of values is not valid: {reasons}"
        if not trial.pruned and claimed.is_resumed and self._study.should_prune(claimed):
            trial.pruned = self._behind(trial)
        if trial.pruned:
            self._finish(trial)
            return
        for name, config in configs.items():
            trial.unfinished.add(name)
            self._pool.submit(Job(name, config))

    def receive(self, name: str, event: Event) -> None:
        """Pass on an event of a run, and stop its trial if the pruner says so."""
        trial = self._trials[self._numbers[name]]
        run, reward_name = trial.configs[name].run, self._study.sweep.config.reward_name
        self._listener(TrialRunEvent(trial.claimed.number, run.seed, event))
        if name != next(iter(trial.configs)):
            return
        if isinstance(event, RunBegan):
            trial.rewards = read_rewards(Path(run.run_dir), reward_name, event.epoch)
        elif isinstance(event, EpochEnded) and (ended := EpochReward.of(event.metrics.line(), reward_name)):
            trial.rewards.append(ended)
        else:
            return
        for part, reward in part_rewards(trial.rewards, run.total_timesteps, PARTS):
            if part > trial.part and not trial.is_stopping:
                trial.part = part
                if self._study.report(trial.claimed, part, reward):
                    trial.pruned = self._behind(trial)
                    self._stop(trial)

    def end_job(self, ended: JobEnded) -> None:
        """Take note of the end of a run; of the last one of a trial, end the trial too."""
        trial = self._trials[self._numbers[ended.name]]
        trial.unfinished.discard(ended.name)
        if ended.run is not None:
            trial.is_interrupted |= ended.run.reason == "interrupted"
        elif ended.was_killed and self._pool.is_stopping:
            trial.is_interrupted = True
        elif ended.was_killed and trial.restarts < MAX_RESTARTS and not trial.is_stopping:
            trial.restarts += 1
            trial.unfinished.add(ended.name)
            self._listener(Notice(f"{ended.name}: {ended.error}; it is resumed"))
            self._pool.submit(Job(ended.name, trial.configs[ended.name]))
        elif not trial.is_stopping:
            trial.failed = f"{ended.name}: {ended.error}"
            self._stop(trial)
        if not trial.unfinished:
            self._finish(trial)

    def _behind(self, trial: _Trial) -> str:
        """Why the pruner stops a trial."""
        config = next(iter(trial.configs.values()))
        part = max(self._study.reported(trial.claimed), default=0)
        done = f"{part * config.run.total_timesteps // PARTS:,} of {config.run.total_timesteps:,} agent steps"
        return f"behind other trials after {done} (pruner {self._study.sweep.config.pruner})"

    def _stop(self, trial: _Trial) -> None:
        """Let the runs of a trial save and stop."""
        for name in list(trial.unfinished):
            left = self._pool.num_left
            self._pool.stop(name)
            if self._pool.num_left < left:  # it had not begun
                trial.unfinished.discard(name)

    def _finish(self, trial: _Trial) -> None:
        """End a trial whose runs have ended, or leave it for later if they were interrupted."""
        study, claimed = self._study, trial.claimed
        del self._trials[claimed.number]
        if trial.pruned:
            study.prune(claimed, trial.pruned)
        elif trial.failed:
            study.fail(claimed, trial.failed)
        elif trial.is_interrupted:
            study.release(claimed)
            return
        else:
            try:
                scores = [
                    score_run(Path(config.run.run_dir), study.sweep.config, config.run.device)
                    for config in trial.configs.values()
                ]
            except MettaError as error:
                study.fail(claimed, str(error))
            else:
                study.complete(claimed, scores)
        best = write_best(study)
        self._listener(TrialEnded(summarize_trial(study, study.trials[claimed.number]), best))
