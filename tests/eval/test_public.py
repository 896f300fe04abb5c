"""The configurations of public models: tiny random models of the same families go through them, processors and all."""

import json

import datasets
import pytest
import transformers as hf
from PIL import Image
from typer.testing import CliRunner

from eval.cli import app
from tests import tiny, zoo

TEMPLATE = (
    "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<vs> <img> <ve> "
    "{% else %}{{ c['text'] }} {% endif %}{% endfor %}{% endfor %}"
)
BARE = TEMPLATE.replace("<vs> <img> <ve>", "<img>")
SHORT = "[full,uniform-4,heuristic,{method: fastv, share: 0.4},{method: visionzip, share: 0.4}]"
SMALL = ["wrap.budgets=[4,16,64]", "wrap.patch_side=8", f"run.methods={SHORT}"]


def tokenizer():
    words = tiny.tokenizer()
    names = {"image_token": "<img>", "video_token": "<video>", "start_image_token": "<vs>", "end_image_token": "<ve>",
             "context_image_token": "<img>"}  # fmt: skip
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=words.backend_tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>",
        unk_token="<unused3>", model_specific_special_tokens=names, padding_side="left",
    )  # fmt: skip


def qwen(processor):
    images = hf.Qwen2VLImageProcessor(patch_size=4, merge_size=2, min_pixels=64, max_pixels=256 * 256)
    video = hf.Qwen3VLVideoProcessor if processor is hf.Qwen3VLProcessor else hf.Qwen2VLVideoProcessor
    return processor(images, tokenizer(), video(patch_size=4, merge_size=2), chat_template=TEMPLATE)


def internvl():
    images = hf.GotOcr2ImageProcessor(size={"height": 32, "width": 32}, crop_to_patches=True, max_patches=4)
    return hf.InternVLProcessor(
        images, tokenizer(), hf.InternVLVideoProcessor(size={"height": 32, "width": 32}), image_seq_length=64,
        chat_template=BARE,
    )  # fmt: skip


def llava_onevision():
    pins = [[12, 24], [24, 12], [24, 24]]
    images = hf.LlavaOnevisionImageProcessor(size={"height": 12, "width": 12}, image_grid_pinpoints=pins)
    video = hf.LlavaOnevisionVideoProcessor(size={"height": 12, "width": 12})
    return hf.LlavaOnevisionProcessor(
        images, tokenizer(), video, num_image_tokens=36, vision_feature_select_strategy="full",
        chat_template=TEMPLATE, image_token="<img>", vision_aspect_ratio="anyres_max_1",
    )  # fmt: skip


def smolvlm():
    images = hf.SmolVLMImageProcessor(size={"longest_edge": 32}, max_image_size={"longest_edge": 16})
    video = hf.SmolVLMVideoProcessor(size={"longest_edge": 16})
    return hf.SmolVLMProcessor(images, tokenizer(), video, image_seq_len=16, chat_template=BARE)


CASES = {
    "qwen2.5-vl-3b": ("qwen2_5_vl", lambda: qwen(hf.Qwen2_5_VLProcessor), ["run.timed=0"]),
    "qwen3-vl-4b": ("qwen3_vl", lambda: qwen(hf.Qwen3VLProcessor), ["run.timed=0", "task.limit=1"]),
    "internvl3-8b": ("internvl", internvl, SMALL),
    "llava-onevision-7b": ("llava_onevision", llava_onevision, SMALL),
    "smolvlm-2b": ("smolvlm", smolvlm, SMALL),
}


