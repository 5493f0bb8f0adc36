"""Rewards, weights, layers, losses and gradients that are not finite stop training before a weight changes."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from tiny_runs import assert_same_state, assert_same_weights, only_learner, tiny_config, train_epoch

from metta.errors import TrainingError
from metta.rl.curricula.curriculum import Curriculum
from metta.run.training_run import TrainingRun


def learned_once(*overrides: str) -> TrainingRun:
    """A run after one epoch, so that its optimizer has a state."""
    config = tiny_config("", *overrides)
    run = TrainingRun(config, Curriculum.from_config(config))
    train_epoch(run)
    return run


@pytest.fixture
def run() -> TrainingRun:
    return learned_once()


def stops(run: TrainingRun, pattern: str) -> None:
    """Assert that the next epoch raises TrainingError and changes neither weights nor optimizer."""
    before = run.pending_checkpoint()
    with pytest.raises(TrainingError, match=pattern):
        train_epoch(run)
    after = run.pending_checkpoint()
    weights = (before.policy["weights"], after.policy["weights"])
    for name in weights[0]:
        assert np.array_equal(weights[0][name].numpy(), weights[1][name].numpy(), equal_nan=True), name
    assert_same_state(before.state.optimizer_state_dict, after.state.optimizer_state_dict)


def test_a_nonfinite_reward_stops_training(run: TrainingRun, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = only_learner(run).experience.agent_batches[-1]
    step, steps = batch.env.step, iter(range(100))

    def broken(*arguments: object, **options: object) -> tuple:
        outcome = step(*arguments, **options)
        if next(steps) == 4:
            outcome[1][5] = np.inf
        return outcome

    monkeypatch.setattr(batch.env, "step", broken)
    world = (batch.rows.start + 5) // 4
    stops(run, rf"the reward of agent 1 in world {world} is inf \(step 5 of the rollout\)")


def test_a_nonfinite_weight_stops_training(run: TrainingRun) -> None:
    name, weight = list(only_learner(run).agent.named_parameters())[-1]
    weight.data.view(-1)[0] = torch.nan
    place = r"\(update epoch 1 of 1, minibatch 1\)"
    stops(run, rf"the loss is not finite {place}: .*loss = nan.* from weight {re.escape(name)}; the weights were not")


def test_a_layer_that_overflows_is_named(run: TrainingRun) -> None:
    modules = only_learner(run).agent.named_modules()
    name, layer = next((name, layer) for name, layer in modules if isinstance(layer, torch.nn.Linear))
    run.collect()  # before the weight is changed, so that the rollout is finite
    layer.weight.data.fill_(3e38)
    before = run.pending_checkpoint()
    with pytest.raises(TrainingError, match=rf"not finite .* from the output of layer {re.escape(name)}"):
        run.update()
    assert_same_weights(before.policy["weights"], run.pending_checkpoint().policy["weights"])


def test_a_nonfinite_gradient_stops_training(run: TrainingRun) -> None:
    name, weight = next(iter(only_learner(run).agent.named_parameters()))
    weight.register_hook(lambda gradient: gradient * torch.nan)
    stops(run, rf"the gradient of .*{re.escape(name)}.* is not finite \(update epoch 1 of 1, minibatch 1\)")


def test_a_step_that_overflows_weights_stops_training(run: TrainingRun) -> None:
    for group in only_learner(run).optimizer.param_groups:
        group["lr"] = 1e39
    run.collect()
    with pytest.raises(TrainingError, match=r"made weights infinite or NaN|the loss is not finite .* from weight"):
        run.update()


def test_an_infinite_loss_is_no_early_stop() -> None:
    run = learned_once("ppo.target_kl=0.01")
    run.collect()
    only_learner(run).experience.log_probs.fill_(-1000.0)
    before = run.pending_checkpoint()
    with pytest.raises(TrainingError, match=r"the loss is not finite .*minibatch 1\): .*loss = inf"):
        run.update()
    assert_same_weights(before.policy["weights"], run.pending_checkpoint().policy["weights"])


@pytest.mark.parametrize("what", ["gradient", "loss"])
def test_the_value_head_is_restored_too(what: str) -> None:
    """The head is rescaled to new value targets before the first loss is computed."""
    run = learned_once("normalization.values=true", "normalization.value_decay=0.5")
    if what == "gradient":
        next(only_learner(run).agent.parameters()).register_hook(lambda gradient: gradient * torch.nan)
        stops(run, r"the gradient of .* is not finite .* the weights were not changed")
    else:
        run.collect()
        only_learner(run).experience.log_probs.fill_(-1000.0)
        before = run.pending_checkpoint()
        with pytest.raises(TrainingError, match=r"the loss is not finite .* the weights were not changed"):
            run.update()
        assert_same_weights(before.policy["weights"], run.pending_checkpoint().policy["weights"])
        assert_same_state(before.state.extra_args["initial_weights"], run.state().extra_args["initial_weights"])


def test_an_infinite_reward_scale_stops_training() -> None:
    run = learned_once("normalization.rewards=true")
    run.collect()
    only_learner(run).experience.reward_scaler.squares = float("inf")
    before = run.pending_checkpoint()
    with pytest.raises(TrainingError, match=r"the scale of rewards is inf \(normalization.rewards\)"):
        run.update()
    assert_same_weights(before.policy["weights"], run.pending_checkpoint().policy["weights"])
