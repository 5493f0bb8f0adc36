"""Kill training at random moments, resume it each time, and compare it with the run that nobody disturbed.

    python tests/support/faults.py --kills 50 --seed 0
    python tests/support/faults.py --kills 50 --seed 0 --signals KILL --signals TERM INT

Every life of a run is a process of its own, forked from one that has imported torch already, and runs the real command.
The first of a run comes in the middle of writing a checkpoint or a trainer state. Of the others half come at a moment
drawn uniformly from the time a life takes, half the very moment that a random one of the run's files (checkpoint,
trainer state, metrics, replay) is created, written or renamed. What the runs learn with has a state in every part: an
adaptive curriculum, normalized values and rewards, Muon. Exit code 0: all runs ended alike, bit for bit.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import mmap
import os
import random
import select
import signal
import struct
import sys
import tempfile
import time
import traceback
import types
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.utils.tensorboard  # so that no child need import it
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tiny_runs import TINY, assert_same_state, assert_same_weights, metrics_of, weights_of

import metta.files
import metta.run.interval_timer
from metta.api import TrainingState
from metta_cli.main import main
from metta_cli.views import training_lines

EPOCHS = 12
KILLS_OF_A_RUN = 5
PHASES = ["start", "collect", "update", "evaluate", "record", "save", "write", "report", "end"]
SURE_WRITES = 4
"""Checkpoints and trainer states that any run writes: at its beginning and its end."""
HOLD_SECONDS = 0.5
"""How long a write is held up that is to be disturbed."""
HURRY = 20.0
"""The runs' timers go so many times too fast: checkpoints, evaluations and replays every 50 milliseconds."""

RULED = (
    TINY.replace("altar = 2", "altar = 2, field = 4")
    + """
[env.rewards.exploration]
weight = 0.1

[env.features.signal]

[env.terminations.goal]
settings = { stat = "heart.gained", amount = 6 }

[env.actions.signal]
type = "signal"

[env.objects.field]
type = "field"
settings = { item = "heart", regrowth = 0.05 }
"""
)
"""Worlds with custom rules of every kind, some of which have memories, states and random numbers."""

RUN = RULED.replace("total_timesteps = 4096", f"total_timesteps = {512 * EPOCHS}").replace(
    "evaluate_interval = 0",
    """evaluate_interval = 1
replay_interval = 1

[checkpoint]
checkpoint_interval = 1

[curriculum]
type = "learning_progress"
scenes = ["first.toml", "second.toml"]

[normalization]
values = true
rewards = true

[optimizer]
type = "muon"

[logging]
tensorboard = true""",
)


class Watch:
    """Tells when something happens to the files of directories (Linux)."""

    def __init__(self, *directories: Path):
        library = ctypes.CDLL(None, use_errno=True)
        self.descriptor = library.inotify_init()
        modified, moved, created = 0x2, 0x80, 0x100
        for directory in directories:
            if directory.is_dir():
                library.inotify_add_watch(self.descriptor, os.fsencode(directory), modified | moved | created)

    def names(self, until: float) -> Iterator[str]:
        """The names of the files as things happen to them, until a moment of `time.monotonic`."""
        while (left := until - time.monotonic()) > 0:
            if select.select([self.descriptor], [], [], min(left, 0.05))[0]:
                content = os.read(self.descriptor, 65536)
                while content:
                    (length,) = struct.unpack_from("I", content, 12)
                    yield os.fsdecode(content[16 : 16 + length].rstrip(b"\0"))
                    content = content[16 + length :]
            else:
                yield ""

    def close(self) -> None:
        os.close(self.descriptor)


class HeldWrite:
    """The module os, but for one sync of a checkpoint or a trainer state, which takes long and says so."""

    def __init__(self, number: int, say: Callable[[], None]):
        self.left, self.say = number, say

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fsync(self, descriptor: int) -> None:
        name = os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))
        if name.startswith((".checkpoint", ".trainer_state")):
            self.left -= 1
            if self.left < 0 <= self.left + 1:
                self.say()
                time.sleep(HOLD_SECONDS)
        os.fsync(descriptor)