@pytest.mark.parametrize("name", CASES)
def test_a_tiny_model_of_the_family_goes_through_its_configuration(name, tmp_path, monkeypatch):
    # SmolVLM's processor refuses to be made without num2words, which it needs for the time stamps of videos only.
    monkeypatch.setattr("transformers.models.smolvlm.processing_smolvlm.num2words", str)
    family, processor, changes = CASES[name]
    processor().save_pretrained(tmp_path / "model")
    zoo.build(family).model.save_pretrained(tmp_path / "model")
    rows = {"question": [f"w{40 + i} w60 w70" for i in range(2)], "answers": [["w5"] * 10] * 2, "image_id": ["a", "b"]}
    for i in range(2):
        Image.linear_gradient("L").resize((200, 120 + 40 * i)).convert("RGB").save(tmp_path / f"{i}.png")
    data = datasets.Dataset.from_dict({**rows, "image": [str(tmp_path / f"{i}.png") for i in range(2)]})
    data.cast_column("image", datasets.Image()).to_parquet(str(tmp_path / "validation.parquet"))
    command = [
        "run", "configs/public.yaml", "--with", f"configs/models/{name}.yaml", "--with", "configs/tasks/textvqa.yaml",
        f"model.name={tmp_path / 'model'}", "model.dtype=float32", f"task.path={tmp_path / 'validation.parquet'}",
        "task.streaming=false", "task.limit=2", 'task.prompt="{question}"', "run.timed=1", "run.overlays=0",
        "run.resamples=100", "run.max_new_tokens=2", f"run.out={tmp_path / 'run'}", *changes,
    ]  # fmt: skip
    shown = CliRunner().invoke(app, [*command, "--dry-run"])
    assert shown.exit_code == 0, shown.output
    assert f"family {family}; the first picture makes a prompt of" in shown.output and "w40" in shown.output
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert "full" in metrics["methods"] and "heuristic" in metrics["methods"]
    assert {label.partition("-")[0] for label in metrics["skipped"]} <= {"visionzip"}
    assert metrics["data"]["unreadable"] == [] and metrics["methods"]["heuristic"]["share"] <= 1
    assert ("fastv-0.4" if changes is SMALL else "fastv") in metrics["methods"]


@pytest.mark.parametrize("task", ["vqav2", "pope", "vstar"])
def test_a_rehearsal_without_a_network_says_what_it_could_not_see(task):
    command = ["run", "configs/public.yaml", "--with", "configs/models/qwen2.5-vl-7b.yaml", "--dry-run",
               "--with", f"configs/tasks/{task}.yaml"]  # fmt: skip
    shown = CliRunner().invoke(app, command, env={"HF_HUB_OFFLINE": "1"})
    assert shown.exit_code == 0, shown.output
    assert "data: could not be read here" in shown.output and "could not be looked up here" in shown.output
    assert "pass 2  fastv" in shown.output and "nothing was run" in shown.output


def test_a_rehearsal_finds_what_a_run_would_refuse(tmp_path):
    for change, message in (("run.methods=[ful]", "Did you mean 'full'"), ("run.baselines=[x]", "none of the methods"),
                            ("task.limit=0", "at least 1"),
                            ("task.reward=vqa_acuracy", "Did you mean 'vqa_accuracy'"),
                            ("run.methods=[{method: learner, reward: anlss}]", "Did you mean 'anls'"),
                            ("task.path=own.jsonl", "is no file"), ("task.kind=x", "Did you mean 'kinds'"),
                            ("model.nam=x", "Did you mean 'name'")):  # fmt: skip
        bare = ["run.baselines=[learner-anlss]"] if "anlss" in change else []  # its own baselines are not its methods
        shown = CliRunner().invoke(app, ["run", "configs/eval.yaml", change, *bare, "--dry-run"])
        assert shown.exit_code == 2 and message in shown.output, shown.output


def test_a_rehearsal_counts_the_questions_that_there_are(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "0.png")
    row = json.dumps({"image": "0.png", "question": "what ?", "answer": "x"})
    (tmp_path / "own.jsonl").write_text(f"{row}\n" * 4)
    command = ["run", "configs/eval.yaml", f"task.path={tmp_path / 'own.jsonl'}", "run.methods=[full]", "--dry-run"]
    shown = CliRunner().invoke(app, [*command, "run.baselines=[full]"])
    assert shown.exit_code == 0 and "4 answers" in shown.output, shown.output
