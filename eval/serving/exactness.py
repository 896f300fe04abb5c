"""Does an engine say, spend and explore exactly what the wrapped transformers model does?

Two processes: the wrapper's answers come from one that has never heard of vLLM, whose transformers backend changes the
model classes of its process; the engine's from another, which compares.

    python -m eval.serving.exactness wrapper MODEL N FILE
    python -m eval.serving.exactness engine MODEL N FILE [chunked] [compiled]

MODEL is the folder of a stand-in, "reference", or "several": the reference model with two pictures in every prompt,
every other time the same one twice.
"""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from .offline import OfflineEngine, messages
from .server import ROOT, VLLM
from .stand_ins import ONE_PICTURE

REFERENCE = ("reference", "several")
SIZES = ((560, 560), (1120, 840), (700, 420), (980, 980), (400, 300), (1300, 500))
EXPLORE = dict(share=0.5, alpha=1.0, tau=0.2, width=0.0)


@dataclass
class Compared:
    """What came out, over all questions.

    Attributes
    ----------
    questions
        How many.
    plans, answers, random_answers, propensities
        How many were equal: budgets that were chosen, words at these budgets, words at random budgets, and the
        logarithms of propensities to 1e-2: a mixture works on log-odds, where 4e-6 of doubt have been 2e-3.
    mixed, explored
        How many random allocations held unequal budgets; how many decisions had been drawn.
    attention, doubt, first
        Largest differences of the glance's attention and log-probabilities, and of the answer's first ones.
    different
        What differed, in words.
    """

    questions: int = 0
    plans: int = 0
    answers: int = 0
    random_answers: int = 0
    propensities: int = 0
    mixed: int = 0
    explored: int = 0
    attention: float = 0.0
    doubt: float = 0.0
    first: float = 0.0
    different: list[str] | None = None

    @property
    def equal(self) -> bool:
        """Whether everything was."""
        return self.plans == self.answers == self.random_answers == self.propensities == self.questions > 0


def questions(model: str, n: int, seed: int = 11) -> Iterator[tuple[list[Image.Image], str]]:
    """Pictures and question. Stand-ins get one picture, two, or the same one twice; see above for the reference."""
    from arr_coc import reference

    rng = random.Random(seed)
    if model in REFERENCE:
        other = None
        for i, sample in enumerate(reference.generate(n, split="eval", seed=seed)):
            first = sample["image"]
            second = [] if model == "reference" else [other if i % 2 and other is not None else first.copy()]
            yield [first, *second], sample["question"]
            other = first
        return
    pictures = [(s["image"].convert("RGB"), s["question"]) for s in reference.generate(8, split="eval", seed=seed)]
    alone = Path(model).name in ONE_PICTURE
    for i in range(n):
        (picture, question), (other, _) = rng.choice(pictures), rng.choice(pictures)
        first, second = picture.resize(rng.choice(SIZES)), other.resize(rng.choice(SIZES))
        yield [[first], [first, second], [first, first.copy()]][0 if alone else i % 3], question


def policy_of(model: str) -> Path:
    """The saved policy that a model is served with."""
    from arr_coc import reference

    return reference.policy_path() if model in REFERENCE else Path(model) / "policy"


def _owners(processor: Any, images: Sequence[Image.Image]) -> list[int]:
    """The picture of every image entry of a prompt."""
    counts = [1] * len(images)
    if hasattr(processor, "patch_grid"):
        counts = [math.prod(processor.patch_grid(image)) for image in images]
    elif hasattr(processor, "image_seq_len"):  # crops
        counted = processor.image_processor.get_number_of_image_patches
        counts = [counted(image.height, image.width, {})[0] for image in images]
    elif hasattr(processor, "image_seq_length"):  # tiles
        sizes = [(image.height, image.width) for image in images]
        counts = processor._get_num_multimodal_tokens(image_sizes=sizes)["num_image_patches"]
    return [number for number, count in enumerate(counts) for _ in range(count)]


