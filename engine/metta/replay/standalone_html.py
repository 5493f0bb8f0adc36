"""An episode as one HTML file that needs nothing else: no network, no server, no library."""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from importlib.resources import files

from metta.replay.mettascope import compact_json, document
from metta.replay.recording import Replay

SCRIPTS = ("inflate.js", "episode.js", "sprites.js", "map.js", "panels.js", "viewer.js")


def page_file(replay: Replay, title: str) -> bytes:
    """The content of an `.html` file.

    The episode is the MettaScope document with the state after the last step, without the total rewards (the page adds
    them up), packed into base64: no name of a config ever stands in the markup. The browser is told to run the page's
    own script and nothing else, and to load nothing.
    """
    groups = [
        {"name": name, "id": group.id, "sprite": group.sprite} for name, group in replay.config.game.groups.items()
    ]  # a list, since JavaScript puts keys of an object that look like numbers in another order
    content = document(replay, replay.steps + 1) | {"title": title, "seed": replay.seed, "groups": groups}
    for entity in content["grid_objects"]:
        entity.pop("total_reward", None)
    episode = compact_json(content)
    script = '"use strict";\n(() => {\n' + "\n".join(map(_source, SCRIPTS)) + "\n})();"
    style = _source("viewer.css")
    parts = {
        "style": style,
        "style_hash": _hash(style),
        "script": script,
        "script_hash": _hash(script),
        "size": str(len(episode)),
        "episode": base64.b64encode(zlib.compress(episode)).decode(),
    }
    return re.sub(r"{{(\w+)}}", lambda match: parts[match[1]], _source("viewer.html.jinja")).encode()


def _source(name: str) -> str:
    return files("metta.replay").joinpath("viewer", name).read_text(encoding="utf-8")


def _hash(source: str) -> str:
    return base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
