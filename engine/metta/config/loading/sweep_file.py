"""Sweep files: a TOML file with the table `[sweep]` and with changes of its base config, checked before any trial."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from metta.config.loading.line_numbers import key_lines
from metta.config.loading.load import config_of_tables, inline_files, load_tables, load_tasks, name_of_file
from metta.config.loading.overrides import put_value
from metta.config.loading.renamed_keys import apply_renames, current_path, warn_of_renamed
from metta.config.loading.sweep_parameters import (
    PARTS,
    Combination,
    SweptKey,
    check_parameters,
    combinations_to_check,
    never_valid,
    tables_with,
    value_problem,
)
from metta.config.loading.toml_parser import STDIN, parse_toml, read_source
from metta.config.run import RunConfig, policy_settings
from metta.config.sweep import DEFAULT_TRIALS, SweepConfig
from metta.config.validation.error_messages import problems_in, shown, validate
from metta.config.validation.file_paths import IN_RUN, user_path
from metta.config.validation.key_paths import KeyPath, value_at
from metta.errors import ConfigError, ConfigWarning, Problem, UsageError, did_you_mean

OWN_DIRECTORIES = (("run", "run_dir"), ("checkpoint", "checkpoint_dir"), ("simulation", "replay_dir"))
"""Keys of directories, which runs cannot share."""


@dataclass(frozen=True)
class SweepFile:
    """A valid sweep file."""

    config: SweepConfig
    tables: dict[str, Any]
    """the tables that all trials share: those of the base with the changes of the file"""
    parameters: tuple[SweptKey, ...]
    """what the sweep varies, in the order of the file"""

    @property
    def num_combinations(self) -> int | None:
        """Number of combinations of values; None if a parameter has infinitely many."""
        count = 1
        for parameter in self.parameters:
            if (points := parameter.num_points) is None:
                return None
            count *= points
        return count

    @property
    def num_trials(self) -> int:
        """Number of trials of the whole sweep."""
        if self.config.trials is not None:
            return self.config.trials
        return self.num_combinations or DEFAULT_TRIALS if self.config.sampler == "grid" else DEFAULT_TRIALS

    def run_tables(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The tables of a run with a value for each parameter, by key: a TOML file that `metta train` takes."""
        tables = tables_with(self.tables, {parameter: values[parameter.key] for parameter in self.parameters})
        curriculum = tables.get("curriculum", {})
        if worlds := curriculum.get("worlds"):  # of the scenes of all trials
            curriculum["worlds"] = {scene: worlds[scene] for scene in curriculum["scenes"] if scene in worlds}
        return tables

    def run_config(self, values: Mapping[str, Any], run_dir: Path, seed_index: int) -> RunConfig:
        """The config of a run of a trial. Raises ConfigError, without lines, if its values cannot be combined."""
        config = config_of_tables(self.run_tables(values), "the combination")
        return config.with_values(run={"run_dir": str(run_dir), "seed": config.run.seed + seed_index})


def load_sweep(source: str | os.PathLike[str], storage: str | None = None) -> SweepFile:
    """The sweep in a TOML file; `storage` replaces that of the file.

    A relative path of `base` starts at the file's directory, or else at the working directory; one of `storage` at the
    file's directory. Raises UsageError if there is no such file or it has no table `[sweep]`, ConfigError with every
    problem in it, or in its base. A ConfigWarning tells how many combinations of values are not valid, if some are.
    """
    path = Path(STDIN) if source == STDIN else user_path(source)
    if source != STDIN and not os.path.lexists(path):
        raise UsageError(f'there is no file "{os.fspath(source)}"; a sweep is a TOML file with a table [sweep]')
    text, name = read_source(os.fspath(source), path)
    data = parse_toml(text, name)
    if "sweep" not in data:
        raise UsageError(
            f"{name} has no table [sweep], with the keys base and parameters; metta reference sweep explains them"
        )
    lines = key_lines(text)
    try:
        return _load(data, name, path, storage)
    except ConfigError as error:
        if error.source != name:
            raise  # from the file of the base
        lines = {current_path(path): line for path, line in lines.items()} | lines
        raise ConfigError(name, [_located(problem, lines) for problem in error.problems]) from None


