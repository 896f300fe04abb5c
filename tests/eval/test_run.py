"""A run's folder: complete, resumable after a kill, never overwritten, and honest about what failed."""

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from eval.cli import app
from eval.records import read_run
from eval.run import run
from tests.eval.fakes import FakeArr


def questions(path):
    return [json.loads(line) for line in (Path(path) / "questions.jsonl").read_text().splitlines()]


def comparable(records):
    times = ("seconds", "first", "timings", "timed")
    return {(r["method"], r["question_id"]): {k: v for k, v in r.items() if k not in times} for r in records}


def test_a_run_leaves_everything_a_reader_needs(config, arr, samples):
    settings = config(baselines=["uniform-400"])
    metrics = run(settings, arr, progress=False)
    folder = Path(settings.out)
    names = {path.name for path in folder.iterdir()}
    pictures = {"pareto.png", "kinds.png", "overlays.png"}
    assert names == pictures | {
        "config.yaml",
        "environment.json",
        "metrics.json",
        "questions.jsonl",
        "report.md",
        "report.html",
    }
    easy = sum(s["level"] == 64 for s in samples) / len(samples)
    assert metrics["methods"]["uniform-64"]["accuracy"][0] == pytest.approx(easy)
    assert metrics["methods"]["uniform-64"]["share"] == pytest.approx(0.16)
    assert metrics["methods"]["evidence"]["accuracy"][0] == 1.0
    assert metrics["methods"]["uniform-64"]["milliseconds"]["glance"] == pytest.approx(10.0)
    assert metrics["differences"]["uniform-400"]["uniform-64"]["value"] == pytest.approx(easy - 1)
    assert metrics["matched"]["evidence"]["value"] > 0
    assert metrics["matched"]["evidence"]["tokens of equal accuracy"] == pytest.approx(1600)
    assert (metrics["questions"], metrics["images"]) == (40, 20)
    assert metrics == json.loads((folder / "metrics.json").read_text())
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["status"] == "finished" and environment["packages"]["torch"] and environment["seed"] == 0
    assert len(questions(folder)) == 4 * 40
    record = questions(folder)[-1]
    assert len(record["budgets"]) == len(record["realised"]) == 4 and record["tokens"] == sum(record["realised"])
    for picture in folder.glob("*.png"):
        assert min(Image.open(picture).size) > 200
    report = (folder / "report.md").read_text()
    for part in (
        "accuracy [95% CI]",
        "Paired with uniform-400",
        "At matched tokens",
        "By kind of question",
        "overlays.png",
    ):
        assert part in report
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3 and "<td" in page and 'src="pareto.png' not in page
    read, records, written = read_run(folder)
    assert read == metrics and len(records) == 160 and written["run"]["batch_size"] == 7


def test_the_batch_size_changes_nothing(config, tmp_path):
    methods = [{"method": "random", "share": 0.4}, "uniform-128", "oracle"]
    run(config(methods=methods, baselines=[], out=str(tmp_path / "one"), batch_size=1), FakeArr(), progress=False)
    run(config(methods=methods, baselines=[], out=str(tmp_path / "many"), batch_size=16), FakeArr(), progress=False)
    assert comparable(questions(tmp_path / "one")) == comparable(questions(tmp_path / "many"))


