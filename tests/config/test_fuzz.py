"""Fuzzing: every file, valid or not, gives a config or an error message, without a traceback or a hang."""

import io
import os
import re
import signal
import string
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import grammar
import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metta.config.loading.load import load_config, parse_config
from metta.config.loading.presets import presets
from metta.config.validation.error_messages import BOUND_WORDS, TYPE_WORDS
from metta_cli.main import app

pytestmark = pytest.mark.filterwarnings("ignore::metta.errors.ConfigWarning")

CASES = int(os.environ.get("FUZZ_CASES", "50"))
"""Per test; run with FUZZ_CASES=2500 now and then."""

TEXTS = {preset.name: preset.text for preset in presets()}
TABLES = {name: tomllib.loads(text) for name, text in TEXTS.items()}

fuzzed = settings(max_examples=CASES, suppress_health_check=[HealthCheck.too_slow])


SECONDS = 60.0
"""On a busy machine; no file should take one."""

LIBRARY_WORDS = ("pydantic", "Input should", "Value error", "Traceback")


class Audit:
    """What this process creates, changes or removes of files while it is `on`; an audit hook cannot be taken off."""

    CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate")

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, values: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            mode, flags = values[1:]
            if (mode is None or set("wxa+") & set(mode)) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self.seen.append(f"{event} {values}")
        elif event in self.CHANGES:
            self.seen.append(f"{event} {values}")


audit = Audit()


def told(command: list[str]) -> tuple[int, str, str]:
    """Exit code, output and errors of the real command, in this process. It may change no file, nor take for ever."""

    def is_stuck(number: int, frame: FrameType | None) -> NoReturn:
        raise AssertionError(f"after {SECONDS:.0f} seconds no answer to {command}")

    output, errors = io.StringIO(), io.StringIO()
    before = signal.signal(signal.SIGALRM, is_stuck)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    audit.seen, audit.on = [], True
    try:
        with redirect_stdout(output), redirect_stderr(errors), pytest.raises(SystemExit) as ended:
            app(command)
    finally:
        audit.on = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert audit.seen == []
    code = ended.value.code
    return (code if isinstance(code, int) else 0), output.getvalue(), errors.getvalue()


def is_answered(text: str, overrides: Sequence[str] = ()) -> bool:
    """Whether a file is valid; if it is not, `metta check` and `metta train` must say why in whole sentences.

    They also refuse a valid file whose run needs more memory than the machine has; `metta check` prints it first.
    """
    options = [f"--set={override}" for override in overrides]
    with tempfile.TemporaryDirectory() as directory, chdir(directory):
        Path("fuzz.toml").write_text(text, encoding="utf-8", newline="")
        code, output, errors = told(["check", "fuzz.toml", *options])
        if code:
            assert told(["train", "fuzz.toml", *options]) == (code, "", errors)
        assert os.listdir() == ["fuzz.toml"]
        if output:
            config = load_config("fuzz.toml", overrides)
            assert parse_config(output, "check's output") == config
            errors = re.sub(r"note: fuzz\.toml: the map has .*\n", "", errors)
            assert errors.startswith("error: this run needs about ") if code else not errors
            return True
    assert (code, output) == (2, "")
    must_be_sentences(errors, bool(overrides))
    return False


def must_be_sentences(errors: str, has_overrides: bool) -> None:
    """File, line and sentence; of what was written on the command line, the option."""
    assert all(character.isprintable() or character == "\n" for character in errors)
    assert not [words for words in LIBRARY_WORDS if words in errors]
    first, *problems = errors.rstrip("\n").split("\n")
    assert first.startswith(("error: fuzz.toml ", "error: the command line ", "error: --set ")), errors
    assert has_overrides or first.startswith("error: fuzz.toml "), errors
    if re.search(r" has \d+ problems?$", first):
        assert problems
        for problem in problems:
            assert re.match(r"  (line \d+|--set) +\S.{8}|  and \d+ more$", problem), errors
    else:
        assert not problems
        assert has_overrides or re.search(r"line \d+", first) or "is UTF-16" in first, errors


