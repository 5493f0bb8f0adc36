"""MettaAgent: which actions it samples, what it sees, and the effect of each field of `[agent]`."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from metta.agent.policy import make_agent
from metta.baselines.random_policy import RandomPolicy
from metta.config.agent import OBSERVATION_PROCESSORS, AgentModelConfig
from metta.config.env.env_config import EnvConfig
from metta.errors import MettaError
from metta.spaces import ActionSpace, ObservationSpace

SIZES = {"hidden_dim": 16, "mlp_layers": 1, "backbone": "mlp"}


def new_agent(env, global_features=(), **settings):
    torch.manual_seed(1)
    spaces = env.single_observation_space, env.single_action_space
    return make_agent(*spaces, list(global_features), "cpu", AgentModelConfig(**SIZES | settings))


def outputs(agent, observations):
    """Logits and values of a first step."""
    memory = agent.initial_memory(len(observations))
    logits, values, _ = agent(observations[None], memory, torch.zeros(1, len(observations), dtype=torch.bool))
    return torch.cat([logits[0], values[0, :, None]], 1).detach()


def shapes(agent):
    return [tuple(weight.shape) for weight in agent.parameters()]


def changed(observations, name, spec, value):
    """The same observations with another value in every token of a feature at the agent's own cell."""
    other = observations.clone()
    here = (observations[..., 1] == spec.feature_names.index(name)) & (observations[..., 0] == spec.center)
    assert here.any()
    other[..., 2] = torch.where(here, value, observations[..., 2])
    return other


# -- sampling ------------------------------------------------------------------------------------------


def disabled_config() -> EnvConfig:
    return EnvConfig(
        game={"num_agents": 2, "width": 8, "height": 8, "inventory_item_names": ["ore_red", "battery_red", "heart"]},
        actions=[
            {"type": "noop", "key": "noop"},
            {"type": "move", "key": "move"},
            {"type": "rotate", "key": "rotate", "enabled": False},
            {"type": "rotate", "key": "turn", "delta": 1},
            {"type": "get_items", "key": "take"},
        ],
    )


def test_only_valid_enabled_actions_are_sampled():
    config = disabled_config()
    agent = make_agent(ObservationSpace(config), ActionSpace(config), [], "cpu", AgentModelConfig(**SIZES))
    observations = torch.full((3000, config.spec.num_observation_tokens, 3), 255, dtype=torch.uint8)
    for policy in (agent, RandomPolicy(config.spec)):
        output = policy.act(observations, policy.initial_memory(3000), generator=torch.Generator().manual_seed(0))
        assert {tuple(action) for action in output.actions.tolist()} == {(0, 0), (1, 0), (1, 1), (3, 0), (4, 0)}
        assert output.actions.dtype == torch.int32
        assert torch.equal(torch.tensor(config.spec.flat_actions)[output.action_index], output.actions.long())


def test_an_environment_without_actions_is_refused():
    config = EnvConfig(actions=[{"type": "noop", "key": "noop", "enabled": False}])
    with pytest.raises(MettaError, match="no action"):
        make_agent(ObservationSpace(config), ActionSpace(config), [], "cpu", AgentModelConfig(**SIZES))


def test_deterministic_takes_the_most_likely_action(crowded_env, seen):
    agent = new_agent(crowded_env)
    logits = outputs(agent, seen[0])[:, :-1]
    output = agent.act(seen[0], agent.initial_memory(16), deterministic=True)
    assert torch.equal(output.action_index, logits.argmax(-1))


def test_random_policy_reports_its_probability(crowded_env, seen):
    policy = RandomPolicy(crowded_env.spec)
    output = policy.act(seen[0], policy.initial_memory(16))
    torch.testing.assert_close(output.log_probs.exp() * len(crowded_env.spec.flat_actions), torch.ones(16))


def test_the_shape_of_observations_is_checked(crowded_env, seen):
    agent = new_agent(crowded_env)
    with pytest.raises(ValueError, match="must be"):
        agent.act(seen[0][:, :50], agent.initial_memory(16))
    with pytest.raises(ValueError, match="must be"):
        agent.act(seen[0].int(), agent.initial_memory(16))


# -- the backbones ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["cnn", "mlp", "attention"])
@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (3, 3), (5, 5), (7, 7), (9, 9), (11, 11), (13, 13), (15, 15), (1, 15), (11, 3)]
)
def test_every_corner_of_every_window_has_an_effect(backbone, height, width):
    game = {"num_agents": 1, "width": 9, "height": 9, "observation_height": height, "observation_width": width}
    config = EnvConfig(game={**game, "num_observation_tokens": 20})
    torch.manual_seed(0)
    settings = AgentModelConfig(hidden_dim=32, mlp_layers=0, backbone=backbone)
    agent = make_agent(ObservationSpace(config), ActionSpace(config), [], "cpu", settings)
    corners = {(row, col) for row in (0, height - 1) for col in (0, width - 1)}
    observations = torch.full((len(corners) + 1, 20, 3), 255, dtype=torch.uint8)
    for index, (row, col) in enumerate(sorted(corners)):
        observations[index, 0] = torch.tensor([row << 4 | col, 0, 2])
    features = agent.backbone(observations)
    assert features.shape == (len(corners) + 1, 32)
    distances = torch.cdist(features, features) + torch.eye(len(features))
    assert distances.min() > 1e-6


