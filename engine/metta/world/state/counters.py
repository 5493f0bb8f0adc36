"""Event counters of agents and converters (`stats/` metrics): columns of integer arrays, and names of their sums.

A statistic is a sum of columns. Since the group of an agent is fixed during an episode, counters named after two groups
have one column per group of the other agent. Names are computed only when statistics are read.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metta.world.state.compiled_config import CompiledConfig, TurnKind

InvalidCounts = Counter[tuple[int, str, int, int]]
"""Number of invalid actions by (agent row, "invalid_type" or "invalid_arg", action id, argument)."""


Names = dict[int, list[str]]
"""For each column, the names of the statistics that it is part of."""


def _by_column(columns_of: dict[str, list[int]]) -> Names:
    """Invert a mapping from the name of a statistic to the columns whose sum it is."""
    names: Names = {}
    for name, columns in columns_of.items():
        for column in columns:
            names.setdefault(column, []).append(name)
    return names


class AgentColumns:
    """Columns of `Worlds.agent_counters [agents, columns]`. Attributes are the first column of each counter."""

    def __init__(self, compiled: CompiledConfig):
        self.compiled = compiled
        actions = compiled.num_actions
        kinds = compiled.actions.kind.reshape(-1, actions)
        self.attacks = [action for action in range(actions) if (kinds[:, action] <= TurnKind.ATTACK_NEAREST).any()]
        self.swaps = [action for action in range(actions) if (kinds[:, action] == TurnKind.SWAP).any()]
        self.swappable_types = compiled.types.num_walls - compiled.types.num_plain_walls
        self._width = 0
        # counted for all agents at once in column `success * actions + action`
        self.failed = self._allocate(actions)
        self.success = self._allocate(actions)
        self.invalid_type = self._allocate(1)
        self.invalid_arg = self._allocate(1)
        self.frozen_ticks = self._allocate(1)
        groups, items = compiled.num_groups, compiled.num_items
        self.hit = self._allocate(len(self.attacks) * groups)  # by attack action and the victim's group
        self.blocked = self._allocate(groups)  # by the victim's group
        self.win = self._allocate(groups)  # by the victim's group
        self.loss = self._allocate(groups)  # by the attacker's group
        self.swapped = self._allocate(len(self.swaps) * (self.swappable_types + 1))  # by action and type, agents last
        self.gained, self.lost, self.got, self.put = (self._allocate(items) for _ in range(4))
        self.stolen, self.stolen_from = self._allocate(items), self._allocate(items)
        self.width = self._width
        self._names: dict[int, Names] = {}
        self._columns: dict[int, dict[str, list[int]]] = {}

    def _allocate(self, columns: int) -> int:
        start = self._width
        self._width += columns
        return start

    def names(self, group_row: int) -> Names:
        """Names of statistics by column, for agents of a group."""
        if group_row not in self._names:
            self._names[group_row] = _by_column(self.columns(group_row))
        return self._names[group_row]

    def columns(self, group_row: int) -> dict[str, list[int]]:
        """The columns whose sum is each statistic, by its name, for agents of a group."""
        if group_row not in self._columns:
            self._columns[group_row] = self._make_columns(group_row)
        return self._columns[group_row]

    def totals(self, name: str, group_rows: NDArray[np.int64], counters: NDArray[np.int32]) -> NDArray[np.int64] | None:
        """A statistic of agents, from `counters [agents, columns]`; None if no group has one of that name. `[agents]`

        It is 0 for agents of other groups than those that have it.
        """
        columns = [self.columns(row).get(name, []) for row in range(len(self.compiled.groups.names))]
        if not any(columns):
            return None
        values = np.zeros(len(group_rows), np.int64)
        for group_row, own in enumerate(columns):
            if own:
                values += counters[:, own].sum(axis=1) * (group_rows == group_row)
        return values

    def all_names(self) -> list[str]:
        """The names of all statistics of agents, sorted."""
        return sorted({name for row in range(len(self.compiled.groups.names)) for name in self.columns(row)})

    def _make_columns(self, group_row: int) -> dict[str, list[int]]:
        compiled = self.compiled
        ruleset, own = divmod(group_row, compiled.num_groups)
        groups = compiled.groups.names[ruleset * compiled.num_groups : (ruleset + 1) * compiled.num_groups]
        actions = [name for name, _, _ in compiled.configs[ruleset].action_table]
        a, others = groups[own], [group for group in range(len(groups)) if group != own]
        names: dict[str, list[int]] = {}
        for action, name in enumerate(actions):
            names[f"action.{name}.success"] = [self.success + action]
            names[f"action.{name}.failed"] = [self.failed + action]
        names["action.failure_penalty"] = [self.failed + action for action in range(len(actions))]
        names["action.invalid_type"] = [self.invalid_type]
        names["action.invalid_arg"] = [self.invalid_arg]
        names["status.frozen.ticks"] = names[f"status.frozen.ticks.{a}"] = [self.frozen_ticks]
        hits = [[self.hit + k * len(groups) + group for group in range(len(groups))] for k in range(len(self.attacks))]
        for action, columns in zip(self.attacks, hits, strict=True):
            key = f"action.{actions[action]}.agent"
            names[key] = names[f"{key}.{a}"] = columns
            names |= {f"{key}.{a}.{b}": [column] for b, column in zip(groups, columns, strict=True)}
        names[f"attack.own_team.{a}"] = [columns[own] for columns in hits]
        names[f"attack.other_team.{a}"] = [columns[group] for columns in hits for group in others]
        for group, b in enumerate(groups):
            names[f"attack.blocked.{b}"] = names[f"attack.blocked.{b}.{a}"] = [self.blocked + group]
            names[f"attack.win.{a}.{b}"] = [self.win + group]
            names[f"attack.loss.{a}.{b}"] = [self.loss + group]
        for what, start, own_team, other_team in (
            ("win", self.win, "own_team", "other_team"),
            ("loss", self.loss, "from_own_team", "from_other_team"),
        ):
            names[f"attack.{what}.{a}"] = [start + group for group in range(len(groups))]
            names[f"attack.{what}.{own_team}.{a}"] = [start + own]
            names[f"attack.{what}.{other_team}.{a}"] = [start + group for group in others]
        swapped_types = [*compiled.types.names[compiled.types.num_plain_walls : compiled.types.num_walls], "agent"]
        for k, action in enumerate(self.swaps):
            for index, type_name in enumerate(swapped_types):
                column = self.swapped + k * len(swapped_types) + index
                # types of the same name in different rulesets have different columns
                names.setdefault(f"action.{actions[action]}.{type_name}", []).append(column)
        for item, name in enumerate(compiled.items):
            names[f"{name}.gained"] = [self.gained + item]
            names[f"{name}.lost"] = [self.lost + item]
            names[f"{name}.get"] = [self.got + item]
            names[f"{name}.put"] = [self.put + item]
            names[f"{name}.stolen.{a}"] = [self.stolen + item]
            names[f"{name}.stolen_from.{a}"] = [self.stolen_from + item]
        return names


class ConverterColumns:
    """Columns of `Worlds.converter_counters [converters, columns]`. Attributes are the first column of each counter."""

    def __init__(self, compiled: CompiledConfig):
        self.compiled = compiled
        items = compiled.num_items
        self.added, self.removed, self.consumed, self.produced = (items * k for k in range(4))
        (
            self.conversions_started,
            self.conversions_completed,
            self.cooldown_started,
            self.cooldown_completed,
            self.output_full,
            self.insufficient_input,
        ) = (4 * items + k for k in range(6))
        self.width = 4 * items + 6

    def of_items(self, start: int) -> slice:
        """The columns of a counter by item; `start` is the column of the first item."""
        return slice(start, start + self.compiled.num_items)

    def names(self, type_row: int) -> Names:
        """Names of statistics by column, for converters of a type."""
        names = {
            f"{item}.{what}": [start + index]
            for what, start in (
                ("added", self.added),
                ("removed", self.removed),
                ("consumed", self.consumed),
                ("produced", self.produced),
            )
            for index, item in enumerate(self.compiled.items)
        }
        names["conversions.started"] = [self.conversions_started]
        names["conversions.completed"] = [self.conversions_completed]
        names["cooldown.started"] = [self.cooldown_started]
        names["cooldown.completed"] = [self.cooldown_completed]
        names["blocked.output_full"] = [self.output_full]
        names["blocked.insufficient_input"] = [self.insufficient_input]
        # as in MettaGrid, a type with the name of an item adds to the same statistic
        names.setdefault(f"{self.compiled.types.names[type_row]}.produced", []).append(self.conversions_completed)
        return _by_column(names)


def named_counts(names: Names, totals: NDArray[np.integer[Any]]) -> dict[str, int]:
    """The statistics that are not 0, by name, from the value of each column. `totals [columns]`"""
    counts: dict[str, int] = {}
    counted = totals.nonzero()[0]
    for column, count in zip(counted.tolist(), totals[counted].tolist(), strict=True):
        for name in names.get(column, ()):
            counts[name] = counts.get(name, 0) + count
    return counts


def mean_counts(columns: AgentColumns, group_rows: NDArray[np.int64], counters: NDArray[np.int32]) -> dict[str, float]:
    """Means over the agents of a world of the statistics that are not 0, by name.

    `group_rows [agents of the world]`, `counters [agents of the world, columns]`
    """
    totals: dict[str, int] = {}
    present = sorted(set(group_rows.tolist()))
    for group_row in present:
        members = counters if len(present) == 1 else counters[group_rows == group_row]
        counts = named_counts(columns.names(group_row), members.sum(axis=0, dtype=np.int64))
        for name, count in counts.items():
            totals[name] = totals.get(name, 0) + count
    return {name: count / len(counters) for name, count in totals.items()}


def invalid_counts(invalid: InvalidCounts, rows: slice) -> list[dict[str, float]]:
    """The statistics `action.invalid_*.ID.ARGUMENT` of each agent of `rows`, by name."""
    counts: list[dict[str, float]] = [{} for _ in range(rows.start, rows.stop)]
    for (agent, what, action, argument), times in invalid.items():
        if rows.start <= agent < rows.stop:
            counts[agent - rows.start][f"action.{what}.{action}.{argument}"] = float(times)
    return counts
