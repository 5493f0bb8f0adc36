"""The models have every class, field and default of the API document."""

import ast
import inspect
import re
from typing import Any

import pytest
from api_document import code_blocks

from metta.config.agent import AgentModelConfig
from metta.config.env.env_config import EnvConfig
from metta.config.env.game import GameConfig
from metta.config.env.map_builder import MapBuilderConfig
from metta.config.env.objects import ActionConfig, ObjectConfig
from metta.config.training import CheckpointConfig, ExperienceConfig, OptimizerConfig, PPOConfig, SimulationConfig
from metta.config.validation.frozen_model import FrozenModel
from metta.config.validation.key_paths import default_of

MODELS: list[type[FrozenModel]] = [
    ObjectConfig,
    ActionConfig,
    GameConfig,
    MapBuilderConfig,
    EnvConfig,
    AgentModelConfig,
    OptimizerConfig,
    PPOConfig,
    ExperienceConfig,
    CheckpointConfig,
    SimulationConfig,
]
FIELDS = {
    "ObjectConfig": 3,
    "ActionConfig": 5,
    "GameConfig": 25,
    "MapBuilderConfig": 6,
    "EnvConfig": 4,
    "AgentModelConfig": 15,
    "OptimizerConfig": 6,
    "PPOConfig": 12,
    "ExperienceConfig": 8,
    "CheckpointConfig": 3,
    "SimulationConfig": 3,
}
"""How many fields the document has, so that a change of its form cannot empty the tests."""

NO_DEFAULT = object()


def documented(name: str) -> dict[str, Any]:
    """The fields of a class as the document writes them, with their defaults."""
    block = next(block for block in code_blocks() if re.search(rf"^class {name}:", block, re.MULTILINE))
    declared = next(node for node in ast.parse(block).body if isinstance(node, ast.ClassDef))
    return {
        statement.target.id: ast.literal_eval(statement.value) if statement.value else NO_DEFAULT
        for statement in declared.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    }


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_fields_and_defaults_are_the_documents(model: type[FrozenModel]) -> None:
    fields = documented(model.__name__)
    assert len(fields) == FIELDS[model.__name__]
    for name, default in fields.items():
        assert name in model.model_fields
        if default is not NO_DEFAULT:
            found = default_of(model.model_fields[name])
            assert found == default, name
            assert isinstance(found, float if isinstance(default, float) else type(default) | float), name


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_what_the_document_sets_can_be_set(model: type[FrozenModel]) -> None:
    """A default that the rules reject could not be written down."""
    given = {name: default for name, default in documented(model.__name__).items() if default is not NO_DEFAULT}
    required = {"type": "wall", "name": "rock", "color": 3} if model is ObjectConfig else {}
    required |= {"type": "noop", "key": "wait"} if model is ActionConfig else {}
    for name, default in model.model_validate(given | required).model_dump(include=set(given)).items():
        assert default == given[name]


def test_the_default_objects_of_a_map_are_the_documents() -> None:
    comment = next(
        match[1] for block in code_blocks() if (match := re.search(r"# Default: (\{.*?\})$", block, re.MULTILINE))
    )
    assert MapBuilderConfig().objects == ast.literal_eval(comment)


def test_the_choices_of_the_optimizer_are_the_documents() -> None:
    assert any('type: Literal["adam", "muon"] = "adam"' in block for block in code_blocks())
    assert [OptimizerConfig(type=choice).type for choice in ("adam", "muon")] == ["adam", "muon"]  # type: ignore[arg-type]  # a str, not the literal


def test_a_world_from_plain_tables_as_in_the_document() -> None:
    config = EnvConfig(game={"num_agents": 2, "width": 15, "height": 10, "max_steps": 1000})  # type: ignore[arg-type]  # a dict is validated
    assert (config.game.num_agents, config.map_builder.width, config.map_builder.height) == (2, 15, 10)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_model_is_frozen_closed_and_described(model: type[FrozenModel]) -> None:
    assert model.model_config["frozen"]
    assert model.model_config["extra"] == "forbid"
    assert inspect.getdoc(model)
    assert all(field.description for field in model.model_fields.values())
