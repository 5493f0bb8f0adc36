"""Loading a TOML file or preset as a `RunConfig`, with all errors and their lines; dumping it as TOML again."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from metta.config.env.env_config import EnvConfig
from metta.config.loading.collect_problems import all_problems
from metta.config.loading.curriculum_tasks import Tasks, evaluation_world, make_tasks
from metta.config.loading.line_numbers import key_lines
from metta.config.loading.map_files import inline_map_files, warn_of_ambiguous_maps
from metta.config.loading.overrides import Override, put_value
from metta.config.loading.presets import find_config, resolve_scene
from metta.config.loading.renamed_keys import apply_renames, current_path, warn_of_renamed
from metta.config.loading.toml_parser import STDIN, parse_toml, read_source, read_text
from metta.config.policies import num_agents_of, num_learners_of
from metta.config.run import RunConfig, policy_settings, team_problems
from metta.config.validation.error_messages import validate
from metta.config.validation.file_paths import policy_from_run
from metta.config.validation.frozen_model import MAX_NAME
from metta.config.validation.key_paths import KeyPath
from metta.config.validation.unknown_keys import UnknownKey
from metta.errors import ConfigError, Problem, UsageError, did_you_mean

NO_ACTION = "has no action that can succeed; enable one whose required items exist"
NEVER_ENDS = "chooses by evaluations, but episodes of the evaluation world never end; set env.game.max_steps in it"
"""Message about `checkpoint.keep_best`."""


def load_config(source: str | os.PathLike[str], overrides: Sequence[str | Override] = ()) -> RunConfig:
    """The config in a TOML file, or in the preset of that name, with `section.key=value` overrides applied.

    `-` is standard input. A file without `run.name` names its runs: `mine.toml` sets `run.name` to `mine`. The files of
    the curriculum's scenes are read and validated too. Raises UsageError if there is no such file or it is not a text
    file, ConfigError with every problem in it or in the curriculum's tasks.
    """
    with open_config(source, overrides) as config:
        return config


@contextmanager
def open_config(source: str | os.PathLike[str], overrides: Sequence[str | Override] = ()) -> Iterator[RunConfig]:
    """Context manager that gives the config of `load_config`.

    A ConfigError raised inside names the lines and options that set the values in question.
    """
    path = Path(STDIN) if source == STDIN else find_config(source)
    text, name = read_source(os.fspath(source), path)
    data = parse_toml(text, name)
    _resolve_scenes(data, path.parent)
    _name_run(data, path)
    config = _validated(data, text, name, overrides, path.parent)
    config = config.with_policies(lambda key, policy: policy_from_run(policy, path.parent))
    written = [replace(override, written=override.path) for override in _parsed(overrides)]
    with locate_problems(text, name, written):
        if not any(override.path == ("curriculum", "scenes") for override in written):
            _check_worlds(config)
        config = with_worlds(config)
        load_tasks(config)
        yield config


def read_config(source: str | os.PathLike[str], overrides: Sequence[str | Override] = ()) -> RunConfig:
    """Like `load_config`, but without reading files of the curriculum's scenes, whose paths stay as written.

    Used for files of `dump_config`, which have the worlds of all scenes.
    """
    path, name = find_config(source), os.fspath(source)
    return parse_config(read_text(path, name), name, overrides, path.parent)


def parse_config(
    text: str, source: str, overrides: Sequence[str | Override] = (), directory: Path | None = None
) -> RunConfig:
    """The config in a TOML text; `source` is its name in messages.

    Map files are read from `directory`; without one, they are an error. Scenes are names for `find_config`, relative to
    the working directory.
    """
    return _validated(parse_toml(text, source), text, source, overrides, directory)


def load_tables(source: str, directory: Path) -> dict[str, Any]:
    """The tables of the config in a preset or TOML file, in `directory` or else in the working directory.

    They are as written there, but with inlined maps, and scenes as paths from the working directory. Raises the errors
    of `load_config`.
    """
    path = find_config(resolve_scene(source, directory))
    text = read_text(path, source)
    data = parse_toml(text, source)
    _name_run(data, path)
    _resolve_scenes(data, path.parent)
    config = _validated(data, text, source, (), path.parent)
    with locate_problems(text, source):
        load_tasks(config)
    return data


def inline_files(tables: dict[str, Any], source: str, directory: Path) -> None:
    """Inline the maps and the worlds of scenes of tables from a file in `directory`; make paths of policies absolute.

    Raises ConfigError, whose problems have no lines, if the tables are no valid config.
    """
    _resolve_scenes(tables, directory)
    _resolve_scenes(tables, Path.cwd())
    if problems := inline_map_files(tables, directory):
        raise ConfigError(source, problems)
    config = config_of_tables(tables, source)
    for key, path in config.policy_paths.items():
        if os.path.lexists(file := policy_from_run(path, directory)):
            put_value(tables, key, os.path.abspath(file))
    inline_worlds(tables, with_worlds(config).curriculum.worlds)


def inline_worlds(tables: dict[str, Any], worlds: Mapping[str, EnvConfig]) -> None:
    """Put the worlds of scenes, by name of the scene, into `curriculum.worlds` of tables."""
    for scene, world in worlds.items():
        put_value(tables, ("curriculum", "worlds", scene), world.model_dump(exclude_none=True))


def config_of_tables(tables: dict[str, Any], source: str) -> RunConfig:
    """The config of tables such as those of `load_tables`, which are not changed.

    Raises ConfigError, whose problems have no lines; `source` is the name of the tables in messages.
    """
    config = _validated(deepcopy(tables), "", source, (), None)
    load_tasks(config)
    return config


def _validated(
    data: dict[str, Any], text: str, source: str, overrides: Sequence[str | Override], directory: Path | None
) -> RunConfig:
    applied = _parsed(overrides)
    with locate_problems(text, source, applied):
        renamed = apply_renames(data, source)
    applied = [override.apply(data) for override in applied]
    renamed += [override.renamed for override in applied]
    warn_of_renamed(source, filter(None, renamed + apply_renames(data, source)))
    with locate_problems(text, source, applied):
        if directory is not None and (problems := inline_map_files(data, directory)):
            raise ConfigError(source, problems)
        try:
            config = validate(RunConfig, data)
        except ValidationError as error:
            raise ConfigError(source, all_problems(error, data)) from None
    if directory is not None:
        warn_of_ambiguous_maps(data, source)
    return config


def _resolve_scenes(data: dict[str, Any], directory: Path) -> None:
    """Replace scenes that are files in the config's `directory` by their paths from the working directory."""
    curriculum = data.get("curriculum")
    scenes, worlds = (curriculum.get(key) for key in ("scenes", "worlds")) if isinstance(curriculum, dict) else ((), ())
    if isinstance(scenes, list):
        known = worlds if isinstance(worlds, dict) else ()
        is_file = [isinstance(scene, str) and scene not in known for scene in scenes]
        scenes[:] = [
            resolve_scene(scene, directory) if file else scene for scene, file in zip(scenes, is_file, strict=True)
        ]


