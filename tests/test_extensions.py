"""Extensions: those of installed packages, found by their entry points, and those registered in code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import gymnasium
import pytest
import torch
from packages import install
from pydantic import ValidationError
from tiny_runs import TINY, tiny_config
from typer.testing import CliRunner

from metta.api import BACKBONES, Backbone, make_agent, make_environment
from metta.checkpoint.policy_checkpoint import load_checkpoint, load_policy, save_checkpoint
from metta.config.agent import AgentModelConfig
from metta.config.loading.load import load_config
from metta.errors import CheckpointError, UsageError
from metta.extensions import Registry
from metta.gymnasium_registration import register_presets
from metta_cli.main import app

NETWORKS = """
import torch
from metta.api import Backbone

class Sums(Backbone):
    def __init__(self, spec, config):
        super().__init__(spec, config)
        self.table = torch.nn.Embedding(self.codes.num_channels, config.hidden_dim)

    def forward(self, observations):
        cells, channels, magnitudes = self.codes.padded(observations)
        return (self.table(channels) * magnitudes.unsqueeze(-1)).sum(1).relu()
"""
LOGGERS = """
from metta.api import RunLogger

class Lines(RunLogger):
    def __init__(self, config, directory, epochs_done):
        self.file = (directory / "lines.txt").open("a")
        self.file.write(f"after {epochs_done}\\n")

    def log(self, epoch, metrics):
        self.file.write(f"{epoch} {metrics['losses/entropy']:.4f}\\n")

    def flush(self):
        self.file.write("flush\\n")

    def close(self):
        self.file.close()
"""


POLICY = """
import torch
from metta.api import Memory, PolicyOutput

class Circle:
    uses_action_masks = False

    def __init__(self, env_config):
        self.spec = env_config.spec
        self.actions = torch.tensor(self.spec.flat_actions)

    def initial_memory(self, agents):
        return Memory({"steps": torch.zeros(1, agents, dtype=torch.int64)})

    def act(self, observations, memory, episode_starts=None, generator=None, deterministic=False, action_masks=None):
        memory = memory if episode_starts is None else memory.cleared(episode_starts)
        steps = memory.tensors["steps"]
        index, zeros = steps[0] % len(self.actions), torch.zeros(len(observations))
        return PolicyOutput(self.actions[index], index, zeros, zeros, Memory({"steps": steps + 1}))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a tiny config in it, the packages in its `site` among those installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "site")
    (tmp_path / "tiny.toml").write_text(TINY.replace("total_timesteps = 4096", "total_timesteps = 1024"))
    return tmp_path


COMMANDS = """
import json
import sys
from typer.testing import CliRunner
from metta_cli.main import app

ran = [CliRunner().invoke(app, arguments) for arguments in json.load(sys.stdin)]
print(json.dumps([[result.exit_code, result.stdout, result.stderr] for result in ran]))
"""


