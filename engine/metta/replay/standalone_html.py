"""A replay as one standalone HTML file: the viewer of `viewer/` with the episode embedded."""

from __future__ import annotations

import base64
import hashlib
import zlib
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined

from metta.replay.mettascope import json_bytes, mettascope_document
from metta.replay.recording import Replay

SCRIPTS = ("episode.js", "sprites.js", "map.js", "panels.js", "viewer.js")
"""The scripts of `viewer/`, joined in this order into one."""

_TEMPLATES = Environment(loader=PackageLoader("metta.replay", "viewer"), autoescape=True, undefined=StrictUndefined)


def standalone_html(replay: Replay, title: str) -> str:
    """HTML that shows the episode without a network, a server or a library.

    It runs in Chromium 80, Firefox 113, Safari 16.4 and later, which can decompress zlib data. The embedded episode is
    the MettaScope document with the state after the last step and without total rewards, which the viewer computes. It
    is zlib-compressed in base64, so that no name of the config appears in the markup. The content security policy
    allows the page's own script and style and nothing else.
    """
    groups = [
        {"name": name, "id": group.id, "sprite": group.sprite} for name, group in replay.config.game.groups.items()
    ]  # a list, because JavaScript reorders the keys of an object that look like numbers
    content = mettascope_document(replay, replay.steps + 1) | {"title": title, "seed": replay.seed, "groups": groups}
    for entity in content["grid_objects"]:
        entity.pop("total_reward", None)
    style = _source("viewer.css")
    script = '"use strict";\n(() => {\n' + "\n".join(map(_source, SCRIPTS)) + "\n})();"
    return _TEMPLATES.get_template("viewer.html.jinja").render(
        style=style,
        style_hash=_sha256(style),
        script=script,
        script_hash=_sha256(script),
        episode=base64.b64encode(zlib.compress(json_bytes(content))).decode(),
    )


def _source(name: str) -> str:
    return files("metta.replay").joinpath("viewer", name).read_text(encoding="utf-8")


def _sha256(source: str) -> str:
    """The hash of an inline script or style, as a content security policy names it."""
    return base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