def _located(problem: Problem, lines: dict[KeyPath, int]) -> Problem:
    depths = range(len(problem.path), 0, -1)
    return replace(problem, line=next((lines[problem.path[:d]] for d in depths if problem.path[:d] in lines), None))


def _load(data: dict[str, Any], name: str, path: Path, storage: str | None) -> SweepFile:
    table = data.pop("sweep")
    if not isinstance(table, dict):
        raise ConfigError(name, [Problem(("sweep",), "must be a table: write [sweep]")])
    if default_name := name_of_file(path):
        table.setdefault("name", default_name)
    written = _flatten_parameters(table)
    config, problems = _sweep_config(table, written)
    base = table.get("base")
    if not isinstance(base, str) or not base:
        raise ConfigError(name, problems)
    directory = Path() if path == Path(STDIN) else path.parent
    try:
        tables = load_tables(base, directory)
    except UsageError as error:
        raise ConfigError(name, [*problems, Problem(("sweep", "base"), str(error))]) from None
    changed, more = _changed(tables, data, name, directory)
    problems += more
    given = table.get("parameters")
    parameters, more = check_parameters(
        given if isinstance(given, dict) else {}, written, changed, table.get("sampler")
    )
    found = {problem.path[:3] for problem in problems}  # of a parameter that has a problem already, one is enough
    problems += [problem for problem in more if problem.path[:3] not in found]
    if problems or config is None:
        raise ConfigError(name, problems)
    if storage is not None or config.storage:
        config = config.model_copy(update={"storage": _storage(storage, config.storage, directory)})
    config = config.model_copy(update={"base": base})
    sweep = SweepFile(config, changed, tuple(parameters))
    if problems := [*_sampler_problems(sweep), *_metric_problems(sweep), *_check_combinations(sweep, written, name)]:
        raise ConfigError(name, problems)
    return sweep


def _storage(option: str | None, written: str, directory: Path) -> str:
    """The storage as a URL or an absolute path. That of the option starts at the working directory."""
    if option is not None:
        return option if "://" in option else os.path.abspath(user_path(option))
    return written if "://" in written else os.path.abspath(directory / written)


def _flatten_parameters(table: dict[str, Any]) -> dict[str, KeyPath]:
    """Replace keys without quotes, which TOML reads as nested tables, by dotted keys: `ppo.gamma = {...}`.

    Returns dotted key -> path in the file.
    """
    given = table.get("parameters")
    if not isinstance(given, dict):
        return {}
    written: dict[str, KeyPath] = {}
    flat: dict[str, Any] = {}

    def flatten(entry: Any, path: KeyPath, key: str) -> None:
        is_table = isinstance(entry, dict) and entry and not PARTS & entry.keys()
        if is_table and all(isinstance(inner, dict) for inner in entry.values()):
            for part, inner in entry.items():
                flatten(inner, (*path, part), f"{key}.{part}")
        else:
            flat[key], written[key] = entry, path

    for key, entry in given.items():
        flatten(entry, ("sweep", "parameters", key), key)
    table["parameters"] = flat
    return written


def _sweep_config(table: dict[str, Any], written: dict[str, KeyPath]) -> tuple[SweepConfig | None, list[Problem]]:
    """The table `[sweep]`, or None and its problems with their paths in the file."""
    try:
        return validate(SweepConfig, table), []
    except ValidationError as error:
        problems = []
        for problem in problems_in(error, SweepConfig, table):
            head = (
                written.get(str(problem.path[1])) if problem.path[:1] == ("parameters",) and problem.path[1:] else None
            )
            rest = problem.path[2:] if head else problem.path
            problems.append(replace(problem, path=(*(head or ("sweep",)), *rest)))
        return None, problems


def _changed(
    tables: dict[str, Any], changes: dict[str, Any], source: str, directory: Path
) -> tuple[dict[str, Any], list[Problem]]:
    """The base with the changes of the sweep's file, key by key, and the problems with them."""
    warn_of_renamed(source, apply_renames(changes, source))
    changed = deepcopy(tables)
    problems = []
    spelled: dict[KeyPath, KeyPath] = {}
    for path, value in _leaves(changes):
        try:
            spelled[put_value(changed, path, value)] = path
        except UsageError as error:
            problems.append(Problem(path, str(error)))
    if problems:
        return changed, problems
    try:
        inline_files(changed, source, directory)
    except ConfigError as error:
        if error.source != source:
            raise
        return changed, [_respelled(problem, spelled) for problem in error.problems]
    for path in OWN_DIRECTORIES:
        if (value := value_at(changed, path)) and not str(value).startswith(IN_RUN):
            message = "must be left out in a sweep, whose runs have a directory each"
            problems.append(_respelled(Problem(path, message), spelled))
    return changed, problems


