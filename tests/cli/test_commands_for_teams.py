"""Commands that take a policy take a run of several policies, and one of its policies by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_runs import TEAM, assert_same_weights, ignore, tiny_config
from typer.testing import CliRunner

from metta.api import EpisodePlayer, Interval, Team, dump_config, load_config, load_policy, policy_file
from metta.run.train import train_run
from metta_cli import interactive
from metta_cli.main import app
from metta_cli.views import evaluation_table


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run with the policies `wolves` and `deer`."""
    path: Path = tmp_path_factory.mktemp("team") / "pack"
    train_run(tiny_config(path, *TEAM), ignore)
    return path


def output(*command: str | Path) -> str:
    ran = CliRunner().invoke(app, [str(word) for word in command])
    assert ran.exit_code == 0, ran.output
    return ran.stdout


def actions(*command: str | Path) -> tuple[float, ...]:
    """Counters of actions in an evaluation."""
    stats = json.loads(output("eval", *command, "--episodes", "2", "--json"))["policy"]["stats"]
    return tuple(value for name, value in sorted(stats.items()) if name.startswith("action."))


def test_each_policy_plays_its_groups_in_an_evaluation(run: Path) -> None:
    by_policy = {name: actions(f"{run}{name}") for name in ("", ":wolves", ":deer")}
    assert len(set(by_policy.values())) == 3, "the team plays like one of its policies"


