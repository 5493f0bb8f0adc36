"""Channel, cell and magnitude of tokens, compared with a plain loop over them."""

from __future__ import annotations

import pytest
from token_encodings import feature, observation

from metta.agent.sparse_tokens import SparseTokens
from metta.agent.tokens import TokenCodes
from metta.config.agent import AgentModelConfig
from metta.config.env.env_config import EnvConfig
from metta.geometry import STEPS


def make_codes(spec, **settings) -> TokenCodes:
    return TokenCodes(spec, AgentModelConfig(**settings))


def entries_of(tokens: SparseTokens) -> list[tuple[int, float]]:
    """(row, magnitude) of every entry."""
    return [(int(row), float(m)) for row, m in zip(tokens.rows, tokens.magnitudes, strict=True) if m]


@pytest.fixture(scope="module")
def spec():
    return EnvConfig(game={"num_agents": 2, "width": 9, "height": 9}).spec


def test_a_category_has_a_channel_for_each_value_and_a_cell_its_own_rows(spec):
    codes = make_codes(spec)
    type_id = feature(spec, "type_id")
    rows = {
        (cell, value): entries_of(codes.sparse(observation(spec, (cell, type_id, value))))
        for cell in (0x00, 0x01, 0x10, 0xAA)
        for value in (0, 1, 2)
    }
    assert all(len(entries) == 1 and entries[0][1] == 1 for entries in rows.values())
    assert len({entries[0][0] for entries in rows.values()}) == 12
    assert rows[0x01, 0][0][0] - rows[0x00, 0][0][0] == codes.num_channels
    assert rows[0x10, 0][0][0] - rows[0x00, 0][0][0] == codes.num_channels * spec.observation_width


def test_numbers_are_divided_by_their_scale_and_multiplied_by_obs_scale(spec):
    token = (spec.center, feature(spec, "episode_completion_pct"), 51)
    for scale in (1.0, 3.0):
        entries = entries_of(make_codes(spec, obs_scale=scale).sparse(observation(spec, token)))
        assert entries[0][1] == pytest.approx(scale * 51 / 255)


def test_small_counts_of_items_have_separate_channels(spec):
    codes = make_codes(spec)
    ore = feature(spec, "inv:ore_red")
    entries = {count: entries_of(codes.sparse(observation(spec, (0x12, ore, count)))) for count in (0, 1, 2, 3, 4, 200)}
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
    cell, name, value = token
    seen = observation(spec, (spec.center if cell == "own" else 0x12, feature(spec, name), value))
    others = [each for each in ("grid_obs", "inventory", "global_vars") if each != family]
    assert entries_of(make_codes(spec, observation_types=[family]).sparse(seen))
    assert not entries_of(make_codes(spec, observation_types=others).sparse(seen))


def test_previous_action_and_reward_have_no_channels(spec):
    tokens = [(spec.center, feature(spec, name), 1) for name in ("last_action", "last_action_arg", "last_reward")]
    assert not entries_of(make_codes(spec).sparse(observation(spec, *tokens)))


def test_cells_outside_the_window_and_unknown_values_have_magnitude_0(spec):
    codes = make_codes(spec)
    outside = 0xBB  # row 11, col 11 of a window of 11 x 11
    assert not entries_of(codes.sparse(observation(spec, (outside, 0, 1))))
    assert not entries_of(codes.sparse(observation(spec, (0x11, 0, 200))))
    assert not entries_of(codes.sparse(observation(spec, (0x11, 250, 1))))


def test_tokens_of_magnitude_0_are_left_out(spec):
    ore = feature(spec, "inv:ore_red")
    tokens = make_codes(spec).sparse(observation(spec, (0x11, ore, 0), (0x12, ore, 2), (0x13, 250, 1)))
    assert len(tokens.rows) == len(tokens.magnitudes) == 1
    assert tokens.offsets.tolist() == [0]


@pytest.mark.parametrize(("orientation", "location"), [(0, 0x45), (1, 0x65), (2, 0x54), (3, 0x56)])
def test_the_cell_ahead(spec, orientation, location):
    codes = make_codes(spec)
    type_id = feature(spec, "type_id")
    facing = (spec.center, feature(spec, "agent:orientation"), orientation)
    around = [(cell, type_id, 2 + n) for n, cell in enumerate((0x45, 0x65, 0x54, 0x56, 0x44, 0x35, 0x00))]
    elsewhere = (0x45, feature(spec, "agent:orientation"), 3 - orientation)
    ahead = codes.sparse_ahead(observation(spec, facing, *around))
    expected = next(token for token in around if token[0] == location)
    row = entries_of(codes.sparse(observation(spec, expected)))[0][0]
    assert entries_of(ahead) == [(row % codes.num_channels, 1.0)]
    assert entries_of(codes.sparse_ahead(observation(spec, facing, elsewhere, (location, type_id, 2))))
    assert not entries_of(codes.sparse_ahead(observation(spec, *around)))
    assert not entries_of(
        make_codes(spec, observation_types=["inventory"]).sparse_ahead(observation(spec, facing, *around))
    )


def test_each_agent_has_its_own_cell_ahead(crowded_env, seen):
    codes = make_codes(crowded_env.spec)
    observations = seen[7]
    ahead = codes.sparse_ahead(observations)
    center = crowded_env.spec.center
    expected = []
    for tokens in observations.tolist():
        facing = next(value for location, name, value in tokens if location == center and name == codes.orientation)
        row, col = ((center >> 4) + STEPS[facing][0], (center & 15) + STEPS[facing][1])
        expected.append([token for token in tokens if token[0] == (row << 4 | col)])
    rows = [
        [
            row % codes.num_channels
            for token in tokens
            for row, _ in entries_of(codes.sparse(observation(crowded_env.spec, token)))
        ]
        for tokens in expected
    ]
    assert [ahead.rows[ahead.agent_index() == agent].tolist() for agent in range(len(observations))] == rows
    assert len({len(channels) for channels in rows}) > 1


def test_no_cell_is_ahead_where_the_window_ends():
    game = {"num_agents": 1, "width": 9, "height": 9, "observation_width": 1, "observation_height": 3}
    spec = EnvConfig(game=game).spec
    codes = make_codes(spec)
    counts = []
    for orientation in (0, 1, 2, 3, 7):
        facing = (spec.center, feature(spec, "agent:orientation"), orientation)
        entities = [(cell, 0, 2) for cell in (0x00, 0x20)]
        counts.append(len(entries_of(codes.sparse_ahead(observation(spec, facing, *entities)))))
    assert counts == [1, 1, 0, 0, 0]
