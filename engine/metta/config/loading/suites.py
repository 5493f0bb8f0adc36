"""Suites: named lists of worlds for evaluating a policy, as in `metta eval CHECKPOINT --suite NAME`."""

from __future__ import annotations

import os
from itertools import chain

from pydantic import Field, ValidationError

from metta.config.loading.load import locate_problems
from metta.config.loading.presets import find_config, resolve_scene
from metta.config.loading.toml_parser import STDIN, parse_toml, read_source
from metta.config.validation.error_messages import problems_in
from metta.config.validation.file_paths import user_path
from metta.config.validation.frozen_model import FrozenModel
from metta.errors import ConfigError, UsageError, did_you_mean


class Suite(FrozenModel):
    """A list of worlds, in the order of the printed table."""

    aim: str = Field(default="", description="description of the suite in one line")
    worlds: list[str] = Field(
        min_length=1,
        max_length=100,
        description="presets or TOML files (in the directory of this file, else in the working directory)",
    )


_NAMED = {
    "navigation": ["navigation", "navigation_sequence", "memory"],
    "economy": ["quickstart", "object_use", "navigation_sequence", "hearts"],
    "teams": ["cooperation", "foraging"],
    "combat": ["arena_small", "predator_prey"],
    "curriculum": ["navigation", "object_use", "navigation_sequence"],
}

SUITES = {name: Suite(aim=", ".join(worlds), worlds=worlds) for name, worlds in _NAMED.items()} | {
    "all": Suite(aim="all worlds of the other suites", worlds=list(dict.fromkeys(chain.from_iterable(_NAMED.values()))))
}
"""The built-in suites by name."""


def find_suite(source: str) -> Suite:
    """The built-in suite of that name, the suite in that TOML file, or a list such as `navigation,my_maze.toml`.

    Raises UsageError if there is no such suite, or if one of its worlds is neither a preset nor a file; ConfigError if
    the file is not a valid suite.
    """
    if source in SUITES:
        return SUITES[source]
    if "," in source:
        suite = Suite(worlds=[world.strip() for world in source.split(",") if world.strip()] or [source])
    elif source.endswith(".toml") or "/" in source or source == STDIN:
        suite = _read(source)
    else:
        raise UsageError(f'no suite is called "{source}"{did_you_mean(source, SUITES)}')
    for world in suite.worlds:
        find_config(world)
    return suite


def _read(source: str) -> Suite:
    path = user_path(source)
    if source != STDIN and not os.path.exists(path):
        raise UsageError(f'there is no file "{source}"; a suite is a name ({", ".join(SUITES)}) or a TOML file')
    text, source = read_source(source, path)
    data = parse_toml(text, source)
    with locate_problems(text, source):
        try:
            suite = Suite.model_validate(data)
        except ValidationError as error:
            raise ConfigError(source, problems_in(error, Suite, data)) from None
    worlds = [resolve_scene(world, path.parent) for world in suite.worlds]
    return suite.model_copy(update={"worlds": worlds})
