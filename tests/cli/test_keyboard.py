"""Keys as terminals send them, through a pseudo-terminal: each has its name, and only Escape and q quit."""

from __future__ import annotations

import os
import pty
import sys

import pytest

from metta_cli.keyboard import Keyboard

NAMES = {
    "up": [b"\x1b[A", b"\x1bOA"],
    "down": [b"\x1b[B", b"\x1bOB"],
    "right": [b"\x1b[C", b"\x1bOC"],
    "left": [b"\x1b[D", b"\x1bOD"],
    "space": [b" "],
    "tab": [b"\t"],
    "escape": [b"\x1b"],
    "q": [b"q"],
    "+": [b"+"],
    "5": [b"5"],
    "é": ["é".encode()],
}
"""Keys that the commands use, and what terminals send for them."""

IGNORED = {
    "Home": [b"\x1b[H", b"\x1bOH", b"\x1b[1~", b"\x1b[7~"],
    "End": [b"\x1b[F", b"\x1bOF", b"\x1b[4~", b"\x1b[8~"],
    "Insert": [b"\x1b[2~"],
    "Delete": [b"\x1b[3~"],
    "PageUp": [b"\x1b[5~"],
    "PageDown": [b"\x1b[6~"],
    "F1": [b"\x1bOP", b"\x1b[11~", b"\x1b[[A"],
    "F5": [b"\x1b[15~"],
    "F12": [b"\x1b[24~"],
    "Shift+Up": [b"\x1b[1;2A"],
    "Ctrl+Left": [b"\x1b[1;5D"],
    "Alt+Up": [b"\x1b[1;3A"],
    "Shift+Tab": [b"\x1b[Z"],
    "Shift+F5": [b"\x1b[15;2~"],
    "Alt+q": [b"\x1bq"],
    "Enter": [b"\r", b"\n"],
    "Backspace": [b"\x7f"],
    "mouse": [b"\x1b[<0;10;10M"],
    "focus": [b"\x1b[I"],
    "pasted q": [b"\x1b[200~q\x1b[201~"],
    "unknown": [b"\x1b[99~", b"\x1b[57;1u", b"\x1b[?1;2c"],
}
"""Keys and reports of the terminal that mean nothing to the commands."""

MEANINGFUL = {*NAMES, *"abcdefghijklmnopqrstuvwxyz0123456789+-="}


def each(table: dict[str, list[bytes]]) -> list[tuple[str, bytes]]:
    return [(name, sequence) for name, sequences in table.items() for sequence in sequences]


def typed(sequence: bytes) -> list[str]:
    """The keys that are read when a terminal sends that."""
    there, here = pty.openpty()
    with open(here) as stream, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", stream)
        patch.setattr(sys, "stdout", stream)
        with Keyboard("watch", "") as keyboard:
            os.write(there, sequence)
            keys = []
            while (key := keyboard.read(0.15)) is not None:
                keys.append(key)
    os.close(there)
    return keys


@pytest.mark.parametrize(("name", "sequence"), each(NAMES))
def test_keys_have_names(name: str, sequence: bytes) -> None:
    assert typed(sequence) == [name]


@pytest.mark.parametrize(("name", "sequence"), each(IGNORED))
def test_other_keys_mean_nothing(name: str, sequence: bytes) -> None:
    assert not MEANINGFUL & set(typed(sequence))


def test_keys_typed_fast_are_read_in_order() -> None:
    assert typed(b"\x1b[A\x1b[A\x1b[3~a ") == ["up", "up", "delete", "a", "space"]


def test_escape_after_other_keys_is_read() -> None:
    assert typed(b"a\x1b") == ["a", "escape"]


def test_a_terminal_that_was_closed_quits() -> None:
    there, here = pty.openpty()
    with open(here) as stream, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", stream)
        patch.setattr(sys, "stdout", stream)
        keyboard = Keyboard("watch", "")
        os.close(there)
        assert keyboard.read(5) == "q"


@pytest.mark.parametrize(("name", "sequence"), each(IGNORED))
def test_a_key_in_the_same_read_after_them_is_kept(name: str, sequence: bytes) -> None:
    """A program that is slow to read finds several keys at once."""
    assert typed(sequence + b"g")[-1:] == ["g"]
