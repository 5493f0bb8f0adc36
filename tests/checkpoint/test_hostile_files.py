"""Files from strangers, as policies and as trainer states: one sentence each, no code run, no memory filled."""

from __future__ import annotations

import copy
import io
import os
import pickle
import random
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_runs import Recorder
from typer.testing import CliRunner

from metta.api import Notice, TrainingState, load_config, load_policy
from metta.checkpoint import policy_checkpoint, trainer_state
from metta.errors import CheckpointError
from metta.rl.distributed import SINGLE_PROCESS
from metta.run.resume.restore_run import restore_newest
from metta_cli.main import app

KEPT = Path(__file__).parents[1] / "compatibility" / "version_1"
POLICY = KEPT / "policies" / "mlp" / "checkpoint_000007.pt"
STATE = KEPT / "run" / "checkpoints" / "trainer_state_000002.pt"

KINDS: dict[str, tuple[Callable[[Path], Any], str, Path]] = {
    "policy": (load_policy, policy_checkpoint.KIND, POLICY),
    "state": (TrainingState.load, trainer_state.KIND, STATE),
}
both = pytest.mark.parametrize(("load", "kind", "whole"), KINDS.values(), ids=KINDS)


class Bomb:
    """A pickle that would make a file."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def parts_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {part.filename: archive.read(part) for part in archive.infolist()}


def write_parts(path: Path, parts: dict[str, bytes] | list[tuple[str, bytes]]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in parts.items() if isinstance(parts, dict) else parts:
            archive.writestr(name, data)


def answer(load: Callable[[Path], Any], file: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(file)
    sentence = str(caught.value)
    assert sentence.startswith(str(file))
    assert "\n" not in sentence
    return sentence.removeprefix(f"{file} ")


def module_of_another_program() -> Any:
    return torch.nn.Sequential(torch.nn.Linear(2, 2))


def make_huge(file: Path) -> None:
    with file.open("wb") as sparse:
        sparse.truncate(1 << 36)  # takes no space, and must not be read


def save_legacy(file: Path) -> None:
    torch.save({"format": "x"}, file, _use_new_zipfile_serialization=False)


def save_torchscript(file: Path) -> None:
    write_parts(file, {"a/data.pkl": b"\x80\x02}.", "a/code/__torch__.py": b"", "a/constants.pkl": b"\x80\x02)."})


def save_like_stable_baselines(file: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"mlp.weight": torch.zeros(2)}, buffer)
    write_parts(file, {"data": b"{}", "policy.pth": buffer.getvalue(), "system_info.txt": b"Linux"})


FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "picture": (lambda file: file.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99)), "is a PNG image, not a metta file"),
    "empty": (Path.touch, "is damaged: it is empty"),
    "text": (lambda file: file.write_text("[run]\n"), "is not a metta file; metta files are torch files"),
    "pipe": (lambda file: os.mkfifo(file), "is not a regular file"),
    "device": (lambda file: file.symlink_to("/dev/zero"), "is not a regular file"),
    "loop": (lambda file: file.symlink_to(file), "cannot be read: Too many levels of symbolic links"),
    "huge": (lambda file: make_huge(file), "is not a metta file; metta files are torch files"),
    "plain pickle": (
        lambda file: file.write_bytes(pickle.dumps({"a": 1})),
        "is a pickle, not a metta file; it may run code, so metta does not load it",
    ),
    "legacy torch": (save_legacy, "is a pickle, not a metta file; it may run code, so metta does not load it"),
    "torchscript": (save_torchscript, "is a TorchScript program, not a metta file; metta does not run it"),
    "stable-baselines3": (save_like_stable_baselines, "is an archive of another program, not a metta file"),
    "whole module": (
        lambda file: torch.save(module_of_another_program(), file),
        "contains more than tensors, numbers and text; it may run code, so metta does not load it",
    ),
}


@both
@pytest.mark.parametrize(("make", "sentence"), FOREIGN.values(), ids=FOREIGN)
def test_foreign_files(load, kind: str, whole: Path, make, sentence: str, tmp_path: Path) -> None:
    make(tmp_path / "file.pt")
    assert answer(load, tmp_path / "file.pt") == sentence


@both
def test_weights_of_another_program(load, kind: str, whole: Path, tmp_path: Path) -> None:
    torch.save(module_of_another_program().state_dict(), tmp_path / "file.pt")
    assert answer(load, tmp_path / "file.pt") == f"is a torch file of another program, not a {kind}"


@both
@pytest.mark.parametrize(
    ("version", "sentence"),
    [
        (2, "has format 2; this metta reads format 1; update metta to read it"),
        (0, "has format 0; this metta reads format 1"),
        ("1", "is not a valid metta file: it has no format_version"),
    ],
)
def test_other_versions(load, kind: str, whole: Path, version: object, sentence: str, tmp_path: Path) -> None:
    torch.save({"format": kind, "format_version": version}, tmp_path / "file.pt")
    assert answer(load, tmp_path / "file.pt") == sentence


@both
@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("place", ["alone", "inside", "beside", "other case", "first of two"])
def test_no_pickle_runs_code(load, kind: str, whole: Path, protocol: int, place: str, tmp_path: Path) -> None:
    bomb = pickle.dumps(Bomb(tmp_path / "was here"), protocol=protocol)
    parts = parts_of(whole)
    name = next(part for part in parts if part.endswith("data.pkl"))
    file = tmp_path / "file.pt"
    if place == "alone":
        write_parts(file, {name: bomb})
    elif place == "inside":
        write_parts(file, parts | {name: pickle.dumps({"format": kind, "x": Bomb(tmp_path / "was here")}, protocol)})
    elif place == "beside":
        write_parts(file, parts | {"evil/data.pkl": bomb})
    elif place == "other case":
        write_parts(file, [(name.upper().replace("ARCHIVE", "archive"), bomb), *parts.items()])
    else:
        with pytest.warns(UserWarning, match="Duplicate name"):
            write_parts(file, [(name, bomb), *parts.items()])
    answer(load, file)
    assert not (tmp_path / "was here").exists()


def laughs(depth: int) -> list[Any]:
    """A list that is small in memory and has 10 to the `depth` values when each is followed."""
    inner: list[Any] = [0]
    for _ in range(depth):
        inner = [inner] * 10
    return inner


def sparse(size: int) -> torch.Tensor:
    return torch.sparse_coo_tensor(torch.zeros(1, 1, dtype=torch.int64), [1.0], (size,), check_invariants=True)


BOMBS: dict[str, Callable[[], Any]] = {
    "a billion laughs": lambda: laughs(9),
    "an expanded tensor": lambda: torch.zeros(1).expand(1 << 40),
    "a shared tensor": lambda: [torch.zeros(1 << 16)] * 100_000,
    "a sparse tensor": lambda: sparse(1 << 40),
}


@both
@pytest.mark.parametrize("make", BOMBS.values(), ids=BOMBS)
def test_what_unpacks_to_more_than_the_file_is_refused(load, kind: str, whole: Path, make, tmp_path: Path) -> None:
    torch.save({"format": kind, "format_version": 1, "metadata": {"x": make()}, "weights": {}}, tmp_path / "file.pt")
    assert answer(load, tmp_path / "file.pt").startswith(("is not a metta file", "contains more than tensors, "))


def test_overlapping_parts_are_refused(tmp_path: Path) -> None:
    """Every entry of the directory shows the same bytes: the sum is many times the file."""
    file = tmp_path / "file.pt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}." + bytes(1 << 16))
        first = archive.infolist()[0]
        for index in range(1000):
            copy = zipfile.ZipInfo(f"a/data/{index}")
            copy.header_offset, copy.file_size, copy.compress_size = 0, first.file_size, first.compress_size
            copy.CRC = first.CRC
            archive.filelist.append(copy)
    assert answer(load_policy, file) == "is not a metta file; metta files are torch files"


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS")
def test_no_bomb_needs_more_memory_than_a_policy(tmp_path: Path) -> None:
    """In a process of its own that could not get the memory even if it asked."""
    for name, make in BOMBS.items():
        torch.save({"format": policy_checkpoint.KIND, "format_version": 1, "metadata": make()}, tmp_path / f"{name}.pt")
    content = torch.load(POLICY, weights_only=True)
    content["agent_config"] |= {"hidden_dim": 65536, "lstm_layers": 64, "forward_lstm": True}
    torch.save(content, tmp_path / "a huge network.pt")
    make_huge(tmp_path / "huge.pt")
    (tmp_path / "zero.pt").symlink_to("/dev/zero")
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from metta.api import load_policy\n"
        "from metta.errors import CheckpointError\n"
        "size = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + (256 << 20),) * 2)\n"
        "for file in sorted(Path(sys.argv[1]).glob('*.pt')):\n"
        "    try:\n"
        "        load_policy(file)\n"
        "    except CheckpointError as error:\n"
        "        print(error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.splitlines()) == len(BOMBS) + 3
    assert "network" in ran.stdout
    assert "fit into memory" not in ran.stdout, "it was tried"


def mutated(generator: random.Random, parts: dict[str, bytes]) -> dict[str, bytes]:
    """Parts with some bytes flipped, cut, doubled or taken from another part; with the checksums of the result."""
    names = list(parts)
    name = next(name for name in names if name.endswith("data.pkl"))
    chosen = name if generator.random() < 0.7 else generator.choice(names)
    data = bytearray(parts[chosen])
    for _ in range(generator.randint(1, 4)):
        at = generator.randrange(len(data)) if data else 0
        match generator.randrange(5):
            case 0 if data:
                data[at] ^= 1 << generator.randrange(8)
            case 1:
                del data[at : at + generator.randint(1, 30)]
            case 2:
                data[at:at] = data[max(0, at - generator.randint(1, 30)) : at]
            case 3:
                other = parts[generator.choice(names)]
                data[at : at + 8] = other[: generator.randint(0, 16)]
            case _ if data:
                data[at] = generator.randrange(256)
    return parts | {chosen: bytes(data)}


CASES = int(os.environ.get("FUZZ_CASES", "150"))


@both
def test_no_mutation_ends_in_a_traceback(load, kind: str, whole: Path, tmp_path: Path) -> None:
    generator = random.Random(5)
    parts, file = parts_of(whole), tmp_path / "file.pt"
    refused, sentences = 0, []
    for case in range(CASES):
        if case % 4:
            write_parts(file, mutated(generator, parts))
        else:
            content = whole.read_bytes()
            begin = generator.randrange(len(content))
            file.write_bytes(
                content[:begin] + content[begin + generator.randint(0, 9) :][: generator.choice([7, 10**6])]
            )
        try:
            load(file)
        except CheckpointError as error:
            refused += 1
            sentences.append(str(error))
    assert refused > CASES // 2
    assert not [sentence for sentence in sentences if "\n" in sentence]


def test_states_of_other_shapes_are_refused_and_the_one_before_used(tmp_path: Path) -> None:
    """Every array of a state replaced in its turn, and every key left out: the run resumes from the valid one."""
    run = tmp_path / "run"
    shutil.copytree(KEPT / "run", run)
    checkpoints = run / "checkpoints"
    newest = checkpoints / "trainer_state_000009.pt"
    content = torch.load(STATE, weights_only=True)
    places = [place for place in entries(content) if place[0] in ("optimizer_state_dict", "extra_args")]
    generator = random.Random(2)
    for place in [place for place in places if len(place) == 2] + generator.sample(places, 8):
        holder = spoiled = copy.deepcopy(content)
        for part in place[:-1]:
            holder = holder[part]
        if generator.random() < 0.5:
            holder[place[-1]] = generator.choice([torch.zeros(3, 1), "x", -1, {}, []])
        else:
            del holder[place[-1]]
        torch.save(spoiled, newest)
        heard = Recorder()
        directory = SimpleNamespace(root=run, checkpoints=checkpoints, config=load_config(str(run / "config.toml")))
        restored = restore_newest(directory, heard, SINGLE_PROCESS)  # type: ignore[arg-type]
        restored.close()
        assert not [event for event in heard.events if isinstance(event, Notice) and "\n" in event.text]
    newest.write_bytes(STATE.read_bytes()[:1000])
    result = CliRunner().invoke(app, ["resume", str(run)])
    assert result.exit_code == 0, result.output
    assert "trainer_state_000009.pt is damaged or truncated; resuming from trainer_state_000002.pt" in result.stderr


def entries(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [entry for key, inner in inside for entry in entries(inner, (*place, key))]
    return [place, *found] if place else found


def test_the_command_line_answers_too(tmp_path: Path) -> None:
    write_parts(tmp_path / "file.pt", {"a/data.pkl": pickle.dumps(Bomb(tmp_path / "was here"))})
    for command in ("eval", "replay"):
        result = CliRunner().invoke(app, [command, str(tmp_path / "file.pt")])
        assert result.exit_code == 2
        assert result.stderr.startswith("error: ")
        assert "Traceback" not in result.stderr
    assert not (tmp_path / "was here").exists()
