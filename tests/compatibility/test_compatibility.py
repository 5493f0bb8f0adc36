"""Files of every released version load for ever, and what is in them plays and trains on as it did then.

When this fails, the code is wrong, not the files: a new setting needs a default that means what there was before it,
a new format a converter. `record.py` makes the files of a new version; those of older ones are never made again.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from record import checkpoints, outputs, resumed
from tiny_runs import Recorder, ignore, interrupt, tiny_config
from typer.testing import CliRunner

from metta.api import resume_run, train_run
from metta.config.env.env_config import EnvConfig
from metta.world.env import MettaGridEnv
from metta_cli.main import app

VERSIONS = sorted(Path(__file__).parent.glob("version_*"))
KEPT = [path for version in VERSIONS for path in checkpoints(version)]


def expected(version: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((version / "expected.json").read_text(encoding="utf-8"))
    return values


def assert_close(found: Any, kept: Any, tolerance: float, where: str = "") -> None:
    """What was kept is there; numbers may differ as far as other machines add up otherwise, keys may be new."""
    if isinstance(kept, dict):
        assert kept.keys() <= found.keys(), f"{where} has no {kept.keys() - found.keys()}"
        for key, value in kept.items():
            assert_close(found[key], value, tolerance, f"{where}.{key}")
    elif isinstance(kept, list):
        assert len(found) == len(kept), where
        for index, value in enumerate(kept):
            assert_close(found[index], value, tolerance, f"{where}[{index}]")
    elif isinstance(kept, float):
        assert found == pytest.approx(kept, rel=tolerance, abs=tolerance), where
    else:
        assert found == kept, where


def ids(path: Path) -> str:
    return str(path.relative_to(Path(__file__).parent))


def test_there_are_versions_to_keep() -> None:
    assert VERSIONS
    assert len(KEPT) >= 3


@pytest.mark.parametrize("path", KEPT, ids=ids)
def test_a_policy_acts_and_scores_as_it_did(path: Path) -> None:
    version = next(version for version in VERSIONS if version in path.parents)
    found: Any = json.loads(json.dumps(outputs(path)))
    assert_close(found, expected(version)["policies"][path.relative_to(version).as_posix()], 1e-5)


@pytest.mark.parametrize("version", VERSIONS, ids=ids)
def test_a_run_resumes_as_it_did(version: Path) -> None:
    assert_close(resumed(version / "run"), expected(version)["resumed"], 1e-2)


def test_a_run_with_old_names_of_keys_resumes_with_one_notice(tmp_path: Path) -> None:
    """In its config, in its policy and in its opponents."""
    run = tmp_path / "run"
    train_run(tiny_config(run, "self_play.share=0.5", "self_play.snapshot_interval=1"), Recorder(2, interrupt))
    text = (run / "config.toml").read_text(encoding="utf-8")
    (run / "config.toml").write_text(
        text.replace("egocentric", "own_frame").replace("[normalization]", "[normalisation]")
    )
    for file in run.glob("checkpoints/**/*.pt"):
        if not file.name.startswith("trainer_state"):
            content = torch.load(file, weights_only=True)
            content["agent_config"]["own_frame"] = content["agent_config"].pop("egocentric")
            torch.save(content, file)
    with pytest.warns(FutureWarning, match="normalisation is now normalization; agent.own_frame is now") as caught:
        assert resume_run(run, ignore).reason == "finished"
    assert len(caught) == 1


@pytest.mark.parametrize("path", KEPT, ids=ids)
@pytest.mark.parametrize("command", ["eval", "replay"])
def test_the_command_line_accepts_old_files(command: str, path: Path, tmp_path: Path) -> None:
    options = {"eval": ["--no-baseline"], "replay": ["--out", str(tmp_path)]}[command]
    result = CliRunner().invoke(app, [command, str(path), "--episodes", "1", *options])
    assert result.exit_code == 0, result.output


def test_worlds_of_several_tasks_continue_as_they_did() -> None:
    """Tasks that differ in nothing but their maps: the first version compiled the same rules once for each."""
    game = {"num_agents": 2, "width": 9, "height": 9, "max_steps": 30, "num_observation_tokens": 60}
    maps = ({"mine_red": 3}, {"mine_red": 1, "altar": 2})
    tasks = [EnvConfig.model_validate({"game": game, "map_builder": {"objects": objects}}) for objects in maps]
    kept = dict(np.load(Path(__file__).parent / "version_1" / "worlds_of_two_tasks.npz"))
    env = MettaGridEnv(tasks, num_worlds=3)
    env.load_state({key.removeprefix("state."): value for key, value in kept.items() if key.startswith("state.")})
    again = MettaGridEnv(tasks, num_worlds=3)
    again.load_state(env.state())  # as this version saves it
    for worlds in (env, again):
        digest = hashlib.sha256()
        for actions in kept["actions"]:
            observations, rewards, *_ = worlds.step(actions)
            digest.update(observations.tobytes())
            digest.update(rewards.tobytes())
        assert digest.digest() == kept["digest"].tobytes()
