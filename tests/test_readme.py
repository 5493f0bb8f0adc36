"""Documentation: examples run, TOML loads, commands and paths exist, generated parts are up to date."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer.main
from generated_docs import COMMAND, PAGES, replace_section, updated
from packages import install
from typer.testing import CliRunner

from metta.config.loading.load import parse_config
from metta.config.loading.renamed_keys import RENAMED_KEYS
from metta.config.loading.sweep_file import load_sweep
from metta.config.run import RunConfig
from metta_cli.main import app

ROOT = Path(__file__).parents[1]
NAMES = (
    "README.md",
    "presets/README.md",
    "presets/METTAGRID.md",
    "presets/RULES.md",
    "engine/README.md",
    "engine/API.md",
    "tests/README.md",
    "tests/benchmarks/README.md",
    "tests/benchmarks/learning.md",
    ".github/CONTRIBUTING.md",
    ".github/CHANGELOG.md",
)
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in NAMES}
LARGEST_README = 15 * 1024
EXTENSIONS = ("map_builders", "backbones", "memories", "policies", "loggers", "observation_processors", "presets")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    code: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(language: str, *pages: str) -> list[Block]:
    """All blocks in a language, in the order of the pages."""
    found = []
    for page in pages or NAMES:
        for match in re.finditer(rf"^```{language}\n(.*?)^```$", TEXTS[page], re.MULTILINE | re.DOTALL):
            found.append(Block(page, TEXTS[page].count("\n", 0, match.start()) + 1, match[1]))
    return found


def commands(block: Block) -> list[str]:
    """The lines of a shell block without comments."""
    return [line.partition("  #")[0].strip() for line in block.code.splitlines() if line.strip()]


def run(code: str, folder: Path) -> str:
    """The standard output of a program."""
    ran = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


PROGRAMS = [block for block in blocks("python") if not block.code.startswith("# my_parts/")]


@pytest.mark.parametrize("block", PROGRAMS, ids=str)
def test_a_python_example_runs(block: Block, tmp_path: Path) -> None:
    printed = run(block.code, tmp_path)
    if "print(" in block.code:
        assert printed
    for name in re.findall(r"save_checkpoint\(agent, \"(\w+)\", epoch=\d\)", block.code):
        assert (tmp_path / name / "checkpoint_000003.pt").exists()


def example(library: str, *replaced: tuple[str, str], use: str = "") -> str:
    """The example of a library that may be missing, with parts replaced so that it takes less time.

    `use` is a part of it that no other example has, by default the name of the library.
    """
    pytest.importorskip(library)
    (code,) = [block.code for block in blocks("py") if (use or library) in block.code]
    for part, by in replaced:
        assert code.count(part) == 1, part
        code = code.replace(part, by)
    return code


def last_line(code: str, folder: Path) -> str:
    """The last line that a program prints; unlike metta's, it may warn."""
    (folder / "example.py").write_text(code)
    ran = subprocess.run([sys.executable, "example.py"], cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()[-1]


@pytest.mark.slow
def test_the_stable_baselines_example_trains(tmp_path: Path) -> None:
    pytest.importorskip("supersuit")
    parts = [("100_000", "2_048"), ("n_steps=64", "n_steps=64, n_epochs=1")]
    code = example("stable_baselines3", *parts, use="stable_baselines3.PPO")
    assert last_line(code + "print(env.num_agents, worlds.num_envs)", tmp_path) == "4 32"


@pytest.mark.slow
def test_the_example_with_action_masks_trains(tmp_path: Path) -> None:
    pytest.importorskip("supersuit")
    code = example("sb3_contrib", ("100_000", "2_048"), ("n_steps=64", "n_steps=64, n_epochs=1"))
    assert last_line(code + "print(worlds.num_envs, model.num_timesteps)", tmp_path) == "32 2048"


LITTLE = """
config.max_n_iters, config.evaluation_episodes, config.create_json, config.save_folder = 2, 1, False, "."
config.on_policy_collected_frames_per_batch, config.on_policy_n_envs_per_worker = 160, 2
config.on_policy_minibatch_size, config.on_policy_n_minibatch_iters = 80, 1
"""
CHANGES = """
before = [weight.detach().clone() for weight in experiment.losses["agent"].parameters()]
experiment.run()
weights = zip(before, experiment.losses["agent"].parameters(), strict=True)
print(experiment.total_frames, any(not old.equal(new) for old, new in weights))
"""


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["Ippo", "Mappo"])
def test_the_benchmarl_example_trains(algorithm: str, tmp_path: Path) -> None:
    """Also with a central critic, which reads the state of the world."""
    parts = [
        ("mlp = ", f"{LITTLE}mlp = "),
        ("\nexperiment.run()\n", CHANGES),
        ("load_config(self.name).env)", "CONFIG)"),
    ]
    parts += [("env.game.max_steps", "env.game.max_steps // 10")]
    code = example("benchmarl", *parts).replace("Ippo", algorithm)
    config = "\nCONFIG = load_config('quickstart', ['env.game.max_steps=30']).env\n"
    assert last_line(code.replace("\nconfig =", f"{config}config =", 1), tmp_path) == "320 True"


