"""Public names: lazy imports, the version, and the examples of the user's API document, the long one shortened."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from api_document import examples

import metta.api
import metta.rl.trainer_config


def run(program: str, folder: Path) -> str:
    """What a program prints, run as a file in an empty folder."""
    (folder / "example.py").write_text(program, encoding="utf-8")
    ran = subprocess.run([sys.executable, "-W", "error", "example.py"], cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_quick_start_runs_as_printed(tmp_path: Path) -> None:
    assert "Initial performance: {'mean_reward': " in run(examples()[0], tmp_path)


def test_the_complete_example_runs_with_fewer_steps(tmp_path: Path) -> None:
    program = examples()[1]
    for whole, short in {
        "target_steps = 100_000": "target_steps = 200",
        "hidden_dim=512": "hidden_dim=32",
        "batch_size=8192": "batch_size=128",
        "minibatch_size=512": "minibatch_size=64",
        "max_steps=1000": "max_steps=20",
    }.items():
        assert whole in program
        program = program.replace(whole, short)
    output = run(program, tmp_path)
    assert "Epoch 1: Steps=256" in output
    assert "Saved checkpoint at epoch 0" in output
    assert "Final evaluation results: {'mean_reward': " in output
    assert (tmp_path / "checkpoints" / "checkpoint_000000.pt").exists()


def test_the_environment_snippet_runs_as_printed(tmp_path: Path) -> None:
    namespace: dict[str, object] = {}
    exec(compile(examples()[2], "example", "exec"), namespace)
    config = namespace["env_config"]
    assert isinstance(config, metta.api.EnvConfig)
    assert (config.game.num_agents, config.game.width, config.game.height, config.game.max_steps) == (2, 15, 10, 1000)
    assert (config.map_builder.width, config.map_builder.height) == (15, 10)


def test_every_name_the_document_promises_is_there() -> None:
    text = "\n".join(examples())
    for block in re.findall(r"from metta\.api import \(([^)]*)\)", text):
        for name in re.findall(r"\w+", re.sub(r"#.*", "", block)):
            assert name in metta.api.__all__
    assert set(metta.rl.trainer_config.__all__) >= {
        "CheckpointConfig",
        "ExperienceConfig",
        "OptimizerConfig",
        "PPOConfig",
        "SimulationConfig",
    }


def test_the_public_names_exist_and_are_those_of_the_type_stub() -> None:
    stub = ast.parse(Path(metta.api.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    (listed,) = (ast.literal_eval(node.value) for node in stub.body if isinstance(node, ast.Assign))
    names = metta.api.__all__
    assert set(listed) == set(names)
    assert len(set(names)) == len(names) == len(listed)
    assert set(names) <= set(dir(metta.api))
    for name in names:
        assert getattr(metta.api, name) is not None


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'metta\.api' has no attribute 'train_worlds'"):
        metta.api.train_worlds  # noqa: B018  # the access itself raises
    assert not hasattr(metta, "__versions__")


def test_names_are_imported_when_they_are_used(tmp_path: Path) -> None:
    program = "import sys, metta.api; metta.api.load_config('quickstart'); print('torch' in sys.modules); "
    assert run(program + "metta.api.MettaAgent; print('torch' in sys.modules)", tmp_path) == "False\nTrue\n"


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert metta.__version__ == project["version"]
    printed = subprocess.run([sys.executable, "-m", "metta_cli", "--version"], capture_output=True, text=True).stdout
    assert printed == f"metta {project['version']}\n"


@pytest.mark.parametrize("order", ["import metta, gymnasium", "import gymnasium, metta", "import metta.api, gymnasium"])
def test_gymnasium_knows_the_presets_in_any_order_of_imports(order: str, tmp_path: Path) -> None:
    assert run(f"{order}\nprint(gymnasium.make_vec('metta/quickstart', num_envs=2).num_envs)", tmp_path) == "8\n"


def test_type_constants_are_numbered_as_in_the_document() -> None:
    order = (
        "AGENT WALL MINE_RED MINE_BLUE MINE_GREEN GENERATOR_RED GENERATOR_BLUE GENERATOR_GREEN "
        "ALTAR ARMORY LASERY LAB FACTORY TEMPLE GENERIC_CONVERTER"
    )
    assert [getattr(metta.api, f"TYPE_{name}") for name in order.split()] == list(range(15))


def test_the_type_constants_are_those_of_worlds() -> None:
    names = metta.api.EnvConfig().spec.object_type_names
    for constant in (name for name in metta.api.__all__ if name.startswith("TYPE_")):
        if constant != "TYPE_GENERIC_CONVERTER":  # no world has one; the id is the block's
            assert names[getattr(metta.api, constant)] == constant.removeprefix("TYPE_").lower()
