"""Loaders, each on a small fixture of its own schema; broken rows are counted, not dropped and not fatal."""

import functools
import json

import datasets
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

import arr_coc.reference
from arr_coc.cli import app
from arr_coc.learning import loop
from arr_coc.learning.rewards import make_reward
from arr_coc.learning.tasks import Task, TaskConfig
from eval.config import read_config


@pytest.fixture
def images(tmp_path):
    """Six pictures; number 4 is cut off in the middle."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(6):
        Image.new("RGB", (40 + i, 30), (40 * i, 0, 99)).save(folder / f"{i}.png")
    whole = (folder / "4.png").read_bytes()
    (folder / "4.png").write_bytes(whole[: len(whole) // 2])
    return folder


def rows(count=6):
    return [
        {"image": f"{i}.png", "question": f"what is {i} ?", "answers": [str(i)] * 10, "kind": "number"}
        for i in range(count)
    ]


def test_jsonl(images, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows()) + "{torn\n" + '{"image": "0.png"}\n\n')
    task = Task(TaskConfig(source="jsonl", path=str(file), images=str(images), max_unreadable=0.5, limit=None))
    samples = list(task)
    assert [s["answers"][0] for s in samples] == ["0", "1", "2", "3", "5"]
    assert (samples[2]["image"].size, samples[2]["image"].mode, samples[2]["kind"]) == ((42, 30), "RGB", "number")
    assert len({s["question_id"] for s in samples}) == 5 and samples[0]["image_id"] == "0.png"
    assert task.read == 8
    assert [bad["row"] for bad in task.unreadable] == ["line 5", "line 7", "line 8"]
    assert "truncated or corrupt" in task.unreadable[0]["reason"] or "damaged" in task.unreadable[0]["reason"]
    assert [s["question_id"] for s in task] == [s["question_id"] for s in samples]  # a second pass is the same
    assert len(task.unreadable) == 3


def test_too_many_unreadable_rows_stop_the_run(images, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    with pytest.raises(ValueError, match="1 of 6 rows cannot be read, more than task.max_unreadable=0.05"):
        list(Task(TaskConfig(source="jsonl", path=str(file), images=str(images))))
    assert len(list(Task(TaskConfig(source="jsonl", path=str(file), images=str(images), max_unreadable=0.2)))) == 5
    assert len(list(Task(TaskConfig(source="jsonl", path=str(file), images=str(images), limit=3)))) == 3


def test_official_vqa_pair(images, tmp_path):
    questions = [{"image_id": i, "question": f"how many {i} ?", "question_id": 10 + i} for i in (0, 1, 2)]
    annotations = [
        {
            "question_id": 10 + i, "image_id": i, "answer_type": "number", "question_type": "how many",
            "multiple_choice_answer": str(i),
            "answers": [{"answer": str(i), "answer_confidence": "yes", "answer_id": k + 1} for k in range(10)],
        }
        for i in (0, 1)
    ]  # fmt: skip
    (tmp_path / "q.json").write_text(json.dumps({"questions": questions, "info": {}}))
    (tmp_path / "a.json").write_text(json.dumps({"annotations": annotations, "info": {}}))
    (images / "COCO_000000000000.png").write_bytes((images / "0.png").read_bytes())
    (images / "COCO_000000000001.png").write_bytes((images / "1.png").read_bytes())
    config = TaskConfig(
        source="vqa_json", path=str(tmp_path / "q.json"), annotations=str(tmp_path / "a.json"), images=str(images),
        image_name="COCO_{image_id:012d}.png", max_unreadable=0.4, prompt="{question} Answer in one word.",
    )  # fmt: skip
    task = Task(config)
    samples = list(task)
    assert [(s["question_id"], s["image_id"], s["kind"], s["answers"]) for s in samples] == [
        ("10", "0", "number", ["0"] * 10), ("11", "1", "number", ["1"] * 10),
    ]  # fmt: skip
    assert samples[0]["question"] == "how many 0 ? Answer in one word."
    assert task.unreadable == [
        {"row": "question 12", "reason": "ValueError: the annotation file has no such question"}
    ]


@pytest.mark.parametrize("form", ["saved", "parquet", "imagefolder"])
def test_hugging_face_datasets(images, tmp_path, form):
    table = {
        "picture": [str(images / f"{i}.png") for i in (0, 1, 4, 1)],
        "query": ["a ?", "b ?", "c ?", "d ?"],
        "label": [["x", "y"], ["x"], ["x"], ["z"]],
    }
    columns = {"image": "picture", "question": "query", "answers": "label"}
    target = tmp_path / "data"
    if form == "imagefolder":
        target.mkdir()
        lines = [
            {"file_name": f"{i}.png", "query": q, "label": a}
            for i, q, a in zip((0, 1, 4, 1), table["query"], table["label"], strict=True)
        ]
        (target / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        for i in (0, 1, 4):
            (target / f"{i}.png").write_bytes((images / f"{i}.png").read_bytes())
        columns["image"] = "image"
    else:
        data = datasets.Dataset.from_dict(table).cast_column("picture", datasets.Image())
        if form == "saved":
            data.save_to_disk(str(target))
        else:
            target = tmp_path / "data.parquet"
            data.to_parquet(str(target))
    config = TaskConfig(
        source="dataset", path=str(target), split="train", columns=columns, max_unreadable=0.5, limit=None
    )
    task = Task(config)
    samples = list(task)
    assert [s["question"] for s in samples] == ["a ?", "b ?", "d ?"]
    assert samples[0]["answers"] == ["x", "y"] and samples[0]["image"].size == (40, 30)
    assert samples[1]["image_id"] == samples[2]["image_id"] != samples[0]["image_id"]  # one picture, one cluster
    assert len(task.unreadable) == 1
    assert [s["question_id"] for s in task] == [s["question_id"] for s in samples]


def test_a_wrong_column_is_named(images, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"img": "0.png", "question": "q ?", "answer": "a"}) + "\n")
    with pytest.raises(ValueError, match="no column 'image' for 'image', only .*set task.columns"):
        list(Task(TaskConfig(source="jsonl", path=str(file), images=str(images))))
    mapped = TaskConfig(source="jsonl", path=str(file), images=str(images), columns={"image": "img"})
    assert [s["answers"] for s in Task(mapped)] == [["a"]]


def test_equal_question_ids_are_refused(images, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({**row, "question_id": 7}) + "\n" for row in rows(2)))
    with pytest.raises(ValueError, match="question_id '7' comes twice"):
        list(Task(TaskConfig(source="jsonl", path=str(file), images=str(images))))


def test_the_reference_world():
    config = TaskConfig(limit=5, seed=3, grid=[2, 2])
    one, two = list(Task(config)), list(Task(config))
    assert [s["question_id"] for s in one] == [s["question_id"] for s in two]
    assert all(s["evidence"] is not None and tuple(s["grid"]) == (2, 2) and len(s["answers"]) == 10 for s in one)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"source": "reference", "limit": None}, "the reference worlds are endless"),
        ({"source": "jsonl"}, "task.path is missing"),
        ({"source": "jsonl", "path": "nowhere.jsonl"}, "task.path='nowhere.jsonl' is no file"),
        ({"source": "vqa_json", "path": "q.json"}, "needs task.annotations"),
        ({"source": "dataset", "path": "x", "columns": {"img": "y"}}, "has the key 'img'"),
    ],
)
def test_bad_settings_are_refused_before_reading(settings, match):
    with pytest.raises(ValueError, match=match):
        Task(TaskConfig(**settings))


# ---------------------------------------------------------------- the benchmarks, each in the schema of its publisher

ROW = {
    "vqav2": {"question_id": 9, "image_id": 4, "question": "how many ?", "answer_type": "number",
              "answers": [{"answer": "2", "answer_confidence": "yes", "answer_id": i} for i in range(10)],
              "multiple_choice_answer": "2", "question_type": "how many"},
    "textvqa": {"question_id": 9, "image_id": "4", "question": "what brand ?", "answers": ["nokia"] * 10,
                "ocr_tokens": ["NOKIA"], "image_classes": ["phone"]},
    "pope": {"id": "0", "question_id": "1", "question": "Is there a dog ?", "answer": "yes", "image_source": "COCO_1",
             "category": "random"},
    "docvqa": {"questionId": "9", "question": "which year ?", "question_types": ["form", "table"], "docId": 4,
               "answers": ["1990", "in 1990"]},
    "infovqa": {"questionId": "9", "question": "how much ?", "answer_type": ["single span"], "answers": ["3 %"]},
    "chartqa": {"type": "human_test", "question": "what is the value ?", "answer": "14"},
    "vstar": {"text": "what color ? (A) red (B) blue", "label": "A", "category": "direct_attributes",
              "question_id": "0"},
    "realworldqa": {"question": "which way ? A. left B. right", "answer": "B", "image_path": "0.webp"},
    "vizwiz": {"question_id": "VizWiz_val_0", "question": "what is this ?", "answers": ["soup"] * 10,
               "category": "other"},
}  # fmt: skip
WANT = {
    "vqav2": ("number", "9", "4", "2"), "textvqa": ("all", "9", "4", "nokia"),
    "pope": ("random", "0", "COCO_1", "yes"),
    "docvqa": ("form, table", "9", "4", "1990"), "infovqa": ("single span", "9", None, "3 %"),
    "chartqa": ("human_test", "0", None, "14"), "vstar": ("direct_attributes", "0", None, "A"),
    "realworldqa": ("all", "0", None, "B"), "vizwiz": ("other", "VizWiz_val_0", None, "soup"),
}  # fmt: skip


def task_of(name, *overrides):
    return read_config("configs/public.yaml", overrides, [f"configs/tasks/{name}.yaml"]).task


def published(name, images, tmp_path):
    """A parquet file with the columns of the published set: a row, and one more whose picture is broken."""
    broken = {key: [value, value] for key, value in ROW[name].items()}
    for key in ("question_id", "questionId"):
        if key in broken:
            broken[key] = [ROW[name][key], ROW[name][key] + type(ROW[name][key])(1)]
    table = datasets.Dataset.from_dict({**broken, "image": [str(images / "0.png"), str(images / "4.png")]})
    file = tmp_path / "data.parquet"
    table.cast_column("image", datasets.Image()).to_parquet(str(file))
    return file


@pytest.mark.parametrize("name", ROW)
def test_benchmarks_in_their_own_schema(images, tmp_path, name):
    """What was published goes through the shipped task file."""
    file = published(name, images, tmp_path)
    task = Task(task_of(name, f"task.path={file}", "task.streaming=false", "task.max_unreadable=0.5"))
    (sample,) = list(task)
    assert len(task.unreadable) == 1 and task.read == 2
    kind, question, image, answer = WANT[name]
    assert (sample["kind"], sample["question_id"], sample["answers"][0]) == (kind, question, answer)
    assert image is None or sample["image_id"] == image
    assert sample["image"].size == (40, 30) and ROW[name].get("question", ROW[name].get("text")) in sample["question"]
    assert make_reward(task.config.reward)(answer, sample) == 1.0


def published_gqa(images, tmp_path):
    """Questions and pictures are two subsets of one set; local folders of parquet files stand in for the hub's."""
    questions = {
        "id": ["20", "21", "22", "23"], "imageId": ["n1", "n2", "n1", "n9"], "question": ["is it ?"] * 4,
        "answer": ["yes", "no", "yes", "no"],
        "types": [{"structural": "verify", "semantic": "rel", "detailed": "x"}] * 4,
    }  # fmt: skip
    pictures = datasets.Dataset.from_dict({"id": ["n1", "n2"], "image": [str(images / f"{i}.png") for i in (1, 4)]})
    for subset, data in (("instructions", datasets.Dataset.from_dict(questions)),
                         ("images", pictures.cast_column("image", datasets.Image()))):  # fmt: skip
        folder = tmp_path / "GQA" / f"testdev_balanced_{subset}"
        folder.mkdir(parents=True)
        data.to_parquet(str(folder / "testdev-00000-of-00001.parquet"))
    card = ["---", "configs:"]
    for subset in ("instructions", "images"):
        card += [f"- config_name: testdev_balanced_{subset}", "  data_files:", "  - split: testdev",
                 f"    path: testdev_balanced_{subset}/testdev-*"]  # fmt: skip
    (tmp_path / "GQA" / "README.md").write_text("\n".join([*card, "---", ""]))
    return tmp_path / "GQA"