def test_the_example_package_extends_metta(tmp_path: Path) -> None:
    """Its extensions are found by name, as if pip had installed it, and its preset is trained."""
    (extensions,) = [block for block in blocks("python") if block not in PROGRAMS]
    project, world = blocks("ini", "engine/README.md")
    entry_points = tomllib.loads(project.code)["project"]["entry-points"]
    assert set(entry_points) == {f"metta.{kind}" for kind in EXTENSIONS}
    site = install(tmp_path / "site", "my-parts", entry_points, my_parts={"parts": extensions.code})
    (site / "my_parts" / "worlds").mkdir()
    (site / "my_parts" / "worlds" / "striped.toml").write_text(world.code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}

    def metta(*arguments: str) -> str:
        command = [sys.executable, "-m", "metta_cli", *arguments]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    assert re.search(r"^mine\.striped .*a world of stripes$", metta("presets"), re.MULTILINE)
    metta("train", "mine.striped", "--total-timesteps", "8192", "--run-dir", "run", "--quiet")
    rewards = [json.loads(line)["reward"] for line in (tmp_path / "run" / "reward.jsonl").read_text().splitlines()]
    epochs = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rewards == [line["reward"] for line in epochs]
    assert len(rewards) == 2
    agent = tomllib.loads((tmp_path / "run" / "config.toml").read_text())["agent"]
    assert (agent["backbone"], agent["memory"], agent["obs_process_func"]) == ("sums", "average", "only_near")
    assert "run/checkpoints" in metta("eval", "run/checkpoints/checkpoint_000002.pt", "--episodes", "1", "--json")
    assert "circle" in metta("eval", "circle", "--env", "mine.striped", "--episodes", "1", "--json")


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_a_toml_example_is_a_config(block: Block, tmp_path: Path) -> None:
    if "[sweep]" in block.code:
        (tmp_path / "search.toml").write_text(block.code)
        assert load_sweep(tmp_path / "search.toml").num_trials == 40
    else:
        assert parse_config(block.code, block.page) != RunConfig()


METTA = r"(?:^|&& |-m )(?:\.venv/bin/)?metta(?:_cli)? ([a-z]+)"
NAMED = {match[1] for page in NAMES for block in blocks("sh", page) for match in re.finditer(METTA, block.code, re.M)}
NAMED |= {match[1] for text in TEXTS.values() for match in re.finditer(r"`metta ([a-z]+)\b", text)}


@pytest.mark.parametrize("command", sorted(NAMED))
def test_a_command_exists(command: str) -> None:
    assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0


def test_all_commands_are_in_the_tour() -> None:
    tour = "\n".join(block.code for block in blocks("sh", "README.md"))
    for command in typer.main.get_command(app).commands:
        assert re.search(rf"\bmetta {command}\b", tour)


def options_of(command: str) -> set[str]:
    """The options that `metta COMMAND --help` lists."""
    ran = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    return set(re.findall(r"--[a-z][a-z-]+", ran.stdout))


