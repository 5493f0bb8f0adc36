"""The Optuna study of a sweep: which trials there are, who works on them, and which values the next one tries."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from metta.config.loading.load import config_of_tables, dump_tables, inline_worlds, read_config
from metta.config.loading.overrides import put_value
from metta.config.loading.sweep_file import SweepFile, load_sweep
from metta.config.loading.sweep_parameters import SweptKey, choice_text
from metta.config.sweep import SweepConfig
from metta.config.validation.key_paths import value_at
from metta.errors import ConfigWarning, TrainingError, UsageError
from metta.experiments.sweep.summary import SWEEP, is_sweep
from metta.files import write_atomically
from metta.random_streams import RandomStream
from metta.run.directory_lock import DirectoryLock
from metta.run.learners.policy_files import with_policy_files

INSTALL: Final = "metta sweep needs {}: pip install 'metta-gridworlds[sweep]'"

try:
    import optuna
    from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, OptunaError
    from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler, TPESampler
    from optuna.storages import BaseStorage, JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import FrozenTrial, Trial, TrialState
    from sqlalchemy.exc import SQLAlchemyError
except ImportError:
    raise UsageError(INSTALL.format("optuna")) from None

StudyTrial = FrozenTrial
"""A trial as the study has it."""

BASE, STUDY = "base.toml", "study.db"
"""Files in the directory of a sweep: the tables that all trials share, and the default storage."""

PARTS: Final = 27
"""A run is divided into as many parts of equal length, after each of which a pruner may stop its trial."""
FIRST_RUNG: Final = 3
"""Parts after which hyperband first compares trials; the next times are after three and nine times as many."""

LOCK_SECONDS: Final = 60.0
"""Seconds to wait until another process has chosen the values of its next trial."""
WIDEST_START: Final = 10
"""Most trials with random values before the estimator of "tpe" is used; at most a quarter of all trials."""

ENOUGH_TRIALS: Final = 6
"""Complete trials that a pruner needs before it stops others."""
ENOUGH_PAIRS: Final = 0.75
"""Least fraction of pairs of complete trials whose rewards had the order of their scores when a pruner compares."""

PROBLEM, SCORES = "problem", "scores"
"""Attributes of a trial: why it was pruned or failed, and the score of each of its runs."""
_SETTINGS: Final = "metta_sweep"
"""Attribute of the study: the settings that cannot change while there are trials."""


@dataclass
class ClaimedTrial:
    """A trial that this process works on, whose directory it has locked."""

    trial: Trial
    directory: Path
    values: dict[str, Any]
    """value of each parameter, by key"""
    is_resumed: bool
    """whether another process, or this sweep before it was interrupted, has begun it"""
    lock: DirectoryLock

    @property
    def number(self) -> int:
        """Number of the trial, from 0."""
        return self.trial.number


class SweepStudy:
    """The study of the sweep in a directory.

    A running trial belongs to the process that has locked its directory, a lock that the operating system releases
    when the process ends. So every process can tell which trials are unfinished and no longer worked on, without
    heartbeats. Trials are chosen under a lock of the whole sweep: none is chosen twice.
    """

    def __init__(self, root: Path, sweep: SweepFile, study: optuna.Study):
        self.root = root
        self.sweep = sweep
        self._study = study
        self._given_up: set[int] = set()
        run = config_of_tables(sweep.tables, BASE).run
        self.seeds = tuple(range(run.seed, run.seed + sweep.config.seeds))
        """`run.seed` of each run of a trial"""
        self.total_timesteps = run.total_timesteps
        """agent steps of each run, unless that is what the sweep varies"""

    @classmethod
    def create(cls, root: Path, sweep: SweepFile) -> Self:
        """Write the sweep's files into a new directory, and create its study.

        Raises UsageError if the storage already has a study of that name, or cannot be used; ConfigError if a policy
        that the base names is missing or damaged.
        """
        tables = _with_files(sweep)
        with _storage_errors(sweep.config, root):
            optuna.create_study(
                storage=_storage(sweep.config, root),
                study_name=sweep.config.name,
                direction=sweep.config.direction,
            ).set_user_attr(_SETTINGS, _settings(sweep.config))
        config = sweep.config.model_dump(exclude_none=True)
        config["parameters"] = {
            key: parameter.model_dump(exclude_unset=True) for key, parameter in sweep.config.parameters.items()
        }
        storage = Path(config["storage"])
        if storage.is_relative_to(root.absolute()):
            config["storage"] = str(storage.relative_to(root.absolute()))
        write_atomically(root / BASE, dump_tables(tables).encode())
        write_atomically(root / SWEEP, dump_tables({"sweep": config | {"base": BASE}}).encode())
        return cls.open(root)

    @classmethod
    def open(cls, root: Path, storage: str | None = None) -> Self:
        """The study of the sweep in a directory; `storage` replaces the one that it was created with.

        Raises UsageError if there is no sweep, its study cannot be opened, or the settings of its trials have changed.
        """
        if not is_sweep(root):
            problem = f"is not the directory of a sweep: it has no {SWEEP}" if root.exists() else "does not exist"
            raise UsageError(f"{root} {problem}")
        with warnings.catch_warnings():  # shown when the sweep began
            warnings.simplefilter("ignore", ConfigWarning)
            sweep = load_sweep(root / SWEEP, storage)
        with _storage_errors(sweep.config, root):
            study = optuna.load_study(study_name=sweep.config.name, storage=_storage(sweep.config, root))
            begun = study.user_attrs.get(_SETTINGS, {})
        now = _settings(sweep.config)
        if changed := [key for key in now if begun.get(key) != now[key]]:
            raise UsageError(
                f"{root / SWEEP}: {' and '.join(changed)} cannot change after the sweep has begun; start a new sweep"
            )
        return cls(root, sweep, study)

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials as they are now, by number."""
        return self._study.get_trials(deepcopy=False)

    def locked(self) -> DirectoryLock:
        """Context in which no other process chooses trials or writes files of the sweep."""
        return DirectoryLock(self.root, LOCK_SECONDS)

    def claim(self) -> ClaimedTrial | None:
        """An unfinished trial that no process works on, else a new one; None if all trials are done or worked on."""
        with self.locked():
            trials = self.trials
            for frozen in trials:
                if frozen.state == TrialState.RUNNING and (lock := self._lock(frozen.number)) is not None:
                    self._prepare_sampler(frozen.number)
                    return self._claimed(Trial(self._study, frozen._trial_id), lock, is_resumed=True)
            has_waiting = any(frozen.state == TrialState.WAITING for frozen in trials)
            if len(trials) >= self.sweep.num_trials and not has_waiting:
                return None
            self._prepare_sampler(len(trials))
            if self.sweep.config.sampler == "grid" and not has_waiting:
                self._study.enqueue_trial(self._grid_point(len(trials)))
            trial = self._study.ask()
            lock = self._lock(trial.number)
            assert lock is not None
            return self._claimed(trial, lock, is_resumed=False)

    def release(self, claimed: ClaimedTrial) -> None:
        """Leave a trial unfinished for another process, or for a later one."""
        self._given_up.add(claimed.number)
        claimed.lock.release()

    def report(self, claimed: ClaimedTrial, part: int, value: float) -> bool:
        """Record the value of a trial after a part of its run. Returns whether the pruner would stop it."""
        if part not in self.reported(claimed):
            claimed.trial.report(value if self.sweep.config.direction == "maximize" else -value, part)
        return self.should_prune(claimed)

    def reported(self, claimed: ClaimedTrial) -> dict[int, float]:
        """The values that were recorded of a trial, by part."""
        return self.trials[claimed.number].intermediate_values

    def should_prune(self, claimed: ClaimedTrial) -> bool:
        """Whether the pruner would stop a trial because of the values recorded so far."""
        return max(self.reported(claimed), default=PARTS) < PARTS and claimed.trial.should_prune()

    def complete(self, claimed: ClaimedTrial, scores: list[float]) -> None:
        """End a trial whose runs have these scores."""
        claimed.trial.set_user_attr(SCORES, scores)
        self._tell(claimed, TrialState.COMPLETE, float(np.mean(scores)))

    def prune(self, claimed: ClaimedTrial, reason: str) -> None:
        """End a trial that is not worth finishing, or whose values cannot be combined."""
        claimed.trial.set_user_attr(PROBLEM, reason)
        self._tell(claimed, TrialState.PRUNED)

    def fail(self, claimed: ClaimedTrial, reason: str) -> None:
        """End a trial that failed."""
        claimed.trial.set_user_attr(PROBLEM, reason)
        self._tell(claimed, TrialState.FAIL)

    def importances(self) -> dict[str, float]:
        """How much each parameter decides which trials are the best (PED-ANOVA); empty with too few complete trials."""
        complete = [trial for trial in self.trials if trial.state == TrialState.COMPLETE]
        if len(complete) < 4 or len({trial.value for trial in complete}) < 2:
            return {}
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        with suppress(ValueError, RuntimeError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return optuna.importance.get_param_importances(self._study, evaluator=evaluator)
        return {}

    def _tell(self, claimed: ClaimedTrial, state: TrialState, value: float | None = None) -> None:
        self._study.tell(claimed.trial, value, state=state)
        claimed.lock.release()

    def _lock(self, number: int) -> DirectoryLock | None:
        """The lock of a trial's directory; None if another process has it or this one has given it up."""
        if number in self._given_up:
            return None
        directory = self.directory(number)
        directory.mkdir(exist_ok=True)
        try:
            return DirectoryLock(directory)
        except TrainingError:
            return None

    def directory(self, number: int) -> Path:
        """The directory of a trial's runs."""
        return self.root / f"trial_{number:04d}"

    def _claimed(self, trial: Trial, lock: DirectoryLock, is_resumed: bool) -> ClaimedTrial:
        values = {parameter.key: _suggest(trial, parameter) for parameter in self.sweep.parameters}
        return ClaimedTrial(trial, self.directory(trial.number), values, is_resumed, lock)

    def values(self, frozen: FrozenTrial) -> dict[str, Any]:
        """Value of each parameter of a trial, by key, as in the TOML file."""
        return {
            parameter.key: _from_storage(parameter, frozen.params[parameter.key])
            for parameter in self.sweep.parameters
            if parameter.key in frozen.params
        }

    def _prepare_sampler(self, number: int) -> None:
        """Give a trial a sampler of its own seed, so that its values depend only on the trials before it."""
        self._study.sampler = _make_sampler(self.sweep, number)
        self._study.pruner = _make_pruner(self.sweep.config)

    def _grid_point(self, number: int) -> dict[str, Any]:
        """The combination of a trial, in a random order in which each comes once."""
        count = self.sweep.num_combinations
        assert count is not None
        rest = int(np.random.default_rng(self.sweep.config.seed).permutation(count)[number % count])
        point = {}
        for parameter in self.sweep.parameters:
            rest, index = divmod(rest, len(parameter.points))
            point[parameter.key] = _to_storage(parameter.points[index])
        return point


def _with_files(sweep: SweepFile) -> dict[str, Any]:
    """The tables of a sweep with the files they name, so that all trials have the same policies and scenes.

    For policies see `with_policy_files`. Scenes that the sweep varies are added to those of the tables.
    """
    tables = deepcopy(sweep.tables)
    for key, path in with_policy_files(config_of_tables(tables, BASE)).policy_paths.items():
        put_value(tables, key, os.path.abspath(path))
    for parameter in sweep.parameters:
        if parameter.path == ("curriculum", "scenes"):
            known = value_at(tables, ("curriculum", "worlds")) or {}
            swept = {scene for scenes in parameter.points for scene in scenes}
            inline_worlds(tables, {scene: read_config(scene).env for scene in sorted(swept - known.keys())})
    return tables


def _make_sampler(sweep: SweepFile, number: int) -> BaseSampler:
    config = sweep.config
    seed = RandomStream.SWEEP.seed(config.seed, number) % 2**32
    if config.sampler == "tpe":
        return TPESampler(seed=seed, n_startup_trials=max(2, min(WIDEST_START, sweep.num_trials // 4)))
    if config.sampler == "cmaes":
        if find_spec("cmaes") is None:
            raise UsageError(INSTALL.format('the package cmaes for sampler = "cmaes"'))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return CmaEsSampler(
                seed=seed,
                independent_sampler=RandomSampler(seed),
                warn_independent_sampling=False,
                consider_pruned_trials=config.pruner != "none",
            )
    return RandomSampler(seed)


def _make_pruner(config: SweepConfig) -> optuna.pruners.BasePruner:
    if config.pruner == "hyperband":
        return _CautiousPruner(
            optuna.pruners.HyperbandPruner(min_resource=FIRST_RUNG, max_resource=PARTS, reduction_factor=3)
        )
    if config.pruner == "median":
        return _CautiousPruner(optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=PARTS // 3 - 1))
    return optuna.pruners.NopPruner()


class _CautiousPruner(optuna.pruners.BasePruner):
    """A pruner that stops a trial only where the rewards of complete trials predicted their scores.

    The settings that learn fastest at first are often not those that are best in the end. A pruner that trusts the
    first rewards would stop the best trials, and the sampler, which counts a pruned trial as a bad one, would then
    avoid their settings. tests/benchmarks/README.md has figures.
    """

    def __init__(self, pruner: optuna.pruners.BasePruner):
        self._pruner = pruner

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        is_behind = self._pruner.prune(study, trial)  # always called: hyperband keeps the values that it compares
        return is_behind and _rewards_predict_scores(study, max(trial.intermediate_values))


def _rewards_predict_scores(study: optuna.Study, part: int) -> bool:
    """Whether complete trials had about the same order after a part of their training as in the end."""
    complete = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        if reported := [reported for reported in trial.intermediate_values if reported <= part]:
            complete.append((trial.intermediate_values[max(reported)], trial.value))
    if len(complete) < ENOUGH_TRIALS:
        return False
    rewards, scores = np.array(complete).T
    first, second = np.triu_indices(len(complete), k=1)
    agreements = (rewards[first] - rewards[second]) * (scores[first] - scores[second]) > 0
    return float(agreements.mean()) >= ENOUGH_PAIRS


def _suggest(trial: Trial, parameter: SweptKey) -> Any:
    """The value of a parameter in a trial, chosen now if it has none yet."""
    if parameter.values is not None:
        choices = [_to_storage(value) for value in parameter.values]
        return _from_storage(parameter, trial.suggest_categorical(parameter.key, choices))
    if parameter.is_integer:
        low, high, step = int(parameter.low), int(parameter.high), int(parameter.step or 1)
        return trial.suggest_int(parameter.key, low, high, step=step, log=parameter.log)
    return trial.suggest_float(parameter.key, parameter.low, parameter.high, step=parameter.step, log=parameter.log)


def _to_storage(value: Any) -> Any:
    """A value as Optuna stores it: lists and tables as text."""
    return choice_text(value) if isinstance(value, list | dict) else value


def _from_storage(parameter: SweptKey, stored: Any) -> Any:
    """The value that `_to_storage` stored."""
    if parameter.values is None:
        return parameter.number(stored)
    return next(value for value in parameter.values if _to_storage(value) == stored)


def _settings(config: SweepConfig) -> dict[str, Any]:
    """What cannot change while there are trials, as JSON has it."""
    values = config.model_dump(mode="json", exclude={"name", "base", "trials", "storage"})
    return dict(json.loads(json.dumps(values)))


def _storage(config: SweepConfig, root: Path) -> BaseStorage:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if config.storage and "://" not in config.storage:
        return JournalStorage(JournalFileBackend(config.storage))
    if config.storage and not config.storage.startswith("sqlite:"):
        return RDBStorage(config.storage)
    url = config.storage or f"sqlite:///{(root / STUDY).absolute()}"
    return RDBStorage(url, engine_kwargs={"connect_args": {"timeout": LOCK_SECONDS}})


@contextmanager
def _storage_errors(config: SweepConfig, root: Path) -> Iterator[None]:
    """Errors of the storage as UsageErrors that name it."""
    name = config.storage.rpartition("@")[2] or str(root / STUDY)  # without user and password
    try:
        yield
    except DuplicatedStudyError:
        raise UsageError(
            f'{name} already has a study called "{config.name}"; to work on it: metta sweep --join its directory; for '
            "a new one, set sweep.name"
        ) from None
    except KeyError:
        raise UsageError(f'{name} has no study called "{config.name}"; was the storage removed?') from None
    except ImportError as error:
        driver = getattr(error.__cause__ or error, "name", None)
        raise UsageError(f"{name} needs the Python package {driver}, the driver of this database") from None
    except (OptunaError, SQLAlchemyError, OSError) as error:
        raise UsageError(f"{name} cannot be used as the storage of a sweep: {_reason(error)}") from None


@contextmanager
def storage_in_use(study: SweepStudy) -> Iterator[None]:
    """Errors of the storage during a sweep as TrainingErrors that say how to resume."""
    try:
        yield
    except (OptunaError, SQLAlchemyError) as error:
        raise TrainingError(
            f"the storage failed: {_reason(error)}; metta resume {study.root} continues the sweep"
        ) from None


def _reason(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error.__cause__ or error).strip().partition("\n")[0]