def test_gqa_joins_its_pictures(images, tmp_path):
    task = Task(task_of("gqa", f"task.path={published_gqa(images, tmp_path)}", "task.max_unreadable=0.5"))
    samples = list(task)
    assert [(s["question_id"], s["image_id"], s["kind"], s["image"].size) for s in samples] == [
        ("20", "n1", "verify", (41, 30)), ("22", "n1", "verify", (41, 30)),
    ]  # fmt: skip
    reasons = [bad["reason"] for bad in task.unreadable]
    assert len(reasons) == 2 and "no picture 'n9'" in reasons[1]


def test_a_stream_is_read_to_its_limit(images, tmp_path):
    file = tmp_path / "data" / "validation.parquet"
    file.parent.mkdir()
    rows = {"image": [str(images / "0.png")] * 3, "question": ["a ?", "b ?", "c ?"], "answers": [["x"]] * 3}
    datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()).to_parquet(str(file))
    config = TaskConfig(source="dataset", path=str(file.parent), split="validation", streaming=True, limit=2)
    assert [s["question"] for s in Task(config)] == ["a ?", "b ?"]


@pytest.mark.parametrize("name", [*ROW, "gqa"])
def test_each_is_learned_from_as_it_is_judged(reference, images, tmp_path, monkeypatch, name):
    """One file for both: its data, the words around the question, the reward and the length of an answer."""
    monkeypatch.setattr(arr_coc.reference, "load", lambda *_, **__: reference)
    given = {}

    @functools.wraps(loop.learn)
    def learn(*args, **kwargs):
        given.update(kwargs)
        return real(*args, **kwargs)

    real = loop.learn
    monkeypatch.setattr(loop, "learn", learn)
    data = published_gqa(images, tmp_path) if name == "gqa" else published(name, images, tmp_path)
    file, out = f"configs/tasks/{name}.yaml", tmp_path / "run"
    more = [f"task.path={data}", "task.streaming=false", "task.max_unreadable=0.5"]
    few = [f"learn.episodes={3 if name == 'gqa' else 2}", "learn.batch_size=2"]
    few += ["learn.max_new_tokens=2"] if name == "gqa" else []
    done = CliRunner().invoke(app, ["learn", "--with", file, "--out", str(out), *more, *few])
    assert done.exit_code == 0, done.output
    task = yaml.safe_load(open(file).read())
    prompt, suffix = task["task"].get("prompt", "{question}"), task["task"].get("prompt", "{question}")[10:]
    asked = [json.loads(line)["question"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert len(asked) == given["episodes"] and prompt.startswith("{question}")
    assert all(question.endswith(suffix) for question in asked)
    assert given["reward"] == task["task"]["reward"]
    assert given["max_new_tokens"] == (2 if name == "gqa" else task["run"]["max_new_tokens"])
    judged = {sample["question"] for sample in Task(task_of(name, *more))}
    assert set(asked) == judged


def test_an_unknown_reward_is_refused_before_anything_is_loaded(monkeypatch, tmp_path):
    monkeypatch.setattr(arr_coc.reference, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    done = CliRunner().invoke(app, ["learn", "task.reward=vqa_acuracy", "--out", str(tmp_path / "run")])
    assert done.exit_code == 2 and "Did you mean 'vqa_accuracy'" in done.stderr
    done = CliRunner().invoke(app, ["learn", "learn.reward=gold_probabilty", "--out", str(tmp_path / "other")])
    assert done.exit_code == 2 and "unknown reward 'gold_probabilty'" in done.stderr