def test_an_evaluation_has_the_reward_of_each_policy(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    found = json.loads(output("eval", run, "--episodes", "3", "--json"))
    for column in ("policy", "random"):
        rewards = [of["mean_reward"] for of in found[column]["policies"].values()]
        assert sum(rewards) / 2 == pytest.approx(found[column]["mean_reward"])
        assert len(set(rewards)) == 2
    text = output("eval", run, "--episodes", "3")
    interval = found["random"]["policies"]["deer"]["reward_interval"]
    own = evaluation_table.estimate(Interval(sum(interval) / 2, (interval[1] - interval[0]) / 2))
    assert next(line for line in text.splitlines() if "agents of deer" in line).rstrip().endswith(own)
    assert "agents of" not in output("eval", f"{run}:deer", "--episodes", "3")
    rows = output("eval", run, "--suite", f"{run}/config.toml,quickstart", "--episodes", "3").splitlines()
    assert next(row for row in rows if "world " in row).split()[-4:] == ["policy", "wolves", "policy", "deer"]
    assert next(row for row in rows if "config.toml" in row).count("±") == 4
    assert next(row for row in rows if "quickstart" in row).split()[1:] == ["-"] * 4


@pytest.mark.parametrize("name", ["wolves", "deer"])
def test_the_option_names_a_policy_as_the_path_does(run: Path, name: str, tmp_path: Path) -> None:
    assert actions(run, "--policy", name) == actions(f"{run}:{name}")
    assert actions(run / "checkpoints" / "checkpoint_000008.pt", "--policy", name) == actions(f"{run}:{name}")
    pages = [
        json.loads(output("replay", *which, "--max-steps", "2", "--out", tmp_path / str(index), "--json"))["page"]
        for index, which in enumerate([(run, "--policy", name), (f"{run}:{name}",)])
    ]
    assert [Path(page).name for page in pages] == [f"pack_checkpoint_000008_{name}_seed_0.html"] * 2
    assert f"epoch 8, policy {name}" in Path(pages[0]).read_text()
    exported = tmp_path / "policy.onnx"
    output("export", run, "--policy", name, "--out", exported)
    by_option = exported.read_bytes()
    output("export", f"{run}:{name}", "--out", exported)
    assert exported.read_bytes() == by_option


@pytest.mark.parametrize("policy", [("RUN", "--policy", "deer"), ("RUN:deer",)])
def test_a_watched_policy_follows_its_run(
    run: Path, policy: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time the run has a newer checkpoint, the policy of this name plays in it."""
    copied = shutil.copytree(run, tmp_path / "copied")
    newest = copied / "checkpoints" / "checkpoint_000009.pt"
    shown: list[tuple[str, Team]] = []

    def watch(keyboard: object, player: EpisodePlayer, title: str, speed: int, newer: interactive.NewerPolicy) -> None:
        assert newer() is None
        shown.append((title, player._team))
        shutil.copy(copied / "checkpoints" / "checkpoint_000000.pt", newest)
        shown.append(newer() or pytest.fail("the newer policy is not played"))

    monkeypatch.setattr("metta_cli.keyboard.Keyboard.__init__", lambda *arguments: None)
    monkeypatch.setattr("metta_cli.interactive.watch", watch)
    output("watch", *(word.replace("RUN", str(copied)) for word in policy))
    assert [title for title, _ in shown] == [f"checkpoint_{number:06d}, policy deer" for number in (8, 9)]
    for (_, team), epoch in zip(shown, (8, 0), strict=True):
        (agent,) = team.policies.values()
        expected = load_policy(run / "checkpoints" / f"checkpoint_{epoch:06d}.pt", policy="deer").agent
        assert_same_weights(agent.state_dict(), expected.state_dict())


def test_check_prints_the_numbers_of_each_policy(run: Path, tmp_path: Path) -> None:
    """A file with a frozen policy, which has no minibatches and takes its weights from a run."""
    file = tmp_path / "two.toml"
    frozen = f'policies.deer={{groups=["grazers"], train=false, init_from="{run}:wolves"}}'
    file.write_text(dump_config(tiny_config("", *TEAM[:2], frozen)))
    printed = output("check", file)
    policies = load_config(file).policies
    assert (policies["wolves"].ppo, policies["deer"].train) == ({"gamma": 0.9}, False)
    rows = [" ".join(line.removeprefix("# ").split()) for line in printed.splitlines() if line.startswith("# ")]
    for row in (
        "learners per world 2 4 agents - 2 that frozen policies play",
        "wolves: agents per world 2 those of hunters",
        "wolves: minibatches 2 batch_size 512 / 256",
        "wolves: discount horizon 10 steps: 1 / (1 - gamma 0.9)",
        "deer: agents per world 2 those of grazers",
        f"deer: weights frozen those of {run}:wolves",
    ):
        assert row in rows
    assert not [row for row in rows if row.startswith(("deer: minibatches", "deer: gradient"))]
    found = {row["name"]: row["value"] for row in json.loads(output("check", file, "--json"))["derived"]}
    agent = load_policy(policy_file(f"{run}:wolves")).agent
    assert found["wolves: weights"] == sum(weight.numel() for weight in agent.parameters())
    assert found["deer: weights"] == "frozen"


def test_policies_of_a_run_play_against_each_other(run: Path, tmp_path: Path) -> None:
    against = json.loads(
        output("eval", f"{run}:wolves", "--against", f"{run}:deer", "--group", "hunters", "--episodes", "2", "--json")
    )
    assert against["against"].endswith(":deer")
    entrants = (f"{run}:wolves", f"{run}:deer", "scripted")
    table = output("tournament", *entrants, "--episodes", "2", "--json", "--out", tmp_path)
    assert len(json.loads(table)["policies"]) == 3


def test_a_team_is_recorded_and_each_of_its_policies_exported(run: Path, tmp_path: Path) -> None:
    output("replay", run, "--out", tmp_path)
    assert list(tmp_path.glob("*.html"))
    names = [Path(line).name for line in output("export", run).split()]
    assert [name.rpartition("_")[2] for name in names] == ["wolves.onnx", "deer.onnx"]
    output("export", f"{run}:deer", "--out", tmp_path / "deer.onnx")
    assert (tmp_path / "deer.onnx").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["eval", "{run}:fox"], 'has no policy "fox": it holds wolves, deer'),
        (["eval", "{run}", "--policy", "fox"], 'has no policy "fox": it holds wolves, deer'),
        (["eval", "{run}:deer", "--policy", "wolves"], "names a policy already; leave out --policy"),
        (["eval", "scripted", "--policy", "wolves"], "names one of several policies of a run; leave it out for scrip"),
        (["export", "{run}", "--out", "one.onnx"], "holds several policies (wolves, deer); name one of them"),
        (
            ["eval", "{run}", "--env", "quickstart"],
            'no policy plays an agent of the group "agent" (wolves plays hunters; deer plays grazers): the team plays '
            "only worlds with its groups, one of its policies alone plays any",
        ),
    ],
)
def test_errors_name_the_policies(run: Path, command: list[str], message: str) -> None:
    ran = CliRunner().invoke(app, [word.format(run=run) for word in command])
    assert ran.exit_code != 0
    assert message in " ".join(ran.stderr.split())
