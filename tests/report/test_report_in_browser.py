"""The report in a real browser: charts switch their horizontal axis, and the embedded replay opens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from chromium import Chromium
from tiny_runs import ignore, tiny_config

from metta.report.html_page import write_report
from metta.run.train import train_run


def test_the_replay_in_a_report_plays(browser: Chromium, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:  # an interval is a second at least, and the run may be shorter
        patch.setattr("metta.run.interval_timer.IntervalTimer.is_due", lambda timer: bool(timer.interval_seconds))
        train_run(tiny_config(tmp_path / "run", "simulation.replay_interval=1"), ignore)
    report = write_report([tmp_path / "run"], tmp_path / "report.html")
    browser.call("Page.navigate", url="about:blank")
    browser.events.clear()
    browser.call("Page.navigate", url=report.as_uri())
    browser.wait_for("document.readyState === 'complete' && document.querySelectorAll('svg').length === 10")
    charts = "[...document.querySelectorAll('.scrollable')].filter(chart => chart.querySelector('svg'))"
    shown = f"{charts}.filter(chart => chart.offsetHeight)"
    by_class = f"{shown}.map(chart => chart.className.replace('scrollable ', '')).join()"
    assert browser.evaluate(by_class) == ",".join(["by-agent_step"] * 5)
    browser.evaluate("document.querySelector('label[for=by-seconds]').click()")
    assert browser.evaluate(by_class) == ",".join(["by-seconds"] * 5)
    with browser.inside_frame():
        browser.wait_for("document.documentElement?.dataset.openedIn !== undefined")
        assert re.fullmatch("run \u00b7 epoch [0-9]+ \u00b7 world tiny", browser.text("#title"))
    assert browser.problems() == []
