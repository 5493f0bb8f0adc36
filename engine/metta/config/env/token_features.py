"""Token features: name, id and scale of each feature in observations, shared by simulator and policies."""

from __future__ import annotations

from typing import Final

FEATURE_SCALES: Final = {
    "type_id": 1.0,
    "agent:group": 10.0,
    "hp": 30.0,
    "agent:frozen": 1.0,
    "agent:orientation": 1.0,
    "agent:color": 255.0,
    "converting": 1.0,
    "swappable": 1.0,
    "episode_completion_pct": 255.0,
    "last_action": 10.0,
    "last_action_arg": 10.0,
    "last_reward": 100.0,
}
"""Feature name -> divisor that normalizes its values, in the order of feature ids; `inv:ITEM` of each item follow."""

FEATURE_IDS: Final = {name: feature for feature, name in enumerate(FEATURE_SCALES)}

GLOBAL_FEATURES: Final = ("episode_completion_pct", "last_action", "last_action_arg", "last_reward")
"""Features of the first tokens of every observation, in order."""

ITEM_PREFIX: Final = "inv:"
"""`inv:ITEM` is the feature of an item's amount."""

FIRST_ITEM_FEATURE: Final = len(FEATURE_SCALES)
"""The feature id of item 0; that of item i is `FIRST_ITEM_FEATURE + i`."""

ITEM_SCALE: Final = 100.0
"""Divisor that normalizes the amount of an item."""

NO_TOKEN: Final = 0xFF
"""All three bytes of an unused token at the end of an observation."""
