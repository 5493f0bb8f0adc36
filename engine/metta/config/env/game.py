"""Game mechanics: the table `[env.game]` and the groups of agents in it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_serializer, field_validator

from metta.config.env.objects import DEFAULT_ITEMS, Count
from metta.config.validation.frozen_model import FrozenModel, Name

Reward = Annotated[float, Field(ge=-1e6, le=1e6)]
"""A reward, bounded because the simulator sums in float32."""

Share = Annotated[float, Field(ge=0, le=1)]


WINDOW_SIDES: dict[str, Any] = {"enum": list(range(1, 16, 2))}
"""JSON Schema of the sides of the observation window."""

ITEM_FIELDS = {
    "ore_red": {"item_rewards": "ore_red_reward", "item_reward_max": "ore_red_max"},
    "battery_red": {"item_rewards": "battery_red_reward", "item_reward_max": "battery_red_max"},
    "heart": {"item_rewards": "heart_reward", "item_reward_max": "heart_max_reward", "item_max": "heart_max"},
}
"""Items with dedicated keys instead of entries in tables: item -> {table: key}."""


class AgentSettings(FrozenModel):
    """Inventory limits, rewards and freezing of agents; groups can override each of these keys."""

    default_item_max: Count = Field(
        default=50, description="inventory limit of items that are neither hearts nor in item_max, units"
    )
    heart_max: Count = Field(default=255, description="inventory limit of hearts, units")
    item_max: dict[str, Count] = Field(default_factory=dict, description="inventory limits by item name, units")
    freeze_duration: int = Field(
        default=10,
        ge=-1,
        le=32767,
        description="number of actions that an attacked agent loses; -1: all until the episode ends",
    )
    action_failure_penalty: Reward = Field(default=0.0, description="subtracted from the reward when an action fails")
    ore_red_reward: Reward = Field(
        default=0.01, description="reward per unit of red ore gained; subtracted per unit lost"
    )
    battery_red_reward: Reward = Field(
        default=0.02, description="reward per unit of red battery gained; subtracted per unit lost"
    )
    heart_reward: Reward = Field(default=1.0, description="reward per heart gained; subtracted per heart lost")
    ore_red_max: float = Field(default=10.0, ge=0, description="maximum units of red ore that are rewarded")
    battery_red_max: float = Field(default=10.0, ge=0, description="maximum units of red battery that are rewarded")
    heart_max_reward: float = Field(default=1000.0, ge=0, description="maximum number of hearts that are rewarded")
    item_rewards: dict[str, Reward] = Field(
        default_factory=dict, description="reward per unit of other items gained, by item name"
    )
    item_reward_max: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="maximum units of other items that are rewarded, by item name; default: 1000"
    )

    def item_cap(self, item: str) -> int:
        """Inventory limit of `item`, units."""
        return int(self._setting(item, "item_max", self.default_item_max))

    def item_reward(self, item: str) -> float:
        """The reward per unit of `item`."""
        return self._setting(item, "item_rewards", 0.0)

    def item_reward_cap(self, item: str) -> float:
        """Maximum units of `item` that are rewarded."""
        return self._setting(item, "item_reward_max", 1000.0)

    def _setting(self, item: str, table: str, default: float) -> float:
        if field := ITEM_FIELDS.get(item, {}).get(table):
            return float(getattr(self, field))
        return float(getattr(self, table).get(item, default))


class GroupConfig(FrozenModel):
    """A group of agents, such as a team or the predators of a world."""

    id: int = Field(ge=0, le=255, description="unique group id in tokens")
    sprite: int = Field(default=0, ge=0, le=255, description="index of the image of its agents in replays")
    group_reward_pct: Share = Field(
        default=0.0, description="fraction of each agent's reward that is divided evenly among the group's agents"
    )
    props: AgentSettings = Field(
        default_factory=AgentSettings, description="keys of [env.game] about agents, with values for this group"
    )

    @field_serializer("props")
    def _only_set_values(self, props: AgentSettings) -> dict[str, Any]:
        return props.model_dump(exclude_unset=True)


class GameConfig(AgentSettings):
    """Game mechanics: episodes, sizes, observations, items, groups and rewards."""

    max_steps: int = Field(
        default=1000, ge=0, lt=2**31, description="steps after which an episode is truncated; 0: never"
    )
    time_punishment: Reward = Field(default=-0.0001, description="added to the reward of every agent at each step")
    episode_lifetime: int = Field(
        default=10000, ge=0, lt=2**31, description="steps after which an episode terminates; 0: never"
    )
    num_agents: int = Field(default=64, ge=1, le=65536, description="number of agents per world")
    width: int = Field(default=64, ge=1, le=4096, description="width of the world, cells")
    height: int = Field(default=64, ge=1, le=4096, description="height of the world, cells")
    observation_width: int = Field(
        default=11, json_schema_extra=WINDOW_SIDES, description="width of the observation window, cells"
    )
    observation_height: int = Field(
        default=11, json_schema_extra=WINDOW_SIDES, description="height of the observation window, cells"
    )
    num_observation_tokens: int = Field(
        default=200, ge=1, le=4096, description="maximum number of tokens per observation"
    )
    inventory_item_names: list[Name] = Field(
        default_factory=lambda: list(DEFAULT_ITEMS),
        max_length=200,
        description="names of all items, in the order of their ids",
    )
    diversity_bonus_enabled: bool = Field(
        default=False,
        description="scale the rewards of an episode's last step by 1 + similarity_coef x similarity of the agent's "
        "episode reward to its own group's + diversity_coef x difference from the other groups'",
    )
    similarity_coef: float = Field(default=0.5, description="weight of the similarity in the diversity bonus")
    diversity_coef: float = Field(default=0.5, description="weight of the difference in the diversity bonus")
    groups: dict[Name, GroupConfig] = Field(
        default_factory=lambda: {"agent": GroupConfig(id=0)},
        min_length=1,
        max_length=256,
        description="groups of agents by name",
    )
    reward_sharing_groups: dict[str, dict[str, Share]] = Field(
        default_factory=dict,
        max_length=256,
        description="group -> {other group: fraction of each agent's reward that the other group receives}",
    )

    @field_validator("observation_width", "observation_height")
    @classmethod
    def _centered_window(cls, size: int) -> int:
        if size < 1 or size > 15:
            raise ValueError("must be 1 to 15, since a location byte holds two 4-bit coordinates")
        if size % 2 == 0:
            raise ValueError("must be odd, so that the agent is in the middle")
        return size

    @property
    def is_endless(self) -> bool:
        """Whether episodes never end."""
        return not self.max_steps and not self.episode_lifetime

    def group_settings(self, group: str) -> AgentSettings:
        """The agent settings of `group`: those of the game, overridden by the group's props."""
        values = {name: getattr(self, name) for name in AgentSettings.model_fields}
        props = self.groups[group].props
        return AgentSettings(**values | {name: getattr(props, name) for name in props.model_fields_set})
