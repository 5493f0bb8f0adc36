"""One script for a machine with a GPU: `python tests/benchmarks/gpu.py --json figures.json`, in under eight minutes.

It needs the checkout and metta's dependencies; metta need not be installed. The sections, each a process with a time
budget, so that a failure or a hang of one does not stop the others:

- `agree`: forward pass, gradients and one epoch on the device agree with those on the CPU
- `waits`: an epoch in which every wait of torch for the device is an error (`torch.cuda.set_sync_debug_mode`)
- `resume`: an interrupted and resumed run equals an uninterrupted one, bit for bit
- `train`: agent steps per second end to end, as `metta train` counts them, and where the time goes
- `profile`: the longest kernels, the longest host operations and the waits of one epoch, from torch.profiler

`--device cpu` runs everything on a CPU, with smaller sizes; `--tiny` is for tests. The table comes last; `--json FILE`
writes all figures. The exit code is 1 if a section failed or something that must agree does not.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# the checkout, whether or not metta is installed
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "engine"))

import torch
from torch import Tensor

from metta.agent.policy import MettaAgent, make_agent
from metta.api import EpochEnded, Event, RunConfig, keep_freed_memory, load_config, resume_run, train_run
from metta.config.batch_plan import plan_batch
from metta.rl.curricula.curriculum import Curriculum
from metta.rl.experience import Experience, make_experience_manager
from metta.rl.optimizer import make_optimizer
from metta.rl.ppo import UpdateSettings, loss_terms, update_policy
from metta.rl.rollout import rollout
from metta.run.training_run import TrainingRun
from metta.spans import record_spans
from metta.world.env import MettaGridEnv

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
HEARTS = str(HERE / "hearts_24.toml")
BUDGETS = {"agree": 75.0, "waits": 40.0, "resume": 50.0, "profile": 50.0, "train": 465.0}
"""Seconds after which a section is ended, its start included; `train` has what is left of its number."""
QUIET = ("simulation.evaluate_interval=0", "simulation.replay_interval=0")
SMALL = ("experience.batch_size=3072", "experience.minibatch_size=1536", "experience.async_factor=2",
         "experience.forward_pass_minibatch_target_size=96", "experience.bptt_horizon=16",
         "experience.stagger_episodes=true", "env.game.max_steps=30")  # fmt: skip
NETWORKS = {
    "cnn, lstm": (HEARTS, "agent.hidden_dim=128"),
    "mlp, lstm, egocentric": ("quickstart",),
    "mlp, mingru, masks": ("quickstart", 'agent.memory="mingru"', "agent.mask_actions=true"),
    "attention, attention": ("quickstart", 'agent.backbone="attention"', 'agent.memory="attention"'),
    "cnn, lstm, value normalization": (HEARTS, "normalization.values=true", "normalization.rewards=true"),
}
"""Networks whose results on the device are compared with those on the CPU."""
TOLERANCE = 2e-3
"""Largest relative difference between CPU and device; both compute in float32, the device without TF32."""
WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize", "cudaDeviceSynchronize", "aten::_local_scalar_dense",
         "aten::nonzero", "cudaHostAlloc", "cudaMalloc", "cudaFree")  # fmt: skip


@dataclasses.dataclass
class Section:
    """The figures of a section, written to a file after each one, so that a section that fails leaves those before."""

    device: str
    size: str
    """full, small (CPU) or tiny (tests)"""
    ends_at: float
    """`time.monotonic` at which the section should be done"""
    path: Path
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)
    failures: list[str] = dataclasses.field(default_factory=list)
    began: list[float] = dataclasses.field(default_factory=list)
    """`time.monotonic` at the beginning of each measurement"""

    def report(self, name: str, figure: Any) -> None:
        """Print a figure, and keep it."""
        print(f"  {name}: {json.dumps(figure)}", flush=True)
        self.figures[name] = figure
        self.save()

    def require(self, is_met: bool, requirement: str) -> None:
        """Note a failure unless `is_met`."""
        if not is_met:
            print(f"  FAILED: {requirement}", flush=True)
            self.failures.append(requirement)
            self.save()

    def save(self) -> None:
        """Write the figures."""
        self.path.write_text(json.dumps({"figures": self.figures, "failures": self.failures}), encoding="utf-8")

    def has_time(self, name: str) -> bool:
        """Whether one more measurement probably fits, which takes as long as those before; if not, it is listed."""
        now = time.monotonic()
        mean = (now - self.began[0]) / len(self.began) if self.began else 0.0
        if now + 1.5 * mean <= self.ends_at:
            self.began.append(now)
            return True
        self.report("left out", [*self.figures.get("left out", ()), name])
        return False


# --- agree: the device computes what the CPU computes


def agree(section: Section) -> None:
    """Compare forward pass, gradients and an epoch of several networks."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    networks = list(NETWORKS.items())[: 2 if section.size == "tiny" else None]
    for name, (source, *overrides) in networks:
        if not section.has_time(name):
            break
        with guarded(section, name):
            config = load_config(source, [*QUIET, *SMALL, *overrides, f'run.device="{section.device}"'])
            differences = compare(config, torch.device(section.device))
            section.report(name, differences)
            for part in ("values", "logits", "gradients", "weights after an epoch"):
                section.require(differences[part] <= TOLERANCE, f"{name}: {part} differ by {differences[part]:.2g}")
            section.require(differences["equal actions"] > 0.99, f"{name}: other actions are sampled")


