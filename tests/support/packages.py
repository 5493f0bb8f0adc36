"""Small installed distributions: modules and entry points in a directory, as pip would install them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def install(
    site: Path, name: str, entry_points: Mapping[str, Mapping[str, str]], **modules: str | Mapping[str, str]
) -> Path:
    """Install a distribution into the directory `site`; a text is a module, a mapping a package. Returns `site`."""
    information = site / f"{name}-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    groups = [
        "\n".join([f"[{group}]", *(f"{part} = {place}" for part, place in parts.items())])
        for group, parts in entry_points.items()
    ]
    (information / "entry_points.txt").write_text("\n\n".join(groups) + "\n")
    for module, source in modules.items():
        if isinstance(source, str):
            (site / f"{module}.py").write_text(source)
        else:
            (site / module).mkdir(parents=True, exist_ok=True)
            for inner, text in source.items():
                (site / module / f"{inner}.py").write_text(text)
    return site
