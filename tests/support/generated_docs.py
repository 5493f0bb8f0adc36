"""Generated parts of the documentation: TOML reference, Python API, tables of metrics and scores, characters of maps.

`python tests/support/generated_docs.py` writes them into the pages, each between its two markers.
`tests/test_readme.py` fails when a page is out of date. The table of map builders is written by `pictures.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from api_reference import api_reference
from learning_scores import score_table, short_score_table

from metta.config.env.glyphs import GLYPHS, LEGENDS
from metta.config.loading.reference import DEFAULT_WORDS, KeyReference, TableReference, config_reference
from metta.run.metric_table import METRICS

ROOT = Path(__file__).parents[2]
COMMAND = "python tests/support/generated_docs.py"


def toml_reference() -> str:
    """A heading and a table of keys for each table of the TOML file."""
    return "\n\n".join(map(_section, config_reference(built_in_only=True)))


def metrics_table() -> str:
    """A row for each metric."""
    rows = "\n".join(f"| `{metric.name}` | {metric.unit} | {metric.meaning} |" for metric in METRICS)
    return f"| metric | unit | meaning |\n|---|---|---|\n{rows}"


def glyph_list() -> str:
    """The characters of maps, in a sentence."""
    return ", ".join(f"`{glyph}` {name}" for glyph, name in GLYPHS.items() if glyph != " ")


def glyph_table() -> str:
    """A row for each object and agent with its characters in each legend."""
    names = dict.fromkeys(name for legend in LEGENDS.values() for name in legend.values())
    heads = " | ".join(f'`legend = "{name}"`' for name in LEGENDS)
    rows = [
        f"| {name} | " + " | ".join(_glyphs_of(name, legend) for legend in LEGENDS.values()) + " |" for name in names
    ]
    return "\n".join([f"| meaning | {heads} |", "|---|" + "---|" * len(LEGENDS), *rows])


def _glyphs_of(name: str, legend: dict[str, str]) -> str:
    words = {" ": "space"}
    return ", ".join(words.get(glyph, f"`{glyph}`") for glyph, meaning in legend.items() if meaning == name)


PAGES: dict[str, tuple[str, Callable[[], str]]] = {
    "reference": ("presets/README.md", toml_reference),
    "scores": ("presets/README.md", score_table),
    "short-scores": ("README.md", short_score_table),
    "glyph-list": ("README.md", glyph_list),
    "glyphs": ("presets/README.md", glyph_table),
    "metrics": ("engine/README.md", metrics_table),
    "api": ("engine/API.md", api_reference),
}
"""marker -> page and generator of its content"""


def replace_section(text: str, marker: str, content: str) -> str:
    """The page's text with new content between `<!-- MARKER:begin -->` and `<!-- MARKER:end -->`."""
    begin, end = f"<!-- {marker}:begin -->", f"<!-- {marker}:end -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"the page needs the lines\n{begin}\n{end}")
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"


def updated(marker: str) -> tuple[Path, str]:
    """The page of a marker, and its text with that part up to date."""
    name, generate = PAGES[marker]
    page = ROOT / name
    return page, replace_section(page.read_text(encoding="utf-8"), marker, generate())


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
    for marker in PAGES:
        page, text = updated(marker)
        page.write_text(text, encoding="utf-8")
