"""The README's table of metrics, written from the code: `python tests/support/metrics_reference.py` renews it.

It stands between the two markers; `tests/run/test_metric_table.py` fails when it is not up to date.
"""

from __future__ import annotations

from pathlib import Path

from metta.run.metric_table import METRICS

README = Path(__file__).parents[2] / "README.md"
BEGIN = "<!-- metrics:begin -->"
END = "<!-- metrics:end -->"


def table() -> str:
    """Markdown: a row for each metric."""
    rows = "\n".join(f"| `{metric.name}` | {metric.unit} | {metric.meaning} |" for metric in METRICS)
    return f"| metric | unit | meaning |\n|---|---|---|\n{rows}\n"


def renewed(text: str) -> str:
    """The README's text with the table between its markers up to date."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"README.md needs the lines\n{BEGIN}\n{END}")
    return f"{before}{BEGIN}\n\n{table()}\n{END}{after}"


if __name__ == "__main__":
    README.write_text(renewed(README.read_text(encoding="utf-8")), encoding="utf-8")
