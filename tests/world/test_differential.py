"""The engine against the reference simulator on random, crowded worlds with every action, bit for bit.

`METTA_WORLD_STEPS=1000000 pytest tests/world/test_differential.py` plays a million steps of worlds instead of the
usual ten thousand.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import numpy as np
import pytest
from conformance import engine_state, engine_statistics
from custom_reference import CustomReferenceWorld
from random_worlds import ACTION_TYPES, random_actions, random_tasks
from reference import ReferenceWorld
from worker_worlds import WorkerEnv

from metta.world.env import MettaGridEnv
from metta.world.episode_summary import StepInfo

WORLD_STEPS = int(os.environ.get("METTA_WORLD_STEPS", "12000"))
PARTS = 6
"""The test is split so that it can run on several cores."""
STEPS, WORLDS = 50, 8


class Match:
    """A batch of the engine and as many reference worlds, stepped together."""

    def __init__(self, seed: int, with_rules: bool = False, workers: int = 0):
        self.generator = np.random.default_rng(seed)
        self.with_rules = with_rules
        tasks = random_tasks(self.generator, every_action=seed % 3 == 2, with_rules=with_rules)
        # Any, since both have the same methods
        self.env: Any = WorkerEnv(tasks, WORLDS, seed, workers) if workers else MettaGridEnv(tasks, WORLDS, seed)
        self.draws_order = seed % 2 == 0  # else it is told the order
        self.episodes_ended = 0
        observations, _ = self.env.reset()
        self.references = [self._begun(world) for world in range(WORLDS)]
        self.returned = np.zeros(self.env.agents, np.float32)
        for world, reference in enumerate(self.references):
            self._same("first observations", world, observations[self._rows(world)], reference.reset())

    def _begun(self, world: int) -> ReferenceWorld:
        config, cells = self.env.configs[int(self.env.tasks[world])], self.env.cells(world)
        if not self.with_rules:
            return ReferenceWorld(config, cells)
        turn_stream = int(self.env.state()["turn_stream"].view(np.uint64)[world])
        return CustomReferenceWorld(config, cells, turn_stream)

    def _rows(self, world: int) -> slice:
        return slice(world * self.env.num_agents, (world + 1) * self.env.num_agents)

    def actions(self) -> np.ndarray:
        """Random actions. Without workers, a half of the agents get or put items where that may succeed."""
        env, generator = self.env, self.generator
        actions = random_actions(generator, env.config, env.agents)
        if isinstance(env, MettaGridEnv):
            types = [type_ for _, type_, _ in env.config.action_table]
            is_economic = np.isin([types[action] for action, _ in env.spec.flat_actions], ["get_items", "put_items"])
            chances = generator.random((env.agents, len(is_economic))) * (env.action_masks() & is_economic)
            chosen = (generator.random(env.agents) < 0.5) & (chances.max(axis=1) > 0)
            actions[chosen] = np.array(env.spec.flat_actions)[chances.argmax(axis=1)][chosen]
        return actions

    def step(self, look_closely: bool) -> None:
        """Step both and compare all results; with `look_closely`, also the hidden state and statistics."""
        env = self.env
        actions = self.actions()
        if self.draws_order:
            order = env.next_order().reshape(WORLDS, -1)
        else:
            order = np.stack([self.generator.permutation(env.num_agents) for _ in range(WORLDS)])
        told = None if self.draws_order else order.ravel()
        observations, rewards, terminated, truncated, info = env.step(actions, order=told)
        self.returned += rewards
        finals = dict(zip(info.ended_agents.tolist(), info.final_observations, strict=True))
        for world, reference in enumerate(self.references):
            rows = self._rows(world)
            expected = reference.step(actions[rows], order[world])
            if rows.start in finals:
                final = np.stack([finals[row] for row in range(rows.start, rows.stop)])
                self._same("final observations", world, final, expected[0])
            else:
                self._same("observations", world, observations[rows], expected[0])
                self._same("success", world, env.action_success[rows], np.array(reference.success))
            self._same("rewards", world, rewards[rows], expected[1])
            self._same("terminated", world, terminated[rows], expected[2])
            self._same("truncated", world, truncated[rows], expected[3])
            if rows.start in finals:
                self._end(world, info)
                self._same("first observations", world, observations[rows], self.references[world].reset())
            elif look_closely:
                self._look_closely(world)

    def _look_closely(self, world: int) -> None:
        reference = self.references[world]
        shown = engine_state(self.env, world)
        for what, expected in reference.state().items():
            self._same(what, world, shown[what], expected)
        counted, expected_counts = engine_statistics(self.env, world), reference.statistics()
        for ours, theirs in zip(
            [counted["game"], *counted["agent"], *counted["converter"]],
            [expected_counts["game"], *expected_counts["agent"], *expected_counts["converter"]],
            strict=True,
        ):
            told = {key: (ours.get(key, 0), theirs.get(key, 0)) for key in {*ours, *theirs}}
            wrong = {key: pair for key, pair in told.items() if pair[0] != pair[1]}
            assert not wrong, f"world {world}, step {reference.now}: (engine, reference) {wrong}"

    def _end(self, world: int, info: StepInfo) -> None:
        """Compare the summary of the episode, and make a reference for the next one."""
        self.episodes_ended += 1
        reference = self.references[world]
        summary = next(summary for summary in info.episodes if summary.world == world)
        assert summary.length == reference.now
        individual = np.array([agent.episode_reward for agent in reference.agents])
        self._same("individual rewards", world, summary.individual_rewards, individual)
        self._same("summed rewards", world, summary.rewards, self.returned[self._rows(world)])
        self.returned[self._rows(world)] = 0
        if isinstance(reference, CustomReferenceWorld):
            for name, sum_ in summary.reward_terms.items():
                sums = reference.rules.terms.get(name, [0.0])
                assert abs(sum_ - np.mean(sums, dtype=np.float64)) < 1e-9, (world, name)
        totals: Counter[str] = Counter()
        for agent in reference.agents:
            totals.update(agent.stats)
        counts = {key: total / len(reference.agents) for key, total in totals.items() if total}
        counts |= {key: float(value) for key, value in reference.stats.items()}
        told = {key: (summary.stats.get(key, 0), counts.get(key, 0)) for key in {*summary.stats, *counts}}
        wrong = {key: pair for key, pair in told.items() if abs(pair[0] - pair[1]) > 1e-9 * abs(pair[1])}
        assert not wrong, f"world {world}: (engine, reference) {wrong}"
        self.references[world] = self._begun(world)

    def _same(self, what: str, world: int, got: np.ndarray, expected: np.ndarray) -> None:
        if expected.dtype.kind == "f":
            got, expected = got.astype(np.float32).view(np.uint32), expected.astype(np.float32).view(np.uint32)
        if not np.array_equal(got, expected):
            pytest.fail(self._told(what, world, got, expected))

    def _told(self, what: str, world: int, got: np.ndarray, expected: np.ndarray) -> str:
        step = self.references[world].now
        if got.shape != expected.shape:
            return f"world {world}, step {step}: {what} have shapes {got.shape} and {expected.shape}"
        place = tuple(np.argwhere(got != expected)[0].tolist())
        near = place[0] if got.ndim < 3 else (place[0], slice(max(0, place[1] - 3), place[1] + 3))
        lines = [f"world {world}, step {step}: {what} differ at {place}: {got[near].tolist()}"]
        lines += [f"against the reference's {expected[near].tolist()}", self.env.render(world)]
        for agent, (number, argument) in enumerate(self.references[world].last_actions):
            known = 0 <= number < len(self.references[world].actions)
            config = self.references[world].actions[number].config if known else "no such action"
            lines.append(f"agent {agent} did {number} {argument}: {config!r}")
        return "\n".join(lines)


@pytest.mark.parametrize("part", range(PARTS))
def test_engine_and_reference_agree(part: int) -> None:
    matches = -(-WORLD_STEPS // (PARTS * STEPS * WORLDS))
    ended = 0
    for seed in range(part * matches, (part + 1) * matches):
        match = Match(seed)
        for step in range(STEPS):
            match.step(look_closely=step % 10 == 5)
        ended += match.episodes_ended
    assert ended or matches < 4


@pytest.mark.parametrize("seed", [*range(6), 14])  # 5 pays for supplying; in 14, turns wait for agents that are moved
def test_engine_and_reference_agree_about_custom_rules(seed: int) -> None:
    match = Match(1000 + seed, with_rules=True)
    for step in range(STEPS):
        match.step(look_closely=step % 10 == 5)
    assert match.episodes_ended


@pytest.mark.parametrize("with_rules", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_worlds_in_workers_and_reference_agree(seed: int, with_rules: bool) -> None:
    match = Match(seed, with_rules, workers=2)
    for step in range(STEPS):
        match.step(look_closely=step % 10 == 5)
    match.env.worlds.close()


def test_every_action_is_enabled_and_succeeds_and_fails() -> None:
    """Random worlds with every action exercise all of them; a few worlds are enough."""
    outcomes: set[tuple[str, str]] = set()
    for seed in range(2, 36, 3):
        match = Match(seed)
        env = match.env
        type_of = {name: type_ for name, type_, _ in env.config.action_table}
        assert set(type_of.values()) == {*ACTION_TYPES, "attack_nearest"}
        assert all(action.enabled for action in env.config.actions)
        for _ in range(STEPS):
            *_, info = env.step(match.actions())
            for summary in info.episodes:
                keys = [key.split(".") for key in summary.stats if key.startswith("action.")]
                outcomes |= {(type_of[key[1]], key[2]) for key in keys if key[1] in type_of}
    always_work = {"noop", "rotate", "change_color"}
    assert {type_ for type_, outcome in outcomes if outcome == "success"} == {*ACTION_TYPES, "attack_nearest"}
    assert {type_ for type_, outcome in outcomes if outcome == "failed"} >= {*ACTION_TYPES} - always_work


def test_passing_the_drawn_order_changes_nothing() -> None:
    """With the same seed and actions, passing the turn order that would be drawn gives the same results."""
    generator = np.random.default_rng(5)
    tasks = random_tasks(generator, every_action=True)
    drawing, told = (MettaGridEnv(tasks, WORLDS, seed=4) for _ in range(2))
    drawing.reset()
    told.reset()
    orders = []
    for _ in range(40):
        actions = random_actions(generator, drawing.config, drawing.agents)
        order = told.next_order()
        orders.append(order.reshape(WORLDS, -1))
        results = zip(drawing.step(actions)[:4], told.step(actions, order=order)[:4], strict=True)
        assert all(np.array_equal(one, other) for one, other in results)
    assert all((np.sort(order, axis=1) == np.arange(drawing.num_agents)).all() for order in orders)
    assert len({order.tobytes() for order in orders}) == len(orders)
