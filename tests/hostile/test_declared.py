"""What models, settings and checkpoints of strangers declare: sizes that can't be, code that is only data."""

from __future__ import annotations

import contextlib
import json
import shutil
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import arr_coc
from arr_coc.asking.estimate import estimate
from arr_coc.asking.models import ModelError, load_vlm
from arr_coc.cli import app
from arr_coc.learning.settings import read_settings
from arr_coc.reference.training import checkpoints
from arr_coc.wrapping.pictures import PictureCache
from arr_coc.wrapping.saving import load_planner
from eval.serving.stand_ins import make_stand_in

from .test_mutations import WHOLE, mutate_bytes, mutate_json

EXPECTED = (ValueError, TypeError, OSError, ImportError, NotImplementedError)  # as `arr_coc.commands.terminal` tells


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of a published class, as a folder."""
    return make_stand_in("qwen2_vl", tmp_path_factory.mktemp("model") / "qwen2_vl")


# ---------------------------------------------------------------- sizes


def changed(folder: Path, copy: Path, file: str, change: dict[str, Any]) -> Path:
    """A copy of a model folder without its weights, where a file says something else."""
    copy.mkdir()
    for part in folder.iterdir():
        if part.is_file() and part.suffix in (".json", ".txt", ".jinja"):
            shutil.copy(part, copy / part.name)
    record = json.loads((copy / file).read_text())
    for key, value in change.items():
        *above, last = key.split(".")
        inner = record
        for name in above:
            inner = inner[name]
        inner[last] = value
    (copy / file).write_text(json.dumps(record))
    return copy


def pictures_file(folder: Path) -> tuple[str, str]:
    """Where an image processor's sizes are, and what stands before them."""
    if (folder / "preprocessor_config.json").exists():
        return "preprocessor_config.json", ""
    return "processor_config.json", "image_processor."


@pytest.mark.parametrize(
    "change",
    [
        {"text_config.num_hidden_layers": 10**9}, {"vision_config.depth": 10**7}, {"text_config.hidden_size": -64},
        {"text_config.hidden_size": 10**15}, {"text_config.num_attention_heads": 0}, {"vision_config.patch_size": 0},
        {"text_config.rope_theta": float("inf")}, {"text_config.rms_norm_eps": float("nan")},
        {"text_config.vocab_size": -1}, {"vision_config.spatial_merge_size": 0}, {"text_config.hidden_size": "x"},
        {"vision_config": None}, {"text_config": []}, {"image_token_id": [1]}, {"model_type": "../../etc"},
    ],
)  # fmt: skip
def test_a_configuration_that_makes_no_sense_is_refused(
    model_folder: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    """Estimated without weights; loaded, it is refused before they are looked for."""
    folder = str(changed(model_folder, tmp_path / "model", "config.json", change))
    try:
        assert np.isfinite(estimate(folder, (640, 480)).forecast.untouched)
    except EXPECTED as error:
        assert str(error)
    with pytest.raises(ModelError):
        load_vlm(folder)


@pytest.mark.parametrize(
    "sizes",
    [
        {"size": {"shortest_edge": 10**12, "longest_edge": 10**13}}, {"size": {"height": 10**9, "width": 10**9}},
        {"min_pixels": 10**12, "max_pixels": 10**13, "size": {"shortest_edge": 10**12, "longest_edge": 10**13}},
        {"size": {"shortest_edge": -1, "longest_edge": -1}}, {"patch_size": 0}, {"merge_size": 0},
        {"temporal_patch_size": 0}, {"size": {"shortest_edge": float("nan"), "longest_edge": 10**6}},
        {"image_mean": ["a", "b", "c"]}, {"size": "large"}, {"patch_size": 10**9},
    ],
)  # fmt: skip
def test_an_image_processor_makes_no_picture_huge(
    model_folder: Path, tmp_path: Path, sizes: dict[str, Any]
) -> None:
    file, before = pictures_file(model_folder)
    folder = changed(model_folder, tmp_path / "model", file, {before + key: value for key, value in sizes.items()})
    try:
        assert 0 < estimate(str(folder), (64, 48)).forecast.tokens < 10**5  # what says so is not read
    except EXPECTED as error:
        assert str(error)


def test_the_size_of_a_picture_is_bounded(model_folder: Path) -> None:
    """It drew the whole picture: 10^12 pixels."""
    for size in ("1000000x1000000", "80000001x1", "0x5", "9" * 5000 + "x1", "-5x5", "5"):
        result = CliRunner().invoke(app, ["estimate", str(model_folder), "--image", size])
        assert result.exit_code == 2 and "Traceback" not in result.output, (size, result.output)


LIMITED = """
import json, resource, sys, warnings
warnings.simplefilter("ignore")
import numpy as np
from arr_coc.asking.estimate import estimate
from pathlib import Path
from tests.hostile.test_declared import EXPECTED
from tests.hostile.test_mutations import mutate_json
folder, files, count = Path(sys.argv[1]), sys.argv[2].split(","), int(sys.argv[3])
estimate(str(folder), (64, 48))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2 * 2**30, resource.RLIM_INFINITY))
rng, seen = np.random.default_rng(4), {"read": 0, "refused": 0}
for n in range(count):
    file = folder / files[n % len(files)]
    whole = file.read_text()
    file.write_text(mutate_json(whole, rng))
    try:
        estimate(str(folder), (64, 48))
        seen["read"] += 1
    except EXPECTED as error:
        assert str(error)
        seen["refused"] += 1
    file.write_text(whole)
print(json.dumps(seen))
"""


def test_mutated_configurations_are_estimated_or_refused(model_folder: Path, tmp_path: Path) -> None:
    """In a process that may take two more GiB, so that none of them is built at what it declares."""
    folder = changed(model_folder, tmp_path / "model", "config.json", {})
    count = 500 if WHOLE else 40
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(folder), f"config.json,{pictures_file(folder)[0]}", str(count)],
        capture_output=True, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["read"] + seen["refused"] == count and min(seen.values()) > count / 20, seen


