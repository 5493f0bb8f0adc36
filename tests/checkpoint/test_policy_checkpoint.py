"""Policy checkpoints: saving and loading, policies that do not fit, and damaged or malicious files."""

from __future__ import annotations

import io
import pickle
import random
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metta.api import (
    AgentModelConfig,
    EnvConfig,
    MettaAgent,
    evaluate,
    load_checkpoint,
    load_policy,
    make_agent,
    make_environment,
    save_checkpoint,
)
from metta.checkpoint.file_format import read_torch_file, write_torch_file
from metta.checkpoint.policy_file import KIND
from metta.config.agent import OBSERVATION_PROCESSORS
from metta.errors import CheckpointError, RenamedKeyWarning, UsageError
from metta.world.env import MettaGridEnv

ENV = EnvConfig.model_validate(
    {
        "game": {"num_agents": 2, "width": 7, "height": 7, "max_steps": 10, "num_observation_tokens": 40}
        | {"observation_width": 5, "observation_height": 5},
        "map_builder": {"border_width": 1, "objects": {"mine_red": 2}},
    }
)


def agent_for(env_config: EnvConfig = ENV, seed: int = 0, **settings: Any) -> MettaAgent:
    env = make_environment(env_config, seed=0)
    torch.manual_seed(seed)
    config = AgentModelConfig(**{"hidden_dim": 8, "mlp_layers": 1} | settings)
    return make_agent(env.single_observation_space, env.single_action_space, [], torch.device("cpu"), config)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_checkpoint(agent_for(), tmp_path, epoch=100, metadata={"total_steps": 1000000, "note": ["a", (1, 2.5), None]})
    return tmp_path / "checkpoint_000100.pt"


def test_loading_restores_weights_and_metadata(path: Path) -> None:
    other = agent_for(seed=1)
    metadata = load_checkpoint(other, path)
    assert metadata == {"total_steps": 1000000, "note": ["a", (1, 2.5), None], "epoch": 100}
    for name, weight in agent_for().state_dict().items():
        assert torch.equal(weight, other.state_dict()[name])


def test_torch_reads_it_with_weights_only(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    assert content["format"] == KIND
    assert content["env_config"]["game"]["width"] == 7
    assert content["agent_config"]["hidden_dim"] == 8


def test_load_policy_rebuilds_agent_and_environment(path: Path) -> None:
    policy = load_policy(path)
    assert policy.agent.env_config == ENV
    assert policy.agent.config == agent_for().config
    mine, theirs = (evaluate(agent, make_environment(ENV), 3) for agent in (agent_for(), policy.agent))
    assert mine.summary() == theirs.summary()
    assert mine.stats == theirs.stats


def test_saving_creates_the_directory_and_one_file(tmp_path: Path) -> None:
    save_checkpoint(agent_for(), str(tmp_path / "a" / "b"))
    assert [entry.name for entry in (tmp_path / "a" / "b").iterdir()] == ["checkpoint_000000.pt"]


def test_metadata_of_custom_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="policy checkpoint, metadata, path is a PosixPath; it must be a tensor"):
        save_checkpoint(agent_for(), tmp_path, metadata={"path": tmp_path})
    assert not list(tmp_path.iterdir())


