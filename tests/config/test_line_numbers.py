"""Line numbers of keys, for every syntax of keys in TOML."""

import tomllib
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from metta.config.loading.line_numbers import key_lines, read_key
from metta.config.validation.key_paths import KeyPath

EVERY_WAY = '''\
# comment with [brackets] = "and quotes
title = "a # no comment"  # a comment
[run]  # comment ] here
seed = 1
"quoted.key" = 2
'literal key' = 3
a.b . c = 4
a.b.d = 5

  [ env . game ]
  groups.red = { id = 1, props = { heart_max = 3 } }
  names = [
    "one",   # ]
    'two',

    "thr\\"ee", [
      4,
      { x = 1, y = [2,
        3] },
    ],
  ]

text = """
[fake]
key = 1
\\"""
"""
raw = \'\'\'
[[fake]]
it''s \'\'\'
after = 1979-05-27 07:32:00
[[env.objects]]
name = "first"
[env.objects.input]
ore = 1
[[env.objects]]
name = "second"
[[env.objects.parts]]
size = 1
[[env.objects.parts]]
size = 2
[env.objects.input]
ore = 2
[last]
quotes = """"two quotes"" inside""""
end = true'''

LINES = {
    ("title",): 2,
    ("run",): 3,
    ("run", "seed"): 4,
    ("run", "quoted.key"): 5,
    ("run", "literal key"): 6,
    ("run", "a"): 7,
    ("run", "a", "b"): 7,
    ("run", "a", "b", "c"): 7,
    ("run", "a", "b", "d"): 8,
    ("env",): 10,
    ("env", "game"): 10,
    ("env", "game", "groups"): 11,
    ("env", "game", "groups", "red"): 11,
    ("env", "game", "groups", "red", "id"): 11,
    ("env", "game", "groups", "red", "props"): 11,
    ("env", "game", "groups", "red", "props", "heart_max"): 11,
    ("env", "game", "names"): 12,
    ("env", "game", "names", 0): 13,
    ("env", "game", "names", 1): 14,
    ("env", "game", "names", 2): 16,
    ("env", "game", "names", 3): 16,
    ("env", "game", "names", 3, 0): 17,
    ("env", "game", "names", 3, 1): 18,
    ("env", "game", "names", 3, 1, "x"): 18,
    ("env", "game", "names", 3, 1, "y"): 18,
    ("env", "game", "names", 3, 1, "y", 0): 18,
    ("env", "game", "names", 3, 1, "y", 1): 19,
    ("env", "game", "text"): 23,
    ("env", "game", "raw"): 28,
    ("env", "game", "after"): 31,
    ("env", "objects"): 32,
    ("env", "objects", 0): 32,
    ("env", "objects", 0, "name"): 33,
    ("env", "objects", 0, "input"): 34,
    ("env", "objects", 0, "input", "ore"): 35,
    ("env", "objects", 1): 36,
    ("env", "objects", 1, "name"): 37,
    ("env", "objects", 1, "parts"): 38,
    ("env", "objects", 1, "parts", 0): 38,
    ("env", "objects", 1, "parts", 0, "size"): 39,
    ("env", "objects", 1, "parts", 1): 40,
    ("env", "objects", 1, "parts", 1, "size"): 41,
    ("env", "objects", 1, "input"): 42,
    ("env", "objects", 1, "input", "ore"): 43,
    ("last",): 44,
    ("last", "quotes"): 45,
    ("last", "end"): 46,
}


def paths_in(value: Any, path: KeyPath = ()) -> set[KeyPath]:
    found = {path} if path else set()
    if isinstance(value, dict):
        found |= {inner for key, entry in value.items() for inner in paths_in(entry, (*path, key))}
    if isinstance(value, list):
        found |= {inner for index, entry in enumerate(value) for inner in paths_in(entry, (*path, index))}
    return found


def test_every_way_to_write_a_key() -> None:
    assert key_lines(EVERY_WAY) == LINES
    assert set(LINES) == paths_in(tomllib.loads(EVERY_WAY))


def test_a_table_that_is_opened_after_its_child_stands_at_its_own_header() -> None:
    assert key_lines("[a.b]\nx = 1\n[a]\ny = 1") == {("a",): 3, ("a", "b"): 1, ("a", "b", "x"): 2, ("a", "y"): 4}


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing", "[a]\n", "a = 1 # end", "\ta = 1\r\n"])
def test_small_texts(text: str) -> None:
    assert set(key_lines(text)) == paths_in(tomllib.loads(text))


@pytest.mark.parametrize(
    ("text", "parts", "rest"),
    [("a.b=1", ["a", "b"], "=1"), (' a . "b.c" = 1', ["a", "b.c"], "= 1"), ("a[0].b=1", ["a"], "[0].b=1")],
)
def test_a_key_and_what_follows(text: str, parts: list[str], rest: str) -> None:
    assert read_key(text) == (parts, rest)


keys = st.sampled_from(["a", "b", "c-1", '"q.r"', "'s t'", '"\\u00e9"'])
scalars = st.sampled_from(
    ["1", "-2.5e3", "true", '"x # y"', "'[z]'", '"""m\nn"""', "'''o\n'p'\n'''", "2025-07-03", "0x1F"]
)
gaps = st.sampled_from(["", " ", "\n", " # gap ]\n", "\n\n"])
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3).flatmap(
        lambda entries: gaps.map(lambda gap: "[" + gap + f",{gap}".join(entries) + "]")
    ),
    max_leaves=6,
)


@given(st.lists(st.tuples(st.sampled_from(["", "[t]\n", "[t.u]\n", "[[l]]\n", "[[l.m]]\n"]), keys, keys, values, gaps)))
def test_every_key_of_a_drawn_text_is_found_on_the_line_it_is_on(
    parts: list[tuple[str, str, str, str, str]],
) -> None:
    text, marks = "", []
    for number, (header, first, second, value, gap) in enumerate(parts):
        text += gap.lstrip(" ") if gap.strip() else gap
        text += header
        marks.append((number, text.count("\n") + 1))
        text += f"{first}.{second}.n{number} = {value}\n"
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        event("no TOML")  # the same table twice
        return
    lines = key_lines(text)
    assert set(lines) == paths_in(data)
    for number, line in marks:
        assert [found for path, found in lines.items() if path[-1] == f"n{number}"] == [line]