# ---------------------------------------------------------------- code

MARK = "open({path!r}, 'w').close()\n"


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory full of modules that leave a mark when they are imported; the mark."""
    mark = tmp_path / "ran"
    here = tmp_path / "here"
    here.mkdir()
    for name in ("evil", "sitecustomize", "arr_coc_plugin", "propositional", "thompson", "data", "conftest"):
        (here / f"{name}.py").write_text(MARK.format(path=str(mark)))
    monkeypatch.chdir(here)
    return mark


def test_no_data_makes_code_run(trap: Path, tmp_path: Path, reference: Any) -> None:
    """A saved policy, a data set and its folder, a run's record: names in them are looked up, never imported."""
    names = ["evil", "evil.py", "./evil.py", "evil:Evil", "here.evil", "os", "__import__('evil')"]
    for name in names:
        for change in ({"policy": name}, {"realizer": name}, {"scorers": [name]}, {"scorers": [{"name": name}]}):
            folder = tmp_path / "policy"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(arr_coc.reference.policy_path(), folder)
            record = json.loads((folder / "config.json").read_text())
            record["config"] |= change
            (folder / "config.json").write_text(json.dumps({**record, "plugins": [name]}))
            with contextlib.suppress(ValueError, TypeError):  # some stand in places that nobody reads
                load_planner(folder, *reference)
    assert not trap.exists()


def test_a_data_sets_script_never_runs(trap: Path, tmp_path: Path) -> None:
    from arr_coc.learning.tasks import Task

    pytest.importorskip("datasets")
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.copy("evil.py", folder / "data.py")
    (folder / "dataset_infos.json").write_text("{}")
    with pytest.raises((ValueError, OSError)):
        list(Task.of(folder, source="dataset"))
    assert not trap.exists()


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch ran']", "!!python/name:os.system", "wrap: !!python/module:evil",
        "wrap: {policy: !!python/object/new:evil.Evil []}", "plugins: evil", "wrap: {plugins: [evil]}",
        "plugin: [evil]", "task: {plugins: [evil]}", "wrap.plugins: [evil]",
        "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b,*b,*b]",
    ],
)  # fmt: skip
def test_settings_run_nothing_but_the_plugins_that_they_list(trap: Path, text: str) -> None:
    Path("settings.yaml").write_text(text)
    with pytest.raises((ValueError, TypeError)):
        read_settings("settings.yaml", {"wrap": ["policy"], "task": ["path"]})
    assert not trap.exists()


def test_a_plugin_is_code_and_asked_for_by_name(trap: Path) -> None:
    """The one way: a list in a file that somebody names on the command line, as SECURITY.md says."""
    Path("settings.yaml").write_text("plugins: [./evil.py]")
    read_settings("settings.yaml", {"wrap": None})
    assert trap.exists()
    sys.modules.pop("evil", None)


def test_the_settings_kept_with_a_run_load_no_plugin(trap: Path, tmp_path: Path) -> None:
    """They are compared with those of whoever resumes; a folder from elsewhere runs nothing."""
    from arr_coc.learning.runs import _keep_settings
    from eval.records import read_run

    kept = tmp_path / "settings.yaml"
    kept.write_text(yaml.safe_dump({"plugins": ["evil"], "wrap": {}}))
    _keep_settings(kept, {"wrap": {}}, True)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"plugins": ["./evil.py"]}))
    (tmp_path / "metrics.json").write_text("{}")
    (tmp_path / "questions.jsonl").write_text("")
    read_run(tmp_path)
    assert not trap.exists()


# ---------------------------------------------------------------- checkpoints of trainings


