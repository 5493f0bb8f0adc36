"""Paths that users give: `~` is expanded in every key, every parameter of the API and every option, `Path` or text."""

from __future__ import annotations

import inspect
import json
import pwd
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from in_process_pool import InProcessPool
from tiny_runs import TINY, ignore, tiny_config
from typer.testing import CliRunner

import metta.api
from metta import api
from metta.config.loading.load import dump_tables
from metta.config.run import RunConfig
from metta.config.validation.file_paths import user_path
from metta.config.validation.key_paths import sections, value_at
from metta.errors import ConfigError, UsageError
from metta.experiments.seeds import Experiment
from metta.experiments.sweep import run_sweep
from metta_cli.main import app

pytestmark = pytest.mark.usefixtures("quick_contents")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home directory with a run, TOML files, a suite and a finished sweep."""
    home = tmp_path_factory.mktemp("home")
    api.train_run(tiny_config(home / "run", "run.total_timesteps=512"), ignore)
    (home / "tiny.toml").write_text(TINY.replace("total_timesteps = 4096", "total_timesteps = 512"))
    (home / "suite.toml").write_text('worlds = ["tiny.toml"]\n')
    (home / "scenes.toml").write_text(TINY + '[curriculum]\nscenes = ["~/tiny.toml"]\n')
    (home / "search.toml").write_text(
        '[sweep]\nbase = "tiny.toml"\nmetric = "reward"\ntrials = 1\n[run]\ntotal_timesteps = 1536\n'
        '[sweep.parameters]\n"ppo.gamma" = { values = [0.9] }\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_sweep, "JobPool", InProcessPool)
        api.start_sweep(api.load_sweep(home / "search.toml"), lambda event: None, home / "sweep")
    return home


@pytest.fixture
def home(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory, elsewhere than the working directory, which is empty."""
    shutil.copytree(trained, tmp_path / "home")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(run_sweep, "JobPool", InProcessPool)
    return tmp_path / "home"


@pytest.fixture(autouse=True)
def _nothing_is_taken_literally(request: pytest.FixtureRequest) -> Any:
    yield
    if "home" in request.fixturenames:
        assert not list(Path().rglob("~*"))


def test_a_home_directory_is_expanded_and_a_literal_name_is_not(home: Path) -> None:
    name = pwd.getpwuid(0).pw_name
    assert user_path("~") == home
    assert user_path("~/a/") == home / "a"
    assert user_path(Path("~/a")) == home / "a"
    assert user_path(f"~{name}/a") == Path(pwd.getpwuid(0).pw_dir, "a")
    assert user_path("a/~/b") == Path("a/~/b")
    assert user_path("./~/a") == user_path(user_path("./~/a")) == Path.cwd() / "~" / "a"
    with pytest.raises(UsageError, match=r"^~nobody9/a: there is no such home directory; .*, write ./~nobody9"):
        user_path("~nobody9/a")


REQUIRED = {"[policies.NAME]": {"groups": ["agent"]}}


def path_keys() -> dict[str, bool]:
    """The keys whose values are paths, and whether each is a list."""
    found = {}
    for header, model in sections(RunConfig):
        for name, field in model.model_fields.items():
            is_list = str(field.annotation).startswith("list")
            value: Any = ["~/a"] if is_list else "~/a"
            try:
                parsed = getattr(model.model_validate(REQUIRED.get(header, {}) | {name: value}), name)
            except ValueError:
                continue
            if parsed != value:
                found[f"{header.strip('[]')}.{name}"] = is_list
    return found


def test_every_key_that_names_a_file_expands_it() -> None:
    """A new key with such a word in its description must be a `FilePath`, or be listed here as another thing."""
    assert path_keys() == {
        "run.run_dir": False,
        "run.init_from": False,
        "checkpoint.checkpoint_dir": False,
        "simulation.replay_dir": False,
        "kickstarting.teacher": False,
        "self_play.policies": True,
        "policies.NAME.init_from": False,
    }
    others = {"run.name", "curriculum.scenes", "env.map_builder.file", "logging.wandb_mode"}
    for header, model in sections(RunConfig):
        for name, field in model.model_fields.items():
            words = set((field.description or "").replace(",", "").replace(";", "").split())
            is_text = "str" in str(field.annotation) and "dict" not in str(field.annotation)
            if is_text and words & {"directory", "file", "files", "path", "checkpoint", "checkpoints"}:
                key = f"{header.strip('[]')}.{name}"
                assert key in path_keys() or key in others, key


