"""`metta check`: the numbers derived from a config, their reasons, and the warnings."""

import pytest
import torch

from metta.agent.policy import make_agent
from metta.config.agent import BACKBONES, MEMORIES
from metta.config.batch_plan import BatchPlan, plan_batch
from metta.config.loading.load import load_config, load_tasks, parse_config
from metta.config.loading.presets import presets
from metta.config.plan.check import check_text, derived
from metta.config.plan.memory_estimate import crowded_tokens, experience_bytes
from metta.config.run import RunConfig
from metta.config.training import ExperienceConfig
from metta.errors import ConfigError
from metta.rl.experience import make_experience_manager
from metta.spaces import ActionSpace, ObservationSpace
from metta.world.env import MettaGridEnv
from metta.world.observation.packed import PackedObservations


def rows(text: str) -> dict[str, str]:
    return {row.name: row.value for row in derived(parse_config(text, "a.toml")) if not row.is_warning}


def warnings(text: str) -> list[str]:
    return [row.reason for row in derived(parse_config(text, "a.toml")) if row.is_warning]


def plan(batch: int, minibatch: int, horizon: int, agents: int, **settings: int) -> BatchPlan:
    sizes = {"batch_size": batch, "minibatch_size": minibatch, "bptt_horizon": horizon}
    return plan_batch(ExperienceConfig.model_validate(sizes | settings), agents)


@pytest.mark.parametrize(
    ("found", "worlds", "segments_per_agent", "groups", "collected"),
    [
        (plan(524_288, 16_384, 64, 64), 128, 1, 2, 524_288),
        (plan(32_768, 4096, 16, 24), 85, 1, 2, 32_640),
        (plan(32_768, 4096, 64, 24), 21, 1, 2, 32_256),
        (plan(16_384, 4096, 16, 8), 128, 1, 2, 16_384),
        # more segments than fit into a forward pass: several per agent
        (plan(16_384, 4096, 16, 8, forward_pass_minibatch_target_size=64), 16, 8, 2, 16_384),
        (plan(16_384, 4096, 16, 8, forward_pass_minibatch_target_size=64, async_factor=1), 8, 16, 1, 16_384),
        # at least one world, however large
        (plan(4096, 4096, 64, 64), 1, 1, 1, 4096),
        (plan(4096, 4096, 64, 64, forward_pass_minibatch_target_size=1), 1, 1, 1, 4096),
    ],
)
def test_the_plan_of_a_batch(
    found: BatchPlan, worlds: int, segments_per_agent: int, groups: int, collected: int
) -> None:
    assert (found.num_worlds, found.segments_per_agent, found.num_world_batches, found.batch_size) == (
        worlds,
        segments_per_agent,
        groups,
        collected,
    )


@pytest.mark.parametrize("agents", [1, 3, 7, 24, 64, 100])
@pytest.mark.parametrize("target", [1, 100, 4096])
def test_a_plan_never_asks_for_more_than_the_batch_and_wastes_less_than_a_world(agents: int, target: int) -> None:
    found = plan(65_536, 4096, 16, agents, forward_pass_minibatch_target_size=target)
    assert found.batch_size <= 65_536
    assert 65_536 - found.batch_size < found.segments_per_agent * agents * 16
    assert found.agents <= max(2 * target, agents) + agents
    assert 1 <= found.num_world_batches <= found.num_worlds