def test_a_killed_run_continues_and_loses_one_batch_at_most(config, tmp_path):
    methods = ["uniform-64", {"method": "random", "match": "uniform-64", "seed": 3}, "full"]
    whole, broken = (config(methods=methods, baselines=[], out=str(tmp_path / name)) for name in ("whole", "broken"))
    run(whole, FakeArr(), progress=False)
    arr = FakeArr()
    arr.fail_after = 9
    with pytest.raises(KeyboardInterrupt):
        run(broken, arr, progress=False)
    journal = tmp_path / "broken" / "journal.jsonl"
    kept = journal.read_text().splitlines()
    assert len(kept) == 4 * 7 * 2  # nine calls: four whole batches of two methods, and one answer lost
    with journal.open("a") as file:
        file.write(kept[-1][: len(kept[-1]) // 2])  # a line torn by a kill
    assert json.loads((tmp_path / "broken" / "environment.json").read_text())["status"] == "failed"
    again = FakeArr()
    run(broken, again, progress=False)
    assert len(again.answered) == 3 * 40 - len(kept)
    assert comparable(questions(tmp_path / "broken")) == comparable(questions(tmp_path / "whole"))
    environment = json.loads((tmp_path / "broken" / "environment.json").read_text())
    assert (environment["status"], environment["sessions"]) == ("finished", 2)
    assert not journal.exists()


def test_a_finished_run_is_never_overwritten(config, arr):
    settings = config()
    run(settings, arr, progress=False)
    before = {path.name: path.read_bytes() for path in Path(settings.out).iterdir()}
    with pytest.raises(ValueError, match="finished run, which is never overwritten"):
        run(settings, arr, progress=False)
    assert {path.name: path.read_bytes() for path in Path(settings.out).iterdir()} == before


def test_an_unfinished_run_keeps_its_settings(config):
    arr = FakeArr()
    arr.fail_after = 3
    with pytest.raises(KeyboardInterrupt):
        run(config(), arr, progress=False)
    with pytest.raises(ValueError, match="unfinished run with run.batch_size=7, not 8"):
        run(config(batch_size=8), FakeArr(), progress=False)


def test_a_damaged_journal_is_named(config):
    arr = FakeArr()
    arr.fail_after = 6
    with pytest.raises(KeyboardInterrupt):
        run(config(), arr, progress=False)
    journal = Path(config().out) / "journal.jsonl"
    journal.write_text("{broken\n" + journal.read_text())
    with pytest.raises(ValueError, match="line 1 is damaged"):
        run(config(), FakeArr(), progress=False)


def test_a_method_that_cannot_run_is_reported_and_the_rest_goes_on(config, samples):
    for sample in samples:
        del sample["evidence"]
    metrics = run(
        config(methods=["full", "oracle", {"method": "random", "match": "oracle"}], baselines=["full"]),
        FakeArr(),
        progress=False,
    )
    assert list(metrics["methods"]) == ["full"]
    assert "does not say where the evidence is" in metrics["skipped"]["oracle"]
    assert "matches oracle" in metrics["skipped"]["random-at-oracle"]
    assert "could not run" in (Path(config().out) / "report.md").read_text()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"methods": ["full", "full"], "baselines": []}, "lists 'full' twice"),
        ({"methods": ["full"], "baselines": ["uniform-64"]}, "'uniform-64', named by match or run.baselines"),
        ({"methods": [{"method": "random", "match": "full"}], "baselines": []}, "'full', named by match"),
        (
            {"methods": [{"method": "random", "match": "b", "label": "a"}, {"method": "random", "match": "a",
            "label": "b"}],
             "baselines": []}, "in a circle",
        ),
    ],
)  # fmt: skip
def test_methods_are_checked_before_the_first_answer(config, arr, changes, match):
    with pytest.raises(ValueError, match=match):
        run(config(**changes), arr, progress=False)
    assert arr.calls == 0


def test_command_line(config, arr, tmp_path):
    for name in ("one", "two"):
        run(config(out=str(tmp_path / name), baselines=["full"]), arr, progress=False)
    runner = CliRunner(env={"COLUMNS": "160"})
    shown = runner.invoke(app, ["report", str(tmp_path / "one")])
    assert shown.exit_code == 0, shown.output
    assert "uniform-64" in shown.output and "share" in shown.output
    shown = runner.invoke(app, ["compare", str(tmp_path / "one"), str(tmp_path / "two")])
    assert shown.exit_code == 0 and "| one | two |" in shown.output and "+0.0 [+0.0, +0.0]" in shown.output
    curved = [
        "uniform-64", "uniform-400", {"method": "uniform", "budget": 128, "label": "learned", "curve": "learned"},
        {"method": "uniform", "budget": 256, "label": "dearer", "curve": "dearer"},
    ]  # fmt: skip
    for name in ("three", "four"):
        run(config(out=str(tmp_path / name), baselines=["learned"], methods=curved), arr, progress=False)
    page = tmp_path / "curves.md"
    shown = runner.invoke(app, ["compare", str(tmp_path / "three"), str(tmp_path / "four"), "--out", str(page)])
    assert shown.exit_code == 0 and "## Curves" in page.read_text() and "| dearer |" in page.read_text()
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 600
    for command, message in (
        (["report", str(tmp_path)], "holds no run"),
        (["compare", str(tmp_path / "one")], "nothing to be compared with"),
        (["run", str(tmp_path / "none.yaml")], "does not exist"),
        (["curve", str(tmp_path / "none.jsonl")], "is no learning log"),
    ):
        shown = runner.invoke(app, command)
        assert shown.exit_code == 2 and message in shown.output, shown.output