def metta(here: Path, *commands: Sequence[str]) -> list[subprocess.CompletedProcess[str]]:
    """Run commands in a process that imports the packages in `site`, which would stay imported in this one."""
    path = os.pathsep.join([str(here / "site"), os.environ.get("PYTHONPATH", "")])
    ran = subprocess.run(
        [sys.executable, "-c", COMMANDS],
        cwd=here,
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    results = zip(commands, json.loads(ran.stdout), strict=True)
    return [subprocess.CompletedProcess(list(arguments), *result) for arguments, result in results]


def metta_here(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The same within this process, for commands that import no package."""
    ran = CliRunner().invoke(app, arguments)
    return subprocess.CompletedProcess(arguments, ran.exit_code, ran.stdout, ran.stderr)


def done(ran: subprocess.CompletedProcess[str]) -> str:
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def refused(ran: subprocess.CompletedProcess[str]) -> str:
    assert ran.returncode == 2, ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr
    return ran.stderr


def test_a_backbone_of_a_package_is_trained_resumed_and_evaluated(here: Path) -> None:
    site = install(here / "site", "sums", {"metta.backbones": {"sums": "nets:Sums"}}, nets=NETWORKS)
    (trained,) = metta(here, ["train", "tiny.toml", "--set", "agent.backbone=sums", "--run-dir", "run", "--quiet"])
    resumed, evaluated = metta(
        here,
        ["resume", "run", "--total-timesteps", "2048", "--quiet"],
        ["eval", "run/checkpoints/checkpoint_000004.pt", "--episodes", "2", "--json"],
    )
    done(trained)
    done(resumed)
    values = json.loads(done(evaluated))
    assert values["checkpoint"] == "run/checkpoints/checkpoint_000004.pt"
    assert '"sums"' in done(metta_here("schema"))
    weights = torch.load(here / "run/checkpoints/checkpoint_000004.pt", weights_only=True)["weights"]
    assert "backbone.table.weight" in weights
    # after the package is uninstalled
    for file in site.rglob("*"):
        if file.is_file():
            file.unlink()
    message = refused(metta_here("eval", "run/checkpoints/checkpoint_000004.pt"))
    assert 'needs the backbone "sums", which is not installed; install the package that provides it' in message
    message = refused(metta_here("resume", "run"))
    assert 'agent.backbone  must be one of "cnn", "attention", "mlp", ' in message
    assert 'got "sums"' in message


def test_a_policy_of_a_package_plays_in_every_command_and_teaches(here: Path) -> None:
    site = install(here / "site", "circle", {"metta.policies": {"circle": "circle:Circle"}}, circle=POLICY)
    world = ("--env", "tiny.toml", "--set", "env.game.max_steps=5")
    teacher = ("--set", "kickstarting.teacher=circle")
    evaluated, *succeeded = metta(
        here,
        ["eval", "circle", *world, "--episodes", "2", "--json"],
        ["eval", "random", *world, "--against", "circle", "--episodes", "2", "--quiet"],
        ["replay", "circle", *world, "--out", "replays"],
        ["check", "tiny.toml", *teacher],
        ["train", "tiny.toml", *teacher, "--run-dir", "run", "--quiet"],
    )
    assert json.loads(done(evaluated))["checkpoint"] == "circle"
    for ran in succeeded:
        done(ran)
    assert list(here.glob("replays/circle_tiny_seed_0*.html"))
    resumed, *failed = metta(
        here,
        ["resume", "run", "--total-timesteps", "1536", "--quiet"],
        ["watch", "circle", *world],  # no terminal
        ["eval", "circl", *world],
        ["train", "tiny.toml", "--set", "kickstarting.teacher=circl"],
        ["export", "circle", "--env", "tiny.toml"],
    )
    done(resumed)
    assert "teacher_kl" in json.loads((here / "run/metrics.jsonl").read_text().splitlines()[-1])["losses"]
    watched, misspelled, misspelled_teacher, exported = map(refused, failed)
    assert "the policy was not trained in a world" not in watched
    assert 'did you mean "circle"?' in misspelled
    assert 'did you mean "circle"?' in misspelled_teacher
    assert "the circle policy is no network" in exported
    # after the package is uninstalled
    for file in site.rglob("*"):
        if file.is_file():
            file.unlink()
    message = refused(metta_here("resume", "run", "--total-timesteps", "2048"))
    assert 'the policy "circle", the teacher of this run, is not installed; install the package' in message


def test_a_logger_of_a_package_gets_each_epoch_and_the_epoch_it_resumes_from(here: Path) -> None:
    install(here / "site", "lines", {"metta.loggers": {"lines": "logs:Lines"}}, logs=LOGGERS)
    (here / "tiny.toml").write_text((here / "tiny.toml").read_text() + '[logging]\nextra = ["lines"]\n')
    train, resume = ["train", "tiny.toml", "--run-dir", "run"], ["resume", "run", "--total-timesteps", "1536"]
    for ran in metta(here, [*train, "--quiet"], [*resume, "--quiet"]):
        done(ran)
    lines = (here / "run/lines.txt").read_text().splitlines()
    logged = [line.split() for line in lines if line[0].isdigit()]
    metrics = [json.loads(line) for line in (here / "run/metrics.jsonl").read_text().splitlines()]
    assert logged == [[str(line["epoch"]), f"{line['losses']['entropy']:.4f}"] for line in metrics]
    assert [line for line in lines if line.startswith("after")] == ["after 0", "after 2"]
    assert lines[-1] == "flush"


@pytest.mark.filterwarnings("ignore:.*Overriding environment")  # the other presets are there already
def test_presets_of_a_package_are_listed_shown_and_trained_in(here: Path) -> None:
    install(here / "site", "worlds", {"metta.presets": {"mazes": "my_mazes.worlds"}})
    worlds = here / "site/my_mazes/worlds"
    worlds.mkdir(parents=True)
    (worlds / "tiny.toml").write_text("# tiny: a world of a package\n" + TINY)
    assert re.search("^mazes.tiny .*a world of a package$", done(metta_here("presets")), re.MULTILINE)
    assert "a world of a package" in done(metta_here("presets", "show", "mazes.tiny"))
    done(metta_here("train", "mazes.tiny", "--total-timesteps", "512", "--run-dir", "run", "--quiet"))
    assert 'did you mean "mazes.tiny"?' in refused(metta_here("presets", "show", "mazes.tyni"))
    assert 'did you mean the preset "mazes.tiny"?' in refused(metta_here("train", "mazes.tyni"))
    register_presets()
    assert gymnasium.make_vec("metta/mazes.tiny", num_envs=2).num_envs == 8


def test_an_extension_is_imported_when_it_is_first_used(here: Path) -> None:
    parts = {
        "metta.backbones": {"loud": "loud:Loud"},
        "metta.loggers": {"loud": "loud:Loud"},
        "metta.presets": {"loud": "loud"},
    }
    install(here / "site", "loud", parts, loud={"__init__": "raise ImportError('imported')"})
    (here / "site/loud/one.toml").write_text(TINY)
    assert "loud.one" in done(metta_here("presets"))
    assert '"loud"' in done(metta_here("schema"))
    done(metta_here("train", "loud.one", "--total-timesteps", "512", "--run-dir", "run", "--quiet"))
    message = refused(metta_here("train", "tiny.toml", "--set", "agent.backbone=loud", "--run-dir", "other"))
    expected = 'the backbone "loud" of the package loud 1.0 cannot be imported from loud:Loud: ImportError: imported'
    assert message == f"error: {expected}\n"
    message = refused(metta_here("train", "tiny.toml", "--set", 'logging.extra=["loud"]', "--run-dir", "other"))
    assert message.startswith('error: the logger "loud" of the package loud 1.0 cannot be imported from loud:Loud')
    assert not (here / "other").exists()


def test_a_package_without_its_directory_of_presets_gets_a_note(here: Path) -> None:
    install(here / "site", "gone", {"metta.presets": {"gone": "gone.worlds"}})
    listed = metta_here("presets")
    assert "quickstart" in done(listed)
    assert listed.stderr == (
        'note: the package gone 1.0 declares presets in "gone.worlds", which is not a directory; '
        "repair or uninstall it\n"
    )
    assert "the package gone 1.0 declares presets" in refused(metta_here("train", "gone.tiny"))
    done(metta_here("check", "quickstart"))


def test_a_name_in_two_packages_is_refused(here: Path) -> None:
    install(here / "site", "one", {"metta.backbones": {"sums": "nets:Sums"}}, nets=NETWORKS)
    install(here / "site", "two", {"metta.backbones": {"sums": "nets:Sums"}})
    message = refused(metta_here("train", "tiny.toml", "--set", "agent.backbone=sums"))
    assert '"sums" is provided by several packages: the package one 1.0 and the package two 1.0' in message


def test_a_misspelled_extension_gets_a_suggestion(here: Path) -> None:
    install(here / "site", "sums", {"metta.backbones": {"sums": "nets:Sums"}}, nets=NETWORKS)
    message = refused(metta_here("check", "tiny.toml", "--set", "agent.backbone=sumz"))
    assert 'must be one of "cnn", "attention", "mlp", ' in message
    assert '"sums"; got "sumz"; did you mean "sums"?' in message
    message = refused(metta_here("check", "tiny.toml", "--set", 'logging.extra=["lines"]'))
    assert 'must be the name of an installed or registered logger, but none exists; got "lines"' in message


STRIPES = """
import numpy as np

def stripes(rows, cols, generator, settings):
    floor = np.ones((rows, cols), bool)
    floor[1 :: settings.get("every", 2), : cols - 1] = False
    return floor

def crooked(rows, cols, generator, settings):
    return np.ones((rows, cols + 1), bool)
"""


def test_a_map_builder_of_a_package_draws_the_floor(here: Path) -> None:
    entries = {"stripes": "floors:stripes", "crooked": "floors:crooked"}
    site = install(here / "site", "floors", {"metta.map_builders": entries}, floors=STRIPES)
    world = """
        [env.game]
        num_agents = 1
        width = 9
        height = 7
        [env.map_builder]
        type = "Custom"
        name = "stripes"
        settings = { every = 4 }
        border_width = 1
        objects = { altar = 1 }
        connected = true
    """
    (here / "striped.toml").write_text(world)
    rows = done(metta_here("map", "striped.toml")).split("\n")[:7]  # below the map: its legend
    assert [row.count("#") for row in rows] == [9, 2, 8, 2, 2, 2, 9]
    assert sum(row.count("_") for row in rows) == 1
    message = refused(metta_here("map", "striped.toml", "--set", "env.map_builder.name=stripe"))
    assert 'env.map_builder.name  must be one of "crooked", "stripes"; got "stripe"; did you mean "stripes"?' in message
    message = refused(metta_here("map", "striped.toml", "--set", "env.map_builder.name=crooked"))
    assert 'the map builder "crooked" returned [5, 8] bool; it must return [5, 7] bool, true for floor' in message
    save_checkpoint(new_agent(load_config("striped.toml").env, "cnn"), here, 1)
    for file in site.rglob("*"):
        if file.is_file():
            file.unlink()
    message = refused(metta_here("replay", "checkpoint_000001.pt"))
    assert 'needs the map builder "stripes", which is not installed' in message


RULES = """
import numpy as np
from metta.api import ACTIONS, FEATURES, OBJECTS, REWARDS, TERMINATIONS

@REWARDS.register("fresh")
def fresh(worlds, per_cell: float = 1.0):
    visited = worlds.memory("visited", "cell", dtype=bool)
    is_new = ~worlds.at(visited)
    visited |= worlds.find("agent")
    return (per_cell * is_new).astype(np.float32)

@FEATURES.register("footprints", at="cells", scale=20.0)
def footprints(worlds):
    age = worlds.memory("age", "cell", dtype=np.uint8)
    age[:] = np.where(worlds.find("agent"), 20, np.maximum(age, 1) - 1)
    return age

@TERMINATIONS.register("unlucky")
def unlucky(worlds, chance: float = 0.1):
    return worlds.random("world") < chance

@ACTIONS.register("bow", touches="self")
def bow(worlds, agents, arguments):
    bows = worlds.memory("bows", dtype=np.int32)
    bows[agents] += 1
    return bows[agents] < 3

@OBJECTS.register("lamp", states={"lit": 1.0})
class lamp:
    def use(self, worlds, agents, objects):
        worlds.set_state(objects, "lit", 1 - worlds.state(objects, "lit"))
        return np.ones(len(agents), bool)
"""
RULES_IN_FILE = """
[env.rewards.fresh]
weight = 0.1
[env.features.footprints]
[env.terminations.unlucky]
[env.actions.bow]
type = "bow"
[env.objects.lamp]
type = "lamp"
"""


def test_rules_of_a_package_are_trained_resumed_and_named_when_they_are_missing(here: Path) -> None:
    kinds = {"rewards": "fresh", "features": "footprints", "terminations": "unlucky"}
    kinds |= {"actions": "bow", "objects": "lamp"}
    entries = {f"metta.{kind}": {name: f"my_rules:{name}"} for kind, name in kinds.items()}
    site = install(here / "site", "my-rules", entries, my_rules=RULES)
    (here / "ruled.toml").write_text(TINY + RULES_IN_FILE)
    train = ["train", "ruled.toml", "--quiet", "--set", "lr_schedule.anneal_lr=false", "--set", "experience.workers=2"]
    whole, half, resumed, evaluated = metta(
        here,
        [*train, "--run-dir", "whole", "--total-timesteps", "3072"],
        [*train, "--run-dir", "half", "--total-timesteps", "1536"],
        ["resume", "half", "--total-timesteps", "3072", "--quiet"],
        ["eval", "half/checkpoints/checkpoint_000006.pt", "--episodes", "3", "--json"],
    )
    for ran in (whole, half, resumed):
        done(ran)
    values = json.loads(done(evaluated))
    assert set(values["policy"]["reward_terms"]) == {"fresh"}
    lines = [json.loads((here / run / "metrics.jsonl").read_text().splitlines()[-1]) for run in ("whole", "half")]
    assert lines[0]["reward_terms"] == lines[1]["reward_terms"] != {}
    weights = [torch.load(here / run / "checkpoints/checkpoint_000006.pt") for run in ("whole", "half")]
    for name, weight in weights[0]["weights"].items():
        assert torch.equal(weight, weights[1]["weights"][name]), name
    for file in site.rglob("*"):
        if file.is_file():
            file.unlink()
    message = refused(metta_here("eval", "half/checkpoints/checkpoint_000006.pt"))
    assert 'needs the reward "fresh", which is not installed; install the package that provides it' in message
    message = refused(metta_here("resume", "half"))
    assert "env.rewards[0].type" in message
    for kind, name in kinds.items():
        assert f'got "{name}": install the package that provides this {kind[:-1]}' in message


# -- registered in code ---------------------------------------------------------------------------------------------


class MeanOfValues(Backbone):
    """Reads numbers, and nothing of what they mean."""

    def __init__(self, spec, config):
        super().__init__(spec, config)
        self.layer = torch.nn.Linear(3, config.hidden_dim)
        torch.nn.init.constant_(self.layer.weight, 0.25)

    def forward(self, observations):
        return self.layer(observations.float().mean(1) / 255)


class OneTooWide(MeanOfValues):
    def __init__(self, spec, config):
        super().__init__(spec, config.model_copy(update={"hidden_dim": config.hidden_dim + 1}))


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backbones registered for one test, since errors and the schema name all that are registered."""
    monkeypatch.setattr(BACKBONES, "_registered", dict(BACKBONES._registered))
    BACKBONES.register("mean of values")(MeanOfValues)
    BACKBONES.register("one too wide")(OneTooWide)
    BACKBONES.register("no network")(lambda spec, config: torch.nn.Identity())


def new_agent(env_config, backbone):
    env = make_environment(env_config, seed=0)
    config = AgentModelConfig(backbone=backbone, hidden_dim=16, mlp_layers=1)
    return make_agent(env.single_observation_space, env.single_action_space, [], "cpu", config)


def test_a_registered_backbone_keeps_its_own_first_weights() -> None:
    agent = new_agent(tiny_config().env, "mean of values")
    assert isinstance(agent.backbone, MeanOfValues)
    assert (agent.backbone.layer.weight == 0.25).all()


def test_what_is_no_backbone_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(
        UsageError, match=r'"one too wide" returns features of shape \[2, 17\] for 2 agents; expected \[2, 16\]'
    ):
        new_agent(tiny_config().env, "one too wide")
    with pytest.raises(UsageError, match=r'"no network" is a Identity; it must be a metta.api.Backbone'):
        new_agent(tiny_config().env, "no network")


def test_a_checkpoint_of_a_registered_backbone_plays_where_numbers_mean_the_same(tmp_path: Path) -> None:
    config = tiny_config()
    agent = new_agent(config.env, "mean of values")
    save_checkpoint(agent, tmp_path, 1)
    path = tmp_path / "checkpoint_000001.pt"
    other = tiny_config("", "env.game.max_steps=7").env
    assert torch.equal(load_policy(path, env_config=other).agent.backbone.layer.weight, agent.backbone.layer.weight)
    items = [*config.env.game.inventory_item_names[1:], config.env.game.inventory_item_names[0]]
    renumbered = tiny_config("", f"env.game.inventory_item_names={json.dumps(items)}").env
    with pytest.raises(CheckpointError, match=r'features have different ids here, .* custom backbone "mean of values"'):
        load_policy(path, env_config=renumbered)
    with pytest.raises(CheckpointError, match=r'agent\.backbone is "cnn" here and "mean of values" in the file'):
        load_checkpoint(new_agent(config.env, "cnn"), path)


def test_a_name_is_given_once_and_metta_keeps_its_own() -> None:
    registry: Registry[int] = Registry("metta.numbers", "number", ("one",))
    registry.register("one")(1)
    registry.register("two")(2)
    assert registry.names() == ["one", "two"]
    assert (registry.find("one"), registry.find("two")) == (1, 2)
    with pytest.raises(UsageError, match='already has the number "two"; choose another name'):
        registry.register("two")(3)
    with pytest.raises(UsageError, match=r'^the number must be one of "one", "two"; got "tow"; did you mean "two"'):
        registry.find("tow")


def test_the_library_names_the_known_extensions_after_the_key() -> None:
    message = r'backbone\n  Value error, must be one of .*; got "cnnn"; did you mean'
    with pytest.raises(ValidationError, match=message):
        AgentModelConfig(backbone="cnnn")