wild_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
scalars = st.one_of(
    st.integers(-(2**70), 2**70),
    st.integers(-2, 300),
    st.sampled_from([0, 1, 2, 16, 64, 255, 256, 4096, 65536]),
    st.floats(),
    st.booleans(),
    wild_text,
    st.sampled_from(["Rooms", "Ascii", "Random", "wall", "agent", "altar", "ore_red", "cpu", "#@#\n#.#"]),
    st.dates(),
    st.times(),
)
wild_keys = st.one_of(
    wild_text, st.text(string.ascii_lowercase + "_", min_size=1, max_size=8), st.sampled_from(["type", "name", "width"])
)
wild_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(wild_keys, inner, max_size=3),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(inner for key, entry in entries for inner in places(entry, (*path, key)))]


@st.composite
def mutated_tables(draw: st.DrawFn) -> dict[str, Any]:
    """A preset's tables with some values, keys or whole tables replaced, removed, renamed or added."""
    data: dict[str, Any] = tomllib.loads(TEXTS[draw(st.sampled_from(sorted(TEXTS)))])
    for _ in range(draw(st.integers(1, 4))):
        path = draw(st.sampled_from(places(data)))
        holder: Any = data
        for part in path[:-1]:
            holder = holder[part]
        match draw(st.sampled_from(["replace", "remove", "rename", "add", "copy"])):
            case "replace" if path:
                holder[path[-1]] = draw(wild_values)
            case "remove" if path:
                del holder[path[-1]]
            case "rename" if path and isinstance(holder, dict):
                holder[draw(wild_keys)] = holder.pop(path[-1])
            case "copy" if path and isinstance(holder, list):
                holder.append(holder[path[-1]])
            case _ if isinstance(holder, dict):
                holder[draw(wild_keys)] = draw(wild_values)
    return data


@fuzzed
@given(grammar.files())
def test_files_by_the_grammar(text: str) -> None:
    is_answered(text)


@fuzzed
@given(mutated_tables())
def test_mutated_tables(data: dict[str, Any]) -> None:
    is_answered(tomli_w.dumps(data))


@fuzzed
@given(
    st.sampled_from(sorted(TEXTS)),
    st.lists(
        st.tuples(
            st.integers(0, 10**6),
            st.integers(0, 30),
            st.one_of(st.sampled_from(list("[]{}\"'=.,#\n\\\0\r ")), st.text(max_size=3), st.just("")),
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_mutated_texts(name: str, edits: list[tuple[int, int, str]]) -> None:
    text = TEXTS[name]
    for position, length, replacement in edits:
        start = position % len(text)
        text = text[:start] + replacement + text[start + length :]
    is_answered(text)


@fuzzed
@given(st.dictionaries(st.sampled_from(["env", "run", "agent", "experience", "curriculum", "x"]), wild_values))
def test_wild_tables(data: dict[str, Any]) -> None:
    is_answered(tomli_w.dumps(data))


@fuzzed
@given(
    st.lists(st.sampled_from([path for path in places(TABLES["default"]) if path]), min_size=1, max_size=3), st.data()
)
def test_overrides(paths: list[tuple[Any, ...]], data: st.DataObject) -> None:
    overrides = []
    for path in paths:
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)[1:]
        value = data.draw(st.one_of(wild_text, st.integers().map(str), st.sampled_from(["[1, 2]", "{}", "'", "true"])))
        overrides.append(f"{key}={value}")
    is_answered("", overrides)


def test_the_fuzz_finds_both_ends() -> None:
    assert is_answered("run.seed = 1")
    assert is_answered("", ["run.seed=1"])
    assert not is_answered("run.seed = -1")
    assert not is_answered("", ["run.seed=-1"])
    assert is_answered("agent.hidden_dim = 65536")  # 1.8 TiB


def test_every_kind_of_mistake_has_words() -> None:
    """The kinds of pydantic's errors that the models can raise; a new kind of field needs new words."""
    assert {"int_type", "float_type", "bool_type", "string_type", "list_type", "dict_type"} <= set(TYPE_WORDS)
    assert len(BOUND_WORDS) == 4