def compare(config: RunConfig, device: torch.device) -> dict[str, float]:
    """Relative differences between the CPU and the device."""
    host, host_experience = build(config, torch.device("cpu"))
    agent, experience = build(config, device)
    agent.load_state_dict(host.state_dict())
    experience.policy_generator = copy_generator(host_experience.policy_generator)
    settings = UpdateSettings(config.ppo, normalization=config.normalization)
    for each, its_agent in ((host_experience, host), (experience, agent)):
        rollout(each, its_agent)
    actions, own = host_experience.action_index, experience.action_index.cpu()
    result = {"equal actions": float((actions == own).float().mean())}
    update = update_policy(host, make_optimizer(host, config.optimizer), host_experience, settings)
    update_there = update_policy(agent, make_optimizer(agent, config.optimizer), experience, settings)
    if result["equal actions"] == 1:
        moved = {name: weight.cpu() for name, weight in agent.state_dict().items()}
        result["weights after an epoch"] = max(
            difference(weight, moved[name]) for name, weight in host.state_dict().items()
        )
        result["loss after an epoch"] = abs(update["loss"] - update_there["loss"])
    else:  # a uniform number fell between two sums that differ by rounding: the worlds are others from there on
        result["weights after an epoch"] = 0.0
        result["loss after an epoch"] = float("nan")
    agent.load_state_dict(host.state_dict())  # from here on with the same minibatch, that of the CPU
    minibatch = next(host_experience.minibatches())
    gradients = []
    for its_agent, its_minibatch in ((host, minibatch), (agent, moved_to(minibatch, device))):
        its_agent.zero_grad(set_to_none=True)
        terms = loss_terms(its_agent, its_minibatch, settings)
        terms["loss"].backward()
        gradients.append({name: weight.grad for name, weight in its_agent.named_parameters()})
        with torch.no_grad():
            evaluation = its_agent.evaluate_actions(
                its_minibatch.observations,
                its_minibatch.action_index,
                its_minibatch.memory,
                its_minibatch.episode_starts,
                its_minibatch.action_masks,
            )
        gradients[-1] |= {" values": evaluation.values, " logits": evaluation.logits}
    first, second = ({name: tensor.cpu() for name, tensor in each.items() if tensor is not None} for each in gradients)
    for part in ("values", "logits"):
        result[part] = difference(first.pop(f" {part}"), second.pop(f" {part}"))
    result["gradients"] = max(difference(gradient, second[name]) for name, gradient in first.items())
    for each in (host_experience, experience):
        each.close()
    return result


def build(config: RunConfig, device: torch.device) -> tuple[MettaAgent, Experience]:
    """An agent with reproducible weights, and its experience, for the worlds of a config."""
    torch.manual_seed(0)
    env = MettaGridEnv(config.env, seed=0)
    agent = make_agent(env.single_observation_space, env.single_action_space, [], device, config.agent)
    return agent, make_experience_manager(env, agent, config.experience, seed=0)


def copy_generator(generator: torch.Generator) -> torch.Generator:
    """A CPU generator with the state of another."""
    copied = torch.Generator()
    copied.set_state(generator.get_state())
    return copied


