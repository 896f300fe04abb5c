"""lmms-eval's view of a wrapped model: ``lmms_eval --model arr_coc --model_args pretrained=NAME,limit=0.4``.

Imported by lmms-eval alone, through the entry point ``lmms_eval.models``. Any of its tasks with one image per question
then runs with budgets; ``pretrained`` is what ``arr-coc ask --model`` takes, the other arguments are those of
:class:`arr_coc.ArrCocConfig`, where ``policy`` may be the folder of a saved policy.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from tqdm import tqdm

from .ask import answers, prepare
from .models import REFERENCE, load_vlm, wrap_with

_log = logging.getLogger(__name__)


def manifest() -> ModelManifest:
    """What lmms-eval reads: the name of the model and where its class is."""
    return ModelManifest(model_id="arr_coc", simple_class_path=f"{__name__}.ArrCocModel")


class ArrCocModel(lmms):  # type: ignore[misc, unused-ignore]
    """A wrapped model that answers lmms-eval's requests.

    Parameters
    ----------
    pretrained
        ``"reference"``, a local folder or a hub name.
    device, dtype
        As :func:`arr_coc.asking.models.load_vlm` takes them.
    batch_size
        Questions per call.
    max_batch_size
        Of lmms-eval; not used.
    settings
        Fields of :class:`arr_coc.ArrCocConfig`.

    Attributes
    ----------
    tokens, full_tokens
        Visual tokens spent so far, and what full detail would have cost.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str = REFERENCE,
        device: str | None = None,
        dtype: str = "auto",
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        model, self.processor = load_vlm(pretrained, device=device, dtype=dtype)
        self.arr = wrap_with(model, self.processor, settings)
        self.batch_size = int(batch_size)
        self.tokens = self.full_tokens = 0

    @torch.no_grad()
    def generate_until(self, requests: list[Any]) -> list[str]:
        """Answers in the order of the requests."""
        replies: list[str] = []
        with tqdm(total=len(requests), desc="arr_coc", disable=self.rank != 0) as bar:
            for start in range(0, len(requests), self.batch_size):
                batch = [request.args for request in requests[start : start + self.batch_size]]
                replies += self._answer(batch)
                bar.update(len(batch))
        _log.info("visual tokens: %d of %d at full detail", self.tokens, self.full_tokens)
        return replies

    def _answer(self, batch: list[Any]) -> list[str]:
        texts, images = [], []
        for context, _, doc_to_visual, doc_id, task, split in batch:
            shown = doc_to_visual(self.task_dict[task][split][doc_id])
            if len(shown) != 1 or not hasattr(shown[0], "convert"):
                raise ValueError(
                    f"Question {doc_id} of task {task!r} shows {len(shown)} images or a video; arr_coc answers "
                    "questions about one image. Choose a task of that kind."
                )
            images.append(shown[0])
            texts.append(context.replace("<image>", " ").strip())
        options = dict(batch[0][1])
        if any(dict(other[1]) != options for other in batch):
            raise ValueError("Requests of one batch ask for different generation settings; use batch_size=1.")
        until = options.pop("until", None) or []
        inputs = prepare(self.processor, images, texts).to(self.arr.model.device)
        sequences = self.arr.model.generate(
            **inputs,
            max_new_tokens=options.get("max_new_tokens", 32),
            do_sample=bool(options.get("do_sample", False)),
            num_beams=options.get("num_beams", 1),
        )
        self.tokens += sum(record.tokens for record in self.arr.last)
        self.full_tokens += sum(record.full_tokens for record in self.arr.last)
        stops = [until] if isinstance(until, str) else list(until)
        return [_cut(text, stops) for text in answers(self.processor, inputs["input_ids"], sequences)]

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Not offered: budgets are chosen for questions that are answered."""
        raise NotImplementedError("arr_coc answers by generation; choose a task with output_type generate_until.")

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        """Not offered."""
        raise NotImplementedError("arr_coc answers single questions; choose a task with output_type generate_until.")


def _cut(text: str, stops: list[str]) -> str:
    """The text up to the first stop that occurs in it."""
    return text[: min((text.find(stop) for stop in stops if stop and stop in text), default=len(text))].strip()