def small() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def test_mutated_checkpoints_are_read_or_refused(tmp_path: Path) -> None:
    """Whatever is read has the shapes of the model, and finite moments; what was there before stays if not."""
    rng, seen = np.random.default_rng(5), Counter[str]()
    model, optimizer = small()
    state: dict[str, Any] = {"step": 3, "seconds": 1.0, "config": {"seed": 0}, "running": {}}
    checkpoints.save_checkpoint(tmp_path / "whole", model, optimizer, state)
    files = ("model.safetensors", "optimizer.safetensors", "state.json")
    for n in range(500 if WHOLE else 150):
        folder = tmp_path / "stage"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", folder)
        file = folder / files[n % 3]
        broken = mutate_json(file.read_text(), rng).encode() if n % 6 == 2 else mutate_bytes(file.read_bytes(), rng)
        file.write_bytes(broken)
        model, optimizer = small()
        before = [p.clone() for p in model.parameters()]
        try:
            checkpoints.read_state(folder)
            checkpoints.load_parameters(model, folder / files[0])
            checkpoints.load_optimizer(optimizer, folder / files[1])
            assert all(torch.isfinite(p).all() for p in model.parameters())
            model(torch.ones(1, 3)).sum().backward()
            optimizer.step()
            seen["read"] += 1
        except ValueError as error:
            assert str(folder) in str(error) and len(str(error)) < 1000
            if n % 3 == 0:
                assert all((a == b).all() for a, b in zip(before, model.parameters(), strict=True))
            seen["refused"] += 1
    assert min(seen["read"], seen["refused"]) > 10, seen


@pytest.mark.parametrize(
    "change",
    [
        {"0.exp_avg": torch.zeros(7)}, {"0.exp_avg": torch.full((2, 3), float("nan"))}, {"9.exp_avg": torch.zeros(1)},
        {"x.exp_avg": torch.zeros(1)}, {"exp_avg": torch.zeros(1)}, {"0.step": torch.tensor(-1e30)},
        {"0.exp_avg_sq": torch.full((2, 3), -1.0)}, {"0.exp_avg": torch.zeros((2, 3), dtype=torch.int8)},
    ],
)  # fmt: skip
def test_moments_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, torch.Tensor]) -> None:
    """They were loaded, and a training failed in its next step or went on from nonsense."""
    model, optimizer = small()
    checkpoints.save_checkpoint(tmp_path / "stage", model, optimizer, {})
    file = tmp_path / "stage" / "optimizer.safetensors"
    checkpoints.load_optimizer(small()[1], file)
    save_file({**load_file(file), **change}, file)
    with pytest.raises(ValueError, match="remove its folder"):
        checkpoints.load_optimizer(small()[1], file)


def test_a_header_of_any_size_takes_no_memory(tmp_path: Path) -> None:
    for data in (struct.pack("<Q", 2**62) + b"{}", struct.pack("<Q", 10**8) + b"{}", b"", b"PK\x03\x04" + b"a" * 99):
        (tmp_path / "model.safetensors").write_bytes(data)
        with pytest.raises(ValueError, match="cannot be read"):
            checkpoints.load_parameters(small()[0], tmp_path / "model.safetensors")


# ---------------------------------------------------------------- kept pictures


def test_other_pixels_are_another_picture_in_whatever_form_they_come() -> None:
    """Of arrays and lists of tensors the key held what is printed of them: the corners."""
    cache, rng = PictureCache(10**6), np.random.default_rng(0)
    pixels = rng.random((100, 100), dtype=np.float32)
    other = pixels.copy()
    other[50, 50] += 1

    def forms(array: np.ndarray) -> list[Any]:
        tensor = torch.from_numpy(array)
        return [
            tensor, array, [tensor], (tensor, tensor), [[tensor]], {"a": tensor}, tensor.bfloat16(), array.tolist(),
            tensor.T, np.asfortranarray(array), [array], tensor[50, 50], array[50, 50],
        ]  # fmt: skip

    for mine, theirs, again in zip(forms(pixels), forms(other), forms(pixels.copy()), strict=True):
        keys = [cache.key({"pixel_values": value}, [(8, 8)]) for value in (mine, theirs, again)]
        assert keys[0] == keys[2] != keys[1], type(mine)
    tensor = torch.from_numpy(pixels)
    split = [cache.key({"a": part}, []) for part in ([tensor[:50], tensor[50:]], [tensor[:40], tensor[40:]])]
    assert split[0] != split[1]
    assert cache.key({"a": tensor, "b": tensor}, []) != cache.key({"a": tensor, "c": tensor}, [])
    assert cache.key({"a": tensor}, [(8, 8)]) != cache.key({"a": tensor}, [(8, 16)])


def test_what_is_put_in_later_counts_too(reference: Any) -> None:
    """Many pictures, each asked about twice, stay within the bytes."""
    model, processor = reference
    limit = 2 * 2**20
    samples = list(arr_coc.reference.generate(6, seed=1, grid=(1, 2)))
    with arr_coc.wrap(model, processor, policy="heuristic", picture_cache=limit) as arr:
        for sample in samples * 2:
            inputs = arr_coc.asking.ask.prepare(processor, [sample["image"]], [sample["question"]])
            model.generate(**inputs, do_sample=False, max_new_tokens=2)
            pictures: PictureCache = arr.builder.pictures
            assert sum(picture.size for _, picture in pictures._known.values()) <= limit
        assert len(pictures) >= 1