class Life:
    """A process that runs a command of metta, and what it is at."""

    def __init__(self, *arguments: str, log: Path, is_always_due: bool = False, held_write: int | None = None):
        self.held_write = held_write
        self.phase_byte = mmap.mmap(-1, 1)
        self.began = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            self._live(arguments, log, is_always_due)

    def _live(self, arguments: Sequence[str], log: Path, is_always_due: bool) -> NoReturn:
        code = 70
        try:
            log_file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log_file, 1)
            os.dup2(log_file, 2)
            hurry = math.inf if is_always_due else HURRY
            metta.run.interval_timer.time = types.SimpleNamespace(monotonic=Clock(hurry))  # type: ignore[attr-defined]
            if self.held_write is not None:
                metta.files.os = HeldWrite(self.held_write, lambda: self._enter("write"))  # type: ignore[attr-defined]
            show = training_lines.JsonView.show

            def note(self_: training_lines.JsonView, event: Any) -> None:
                phase = getattr(event, "phase", {"EpochEnded": "report", "RunEnded": "end"}.get(type(event).__name__))
                if phase:
                    self._enter(phase)
                show(self_, event)

            training_lines.JsonView.show = note  # type: ignore[method-assign]
            sys.argv = ["metta", *arguments, "--json"]
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except BaseException:  # noqa: BLE001  # of a forked process, which ends here and must say why
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _enter(self, phase: str) -> None:
        self.phase_byte[0] = PHASES.index(phase)

    @property
    def phase(self) -> str:
        return PHASES[self.phase_byte[0]]

    def is_over(self) -> bool:
        ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return ended is not None

    def end(self) -> int:
        """Wait for it; the exit code, a signal's number negated."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


class Clock:
    """A monotonic clock that goes too fast; infinitely fast, every interval has passed at each look."""

    def __init__(self, hurry: float):
        self.hurry = hurry
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return 1e9 * self.looks if math.isinf(self.hurry) else self.hurry * time.monotonic()


class Faults:
    """Runs in one folder, disturbed ones and the one they are compared with."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "run.toml").write_text(RUN)
        (folder / "first.toml").write_text(RULED)
        (folder / "second.toml").write_text(RULED.replace("mine_red = 3", "mine_red = 1").replace("= 20\n", "= 13\n"))
        os.chdir(folder)
        self.reference = folder / "undisturbed"
        life = Life("train", "run.toml", "--run-dir", "undisturbed", log=folder / "log", is_always_due=True)
        self._expect(life.end() == 0, "the undisturbed run failed")
        self.seconds = (time.monotonic() - life.began) / 2
        """about what a life takes whose timers are not always due"""

    def begin(self, seed: int, signals: Sequence[str]) -> None:
        """Disturb the next runs with these signals, at moments that the seed determines."""
        self.random = random.Random(seed)
        self.signals = [signal.Signals[f"SIG{name}"] for name in signals]
        self.counts: Counter[str] = Counter()

    def run(self, name: str, kills: int) -> int:
        """Train a run, disturbed up to so many times; how many times it was. AssertionError if it ends otherwise."""
        run_dir = self.folder / name
        done = 0
        while True:
            command = (
                ["resume", name] if (run_dir / "config.toml").exists() else ["train", "run.toml", "--run-dir", name]
            )
            held_write = None if done else self.random.randrange(SURE_WRITES)
            life = Life(*command, log=self.folder / "log", held_write=held_write)
            if done < kills and self._disturb(life, run_dir):
                done += 1
                continue
            self._expect((code := life.end()) in (0, 130), f"exit code {code}")
            if code == 0:
                break
        self._compare(run_dir)
        return done

    def _disturb(self, life: Life, run_dir: Path) -> bool:
        """Send a signal at a random moment; False if the life ended before."""
        number = self.random.choice(self.signals)
        is_aimed = life.held_write is not None or self.random.random() < 0.5
        if life.held_write is not None:
            self._await_write(life)
        elif is_aimed:
            self._await_file(life, run_dir)
        else:
            self._await_moment(life)
        if life.is_over():
            return False
        os.kill(life.pid, number)
        phase = life.phase
        if is_twice := number != signal.SIGKILL and self.random.random() < 0.3:
            time.sleep(0.02 * self.random.random())
            if not life.is_over():
                os.kill(life.pid, number)
        code = life.end()
        torn = sorted(path.name.split(".")[1] for path in run_dir.glob("**/.*.partial"))
        log = (self.folder / "log").read_text()
        if number == signal.SIGKILL:
            self._expect(code == -number, f"exit code {code} after {number.name}")
        else:
            # before the run listens to it, and when it has saved and left, SIGTERM does what it does to any process
            is_deaf = phase == "start" or is_twice
            self._expect(code in (0, 130) or (code == -number and is_deaf), f"exit code {code}, {number.name}")
            self._expect(not torn, f"{torn} left behind")
            if '"reason": "interrupted"' in log:
                ended = json.loads(log.splitlines()[-1])
                self._expect(len(metrics_of(run_dir)) == ended["epoch"], "metrics go beyond what was saved")
                self.counts["saved first"] += 1
            else:
                self.counts["left at once"] += 1
        self._expect("Traceback" not in log, "traceback")
        self.counts[f"in {phase}"] += 1
        for name in torn:
            self.counts[f"while writing {name.rstrip('0123456789').rstrip('_')}"] += 1
        aimed = ", aimed at a file" if is_aimed else ""
        print(f"{run_dir.name}: {number.name} in {phase}{aimed} {' '.join(torn)}".rstrip(), flush=True)
        return True

    def _await_moment(self, life: Life) -> None:
        began = life.began
        if self.random.random() < 0.8:  # the others may come while it is still building worlds
            while life.phase == "start" and not life.is_over():
                time.sleep(0.001)
            began = time.monotonic()
        until = began + self.random.random() * self.seconds / 2
        while time.monotonic() < until and not life.is_over():
            time.sleep(min(0.005, max(0.0, until - time.monotonic())))

    def _await_write(self, life: Life) -> None:
        while life.phase != "write" and not life.is_over():
            time.sleep(0.001)

    def _await_file(self, life: Life, run_dir: Path) -> None:
        while not (run_dir / "checkpoints").is_dir() and not life.is_over():
            time.sleep(0.001)
        watch = Watch(run_dir, run_dir / "checkpoints", run_dir / "replays")
        left = self.random.randrange(40)
        for name in watch.names(life.began + 60):
            left -= name != ""
            if left < 0 or life.is_over():
                break
        watch.close()

    def _compare(self, run_dir: Path) -> None:
        """All that a run leaves is what the undisturbed one left, but for the clock's share."""
        lines, expected = metrics_of(run_dir), metrics_of(self.reference)
        for line, other in zip(lines, expected, strict=True):
            evaluation = line.pop("evaluation")
            assert not evaluation or evaluation == other["evaluation"], f"evaluation of epoch {line['epoch']}"
            other.pop("evaluation")
            assert line == other, f"metrics of epoch {line['epoch']}"
        for path in (run_dir / "checkpoints").glob("checkpoint_*.pt"):
            epoch = int(path.stem.split("_")[1])
            assert_same_weights(weights_of(run_dir, epoch), weights_of(self.reference, epoch))
        name = f"checkpoints/trainer_state_{EPOCHS:06d}.pt"
        states = [vars(TrainingState.load(run / name)) for run in (run_dir, self.reference)]
        for state in states:
            state["stopwatch_state"] = state["extra_args"]["episodes_recorded"] = None  # these go by the clock
        assert_same_state(*states)
        logged = dict(_logged(run_dir / "tensorboard"))
        assert sorted(logged) == [line["epoch"] for line in lines], "TensorBoard has a gap"
        for line in lines:
            assert logged[line["epoch"]] == struct.unpack("f", struct.pack("f", line["losses"]["entropy"]))[0]
        for replay in (run_dir / "replays").glob("*.json.z"):
            json.loads(zlib.decompress(replay.read_bytes()))
        self._expect(not list(run_dir.glob("**/.*.partial")), "half-written files are left")

    def _expect(self, is_so: bool, otherwise: str) -> None:
        assert is_so, f"{otherwise}\n{(self.folder / 'log').read_text()[-2000:]}"


