"""Invalid TOML files with their exact error messages, from the text tables `tests/config/bad_files/*.txt`.

A case is a line `=== NAME`, the TOML text, a line `---`, and the message of `metta check NAME.toml`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TABLES = Path(__file__).parents[1] / "config" / "bad_files"


@dataclass(frozen=True)
class BadConfig:
    """An invalid TOML file."""

    name: str
    toml: str
    message: str
    table: Path
    """the text table that has it"""

    @property
    def file_name(self) -> str:
        """The name of the file in the message."""
        return f"{self.name}.toml"

    def write_message(self, message: str) -> None:
        """Replace the message in the table."""
        head = f"=== {self.name}\n{self.toml}---\n"
        text = self.table.read_text(encoding="utf-8")
        assert text.count(head) == 1
        before, _, after = text.partition(head)
        rest = re.split(r"^(?==== )", after, maxsplit=1, flags=re.MULTILINE)[1:]
        self.table.write_text(before + head + message + "".join(["\n", *rest] if rest else []), encoding="utf-8")


def bad_configs() -> Iterator[BadConfig]:
    """Every case of every table."""
    for table in sorted(TABLES.glob("*.txt")):
        _, *cases = re.split(r"^=== ", table.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for case in cases:
            name, _, body = case.partition("\n")
            toml, _, message = body.partition("---\n")
            yield BadConfig(name, toml, message.rstrip("\n") + "\n", table)
