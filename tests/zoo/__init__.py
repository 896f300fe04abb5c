"""A tiny model of every supported family: the real transformers classes with random weights, and inputs for them.

``build(name)`` gives a :class:`tests.tiny.Tiny` whose ``make(prompts, left, seed, numbers)`` returns what the family's
processor would. What a prompt says and shows depends on its number alone, so ``make([prompts[i]], numbers=[i])`` is
sample ``i`` of ``make(prompts)``.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from arr_coc.families.compat import NEEDS, installed_transformers
from tests.tiny import BOS, END, IMAGE, PAD, START, VIDEO, Tiny
from tests.tiny import _spread as spread
from tests.zoo.inputs import BREAK, FREE, SIDE
from tests.zoo.models import BUILDERS as ESTABLISHED
from tests.zoo.newer import BUILDERS as NEWER

EVERY = ESTABLISHED | NEWER
BUILDERS = ESTABLISHED | {
    name: made
    for name, made in NEWER.items()
    if name in CONFIG_MAPPING_NAMES and installed_transformers() >= NEEDS.get(name, (0,))
}
"""Those that the installed transformers has."""


def build(name: str, seed: int = 0) -> Tiny:
    """A fresh model of a family."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, inputs = BUILDERS[name][0]()
    spread(model, seed)
    model.eval()
    generation = model.generation_config
    generation.pad_token_id, generation.bos_token_id, generation.eos_token_id = PAD, BOS, None
    generation.suppress_tokens = [IMAGE, VIDEO, START, END, BREAK]  # random weights would say them

    def make(prompts: Any, left: bool = True, seed: int = 0, numbers: Any = None) -> dict[str, torch.Tensor]:
        return inputs(prompts, left, seed, range(len(prompts)) if numbers is None else numbers)

    return Tiny(name, model, make, BUILDERS[name][1])


__all__ = ["BREAK", "BUILDERS", "EVERY", "FREE", "SIDE", "build"]
