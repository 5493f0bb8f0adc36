"""Invalid sources and options on the command line: exact message, exit code 2, nothing created."""

from pathlib import Path

import pytest

from metta_cli.main import app

NO_RUN = "does not exist, here or as a run in runs/; to train one, name a TOML file or a preset: metta train quickstart"

CASES = {
    "misspelled preset": (
        ["train", "quikstart"],
        'there is no preset or file "quikstart"; did you mean the preset "quickstart"?',
    ),
    "misspelled file": (["train", "deul.toml"], 'there is no file "deul.toml"; did you mean the file "duel.toml"?'),
    "missing directory": (
        ["train", "runs/duel.toml"],
        'there is no file "runs/duel.toml"; there is no directory "runs"',
    ),
    "a directory": (["train", "."], ". is a directory; name a TOML file or a preset"),
    "a device": (["check", "/dev/zero"], "/dev/zero is not a regular file; name a TOML file or a preset"),
    "a binary": (["train", "noise.bin"], "noise.bin is not a TOML file: byte 0x80 in line 1 is not UTF-8 text"),
    "a checkpoint": (
        ["train", "policy.pt"],
        "policy.pt is not a TOML file; if it is a checkpoint, try `metta eval policy.pt`",
    ),
    "unknown preset to show": (["presets", "show", "simpel"], 'no preset is called "simpel"; did you mean "simple"?'),
    "no equals sign": (
        ["train", "quickstart", "--set", "ppo.gamma"],
        '--set takes section.key=value, such as ppo.gamma=0.99; got "ppo.gamma"',
    ),
    "a path that is too long": (["eval", "x" * 5000], f"{'x' * 5000} {NO_RUN}"),
    "a run that is too long": (["resume", "x" * 5000], f"{'x' * 5000} {NO_RUN}"),
    "a report of it": (["report", "x" * 5000], f"{'x' * 5000} {NO_RUN}"),
    "a run directory that is too long": (
        ["train", "quickstart", "--run-dir", "x" * 300],
        "the command line has 1 problem\n"
        "  --run-dir  run.run_dir  must be a path of at most 4000 bytes, each part of it at most 255 bytes",
    ),
    "unknown key": (
        ["train", "quickstart", "--set", "ppo.gama=0.9"],
        'the command line has 1 problem\n  --set  ppo.gama  unknown key; did you mean "gamma"?',
    ),
    "several options": (
        ["train", "quickstart", "--set", "ppo.gamma=2", "--seed", "-1", "--device", "gpu", "--total-timesteps", "0"],
        "the command line has 4 problems\n"
        "  --seed             run.seed             must be at least 0; got -1\n"
        '  --device           run.device           must be "auto", "cpu", "cuda", a GPU such as "cuda:1", or "mps"; '
        'got "gpu"; '
        'did you mean "cuda"?\n'
        "  --total-timesteps  run.total_timesteps  must be at least 1; got 0\n"
        "  --set              ppo.gamma            must be at most 1; got 2",
    ),
    "a file and an option": (
        ["check", "duel.toml", "--set", "experience.minibatch_size=1000"],
        "duel.toml has 3 problems\n"
        '  line 2  run.sede                   unknown key; did you mean "seed"?\n'
        "  line 5  experience.batch_size      must be a multiple of minibatch_size = 1000; got 524288; "
        "set minibatch_size = 1024\n"
        "  --set   experience.minibatch_size  must be a multiple of bptt_horizon = 64; got 1000; "
        "set minibatch_size = 1024",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), CASES.values(), ids=CASES.keys())
def test_messages_are_exact_and_nothing_is_created(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "duel.toml").write_text("[run]\nsede = 1\n\n[experience]\nbatch_size = 524_288\n")
    (tmp_path / "noise.bin").write_bytes(bytes(range(128, 256)))
    (tmp_path / "policy.pt").write_bytes(b"PK\x03\x04 and so on")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        app(arguments)
    output = capfd.readouterr()
    assert ended.value.code == 2
    assert output.out == ""
    assert output.err == f"error: {message}\n"
    assert sorted(tmp_path.rglob("*")) == before