def _logged(folder: Path) -> Iterator[tuple[int, float]]:
    """`losses/entropy` by epoch as TensorBoard shows it: what begins at an epoch takes the place of what came later."""
    files = []
    for path in folder.iterdir():
        events = [Event.FromString(record) for record in RawEventFileLoader(str(path)).Load()]
        files.append((events[0].wall_time if events else 0.0, events))
    shown: dict[int, float] = {}
    for _, events in sorted(files, key=lambda file: file[0]):
        for event in events:
            if event.session_log.status == SessionLog.START:
                shown = {epoch: value for epoch, value in shown.items() if epoch < event.step}
            for value in event.summary.value:
                if value.tag == "losses/entropy":
                    assert event.step not in shown, f"TensorBoard has epoch {event.step} twice"
                    shown[event.step] = value.simple_value
    yield from shown.items()


def disturb(kills: int, seed: int, groups: Sequence[Sequence[str]]) -> None:
    """Runs with so many kills by each group of signals, compared one by one; prints the figures of each group."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        faults = Faults(Path(folder))
        for signals in groups:
            faults.begin(seed, signals)
            done = runs = 0
            while done < kills:
                runs += 1
                done += faults.run(f"{'_'.join(signals)}_{runs}", min(KILLS_OF_A_RUN, kills - done))
            figures = ", ".join(f"{count} {name}" for name, count in sorted(faults.counts.items()))
            print(f"{done} kills of {runs} runs by {'/'.join(signals)}, all as if nothing had happened: {figures}")
        os.chdir("/")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--signals", nargs="+", choices=["KILL", "TERM", "INT", "HUP"], action="append")
    options = parser.parse_args()
    disturb(options.kills, options.seed, options.signals or [["KILL"]])