def difference(expected: Tensor, found: Tensor) -> float:
    """The norm of the difference, relative to that of `expected`; of logits without the smallest number of masks."""
    expected, found = (torch.where(each > -1e30, each.double(), 0.0) for each in (expected, found))
    return float((expected - found).norm() / expected.norm().clamp(min=1e-6))


def moved_to(value: Any, device: torch.device) -> Any:
    """Nested dataclasses and dictionaries with their tensors on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: moved_to(getattr(value, field.name), device) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    if isinstance(value, dict):
        return {key: moved_to(entry, device) for key, entry in value.items()}
    return value


# --- waits: nothing waits for the device but what fetches actions and statistics


def waits(section: Section) -> None:
    """Collect and update in the debug mode of torch in which waits are errors, then list them if there are any."""
    for name, (source, *overrides) in list(NETWORKS.items())[: 1 if section.size == "tiny" else None]:
        if not section.has_time(name):
            break
        with guarded(section, name), training_run(section, source, [*SMALL, *overrides]) as run:
            epoch(run)  # memory of the device and pinned memory are allocated
            places = [] if section.device == "cpu" else unexpected_waits(run)
            section.report(name, places if section.device != "cpu" else "a CPU is not waited for")
            section.require(not places, f"{name}: waits in {', '.join(places)}")


def unexpected_waits(run: TrainingRun) -> list[str]:
    """The places, as file and line, in which torch waits for the device during an epoch."""
    places: dict[str, int] = defaultdict(int)

    def note(message: Any, category: Any, filename: str, line: int, *_: Any) -> None:
        frames = [frame for frame in traceback.extract_stack() if "metta" in frame.filename]
        frame = frames[-1] if frames else traceback.FrameSummary(filename, line, "")
        places[f"{Path(frame.filename).name}:{frame.lineno} {message}"[:120]] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run.collect()
            run.update()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return [f"{place} ({count} times)" for place, count in places.items()]


# --- resume: bit for bit


def resume(section: Section) -> None:
    """Train a run twice and once with an interruption; compare the weights."""
    settings = [*SMALL, "run.total_timesteps=12288", f'run.device="{section.device}"']  # four epochs
    settings += ["agent.hidden_dim=16"] if section.size == "tiny" else []
    for name, is_deterministic in (("default algorithms", False), ("deterministic algorithms of torch", True)):
        torch.use_deterministic_algorithms(is_deterministic, warn_only=True)
        torch.backends.cudnn.deterministic = is_deterministic
        warnings.simplefilter("ignore", UserWarning)
        with tempfile.TemporaryDirectory() as folder:
            runs = [Path(folder, run) for run in ("first", "second", "resumed")]
            for run in runs[:2]:
                train_run(load_config(HEARTS, [*QUIET, *settings, f"run.run_dir={json.dumps(str(run))}"]), ignore)
            config = load_config(HEARTS, [*QUIET, *settings, f"run.run_dir={json.dumps(str(runs[2]))}"])
            train_run(config, interrupt_after(2))
            ended = resume_run(runs[2], ignore)
            weights = [torch.load(newest(run), weights_only=True)["weights"] for run in runs]
        again, resumed = (largest_difference(weights[0], other) for other in weights[1:])
        section.report(name, {"epochs": ended.epoch, "same run twice": again, "resumed": resumed})
        if again == 0:
            break  # torch repeats its results here, so a resumed run has to, too
    section.require(resumed == 0 or again > 0, f"a resumed run differs by {resumed:.2g}")


def ignore(event: Event) -> None:
    """A listener that does nothing."""


def interrupt_after(epoch_number: int) -> Callable[[Event], None]:
    """A listener that interrupts the run like Ctrl-C after an epoch."""

    def listener(event: Event) -> None:
        if isinstance(event, EpochEnded) and event.metrics.epoch == epoch_number:
            os.kill(os.getpid(), signal.SIGINT)

    return listener


def newest(run: Path) -> Path:
    """The newest policy of a run."""
    return max((run / "checkpoints").glob("checkpoint_*.pt"))


def largest_difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """The largest difference between weights; 0 only if all are equal bit for bit."""
    return max(float((weight - second[name]).abs().max()) for name, weight in first.items() if weight.numel())


# --- train: end to end


def trials(section: Section) -> Iterator[tuple[str, str, list[str]]]:
    """(name, file, overrides) of all measurements, the most important first."""
    cores = len(os.sched_getaffinity(0))
    workers = [count for count in (14, 8, 4) if count < cores] or [1]
    most, scale = workers[0], {"full": 8, "small": 1, "tiny": 0}[section.size]
    if section.size == "tiny":
        tiny = [*SMALL, "agent.hidden_dim=16"]
        yield "hearts-24, workers 0", HEARTS, tiny
        yield "default, workers 1, bfloat16", "default", [*tiny, *BFLOAT16, "experience.workers=1"]
        return
    base = sizes(32_768 * scale, 4_096 * scale, 1_024 * scale)
    with_most = [f"experience.workers={most}"]
    name = f"hearts-24, workers {most}"
    yield name, HEARTS, [*base, *with_most]
    yield f"{name}, bfloat16", HEARTS, [*base, *with_most, *BFLOAT16]
    for count in (0, *workers[1:]):
        yield f"hearts-24, workers {count}", HEARTS, [*base, f"experience.workers={count}"]
    for preset in ("quickstart", "default"):
        for count in (most, 0, *workers[1:]):
            yield f"{preset}, workers {count}", preset, [*preset_sizes(preset, scale), f"experience.workers={count}"]
    yield f"default, workers {most}, bfloat16", "default", [*preset_sizes("default", scale), *with_most, *BFLOAT16]
    yield f"{name}, compile", HEARTS, [*base, *with_most, *COMPILE]
    yield f"{name}, bfloat16, compile", HEARTS, [*base, *with_most, *BFLOAT16, *COMPILE]
    for batch, minibatch, forward in ((1, 1, 2), (1, 0.25, 1), (4, 1, 2), (4, 4, 4), (0.25, 0.25, 0.25)):
        given = [int(factor * size) for factor, size in zip((batch, minibatch, forward), BASE_SIZES, strict=True)]
        given = [size * scale for size in given]
        yield (
            f"{name}, batch {given[0]}, minibatch {given[1]}, forward {given[2]}",
            HEARTS,
            [*sizes(*given), *with_most],
        )
    yield f"{name}, offloaded", HEARTS, [*base, *with_most, "experience.cpu_offload=true"]
    yield f"{name}, three world batches", HEARTS, [*base, *with_most, "experience.async_factor=3"]


BASE_SIZES = (32_768, 4_096, 1_024)
BFLOAT16 = ("agent.dtypes_fp16=true",)
COMPILE = ("compile.enabled=true",)


def sizes(batch: int, minibatch: int, forward: int) -> list[str]:
    """Overrides for the sizes of batch, minibatch and forward pass, in agent steps."""
    return [
        f"experience.batch_size={batch}",
        f"experience.minibatch_size={minibatch}",
        f"experience.forward_pass_minibatch_target_size={forward}",
    ]


def preset_sizes(preset: str, scale: int) -> list[str]:
    """Sizes for a preset: those in its file on a GPU where they are large already, smaller ones on a CPU."""
    if preset == "default":
        return [] if scale > 1 else [*sizes(16_384, 4_096, 96), "agent.hidden_dim=128"]
    return sizes(16_384 * scale, 2_048 * scale, 128 * scale)


def train(section: Section) -> None:
    """Measure each trial for some seconds after two epochs; what there is no time for is listed."""
    seconds = {"full": 3.0, "small": 2.0, "tiny": 0.1}[section.size]
    for name, source, overrides in trials(section):
        if not section.has_time(name):
            continue
        with guarded(section, name):
            section.report(name, speed(section, source, overrides, seconds))


class Enough(Exception):  # noqa: N818  # no error
    """Ends a run from within its listener."""


def speed(section: Section, source: str, overrides: list[str], seconds: float) -> dict[str, Any]:
    """Agent steps per second of `metta train`, and the share of the time that each part takes."""
    marks: list[tuple[float, int]] = []

    def listener(event: Event) -> None:
        if isinstance(event, EpochEnded):
            marks.append((time.perf_counter(), event.metrics.agent_step))
            # the first epochs allocate memory, choose kernels and compile
            if len(marks) > 2 and marks[-1][0] - marks[1][0] >= seconds:
                raise Enough

    with tempfile.TemporaryDirectory() as folder, record_spans() as spans, contextlib.suppress(Enough):
        own = [f"run.run_dir={json.dumps(str(Path(folder, 'run')))}", f'run.device="{section.device}"']
        config = load_config(source, [*QUIET, *overrides, *own, "run.total_timesteps=1000000000000"])
        train_run(config, listener)
    (begin, first), (end, last) = marks[1], marks[-1]
    shares: dict[str, float] = defaultdict(float)
    for each in spans:
        if each.begin >= begin:
            shares[each.name] += (each.end - each.begin) / (end - begin)
    plan = plan_batch(config.experience, config.env.game.num_agents)
    figures = {
        "agent_steps_per_second": round((last - first) / (end - begin)),
        "epochs": len(marks) - 2,
        "agents": plan.agents,
        "shares": {name: round(share, 3) for name, share in sorted(shares.items())},
    }
    if section.device != "cpu":
        figures["gpu_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.empty_cache()
    return figures


# --- profile: the longest kernels and waits


def profile(section: Section) -> None:
    """Profile one epoch: where the device and the host spend their time."""
    for precision in ((),) if section.size == "tiny" else ((), BFLOAT16):
        name = "bfloat16" if precision else "float32"
        scale = 8 if section.size == "full" else 1
        settings = (
            [*SMALL, "agent.hidden_dim=16"] if section.size == "tiny" else sizes(*(size * scale for size in BASE_SIZES))
        )
        if not section.has_time(name):
            break
        with guarded(section, name), training_run(section, HEARTS, [*settings, *precision]) as run:
            for _ in range(2):
                epoch(run)
            section.report(name, profiled_epoch(run, section.device))


def profiled_epoch(run: TrainingRun, device: str) -> dict[str, Any]:
    """The totals of one epoch by kernel and host operation, in milliseconds."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device != "cpu":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    begin = time.perf_counter()
    with torch.profiler.profile(activities=activities) as profiler:
        epoch(run)
        if device != "cpu":
            torch.cuda.synchronize()
    seconds = time.perf_counter() - begin
    averages = profiler.key_averages()
    kernels = [(e.key[:80], e.count, e.self_device_time_total / 1e3) for e in averages if e.self_device_time_total]
    host = [(e.key[:80], e.count, e.self_cpu_time_total / 1e3) for e in averages]
    return {
        "milliseconds": round(1e3 * seconds, 1),
        "device busy": round(sum(milliseconds for _, _, milliseconds in kernels) / (1e3 * seconds), 3),
        "kernels": longest(kernels, 15),
        "host": longest(host, 12),
        "waits": longest([entry for entry in host if entry[0] in WAITS], 8),
    }


