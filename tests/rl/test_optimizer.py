"""Optimizers, learning-rate schedules and gradient statistics, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from metta.config.training import OptimizerConfig
from metta.errors import MettaError
from metta.rl.optimizer import compute_gradient_stats, make_lr_scheduler, make_optimizer

TYPES = ["adam", "muon"]


def step(agent, optimizer, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for weight in agent.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator)
    optimizer.step()


def weights(agent):
    return torch.nn.utils.parameters_to_vector(agent.parameters()).detach().clone()


def after_steps(set_up, count=2, **settings):
    agent, _ = set_up()
    optimizer = make_optimizer(agent, OptimizerConfig(**settings))
    for seed in range(count):
        step(agent, optimizer, seed)
    return weights(agent)


def test_the_defaults_are_adam_with_the_documents_numbers(set_up):
    optimizer = make_optimizer(set_up()[0])
    assert isinstance(optimizer, torch.optim.Adam)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (0.000457, (0.9, 0.999), 1e-12, 0)


@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize(
    ("field", "value"), [("learning_rate", 0.1), ("beta1", 0.5), ("beta2", 0.5), ("eps", 0.1), ("weight_decay", 0.1)]
)
def test_each_setting_changes_the_step(set_up, type_, field, value):
    assert not torch.allclose(after_steps(set_up, type=type_), after_steps(set_up, **{"type": type_, field: value}))


def test_type_names_the_optimizer(set_up):
    assert not torch.allclose(after_steps(set_up, type="adam"), after_steps(set_up, type="muon"))


def test_muon_takes_the_hidden_matrices_and_adamw_the_rest(set_up):
    agent, _ = set_up()
    optimizer = make_optimizer(agent, OptimizerConfig(type="muon", beta1=0.8))
    assert isinstance(optimizer, torch.optim.Optimizer)
    muon, adamw = optimizer.param_groups
    assert {id(weight) for weight in muon["params"]} == {id(weight) for weight in agent.hidden_matrices()}
    assert len(muon["params"]) + len(adamw["params"]) == len(list(agent.parameters()))
    assert muon["momentum"] == 0.8
    assert adamw["betas"] == (0.8, 0.999)
    before = agent.memory.lstm.weight_hh_l0.detach().clone()
    step(agent, optimizer)
    change = agent.memory.lstm.weight_hh_l0.detach() - before
    singular = torch.linalg.svdvals(change)
    assert singular.min() > 0.5 * singular.max()  # Muon's update is nearly orthogonal
    assert float(change.square().mean().sqrt()) < 0.000457


@pytest.mark.parametrize("type_", TYPES)
def test_saved_and_loaded_it_continues_bit_identically(set_up, type_):
    config = OptimizerConfig(type=type_, learning_rate=0.01)
    agent, _ = set_up()
    optimizer = make_optimizer(agent, config)
    scheduler = make_lr_scheduler(optimizer, 100, 10)
    step(agent, optimizer)
    scheduler.step()
    saved = [agent.state_dict(), optimizer.state_dict(), scheduler.state_dict()]
    saved = [
        {**state} for state in torch.utils._pytree.tree_map(lambda x: x.clone() if torch.is_tensor(x) else x, saved)
    ]
    for seed in (1, 2):
        step(agent, optimizer, seed)
        scheduler.step()
    fresh, _ = set_up()
    fresh_optimizer = make_optimizer(fresh, config)
    fresh_scheduler = make_lr_scheduler(fresh_optimizer, 100, 10)
    for part, state in zip((fresh, fresh_optimizer, fresh_scheduler), saved, strict=True):
        part.load_state_dict(state)
    for seed in (1, 2):
        step(fresh, fresh_optimizer, seed)
        fresh_scheduler.step()
    assert torch.equal(weights(agent), weights(fresh))


@pytest.mark.parametrize("type_", TYPES)
def test_a_schedule_moves_every_group(set_up, type_):
    agent, _ = set_up()
    optimizer = make_optimizer(agent, OptimizerConfig(type=type_, learning_rate=1.0))
    scheduler = make_lr_scheduler(optimizer, total_timesteps=40, batch_size=10)
    before = weights(agent)
    for _ in range(4):
        step(agent, optimizer)
        scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0] * len(optimizer.param_groups)
    ended = weights(agent)
    step(agent, optimizer)
    assert torch.equal(weights(agent), ended)
    assert not torch.equal(before, ended)


def rates(batches, **settings):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = make_lr_scheduler(optimizer, **settings)
    seen = []
    for _ in range(batches):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_linear_by_hand():
    assert rates(5, total_timesteps=400, batch_size=100) == [2.0, 1.5, 1.0, 0.5, 0.0]
    assert rates(4, total_timesteps=301, batch_size=100)[1] == 1.5


def test_cosine_by_hand():
    expected = [1 + math.cos(math.pi * n / 4) for n in range(5)]
    assert rates(5, total_timesteps=400, batch_size=100, schedule_type="cosine") == pytest.approx(expected)


def test_warm_up_by_hand():
    expected = [2 / 3, 4 / 3, 2.0, 1.5, 1.0, 0.5, 0.0, 0.0]
    assert rates(8, total_timesteps=600, batch_size=100, warmup_steps=150) == pytest.approx(expected)


def test_no_annealing_no_scheduler():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    assert make_lr_scheduler(optimizer, 100, 10, anneal_lr=False) is None


def test_an_unknown_schedule_is_refused():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(MettaError, match='unknown "exponential"; known: cosine, linear'):
        make_lr_scheduler(optimizer, 100, 10, schedule_type="exponential")
    with pytest.raises(MettaError, match="at least 1"):
        make_lr_scheduler(optimizer, 100, 0)
    with pytest.raises(MettaError, match="warmup_steps must be at least 0; got -1"):
        make_lr_scheduler(optimizer, 100, 10, -1)


def test_gradient_stats_by_hand():
    model = torch.nn.ParameterList([torch.nn.Parameter(torch.tensor(values)) for values in ([3.0, 4.0], [5.0], [1.0])])
    model[0].grad = torch.tensor([0.0, 2.0])
    model[1].grad = torch.tensor([-4.0])
    assert compute_gradient_stats(model) == {
        "grad_norm_mean": 3.0,
        "grad_norm_max": 4.0,
        "grad_norm_min": 2.0,
        "param_norm_mean": pytest.approx(11 / 3),
    }
    model.zero_grad()
    assert compute_gradient_stats(model)["grad_norm_max"] == 0
