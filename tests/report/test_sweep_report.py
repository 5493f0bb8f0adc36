"""The report of a sweep: its page from plain values, in each state, and its numbers."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import pytest
from made_up_runs import write_run

from metta.config.loading.sweep_file import load_sweep
from metta.errors import SkippedFileWarning, UsageError
from metta.experiments.sweep.study import SweepStudy
from metta.experiments.sweep.summary import SweepParameter, SweepSummary, TrialSummary
from metta.report.numbers import csv_text
from metta.report.read_report import read_report
from metta.report.run_data import read_runs
from metta.report.sweep_plots import place, scored_trials
from metta.report.sweep_report import SweepReport

RATE, GAMMA, BACKBONE = "optimizer.learning_rate", "ppo.gamma", "agent.backbone"
PARAMETERS = (
    SweepParameter(RATE, low=1e-4, high=1e-2, log=True),
    SweepParameter(GAMMA, low=0.9, high=1.0),
    SweepParameter(BACKBONE, values=("mlp", "cnn")),
)


def trial(number: int, rate: float, gamma: float, backbone: str, **rest: object) -> TrialSummary:
    made = TrialSummary(number, {RATE: rate, GAMMA: gamma, BACKBONE: backbone}, "complete", seconds=90.0)
    return replace(made, **rest)  # type: ignore[arg-type]  # fields of several types


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> SweepSummary:
    """A sweep in progress: seven of ten trials, in all states; the second one is the best."""
    root = tmp_path_factory.mktemp("sweeps") / "tuning"
    runs = [write_run(root / f"trial_1/seed_{seed}", f"run.seed={seed}", level=1 + seed / 10) for seed in (0, 1)]
    begun = root / "trial_6" / "seed_0"  # without a completed epoch
    begun.mkdir(parents=True)
    (begun / "config.toml").write_bytes((runs[0] / "config.toml").read_bytes())
    reason = "egocentric needs a square window <11 x 9>"
    return SweepSummary(
        sweep_dir=root,
        metric="evaluation/mean_reward",
        direction="maximize",
        num_trials=10,
        parameters=PARAMETERS,
        trials=(
            trial(0, 1e-4, 0.95, "mlp", score=1.0),
            trial(1, 1e-3, 0.97, "cnn", score=4.5, run_dirs=tuple(runs)),
            trial(2, 1e-2, 0.90, "cnn", score=2.0),
            trial(3, 2e-3, 0.99, "mlp", state="pruned", intermediate_scores=((500, 0.5), (1000, 0.25)), reason="below"),
            trial(4, 3e-3, 0.96, "mlp", state="failed", reason=reason),
            trial(5, 4e-3, 1.00, "mlp", score=3.0),
            trial(6, 5e-3, 0.93, "cnn", state="running", run_dirs=(begun,)),
        ),
        importances={RATE: 0.7, GAMMA: 0.2, BACKBONE: 0.1},
    )


def test_the_page_of_a_sweep_in_progress(summary: SweepSummary) -> None:
    page = SweepReport(summary).html()
    headings = re.findall("<h2>(.*?)</h2>", page)
    assert headings == [
        "History",
        "Importance of settings",
        "Slices",
        "Parallel coordinates",
        "Curves of the best trials",
        "Trials",
        "Pruned and failed trials",
    ]
    assert "7 of 10 trials: 4 complete, 1 pruned, 1 failed, 1 running" in page
    assert "Best so far: trial 1, 4.500" in page
    assert "egocentric needs a square window &lt;11 x 9&gt;" in page
    charts = re.findall(r"<svg (?!width).*?</svg>", page, re.DOTALL)
    assert len(charts) == 1 + 3 + 1 + 4  # history, slices, parallel coordinates; reward and evaluation on two axes
    texts = [[text.strip() for text in ElementTree.fromstring(chart).itertext()] for chart in charts]
    labels = ["trial", "learning_rate (log scale)", "gamma", "backbone"]
    assert [label in text for label, text in zip(labels, texts, strict=False)] == [True] * 4
    assert {"evaluation/mean_reward", RATE, "0.0001", "0.01", '"mlp"', "4.5"} <= set(texts[4])
    trials = [unescape(name) for name in re.findall(r'<tr><th scope="row">(\d+)</th>', page)]
    assert trials == ["1", "5", "2", "0", "3", "4", "6", "3", "4"]
    assert re.findall(r'<meter min="0" max="1" value="([\d.]+)">', page) == ["0.7", "0.2", "0.1"]
    assert not re.search(r"#0000[0-9a-f]{2}", page), "a chart has a color that does not follow the page"


@pytest.mark.usefixtures("quick_contents")
def test_a_sweep_without_complete_trials_has_a_page(summary: SweepSummary) -> None:
    begun = replace(summary, trials=summary.trials[6:], importances={})
    page = SweepReport(begun).html()
    assert re.findall("<h2>(.*?)</h2>", page) == ["Importance of settings", "Trials"]
    assert "No trial is complete yet" in page
    assert SweepReport(replace(begun, trials=())).html().count("0 of 10 trials") == 1


def test_trials_that_did_not_reach_a_reward_are_in_no_chart(summary: SweepSummary) -> None:
    trials = (trial(0, 1e-4, 0.95, "mlp", score=1e6 + 5), trial(1, 1e-3, 0.95, "mlp", score=40.0))
    timed = replace(summary, metric="seconds to reward = 5", direction="minimize", trials=trials)
    assert [scored.score for scored in scored_trials(timed)] == [40.0]
    page = SweepReport(timed).html()
    assert '<td data-heading="seconds to reward = 5">not reached</td>' in page
    assert SweepReport(replace(timed, trials=trials[:1])).html().count("<svg") == 0


def test_places_of_values() -> None:
    rate, gamma, backbone = PARAMETERS
    assert [place(rate, value) for value in (1e-4, 1e-3, 1e-2)] == pytest.approx([0, 0.5, 1])
    assert [place(gamma, value) for value in (0.9, 0.95, 1.0)] == pytest.approx([0, 0.5, 1])
    assert [place(backbone, value) for value in ("mlp", "cnn")] == [0, 1]
    assert place(SweepParameter("x", values=(True,)), True) == 0.5


def test_the_numbers_of_a_sweep(summary: SweepSummary) -> None:
    sweep, *trials = SweepReport(summary).records()
    assert (sweep["best_trial"], sweep["importances"]) == (1, dict(summary.importances))
    assert [record["trial"] for record in trials] == list(range(7))
    assert trials[3]["intermediate_scores"] == [[500, 0.5], [1000, 0.25]]
    rows = list(csv.DictReader(csv_text([sweep, *trials]).splitlines()))
    assert [row[RATE] for row in rows[:2]] == ["0.0001", "0.001"]
    assert [row["score"] for row in rows] == ["1.0", "4.5", "2.0", "", "", "3.0", ""]
    assert rows[4]["reason"].startswith("egocentric needs")


def test_a_sweep_is_read_from_its_directory_and_left_out_beside_runs(tmp_path: Path) -> None:
    (tmp_path / "sweep.toml").write_text(
        '[sweep]\nbase = "quickstart"\ntrials = 3\nmetric = "reward"\n[sweep.parameters]\n'
        '"ppo.gamma" = { low = 0.95, high = 0.999 }\n'
    )
    (tmp_path / "tuned").mkdir()
    SweepStudy.create(tmp_path / "tuned", load_sweep(str(tmp_path / "sweep.toml")))
    report = read_report([tmp_path / "tuned"])
    assert isinstance(report, SweepReport)
    assert "0 of 3 trials" in report.html()
    run = write_run(tmp_path / "run", epochs=2)
    with pytest.warns(SkippedFileWarning, match="tuned is a sweep, whose report shows nothing else: metta report"):
        assert len(read_runs([tmp_path / "tuned", run])) == 1
    with pytest.raises(UsageError, match="tuned is a sweep"):
        read_runs([tmp_path / "tuned", tmp_path / "tuned"])
