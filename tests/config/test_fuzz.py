"""Any file, however broken, ends in a config or in sentences: never a traceback, a hang or a shrug."""

import os
import string
import tomllib
from typing import Any

import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metta.config.check import check_text
from metta.config.load import dump_config, parse_config
from metta.config.presets import presets
from metta.config.problems import BOUND_WORDS, TYPE_WORDS
from metta.errors import ConfigError, UsageError

CASES = int(os.environ.get("FUZZ_CASES", "150"))
"""Per test; run with FUZZ_CASES=10000 now and then."""

TEXTS = {preset.name: preset.text for preset in presets()}
TABLES = {name: tomllib.loads(text) for name, text in TEXTS.items()}

fuzzed = settings(max_examples=CASES, suppress_health_check=[HealthCheck.too_slow])


def is_answered(text: str, overrides: list[str] | None = None) -> bool:
    """Whether a text is a config; if not, the answer must be whole sentences."""
    try:
        config = parse_config(text, "fuzz.toml", overrides or [])
    except (ConfigError, UsageError) as error:
        must_be_sentences(error)
        return False
    assert parse_config(dump_config(config), "config.toml") == config
    assert config.curriculum.scenes or check_text(config)
    return True


def must_be_sentences(error: ConfigError | UsageError) -> None:
    message = str(error)
    assert message
    assert not [words for words in ("pydantic", "Input should", "Value error") if words in message]
    assert all(character.isprintable() or character == "\n" for character in message)
    if isinstance(error, ConfigError):
        assert error.problems
        assert all(len(problem.message) > 8 for problem in error.problems)
        assert all(problem.line is not None or problem.option or not problem.path for problem in error.problems)


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
    assert not is_answered("run.seed = -1")


def test_every_kind_of_mistake_has_words() -> None:
    """The kinds of pydantic's errors that the models can raise; a new kind of field needs new words."""
    assert {"int_type", "float_type", "bool_type", "string_type", "list_type", "dict_type"} <= set(TYPE_WORDS)
    assert len(BOUND_WORDS) == 4