def nested(table: str, values: dict[str, Any]) -> dict[str, Any]:
    """The tables of a file that has only `table`."""
    for part in reversed(table.split(".")):
        values = {part: values}
    return values


@pytest.mark.parametrize("key", path_keys())
def test_a_key_is_expanded_in_a_file_an_override_and_a_model(key: str, home: Path) -> None:
    table, _, name = key.rpartition(".")
    required = REQUIRED.get(f"[{table}]", {})
    others = [f"{table}.{other}={json.dumps(entry)}" for other, entry in required.items()]
    is_list = path_keys()[key]
    value, expanded = (["~/a"], [str(home / "a")]) if is_list else ("~/a", str(home / "a"))
    (home / "key.toml").write_text(dump_tables(nested(table, required | {name: value})))
    for config in (
        api.load_config("~/key.toml"),
        api.load_config("quickstart", [*others, f"{key}={json.dumps(value)}"]),
        RunConfig.model_validate(nested(table, required | {name: value})),
        RunConfig.model_validate(nested(table, required | {name: [Path("~/a")] if is_list else Path("~/a")})),
    ):
        assert value_at(config.model_dump(), (*table.split("."), name)) == expanded
    with pytest.raises(ConfigError, match=r"cannot be ~nobody9: there is no such home directory"):
        api.load_config("quickstart", [f"{key}={json.dumps(['~nobody9'] if is_list else '~nobody9')}", *others])


def test_scenes_and_map_files_are_expanded(home: Path) -> None:
    assert api.load_config("~/scenes.toml").curriculum.scenes == [str(home / "tiny.toml")]
    (home / "map.txt").write_text("#####\n#@.@#\n#####\n")
    (home / "drawn.toml").write_text(
        '[env.game]\nnum_agents = 2\n[env.map_builder]\ntype = "Ascii"\nfile = "~/map.txt"\n'
    )
    assert api.load_config("~/drawn.toml").env.map_builder.model_dump()["map"].startswith("#####")


def agent() -> api.MettaAgent:
    return api.load_policy("~/run/checkpoints/checkpoint_000001.pt").agent


def experiment() -> str:
    """An experiment in `~/seeds` whose only run, a copy of `~/run`, is finished."""
    root = Path.home() / "seeds"
    if not root.exists():
        shutil.copytree(root.with_name("run"), root / "seed_0")
        Experiment(root, api.load_config(root / "seed_0" / "config.toml"), (0,), 1, 0).write()
    return "~/seeds"


CALLS: dict[str, Callable[[Any], object]] = {
    "check_writable": lambda path: api.check_writable(path("~/new/trace.json")),
    "experiment_runs": lambda path: api.experiment_runs(path(experiment()))[0].relative_to(Path.home()),
    "is_experiment": lambda path: 1 / api.is_experiment(path(experiment())),
    "resume_runs": lambda path: api.resume_runs(path(experiment()), lambda event: None),
    "is_sweep": lambda path: 1 / api.is_sweep(path("~/sweep")),
    "load_sweep": lambda path: api.load_sweep(path("~/search.toml")),
    "start_sweep": lambda path: api.start_sweep(
        api.load_sweep("~/search.toml"), lambda event: None, path("~/new/sweep")
    ),
    "resume_sweep": lambda path: api.resume_sweep(path("~/sweep"), lambda event: None),
    "sweep_summary": lambda path: api.sweep_summary(path("~/sweep")),
    "export_policy": lambda path: api.export_policy(agent(), path("~/new/policy.onnx")),
    "find_runs": lambda path: api.find_runs([path("~/run")])[0].relative_to(Path.home()),
    "load_checkpoint": lambda path: api.load_checkpoint(agent(), path("~/run/checkpoints/checkpoint_000001.pt")),
    "load_config": lambda path: api.load_config(path("~/tiny.toml")),
    "load_policy": lambda path: api.load_policy(path("~/run/checkpoints/checkpoint_000001.pt")),
    "open_config": lambda path: api.open_config(path("~/tiny.toml")).__enter__(),
    "transfer_weights": lambda path: api.transfer_weights(agent(), path("~/run/checkpoints/checkpoint_000001.pt")),
    "load_world": lambda path: api.load_world(path("~/tiny.toml")),
    "make_curriculum": lambda path: api.make_curriculum(path("~/tiny.toml")),
    "newest_checkpoint": lambda path: api.newest_checkpoint(path("~/run")),
    "read_report": lambda path: api.read_report([path("~/run")]).write_csv(path("~/new/numbers.csv")),
    "policy_file": lambda path: api.policy_file(path("~/run")),
    "read_policy_file": lambda path: api.read_policy_file(path("~/run/checkpoints/checkpoint_000001.pt")),
    "resume_run": lambda path: api.resume_run(path("~/run"), ignore),
    "join_policy_name": lambda path: Path(api.join_policy_name(path("~/run"), "red")).relative_to(Path.home()),
    "split_policy_name": lambda path: api.split_policy_name(path("~/run"))[0].relative_to(Path.home()),
    "save_checkpoint": lambda path: api.save_checkpoint(agent(), path("~/new")),
    "trained_tasks": lambda path: api.trained_tasks(path("~/run/checkpoints/checkpoint_000001.pt")),
    "user_path": lambda path: user_path(path("~/run")),
    "write_replay": lambda path: api.write_replay(
        api.record_episode(api.RandomPolicy(api.EnvConfig().spec), api.EnvConfig(), 0, 1), path("~/new"), "replay"
    ),
    "check_video_path": lambda path: api.check_video_path(path("~/new/video.gif")),
    "tournament": lambda path: api.tournament([path("~/run"), "random"], num_episodes=1, out=path("~/new")),
    "write_tournament": lambda path: api.write_tournament(
        api.tournament([path("~/run"), "random"], num_episodes=1, out="out"), path("~/new"), "tiny"
    ),
    "write_video": lambda path: api.write_video(
        api.record_episode(api.RandomPolicy(api.EnvConfig().spec), api.EnvConfig(), 0, 1), path("~/new/video.gif")
    ),
    "write_trace": lambda path: api.write_trace(api.load_config("~/tiny.toml"), path("~/new/trace.json")),
    "write_report": lambda path: api.write_report([path("~/run")], path("~/new/report.html")),
    "TrainingState.save": lambda path: api.TrainingState(1, 0, 0, {}).save(path("~/new")),
    "TrainingState.load": lambda path: api.TrainingState.load(path("~/run/checkpoints/trainer_state_000001.pt")),
}