def test_backbone_selects_the_network(crowded_env):
    kinds = {
        name: type(new_agent(crowded_env, backbone=name).backbone).__name__ for name in ("cnn", "mlp", "attention")
    }
    assert kinds == {"cnn": "CnnBackbone", "mlp": "MlpBackbone", "attention": "AttentionBackbone"}


@pytest.mark.parametrize("backbone", ["cnn", "attention"])
def test_the_order_of_tokens_does_not_matter(crowded_env, seen, backbone):
    agent = new_agent(crowded_env, backbone=backbone)
    observations = seen[4]
    shuffled = observations[:, torch.cat([torch.arange(4), 4 + torch.randperm(observations.shape[1] - 4)])]
    torch.testing.assert_close(outputs(agent, observations), outputs(agent, shuffled), rtol=1e-4, atol=1e-5)


def test_orthogonal_weights_and_an_almost_uniform_first_policy(crowded_env, seen):
    agent = new_agent(crowded_env, mlp_layers=2)
    weight = agent.value_head.hidden[0].weight
    torch.testing.assert_close(weight @ weight.T, 2 * torch.eye(16), rtol=1e-4, atol=1e-4)
    probabilities = outputs(agent, seen[0])[:, :-1].softmax(-1)
    assert (probabilities * probabilities.shape[1] - 1).abs().max() < 0.1


# -- a test per field: each fails if the field is ignored -----------------------------------------------------------


def test_hidden_dim(crowded_env):
    agent = new_agent(crowded_env, hidden_dim=24)
    assert agent.memory.lstm.hidden_size == 24
    assert agent.policy_head.hidden[0].out_features == 24
    assert agent.initial_memory(5).tensors["hidden"].shape == (1, 5, 24)


def test_lstm_layers(crowded_env):
    agent = new_agent(crowded_env, lstm_layers=3)
    assert agent.memory.lstm.num_layers == 3
    assert agent.initial_memory(5).tensors["cell"].shape == (3, 5, 16)


def test_mlp_layers(crowded_env):
    for layers in (0, 1, 3):
        agent = new_agent(crowded_env, mlp_layers=layers)
        for head in (agent.policy_head, agent.value_head):
            assert sum(isinstance(layer, torch.nn.Linear) for layer in head.modules()) == layers + 1


def test_forward_lstm(crowded_env, seen):
    agent = new_agent(crowded_env, forward_lstm=False)
    assert not any("lstm" in name for name, _ in agent.named_parameters())
    memory = agent.initial_memory(16)
    first = agent.act(seen[0], memory).memory
    torch.testing.assert_close(agent.value(seen[1], first), agent.value(seen[1], memory))


def test_bptt_horizon(crowded_env):
    observations = torch.from_numpy(crowded_env.reset()[0]).expand(10, -1, -1, -1)
    agents = observations.shape[1]
    values, gradients = [], []
    for horizon in (5, 10):
        agent = new_agent(crowded_env, bptt_horizon=horizon)
        _, value, _ = agent(observations, agent.initial_memory(agents), torch.zeros(10, agents, dtype=torch.bool))
        value[-1].sum().backward()
        values.append(value.detach())
        gradients.append(agent.memory.lstm.weight_hh_l0.grad)
    torch.testing.assert_close(*values)
    assert not torch.allclose(*gradients)


def test_use_prev_action(crowded_env, seen):
    spec = crowded_env.spec
    other = changed(seen[3], "last_action", spec, spec.action_names.index("change_color"))
    for used, same in ((True, False), (False, True)):
        agent = new_agent(crowded_env, use_prev_action=used)
        assert torch.equal(outputs(agent, seen[3]), outputs(agent, other)) is same


def test_use_cell_ahead(crowded_env):
    spec = crowded_env.spec
    spaces = crowded_env.single_observation_space, crowded_env.single_action_space
    tokens = torch.full((2, spec.num_observation_tokens, 3), 255, dtype=torch.uint8)
    orientation = spec.feature_names.index("agent:orientation")
    for agent, facing in enumerate((0, 1)):  # up, where something stands, and down, where nothing does
        tokens[agent, 0] = torch.tensor([spec.center, orientation, facing])
        tokens[agent, 1] = torch.tensor([spec.center - 0x10, 0, 2])
    for used in (True, False):
        agent = make_agent(*spaces, [], "cpu", AgentModelConfig(**SIZES, use_cell_ahead=used))
        with torch.no_grad():
            agent.backbone.table.zero_()  # the cell ahead remains the only input
        up, down = outputs(agent, tokens)
        assert torch.equal(up, down) is not used
        assert any("ahead" in name for name, _ in agent.named_parameters()) is used


