"""The report as a reader meets it: a verdict, every method explained, one colour each, names by their markers."""

import re
import time
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from arr_coc.learning.rewards import make_reward
from eval.methods import make_method
from eval.model.bench import Bench
from eval.reporting import plots
from eval.reporting.page import markdown_table, verdict, without_empty
from eval.run import run
from tests.eval.fakes import FakeArr


@pytest.fixture
def finished(config, arr):
    """A run of the little world and its report."""
    generate = arr.model.generate

    def slow(*args, **kwargs):
        time.sleep(0.002)  # a model that answers within a microsecond counts as one that was not timed
        return generate(*args, **kwargs)

    arr.model.generate = slow
    settings = config(
        methods=["uniform-64", "uniform-128", "uniform-400", "evidence", "full"], baselines=["full", "uniform-400"]
    )
    return run(settings, arr, progress=False), (Path(settings.out) / "report.md").read_text(), Path(settings.out)


@pytest.mark.parametrize("spec", ["full", "uniform-64", "evidence"])
def test_the_first_token_is_never_later_than_the_total(samples, spec):
    """Both are parts of a batch's call: "first token" was three to four times "total" in batches of four."""

    class Slow(FakeArr):
        def generate(self, *args, **kwargs):
            time.sleep(0.02)  # before the first token
            return super().generate(*args, **kwargs)

    arr = Slow()
    arr.model.generate = arr.generate
    bench = Bench(arr, make_reward("vqa_accuracy"))
    for answer in make_method(spec).answer(bench, samples[:8]):
        assert 0 < answer.first <= answer.seconds


def test_stages_do_not_hold_the_total(samples):
    arr = FakeArr()
    (answer,) = make_method("uniform-64").answer(Bench(arr, make_reward("vqa_accuracy")), samples[:1])
    assert "total" not in answer.timings


def test_the_report_begins_with_a_verdict(finished):
    metrics, report, _ = finished
    second = report.split("\n\n")[1]
    assert second == verdict(metrics) and second.startswith("**") and "of its tokens" in second
    ours, base = metrics["methods"]["evidence"], metrics["methods"]["full"]
    assert f"{100 * ours['tokens']['mean'] / base['tokens']['mean']:.0f} % of its tokens" in second
    assert "first token is there after" in second


def told(value, low, high, wins=5, losses=5):
    """Metrics of a run in which the learned policy differs so much from full detail."""
    found = {"value": value, "low": low, "high": high, "p": 0.5, "mcnemar": 0.5, "wins": wins, "losses": losses}
    method = {
        "accuracy": [0.9, 0.88, 0.92],
        "share": 0.25,
        "tokens": {"mean": 250},
        "milliseconds": {"first token": 46},
    }
    full = {**method, "tokens": {"mean": 1000}, "milliseconds": {"first token": 100}}
    return {
        "methods": {"learned": method, "uniform-400": full}, "uniform": ["uniform-400"], "images": 1000,
        "differences": {"uniform-400": {"learned": found}},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        ((0.002, -0.005, 0.01), "learned is as accurate as full detail at 25 % of its tokens"),
        ((-0.05, -0.08, -0.02), "learned is less accurate than full detail, at 25 %"),
        ((0.05, 0.02, 0.08), "learned is more accurate than full detail at 25 %"),
        ((0.0, -0.06, 0.06), "learned is not told apart from full detail by these questions"),
    ],
)
def test_the_verdict_is_what_the_interval_allows(difference, said):
    sentence = verdict(told(*difference))
    assert said in sentence and "after 46 % of the time (46 of 100 ms, medians)" in sentence


def test_without_a_baseline_at_full_detail_no_comparison_is_claimed():
    metrics = told(0, 0, 0) | {"differences": {}}
    assert verdict(metrics) == "**learned is right in 90.0 [88.0, 92.0] % of the questions at 25 % of full detail.**"


def test_every_method_is_explained_and_one_p_is_enough(finished):
    metrics, report, _ = finished
    lines = re.search(r"## The methods\n\n(.*?)\n\n", report, re.DOTALL)[1].splitlines()
    assert "- `uniform-64`, `uniform-128`, `uniform-400`: The same budget for every patch." in lines
    explained = set(re.findall(r"`([^`]+)`", " ".join(line.partition(":")[0] for line in lines)))
    assert explained == set(metrics["methods"]) and all(len(line) > 30 for line in lines)
    assert "McNemar" not in report and "| p |" in report and "permutation test" in report


def test_columns_without_a_word_are_left_out(finished):
    header, cells = without_empty(["method", "a", "b", "c"], [["x", "–", "1", ""], ["y", "–", "–", ""]])
    assert (header, cells) == (["method", "b"], [["x", "1"], ["y", "–"]])
    assert "nothing" not in markdown_table(["method", "nothing"], [["x", "–"]])
    _, report, _ = finished
    for table in re.findall(r"(?:^\|.*\n)+", report, re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines()]
        for column in list(zip(*rows[2:], strict=True))[1:]:
            assert any(cell not in ("", "–") for cell in column), table