def test_a_failed_write_keeps_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(agent_for(seed=1), path.parent, epoch=100)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("make", "difference"),
    [
        (lambda: agent_for(hidden_dim=16), "agent.hidden_dim is 16 here and 8 in the file"),
        (lambda: agent_for(obs_scale=2.0), "agent.obs_scale is 2.0 here and 1.0 in the file"),
        (lambda: agent_for(forward_lstm=False), "agent.forward_lstm is False here and True in the file"),
        (lambda: agent_for(ENV.override(observation_width=7)), "observation_width is 7 here and 5 in the file"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused(path: Path, make: Callable[[], MettaAgent], difference: str) -> None:
    agent = make()
    before = {name: weight.clone() for name, weight in agent.state_dict().items()}
    with pytest.raises(CheckpointError, match=re.escape(f"{path} does not fit this agent: {difference}")):
        load_checkpoint(agent, path)
    assert all(torch.equal(weight, before[name]) for name, weight in agent.state_dict().items())


ANOTHER_VALUE: dict[str, Any] = {
    "hidden_dim": 12,
    "memory": "mingru",
    "memory_window": 3,
    "lstm_layers": 2,
    "mlp_layers": 2,
    "critic": "group",
    "backbone": "attention",
    "bptt_horizon": 2,
    "forward_lstm": False,
    "clip_range": 0.1,
    "use_prev_action": False,
    "use_prev_reward": False,
    "use_cell_ahead": False,
    "egocentric": True,
    "mask_actions": True,
    "observation_types": ["inventory"],
    "dtypes_fp16": True,
    "obs_scale": 2.0,
    "obs_process_func": "first five tokens",
    "analyze_weights_interval": 1,
    "l2_init_weight_update_interval": 1,
}
"""For every field of `[agent]`, a value that differs from its default."""


def first_step(agent: MettaAgent) -> torch.Tensor:
    """`[agents, actions + 1]`: logits and values of a first step, in which agents face all four ways."""
    env = MettaGridEnv(ENV, num_worlds=8, seed=0)
    env.reset(seed=3)
    rotate = env.spec.action_names.index("rotate")
    observations, *_ = env.step(np.array([(rotate, row % 4) for row in range(env.agents)]))
    starts = torch.zeros(1, env.agents, dtype=torch.bool)
    with torch.no_grad():
        logits, values, _ = agent(torch.from_numpy(observations)[None], agent.initial_memory(env.agents), starts)
    return torch.cat([logits[0], values[0, :, None]], -1)


@pytest.mark.parametrize("field", AgentModelConfig.model_fields)
def test_every_agent_field_that_shapes_the_function_is_compared(
    field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OBSERVATION_PROCESSORS, "_registered", dict(OBSERVATION_PROCESSORS._registered))
    OBSERVATION_PROCESSORS.register("first five tokens")(lambda tokens, spec: tokens[:, :5])
    used = {"memory": "attention"} if field == "memory_window" else {}
    saved, other = agent_for(**used), agent_for(**used, **{field: ANOTHER_VALUE[field]})
    with torch.no_grad():
        for weight in saved.parameters():
            weight += 0.5 * torch.randn_like(weight)
    weights = saved.state_dict()
    has_same_weights = {name: weight.shape for name, weight in other.state_dict().items()} == {
        name: weight.shape for name, weight in weights.items()
    }
    if has_same_weights:
        other.load_state_dict(weights)
    expected, found = first_step(saved), first_step(other)
    is_same_function = has_same_weights and bool((found - expected).norm() < 0.1 * expected.norm())  # bfloat16 rounds
    assert is_same_function is (field in AgentModelConfig.TRAINING_FIELDS)
    save_checkpoint(saved, tmp_path)
    if is_same_function:
        load_checkpoint(other, tmp_path / "checkpoint_000000.pt")
    else:
        with pytest.raises(CheckpointError, match=rf"does not fit this agent: agent\.{field} is "):
            load_checkpoint(other, tmp_path / "checkpoint_000000.pt")


def test_agent_counts_and_training_settings_may_differ(path: Path) -> None:
    agent = agent_for(ENV.override(num_agents=4, width=9), clip_range=0.1, bptt_horizon=3)
    assert load_checkpoint(agent, path)["epoch"] == 100


def test_messages_for_files_that_are_no_checkpoints(path: Path, tmp_path: Path) -> None:
    def answer(file: Path) -> str:
        with pytest.raises(CheckpointError) as caught:
            load_policy(file)
        return str(caught.value)

    assert answer(tmp_path / "none.pt") == f"{tmp_path / 'none.pt'} does not exist"
    assert answer(tmp_path) == f"{tmp_path} is a directory; name a checkpoint in it, such as {path}"
    text = tmp_path / "text.pt"
    text.write_text("[run]\n")
    assert answer(text) == f"{text} is not a metta file; metta files are torch files"
    torch.save({"model": torch.zeros(3)}, text)
    assert answer(text) == f"{text} is a torch file of another program, not a {KIND}"
    torch.save({"format": KIND, "format_version": 99}, text)
    assert answer(text) == f"{text} has format 99; this metta reads format 1; update metta to read it"
    torch.save({"format": KIND, "format_version": 1, "epoch": 1}, text)
    assert answer(text) == f"{text} is not a valid {KIND}: metadata: Field required"


class Bomb:
    """A pickle that would write a file."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_a_pickle_with_code_does_not_run(path: Path, tmp_path: Path) -> None:
    target, file = tmp_path / "was here", tmp_path / "bomb.pt"
    torch.save({"format": KIND, "format_version": 1, "weights": Bomb(target)}, file)
    with pytest.raises(CheckpointError, match="contains more than tensors, numbers and text; it may run code"):
        load_policy(file)
    file.write_bytes(pickle.dumps(Bomb(target)))
    with pytest.raises(CheckpointError, match="is a pickle, not a metta file; it may run code"):
        load_policy(file)
    assert not target.exists()


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    file = tmp_path / "bomb.pt"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 24))
    with pytest.raises(CheckpointError, match=r"metta files are torch files$"):
        load_policy(file)


def test_flipped_bits_and_cut_files_are_detected(path: Path, tmp_path: Path) -> None:
    content = path.read_bytes()
    whole = load_policy(path).agent.state_dict()
    generator = random.Random(0)
    file, refused = tmp_path / "damaged.pt", 0
    for _ in range(150):
        damaged = bytearray(content)
        damaged[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        file.write_bytes(damaged)
        try:
            weights = load_policy(file).agent.state_dict()
        except CheckpointError:
            refused += 1
        else:  # the bit was in the padding between the parts
            assert all(torch.equal(weight, weights[name]) for name, weight in whole.items())
    assert refused > 100
    for length in (1, 10, 100, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"damaged or truncated|is not a metta file"):
            load_policy(file)


def test_random_pickle_opcodes_are_refused(path: Path, tmp_path: Path) -> None:
    """Random opcodes in an archive with correct checksums, so that the unpickler has to refuse them."""
    generator = random.Random(1)
    file = tmp_path / "nonsense.pt"
    with zipfile.ZipFile(path) as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    name = next(name for name in parts if name.endswith("data.pkl"))
    for _ in range(150):
        nonsense = bytearray(parts[name])
        for _ in range(generator.randrange(1, 6)):
            nonsense[generator.randrange(len(nonsense))] = generator.randrange(256)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for part, data in parts.items():
                archive.writestr(part, bytes(nonsense) if part == name else data)
        file.write_bytes(buffer.getvalue())
        try:
            load_policy(file)
        except CheckpointError:
            continue


@pytest.mark.parametrize("off", ["use_cell_ahead", "use_prev_action", "use_prev_reward", "forward_lstm"])
@pytest.mark.parametrize("backbone", ["cnn", "mlp", "attention"])
def test_policies_without_an_optional_input_load(set_up, tmp_path, backbone, off):
    agent, _ = set_up(agent={off: False, "backbone": backbone})
    save_checkpoint(agent, tmp_path)
    loaded = load_policy(tmp_path / "checkpoint_000000.pt").agent
    for name, weight in agent.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name


def test_old_names_of_agent_settings_load_with_a_notice(tmp_path: Path) -> None:
    save_checkpoint(agent_for(egocentric=True), tmp_path)
    path = tmp_path / "checkpoint_000000.pt"
    content = read_torch_file(path, KIND)
    content["agent_config"]["own_frame"] = content["agent_config"].pop("egocentric")
    write_torch_file(path, KIND, content)
    with pytest.warns(RenamedKeyWarning, match=r"agent\.own_frame is now agent\.egocentric"):
        assert load_policy(path).agent.config.egocentric
