"""Line numbers of the keys of a TOML text, for error messages. The text must be valid TOML."""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right

from metta.config.validation.key_paths import KeyPath

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:[^\\"]|\\[\s\S]|"{1,2}(?!"))*"{3,5}'
    r"|'''(?:[^']|'{1,2}(?!'))*'{3,5}"
    r'|"(?:[^\\"\n]|\\.)*"'
    r"|'[^'\n]*'"
)
_PLAIN_VALUE = re.compile(r"[^,\]}\n#]+")


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line number, from 1, of every table, key and list entry of a valid TOML text."""
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


def read_key(text: str) -> tuple[list[str], str]:
    """The dotted key at the start of a text, and the rest of the text. Raises ValueError if there is no key."""
    scanner = _Scanner(text)
    parts = scanner.key()
    return parts, text[scanner.position :]


class _Scanner:
    def __init__(self, text: str):
        self.text = text
        self.position = 0
        self.lines: dict[KeyPath, int] = {}
        self.newlines = [index for index, character in enumerate(text) if character == "\n"]
        self.entries: dict[KeyPath, int] = {}
        """number of tables so far in each array of tables"""

    def document(self) -> None:
        table: KeyPath = ()
        while self._next():
            line = self._line()
            if self.text.startswith("[[", self.position):
                self.position += 2
                table = self._open_entry(self.key(), line)
                self._skip("]]")
            elif self._next() == "[":
                self.position += 1
                table = self._open_table(self.key(), line)
                self._skip("]")
            else:
                self._pair(table)

    def key(self) -> list[str]:
        """A dotted key; each part can be bare or quoted."""
        parts = []
        while True:
            token = _BARE_KEY.match(self.text, self._skip_blank()) or _STRING.match(self.text, self.position)
            if token is None:
                raise ValueError("expected a key")
            part = token.group()
            parts.append(tomllib.loads(f"key = {part}")["key"] if part[0] in "\"'" else part)
            self.position = token.end()
            if self._next() != ".":
                return parts
            self.position += 1

    def _pair(self, table: KeyPath) -> None:
        line = self._line()
        path = table
        for part in self.key():
            path = (*path, part)
            self.lines.setdefault(path, line)
        self._skip("=")
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        first = self._next()
        self.lines.setdefault(path, self._line())
        if first in ("[", "{"):
            self.position += 1
            index = 0
            while self._next() not in ("]", "}"):
                if first == "[":
                    self._value((*path, index))
                else:
                    self._pair(path)
                index += 1
                if self._next() == ",":
                    self.position += 1
            self.position += 1
        else:
            token = _STRING.match(self.text, self.position) or _PLAIN_VALUE.match(self.text, self.position)
            self.position = token.end() if token else len(self.text)

    def _open_table(self, parts: list[str], line: int) -> KeyPath:
        path = self._resolve(parts, line)
        self.lines[path] = line
        return path

    def _open_entry(self, parts: list[str], line: int) -> KeyPath:
        path = (*self._resolve(parts[:-1], line), parts[-1])
        self.lines.setdefault(path, line)
        index = self.entries.get(path, 0)
        self.entries[path] = index + 1
        self.lines[*path, index] = line
        return (*path, index)

    def _resolve(self, parts: list[str], line: int) -> KeyPath:
        """The path of a header, in which the name of an array of tables means its last entry."""
        path: KeyPath = ()
        for part in parts:
            path = (*path, part)
            self.lines.setdefault(path, line)
            if path in self.entries:
                path = (*path, self.entries[path] - 1)
        return path

    def _skip_blank(self) -> int:
        blank = _BLANK.match(self.text, self.position)
        assert blank is not None
        self.position = blank.end()
        return self.position

    def _next(self) -> str:
        """The next character after blanks and comments; empty at the end of the text."""
        return self.text[self._skip_blank() : self.position + 1]

    def _skip(self, token: str) -> None:
        for character in token:
            assert self._next() == character
            self.position += 1

    def _line(self) -> int:
        return bisect_right(self.newlines, self.position - 1) + 1
