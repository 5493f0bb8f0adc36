"""`failure_reason` agrees with the simulator about which actions fail, and gives each reason."""

import numpy as np
import pytest
from random_worlds import random_actions, random_tasks

from metta.api import EnvConfig, MettaGridEnv, failure_reason, view_ahead


@pytest.mark.parametrize("seed", range(8))
def test_an_action_has_a_reason_exactly_if_it_fails(seed):
    """All actions of an agent in random states, each tried in a copy where the agent acts first and the others wait."""
    generator = np.random.default_rng(seed)
    config = random_tasks(generator, 1, every_action=True)[0]
    env, probe = (MettaGridEnv(config, seed=seed, auto_reset=False) for _ in range(2))
    env.reset()
    outcomes = {True: 0, False: 0}
    spec = config.spec
    wait = (spec.action_names.index(next(n for n, t, _ in config.action_table if t == "noop")), 0)
    for _ in range(6):
        for _ in range(4):
            env.step(random_actions(generator, config, env.agents))
        state = env.state()
        agent = int(generator.integers(env.agents))
        order = np.array([agent, *(other for other in range(env.agents) if other != agent)])
        tried = [(action, arg) for action, most in enumerate(spec.max_action_args) for arg in range(most + 2)]
        for action in [*tried, (len(spec.action_names), 0), (-1, 0), (0, -1)]:
            reason = failure_reason(env, agent, action)
            probe.load_state(state)
            actions = np.array([wait] * env.agents)
            actions[agent] = action
            probe.step(actions, order=order)
            succeeded = bool(probe.action_success[agent])
            assert (reason is None) == succeeded, (action, reason)
            assert reason is None or reason.strip()
            outcomes[succeeded] += 1
        view_ahead(env, agent)
        assert all(np.array_equal(values, state[name]) for name, values in env.state().items())
    assert min(outcomes.values()) > 5


ACTIONS = [
    {"type": "noop", "key": "noop"},
    {"type": "move", "key": "move"},
    {"type": "rotate", "key": "rotate"},
    {"type": "put_items", "key": "put"},
    {"type": "get_items", "key": "get"},
    {"type": "attack", "key": "attack", "consumed_resources": {"laser": 1}},
    {"type": "swap", "key": "swap"},
    {"type": "gift", "key": "gift", "item": "ore_red"},
    {"type": "use", "key": "use", "use": "altar"},
    {"type": "move", "key": "jump", "enabled": False},
    {"type": "attack", "key": "hit"},
]
NAMES = [name for name, _, _ in EnvConfig.model_validate({"actions": ACTIONS}).action_table]
PUT, GET, MOVE, GIFT = ("put", 0), ("get", 0), ("move", 0), ("gift", 0)
MINE = {"name": "mine_red", "type": "mine", "conversion_ticks": 3, "cooldown": 5, "initial_items": 1, "max_output": 1}

REASONS = [
    # (map; the agent that acts is the first one; actions before, of agents in row-major order; action; reason)
    ("#\n@", [], MOVE, "blocked by wall"),
    ("b\n@", [], MOVE, "blocked by block"),
    ("@\n@", [["noop", "move"]], MOVE, "blocked by the edge of the map"),
    (".@\n.@", [[("rotate", 1), "noop"]], MOVE, "blocked by agent 1"),
    (".\n@", [], ("move", 2), "the argument must be 0 to 1; got 2"),
    (".\n@", [], ("attack", 10), "the argument must be 0 to 9; got 10"),
    (".\n@", [], ("jump", 0), "disabled in this world"),
    (".\n@", [], ("attack", 5), "needs 1 laser (holds 0)"),
    (".\n@", [], ("hit", 2), "no agent is there"),
    (".\n@", [], ("hit_nearest", 0), "no agent is in reach"),
    (".\n@", [], PUT, "nothing is ahead"),
    ("#\n@", [], GET, "wall is ahead, which holds no items"),
    ("r\n@", [], PUT, "mine_red takes no items"),
    ("_\n@", [], PUT, "altar needs 3 battery_red (holds 0)"),
    ("R\n@", [], PUT, "generator_red needs 1 ore_red (holds 0)"),
    ("r\n@", [["get"]], GET, "mine_red: converting for 2 more steps"),
    ("r\n@", [["get"], ["noop"], ["noop"]], GET, None),
    ("r\n@", [["get"], *[["noop"]] * 2, ["get"]], GET, "mine_red: cooling down for 4 more steps"),
    ("_\n@", [["get"]], GET, "altar: needs 3 battery_red (holds 0)"),
    ("r\n@", [], ("use", 0), "does not work on mine_red"),
    ("_\n@", [["get"]], ("use", 0), "altar: needs 3 battery_red (holds 0); altar needs 3 battery_red (holds 0)"),
    (".\n@", [], ("swap", 0), "nothing is ahead"),
    ("#\n@", [], ("swap", 0), "wall cannot be moved"),
    ("b\n@", [], ("swap", 0), None),
    (".@\n.@", [[("rotate", 1), "noop"]], ("swap", 0), "agent 1 is not frozen"),
    (".\n@", [], GIFT, "no agent is ahead: nothing"),
    (".@\n.@", [[("rotate", 1), "noop"]], GIFT, "needs 1 ore_red, holds 0"),
    ("@.\n@.", [["noop", "hit_nearest"]], MOVE, "frozen for 2 more actions"),
]  # fmt: skip


def play(drawing, before, **game):
    config = EnvConfig.model_validate(
        {
            "game": {"freeze_duration": 3, **game},
            "objects": [MINE],
            "actions": ACTIONS,
            "map_builder": {"type": "Ascii", "map": drawing},
        }
    )
    env = MettaGridEnv(config)
    env.reset()
    for actions in before:
        pairs = [action if isinstance(action, tuple) else (action, 0) for action in actions]
        env.step(np.array([(NAMES.index(name), argument) for name, argument in pairs]))
    return env


@pytest.mark.parametrize(("drawing", "before", "action", "reason"), REASONS)
def test_reasons(drawing, before, action, reason):
    env = play(drawing, before)
    assert failure_reason(env, 0, (NAMES.index(action[0]), action[1])) == reason


def test_a_full_inventory_and_an_unknown_action():
    env = play("r\n@", [["get"], *[["noop"]] * 9], default_item_max=1)
    assert failure_reason(env, 0, (NAMES.index("get"), 0)) == "inventory full: holds 1 ore_red"
    assert failure_reason(env, 0, (99, 0)) == "there is no action 99; the last one is 12"
    env = play("@@\n..", [[("rotate", 3), "noop"], ["noop", "noop"]], freeze_duration=-1)
    env.step(np.array([(NAMES.index("hit_nearest"), 0), (0, 0)]))
    assert failure_reason(env, 1, (0, 0)) == "frozen until the episode ends"
    assert view_ahead(env, 0) == "agent 1, frozen"


def test_what_is_ahead():
    ahead = {".": "nothing", "#": "wall", "b": "block", "_": "altar: 1 heart ready; needs 3 battery_red (holds 0)"}
    for glyph, text in ahead.items():
        assert view_ahead(play(f"{glyph}\n@", []), 0) == text
    assert view_ahead(play("@", []), 0) == "the edge of the map"
    teams = {"red": {"id": 0}, "blue": {"id": 1}}
    assert view_ahead(play("B\n@\n\nB agent.blue", [], groups=teams), 1) == "agent 0 of blue"
    assert view_ahead(play("r\n@", [["get"]]), 0) == "mine_red: converting for 3 more steps"
