"""Files that would be expensive to validate are answered within seconds."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from metta.config.loading.load import load_tasks, parse_config
from metta.config.loading.toml_parser import MAX_BYTES
from metta.errors import MettaError

SECONDS = 30.0
"""Limit on a busy machine; without the limits in the code, these files take minutes or hours."""


def array_of(key: str, value: str, count: int) -> str:
    entries = ",\n".join([value] * count)
    return f"{key} = [\n{entries}\n]"


BOMBS: dict[str, tuple[Callable[[], str], str]] = {
    "scenes": (
        lambda: "[curriculum]\n" + array_of("scenes", '"simple"', 80_000),
        "curriculum.scenes  must have at most 1,000 entries; got 80,000",
    ),
    "scenes that may be": (lambda: "[curriculum]\n" + array_of("scenes", '"simple"', 1000), ""),
    "rows": (
        lambda: '[env.map_builder]\ntype = "Ascii"\nmap = """\n' + "@\n" * 50_000 + '"""',
        "makes the height 50000; it must be at most 4096",
    ),
    "rows of other lengths": (
        lambda: '[env.map_builder]\ntype = "Ascii"\nmap = """\n@@\n' + "@\n" * 50_000 + '"""',
        "must have rows of equal length",
    ),
    "objects that are not there": (
        lambda: "[env.map_builder.objects]\n" + "\n".join(f"w{index} = 1" for index in range(60_000)),
        'unknown object "w0"',
    ),
    "buckets": (
        lambda: "\n".join(f"[curriculum.buckets.b{index}]\nvalues = [1]" for index in range(20_000)),
        "curriculum.buckets  must have at most 100 entries; got 20,000",
    ),
    "groups": (
        lambda: "\n".join(f"[env.game.groups.g{index}]\nid = {index % 256}" for index in range(20_000)),
        "env.game.groups  must have at most 256 entries; got 20,000",
    ),
    "policies": (
        lambda: "[self_play]\n" + array_of("policies", '"a.pt"', 90_000),
        "self_play.policies  must have at most 1,000 entries; got 90,000",
    ),
    "unknown keys": (
        lambda: "[env.game]\n" + "\n".join(f"widht{index} = 1" for index in range(40_000)),
        'did you mean "width"?',
    ),
}


@pytest.mark.parametrize(("write", "sentence"), BOMBS.values(), ids=BOMBS)
def test_expensive_files_are_answered_quickly(write: Callable[[], str], sentence: str) -> None:
    text = write()
    assert len(text) < MAX_BYTES
    begin, answer = time.monotonic(), ""
    try:
        load_tasks(parse_config(text, "bomb.toml"))
    except MettaError as error:
        answer = str(error)
    assert time.monotonic() - begin < SECONDS
    assert sentence in answer
    assert bool(answer) == bool(sentence)
    assert len(answer) < 20_000