def wrapper(model: str, n: int, file: Path) -> None:
    """Write what the wrapped model says: JSON, and the tensors beside it."""
    import torch
    from safetensors.torch import save_file

    from allocator.logged.explore import Exploration, Explorer
    from allocator.storage import replace_file
    from arr_coc.asking.models import load_vlm
    from arr_coc.attending.planners import Recorder
    from arr_coc.engines.vllm.engine import watched_layers
    from arr_coc.serving.policy import Once, Policies
    from arr_coc.wrapping.wrapper import wrap

    torch.set_num_threads(1)
    vlm, processor = load_vlm("reference" if model in REFERENCE else model, device="cpu", dtype="float32")
    policies = Policies(policy_of(model), Exploration(**EXPLORE), vlm, processor)
    arr, rng = wrap(vlm, processor, policies.config, policies.once()), random.Random(n)
    lengths = {} if model in REFERENCE else {"max_new_tokens": 8, "min_new_tokens": 8}
    rows, tensors = [], {}
    for i, (images, question) in enumerate(questions(model, n)):
        inputs = processor.apply_chat_template(
            messages(images, question), tokenize=True, return_dict=True, add_generation_prompt=True,
            processor_kwargs={"return_tensors": "pt"},
        )  # fmt: skip
        explorer = Explorer(policies.loaded.planner.policy, policies.exploration, seed=i)
        once = Once(policies.loaded._replace(explorer=explorer))
        recorder = arr.planner = Recorder(once, scenes=True)
        said: list[list[int]] = []
        drawn: list[int] = []
        for way in ("planned", "random"):
            given = {} if way == "planned" else {"allocation": [drawn]}
            with torch.no_grad():
                output = vlm.generate(
                    **inputs, do_sample=False, output_scores=True, return_dict_in_generate=True, **lengths, **given
                )
            said.append(output.sequences[0, inputs["input_ids"].shape[1] :].tolist())
            tensors[f"{i}.first.{way}"] = output.scores[0][0].float().log_softmax(-1)
            if way == "planned":
                patches, budgets = arr.last[0].patches, arr.last[0].budgets
                drawn = [rng.choice(policies.config.budgets) for _ in patches]
        scene, taken = recorder.scenes[0], once.taken
        assert taken is not None
        tensors[f"{i}.attention"] = scene.read_attention(watched_layers(policies.loaded.planner)).contiguous()
        tensors[f"{i}.glance"] = scene.glance_answer().contiguous()
        owners = _owners(processor, images)
        per_image = [
            [b for b, p in zip(drawn, patches, strict=True) if owners[p.entry] == i] for i in range(len(images))
        ]
        rows.append({
            "budgets": budgets, "said": said, "per image": per_image,
            "log_propensity": taken.decision.log_propensity, "explored": taken.explored,
            "words": scene.question,
        })  # fmt: skip
    save_file(tensors, file.with_suffix(".safetensors"))
    replace_file(file, json.dumps(rows))


