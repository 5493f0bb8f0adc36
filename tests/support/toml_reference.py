"""The README's reference of the TOML file, written from the models: `python tests/support/toml_reference.py` renews it.

It stands between the two markers; `tests/config/test_readme_reference.py` fails when it is not up to date.
"""

from __future__ import annotations

from pathlib import Path

from metta.config.loading.reference import DEFAULT_WORDS, KeyReference, TableReference, config_reference

README = Path(__file__).parents[2] / "README.md"
BEGIN = "<!-- reference:begin -->"
END = "<!-- reference:end -->"


def reference() -> str:
    """Markdown: one heading and one table of keys for each table of the file."""
    return "\n\n".join(map(_section, config_reference(built_in_only=True))) + "\n"


def renewed(text: str) -> str:
    """The README's text with the reference between its markers up to date."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"README.md needs the lines\n{BEGIN}\n{END}")
    return f"{before}{BEGIN}\n\n{reference()}\n{END}{after}"


def _section(table: TableReference) -> str:
    title = f"### `{table.header}`" + (f' with `type = "{table.type}"`' if table.type else "")
    rows = ["| key | value | default | meaning |", "|---|---|---|---|", *map(_row, table.keys)]
    return "\n\n".join([title, table.description, *(["\n".join(rows)] if table.keys else [])])


def _row(key: KeyReference) -> str:
    value = f"{key.type}, {key.range}" if key.range else key.type
    default = key.default if key.default in DEFAULT_WORDS else f"`{key.default}`"
    cells = [f"`{key.key}`", value, default, key.description]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    README.write_text(renewed(README.read_text(encoding="utf-8")), encoding="utf-8")
