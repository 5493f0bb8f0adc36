"""Sweep files: what a valid one means, and the exact message of every kind of invalid one."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_runs import TINY

from metta.config.loading.load import config_of_tables, dump_tables, load_config
from metta.config.loading.sweep_file import load_sweep
from metta.errors import ConfigError, ConfigWarning, UsageError

HEAD = '[sweep]\nbase = "tiny.toml"\n'


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(TINY)


def refusal(text: str) -> str:
    Path("s.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_sweep("s.toml")
    assert all(problem.line for problem in caught.value.problems)
    return str(caught.value).partition("\n")[2]


WRONG = {
    "misspelled keys of [sweep]": (
        '[sweep]\nbase = "tiny.toml"\ntrails = 4\nsampler = "tbe"\n'
        'parameters."ppo.gamma" = { low = 0.9, high = 0.99 }\n',
        '  line 3  sweep.trails   unknown key; did you mean "trials"?\n'
        '  line 4  sweep.sampler  must be one of "tpe", "cmaes", "random", "grid"; got "tbe"; did you mean "tpe"?',
    ),
    "no parameters": (
        HEAD,
        "  line 1  sweep.parameters  is missing: by TOML key, what the sweep varies: "
        "{ low = 1e-4, high = 1e-2, log = true } or { values = [...] }",
    ),
    "no such base": (
        '[sweep]\nbase = "hartes"\nparameters."ppo.gamma" = { low = 0.9, high = 0.99 }\n',
        '  line 2  sweep.base  there is no preset or file "hartes"; did you mean the preset "hearts"?',
    ),
    "numbers out of range": (
        '[sweep]\nbase = "tiny.toml"\ntrials = 0\nseeds = 0\nparameters."ppo.gamma" = { low = 0.9, high = 0.99 }\n',
        "  line 3  sweep.trials  must be at least 1; got 0\n  line 4  sweep.seeds   must be at least 1; got 0",
    ),
    "unknown metric": (
        HEAD + 'metric = "evaluation/reward"\nparameters."ppo.gamma" = { low = 0.9, high = 0.99 }\n',
        '  line 3  sweep.metric  must be "evaluation/mean_reward", "reward", "reward/POLICY", '
        '"evaluation/POLICY/mean_reward" or "seconds to reward = NUMBER"; got '
        '"evaluation/reward"; did you mean "evaluation/mean_reward"?',
    ),
    "metric without its number": (
        HEAD + 'metric = "seconds to reward"\nparameters."ppo.gamma" = { low = 0.9, high = 0.99 }\n',
        '  line 3  sweep.metric  needs the reward to reach, as in "seconds to reward = 5"; got "seconds to reward"',
    ),
    "metric of episodes that never end": (
        HEAD + 'parameters."ppo.gamma" = { low = 0.9, high = 0.99 }\n[env.game]\nmax_steps = 0\nepisode_lifetime = 0\n',
        "  line 1  sweep.metric  needs episodes that end; set env.game.max_steps",
    ),
    "unknown keys": (
        HEAD + '[sweep.parameters]\n"ppo.gama" = { low = 0.9, high = 0.99 }\n"lr" = { low = 0.1, high = 0.2 }\n'
        '"ppo" = { low = 0.9, high = 0.99 }\n"a b" = { values = [1] }\n',
        '  line 4  sweep.parameters."ppo.gama"  is no key of the config; did you mean "ppo.gamma"?\n'
        '  line 5  sweep.parameters.lr          is no key of the config; did you mean "optimizer.learning_rate"?\n'
        "  line 6  sweep.parameters.ppo         is a table; name a key in it, such as ppo.clip_coef\n"
        '  line 7  sweep.parameters."a b"       is not a key such as ppo.gamma',
    ),
    "keys that cannot be swept": (
        HEAD + '[sweep.parameters]\n"run.seed" = { values = [1, 2] }\n"run.run_dir" = { values = ["a"] }\n'
        '"logging.tensorboard" = { values = [true, false] }\n',
        '  line 4  sweep.parameters."run.seed"             cannot be swept: a trial has one run for each of its seeds; '
        "set sweep.seeds to their number\n"
        '  line 5  sweep.parameters."run.run_dir"          cannot be swept: each run has its own\n'
        '  line 6  sweep.parameters."logging.tensorboard"  cannot be swept: it does not change what a run learns',
    ),
    "both ends": (
        HEAD + '[sweep.parameters]\n"ppo.gamma" = { low = -0.1, high = 1.5 }\n'
        '"agent.mlp_layers" = { low = 0.5, high = 2 }\n',
        '  line 4  sweep.parameters."ppo.gamma".low         must be at least 0; got -0.1\n'
        '  line 4  sweep.parameters."ppo.gamma".high        must be at most 1; got 1.5\n'
        '  line 5  sweep.parameters."agent.mlp_layers".low  must be an integer, since agent.mlp_layers is one; got 0.5',
    ),
    "values": (
        HEAD + '[sweep.parameters]\n"agent.backbone" = { values = ["mpl", 5, "cnn", "cnn"] }\n'
        '"ppo.norm_adv" = { values = [] }\n',
        '  line 4  sweep.parameters."agent.backbone".values[3]  is listed twice: "cnn"\n'
        '  line 4  sweep.parameters."agent.backbone".values[0]  must be one of "cnn", "attention", "mlp"; got "mpl"; '
        'did you mean "mlp"?\n'
        '  line 4  sweep.parameters."agent.backbone".values[1]  must be a string; got 5\n'
        '  line 5  sweep.parameters."ppo.norm_adv".values       must not be empty',
    ),
    "ranges of keys that are no numbers": (
        HEAD + "[sweep.parameters]\nppo.norm_adv = { low = 0, high = 1 }\nagent.backbone = { low = 0, high = 1 }\n",
        "  line 4  sweep.parameters.ppo.norm_adv    takes no numbers; write values = [true, false]\n"
        "  line 5  sweep.parameters.agent.backbone  takes no numbers; write values = [...]",
    ),
    "tables of parameters": (
        HEAD + '[sweep.parameters]\n"ppo.clip_coef" = { low = 0.3, high = 0.2 }\n'
        '"ppo.vf_coef" = { low = 0, high = 1, log = true }\n'
        '"ppo.gamma" = { low = 0.9 }\n"ppo.ent_coef" = { low = 0.1, hgh = 0.2 }\n"ppo.gae_lambda" = 0.9\n'
        '"agent.mlp_layers" = { low = 1, high = 4, step = 2 }\n"agent.lstm_layers" = { low = 1, values = [1] }\n',
        '  line 4   sweep.parameters."ppo.clip_coef".low      must be less than high; got 0.3 and 0.2\n'
        '  line 5   sweep.parameters."ppo.vf_coef".low        must be more than 0 with log = true; got 0\n'
        '  line 6   sweep.parameters."ppo.gamma"              needs high, or values = [...]\n'
        '  line 7   sweep.parameters."ppo.ent_coef".hgh       unknown key; did you mean "high"?\n'
        '  line 8   sweep.parameters."ppo.gae_lambda"         must be a table; got 0.9\n'
        '  line 9   sweep.parameters."agent.mlp_layers".step  must lead from low to high (1 to 4); got 2; the last one '
        "below is 3\n"
        '  line 10  sweep.parameters."agent.lstm_layers".low  cannot be combined with values; leave one of them out',
    ),
    "the same key twice": (
        HEAD + '[sweep.parameters]\n"env.objects.altar.cooldown" = { low = 1, high = 9 }\n'
        '"env.objects[0].cooldown" = { values = [1] }\n'
        '[[env.objects]]\nname = "altar"\ntype = "converter"\n',
        '  line 5  sweep.parameters."env.objects[0].cooldown"  sets the same as "env.objects.altar.cooldown", which is '
        "swept too",
    ),
    "changes of the base": (
        HEAD + 'parameters."ppo.gamma" = { low = 0.9, high = 0.99 }\n[ppo]\ngama = 0.9\n[env.game]\nwidth = 3\n'
        '[checkpoint]\ncheckpoint_dir = "x"\n',
        "  line 2  sweep.base  with the changes in this file, env.map_builder.objects must leave room for the agents: "
        "7 objects + 4 agents = 11, but 3 x 8 cells less a border of 1 leaves 6\n"
        '  line 5  ppo.gama    unknown key; did you mean "gamma"?',
    ),
    "directories that runs would share": (
        HEAD + 'parameters."ppo.gamma" = { low = 0.9, high = 0.99 }\n[checkpoint]\ncheckpoint_dir = "x"\n'
        '[run]\nrun_dir = "y"\n',
        "  line 5  checkpoint.checkpoint_dir  must be left out in a sweep, whose runs have a directory each\n"
        "  line 7  run.run_dir                must be left out in a sweep, whose runs have a directory each",
    ),
    "a value that no combination makes valid": (
        HEAD
        + '[sweep.parameters]\n"experience.minibatch_size" = { values = [128, 256, 1024] }\n"experience.batch_size" = '
        "{ values = [512, 256] }\n",
        '  line 4  sweep.parameters."experience.minibatch_size".values[2]  must be at most batch_size = 512; got 1024; '
        "set minibatch_size = 512",
    ),
    "samplers that do not fit": (
        HEAD + 'sampler = "cmaes"\nparameters."ppo.gamma" = { low = 0.9, high = 0.99 }\n',
        '  line 3  sweep.sampler  "cmaes" needs at least two parameters with low and high; got 1',
    ),
    "a grid without steps": (
        HEAD + 'sampler = "grid"\nparameters."ppo.gamma" = { low = 0.9, high = 0.99 }\n',
        '  line 4  sweep.parameters."ppo.gamma"  needs a step, or values = [...], for the sampler "grid"',
    ),
    "more trials than a grid has": (
        HEAD + 'sampler = "grid"\ntrials = 9\nparameters."agent.mlp_layers" = { low = 1, high = 5, step = 2 }\n',
        "  line 4  sweep.trials  must be at most 3, the combinations of the grid, or left out; got 9",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_every_problem_has_its_line_and_sentence(name: str) -> None:
    text, message = WRONG[name]
    assert refusal(text) == message


def test_files_without_a_sweep() -> None:
    for source, message in {
        "none.toml": 'there is no file "none.toml"; a sweep is a TOML file',
        "tiny.toml": r"tiny.toml has no table \[sweep\]",
    }.items():
        with pytest.raises(UsageError, match=message):
            load_sweep(source)
    Path("tiny.toml").write_text("[ppo]\ngama = 1\n")
    Path("s.toml").write_text(HEAD + 'parameters."ppo.gamma" = { low = 0.9, high = 0.99 }\n')
    with pytest.raises(ConfigError, match=r"tiny.toml has 1 problem\n  line 2  ppo.gama"):
        load_sweep("s.toml")


def test_what_a_file_means() -> None:
    Path("s.toml").write_text(
        HEAD + 'seeds = 2\n[sweep.parameters]\n"agent.hidden_dim" = { low = 16, high = 64, step = 16 }\n'
        'optimizer.learning_rate = { low = 1e-4, high = 1e-2, log = true }\n"env.map_builder.objects" = '
        "{ values = [{ altar = 1 }, { altar = 2 }] }\n[run]\nseed = 7\ntotal_timesteps = 1e3\n"
        "[env.objects.altar]\ncooldown = 3\n"
    )
    sweep = load_sweep("s.toml")
    assert (sweep.config.name, sweep.num_trials, sweep.num_combinations) == ("s", 20, None)
    values = {"agent.hidden_dim": 32, "optimizer.learning_rate": 0.01, "env.map_builder.objects": {"altar": 2}}
    config = sweep.run_config(values, Path("run"), 1)
    changed = ["agent.hidden_dim=32", "optimizer.learning_rate=0.01", "env.map_builder.objects={ altar = 2 }"]
    changed += ["run.seed=8", "run.total_timesteps=1000", "env.objects.altar.cooldown=3", "run.run_dir=run"]
    assert config == load_config("tiny.toml", changed)
    assert config_of_tables(sweep.run_tables(values), "x").run.seed == 7
    Path("written.toml").write_text(dump_tables(sweep.run_tables(values)))
    assert load_config("written.toml", ["run.seed=8", "run.run_dir=run"]) == config
    integers, floats, _ = sweep.parameters
    assert integers.points == (16, 32, 48, 64)
    assert (floats.is_integer, floats.num_points) == (False, None)


def test_some_invalid_combinations_are_told_before_anything_starts() -> None:
    Path("s.toml").write_text(
        HEAD + '[sweep.parameters]\n"experience.minibatch_size" = { values = [256, 512] }\n"experience.batch_size" = '
        "{ values = [512, 256] }\n"
    )
    message = (
        "s.toml: of 4 combinations of values, 1 are not valid, and trials with them are pruned without training: with "
        "experience.minibatch_size = 512, experience.batch_size = 256, experience.minibatch_size must be at most"
    )
    with pytest.warns(ConfigWarning, match=message):
        load_sweep("s.toml")
