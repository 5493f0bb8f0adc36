"""What tokens mean to the network, against a plain loop over them."""

from __future__ import annotations

import pytest
import torch
from box import box_of

from metta.agent.sparse_tokens import token_sums
from metta.agent.tokens import PreviousStep, SparseTokens, TokenCodes
from metta.config.agent import AgentModelConfig
from metta.config.env.env_config import EnvConfig


def codes(spec, **settings) -> TokenCodes:
    return TokenCodes(spec, AgentModelConfig(**settings))


def observation(spec, *tokens: tuple[int, int, int]) -> torch.Tensor:
    filled = torch.full((1, spec.num_observation_tokens, 3), 255, dtype=torch.uint8)
    for index, token in enumerate(tokens):
        filled[0, index] = torch.tensor(token)
    return filled


def feature(spec, name: str) -> int:
    return spec.feature_names.index(name)


def lit(bag: SparseTokens) -> list[tuple[int, float]]:
    """(row, magnitude) of every entry that lights anything."""
    return [(int(row), float(m)) for row, m in zip(bag.rows, bag.magnitudes, strict=True) if m]


@pytest.fixture(scope="module")
def spec():
    return EnvConfig(game={"num_agents": 2, "width": 9, "height": 9}).spec


def test_a_category_has_a_channel_for_each_value_and_a_cell_its_own_rows(spec):
    table = codes(spec)
    type_id = feature(spec, "type_id")
    rows = {
        (cell, value): lit(table.bag(observation(spec, (cell, type_id, value))))
        for cell in (0x00, 0x01, 0x10, 0xAA)
        for value in (0, 1, 2)
    }
    assert all(len(entries) == 1 and entries[0][1] == 1 for entries in rows.values())
    assert len({entries[0][0] for entries in rows.values()}) == 12
    assert rows[0x01, 0][0][0] - rows[0x00, 0][0][0] == table.num_channels
    assert rows[0x10, 0][0][0] - rows[0x00, 0][0][0] == table.num_channels * spec.observation_width


def test_numbers_are_divided_by_their_scale_and_multiplied_by_obs_scale(spec):
    name, value = "episode_completion_pct", 51
    token = (spec.center, feature(spec, name), value)
    assert lit(codes(spec).bag(observation(spec, token)))[0][1] == pytest.approx(51 / 255)
    assert lit(codes(spec, obs_scale=3).bag(observation(spec, token)))[0][1] == pytest.approx(3 * 51 / 255)


def test_small_counts_of_items_have_channels_of_their_own(spec):
    table = codes(spec)
    ore = feature(spec, "inv:ore_red")
    entries = {count: lit(table.bag(observation(spec, (0x12, ore, count)))) for count in (0, 1, 2, 3, 4, 200)}
    assert entries[0] == []
    assert len({entries[count][0][0] for count in (1, 2, 3, 4)}) == 4
    assert [entries[count][0][1] for count in (1, 2, 3)] == [1, 1, 1]
    assert entries[200][0][0] == entries[4][0][0]
    assert entries[200][0][1] == pytest.approx(1 + 200 / 100)


@pytest.mark.parametrize(
    ("family", "token"),
    [
        ("grid_obs", ("elsewhere", "type_id", 2)),
        ("grid_obs", ("elsewhere", "inv:ore_red", 2)),
        ("grid_obs", ("own", "agent:orientation", 2)),
        ("inventory", ("own", "inv:ore_red", 2)),
        ("global_vars", ("own", "episode_completion_pct", 2)),
    ],
)
def test_observation_types_hide_all_other_families(spec, family, token):
    place, name, value = token
    seen = observation(spec, (spec.center if place == "own" else 0x12, feature(spec, name), value))
    others = [each for each in ("grid_obs", "inventory", "global_vars") if each != family]
    assert lit(codes(spec, observation_types=[family]).bag(seen))
    assert not lit(codes(spec, observation_types=others).bag(seen))


def test_previous_action_and_reward_are_no_part_of_the_bag(spec):
    tokens = [(spec.center, feature(spec, name), 1) for name in ("last_action", "last_action_arg", "last_reward")]
    assert not lit(codes(spec).bag(observation(spec, *tokens)))


def test_cells_outside_the_window_and_unknown_values_light_nothing(spec):
    table = codes(spec)
    outside = 0xBB  # row 11, col 11 of a window of 11 x 11
    assert not lit(table.bag(observation(spec, (outside, 0, 1))))
    assert not lit(table.bag(observation(spec, (0x11, 0, 200))))
    assert not lit(table.bag(observation(spec, (0x11, 250, 1))))


def test_bag_and_padded_tokens_are_the_same_thing(crowded_env, seen):
    table = codes(crowded_env.spec)
    frame = seen[5]
    bag = table.bag(frame)
    slow = box_of(table, frame).transpose(1, 2)
    weights = torch.randn(table.num_rows, 5)
    torch.testing.assert_close(token_sums(weights, bag), slow.flatten(1) @ weights, rtol=1e-4, atol=1e-4)


