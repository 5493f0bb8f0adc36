"""`metta bench` and `metta.api.bench`: what they measure, how they judge it, what they recommend, and the trace."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_runs import TINY, only_learner, tiny_config
from torch.autograd import DeviceType
from typer.testing import CliRunner, Result

from metta.api import BenchResult, RunConfig, Split, Trial, TrialResult, bench, load_config, presets, write_trace
from metta.config.batch_plan import BatchPlan
from metta.errors import UsageError
from metta.run.benchmark.speed_sampler import SpeedSampler, _device_use, _split
from metta.run.benchmark.trials import batch_plan, make_trials, with_noise
from metta.spans import Span
from metta_cli.main import app

SPLIT = Split(infer=3e-6, learn=5e-6, simulate=0.0, wait=1e-6, other=1e-6, beside=2e-6)
SIZES = BatchPlan(num_worlds=8, num_agents=4, horizon=8, segments_per_agent=2, num_minibatches=2, num_world_batches=2)


def test_a_bench_measures_all_parts_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    reports: list[tuple[str, float]] = []
    result = bench(tiny_config(), 3.0, lambda text, share: reports.append((text, share)))
    split = result.split
    assert result.device == "cpu"
    assert min(split.infer, split.learn, split.beside) > 0
    assert split.total == pytest.approx(split.infer + split.learn + split.simulate + split.wait + split.other)
    assert result.steps_per_second == pytest.approx(1 / split.total)
    assert 0 < result.cpu_time < 4
    made = [each for each in result.trials if each.log_ratios]
    assert made
    assert all(each.ratio > 0 and each.noise > 0 and not each.reason for each in made)
    assert all(
        each.reason and math.isnan(each.ratio) and not each.differs for each in result.trials if each not in made
    )
    assert [text for text, _ in reports][:2] == ["making worlds and policy", "the unchanged file"]
    assert [share for _, share in reports] == sorted(share for _, share in reports)
    assert not list(tmp_path.iterdir())


def test_rollouts_of_a_sample_have_the_worlds_of_the_file_and_updates_its_minibatches() -> None:
    config = tiny_config("", "experience.batch_size=2048", "agent.use_prev_reward=false")
    sampler = SpeedSampler(config, batch_plan(config), threads=1, steps=4)
    plan, updates = sampler._experiences[""].plan, sampler._run.plan
    assert plan.num_worlds == batch_plan(config).num_worlds
    assert plan.num_world_batches == batch_plan(config).num_world_batches
    assert (updates.horizon, updates.batch_size, updates.num_minibatches) == (8, 256, 1)
    before = {name: weight.clone() for name, weight in only_learner(sampler._run).agent.state_dict().items()}
    sampler.sample()
    for name, weight in only_learner(sampler._run).agent.state_dict().items():
        np.testing.assert_allclose(weight, before[name], atol=1e-6, err_msg=name)
    sampler.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("simulator")]


@pytest.mark.parametrize(
    "settings",
    [
        ("experience.async_factor=1",),
        ("kickstarting.teacher='scripted'",),
        ("self_play.share=0.5", "self_play.snapshot_interval=1"),
        ("agent.mask_actions=true", "vtrace.enabled=true", "prioritized_sampling.enabled=true"),
        ("normalization.values=true", "normalization.rewards=true", "experience.update_epochs=3"),
        ("ppo.target_kl=1e-9", "optimizer.type='muon'"),
        ("agent.memory='attention'",),
    ],
    ids=" ".join,
)
def test_every_kind_of_training_is_measured(settings: tuple[str, ...]) -> None:
    config = tiny_config("", *settings)
    sampler = SpeedSampler(config, batch_plan(config), threads=1)
    split = sampler.sample()
    sampler.close()
    assert (split.simulate > 0) == ("async_factor" in settings[0])
    assert (split.beside > 0) == ("async_factor" not in settings[0])


def test_a_split_has_the_parts_between_two_moments() -> None:
    here = threading.current_thread().name
    spans = [
        Span("infer", here, 9.0, 10.5),  # before and after the first moment
        Span("infer", here, 11.0, 12.0),
        Span("wait", here, 12.0, 12.25),
        Span("simulate", "simulator_0", 10.0, 11.5),
        Span("simulate", "worker 1", 11.0, 14.0),
        Span("simulate", here, 12.25, 12.5),
        Span("collect", here, 0.0, 20.0),
        Span("infer", here, 13.0, 14.0),
    ]
    split = _split(spans, 10.0, 13.0, 10, SIZES)
    assert split.infer == pytest.approx(0.15 * (1 + 1 / 16))
    assert (split.wait, split.simulate, split.beside) == pytest.approx((0.025, 0.025, 0.35))
    assert split.other == pytest.approx(0.1)


def test_trials_are_valid_in_every_preset_and_say_what_they_change() -> None:
    for preset in presets():
        config = load_config(preset.name)
        plan = batch_plan(config)
        found = make_trials(config, SPLIT, threads=2, cores=4, device="cpu")
        assert len({trial.name for trial in found}) == len(found)
        assert len(found) >= 6, preset.name
        for trial in found:
            changed = batch_plan(trial.config(config))
            is_same = dataclasses.replace(changed, num_world_batches=plan.num_world_batches) == plan
            assert is_same or trial.caveat, f"{preset.name}: {trial.name}"
        caveats = [bool(trial.caveat) for trial in found if not trial.needs_seconds]
        assert caveats == sorted(caveats)


def test_more_worlds_in_shorter_segments_are_tried_where_a_forward_pass_is_small() -> None:
    def trials(*sets: str) -> list[Trial]:
        config = tiny_config("", *sets)
        return [trial for trial in make_trials(config, SPLIT, 2, 2, "cpu") if trial.remark == "more worlds"]

    (trial,) = trials()
    before = batch_plan(tiny_config())
    after = batch_plan(trial.config(tiny_config()))
    assert (after.num_worlds, after.horizon) == (2 * before.num_worlds, before.horizon // 2)
    assert (after.batch_size, after.num_world_batches) == (before.batch_size, 1)
    assert not trials("experience.batch_size=65536", "experience.forward_pass_minibatch_target_size=4096")


def test_on_a_gpu_threads_are_not_tried() -> None:
    assert not [trial for trial in make_trials(tiny_config(), SPLIT, 2, 4, "cuda") if trial.threads]
    threads = [trial.threads for trial in make_trials(tiny_config(), SPLIT, 2, 4, "cpu") if trial.threads]
    assert threads == [1, 4]


def test_worker_processes_are_tried_where_a_core_is_free_for_them() -> None:
    def workers(config: RunConfig, cores: int) -> list[str]:
        found = make_trials(config, SPLIT, threads=1, cores=cores, device="cpu")
        return [trial.name for trial in found if "workers" in trial.name]

    assert workers(tiny_config(), 1) == []
    assert workers(tiny_config(), 2) == ["experience.workers = 1"]
    assert workers(tiny_config(), 8) == [f"experience.workers = {count}" for count in (1, 4)]  # worlds per batch
    many = tiny_config("", "experience.forward_pass_minibatch_target_size=128")
    assert workers(many, 8) == [f"experience.workers = {count}" for count in (1, 4, 7)]
    assert workers(tiny_config("", "experience.workers=2"), 8) == ["experience.workers = 0"]


def test_a_trial_with_worker_processes_is_measured() -> None:
    config = tiny_config("", "experience.workers=2")
    sampler = SpeedSampler(config, batch_plan(config), threads=1, steps=8, only_collects=True)
    split = sampler.collect()
    sampler.close()
    assert split.beside > 0
    assert split.simulate == 0


def results_of(means: dict[str, float], noise: float, pairs: int, seed: int = 0) -> list[TrialResult]:
    random = np.random.default_rng(seed)
    return with_noise(
        [
            TrialResult(Trial((f"{name} = 1",)), tuple(math.log(mean) + noise * random.standard_normal(pairs)))
            for name, mean in means.items()
        ]
    )


def test_noise_alone_is_hardly_ever_a_difference() -> None:
    """In tables of eight settings that change nothing: at most one row in a hundred."""
    same = dict.fromkeys("abcdefgh", 1.0)
    for noise in (0.01, 0.1, 0.5):
        for pairs in (2, 4, 12):
            wrong = [each.differs for seed in range(150) for each in results_of(same, noise, pairs, seed)]
            assert np.mean(wrong) < 0.02, (noise, pairs)


def test_a_clear_difference_is_one() -> None:
    means = {"a": 1.0, "b": 1.3, "c": 0.7, "d": 1.0}
    found = [results_of(means, 0.02, 6, seed) for seed in range(50)]
    assert all([each.differs for each in results][1:3] == [True, True] for results in found)
    assert [each.ratio for each in found[0]] == pytest.approx(list(means.values()), abs=0.05)


def test_equal_samples_and_single_samples_do_not_differ() -> None:
    assert not with_noise([TrialResult(Trial(("a = 1",)), (0.001, 0.001, 0.001))])[0].differs
    assert not with_noise([TrialResult(Trial(("a = 1",)), (0.5,))])[0].differs


def result_with(*rows: tuple[Trial, float], split: Split = SPLIT, **values: Any) -> BenchResult:
    made = with_noise([TrialResult(trial, (math.log(ratio),) * 4) for trial, ratio in rows])
    settings = {"gpu": None, "cpu_time": 1.0, "cores": 2} | values
    return BenchResult("cpu", 2, num_weights=1000, split=split, trials=tuple(made), **settings)


def test_the_fastest_setting_of_a_key_is_recommended_apart_from_those_that_change_learning() -> None:
    result = result_with(
        (Trial(("experience.workers = 1",)), 1.2),
        (Trial(("experience.workers = 3",)), 1.5),
        (Trial(("experience.async_factor = 4",)), 0.8),
        (Trial(("agent.dtypes_fp16 = true",), caveat="rounds"), 1.4),
        (Trial((), threads=1), 1.1),
    )
    assert [each.trial.name for each in result.recommended] == ["experience.workers = 3", "OMP_NUM_THREADS=1"]
    assert [each.trial.name for each in result.different] == ["agent.dtypes_fp16 = true"]
    assert result.most_with_processes == pytest.approx(2.2)
    slower = dataclasses.replace(result, together=TrialResult(Trial(()), (math.log(1.3),)))
    assert [each.trial.name for each in slower.recommended] == ["experience.workers = 3"]
    faster = dataclasses.replace(result, together=TrialResult(Trial(()), (math.log(1.8),)))
    assert len(faster.recommended) == 2


BOUNDS = {
    "The network bounds the speed: its 1,000 weights take 80% of the time, most of it for learning": result_with(),
    "most of it for inference (choosing actions)": result_with(split=dataclasses.replace(SPLIT, infer=7e-6)),
    "The simulator bounds the speed: the policy waits for it 60%": result_with(
        split=dataclasses.replace(SPLIT, wait=13.5e-6)
    ),
    "The simulator bounds the speed: the worlds step 62%": result_with(
        split=dataclasses.replace(SPLIT, wait=0.0, simulate=14.5e-6)
    ),
    "training would be at most 1.43 times as fast": result_with(),
    "training would be at most 1.11 times as fast": result_with(cores=4),
    "Other programs use the same cores: this process got 40% of the time of one core.": result_with(cpu_time=0.4),
    "The GPU computes 25% of the time": result_with(gpu=SimpleNamespace(busy=0.25, transfer=1e-7), cpu_time=0.4),
}


@pytest.mark.parametrize("text", BOUNDS)
def test_a_sentence_says_what_bounds_the_speed(text: str) -> None:
    assert text in BOUNDS[text].bound
    assert ("Other programs" in BOUNDS[text].bound) == ("Other programs" in text)


def test_the_use_of_a_gpu_is_that_of_its_kernels_and_copies() -> None:
    def event(name: str, us: float, device: Any = DeviceType.CUDA, is_user_annotation: bool = False) -> Any:
        elapsed = SimpleNamespace(elapsed_us=lambda: us)
        return SimpleNamespace(name=name, time_range=elapsed, device_type=device, is_user_annotation=is_user_annotation)

    events = [
        event("gemm", 100.0),
        event("Memcpy HtoD (Pinned -> Device)", 20.0),
        event("Memcpy DtoD", 30.0),
        event("Optimizer.step", 500.0, is_user_annotation=True),
        event("aten::mm", 900.0, DeviceType.CPU),
    ]
    use = _device_use(events, 300e-6, 10)
    assert use.busy == pytest.approx(0.5)
    assert use.transfer == pytest.approx(2e-6)


def metta(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tiny.toml").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_prints_parts_and_trials(here: Path) -> None:
    ran = metta("bench", "tiny.toml", "--seconds", "2")
    assert re.match(r"tiny on cpu, 1 thread, \d+ cores?: [\d,]+ agent steps per second\n", ran.stdout)
    for part in ("learn:", "infer:", "wait:", "simulate:", "transfer:", "other:", "total"):
        assert f"  {part}" in ran.stdout
    assert "bounds the speed: " in ran.stdout
    assert "not tried (compiling takes long; --seconds 120 measures it): compile.enabled" in " ".join(
        ran.stdout.split()
    )
    assert ran.stderr == ""
    assert [path.name for path in here.iterdir()] == ["tiny.toml"]


def test_the_recommended_lines_are_toml_that_the_file_accepts(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        (Trial(("experience.async_factor = 1", "experience.forward_pass_minibatch_target_size = 32")), 1.5),
        (Trial(("compile.enabled = true",)), 1.2),
        (Trial(("agent.dtypes_fp16 = true",), caveat="rounds to bfloat16"), 1.4),
        (Trial((), threads=1), 1.1),
    ]
    monkeypatch.setattr("metta.api.bench", lambda *arguments: result_with(*rows), raising=False)
    text = metta("bench", "tiny.toml").stdout
    same, different = text.split("faster, but what is learned changes")
    same = same.partition("what is learned does not change:\n")[2]
    assert "in the shell: export OMP_NUM_THREADS=1  # 1.10" in same
    toml = "\n".join(line for line in (same + different.partition("\n")[2]).splitlines() if "shell" not in line)
    lines = [line for line in toml.splitlines() if line.startswith("  ")]
    assert "  [experience]" in lines
    assert any(re.search(r"dtypes_fp16 = true  # 1.40 .* 0.0\d; rounds to bfloat16", line) for line in lines)
    config = load_config("tiny.toml", [f"{t}.{line.strip()}".partition("  #")[0] for t, line in tables(lines)])
    assert (config.experience.async_factor, config.agent.dtypes_fp16, config.compile.enabled) == (1, True, True)


def tables(lines: list[str]) -> list[tuple[str, str]]:
    """(table, line) of each key."""
    found, table = [], ""
    for line in lines:
        if header := re.match(r"  \[(\w+)\]$", line):
            table = header[1]
        elif "=" in line:
            found.append((table, line))
    return found


def test_json_is_one_line_with_all_figures(here: Path) -> None:
    ran = metta("bench", "tiny.toml", "--json", "--seconds", "1", "--set", "agent.hidden_dim=8")
    values = json.loads(ran.stdout)
    assert len(ran.stdout.splitlines()) == 1
    parts = values["seconds_per_agent_step"]
    assert set(parts) == {"infer", "learn", "simulate", "wait", "other", "beside", "total"}
    assert values["steps_per_second"] == pytest.approx(1 / parts["total"])
    assert values["profile"] is None
    keys = {"settings", "threads", "changes_learning", "ratio", "noise", "differs", "samples", "not_tried"}
    assert all(set(trial) == keys for trial in values["trials"])


def test_the_trace_has_the_spans_of_an_epoch_beside_the_operations_of_torch(here: Path) -> None:
    path = write_trace(tiny_config(), "deep/trace.json")
    trace = json.loads(path.read_text())
    events = trace["traceEvents"]
    spans = [event for event in events if event["pid"] == "metta" and event["ph"] == "X"]
    assert {event["name"] for event in spans} >= {"simulate", "infer", "learn", "collect"}
    headers = [event for event in events if event["pid"] == "metta" and event["ph"] == "M"]
    names = {event["tid"]: event["args"]["name"] for event in headers if event["name"] == "thread_name"}
    simulators = {names[event["tid"]] for event in spans if event["name"] == "simulate"}
    assert all(name.startswith("simulator") for name in simulators)
    (collect,) = [event for event in spans if event["name"] == "collect"]
    (learn,) = [event for event in spans if event["name"] == "learn"]
    for event in spans:
        if event["name"] in ("simulate", "infer", "wait"):
            assert collect["ts"] <= event["ts"]
            assert event["ts"] + event["dur"] <= collect["ts"] + collect["dur"]
    steps = [event for event in events if event.get("name", "").startswith("Optimizer.step")]
    assert len(steps) == 2  # of 2 minibatches
    for step in steps:  # on the same clock
        assert learn["ts"] <= step["ts"] <= step["ts"] + step["dur"] <= learn["ts"] + learn["dur"]
    assert sorted(path.name for path in here.iterdir()) == ["deep", "tiny.toml"]


def test_the_command_writes_only_the_trace(here: Path) -> None:
    ran = metta("bench", "tiny.toml", "--seconds", "1", "--profile", "trace.json")
    assert ran.stdout.splitlines()[-1] == "wrote trace.json: open it at https://ui.perfetto.dev"
    assert sorted(path.name for path in here.iterdir()) == ["tiny.toml", "trace.json"]


def test_a_trace_that_cannot_be_written_is_refused_before_anything_is_measured(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metta.api.bench", lambda *arguments: pytest.fail("measured"), raising=False)
    assert "is a directory; name a file" in metta("bench", "tiny.toml", "--profile", ".", code=2).stderr
    refused = metta("bench", "tiny.toml", "--profile", "tiny.toml/trace.json", code=2).stderr
    assert refused == f"error: {here / 'tiny.toml'} is a file, not a directory\n"
    with pytest.raises(UsageError, match="is a directory"):
        write_trace(tiny_config(), here)


def test_wrong_input_is_answered_as_by_other_commands(here: Path) -> None:
    assert "did you mean" in metta("bench", "quikstart", code=2).stderr
    assert "error: the command line has 1 problem" in metta("bench", "tiny.toml", "--set", "ppo.gamma=2", code=2).stderr
    assert "at least 1" in metta("bench", "tiny.toml", "--seconds", "0", code=2).stderr
    large = metta("bench", "tiny.toml", "--set", "experience.batch_size=1_000_000_000_000", code=2).stderr
    assert "this run needs about" in large


def test_ctrl_c_ends_it_and_its_threads(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("metta.run.benchmark.bench.make_trials", interrupt)
    ran = metta("bench", "tiny.toml", code=130)
    assert ran.stderr == "interrupted; files that were already saved are complete\n"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("simulator")]
