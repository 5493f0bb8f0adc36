"""Renamed keys of the TOML file: every old name works in files, overrides and checkpoints, with one warning."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from tiny_runs import tiny_config

from metta.agent.policy import make_agent
from metta.checkpoint.file_format import read_torch_file, write_torch_file
from metta.checkpoint.policy_checkpoint import load_policy, save_checkpoint
from metta.checkpoint.policy_file import KIND
from metta.config.env.map_generators import MAP_BUILDERS
from metta.config.loading.load import parse_config
from metta.config.loading.renamed_keys import RENAMED_KEYS, RENAMED_MAP_BUILDERS
from metta.config.run import RunConfig
from metta.config.validation.key_paths import KeyPath, default_of, table_at
from metta.errors import ConfigError
from metta.spaces import ActionSpace, ObservationSpace

AGENT_KEYS = {old: new for old, new in RENAMED_KEYS.items() if old[0] == "agent"}

each_key = pytest.mark.parametrize(("old", "new"), RENAMED_KEYS.items(), ids=map(".".join, RENAMED_KEYS))


@pytest.fixture(autouse=True)
def _custom_map_builder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MAP_BUILDERS, "_registered", {"floor": None})


def changed_value(path: KeyPath) -> Any:
    """A value of the key at `path` that is not its default; of a table, one with a changed key."""
    if table := table_at(RunConfig, path):
        name = next(name for name, field in table.model_fields.items() if isinstance(default_of(field), bool | int))
        return {name: changed_value((*path, name))}
    parent = table_at(RunConfig, path[:-1])
    assert parent is not None
    default = default_of(parent.model_fields[str(path[-1])])
    return not default if isinstance(default, bool) else default + 1


def nested(path: KeyPath, value: Any) -> dict[str, Any]:
    """The value in tables: `{"agent": {"egocentric": True}}`."""
    for part in reversed(path):
        value = {part: value}
    return dict(value)


def flat(path: KeyPath, value: Any) -> str:
    """The value as an override: `agent.egocentric=true`."""
    if isinstance(value, dict):
        ((key, inner),) = value.items()
        return flat((*path, key), inner)
    return f"{'.'.join(map(str, path))}={str(value).lower()}"


def test_old_names_are_unknown_and_new_ones_are_keys() -> None:
    for old, new in RENAMED_KEYS.items():
        assert old[:-1] == new[:-1]
        parent = table_at(RunConfig, old[:-1])
        assert parent is not None
        assert old[-1] not in parent.model_fields
        assert new[-1] in parent.model_fields


@each_key
def test_an_old_key_in_a_file_is_renamed_with_a_warning(old: KeyPath, new: KeyPath) -> None:
    value = changed_value(new)
    expected = f"old.toml: {'.'.join(old)} is now {'.'.join(new)}. The old names still work."
    with pytest.warns(FutureWarning) as caught:
        config = parse_config(tomli_w.dumps(nested(old, value)), "old.toml")
    assert [str(warning.message) for warning in caught] == [expected]
    assert config == parse_config(tomli_w.dumps(nested(new, value)), "new.toml") != RunConfig()


@each_key
def test_an_old_key_in_an_override_is_renamed_with_a_warning(old: KeyPath, new: KeyPath) -> None:
    value = changed_value(new)
    with pytest.warns(FutureWarning, match=f"{old[-1]}.* is now .*{new[-1]}"):
        config = parse_config("", "a.toml", [flat(old, value)])
    assert config == parse_config("", "a.toml", [flat(new, value)]) != RunConfig()


@each_key
def test_both_names_in_a_file_are_an_error_with_a_line(old: KeyPath, new: KeyPath) -> None:
    lines = [f"{'.'.join(map(str, path))} = {{}}" for path in (new, old)]
    with pytest.raises(ConfigError) as caught:
        parse_config("\n".join(lines), "both.toml")
    message = f"is the old name of {'.'.join(map(str, new))}, which is set too; remove the old one"
    assert [(problem.line, problem.message) for problem in caught.value.problems] == [(2, message)]


@pytest.mark.parametrize(("old", "new"), RENAMED_MAP_BUILDERS.items())
def test_an_old_type_of_map_builder_is_renamed_at_any_depth(old: str, new: str) -> None:
    def builder(name: str) -> dict[str, Any]:
        return {"type": "Rooms", "rooms": [{"type": "Mirrored", "builder": {"type": name, "name": "floor"}}]}

    with pytest.warns(FutureWarning, match=f'map builder type "{old}" is now "{new}"'):
        config = parse_config(tomli_w.dumps(nested(("env", "map_builder"), builder(old))), "old.toml")
    assert config == parse_config(tomli_w.dumps(nested(("env", "map_builder"), builder(new))), "new.toml")
    with pytest.warns(FutureWarning, match=f'map builder type "{old}" is now "{new}"'):
        parse_config("", "a.toml", [f"env.map_builder.type={old}", "env.map_builder.name=floor"])


def test_one_warning_lists_all_old_names_of_the_file_and_the_overrides() -> None:
    data: dict[str, Any] = {}
    first, *others = RENAMED_KEYS.items()
    for old, new in others:
        data.setdefault(old[0], {}).update(nested(old, changed_value(new))[old[0]])
    with pytest.warns(FutureWarning) as caught:
        parse_config(tomli_w.dumps(data), "old.toml", [flat(first[0], changed_value(first[1]))])
    (warning,) = caught
    assert all(f"{'.'.join(old)}" in str(warning.message) for old in RENAMED_KEYS)


def test_old_keys_in_a_checkpoint_are_renamed_with_one_warning(tmp_path: Path) -> None:
    config = tiny_config().model_copy(update={"agent": tiny_config().agent.model_copy(update={"egocentric": True})})
    agent = make_agent(ObservationSpace(config.env), ActionSpace(config.env), [], "cpu", config.agent)
    save_checkpoint(agent, tmp_path, 1)
    path = tmp_path / "checkpoint_000001.pt"
    content = read_torch_file(path, KIND)
    for old, new in AGENT_KEYS.items():
        content["agent_config"][old[-1]] = content["agent_config"].pop(new[-1])
    write_torch_file(path, KIND, content)
    with pytest.warns(FutureWarning) as caught:
        policy = load_policy(path)
    assert len(caught) == 1
    assert policy.agent.config == config.agent


def test_new_names_give_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for new in RENAMED_KEYS.values():
            parse_config(tomli_w.dumps(nested(new, changed_value(new))), "new.toml")