def test_every_function_that_takes_a_path_is_tested() -> None:
    functions = {name: getattr(metta.api, name) for name in metta.api.__all__ if name.islower()}
    functions |= {f"TrainingState.{name}": getattr(api.TrainingState, name) for name in ("save", "load")}
    for name, function in functions.items():
        if inspect.isfunction(function) or inspect.ismethod(function):
            annotations = [str(parameter.annotation) for parameter in inspect.signature(function).parameters.values()]
            takes_path = any("Path" in annotation for annotation in annotations)
            assert takes_path == (name in CALLS), name


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("name", CALLS)
def test_a_function_takes_texts_and_paths_from_a_home_directory(name: str, kind: type, home: Path) -> None:
    if name == "export_policy":
        pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    CALLS[name](kind)
    if name in (
        "export_policy",
        "read_report",
        "save_checkpoint",
        "start_sweep",
        "write_replay",
        "write_report",
        "tournament",
        "write_tournament",
        "write_trace",
        "write_video",
        "TrainingState.save",
    ):
        assert list((home / "new").iterdir())


def test_a_path_is_a_file_and_a_text_may_be_a_preset(home: Path) -> None:
    Path("quickstart").write_text("run.seed = 5")
    assert api.load_config(Path("quickstart")).run.seed == 5
    assert api.load_config("quickstart").run.seed == 0
    assert api.make_curriculum(Path("quickstart")).env_configs[0] == api.EnvConfig()