def engine(model: str, n: int, file: Path, chunked: bool = False, compiled: bool = False, group: int = 4) -> Compared:
    """Ask an engine in this process the same, several at once, each with two allocations in one batch."""
    from safetensors import safe_open

    from allocator.logged.explore import Exploration, Explorer
    from arr_coc.serving.policy import Once, Policies

    rows = json.loads(file.read_text(encoding="utf-8"))[:n]
    asked = list(questions(model, len(rows)))
    with OfflineEngine(
        "reference" if model in REFERENCE else model, policy_of(model), Exploration(**EXPLORE),
        max_model_len=8000, max_num_batched_tokens=256 if chunked else 8000, enforce_eager=not compiled,
    ) as offline, safe_open(file.with_suffix(".safetensors"), "pt") as tensors:  # fmt: skip
        policies: Policies = offline.policies
        found, different = Compared(), []
        for start in range(0, len(rows), group):
            part = range(start, min(start + group, len(rows)))
            given = [offline.render(*asked[i]) for i in part]
            seen = offline.glance(given)
            requests, plans = [], []
            for i, one, (call, words, glanced) in zip(part, given, seen, strict=True):
                explorer = Explorer(policies.loaded.planner.policy, policies.exploration, seed=i)
                once = Once(policies.loaded._replace(explorer=explorer))
                scene = offline.describer.scene(call, words, offline.layers, glanced)
                plan = once.plan(scene)
                plans.append((plan, once.taken, scene, glanced))
                drawn = offline.describer.allocation(call, one, rows[i]["per image"])
                requests += [offline.at(one, call, plan.budgets), offline.at(one, call, drawn)]
            ends = model in REFERENCE
            outputs = offline.generate(requests, 4 if ends else 8, logprobs=2, stop=ends)
            for k, (i, (plan, taken, scene, glanced)) in enumerate(zip(part, plans, strict=True)):
                row, said = rows[i], [list(o.outputs[0].token_ids) for o in outputs[2 * k : 2 * k + 2]]
                assert taken is not None and scene.question == row["words"], (scene.question, row["words"])
                found.questions += 1
                found.plans += [int(b) for b in plan.budgets] == row["budgets"]
                found.answers += said[0] == row["said"][0]
                found.random_answers += said[1] == row["said"][1]
                found.propensities += abs(taken.decision.log_propensity - row["log_propensity"]) < 1e-2
                found.explored += taken.explored
                found.mixed += len(set(sum(row["per image"], []))) > 1
                gap = (scene.read_attention(list(offline.layers)) - tensors.get_tensor(f"{i}.attention")).abs().max()
                found.attention = max(found.attention, float(gap))
                known = tensors.get_tensor(f"{i}.glance")
                found.doubt = max(found.doubt, *(abs(float(known[t]) - v) for t, v in glanced.logprobs.items()))
                for way, output in zip(("planned", "random"), outputs[2 * k : 2 * k + 2], strict=True):
                    first = tensors.get_tensor(f"{i}.first.{way}")
                    likely = output.outputs[0].logprobs[0].items()
                    found.first = max(found.first, *(abs(float(first[t]) - v.logprob) for t, v in likely))
                if said != row["said"] or [int(b) for b in plan.budgets] != row["budgets"]:
                    different.append(f"question {i}: {list(plan.budgets)} {said} for {row['budgets']} {row['said']}")
        found.different = different
        return found


def run(model: str, n: int, folder: Path, modes: Sequence[str] = ("eager", "chunked", "compiled")) -> dict[str, Any]:
    """Both sides, each in a process of its own, and what came out per mode."""
    file = folder / f"{Path(model).name}.json"
    environment = engine_environment()
    ask = [sys.executable, "-m", "eval.serving.exactness"]
    subprocess.run([*ask, "wrapper", model, str(n), str(file)], cwd=ROOT, env=environment, check=True)
    results = {}
    for mode in modes:
        more = [] if mode == "eager" else [mode]
        done = subprocess.run(
            [*ask, "engine", model, str(n), str(file), *more], cwd=ROOT, env=environment, stdout=subprocess.PIPE,
            text=True, check=True,
        )  # fmt: skip
        results[mode] = json.loads(done.stdout.splitlines()[-1])
    return results


def engine_environment() -> dict[str, str]:
    """Of a process that holds an engine."""
    return {
        **VLLM, **os.environ, "VLLM_PLUGINS": "arr_coc", "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "PYTHONPATH": str(ROOT),
    }  # fmt: skip


if __name__ == "__main__":
    side, name, count, where, *further = sys.argv[1:]
    if side == "wrapper":
        wrapper(name, int(count), Path(where))
    else:
        print(json.dumps(asdict(engine(name, int(count), Path(where), "chunked" in further, "compiled" in further))))
