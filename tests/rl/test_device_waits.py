"""Training on a device other than the CPU waits for it only to fetch actions and statistics."""

from __future__ import annotations

import pytest
import torch
from meta_device import META, WaitError, forbidden_waits
from tiny_runs import TINY, only_learner

from metta.agent.devices import HostCopy, to_device
from metta.config.loading.load import parse_config
from metta.rl.curricula.curriculum import Curriculum
from metta.run.training_run import TrainingRun

TRAININGS = {
    "cnn, lstm": (),
    "mlp, lstm of two layers": ('agent.backbone="mlp"', "agent.lstm_layers=2"),
    "attention, mingru": ('agent.backbone="attention"', 'agent.memory="mingru"'),
    "cnn, attention": ('agent.memory="attention"', "agent.memory_window=4"),
    "no memory": ("agent.forward_lstm=false",),
    "egocentric": ("agent.egocentric=true", 'agent.backbone="mlp"'),
    "few inputs": ("agent.use_cell_ahead=false", "agent.use_prev_action=false", "agent.use_prev_reward=false"),
    "masks": ("agent.mask_actions=true",),
    "clipped": ("agent.clip_range=0.5", "ppo.target_kl=5.0", "ppo.clip_vloss=false", "ppo.norm_adv=false"),
    "normalized": ("normalization.values=true", "normalization.rewards=true"),
    "vtrace": ("vtrace.enabled=true",),
    "muon": ('optimizer.type="muon"',),
    "regularized": ("ppo.l2_reg_loss_coef=0.01", "ppo.l2_init_loss_coef=0.01"),
    "short gradients": ("agent.bptt_horizon=4",),
    "one world batch": ("experience.async_factor=1",),
    "several epochs": ("experience.update_epochs=2",),
    "self-play": ("self_play.share=0.5", "self_play.snapshot_interval=1"),
    "scripted teacher": ('kickstarting.teacher="scripted"', "kickstarting.label_share=0.5"),
}


def run_on_meta(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> TrainingRun:
    monkeypatch.setattr("metta.run.training_run.find_device", lambda name: META)
    config = parse_config(TINY, "tiny.toml", ["env.game.max_steps=11", *overrides])
    run = TrainingRun(config, Curriculum.from_config(config))
    for group in only_learner(run).optimizer.param_groups:  # there is no fused kernel for the meta device
        group.update(fused=False, foreach=False)
    return run


@pytest.mark.parametrize("overrides", TRAININGS.values(), ids=TRAININGS)
def test_training_waits_only_for_actions_and_once_per_gradient_step(
    monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
) -> None:
    run = run_on_meta(monkeypatch, *overrides)
    plan, updates = only_learner(run).experience.plan, run.config.experience.update_epochs
    acts = plan.segments_per_agent * plan.horizon * plan.num_world_batches
    with forbidden_waits(monkeypatch) as fetched:
        batches = run.collect()
        assert batches[""].episode_returns
        assert len(fetched) == acts or only_learner(run).opponents is not None
        assert all(shape[1:] == (2,) for shape in fetched)  # actions
        fetched.clear()
        losses = run.update()[""]
        assert losses["updates"] == updates * plan.num_minibatches
        # besides, once per update: value targets, statistics of these, of the batch, and whether weights are finite
        assert losses["updates"] <= len(fetched) <= losses["updates"] + 4
    run.finish_epoch(batches)
    with forbidden_waits(monkeypatch):
        run.collect()  # begins with the last observations of the first rollout
    run.close()


def test_the_mode_finds_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way of waiting, so that the test above can fail."""
    there, here = torch.zeros(3, device=META), torch.zeros(3)
    waiting = {
        "float": lambda: float(there.sum()),
        "bool": lambda: bool(there.any()),
        "item": lambda: there[0].item(),
        "tolist": lambda: there.tolist(),
        "cpu": lambda: there.cpu(),
        "numpy": lambda: there.to("cpu").numpy(),
        "nonzero": lambda: there.nonzero(),
        "where": lambda: torch.where(there > 0),
        "mask": lambda: there[there > 0],
        "mask assigned": lambda: there.__setitem__(there > 0, here[:1]),
        "masked_select": lambda: there.masked_select(there > 0),
        "unique": lambda: there.unique(),
        "repeat": lambda: there.repeat_interleave(there.long()),
        "equal": lambda: torch.equal(there, there),
        "copy to the device": lambda: here.to(META),
        "assignment": lambda: there.copy_(here),
        "device of the index": lambda: there.index_select(0, here.long()),
    }
    with forbidden_waits(monkeypatch) as fetched:
        for name, wait in waiting.items():
            try:
                wait()
            except (WaitError, RuntimeError):
                continue
            raise AssertionError(f"{name} was not noticed")
        to_device(here, META)
        assert HostCopy(there).wait().tolist() == [1, 1, 1]
        assert fetched == [(3,)]
