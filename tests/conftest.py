"""What all tests share: one thread a process, since the suite itself runs on every core; no stopwatch on examples."""

# before the imports: torch reads the number of threads when it is imported
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from types import SimpleNamespace

import pytest
import torch
from agent_fixtures import *  # noqa: F403  # fixtures of several rooms
from chromium import browser  # noqa: F401  # of replays and reports
from custom_memory import average_memory  # noqa: F401  # a fixture
from hypothesis import settings
from rl_fixtures import *  # noqa: F403

settings.register_profile("metta", deadline=None)
settings.load_profile("metta")


@pytest.fixture
def quick_contents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quick replacements of ONNX models and charts, which take seconds, for tests of where files are written."""

    def export(policy: torch.nn.Module, *_: object, **__: object) -> object:
        content = b"".join(weights.numpy().tobytes() for weights in policy.state_dict().values())
        proto = SimpleNamespace(SerializeToString=lambda: content)
        return SimpleNamespace(model=SimpleNamespace(metadata_props={}), model_proto=proto)

    monkeypatch.setattr("torch.onnx.export", export)
    monkeypatch.setattr("metta.report.html_page.metric_svg", lambda *_: "<svg></svg>")