def test_pictured_mistakes_are_said_to_be_picked(finished):
    _, report, folder = finished
    assert "mistakes, picked on purpose" in report and (folder / "overlays.png").is_file()


LABELS = [
    "uniform-64",
    "uniform-400",
    "learned",
    "heuristic",
    "random",
    "oracle",
    "top-patch-400",
    "saliency",
    "router",
]


def crowded(rng):
    """Metrics with methods that nearly share a place."""
    places = [
        (400, 0.65),
        (2400, 0.97),
        *((600 + rng.normal() * 60, 0.95 + rng.normal() * 0.02) for _ in range(len(LABELS))),
    ]
    methods = {
        label: {"tokens": {"mean": x}, "accuracy": [y, y - 0.01, y + 0.01], "milliseconds": {},
                "kinds": {k: {"questions": 9, "accuracy": [y, y - 0.01, y + 0.01], "tokens": x} for k in "ab"}}
        for label, (x, y) in zip(LABELS, places, strict=False)
    }  # fmt: skip
    return {"methods": methods, "uniform": LABELS[:2], "questions": 9, "images": 9, "curves": {}}


def test_a_method_has_one_colour_in_all_figures(monkeypatch, tmp_path):
    metrics, drawn = crowded(np.random.default_rng(0)), []
    monkeypatch.setattr(Figure, "savefig", lambda self, path: drawn.append(self))
    plots.pareto(metrics, tmp_path / "a.png", metrics["uniform"])
    plots.kinds(metrics, tmp_path / "b.png", ["learned", "heuristic", "oracle", "saliency"])
    styles = plots.styles(metrics)
    points = {c.get_label(): to_hex(c.lines[0].get_color()) for c in drawn[0].axes[0].containers}
    bars = {
        c.get_label(): to_hex(c.patches[0].get_facecolor())
        for c in drawn[1].axes[0].containers
        if hasattr(c, "patches")
    }
    assert bars == {label: styles[label][0].lower() for label in bars} and len(set(bars.values())) == 4
    assert points == {label: styles[label][0].lower() for label in LABELS}
    assert (
        plots.styles({**metrics, "methods": dict(reversed(metrics["methods"].items()))})["learned"]
        == styles["learned"]
    )


@pytest.mark.parametrize("seed", range(8))
def test_every_name_stands_by_its_own_marker(seed):
    """Or, where there is no such place, in the legend."""
    metrics = crowded(np.random.default_rng(seed))
    figure = Figure(figsize=(9, 5.6), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    points = [(label, m["tokens"]["mean"], 100 * m["accuracy"][0]) for label, m in metrics["methods"].items()]
    axes.plot([p[1] for p in points], [p[2] for p in points], "o")
    axes.margins(x=0.1, y=0.08)
    unnamed = plots.name_points(figure, axes, points)
    figure.draw_without_rendering()
    markers = {label: axes.transData.transform((x, y)) for label, x, y in points}
    boxes = {text.get_text(): text.get_window_extent() for text in axes.texts}
    assert boxes.keys() | unnamed == set(LABELS) and not boxes.keys() & unnamed
    for label, box in boxes.items():
        away = {name: plots._distance(box, place) for name, place in markers.items()}
        assert min(away, key=away.get) == label and 0 < away[label] < 30
    assert not any(a.overlaps(b) for n, a in boxes.items() for m, b in boxes.items() if n < m)
    assert {"uniform-64", "uniform-400"} <= boxes.keys()  # who stands alone is named


@pytest.mark.parametrize("known", [True, False])
def test_quickstart_ends_with_the_next_command_whole(monkeypatch, tmp_path, known):
    """Nobody had activated .venv, so every printed command was "not found"."""
    import shlex
    import shutil
    import sys

    from typer.testing import CliRunner

    import eval.quickstart
    from arr_coc.cli import app as arr_coc_app
    from eval.cli import app

    program = str(Path(sys.executable).parent / "arr-coc")
    metrics = told(0.002, -0.005, 0.01) | {"questions": 9}
    monkeypatch.setattr(eval.quickstart, "quickstart", lambda *arguments: metrics)
    monkeypatch.setattr(shutil, "which", lambda name: program if known else None)
    shown = CliRunner().invoke(app, ["quickstart", "--out", str(tmp_path / "run")])
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    assert any("report.html" in line and str(tmp_path / "run") in line for line in lines)
    assert "learned is as accurate as full detail" in shown.stdout
    words = shlex.split(lines[-1])
    assert words[0] == "arr-coc" if known else (Path(words[0]).resolve() == Path(program).resolve())
    import typer

    typer.main.get_command(arr_coc_app).make_context("arr-coc", words[1:], resilient_parsing=False)
    assert words[words.index("--policy") + 1] == str(tmp_path / "run" / "policy")