OPTIONS: dict[str, list[list[str]]] = {
    "train source": [["train", "~/tiny.toml", "--quiet", "--run-dir=runs/x"]],
    "train from_": [
        ["train", "~/tiny.toml", "--quiet", "--run-dir=runs/x", "--from=~/run"],
        ["train", "~/tiny.toml", "--quiet", "--run-dir=runs/x", "--from=~/run/checkpoints/checkpoint_000001.pt"],
    ],
    "train run_dir": [["train", "~/tiny.toml", "--quiet", "--run-dir=~/new"]],
    "resume run": [["resume", "~/run", "--quiet"]],
    "eval checkpoint": [["eval", "~/run", "--episodes=1"], ["eval", "~/run/checkpoints/checkpoint_000001.pt"]],
    "eval env": [["eval", "random", "--env=~/tiny.toml", "--episodes=1"]],
    "eval suite": [
        ["eval", "random", "--suite=~/suite.toml", "--episodes=1"],
        ["eval", "random", "--suite=quickstart,~/tiny.toml", "--episodes=1"],
    ],
    "eval against": [["eval", "random", "--env=~/tiny.toml", "--against=~/run", "--episodes=1"]],
    "map source": [["map", "~/tiny.toml"]],
    "replay checkpoint": [["replay", "~/run", "--max-steps=1"]],
    "replay env": [["replay", "random", "--env=~/tiny.toml", "--max-steps=1"]],
    "replay out": [["replay", "~/run", "--max-steps=1", "--out=~/new"]],
    "replay gif": [["replay", "~/run", "--max-steps=1", "--gif", "~/new/a.gif"]],
    "replay mp4": [["replay", "~/run", "--max-steps=1", "--mp4=~/new/a.mp4"]],
    "tournament policy": [["tournament", "~/run", "random", "--episodes=1"]],
    "tournament env": [["tournament", "scripted", "random", "--env=~/tiny.toml", "--episodes=1"]],
    "tournament out": [["tournament", "~/run", "random", "--episodes=1", "--out=~/new"]],
    "watch source": [["watch", "~/run"]],
    "watch env": [["watch", "random", "--env=~/tiny.toml"]],
    "play source": [["play", "~/tiny.toml"]],
    "play policy": [["play", "~/tiny.toml", "--policy=~/run"]],
    "export checkpoint": [["export", "~/run"]],
    "export env": [["export", "~/run", "--env=~/tiny.toml"]],
    "export out": [["export", "~/run", "--out=~/new/policy.onnx"]],
    "report run": [["report", "~/run"]],
    "sweep file": [["sweep", "~/search.toml", "--quiet", "--run-dir=runs/sweep"]],
    "sweep run_dir": [["sweep", "~/search.toml", "--quiet", "--run-dir=~/new/sweep"]],
    "sweep storage": [["sweep", "~/search.toml", "--quiet", "--run-dir=runs/sweep", "--storage=~/study.log"]],
    "sweep join": [["sweep", "--join=~/sweep", "--quiet"]],
    "sweep status": [["sweep", "--status=~/sweep"]],
    "report out": [["report", "~/run", "--out=~/new/report.html"]],
    "report csv": [["report", "~/run", "--csv=~/new/numbers.csv"]],
    "check source": [["check", "~/tiny.toml"]],
    "bench source": [["bench", "~/tiny.toml", "--seconds=1"]],
    "bench profile": [["bench", "~/tiny.toml", "--seconds=1", "--profile=~/new/trace.json"]],
    "check from_": [["check", "~/tiny.toml", "--from=~/run"]],
}
"""Commands for each argument and option that takes a path."""

NO_PATHS = {
    "train device",
    "train set_",
    "resume device",
    "resume set_",
    "eval group",
    "eval policy",
    "eval device",
    "eval set_",
    "map set_",
    "export policy",
    "watch policy",
    "replay policy",
    "replay device",
    "replay set_",
    "tournament device",
    "tournament set_",
    "watch device",
    "watch set_",
    "play set_",
    "check set_",
    "bench device",
    "bench set_",
    "export set_",
    "reference name",
}


def test_every_argument_and_option_that_takes_a_path_is_tested() -> None:
    found = set()
    for command in app.registered_commands:
        assert command.callback
        for name, annotation in get_type_hints(command.callback).items():
            if "str" in str(annotation):
                found.add(f"{command.name or command.callback.__name__} {name}")
    assert set(OPTIONS) <= found
    assert found - set(OPTIONS) - NO_PATHS == set()


@pytest.mark.parametrize("arguments", [a for commands in OPTIONS.values() for a in commands], ids=" ".join)
def test_an_option_takes_a_path_from_a_home_directory(
    arguments: list[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if arguments[0] == "export":
        pytest.importorskip("onnxscript")
    monkeypatch.setattr("metta_cli.keyboard.Keyboard.__init__", lambda *arguments: None)
    shown: list[Any] = []
    for name in ("watch", "play"):
        monkeypatch.setattr(f"metta_cli.interactive.{name}", lambda *arguments: shown.append(arguments) or [])
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output + repr(result.exception)
    assert bool(shown) == (arguments[0] in ("watch", "play"))
    if any("~/new" in argument for argument in arguments):
        assert list((home / "new").iterdir())


def test_a_directory_may_end_in_a_slash(home: Path) -> None:
    for arguments in (
        ["train", "~/tiny.toml", "--quiet", "--run-dir", "deep/run/", "--set", "simulation.replay_dir=films/"],
        ["eval", "deep/run/", "--episodes=1"],
        ["resume", "deep/run/", "--quiet"],
        ["replay", "deep/run/", "--max-steps=1", "--out", "deep/films/"],
        ["report", "deep/run/"],
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output + repr(result.exception)
    assert sorted(path.name for path in Path().iterdir()) == ["deep", "films", "report.html"]