def test_use_prev_reward(crowded_env, seen):
    other = changed(seen[3], "last_reward", crowded_env.spec, 77)
    for used, same in ((True, False), (False, True)):
        agent = new_agent(crowded_env, use_prev_reward=used)
        assert torch.equal(outputs(agent, seen[3]), outputs(agent, other)) is same


@pytest.mark.parametrize("backbone", ["cnn", "mlp", "attention"])
def test_observation_types(crowded_env, seen, backbone):
    other = changed(seen[3], "episode_completion_pct", crowded_env.spec, 200)
    for types, same in ((["grid_obs", "global_vars"], False), (["grid_obs", "inventory"], True)):
        agent = new_agent(crowded_env, backbone=backbone, observation_types=types)
        assert torch.allclose(outputs(agent, seen[3]), outputs(agent, other), atol=1e-7) is same


@pytest.mark.parametrize("backbone", ["cnn", "mlp", "attention"])
def test_dtypes_fp16(crowded_env, seen, backbone):
    whole, half = (new_agent(crowded_env, backbone=backbone, dtypes_fp16=on) for on in (False, True))
    half.load_state_dict(whole.state_dict())
    a, b = outputs(whole, seen[3]), outputs(half, seen[3])
    assert b.dtype == torch.float32
    assert not torch.equal(a, b)
    torch.testing.assert_close(a, b, rtol=0.1, atol=0.05)
    assert half.act(seen[3], half.initial_memory(16)).memory.tensors["hidden"].dtype == torch.float32


@pytest.mark.parametrize("backbone", ["cnn", "mlp", "attention"])
def test_obs_scale(crowded_env, seen, backbone):
    plain, scaled = (new_agent(crowded_env, backbone=backbone, obs_scale=scale) for scale in (1, 5))
    scaled.load_state_dict(plain.state_dict())
    assert (outputs(plain, seen[3]) - outputs(scaled, seen[3])).abs().max() > 1e-3


def test_obs_process_func(crowded_env, seen, monkeypatch):
    monkeypatch.setattr(OBSERVATION_PROCESSORS, "_registered", dict(OBSERVATION_PROCESSORS._registered))

    @OBSERVATION_PROCESSORS.register("first four tokens")
    def first_four(observations, spec):
        return observations[:, :4]

    plain = new_agent(crowded_env)
    short = new_agent(crowded_env, obs_process_func="first four tokens")
    cut = seen[3].clone()
    cut[:, 4:] = 255
    assert torch.equal(outputs(short, seen[3]), outputs(plain, cut))
    assert not torch.equal(outputs(short, seen[3]), outputs(plain, seen[3]))
    with pytest.raises(MettaError, match="choose another name"):
        OBSERVATION_PROCESSORS.register("flatten_obs_dict")(first_four)


def test_an_unknown_observation_processor_is_named_with_the_known_ones(crowded_env):
    with pytest.raises(ValidationError, match='; did you mean "flatten_obs_dict"'):
        new_agent(crowded_env, obs_process_func="flaten_obs_dict")


# analyze_weights_interval, l2_init_weight_update_interval: tests of the training loop; clip_range: tests/rl/test_ppo.py


def test_global_features(crowded_env, seen):
    agent = new_agent(crowded_env, ["inv:heart", "episode_completion_pct"], observation_types=[])
    other = changed(seen[3], "episode_completion_pct", crowded_env.spec, 200)
    assert agent.extra_inputs.in_features == 3
    assert not torch.equal(outputs(agent, seen[3]), outputs(agent, other))
    with pytest.raises(MettaError, match='unknown feature "inv:hart"; did you mean "inv:heart"'):
        new_agent(crowded_env, ["inv:hart"])


# -- weights --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["cnn", "mlp", "attention"])
def test_every_weight_gets_a_gradient_and_muon_gets_the_hidden_matrices(crowded_env, seen, backbone):
    agent = new_agent(crowded_env, ["inv:heart"], backbone=backbone, mlp_layers=2)
    action_index = torch.zeros(seen.shape[:2], dtype=torch.int64)
    evaluation = agent.evaluate_actions(
        seen, action_index, agent.initial_memory(16), torch.zeros(seen.shape[:2], dtype=torch.bool)
    )
    (evaluation.log_probs.sum() + evaluation.values.sum()).backward()
    assert [name for name, weight in agent.named_parameters() if weight.grad is None] == []
    names = {id(weight): name for name, weight in agent.named_parameters()}
    matrices = {names[id(weight)] for weight in agent.hidden_matrices()}
    assert {"memory.lstm.weight_ih_l0", "memory.lstm.weight_hh_l0", "policy_head.hidden.0.weight"} <= matrices
    assert not any("output" in name or "embedding" in name or "table" in name for name in matrices)


def test_weights_are_the_same_for_the_same_torch_seed(crowded_env):
    first, second = new_agent(crowded_env), new_agent(crowded_env)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert shapes(first) == shapes(second)