def test_the_numbers_of_quickstart() -> None:
    text = "env.game.num_agents = 8\nexperience = { batch_size = 16384, minibatch_size = 4096, bptt_horizon = 16 }"
    assert rows(text + "\nrun.total_timesteps = 1_500_000") == {
        "map": "64 x 64",
        "agents per world": "8",
        "episode": "1,000",
        "observation": "200 x 3",
        "actions": "25",
        "worlds": "128",
        "agents": "1,024",
        "world batches": "2",
        "workers": "0",
        "agents per forward pass": "512",
        "segments per agent": "1",
        "segments": "1,024",
        "steps per epoch": "16,384",
        "minibatches": "4",
        "gradient steps per epoch": "4",
        "epochs": "92",
        "gradient steps": "368",
        "discount horizon": "43",
        "weights": "12,926,234",
        "experience": "13.7 MiB",
        "memory of worlds": "11.9 MiB",
        "memory of policy": "444 MiB",
        "memory of learning": "530 MiB",
        "memory in total": "999 MiB",
    }


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (
            "env.game.num_agents = 24\nexperience = { batch_size = 32768, minibatch_size = 4096 }",
            "experience.batch_size = 32,768 is rounded down to 32,256: "
            "21 whole worlds x 24 agents x 1 segments x 64 steps",
        ),
        (
            "experience = { batch_size = 4096, minibatch_size = 4096 }",
            "experience.async_factor = 2 is reduced to 1: there is only 1 world",
        ),
        (
            "env.game.num_agents = 24\nexperience = { batch_size = 32256, minibatch_size = 4032, workers = 23 }",
            "experience.workers = 23 is reduced to 20: a world batch has only 10 worlds",
        ),
        (
            "env.game = { max_steps = 0, episode_lifetime = 0 }",
            "episodes never end: env.game.max_steps and env.game.episode_lifetime are both 0",
        ),
        (
            "env.game.episode_lifetime = 500",
            "env.game.max_steps = 1000 never truncates an episode: episode_lifetime = 500 ends it earlier",
        ),
        ("run.total_timesteps = 1000", "run.total_timesteps = 1,000 is less than one epoch of 524,288 steps"),
        (
            "agent.bptt_horizon = 128",
            "agent.bptt_horizon = 128 has no effect: segments have experience.bptt_horizon = 64 steps",
        ),
        (
            "agent.memory_window = 8",
            'agent.memory_window = 8 has no effect: agent.memory = "lstm" has no window',
        ),
        (
            "lr_schedule.warmup_steps = 10_000_000",
            "lr_schedule.warmup_steps = 10,000,000 exceeds the run of 10,000,000 steps: "
            "the learning rate never reaches its full value",
        ),
    ],
)
def test_settings_without_effect_get_a_warning(text: str, warning: str) -> None:
    assert warnings(text) == [warning]


def test_defaults_give_no_warning() -> None:
    assert warnings("") == []


def test_without_lstm_its_horizon_does_not_matter() -> None:
    assert warnings("agent = { bptt_horizon = 128, forward_lstm = false }") == []


def test_numbers_are_those_of_the_scenes() -> None:
    text = 'curriculum.scenes = ["simple", "/env/mettagrid/simple"]'
    found = [(row.name, row.value) for row in derived(parse_config(text, "a.toml"))]
    assert found.count(("map", "53 x 53")) == 2
    assert ("agents per world", "24") in found
    assert ("agents per world", "64") not in found


def test_scenes_that_do_not_exist_or_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match='there is no preset or file "nope"'):
        derived(parse_config('curriculum.scenes = ["nope"]', "a.toml"))
    small = 'curriculum.scenes = ["simple"]\nexperience = { batch_size = 1024, minibatch_size = 1024 }'
    with pytest.raises(ConfigError, match="24 agents x bptt_horizon 64 = 1536; got 1024"):
        derived(parse_config(small, "a.toml"))


def test_the_world_of_the_file_is_named_not_that_of_a_bucket() -> None:
    text = """
    env.game.max_steps = 300
    curriculum.buckets."game.max_steps" = { values = [50, 100] }
    curriculum.buckets."game.width" = { values = [30, 90] }
    """
    found = rows(text)
    assert (found["episode"], found["map"], found["tasks"]) == ("300", "64 x 64", "4")
    worlds = next(row for row in derived(parse_config(text, "a.toml")) if row.name == "memory of worlds")
    assert f"worlds of {64 * 90:,} cells" in worlds.reason  # those of the largest task


@pytest.mark.parametrize("backbone", BACKBONES.built_in)
@pytest.mark.parametrize("preset", [preset.name for preset in presets()])
def test_the_weights_are_those_of_the_policy_with_every_backbone(preset: str, backbone: str) -> None:
    config = load_config(preset, [f"agent.backbone={backbone}"])
    (weights,) = {row.number for row in derived(config) if row.name.rpartition(": ")[2] == "weights"}
    world = load_tasks(config).env_configs[0]
    agent = make_agent(ObservationSpace(world), ActionSpace(world), [], torch.device("cpu"), config.agent)
    assert weights == sum(weight.numel() for weight in agent.parameters())


