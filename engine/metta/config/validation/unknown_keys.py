"""Unknown keys: which key a misspelled, misplaced or foreign name probably means, so that the value is valid there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, get_origin

from pydantic import ValidationError

from metta.config.validation.frozen_model import FrozenModel
from metta.config.validation.key_paths import (
    KeyPath,
    annotation_at,
    choices,
    table_at,
    tables,
    tables_at,
    takes_table,
    value_at,
)
from metta.errors import Problem, closest_name, did_you_mean

OTHER_NAMES: Final[dict[str, str]] = {
    # the C++ MettaGrid
    "environment": "env",
    "map": "env.map_builder",
    "obs_width": "env.game.observation_width",
    "obs_height": "env.game.observation_height",
    "num_obs_tokens": "env.game.num_observation_tokens",
    "items": "env.game.inventory_item_names",
    "inventory_items": "env.game.inventory_item_names",
    "default_resource_limit": "env.game.default_item_max",
    "resource_limits": "env.game.item_max",
    "resource_rewards": "env.game.item_rewards",
    "resource_names": "env.game.inventory_item_names",
    "agents": "env.game.num_agents",
    "input_resources": "input",
    "output_resources": "output",
    "initial_resource_count": "initial_items",
    # Gymnasium, Stable-Baselines3, CleanRL, PufferLib, RLlib
    "episode_length": "env.game.max_steps",
    "bptt": "experience.bptt_horizon",
    "horizon": "experience.bptt_horizon",
    "max_cycles": "env.game.max_steps",
    "max_episode_steps": "env.game.max_steps",
    "n_agents": "env.game.num_agents",
    "total_steps": "run.total_timesteps",
    "max_timesteps": "run.total_timesteps",
    "num_timesteps": "run.total_timesteps",
    "timesteps": "run.total_timesteps",
    "exp_name": "run.name",
    "run_name": "run.name",
    "log_dir": "run.run_dir",
    "save_dir": "run.run_dir",
    "data_dir": "run.run_dir",
    "model": "agent",
    "network": "agent",
    "policy": "agent",
    "lr": "optimizer.learning_rate",
    "adam_eps": "optimizer.eps",
    "clip_eps": "ppo.clip_coef",
    "clip_epsilon": "ppo.clip_coef",
    "clip_param": "ppo.clip_coef",
    "clip_range": "ppo.clip_coef",
    "clip_range_vf": "ppo.vf_clip_coef",
    "discount": "ppo.gamma",
    "entropy": "ppo.ent_coef",
    "entropy_coef": "ppo.ent_coef",
    "entropy_coeff": "ppo.ent_coef",
    "grad_clip": "ppo.max_grad_norm",
    "kl_target": "ppo.target_kl",
    "lam": "ppo.gae_lambda",
    "lambda": "ppo.gae_lambda",
    "normalize_advantage": "ppo.norm_adv",
    "value_coef": "ppo.vf_coef",
    "vf_loss_coeff": "ppo.vf_coef",
    "mini_batch_size": "experience.minibatch_size",
    "n_epochs": "experience.update_epochs",
    "num_epochs": "experience.update_epochs",
    "num_sgd_iter": "experience.update_epochs",
    "n_steps": "experience.bptt_horizon",
    "num_steps": "experience.bptt_horizon",
    "rollout_length": "experience.bptt_horizon",
    "num_workers": "experience.workers",
    "n_workers": "experience.workers",
    "sgd_minibatch_size": "experience.minibatch_size",
    "train_batch_size": "experience.batch_size",
    "hidden_size": "agent.hidden_dim",
    "lstm_hidden_size": "agent.hidden_dim",
    "rnn_hidden_size": "agent.hidden_dim",
    "n_lstm_layers": "agent.lstm_layers",
    "use_lstm": "agent.forward_lstm",
    "eval_interval": "simulation.evaluate_interval",
    "save_interval": "checkpoint.checkpoint_interval",
    "track": "logging.wandb",
    "wandb_project_name": "logging.wandb_project",
}
"""Names of other programs -> key with the same meaning; a key without a table is meant in the table where it is."""

NOTES: Final[dict[str, str]] = {
    "num_envs": "the number of worlds follows from the sizes in [experience]; `metta check` prints it",
    "n_envs": "the number of worlds follows from the sizes in [experience]; `metta check` prints it",
    "sweep": "a file with the table [sweep] describes a sweep: run it with metta sweep FILE.toml",
    "num_minibatches": "set experience.minibatch_size, in agent steps",
    "nminibatches": "set experience.minibatch_size, in agent steps",
}
"""Names of other programs without a key of the same meaning -> what to do instead."""

GENERAL_NAMES: Final = frozenset(("name", "type", "enabled"))
"""Names with another meaning in every table; inside of a table, other tables with such a key are not suggested."""

VERY_SIMILAR = 0.8
"""Similarity from which a name is a misspelling of a key, even if another table has a key of exactly that name."""


@dataclass(frozen=True)
class UnknownKey(Problem):
    """A key that its table does not have."""

    meant: KeyPath | None = None
    """the path of the key that was probably meant"""

    @property
    def suggestion(self) -> str | None:
        """The key that was probably meant, if it is one of the same table."""
        return str(self.meant[-1]) if self.meant and self.meant[:-1] == self.path[:-1] else None


def unknown_key(root: type[FrozenModel], path: KeyPath, data: Any) -> UnknownKey:
    """The problem with an unknown key: it is misspelled, or belongs to another table or another `type` of table."""
    name, place = str(path[-1]), path[:-1]
    table = table_at(root, place, data)
    owners = [other for other in tables_at(root, place, data) if name in other.model_fields]
    if owners:
        type_path = Problem((*place, "type"), "").key
        types = [f'{type_path} = "{choice}"' for owner in owners for choice in choices(owner, "type")]
        return UnknownKey(path, f"is used only with {' or '.join(types)}")
    if note := NOTES.get(_form(name)):
        return UnknownKey(path, f"unknown key; {note}")
    meant = meant_keys(root, path, value_at(data, path), data)
    if not meant:
        return UnknownKey(path, f"unknown key{_known_keys(table)}")
    shown = [f'"{other[-1] if other[:-1] == place else Problem(other, "").key}"' for other in meant]
    hint = f"unknown key; did you mean {' or '.join(shown)}?"
    return UnknownKey(path, hint, meant=meant[0] if len(meant) == 1 else None)


def meant_keys(root: type[FrozenModel], path: KeyPath, value: Any, data: Any = None) -> list[KeyPath]:
    """The keys that an unknown key at `path` can mean and that can have `value`; the most probable ones only."""
    if around := _enclosing_entry(root, path, data):
        inside = meant_keys(table_at(root, around, data) or root, path[len(around) :], value, value_at(data, around))
        if inside:
            return [(*around, *key) for key in inside]
    name, place = _form(str(path[-1])), path[:-1]
    here = table_at(root, place, data)
    target = OTHER_NAMES.get(name, "").split(".")
    if here and (exact := _exact(here, name) or _exact(here, target[-1])) and can_have(here, exact, value):
        return [(*place, exact)]
    similar = closest_name(name, here.model_fields) if here else None
    misspelled = [(*place, similar)] if here and similar and can_have(here, similar, value) else []
    everywhere = [(other, table) for other, table in tables(root, data) if other != place]
    if place and name in GENERAL_NAMES:
        everywhere = []
    elsewhere = [
        (*other, key) for other, table in everywhere if (key := _exact(table, name)) and can_have(table, key, value)
    ]
    if other := _other_name(root, name, value, data):
        elsewhere = [other, *(key for key in elsewhere if key != other)]
    if similar and misspelled and elsewhere and closest_name(name, [similar], VERY_SIMILAR):
        return [*misspelled, *elsewhere]
    return elsewhere or misspelled or _similar_elsewhere(root, name, value, everywhere, data)


def _enclosing_entry(root: type[FrozenModel], path: KeyPath, data: Any) -> KeyPath:
    """The path of the entry of a table with free keys, such as `[policies.hunters]`, around `path`; else empty.

    Only entries that have tables themselves count.
    """
    for depth in range(len(path) - 1, 0, -1):
        is_entry = get_origin(annotation_at(root, path[: depth - 1], data)) is dict
        table = table_at(root, path[:depth], data) if is_entry else None
        if table and len(list(tables(table))) > 1:
            return path[:depth]
    return ()


def can_have(table: type[FrozenModel], key: str, value: Any) -> bool:
    """Whether a key of a table can have this value. A table within it can have any keys, which are checked later."""
    if isinstance(value, dict) and takes_table(table.model_fields[key].annotation):
        return True
    try:
        table.model_validate({key: value})
    except ValidationError as error:
        return all(details["loc"][:1] != (key,) or is_whole_float(details) for details in error.errors())
    return True


def is_whole_float(details: Any) -> bool:
    """Whether an error of pydantic is about a float where an integer is needed, such as 1e6, that is a whole number."""
    return details["type"] == "int_type" and isinstance(details["input"], float) and details["input"].is_integer()


def _other_name(root: type[FrozenModel], name: str, value: Any, data: Any) -> KeyPath | None:
    """The key with the meaning of a name of another program, if it can have `value`."""
    path = tuple(OTHER_NAMES.get(name, "").split("."))
    owner = table_at(root, path[:-1], data)
    return path if owner and path[-1] in owner.model_fields and can_have(owner, path[-1], value) else None


def _similar_elsewhere(
    root: type[FrozenModel], name: str, value: Any, places: list[tuple[KeyPath, type[FrozenModel]]], data: Any
) -> list[KeyPath]:
    """The keys of other tables whose name, or name in another program, is very similar."""
    names = {key for _, table in places for key in table.model_fields} | OTHER_NAMES.keys()
    closest = closest_name(name, sorted(names), VERY_SIMILAR)
    if closest is None:
        return []
    if other := _other_name(root, closest, value, data):
        return [other]
    return [
        (*place, closest)
        for place, table in places
        if closest in table.model_fields and can_have(table, closest, value)
    ]


def _exact(table: type[FrozenModel], name: str) -> str | None:
    """The key of the table that differs from `name` at most in case, `-` and `_`."""
    return next((key for key in table.model_fields if _form(key) == name), None)


def _form(name: str) -> str:
    return name.casefold().replace("-", "_")


def _known_keys(table: type[FrozenModel] | None) -> str:
    """The keys of a table as the end of a message, if it has few."""
    return did_you_mean("", table.model_fields) if table else ""