@pytest.mark.parametrize("page", NAMES)
def test_options_of_commands_exist(page: str) -> None:
    """In shell blocks and in inline code: `metta eval CHECKPOINT --suite navigation`."""
    given = [command for block in blocks("sh", page) for command in commands(block)]
    given += re.findall(r"`((?:torchrun [^`]*-m )?metta[^`]*)`", TEXTS[page])
    for line in given:
        if found := re.search(METTA + r"([^&|]*)", line):
            options = set(re.findall(r"--[a-z][a-z-]+", found[2]))
            assert options <= options_of(found[1]), line


def test_ci_runs_the_test_command_of_the_readme() -> None:
    (command,) = [line for block in blocks("sh", "README.md") for line in commands(block) if "/pytest" in line]
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").replace("--quiet ", "")
    script = script.replace('"${PYTHON:-python3}"', "python3")
    for step in command.split(" && "):
        assert step in script


@pytest.mark.parametrize("page", NAMES)
def test_links_and_paths_exist(page: str) -> None:
    """Relative links from the page; paths of files in backticks from the root, `engine/metta` or `tests/support`."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)", TEXTS[page])
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []
    places = [ROOT, ROOT / "engine" / "metta", ROOT / "tests" / "support", (ROOT / page).parent]
    paths = re.findall(r"`((?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:py|js|css|jinja))`", without_blocks(TEXTS[page]))
    paths = [path for path in paths if not path.startswith(NOT_IN_TREE)]
    assert [path for path in paths if not any((place / path).exists() for place in places)] == []


NOT_IN_TREE = (
    "evaluation/",
    "learning_rate/",
    "reward/",
    "reward_terms/",
    "runs/",
    "RUN/",
    "checkpoints/",
    "replays/",
    "tensorboard/",
    "losses/",
    "stats/",
    "my_parts/",
    "presets/NAME",
)
"""Paths that a run writes, names of metrics, and examples."""


def without_blocks(text: str) -> str:
    """The text without fenced blocks and generated parts."""
    return re.sub(r"^```.*?^```$|^<!-- (\w+):begin.*?\1:end -->$", "", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", NAMES)
def test_anchors_exist(page: str) -> None:
    text = re.sub(r"^```.*?^```$", "", TEXTS[page], flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors


def test_all_support_modules_are_listed() -> None:
    modules = {path.name for path in (ROOT / "tests" / "support").glob("*.py")}
    assert {name for name in modules if f"`{name}`" not in TEXTS["tests/README.md"]} == set()


def test_the_readme_is_short() -> None:
    assert len(TEXTS["README.md"].encode()) <= LARGEST_README


@pytest.mark.parametrize("marker", PAGES)
def test_generated_parts_are_up_to_date(marker: str) -> None:
    page, text = updated(marker)
    assert text == page.read_text(encoding="utf-8"), f"run `{COMMAND}`"


def test_every_table_of_the_toml_file_has_a_section() -> None:
    reference = TEXTS["presets/README.md"]
    for table in RunConfig.model_fields:
        assert re.search(rf"^### `\[{table}(\.NAME)?\]`", reference, re.MULTILINE), table
    assert "| `gamma` | number, 0 to 1 | `0.977` |" in reference


def test_only_the_text_between_the_markers_is_replaced() -> None:
    text = "# Title\n\n<!-- a:begin -->\nold\n<!-- a:end -->\n\nafter <!-- a:end -->\n"
    new = "# Title\n\n<!-- a:begin -->\n\nnew\n\n<!-- a:end -->\n\nafter <!-- a:end -->\n"
    assert replace_section(text, "a", "new") == new
    with pytest.raises(SystemExit, match="needs the lines"):
        replace_section("# Title\n", "a", "new")


def test_the_changelog_has_the_version_of_the_distribution() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    released = re.findall(r"^## \[?(\d+\.\d+\.\d+)\]?", TEXTS[".github/CHANGELOG.md"], re.MULTILINE)
    assert released[0] == version
    assert released == sorted(released, key=lambda name: [int(part) for part in name.split(".")], reverse=True)


def test_the_changelog_lists_renamed_keys() -> None:
    for old, new in RENAMED_KEYS.items():
        for path in (old, new):
            name = f"[{path[0]}]" if len(path) == 1 else ".".join(map(str, path))
            assert f"`{name}`" in TEXTS[".github/CHANGELOG.md"]