def _name_run(data: dict[str, Any], path: Path) -> None:
    """Set `run.name`, if the file does not, to the `name_of_file`."""
    name = name_of_file(path)
    run = data.setdefault("run", {})
    if name and isinstance(run, dict):
        run.setdefault("name", name)


def name_of_file(path: Path) -> str:
    """The name of a file without suffix, in the characters of a name; empty if it has none of them."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).lstrip("._-")[:MAX_NAME]


def with_worlds(config: RunConfig) -> RunConfig:
    """The config with the world of every scene, and no others: those not in `curriculum.worlds` are read from files.

    Raises ConfigError with every scene that is no file or preset, or with the problems of a scene's file and its lines.
    """
    known = config.curriculum.worlds
    worlds: dict[str, EnvConfig] = {}
    problems: list[Problem] = []
    for index, scene in enumerate(config.curriculum.scenes):
        try:
            worlds[scene] = known[scene] if scene in known else read_config(scene).env
        except UsageError as error:
            problems.append(Problem(("curriculum", "scenes", index), str(error)))
    if problems:
        raise ConfigError("the curriculum", problems)
    return config.with_values(curriculum={"worlds": worlds})


def _check_worlds(config: RunConfig) -> None:
    """Raise ConfigError for each of `curriculum.worlds` that no scene has, since its name may be misspelled."""
    scenes = config.curriculum.scenes
    unused = [world for world in config.curriculum.worlds if world not in scenes]
    if unused:
        problems = [
            Problem(("curriculum", "worlds", world), f"is not one of curriculum.scenes{did_you_mean(world, scenes)}")
            for world in unused
        ]
        raise ConfigError("the curriculum", problems)


def load_tasks(config: RunConfig) -> Tasks:
    """The tasks of the config's curriculum, made from its scenes or else from its `[env]`.

    Raises ConfigError with every problem of the tasks, or those of `with_worlds`.
    """
    curriculum = with_worlds(config).curriculum
    scenes = [(scene, curriculum.worlds[scene]) for scene in curriculum.scenes]
    if scenes and (problems := team_problems(config, scenes[0][1])):
        raise ConfigError("the curriculum", problems)
    tasks = make_tasks(config.curriculum, scenes or [(config.run.name, config.env)])
    if problems := _team_differences(config, tasks):
        raise ConfigError("the curriculum", problems)
    if not tasks.env_configs[0].spec.flat_actions:
        raise ConfigError("the config", [Problem(("env", "actions"), NO_ACTION)])
    if config.checkpoint.keep_best and evaluation_world(config.env, tasks).game.is_endless:
        raise ConfigError("the config", [Problem(("checkpoint", "keep_best"), NEVER_ENDS)])
    return tasks


def _team_differences(config: RunConfig, tasks: Tasks) -> list[Problem]:
    """Tasks in which a policy plays, or learns from, another number of agents than in the first one."""
    first = tasks.env_configs[0]
    problems = []
    for policy in policy_settings(config, first) if config.policies or config.self_play.groups else ():
        for index, env in enumerate(tasks.env_configs):
            for count, agents in ((num_agents_of, "agents"), (num_learners_of, "learning agents")):
                if (here := count(policy, env)) != (there := count(policy, first)):
                    path = ("scenes", tasks.scene_of[index]) if tasks.scene_of[index] else ("buckets",)
                    owner = f"policy {policy.name}" if policy.name else "the policy"
                    message = (
                        f"must give each policy the same number of agents in all worlds; {owner} has {here} {agents} "
                        f"in {tasks.names[index]} and {there} in {tasks.names[0]}"
                    )
                    problems.append(Problem(("curriculum", *path), message))
                    break
    return list({problem.path: problem for problem in reversed(problems)}.values())


def load_world(source: str | os.PathLike[str], overrides: Sequence[str | Override] = ()) -> EnvConfig:
    """The `evaluation_world` of a TOML file or preset. Raises the errors of `load_config`."""
    config = load_config(source, overrides)
    return evaluation_world(config.env, load_tasks(config))


def dump_config(config: RunConfig) -> str:
    """The config as TOML with every value, including defaults; loading it gives an equal config."""
    tables = config.model_dump(exclude_none=True)
    for name, policy in tables["policies"].items():
        tables["policies"][name] = {key: value for key, value in policy.items() if value != {}}
    return dump_tables(tables)


def dump_tables(tables: dict[str, Any]) -> str:
    """Tables as TOML text."""
    plain = tomli_w.dumps(tables)
    # multi-line strings are readable for drawn maps, but would lose a carriage return before a newline
    return plain if "\\r" in plain else tomli_w.dumps(tables, multiline_strings=True)


def _parsed(overrides: Sequence[str | Override]) -> list[Override]:
    return [Override.parse(item) if isinstance(item, str) else item for item in overrides]


@contextmanager
def locate_problems(text: str, source: str, overrides: Sequence[Override] = ()) -> Iterator[None]:
    """Add lines of the file and command line options to the problems raised inside."""
    try:
        yield
    except ConfigError as error:
        if any(problem.line for problem in error.problems):
            raise  # from the file of a scene
        problems = error.problems
    else:
        return
    places = _Places(key_lines(text), overrides)
    located = [places.located(problem) for problem in problems]
    raise ConfigError("the command line" if all(problem.option for problem in located) else source, located)


class _Places:
    """Where each value was set: a line of the file or an option of the command line."""

    def __init__(self, lines: dict[KeyPath, int], overrides: Sequence[Override]):
        self.lines = {current_path(path): line for path, line in lines.items()} | lines
        self.overrides = list(reversed(overrides))

    def located(self, problem: Problem) -> Problem:
        """The problem with its line or option; for a key that was not set, that of the closest table around it."""
        for depth in range(len(problem.path), 0, -1):
            path = problem.path[:depth]
            for override in self.overrides:
                if path == override.written:
                    return replace(problem, option=override.option, path=override.path + problem.path[depth:])
            if path in self.lines:
                meant = problem.meant if isinstance(problem, UnknownKey) else None
                meant = (*problem.path[:-1], problem.similar) if problem.similar else meant
                is_twice = depth == len(problem.path) and meant in self.lines
                message = f"{problem.message} It is set already" if is_twice else problem.message
                return replace(problem, line=self.lines[path], message=message)
            for override in self.overrides:
                if override.written[:depth] == path:
                    return replace(problem, option=override.option, path=override.path[:depth] + problem.path[depth:])
        return problem
