"""`[compile]`: compiled policies learn the same, and checkpoints load with or without compilation."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from tiny_runs import Recorder, assert_same_weights, ignore, interrupt, metrics_of, tiny_config, weights_of

from metta.agent import compile_layers
from metta.agent.compile_layers import compile_agent, has_compiler
from metta.api import CompileConfig, Override, RunConfig, load_policy, resume_run, train_run
from metta.errors import UsageError

needs_compiler = pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
MLP = ("agent.backbone='mlp'", "agent.critic='group'", "run.total_timesteps=1536", "agent.analyze_weights_interval=0")
ON = ("compile.enabled=true", "experience.async_factor=1")


def calls_of(module: torch.nn.Module) -> object:
    return module._compiled_call_impl


def test_compilation_is_off_by_default(set_up) -> None:
    assert RunConfig().compile == CompileConfig(enabled=False, mode="default")
    agent, _ = set_up()
    compile_agent(agent, CompileConfig())
    assert not any(calls_of(module) for module in agent.modules())


@needs_compiler
def test_the_mode_is_passed_to_torch_and_only_dense_layers_are_compiled(set_up, monkeypatch) -> None:
    agent, _ = set_up()
    names = list(agent.state_dict())
    asked = []
    compile_it = torch.nn.Module.compile

    def note(module, **options):
        asked.append((module, options))
        compile_it(module, **options)

    monkeypatch.setattr(torch.nn.Module, "compile", note)
    compile_agent(agent, CompileConfig(enabled=True, mode="max-autotune-no-cudagraphs"))
    layers = [agent.backbone.layers, agent.policy_head, agent.value_head]
    assert [module for module, _ in asked] == layers
    assert all(options == {"mode": "max-autotune-no-cudagraphs", "dynamic": True} for _, options in asked)
    assert [module for module in agent.modules() if calls_of(module)] == layers
    assert list(agent.state_dict()) == names
    assert not any(calls_of(module) for module in copy.deepcopy(agent).modules())
    cnn, _ = set_up(agent={"backbone": "cnn"})
    compile_agent(cnn, CompileConfig(enabled=True))
    assert [module for module in cnn.modules() if calls_of(module)] == [cnn.policy_head, cnn.value_head]


def test_compilation_without_a_compiler_is_refused(set_up, monkeypatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    agent, _ = set_up()
    with pytest.raises(
        UsageError, match=r"needs a C\+\+ compiler .*, and none was found; install one, or set compile.enabled"
    ):
        compile_agent(agent, CompileConfig(enabled=True))
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(compile_layers, "_COMPILERS", ("no-such-compiler",))
    assert not has_compiler()


@needs_compiler
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # raised inside torch
def test_a_compiled_run_learns_the_same_and_resumes_compiled_or_not(tmp_path: Path) -> None:
    plain, straight, stopped = tmp_path / "plain", tmp_path / "straight", tmp_path / "stopped"
    train_run(tiny_config(plain, *MLP, "experience.async_factor=1"), ignore)
    train_run(tiny_config(straight, *MLP, *ON), ignore)
    expected, compiled = weights_of(plain, 3), weights_of(straight, 3)
    assert expected.keys() == compiled.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(compiled[name], weight, rtol=1e-3, atol=1e-4, msg=name)
    # interrupted and resumed, the compiled run is bit-identical
    train_run(tiny_config(stopped, *MLP, *ON), Recorder(2, interrupt))
    assert resume_run(stopped, ignore).epoch == 3
    assert metrics_of(straight) == metrics_of(stopped)
    assert_same_weights(compiled, weights_of(stopped, 3))
    # its checkpoint loads without compilation
    agent = load_policy(straight / "checkpoints" / "checkpoint_000003.pt").agent
    assert not any(calls_of(module) for module in agent.modules())
    without = [Override.parse("compile.enabled=false"), Override.parse("run.total_timesteps=2048")]
    assert resume_run(straight, ignore, without).epoch == 4