@pytest.mark.parametrize(
    ("sizes", "is_one"),
    [
        ("batch_size = 64, minibatch_size = 1, bptt_horizon = 1", True),
        ("batch_size = 64, minibatch_size = 2, bptt_horizon = 1", False),
        ("batch_size = 64, minibatch_size = 2, bptt_horizon = 2", False),
    ],
)
def test_minibatches_of_one_step_get_a_warning(sizes: str, is_one: bool) -> None:
    text = f"env.game.num_agents = 4\nagent.bptt_horizon = 1\nexperience = {{ {sizes} }}"
    sentence = (
        "minibatches of one step have a single advantage, which cannot be normalized: "
        "raise experience.minibatch_size, or set ppo.norm_adv = false"
    )
    assert (sentence in warnings(text)) == is_one
    assert sentence not in warnings(f"{text}\nppo.norm_adv = false")


@pytest.mark.parametrize("preset", ["quickstart", "simple", "default"])
def test_the_text_is_a_config_itself(preset: str) -> None:
    config = load_config(preset)
    assert parse_config(check_text(config), "check.toml") == config


@pytest.mark.parametrize(
    "settings",
    [
        {"forward_lstm": False, "critic": "group"},
        *({"memory": memory, "mask_actions": True} for memory in MEMORIES.built_in),
    ],
)
def test_the_estimate_of_experience_is_exact_but_for_the_number_of_tokens(settings: dict[str, object]) -> None:
    config = RunConfig.model_validate(
        {
            "env": {"game": {"num_agents": 3, "width": 12, "height": 12, "num_observation_tokens": 50}},
            "agent": {"hidden_dim": 16, "lstm_layers": 2} | settings,
            "experience": {"batch_size": 384, "minibatch_size": 192, "bptt_horizon": 8},
        }
    )
    agent = make_agent(ObservationSpace(config.env), ActionSpace(config.env), [], torch.device("cpu"), config.agent)
    experience = make_experience_manager(MettaGridEnv(config.env), agent, config.experience)
    arrays = [value for value in vars(experience).values() if isinstance(value, torch.Tensor)]
    store = experience.observations
    taken = sum(array.nbytes for array in [*arrays, *experience.segment_memories.values(), store.offsets])
    taken += (len(store.offsets) - 1) * 3 * crowded_tokens(config.env.spec)
    plan = plan_batch(config.experience, 3)
    advantages = plan.batch_size * 4
    assert experience_bytes(config, plan, config.env.spec) == taken + advantages


@pytest.mark.parametrize("preset", ["cooperation", "object_use", "memory", "quickstart", "foraging"])
def test_observations_of_presets_have_at_most_about_as_many_tokens_as_are_expected(preset: str) -> None:
    env = MettaGridEnv(load_config(preset).env, 4, seed=0)
    packed = PackedObservations(env.agents, env.spec.num_observation_tokens)
    env.reset(out=packed)
    expected = crowded_tokens(env.spec)
    assert expected / 4 < packed.counts.mean() < 1.25 * expected
    assert expected < env.spec.num_observation_tokens


def test_the_critic_is_shown_with_minibatches_of_whole_worlds() -> None:
    text = "env.game.num_agents = {}\nagent.critic = 'world'\n"
    text += "experience = {{ batch_size = 384, minibatch_size = 64, bptt_horizon = 8 }}"
    # of 6 agents: 48 segments, which are 8 worlds with a segment of each agent, in 6 minibatches
    for agents, minibatches in ((6, "6"), (8, "6"), (1, "6")):
        found = rows(text.format(agents))
        assert (found["critic"], found["minibatches"]) == ("world", minibatches)
        assert any("reads nothing more" in warning for warning in warnings(text.format(agents))) == (agents == 1)
    assert "critic" not in rows("env.game.num_agents = 6")


@pytest.mark.parametrize("mask_actions", [True, False])
def test_action_masks_are_shown_if_the_policy_uses_them(mask_actions: bool) -> None:
    config = parse_config(f"agent.mask_actions = {str(mask_actions).lower()}", "masks.toml")
    assert ("action masks" in {row.name for row in derived(config)}) == mask_actions
