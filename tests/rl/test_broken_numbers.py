"""Numbers that are not finite stop training before they reach the weights, and are named."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from tiny_runs import assert_same_state, assert_same_weights, tiny_config

from metta.errors import TrainingError
from metta.rl.curriculum import Curriculum
from metta.rl.training_run import TrainingRun


@pytest.fixture
def run() -> TrainingRun:
    """A run that has learned once, so that its optimizer holds something."""
    run = TrainingRun(tiny_config(), Curriculum.of_run(tiny_config()))
    run.report(run.collect(), run.update())
    return run


def stops(run: TrainingRun, pattern: str) -> None:
    """Training on is refused with these words, and changes neither weights nor optimizer."""
    before = run.snapshot()
    with pytest.raises(TrainingError, match=pattern):
        run.report(run.collect(), run.update())
    after = run.snapshot()
    weights = (before.policy["weights"], after.policy["weights"])
    for name in weights[0]:
        assert np.array_equal(weights[0][name].numpy(), weights[1][name].numpy(), equal_nan=True), name
    assert_same_state(before.state.optimizer_state_dict, after.state.optimizer_state_dict)


def test_a_reward(run: TrainingRun, monkeypatch: pytest.MonkeyPatch) -> None:
    group = run.experience.groups[-1]
    step, steps = group.env.step, iter(range(100))

    def broken(*arguments: object, **options: object) -> tuple:
        outcome = step(*arguments, **options)
        if next(steps) == 4:
            outcome[1][5] = np.inf
        return outcome

    monkeypatch.setattr(group.env, "step", broken)
    world = (group.rows.start + 5) // 4
    stops(run, rf"the reward of agent 1 in world {world} is inf \(step 5 of the rollout\)")


def test_a_weight(run: TrainingRun) -> None:
    name, weight = list(run.agent.named_parameters())[-1]
    weight.data.view(-1)[0] = torch.nan
    place = r"\(update epoch 1 of 1, minibatch 1\)"
    stops(run, rf"the loss is not finite {place}: .*loss = nan.* from weight {re.escape(name)}; the weights were left")


def test_a_layer(run: TrainingRun) -> None:
    name, layer = next((name, layer) for name, layer in run.agent.named_modules() if isinstance(layer, torch.nn.Linear))
    run.collect()  # with weights that still work
    layer.weight.data.fill_(3e38)
    before = run.snapshot()
    with pytest.raises(TrainingError, match=rf"not finite .* from the output of layer {re.escape(name)}"):
        run.update()
    assert_same_weights(before.policy["weights"], run.snapshot().policy["weights"])


def test_a_gradient(run: TrainingRun) -> None:
    name, weight = next(iter(run.agent.named_parameters()))
    weight.register_hook(lambda gradient: gradient * torch.nan)
    stops(run, rf"a gradient is not finite \(update epoch 1 of 1, minibatch 1\): of .*{re.escape(name)}")


def test_a_step_that_is_too_long_is_named_before_anything_is_saved(run: TrainingRun) -> None:
    for group in run.optimizer.param_groups:
        group["lr"] = 1e39
    run.collect()
    with pytest.raises(TrainingError, match=r"made weights infinite or NaN|the loss is not finite .* from weight"):
        run.update()
