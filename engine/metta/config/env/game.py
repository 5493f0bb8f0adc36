"""The rules of the game: `[env.game]`, with what a group of agents may have of its own."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_serializer, field_validator

from metta.config.env.objects import DEFAULT_ITEMS, Count
from metta.config.validation.frozen_model import FrozenModel, Name

Reward = Annotated[float, Field(ge=-1e6, le=1e6)]
"""A reward: bounded, since worlds count in float32."""

Share = Annotated[float, Field(ge=0, le=1)]


ODD: dict[str, Any] = {"enum": list(range(1, 16, 2))}
"""What an editor is told of a window's sides."""

ITEM_FIELDS = {
    "ore_red": {"item_rewards": "ore_red_reward", "item_reward_max": "ore_red_max"},
    "battery_red": {"item_rewards": "battery_red_reward", "item_reward_max": "battery_red_max"},
    "heart": {"item_rewards": "heart_reward", "item_reward_max": "heart_max_reward", "item_max": "heart_max"},
}
"""Items with settings of their own, where all others stand in tables: item -> {table: setting}."""


class AgentSettings(FrozenModel):
    """What an agent may hold, what it is paid for, and how long a hit freezes it. Groups can differ in these."""

    default_item_max: Count = Field(default=50, description="cap of every item that has none of its own, units")
    heart_max: Count = Field(default=255, description="cap of hearts, units")
    item_max: dict[str, Count] = Field(default_factory=dict, description="caps by item name, units")
    freeze_duration: int = Field(
        default=10, ge=-1, le=32767, description="actions an agent loses when hit; -1: frozen for ever"
    )
    action_failure_penalty: Reward = Field(default=0.0, description="taken from the reward when an action fails")
    ore_red_reward: Reward = Field(default=0.01, description="reward per unit of red ore gained (taken back when lost)")
    battery_red_reward: Reward = Field(default=0.02, description="reward per unit of red battery gained")
    heart_reward: Reward = Field(default=1.0, description="reward per heart gained")
    ore_red_max: float = Field(default=10.0, ge=0, description="units of red ore that count for the reward")
    battery_red_max: float = Field(default=10.0, ge=0, description="units of red battery that count for the reward")
    heart_max_reward: float = Field(default=1000.0, ge=0, description="hearts that count for the reward")
    item_rewards: dict[str, Reward] = Field(default_factory=dict, description="rewards of other items by name")
    item_reward_max: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="units of other items that count for the reward; default 1000"
    )

    def item_cap(self, item: str) -> int:
        """How many units of `item` an agent can hold."""
        return int(self._setting(item, "item_max", self.default_item_max))

    def item_reward(self, item: str) -> float:
        """The reward for one unit of `item`."""
        return self._setting(item, "item_rewards", 0.0)

    def item_reward_cap(self, item: str) -> float:
        """How many units of `item` count for the reward."""
        return self._setting(item, "item_reward_max", 1000.0)

    def _setting(self, item: str, table: str, default: float) -> float:
        if own := ITEM_FIELDS.get(item, {}).get(table):
            return float(getattr(self, own))
        return float(getattr(self, table).get(item, default))


class GroupConfig(FrozenModel):
    """A group of agents: a team, predators, prey."""

    id: int = Field(ge=0, le=255, description="group id in tokens; distinct")
    sprite: int = Field(default=0, ge=0, le=255, description="picture of its agents in replays")
    group_reward_pct: Share = Field(default=0.0, description="share of each reward that the group splits evenly")
    props: AgentSettings = Field(
        default_factory=AgentSettings, description="agent settings of env.game that differ for this group"
    )

    @field_serializer("props")
    def _only_what_differs(self, props: AgentSettings) -> dict[str, Any]:
        return props.model_dump(exclude_unset=True)


class GameConfig(AgentSettings):
    """Core game mechanics."""

    max_steps: int = Field(
        default=1000, ge=0, lt=2**31, description="the episode is truncated after this many steps; 0: never"
    )
    time_punishment: Reward = Field(default=-0.0001, description="added to every agent's reward each step")
    episode_lifetime: int = Field(
        default=10000, ge=0, lt=2**31, description="the episode terminates at this step, without bootstrap; 0: never"
    )
    num_agents: int = Field(default=64, ge=1, le=65536, description="agents in a world")
    width: int = Field(default=64, ge=1, le=4096, description="world width, cells")
    height: int = Field(default=64, ge=1, le=4096, description="world height, cells")
    observation_width: int = Field(
        default=11, json_schema_extra=ODD, description="width of what an agent sees, cells; odd, at most 15"
    )
    observation_height: int = Field(
        default=11, json_schema_extra=ODD, description="height of what an agent sees, cells; odd, at most 15"
    )
    num_observation_tokens: int = Field(default=200, ge=1, le=4096, description="tokens in an observation at most")
    inventory_item_names: list[Name] = Field(
        default_factory=lambda: list(DEFAULT_ITEMS), max_length=200, description="items, in the order of their ids"
    )
    diversity_bonus_enabled: bool = Field(default=False, description="scale last-step rewards by diversity")
    similarity_coef: float = Field(default=0.5, description="weight of likeness to the own group")
    diversity_coef: float = Field(default=0.5, description="weight of difference from the other groups")
    groups: dict[Name, GroupConfig] = Field(
        default_factory=lambda: {"agent": GroupConfig(id=0)},
        min_length=1,
        max_length=256,
        description="groups of agents by name",
    )
    reward_sharing_groups: dict[str, dict[str, Share]] = Field(
        default_factory=dict,
        max_length=256,
        description="group -> {group: share of its agents' rewards that goes to that group}",
    )

    @field_validator("observation_width", "observation_height")
    @classmethod
    def _centred_window(cls, size: int) -> int:
        if size < 1 or size > 15:
            raise ValueError("must be 1 to 15, since a location byte holds two 4-bit coordinates")
        if size % 2 == 0:
            raise ValueError("must be odd, so that the agent stands in the middle")
        return size

    @property
    def is_endless(self) -> bool:
        """Whether no episode ever ends."""
        return not self.max_steps and not self.episode_lifetime

    def group_settings(self, group: str) -> AgentSettings:
        """The agent settings that hold for `group`: the game's, replaced by what the group's props set."""
        own = {name: getattr(self, name) for name in AgentSettings.model_fields}
        props = self.groups[group].props
        return AgentSettings(**own | {name: getattr(props, name) for name in props.model_fields_set})
