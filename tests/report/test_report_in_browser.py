"""The report in a real browser: axis of the charts, phones, light and dark, and the embedded replay."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from chromium import Chromium
from tiny_runs import ignore, tiny_config

from metta.report.read_report import write_report
from metta.run.train import train_run


def test_the_replay_in_a_report_plays(browser: Chromium, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:  # an interval is a second at least, and the run may be shorter
        patch.setattr("metta.run.interval_timer.IntervalTimer.is_due", lambda timer: bool(timer.interval_seconds))
        train_run(tiny_config(tmp_path / "run", "simulation.replay_interval=1"), ignore)
    report = write_report([tmp_path / "run"], tmp_path / "report.html")
    browser.call("Page.navigate", url="about:blank")
    browser.events.clear()
    browser.call("Page.navigate", url=report.as_uri())
    browser.wait_for("document.readyState === 'complete' && document.querySelectorAll('.charts svg').length > 20")
    charts = "[...document.querySelectorAll('.charts')].filter(part => part.offsetHeight)"
    shown = f"new Set({charts}.map(part => part.className))"
    assert browser.evaluate(f"[...{shown}].join()") == "charts by-agent_step"
    browser.evaluate("document.querySelector('label[for=by-seconds]').click()")
    assert browser.evaluate(f"[...{shown}].join()") == "charts by-seconds"
    browser.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
    parts = "[...document.querySelectorAll('body *:not(svg *)')].filter(part => part.checkVisibility())"
    assert browser.evaluate(f"{parts}.filter(part => part.getBoundingClientRect().right > 390).length") == 0
    colors = "['body', '.charts svg text'].map(name => getComputedStyle(document.querySelector(name)))"
    for scheme, text in (("light", "rgb(20, 24, 29)"), ("dark", "rgb(238, 242, 246)")):
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        assert browser.evaluate(f"{colors}.map((style, i) => i ? style.fill : style.color).join()") == f"{text},{text}"
    with browser.inside_frame():
        browser.wait_for("document.documentElement?.dataset.openedIn !== undefined")
        assert re.fullmatch("run \u00b7 epoch [0-9]+ \u00b7 world tiny", browser.text("#title"))
    assert browser.problems() == []