def test_the_gradient_of_a_bag_is_that_of_the_dense_product(crowded_env, seen):
    table = codes(crowded_env.spec)
    frame = seen[3]
    dense = box_of(table, frame).transpose(1, 2).flatten(1)
    incoming = torch.randn(len(frame), 7)
    gradients = []
    for product in (lambda w: token_sums(w, table.bag(frame)), lambda w: dense @ w):
        torch.manual_seed(0)
        weights = torch.randn(table.num_rows, 7, requires_grad=True)
        product(weights).backward(incoming)
        gradients.append(weights.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
    assert gradients[0].abs().sum() > 0


def test_tokens_that_light_nothing_are_left_out(spec):
    table = codes(spec)
    ore = feature(spec, "inv:ore_red")
    bag = table.bag(observation(spec, (0x11, ore, 0), (0x12, ore, 2), (0x13, 250, 1)))
    assert len(bag.rows) == len(bag.magnitudes) == 1
    assert bag.offsets.tolist() == [0]


def test_an_agent_without_tokens_gets_zeros(crowded_env):
    table = codes(crowded_env.spec)
    nothing = observation(crowded_env.spec).repeat(3, 1, 1)
    something = nothing.clone()
    something[1, 0] = torch.tensor([0x11, 0, 1])
    weights = torch.ones(table.num_rows, 2)
    assert token_sums(weights, table.bag(nothing)).tolist() == [[0, 0]] * 3
    assert token_sums(weights, table.bag(something)).tolist() == [[0, 0], [1, 1], [0, 0]]
    assert table.padded(nothing)[2].sum() == 0


def test_previous_action_reward_and_own_features_are_read_from_the_tokens(spec):
    center = spec.center
    previous = PreviousStep(spec, ["inv:heart", "agent:frozen"], obs_scale=1)
    seen = observation(
        spec,
        (center, feature(spec, "episode_completion_pct"), 9),
        (center, feature(spec, "last_action"), spec.action_names.index("rotate")),
        (center, feature(spec, "last_action_arg"), 3),
        (center, feature(spec, "last_reward"), 50),
        (center, feature(spec, "inv:heart"), 20),
        (0x11, feature(spec, "inv:heart"), 90),
    )
    assert spec.flat_actions[int(previous.previous_pair(seen))] == (spec.action_names.index("rotate"), 3)
    assert previous.previous_reward(seen).tolist() == [[0.5]]
    torch.testing.assert_close(previous.global_values(seen), torch.tensor([[0.2, 0.0]]))


def test_a_previous_action_that_cannot_be_sampled_has_an_index_of_its_own(spec):
    previous = PreviousStep(spec, [], obs_scale=1)
    noop_with_argument = observation(spec, *[(spec.center, 9, 0), (spec.center, 10, 5)])
    assert int(previous.previous_pair(noop_with_argument)) == len(spec.flat_actions)


@pytest.mark.parametrize(("orientation", "location"), [(0, 0x45), (1, 0x65), (2, 0x54), (3, 0x56)])
def test_what_is_straight_ahead(spec, orientation, location):
    table = codes(spec)
    type_id = feature(spec, "type_id")
    facing = (spec.center, feature(spec, "agent:orientation"), orientation)
    around = [(cell, type_id, 2 + n) for n, cell in enumerate((0x45, 0x65, 0x54, 0x56, 0x44, 0x35, 0x00))]
    elsewhere = (0x45, feature(spec, "agent:orientation"), 3 - orientation)
    bag = table.bag_ahead(observation(spec, facing, *around))
    expected = next(token for token in around if token[0] == location)
    assert lit(bag) == [(lit(table.bag(observation(spec, expected)))[0][0] % table.num_channels, 1.0)]
    assert lit(table.bag_ahead(observation(spec, facing, elsewhere, (location, type_id, 2))))
    assert not lit(table.bag_ahead(observation(spec, *around)))
    assert not lit(codes(spec, observation_types=["inventory"]).bag_ahead(observation(spec, facing, *around)))


def test_each_agent_has_its_own_cell_ahead(crowded_env, seen):
    table = codes(crowded_env.spec)
    frame = seen[7]
    bag = table.bag_ahead(frame)
    steps = [(-1, 0), (1, 0), (0, -1), (0, 1)]
    center = crowded_env.spec.center
    expected = []
    for tokens in frame.tolist():
        facing = next(value for location, name, value in tokens if location == center and name == table.orientation)
        row, col = ((center >> 4) + steps[facing][0], (center & 15) + steps[facing][1])
        expected.append([token for token in tokens if token[0] == (row << 4 | col)])
    rows = [
        [
            row % table.num_channels
            for token in tokens
            for row, _ in lit(table.bag(observation(crowded_env.spec, token)))
        ]
        for tokens in expected
    ]
    assert [bag.rows[bag.owners() == owner].tolist() for owner in range(len(frame))] == rows
    assert len({len(mine) for mine in rows}) > 1


def test_nothing_is_ahead_of_the_window():
    game = {"num_agents": 1, "width": 9, "height": 9, "observation_width": 1, "observation_height": 3}
    spec = EnvConfig(game=game).spec
    table = codes(spec)
    counts = []
    for orientation in (0, 1, 2, 3, 7):
        facing = (spec.center, feature(spec, "agent:orientation"), orientation)
        entities = [(cell, 0, 2) for cell in (0x00, 0x20)]
        counts.append(len(lit(table.bag_ahead(observation(spec, facing, *entities)))))
    assert counts == [1, 1, 0, 0, 0]
