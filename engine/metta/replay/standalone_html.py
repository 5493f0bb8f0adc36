"""Standalone HTML file of a replay: the JavaScript viewer in `viewer/` with the episode embedded."""

from __future__ import annotations

import base64
import hashlib
import zlib
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined

from metta.config.env.labels import action_words, cell_glyphs
from metta.replay.mettascope import json_bytes, mettascope_document
from metta.replay.recording import Replay

SCRIPTS = ("episode.js", "icons.js", "sprites.js", "map.js", "panels.js", "viewer.js")
"""Scripts in `viewer/`, concatenated in this order into one script."""

_TEMPLATES = Environment(loader=PackageLoader("metta.replay", "viewer"), autoescape=True, undefined=StrictUndefined)


def standalone_html(replay: Replay, title: str) -> str:
    """An HTML page that contains the viewer and the episode, and loads no other file.

    Viewing it requires `DecompressionStream`: Chromium 80, Firefox 113, Safari 16.4 or later. The embedded episode is
    the MettaScope document, with the state after the last step added and total rewards, which the viewer computes,
    removed. It is zlib-compressed and base64-encoded, so that names from the config cannot be parsed as markup. The
    content security policy allows only the page's own script and style.
    """
    groups = [
        {"name": name, "id": group.id, "sprite": group.sprite} for name, group in replay.config.game.groups.items()
    ]  # a list, because JavaScript sorts integer-like keys of an object first
    content = mettascope_document(replay, replay.steps + 1) | {
        "title": title,
        "seed": replay.seed,
        "groups": groups,
        "policies": replay.policies,
        "labels": {"actions": action_words(replay.config), "cells": cell_glyphs(replay.config)},
    }
    for entity in content["grid_objects"]:
        entity.pop("total_reward", None)
    style = _source("viewer.css")
    shapes = f"const SHAPES = {_source('shapes.json')};"
    script = "\n".join(['"use strict";', "(() => {", shapes, *map(_source, SCRIPTS), "})();"])
    return _TEMPLATES.get_template("viewer.html.jinja").render(
        title=title,
        style=style,
        style_hash=_sha256(style),
        script=script,
        script_hash=_sha256(script),
        episode=base64.b64encode(zlib.compress(json_bytes(content))).decode(),
    )


def _source(name: str) -> str:
    return files("metta.replay").joinpath("viewer", name).read_text(encoding="utf-8")


def _sha256(source: str) -> str:
    """SHA-256 of an inline script or style in base64, as required in a content security policy."""
    return base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