def longest(entries: list[tuple[str, int, float]], count: int) -> list[dict[str, Any]]:
    """The entries that take longest."""
    ordered = sorted(entries, key=lambda entry: -entry[2])[:count]
    return [{"name": name, "calls": calls, "milliseconds": round(total, 3)} for name, calls, total in ordered]


# --- what the sections share


@contextlib.contextmanager
def training_run(section: Section, source: str, overrides: list[str]) -> Iterator[TrainingRun]:
    """A run without files."""
    config = load_config(source, [*QUIET, *overrides, f'run.device="{section.device}"'])
    run = TrainingRun(config, Curriculum.from_config(config))
    try:
        yield run
    finally:
        run.close()


def epoch(run: TrainingRun) -> None:
    """Train a run for an epoch."""
    batch = run.collect()
    run.update()
    run.finish_epoch(batch)


@contextlib.contextmanager
def guarded(section: Section, name: str) -> Iterator[None]:
    """Report an error as a failure of the section, and continue with the next measurement."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  # whatever it is, the other figures are wanted
        traceback.print_exc()
        section.require(False, f"{name}: {type(error).__name__}: {str(error)[:300]}")


SECTIONS: dict[str, Callable[[Section], None]] = {
    "agree": agree, "waits": waits, "resume": resume, "profile": profile, "train": train,
}  # fmt: skip


def run_section(name: str, options: argparse.Namespace) -> None:
    """Run one section in this process."""
    section = Section(options.device, options.size, time.monotonic() + options.seconds, Path(options.out))
    section.save()
    keep_freed_memory()
    with guarded(section, name):
        SECTIONS[name](section)


def start_section(name: str, options: argparse.Namespace, folder: Path, elapsed: float) -> dict[str, Any]:
    """Run one section in a new process, and end it if it takes longer than its budget. Returns its figures."""
    budget = BUDGETS[name] * options.scale - (elapsed if name == "train" else 0.0)
    out = folder / f"{name}.json"
    command = [sys.executable, __file__, "--section", name, "--out", str(out), "--device", options.device]
    command += ["--size", options.size, "--seconds", str(budget - min(30.0, 0.2 * budget))]
    print(f"{name} (at most {budget:.0f} s)", flush=True)
    begin = time.monotonic()
    # cuBLAS repeats its results only with a fixed workspace
    environment = os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"} if name == "resume" else None
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    failures = []
    try:
        if code := process.wait(budget):
            failures.append(f"ended with exit code {code}")
    except subprocess.TimeoutExpired:
        failures.append(f"was ended after {budget:.0f} s")
    with contextlib.suppress(ProcessLookupError):  # its workers, too
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    found = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {"figures": {}, "failures": []}
    found["failures"] += failures
    return found | {"seconds": round(time.monotonic() - begin, 1)}


def machine(device: str) -> dict[str, Any]:
    """What the figures were measured on."""
    facts = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": len(os.sched_getaffinity(0)),
        "device": device,
    }
    if device != "cpu":
        properties = torch.cuda.get_device_properties(device)
        facts |= {"gpu": properties.name, "gpu_gib": round(properties.total_memory / 2**30), "cuda": torch.version.cuda}
    return facts


def print_table(results: dict[str, Any]) -> None:
    """Print the figures as tables."""
    print(f"\n{json.dumps(results['machine'])}\n")
    names = sorted({name for figures in speeds(results).values() for name in figures["shares"]})
    print(f"{'trained':72} {'agent steps/s':>13} " + " ".join(f"{name:>8}" for name in names))
    for trial, figures in speeds(results).items():
        shares = " ".join(f"{figures['shares'].get(name, 0):8.0%}" for name in names)
        print(f"{trial:72} {figures['agent_steps_per_second']:13,} {shares}")
    profiles = results.get("profile", {}).get("figures", {})
    for precision, figures in ((name, figure) for name, figure in profiles.items() if isinstance(figure, dict)):
        print(f"\n{precision}: {figures['milliseconds']} ms per epoch, device busy {figures['device busy']:.0%}")
        for part in ("kernels", "host", "waits"):
            for entry in figures[part]:
                print(f"  {part:8} {entry['milliseconds']:10.2f} ms {entry['calls']:7} x {entry['name']}")
    print()
    for name, result in results.items():
        if name != "machine":
            failed, left_out = "; ".join(result["failures"]), result["figures"].get("left out", ())
            no_time = f"; no time for {', '.join(left_out)}" if left_out else ""
            print(f"{name:8} {result['seconds']:6.1f} s  {'FAILED: ' + failed if failed else 'good'}{no_time}")


def speeds(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The trials of `train` that were measured."""
    figures = results.get("train", {}).get("figures", {})
    return {name: figure for name, figure in figures.items() if isinstance(figure, dict)}


def main() -> int:
    """Run all sections, or one of them in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu")
    parser.add_argument("--json", metavar="FILE", help="write all figures to this file")
    parser.add_argument("--only", nargs="+", choices=[*SECTIONS], default=[*SECTIONS], help="sections to run")
    parser.add_argument("--scale", type=float, default=1.0, help="factor of all time budgets")
    parser.add_argument("--size", choices=("full", "small", "tiny"), help="default: full on a GPU, small on a CPU")
    parser.add_argument("--section", choices=[*SECTIONS], help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.size = options.size or ("small" if options.device == "cpu" else "full")
    if options.section:
        run_section(options.section, options)
        return 0
    if options.device != "cpu" and not torch.cuda.is_available():
        print("torch finds no CUDA device; --device cpu measures this machine without one", file=sys.stderr)
        return 2
    begin = time.monotonic()
    results: dict[str, Any] = {"machine": machine(options.device)}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            results[name] = start_section(name, options, Path(folder), time.monotonic() - begin)
            if options.json:
                Path(options.json).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print_table(results)
    return int(any(result["failures"] for name, result in results.items() if name != "machine"))


if __name__ == "__main__":
    sys.exit(main())
