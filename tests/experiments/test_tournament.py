"""Tournaments: games from both sides, ratings, entrants, stored results, processes, tables and page."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from chromium import Chromium
from tiny_runs import TINY, tiny_config
from typer.testing import CliRunner, Result

from metta import api
from metta.errors import UsageError
from metta.evaluation.match import two_sides
from metta.experiments.tournament.entrants import find_entrants
from metta.experiments.tournament.games import play_games
from metta.experiments.tournament.ratings import rate
from metta.experiments.tournament.result import tournament_result
from metta.experiments.tournament.results_file import RESULTS
from metta_cli.main import app

CONFIG = tiny_config()
TEAMS = tiny_config("", "env.game.groups={red={id=0}, blue={id=1}, gray={id=2}}").env
CPU = torch.device("cpu")


def save_policy(directory: Path, epoch: int, seed: int) -> None:
    torch.manual_seed(seed)
    env = api.make_environment(CONFIG.env)
    agent = api.make_agent(env.single_observation_space, env.single_action_space, [], CPU, CONFIG.agent)
    api.save_checkpoint(agent, directory, epoch, {"agent_step": 512 * epoch})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs `long` (5 policies) and `short` (one), runs of two seeds in `seeds`, and worlds in TOML files."""
    root = tmp_path_factory.mktemp("tournament")
    for run, epochs in {
        "long": (0, 1, 3, 8, 20),
        "short": (2,),
        "seeds/seed_0": (1, 2),
        "seeds/seed_1": (1, 2),
    }.items():
        (root / run).mkdir(parents=True)
        (root / run / "config.toml").write_text(api.dump_config(CONFIG))
        for epoch in epochs:
            save_policy(root / run / "checkpoints", epoch, hash_of(run, epoch))
    (root / "tiny.toml").write_text(TINY)
    (root / "strange.toml").write_text(TINY + '[[env.actions]]\ntype = "move"\nkey = "walk"\n')
    return root


