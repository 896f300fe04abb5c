"""A world small enough to know every right answer: a wrapped "model" that reads a patch exactly when its budget
suffices.

Questions read "row 2 needs 128 says cat"; the picture is rows x columns of 160-pixel patches. The answer is right
when the named patch gets at least the needed budget and the picture is not flat, otherwise "unknown".
"""

from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from arr_coc import ArrCocConfig
from arr_coc.scene.contract import Scene
from arr_coc.scene.patches import Patch, budget_grid, full_tokens, realised_costs
from arr_coc.wrapping.record import Allocation

IMAGE_TOKEN = 1
SIDE = 160


class Inputs(dict):
    def to(self, device):
        return self


class FakeProcessor:
    chat_template = "a template"

    def __init__(self):
        self.tokenizer, self.words = self, ["", "<image>"]

    def patch_grid(self, image):
        return max(1, image.height // SIDE), max(1, image.width // SIDE)

    def code(self, word):
        if word not in self.words:
            self.words.append(word)
        return self.words.index(word)

    def apply_chat_template(self, messages, **kwargs):
        asked = []
        for (message,) in messages:
            image, text = message["content"]
            asked.append((image["image"], text["text"]))
        rows = [
            [IMAGE_TOKEN] * (400 * int(np.prod(self.patch_grid(image)))) + [self.code(text)] for image, text in asked
        ]
        longest = max(map(len, rows))
        return Inputs(input_ids=torch.tensor([[0] * (longest - len(row)) + row for row in rows]), asked=asked)

    def batch_decode(self, ids, **kwargs):
        return [" ".join(self.words[i] for i in row) for row in ids.tolist()]


class FakeArr:
    """The face of `ArrCoc` that an evaluation uses."""

    def __init__(self, config=None, planner=None):
        self.config, self.planner, self.processor = (config or ArrCocConfig()).resolved(), planner, FakeProcessor()
        nothing = torch.nn.Identity()
        self.model = SimpleNamespace(
            device="cpu", generate=self.generate, get_decoder=lambda: nothing, modules=nothing.modules,
            config=SimpleNamespace(get_text_config=lambda: SimpleNamespace(num_hidden_layers=3)),
        )  # fmt: skip
        self.family = SimpleNamespace(image_token=lambda model: IMAGE_TOKEN)
        self.attached, self.last, self.calls, self.answered = True, [], 0, []
        self.fail_after = None

    def attach(self):
        self.attached = True

    def detach(self):
        self.attached = False

    def generate(self, input_ids, asked, do_sample, max_new_tokens, stopping_criteria):
        self.calls += 1
        stopping_criteria[0](input_ids, None)
        if self.fail_after is not None and self.calls > self.fail_after:
            raise KeyboardInterrupt
        self.last, texts = [], []
        for image, text in asked:
            rows, columns = self.processor.patch_grid(image)
            patches = [Patch(i, 0, 0, 20, 0, 20) for i in range(rows * columns)]
            budgets = [400] * len(patches)
            if self.attached:
                costs = realised_costs(patches, self.config.budgets)
                budgets = self.planner.plan(Scene(patches, costs, None, [], [], text, None, None, None, None)).budgets
                realised = [int(np.prod(budget_grid(20, 20, b))) for b in budgets]
                timings = {"glance": 0.01, "encode": 0.02, "splice": 0.001, "generate": 0.1}
                self.last.append(
                    Allocation(text, patches, budgets, realised, sum(realised), full_tokens(patches), timings=timings)
                )
            _, patch, _, needed, _, word = text.split()
            seen = image.convert("L").getextrema() != (128, 128) and int(patch) < len(patches)
            texts.append(word if seen and budgets[int(patch)] >= int(needed) else "unknown")
            self.answered.append(text)
        new = torch.tensor([[self.processor.code(text)] for text in texts])
        return torch.cat([input_ids, new], 1)


def make_samples(count, seed=0, per_image=2):
    """Samples of the little world: 2 x 2 patches, four needs, two questions an image."""
    rng = np.random.default_rng(seed)
    samples, picture = [], Image.linear_gradient("L").resize((2 * SIDE, 2 * SIDE)).convert("RGB")
    for i in range(count):
        patch, needed = int(rng.integers(4)), int(rng.choice([64, 128, 256, 400]))
        word = str(rng.choice(["cat", "dog", "owl"]))
        samples.append(
            {
                "image": picture,
                "question": f"patch {patch} needs {needed} says {word}",
                "answers": [word] * 10,
                "kind": "animal" if word != "owl" else "bird",
                "level": needed,
                "evidence": [patch],
                "grid": (2, 2),
                "image_id": f"image-{i // per_image}",
                "question_id": f"question-{i}",
            }
        )
    return samples