def _leaves(table: dict[str, Any], path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Each key of nested tables that is not a table itself, with its path; a list is one value."""
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _respelled(problem: Problem, spelled: dict[KeyPath, KeyPath]) -> Problem:
    """The problem at the key as the file spells it, or at its base if the file does not set the key."""
    for depth in range(len(problem.path), 0, -1):
        if problem.path[:depth] in spelled:
            return replace(problem, path=spelled[problem.path[:depth]] + problem.path[depth:])
    for path in spelled.values():
        if path[: len(problem.path)] == problem.path:
            return replace(problem, path=path[: len(problem.path)])
    return Problem(("sweep", "base"), f"with the changes in this file, {problem.key} {problem.message}")


def _sampler_problems(sweep: SweepFile) -> Iterator[Problem]:
    """The problems with sampler and number of trials."""
    config = sweep.config
    ranges = [parameter for parameter in sweep.parameters if parameter.values is None]
    if config.sampler == "cmaes" and len(ranges) < 2:
        yield Problem(
            ("sweep", "sampler"), f'"cmaes" needs at least two parameters with low and high; got {len(ranges)}'
        )
    if config.sampler == "grid" and (count := sweep.num_combinations) is not None:
        if config.trials is not None and config.trials > count:
            message = f"must be at most {count}, the combinations of the grid, or left out; got {config.trials}"
            yield Problem(("sweep", "trials"), message)
        elif sweep.num_trials > 1_000_000:
            yield Problem(("sweep", "trials"), f"must be set, since the grid has {count:,} combinations")


def _metric_problems(sweep: SweepFile) -> Iterator[Problem]:
    """The problems with a metric of episodes where episodes never end, and of a policy that does not exist."""
    config = config_of_tables(sweep.tables, "the base")
    policies = [policy.name for policy in policy_settings(config, load_tasks(config).env_configs[0]) if policy.name]
    if sweep.config.policy and sweep.config.policy not in policies:
        hint = did_you_mean(sweep.config.policy, policies) if policies else "; the base has no [policies]"
        yield Problem(("sweep", "metric"), f'unknown policy "{sweep.config.policy}"{hint}')
    is_swept = any(parameter.key == "env.game.max_steps" for parameter in sweep.parameters)
    if config.env.game.is_endless and not config.curriculum.scenes and not is_swept:
        yield Problem(("sweep", "metric"), "needs episodes that end; set env.game.max_steps")


def _check_combinations(sweep: SweepFile, written: dict[str, KeyPath], source: str) -> Iterator[Problem]:
    """The values that are not valid in any combination; a ConfigWarning if only some combinations are not valid."""
    combinations, is_complete = combinations_to_check(sweep.parameters, sweep.config.sampler == "grid")
    invalid: list[tuple[Combination, Problem]] = []
    for combination in combinations:
        try:
            config_of_tables(tables_with(sweep.tables, combination), source)
        except ConfigError as error:
            invalid.append((combination, error.problems[0]))
    if not invalid:
        return
    never = never_valid(combinations, invalid) if is_complete else []
    for parameter, place, value, problem in never:
        yield value_problem((*written[parameter.key], *place), parameter, value, problem)
    combination, problem = invalid[0]
    values = ", ".join(f"{parameter.key} = {shown(value)}" for parameter, value in combination.items())
    example = f"with {values}, {problem.key} {problem.message}"
    if len(invalid) == len(combinations) and not never:
        yield Problem(("sweep", "parameters"), f"no combination of values is valid: {example}")
    elif not never:
        warnings.warn(
            f"{source}: of {len(combinations)} combinations of values, {len(invalid)} are not valid, and trials with "
            f"them are pruned without training: {example}",
            ConfigWarning,
            stacklevel=2,
        )