def hash_of(run: str, epoch: int) -> int:
    return sum(run.encode()) + 1000 * epoch


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def metta(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


@pytest.mark.parametrize(("world", "sides"), [(CONFIG.env, ((), ())), (TEAMS, (("red",), ("blue", "gray")))])
def test_each_map_is_played_from_both_sides(here: Path, world: api.EnvConfig, sides: object) -> None:
    assert two_sides(world) == sides
    (first, second), _ = find_entrants(["short", "scripted"])
    games = play_games(first, second, world, 3, 5, CPU)
    assert games.score == 0  # the scripted policy earns more
    env, one, other = api.make_environment(world), first.load(world, CPU), second.load(world, CPU)
    there = api.play_match(one, other, env, 3, 5, groups=two_sides(world)[0])
    back = api.play_match(other, one, env, 3, 5, groups=two_sides(world)[0])
    assert (there.is_policy_agent == back.is_policy_agent).all()
    assert games.rewards.tolist() == [
        [there.policy_rewards.tolist(), there.opponent_rewards.tolist()],
        [back.opponent_rewards.tolist(), back.policy_rewards.tolist()],
    ]
    assert play_games(second, first, world, 3, 5, CPU).exchanged.rewards.tolist() == games.rewards.tolist()
    assert games.exchanged.differences.tolist() == (-games.differences).tolist()


def test_ratings_follow_strengths_and_say_how_sure_they_are() -> None:
    generator, strengths = np.random.default_rng(0), [0.0, 5.0, 10.0, 20.0]
    pairs = [(one, other) for one in range(4) for other in range(one + 1, 4)]

    def scores(games: int) -> dict[tuple[int, int], list[float]]:
        wins = {
            (one, other): 1 / (1 + math.exp((strengths[other] - strengths[one]) / (math.sqrt(2) * 25 / 6)))
            for one, other in pairs
        }
        return {pair: (generator.random(games) < win).astype(float).tolist() for pair, win in wins.items()}

    few, many = rate(4, scores(5)), rate(4, scores(200))
    assert [many[index + 1].mean - many[index].mean for index in range(3)] == pytest.approx([5, 5, 10], abs=2.5)
    assert all(better.half_width < worse.half_width / 3 for better, worse in zip(many, few, strict=True))
    one, other = rate(2, {(0, 1): [0.5] * 4})
    assert one.mean == pytest.approx(25)
    assert other.mean == pytest.approx(25)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("metta.experiments.tournament.ratings.OPENSKILL", "no_such_package")
    with pytest.raises(UsageError, match=r"pip install 'metta-gridworlds\[tournament\]'"):
        api.tournament(["scripted", "random"], CONFIG.env, out=tmp_path)


def test_a_run_stands_for_its_policies_over_time(here: Path) -> None:
    def names(*sources: str, checkpoints: int = 10) -> list[str]:
        return [entrant.name for entrant in find_entrants(sources, CONFIG.env, checkpoints)[0]]

    assert names("long") == [f"long epoch {epoch}" for epoch in (0, 1, 3, 8, 20)]
    assert names("long/checkpoints", checkpoints=3) == ["long epoch 0", "long epoch 3", "long epoch 20"]
    assert names("long", "scripted", checkpoints=1) == ["long epoch 20", "scripted"]
    assert names("seeds", "random") == ["seed_0 epoch 2", "seed_1 epoch 2", "random"]
    assert names("seeds/*", checkpoints=2) == [f"seed_{seed} epoch {epoch}" for seed in (1, 0) for epoch in (1, 2)]
    newest = "long/checkpoints/checkpoint_000020.pt"
    assert names("long", newest, checkpoints=2) == ["long epoch 0", "long epoch 20"]
    shutil.copytree("long", "other/long", dirs_exist_ok=True)
    save_policy(Path("other/long/checkpoints"), 20, 77)
    shutil.copy("short/checkpoints/checkpoint_000002.pt", "long/best.pt")
    assert names("long/best.pt", "random") == ["long best", "random"]
    assert names(newest, "other/long/checkpoints/checkpoint_000020.pt")[1].startswith("other/long/")


@pytest.mark.parametrize(
    ("sources", "problems"),
    [
        ([], ["a tournament needs at least two policies; got none"]),
        (["scripted"], ["a tournament needs at least two policies; got scripted"]),
        (["short"], ["a tournament needs at least two policies; got short epoch 2"]),
        (["scripted", "random", "scripted"], ["scripted is named twice"]),
        (
            ["no.pt", "scriptd", "copy.pt", "short/checkpoints/checkpoint_000002.pt", "empty", "none_*", "short"],
            [
                "no.pt does not exist",
                'scriptd does not exist, here or as a run in runs/; did you mean "scripted"?',
                "empty has no policy checkpoint, and no run directories",
                "no run directory matches none_*",
                "copy.pt and short/checkpoints/checkpoint_000002.pt are the same policy; leave out one",
                "copy: copy.pt does not fit this agent",
            ],
        ),
    ],
)
def test_problems_with_policies_are_reported_together(here: Path, sources: list[str], problems: list[str]) -> None:
    shutil.copy("short/checkpoints/checkpoint_000002.pt", "copy.pt")
    Path("empty").mkdir(exist_ok=True)
    world = "strange.toml" if len(problems) > 1 else "tiny.toml"
    with pytest.raises(UsageError) as error:
        find_entrants(sources, api.load_world(world))
    lines = str(error.value).split("\n  ")
    assert len(lines) == len(problems), lines
    for line, problem in zip(lines, problems, strict=True):
        assert line.startswith(problem)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (["num_agents=1"], "needs at least two agents"),
        (["max_steps=0", "episode_lifetime=0"], "episodes of this world never end"),
        (["groups={agent={id=0, group_reward_pct=1.0}}"], "every game is a draw"),
    ],
)
def test_a_world_without_matches_is_refused(settings: list[str], problem: str, tmp_path: Path) -> None:
    config = tiny_config("", *(f"env.game.{setting}" for setting in settings))
    with pytest.raises(UsageError, match=problem):
        api.tournament(["scripted", "random"], config.env, out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_results_are_stored_for_what_was_played(here: Path, tmp_path: Path) -> None:
    file = tmp_path / "policy.pt"
    shutil.copy("short/checkpoints/checkpoint_000002.pt", file)

    def stored(*policies: str | Path, world: api.EnvConfig = CONFIG.env, episodes: int = 2, seed: int = 0) -> int:
        seen: list[api.TournamentProgress] = []
        api.tournament([*policies], world, episodes, seed, tmp_path, 10, listener=seen.append)
        assert [progress.num_played for progress in seen] == list(range(seen[-1].num_played + 1))
        assert seen[-1].num_stored + seen[-1].num_played == seen[-1].num_pairs
        return seen[-1].num_stored

    assert stored(file, "random") == 0
    assert stored(file, "random") == 1
    assert stored("scripted", "random", file) == 1
    assert stored("random", "scripted", file) == 3
    assert stored(file, "random", seed=1) == 0
    assert stored(file, "random", episodes=3) == 0
    assert stored(file, "random", world=tiny_config("", "env.game.max_steps=10").env) == 0
    shutil.copy("long/checkpoints/checkpoint_000001.pt", file)
    assert stored(file, "random") == 0
    results = tmp_path / RESULTS
    results.write_text("".join(line[:-30] + "\n" for line in results.read_text().splitlines()) + '{"settings":')
    assert stored(file, "random") == 0
    assert stored(file, "random") == 1


def test_a_killed_tournament_goes_on_where_it_was(here: Path, tmp_path: Path) -> None:
    command = ["long", "random", "--env", "tiny.toml", "--checkpoints", "4", "--episodes", "1", "--json"]
    (alone,) = metta("tournament", *command, "--out", str(tmp_path / "alone")).stdout.splitlines()
    process = subprocess.Popen(
        [sys.executable, "-m", "metta_cli", "tournament", *command, "--jobs", "2", "--out", str(tmp_path / "killed")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    results = tmp_path / "killed" / RESULTS
    while not (results.exists() and results.stat().st_size):
        assert process.poll() is None
        time.sleep(0.01)
    children = psutil.Process(process.pid).children()
    assert len(children) == 2
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []
    count = len(results.read_text().splitlines())
    result = metta("tournament", *command, "--jobs", "2", "--out", str(tmp_path / "killed"))
    assert f"note: {count} of 10 pairs have been played before" in result.stderr
    resumed, expected = json.loads(result.stdout), json.loads(alone)
    assert resumed.pop("page") != expected.pop("page")
    assert resumed == expected
    assert len(results.read_text().splitlines()) == 10


def test_a_worker_that_dies_is_named(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "metta.experiments.tournament.workers._PROGRAM",
        "import os, sys; os.read(int(sys.argv[2]), 9); os.kill(os.getpid(), 9)",
    )
    result = metta(
        "tournament", "scripted", "random", "short", "--env", "tiny.toml", "--jobs", "2", "--out", str(tmp_path), code=1
    )
    assert "was killed by SIGKILL; perhaps memory ran out; finished pairs are saved: repeat" in result.stderr


def test_an_interrupt_between_pairs_ends_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    has_ended, is_first = threading.Event(), iter([True, False, False])

    class Worker:
        def play(self, task: object) -> api.PairGames:
            assert next(is_first) or has_ended.wait(20)
            return api.PairGames(np.zeros((2, 2, 1)))

        def end(self) -> None:
            has_ended.set()

        def close(self) -> None:
            pass

    def interrupt(progress: api.TournamentProgress) -> None:
        if progress.num_played:
            raise KeyboardInterrupt

    monkeypatch.setattr("metta.experiments.tournament.workers._Worker", Worker)
    monkeypatch.setattr("metta.experiments.tournament.entrants._registered_digest", str)
    monkeypatch.setitem(api.POLICIES._registered, "third", api.POLICIES.find("random"))
    with pytest.raises(KeyboardInterrupt) as error:  # which keeps all frames alive
        api.tournament(["scripted", "random", "third"], CONFIG.env, 1, out=tmp_path, jobs=2, listener=interrupt)
    assert has_ended.is_set()
    assert error.traceback


@pytest.fixture(scope="module")
def played(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[api.TournamentResult, Path]:
    """The result of a tournament in which one policy has a name that is markup, and its page."""
    out = tmp_path_factory.mktemp("page")
    file = out / "<b>&.pt"
    shutil.copy(folder / "short/checkpoints/checkpoint_000002.pt", file)
    result = api.tournament([folder / "long", "random", file], TEAMS, 2, out=out, checkpoints=3)
    return result, api.write_tournament(result, out, "tiny <teams>").page


def test_standings_do_not_depend_on_the_order_of_policies(played: tuple[api.TournamentResult, Path]) -> None:
    result, _ = played
    entrants = [standing.entrant for standing in result.standings][::-1]
    last = len(entrants) - 1
    games = {
        (one, other): result.games[last - one, last - other]
        for one in range(len(entrants))
        for other in range(one + 1, len(entrants))
    }
    again = tournament_result(entrants, games, result.num_games, result.seed, result.sides)
    assert again.standings == result.standings
    assert sum(standing.score for standing in result.standings) == pytest.approx(len(entrants) / 2)
    ratings = [standing.rating.mean for standing in result.standings]
    assert ratings == sorted(ratings, reverse=True)
    (points,) = result.progress.values()
    assert [standing.entrant.agent_steps for standing in points] == [512 * epoch for epoch in (0, 3, 20)]


def test_the_page_fits_a_phone(played: tuple[api.TournamentResult, Path], browser: Chromium) -> None:
    result, page = played
    for scheme in ("light", "dark"):
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        for width, mobile in ((390, True), (1280, False)):
            browser.resize(width, 800, mobile)
            browser.call("Page.navigate", url=page.as_uri())
            browser.wait_for(
                "document.readyState === 'complete' && document.querySelector('.matrix tbody .name') !== null"
            )
            assert browser.evaluate("document.documentElement.scrollWidth") <= width
            assert browser.problems() == []
    assert browser.text("h1") == "Tournament in tiny <teams>"
    names = browser.evaluate("[...document.querySelectorAll('.matrix tbody .name')].map(cell => cell.textContent)")
    assert names == [f"{place} {standing.entrant.name}" for place, standing in enumerate(result.standings, 1)]
    assert any("<b>&" in name for name in names)
    assert browser.evaluate("document.querySelectorAll('.chart circle').length") == 3


def test_the_command_prints_tables_and_writes_files(here: Path, tmp_path: Path) -> None:
    command = ["tournament", "long", "random", "--checkpoints", "2", "--episodes", "2", "--out", str(tmp_path)]
    result = metta(*command)
    lines = result.stdout.splitlines()
    assert lines[0] == "tournament in the world of long"
    assert "rating of long over agent steps" in lines
    assert lines[-2:] == [str(tmp_path / "tournament.html"), str(tmp_path / "tournament.json")]
    written = json.loads((tmp_path / "tournament.json").read_text())
    for row, standing in enumerate(written["policies"]):
        assert written["matrix"][row][row] is None
        others = [score for score in written["matrix"][row] if score is not None]
        assert standing["score"] == pytest.approx(sum(others) / len(others))
    assert metta(*command, "--quiet").stdout == ""
    assert "name one: --env PRESET" in metta("tournament", "scripted", "random", code=2).stderr