def test_learning_curve(tmp_path):
    rows = [{"episode": i, "reward": i / 300, "tokens": 1600 - 3 * i, "full_tokens": 1600} for i in range(300)]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = CliRunner().invoke(app, ["curve", str(log), "--out", str(tmp_path / "curve.png")])
    assert shown.exit_code == 0, shown.output
    assert Image.open(tmp_path / "curve.png").width > 500


def test_configuration(tmp_path):
    from eval.config import read_config

    file = tmp_path / "eval.yaml"
    file.write_text(yaml.safe_dump({"run": {"batch_size": 4}, "task": {"limit": 5}, "wrap": {"price": 0.2}}))
    settings = read_config(file, ["task.limit=7", "run.methods=[full]"])
    assert (settings.batch_size, settings.task.limit, settings.methods, settings.wrap) == (
        4,
        7,
        ["full"],
        {"price": 0.2},
    )
    file.write_text(yaml.safe_dump(settings.to_dict()))
    assert read_config(file) == settings
    for override, match in (
        ("run.batchsize=3", "Did you mean 'batch_size'"), ("task.limt=3", "Did you mean 'limit'"),
        ("wrap.prise=1", "Did you mean 'price'"), ("run.batch_size=x", "batch_size='x' must be int"),
        ("run.batch_size=true", "must be int, not bool"), ("task.limit=0", "at least 1"),
        ("task.source=jsonn", "Did you mean 'jsonl'"),
        ("task.prompt=hello", "must contain {question}"), ("run.methods=[]", "methods is empty"),
    ):  # fmt: skip
        with pytest.raises((ValueError, TypeError), match=match):
            read_config(file, [override])


def test_shared_runs_answer_alike_and_time_apart(config, tmp_path):
    """On the real model: sharing what was seen changes no answer, and times come from the timed questions."""
    import arr_coc
    from eval.config import TaskConfig

    model, processor = arr_coc.reference.load()
    methods = [
        "uniform-64", "uniform-400", "heuristic", {"method": "random", "share": 0.3, "questions": 2}, "oracle",
        {"method": "divprune", "share": 0.2}, {"method": "downsample", "match": "uniform-64"},
    ]  # fmt: skip
    found = {}
    with arr_coc.wrap(model, processor, arr_coc.ArrCocConfig()) as arr:
        for shared in (False, True):
            settings = config(
                out=str(tmp_path / str(shared)), methods=methods, batch_size=2, shared=shared, timed=1 + shared,
                task=TaskConfig(source="jsonl", path=str(written(tmp_path)), reward="vqa_accuracy", limit=None),
            )  # fmt: skip
            metrics = run(settings, arr, progress=False)
            found[shared] = comparable(questions(settings.out))
    whole = {key: {**record, "answers": None} for key, record in found[True].items()}
    assert whole == {key: {**record, "answers": None} for key, record in found[False].items()}
    assert metrics["methods"]["random-0.3"]["questions"] == 2 and metrics["questions"] == 4
    times = metrics["methods"]["heuristic"]["milliseconds"]
    assert {"total", "first token", "glance", "plan", "encode", "prefill", "decode"} <= times.keys()
    assert times["encode"] + times["prefill"] + times["decode"] <= times["total"]
    assert metrics["methods"]["uniform-400"]["memory"] >= 0
    timed = [record for record in questions(settings.out) if "timed" in record]
    assert list(metrics["skipped"]) == ["oracle"] and len(timed) == 2 * (len(methods) - 1)
    assert all(record["seconds"] == 0 for record in questions(settings.out) if record["method"] == "divprune")


def written(folder):
    """Four small questions of the reference world as JSON Lines."""
    from arr_coc.reference import generate

    lines = []
    for number, sample in enumerate(generate(4, seed=3, split="learn", grid=(1, 2))):
        sample["image"].save(folder / f"{number}.png")
        keep = {key: sample[key] for key in ("question", "answers", "kind", "question_id", "image_id")}
        lines.append(json.dumps({**keep, "image": f"{number}.png"}))
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return folder / "rows.jsonl"
