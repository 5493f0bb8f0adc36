"""Settings with which a run resumes: which of them may differ from those with which it began."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from metta.config.loading.config_changes import Change, config_changes, value_text
from metta.config.loading.load import locate_problems, with_worlds
from metta.config.loading.overrides import Override
from metta.config.loading.reference import config_reference
from metta.config.loading.toml_parser import read_text
from metta.config.run import RunConfig
from metta.config.validation.key_paths import KeyPath
from metta.errors import ConfigError, Problem, UsageError, did_you_mean
from metta.run.events import Notice
from metta.run.run_directory import checkpoint_directory, is_policy_of, read_run_config, replay_directory
from metta.run.write_permissions import CONFIG

CHANGEABLE = (
    "run.total_timesteps",
    "run.device",
    "checkpoint.",
    "compile.",
    "lr_schedule.",
    "optimizer.learning_rate",
    "distributed.timeout_seconds",
    "experience.workers",
    "simulation.",
    "logging.",
)
"""Keys, or prefixes of keys, that may change when a run resumes. None of them invalidates the training so far."""


def check_changeable(overrides: Sequence[Override]) -> None:
    """Raise UsageError with all overrides that are not `CHANGEABLE`."""
    refused = [override for override in overrides if not _is_changeable(override.path)]
    if refused:
        raise UsageError("\n  ".join(f"{override.option}: {_refusal(override.path)}" for override in refused))


def _refusal(path: KeyPath) -> str:
    """Why a key cannot change: it is not `CHANGEABLE`, or there is no such key."""
    if len(path) > 1 or path[0] not in RunConfig.model_fields:
        try:
            config_reference(".".join(map(str, path)))
        except UsageError as error:
            return str(error)
    return f"{Problem(path, '').key} cannot change when a run resumes; start a new run to change it"


def _is_changeable(path: KeyPath) -> bool:
    """Whether a key, in a table of the run or of one of its policies, is `CHANGEABLE`."""
    own = path[2:] if path[0] == "policies" else path
    return ".".join(map(str, own)).startswith(CHANGEABLE)


def changes_since(before: RunConfig, config: RunConfig, root: Path, notify: Callable[[Notice], None]) -> list[Override]:
    """The overrides that turn the config `before` of the run or experiment in `root` into `config`; a Notice for each.

    Raises ConfigError with all settings that differ and are not `CHANGEABLE`.
    """
    changes = _changes(before, _as_in_run(root, before, with_worlds(config)))
    _announce(before, changes, root, "the config", notify)
    return [change.override("--or-resume") for change in changes]


def check_edits(before: RunConfig, root: Path, notify: Callable[[Notice], None]) -> None:
    """Send a Notice for each setting in the `config.toml` of the run in `root` that differs from `before`.

    `before` is the config with which the state was saved. Raises ConfigError with all settings that differ and are not
    `CHANGEABLE`.
    """
    path = str(root / CONFIG)
    changes = _changes(before, _as_in_run(root, before, read_run_config(root)))
    with locate_problems(read_text(Path(path), path), path):
        _announce(before, changes, root, path, notify)


def _announce(
    before: RunConfig, changes: Sequence[Change], root: Path, source: str, notify: Callable[[Notice], None]
) -> None:
    """Send a Notice for each change. Raises ConfigError, from `source`, with all that are not `CHANGEABLE`."""
    refused = [change for change in changes if not _is_changeable(change.path)]
    if refused:
        raise ConfigError(source, [Problem(change.path, _message(change, before, root)) for change in refused])
    for change in changes:
        notify(Notice(f"{change.key} was {value_text(change.before)} and is now {value_text(change.now)}"))


def _changes(before: RunConfig, config: RunConfig) -> list[Change]:
    """The settings with another value; for a policy that does not set a key, the value of the run's table counts."""
    changes = [_resolved(change, before, config) for change in config_changes(before, config)]
    return [change for change in changes if change.before != change.now]


def _resolved(change: Change, before: RunConfig, now: RunConfig) -> Change:
    """The change, with the value of the run's own table where a policy does not set a key."""
    if change.path[0] != "policies" or len(change.path) != 4:
        return change
    table, key = map(str, change.path[2:])
    values = [
        getattr(getattr(config, table), key) if value is None else value
        for config, value in ((before, change.before), (now, change.now))
    ]
    return Change(change.path, *values)


def _message(change: Change, before: RunConfig, root: Path) -> str:
    """What is wrong with a change that is not `CHANGEABLE`."""
    if change.path[0] != "policies" or len(change.path) != 2:
        return f"must be {value_text(change.before)} to resume {root}; got {value_text(change.now)}"
    if change.now is None:
        return f"is missing, and the run in {root} has this policy; add it, or train in another --run-dir"
    hint = did_you_mean(str(change.path[1]), list(before.policies)) if before.policies else ", which has none"
    return f"is not a policy of the run in {root}{hint}; rename it, or train in another --run-dir"


def _as_in_run(root: Path, before: RunConfig, config: RunConfig) -> RunConfig:
    """`config` with the paths of the run in `root`, written as in its config `before` where they name the same."""
    recorded = before.policy_paths

    def same_policy(key: KeyPath, path: str) -> str:
        known = recorded.get(key)
        is_same = known is not None and (_is_moved(root, known, path) or is_policy_of(known, path))
        return known if known is not None and is_same else path

    config = config.with_policies(same_policy).with_values(run={"run_dir": before.run.run_dir})
    if not before.curriculum.worlds:  # written by version 0.6, which kept the worlds of scenes only in trainer states
        config = config.with_values(curriculum={"worlds": {}})
    if _is_same_path(checkpoint_directory(root, before), checkpoint_directory(root, config)):
        config = config.with_values(checkpoint={"checkpoint_dir": before.checkpoint.checkpoint_dir})
    if _is_same_path(replay_directory(root, before), replay_directory(root, config)):
        config = config.with_values(simulation={"replay_dir": before.simulation.replay_dir})
    return config


def _is_moved(root: Path, before: str, now: str) -> bool:
    """Whether a file `now` in the run directory is the one that was `before`, when the run was in another place."""
    if not Path(now).is_relative_to(root):
        return False
    inside = Path(now).relative_to(root).parts
    return Path(before).parts[-len(inside) :] == inside


def _is_same_path(first: Path, second: Path) -> bool:
    return first.resolve() == second.resolve()
