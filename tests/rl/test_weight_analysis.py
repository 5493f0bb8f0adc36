"""Weight analysis: norms, effective ranks and dead units, worked out by hand."""

from __future__ import annotations

import pytest
import torch

from metta.rl.rollout import rollout
from metta.rl.weight_analysis import analyze_weights, effective_rank


def test_effective_rank_by_hand():
    assert effective_rank(torch.eye(5)) == pytest.approx(5)
    assert effective_rank(torch.outer(torch.arange(1.0, 5), torch.arange(1.0, 8))) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.zeros(3, 4)) == 0
    # singular values 3 and 1: entropy of 3/4, 1/4
    expected = 2 * 2 ** (1 - 0.75 * torch.tensor(3.0).log2())
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(float(expected))


@pytest.mark.parametrize("backbone", ["cnn", "mlp", "attention"])
def test_every_matrix_and_every_layer_of_units_is_reported(set_up, backbone):
    agent, experience = set_up(agent={"backbone": backbone}, async_factor=2)
    rollout(experience, agent)
    report = analyze_weights(agent, experience)
    weight = agent.memory.lstm.weight_hh_l0
    assert report["memory.lstm.weight_hh_l0/norm"] == pytest.approx(weight.detach().norm().item())
    matrices = {name for name, weight in agent.named_parameters() if weight.ndim > 1}
    assert {name.split("/")[0] for name in report if name.endswith("effective_rank")} == matrices
    assert {name for name in report if name.startswith("policy_head") and name.endswith("dead")} == {
        "policy_head.hidden.1/dead"
    }
    assert all(isinstance(value, float) for value in report.values())


def test_units_that_never_fire_are_dead(set_up):
    agent, experience = set_up()
    rollout(experience, agent)
    assert analyze_weights(agent, experience)["value_head.hidden.1/dead"] < 0.5
    with torch.no_grad():
        agent.value_head.hidden[0].bias[:12] = -1e6
    report = analyze_weights(agent, experience)
    assert report["value_head.hidden.1/dead"] == pytest.approx(12 / 16, abs=4 / 16)
    assert report["value_head.hidden.1/dead"] >= 12 / 16
    assert not any(module._forward_hooks for module in agent.modules())
