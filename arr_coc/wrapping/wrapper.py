"""wrap: attach ARR-COC to a model, so that ``generate`` and ``forward`` spend what is allocated."""

from __future__ import annotations

import dataclasses
import inspect
import math
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

from ..config import ArrCocConfig
from ..families import Family, family_for
from ..families.compat import given_cache, innermost, output_cache, refuse_chunked_prefill, require_transformers
from ..realizing import Call, Realizer, make_realizer, splice
from ..scene.contract import Planner
from ..scene.patches import Patch
from . import saving
from .inputs import (
    cache_length,
    check_inputs,
    check_no_images,
    lowered_lengths,
    question_texts,
    with_mask,
    with_mask_for_gaps,
)
from .planning import Planned, SceneBuilder
from .prefill import Prefill
from .record import Allocation
from .timing import Stopwatch
from .turns import Turn

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel


def wrap(
    model: PreTrainedModel,
    processor: Any = None,
    config: ArrCocConfig | Mapping[str, Any] | None = None,
    planner: Planner | None = None,
    **changes: Any,
) -> ArrCoc:
    """Give every image patch of a vision-language model its own token budget.

    Parameters
    ----------
    model
        A transformers image-text-to-text model of a known family; it may sit inside PEFT or DistributedDataParallel.
    processor
        Its processor. A tokenizer serves too (then no scorer sees pixels), and ``None`` serves where the planner
        looks at neither words nor pixels, or ``question=`` is not needed in words.
    config
        What to do, as an :class:`ArrCocConfig` or a mapping of its fields; its defaults otherwise.
    planner
        Chooses the budgets; by default the one that ``config`` describes.
    changes
        Fields of :class:`ArrCocConfig` in place of ``config``'s: ``wrap(model, processor, limit=0.4)``.

    Returns
    -------
    ArrCoc
        Attached. ``detach()``, or leaving it as a context manager, returns the model as it was.

    Raises
    ------
    ImportError
        If the installed transformers is outside the supported range.
    ValueError
        If the model is of an unknown family, already wrapped, or unfit for the realizer, or if a scorer would read
        pixels that the processor doesn't let recover, or layers or heads that the model doesn't have.
    TypeError
        For something else in the place of the model, processor or configuration, or an unknown field.
    """
    require_transformers()
    if isinstance(model, str | os.PathLike):
        raise TypeError(
            f"model={os.fspath(model)!r} is a name; load it first: AutoModelForImageTextToText.from_pretrained(name)"
        )
    if isinstance(processor, str | os.PathLike | Mapping | ArrCocConfig):
        raise TypeError(
            f"processor is a {type(processor).__name__}: call wrap(model, processor, config) with "
            "processor = AutoProcessor.from_pretrained(name)"
        )
    if isinstance(config, Mapping):
        config = ArrCocConfig.from_dict(config)
    if changes:
        values = {} if config is None else {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
        config = ArrCocConfig(**(values | changes))
    arr = ArrCoc(model, processor, config or ArrCocConfig(), planner)
    arr.attach()
    return arr


def unwrap(model: PreTrainedModel) -> ArrCoc:
    """Detach whatever wraps a model, whoever holds its handle.

    Parameters
    ----------
    model
        A wrapped model, also inside PEFT or DistributedDataParallel.

    Returns
    -------
    ArrCoc
        The handle, detached; its ``attach()`` wraps the model again.

    Raises
    ------
    ValueError
        If the model is not wrapped.
    """
    held = _holder(innermost(model))
    if held is None:
        raise ValueError(f"this {type(model).__name__} is not wrapped; there is nothing to undo")
    held.detach()
    return held


def _holder(model: PreTrainedModel) -> ArrCoc | None:
    """Who wraps a model now."""
    held = getattr(vars(model).get("generate"), "__self__", None)
    return held if isinstance(held, ArrCoc) else None


class ArrCoc:
    """The attachment to one model; made by :func:`wrap`.

    Attributes
    ----------
    model
        The transformers model itself (inside any wrapper).
    config, processor, family, realizer
        What it works with.
    planner
        Chooses the budgets; may be replaced at any time.
    last
        One :class:`Allocation` per sample of the last call that carried images.
    kept
        Per sample the places, in the prompt as given, of the tokens that the model saw: ``logits`` of a wrapped
        ``forward`` are those of ``input_ids[sample, kept[sample]]``.
    look_once
        Whether ``generate`` goes on from what the glance has read; benchmarks turn it off to compare.
    synchronize
        Wait for the GPU before reading the clock. Benchmarks set it; it costs speed.
    """

    def __init__(
        self, model: PreTrainedModel, processor: Any, config: ArrCocConfig, planner: Planner | None = None
    ) -> None:
        self.model, self.processor, self.config = innermost(model), processor, config
        self.family = family_for(self.model)
        self.realizer = make_realizer(config.realizer, self.family)
        if not config.budgets:
            config = self.config = config.resolved(_sizes(self.model, self.family, self.realizer, config.patch_side))
        if config.scaled:
            self.realizer.full = config.budgets[-1]
        if config.positions == "keep" and self.family.compact_only:
            raise ValueError(
                f"positions='keep' can't be used with {type(self.model).__name__}: it numbers the tokens itself when "
                "it generates, or counts key slots by position. Use positions='auto' or 'compact'."
            )
        self.builder = SceneBuilder(self.model, self.family, processor, self.realizer, config)
        if planner is None:
            from ..attending.planners import make_planner

            planner = make_planner(config, self.model, processor)
        self.builder.check_scorers(getattr(getattr(planner, "contexts", None), "scorers", ()))
        self.planner = planner
        self.last: list[Allocation] = []
        self.kept: list[torch.Tensor] = []
        self.look_once, self.synchronize = True, False
        self._undo: list[Any] = []
        self._turns: WeakKeyDictionary[Any, Turn] = WeakKeyDictionary()

    # ---------------------------------------------------------------- attaching

    @property
    def attached(self) -> bool:
        """Whether the model is wrapped now."""
        return bool(self._undo)

    def attach(self) -> None:
        """Attach to the model; nothing happens if already attached."""
        if self.attached:
            return
        model = self.model
        if _holder(model) is not None:
            raise ValueError(
                "This model is already wrapped; detach() the first wrapper before wrapping it again, or "
                "arr_coc.unwrap(model) if its handle is lost."
            )
        self._had = {
            "generate": model.__dict__.get("generate"),
            "rope_deltas": getattr(model.base_model, "rope_deltas", None),
        }
        self._generate = model.generate
        self._undo = [
            model.register_forward_pre_hook(self._before_forward, with_kwargs=True),
            model.base_model.register_forward_pre_hook(self._guard, with_kwargs=True),
        ]
        # A bound method, so that a deep copy of the model gets a wrapper of its own.
        model.generate = self.generate

    def detach(self) -> None:
        """Return the model as it was before :meth:`attach`; nothing happens if not attached."""
        if not self.attached:
            return
        for handle in self._undo:
            handle.remove()
        self._undo = []
        if self._had["generate"] is None:
            del self.model.generate
        else:
            self.model.generate = self._had["generate"]
        if hasattr(self.model.base_model, "rope_deltas"):
            self.model.base_model.rope_deltas = self._had["rope_deltas"]

    def __repr__(self) -> str:
        config = self.config
        bound = "" if config.limit is None else f", limit {config.limit:g}"
        state = "" if self.attached else ", detached"
        return f"<ArrCoc on {type(self.model).__name__}, policy {config.policy!r}{bound}{state}: {self.summary()}>"

    def summary(self) -> str:
        """What the last call with images spent: one line per question, see :meth:`Allocation.summary`."""
        return "\n".join(allocation.summary() for allocation in self.last) or "no question asked yet"

    def __enter__(self) -> ArrCoc:
        self.attach()
        return self

    def __exit__(self, *exception: object) -> None:
        self.detach()

    # ---------------------------------------------------------------- saving

    def save_pretrained(self, folder: str | os.PathLike[str], results: Mapping[str, Any] | None = None) -> Path:
        """Write the policy, the configuration and a model card: :func:`arr_coc.wrapping.saving.save_pretrained`."""
        return saving.save_pretrained(self, folder, results)

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        model: PreTrainedModel,
        processor: Any = None,
        revision: str | None = None,
        allow: Collection[str] = (),
    ) -> ArrCoc:
        """Wrap a model with a saved policy; see :func:`arr_coc.wrapping.saving.load_planner`."""
        config, planner = saving.load_planner(name, model, processor, revision, allow)
        return wrap(model, processor, config, planner)

    def push_to_hub(self, repo_id: str, results: Mapping[str, Any] | None = None, **options: Any) -> str:
        """Upload what ``save_pretrained`` writes; see :func:`arr_coc.wrapping.saving.push_to_hub`."""
        return saving.push_to_hub(self, repo_id, results, **options)

    # ---------------------------------------------------------------- the two entrances of a model

    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *args: Any,
        allocation: Sequence[Sequence[int]] | None = None,
        question: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """``model.generate`` while attached.

        Parameters
        ----------
        inputs, generation_config, args, kwargs
            As of transformers' ``generate``.
        allocation
            Per sample the nominal budget of each of its patches; the planner is not asked.
        question
            The question(s) in words; read from the prompt by default.

        Returns
        -------
        Tensor or ModelOutput
            As of transformers' ``generate``: the prompt as given, then the new tokens.
        """
        if inputs is not None and kwargs.get("input_ids") is None:
            kwargs["input_ids"], inputs = inputs, None
        cache = given_cache(kwargs)
        turn = self._turns.get(cache) if cache is not None and cache_length(kwargs) > 0 else None
        if turn is not None:
            self.last, self.kept = [], []
            short = turn.shorten(kwargs, self.family.image_token(self.model), self.family.feature_inputs(self.model))
            if turn.rope_deltas is not None:
                self.model.base_model.rope_deltas = turn.rope_deltas
            return self._answer(inputs, generation_config, args, kwargs, short)[0]
        if kwargs.get("pixel_values") is None:
            check_no_images(self.family.image_token(self.model), kwargs, allocation)
            return self._native(inputs, generation_config, args, kwargs)
        if getattr(generation_config, "prefill_chunk_size", None) or kwargs.get("prefill_chunk_size"):
            refuse_chunked_prefill()
        watch = Stopwatch(self.model, self.synchronize)
        with torch.no_grad():
            prefill, planned = self._prepare(kwargs, allocation, question, True, watch)
        with watch("generate"), prefill.answering(self.model) if self.look_once else nullcontext():
            output, copies = self._answer(inputs, generation_config, args, kwargs, prefill.spliced.inputs)
        for record, shared in zip(self.last, prefill.shared, strict=False):
            record.shared = shared
        self.builder.remember(planned, prefill)
        watch.seconds["total"] = watch.since_start()
        self._record(watch)
        cache = output_cache(output) or cache
        if cache is not None and copies == 1:
            self._turns[cache] = Turn.of(prefill.call, prefill.spliced)
        return output

    def _answer(
        self,
        inputs: torch.Tensor | None,
        generation_config: GenerationConfig | None,
        args: tuple[Any, ...],
        given: dict[str, Any],
        short: dict[str, Any],
    ) -> tuple[Any, int]:
        """Generate from the shortened inputs, and give back the prompt as given; also the sequences per prompt."""
        ids, length = given["input_ids"], short["input_ids"].shape[1]
        dropped = ids.shape[1] - length
        generation_config, lengths = lowered_lengths(self.model, generation_config, given, dropped)
        output = self._native(inputs, generation_config, args, {**short, **lengths})
        sequences = output if isinstance(output, torch.Tensor) else output.sequences
        copies = sequences.shape[0] // ids.shape[0]
        prompt = ids.repeat_interleave(copies, 0).to(sequences.device)
        sequences = torch.cat([prompt, sequences[:, length:]], 1)
        if isinstance(output, torch.Tensor):
            return sequences, copies
        output.sequences = sequences
        return output, copies

    def _native(
        self,
        inputs: torch.Tensor | None,
        config: GenerationConfig | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """The model's own ``generate``; its config by name, since not every model takes it second (janus)."""
        if args:
            return self._generate(inputs, config, *args, **kwargs)
        return self._generate(inputs, **(kwargs if config is None else {**kwargs, "generation_config": config}))

    def _before_forward(self, model: PreTrainedModel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            names = list(inspect.signature(type(model).forward).parameters)[1:]
            kwargs = {**dict(zip(names, args, strict=False)), **kwargs}
        kwargs = dict(kwargs)
        allocation, question = kwargs.pop("allocation", None), kwargs.pop("question", None)
        if kwargs.get("pixel_values") is None:
            check_no_images(self.family.image_token(self.model), kwargs, allocation)
            return (), with_mask_for_gaps(kwargs)
        watch = Stopwatch(self.model, self.synchronize)
        prefill, _ = self._prepare(kwargs, allocation, question, False, watch)
        self._record(watch)
        return (), self.family.encode_videos(self.model, prefill.spliced.inputs)

    def _guard(self, base: PreTrainedModel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """No pixels may reach the model past the allocation: that would be full detail in silence."""
        if kwargs.get("pixel_values") is not None:
            raise RuntimeError(
                "The wrapped model's forward() was called directly, past its hooks, so no budget could be applied. "
                "Call the model itself (model(**inputs)), or detach() first."
            )

    # ---------------------------------------------------------------- one call

    def _prepare(
        self,
        kwargs: dict[str, Any],
        allocation: Sequence[Sequence[int]] | None,
        question: str | Sequence[str] | None,
        for_generate: bool,
        watch: Stopwatch,
    ) -> tuple[Prefill, Planned]:
        self.last, self.kept = [], []
        check_inputs(kwargs)
        inputs = with_mask(self.model, kwargs, for_generate)
        call = Call(self.model, self.family, inputs, self.config.patch_side)
        texts = question_texts(question, call.batch)
        self.builder.check_allocation(call, allocation)
        keep = for_generate and self.look_once
        planned = self.builder.plan_all(call, texts, self.planner, allocation, self.synchronize, keep)

        reuse = not torch.is_grad_enabled()  # a glance carries no gradient
        with watch("encode"):
            if reuse:
                call.adopt([glance.call if glance is not None else None for glance in planned.glances])
            realised = self.realizer.realize(call, planned.grids, planned.known if reuse else None)
        with watch("splice"):
            spliced = splice(call, realised, self.config.positions, for_generate)
        if spliced.rope_deltas is not None:
            self.model.base_model.rope_deltas = spliced.rope_deltas
        for record, kept in zip(planned.records, call.per_sample(realised.keep), strict=True):
            record.newlines = kept - record.tokens
        self.last, self.kept = planned.records, spliced.kept
        grids = [[planned.grids[i] for i in call.patches_of(sample)] for sample in range(call.batch)]
        known = [
            glance.hand_over(each) if glance is not None else None
            for glance, each in zip(planned.glances, grids, strict=True)
        ]
        # What is not kept for the next question ends here, so that it takes no room beside the answer.
        planned.glances = [glance if glance and glance.key is not None else None for glance in planned.glances]
        planned.known = {}
        keep = any(planned.glances)
        return Prefill(call, realised, spliced, known, keep), planned

    def _record(self, watch: Stopwatch) -> None:
        for allocation in self.last:
            allocation.timings.update(watch.seconds)


def _sizes(model: PreTrainedModel, family: Family, realizer: Realizer, side: int) -> list[int]:
    """The tokens that a budget can buy on the family's own patch."""
    tile = family.tile(model) or (side, side)
    height, width = (-(-size // -(-size // side)) for size in tile)  # as an axis is cut into near-equal pieces
    patch = Patch(0, 0, 0, height, 0, width)
    return [math.prod(realizer.grid(family, patch, tokens)) for tokens in range(1, height * width + 1)]
