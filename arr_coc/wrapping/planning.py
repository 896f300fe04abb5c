"""Build the scene of one question, and ask the planner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ..config import ArrCocConfig, below_floors, resolve_limit
from ..families import Family, Features
from ..realizing import Call, Encoded, Grid, Realizer
from ..scene.contract import Plan, Planner, Scene
from ..scene.patches import Patch, full_tokens, realised_costs
from .cost import Forecast, Operations, forecast
from .glance import Glance, layer_number
from .pictures import Picture, PictureCache
from .prefill import Prefill
from .question import check_question, find_question
from .record import Allocation
from .timing import Stopwatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NEEDS = {"pixels", "glance", "answer"}


@dataclass
class Observed:
    """One question of a call.

    Attributes
    ----------
    question
        In words; empty if unknown.
    scene
        What the planner sees; ``None`` where the allocation is given or there is no image.
    glance
        The glance behind the scene, if one was taken.
    timings
        Seconds by stage so far.
    """

    question: str
    scene: Scene | None
    glance: Glance | None
    timings: dict[str, float]

    def record(self, plan: Plan, patches: list[Patch], grids: list[Grid], way: str, why: str) -> Allocation:
        """What is remembered of the question once it is planned."""
        realised = [rows * columns for rows, columns in grids]
        decision = plan.decision
        summary = (
            {} if decision is None else {name: getattr(decision, name) for name in ("policy", "propensity", "price")}
        )
        return Allocation(
            question=self.question,
            patches=patches,
            budgets=[int(budget) for budget in plan.budgets],
            realised=realised,
            tokens=sum(realised),
            full_tokens=full_tokens(patches),
            scores={name: [float(value) for value in values] for name, values in plan.scores.items()},
            tension={name: float(value) for name, value in plan.tension.items()},
            decision=summary,
            timings={**self.timings, **plan.timings},
            way=way,
            why=why,
        )


@dataclass
class Planned:
    """All questions of a call, planned.

    Attributes
    ----------
    grids
        Per patch of the call (rows, columns).
    known
        What glances have encoded of the pictures already.
    records
        One per sample.
    glances
        Per sample its glance, or ``None``.
    """

    grids: list[Grid]
    known: Encoded = field(default_factory=dict)
    records: list[Allocation] = field(default_factory=list)
    glances: list[Glance | None] = field(default_factory=list)


class SceneBuilder:
    """Builds scenes for one model.

    Parameters
    ----------
    model, family, realizer, config
        What it works with.
    processor
        Processor, tokenizer or ``None``. Its image processor's mean and deviation bring pixels back to [0, 1]; its
        tokenizer decodes the question.
    """

    def __init__(
        self, model: PreTrainedModel, family: Family, processor: Any, realizer: Realizer, config: ArrCocConfig
    ) -> None:
        self.model, self.family, self.realizer, self.config = model, family, realizer, config
        self.processor, self.tokenizer = processor, tokenizer_of(processor)
        self.scale = pixel_scale(processor)
        self.special = special_ids(model, self.tokenizer)
        self._forecasts: dict[tuple[Any, ...], Forecast] = {}
        self._operations: Operations | None = None
        self.pictures = PictureCache(config.picture_cache)

    def build(
        self,
        call: Call,
        sample: int,
        text: str | None,
        planner: Planner | None,
        synchronize: bool,
        keep: bool = False,
    ) -> Observed:
        """Look at one question, as far as the planner needs.

        Parameters
        ----------
        call
            The whole call.
        sample
            Which sample of it.
        text
            The question in words if it was passed.
        planner
            Who will plan; ``None`` if the allocation is given.
        synchronize
            As in :class:`Stopwatch`.
        keep
            As in :class:`Glance`.

        Raises
        ------
        ValueError
            If a planner that looks finds no question.
        """
        members = call.patches_of(sample)
        if planner is None or not members:
            return Observed(text if text is not None else self._question(call, sample, None)[0], None, None, {})
        needs = frozenset(planner.needs)
        if not needs <= _NEEDS:
            raise ValueError(f"{type(planner).__name__}.needs={sorted(needs)} must be a subset of {sorted(_NEEDS)}.")
        words, ids = self._question(call, sample, text)
        if needs and ids.numel() == 0:
            raise ValueError(
                f"Sample {sample} asks nothing: no words of the user stand beside its image, so no patch can matter "
                "more than another. Ask a question, pass question=, or use policy='uniform'."
            )
        watch = Stopwatch(self.model, synchronize)
        alone, glance, pixels = call.question(sample), None, None
        looked = self._with_answer_line(alone) if needs & {"glance", "answer"} else alone
        if "pixels" in needs and self.scale is not None:
            with watch("glance"), torch.no_grad():
                pixels = self.family.pixels(self.model, alone.inputs, alone.patches, self.scale)
        floor = self.config.budgets[0]
        grids = [self.realizer.grid(self.family, patch, floor) for patch in alone.patches]
        if needs & {"glance", "answer"}:
            with watch("glance"):
                glance = self._glance(looked, grids, "answer" in needs, keep)
        with torch.no_grad():
            embeddings = self.model.get_input_embeddings()(ids[None])[0].float().cpu()

        scene = Scene(
            patches=[call.patches[i] for i in members],
            costs=self.costs(alone.patches),
            pixels=pixels,
            glance=[glance.patch(i).streams[0].float().cpu() for i in range(len(members))] if glance else [],
            glance_grids=grids,
            question=words,
            question_ids=ids.cpu(),
            question_embeddings=embeddings,
            read_attention=_timed(watch, glance.attention) if glance else _not_needed,
            glance_answer=_timed(watch, lambda: glance.answer) if glance else _not_needed,
            timings=watch.seconds,
            kept=glance.kept if glance is not None and glance.key is not None else None,
        )
        return Observed(words, scene, glance, watch.seconds)

    def plan(self, planner: Planner, scene: Scene) -> Plan:
        """Ask the planner, and refuse a plan that doesn't fit.

        Raises
        ------
        ValueError
            If it does not name one of the budgets for every patch.
        """
        before = scene.timings.get("read", 0.0)
        plan = planner.plan(scene)
        if "knowing" in plan.timings:  # a scorer that reads the glance has it read, and timed, within its own time
            plan.timings["knowing"] -= scene.timings.get("read", 0.0) - before
        self._check(plan.budgets, len(scene.patches), f"{type(planner).__name__}.plan")
        return plan

    def plan_all(
        self,
        call: Call,
        texts: Sequence[str | None],
        planner: Planner,
        allocation: Sequence[Sequence[int]] | None,
        synchronize: bool,
        keep: bool = False,
    ) -> Planned:
        """Look at every question of a call and bring what is planned, or given by ``allocation``, to grids."""
        planned = Planned([(patch.height, patch.width) for patch in call.patches])
        asked = planner if allocation is None else None
        for sample in range(call.batch):
            members = call.patches_of(sample)
            asks = bool(members) and getattr(asked, "direct", False)
            direct = self.directly(call.question(sample)) if asks else None
            observed = self.build(call, sample, texts[sample], None if direct else asked, synchronize, keep)
            why, way = "", "given" if members else ""
            if direct is not None:
                (budget, why), way = direct, "direct"
                plan = Plan([budget] * len(members))
            elif observed.scene is not None:
                plan = self.plan(planner, observed.scene)
                way = "look" if observed.glance is not None else "blind"
                if below_floors(self.config.limit, observed.scene.costs):
                    why = f"limit={self.config.limit} is below the floors, so the floors are the limit"
            else:
                plan = Plan(list(allocation[sample]) if allocation is not None else [])
            for index, budget in zip(members, plan.budgets, strict=True):
                planned.grids[index] = self.realizer.grid(self.family, call.patches[index], budget)
            if observed.glance is not None:
                first = members[0]  # a sample's patches follow one another
                known = observed.glance.encoded.items()
                planned.known |= {tuple((i + first, grid) for i, grid in key): one for key, one in known}
            grids = [planned.grids[i] for i in members]
            way = "glance" if observed.glance is not None and grids == observed.glance.grids else way
            planned.records.append(observed.record(plan, [call.patches[i] for i in members], grids, way, why))
            planned.glances.append(observed.glance)
        return planned

    def _glance(self, alone: Call, grids: list[Grid], deep: bool, keep: bool) -> Glance:
        """A glance at a question, from what is known of its pictures if they are kept."""
        if not keep or not self.pictures.limit or self.model.training:
            return Glance(alone, self.realizer, grids, self.config.positions, deep, keep)
        images = {k: v for k, v in alone.inputs.items() if k in self.family.feature_inputs(self.model)}
        key = self.pictures.key(images, grids)
        glance = Glance(alone, self.realizer, grids, self.config.positions, deep, keep, self.pictures.get(key))
        glance.key = key
        return glance

    def remember(self, planned: Planned, prefill: Prefill) -> None:
        """Keep what glances have brought, and what was answered from, for the next questions about their pictures."""
        for sample, glance in enumerate(planned.glances):
            if glance is None or glance.key is None:
                continue
            picture = glance.picture
            if picture is None:
                realised = glance.realised
                if realised.output is None:  # nothing but features is needed of the tower's output
                    slim = self.family.hand_over(realised.like, realised.streams, [len(realised.streams[0])])
                    realised = replace(realised, like=slim, encoded={})
                picture = Picture(realised, kept=glance.kept)
            picture.full, like = vars(glance.call).get("full"), picture.realised.like
            encoded = {key: Features(one.streams, like) for key, one in glance.realised.encoded.items()}
            picture.add(glance.grids, encoded, glance.reading)
            members = prefill.call.patches_of(sample)
            raised = {
                tuple((i - members[0], grid) for i, grid in key): Features(tuple(s.clone() for s in one.streams), like)
                for key, one in prefill.realised.encoded.items()
                if key[0][0] in members
            }
            grids = [planned.grids[i] for i in members]
            picture.add(grids, raised, prefill.readings[sample] if prefill.readings else None)
            self.pictures.put(glance.key, picture)

    def forecast(self, call: Call) -> Forecast:
        """What glance and look will cost on a call of one question; nothing is run."""
        words = call.inputs["input_ids"].shape[1] - call.starts[-1]
        key = (*call.patches, words)
        if key not in self._forecasts:
            if self._operations is None:
                self._operations = Operations.of(self.model)
            if len(self._forecasts) > 1000:
                self._forecasts.clear()
            floors = [self.realizer.grid(self.family, patch, self.config.budgets[0]) for patch in call.patches]
            self._forecasts[key] = forecast(call, self.realizer, floors, self._operations)
        return self._forecasts[key]

    def costs(self, patches: Sequence[Patch]) -> torch.Tensor:
        """``[N, K]`` visual tokens that patches really spend at each budget."""
        return realised_costs(patches, self.config.budgets, partial(self.realizer.grid, self.family))

    def directly(self, call: Call) -> tuple[int, str] | None:
        """The one budget of a single question that needs no glance, and why; ``None`` if it is to be looked at."""
        costs = self.costs(call.patches)
        limit, full = resolve_limit(self.config.limit, costs), int(costs[:, -1].sum())
        if len(call.patches) == 1:
            best = max(k for k in range(costs.shape[1]) if int(costs[0, k]) <= limit)
            return self.config.budgets[best], "one patch: there is nothing to choose between"
        if full > limit:
            return None
        known = self.forecast(call)
        if known.pays:
            return None
        share = known.raised / known.untouched
        return self.config.budgets[-1], f"glance and look would take {share:.2f} of the untouched model's operations"

    def check_scorers(self, scorers: Sequence[Any]) -> None:
        """Refuse scorers that this model and processor can't serve, before a question is asked.

        Raises
        ------
        ValueError
            If one needs pixels that no processor lets recover, or names a layer or head that the model doesn't have.
        """
        blind = [scorer.name for scorer in scorers if "pixels" in scorer.needs and self.scale is None]
        if blind:
            given = "no processor was given" if self.processor is None else (
                f"the processor ({type(self.processor).__name__}) states no image_mean and image_std"
            )  # fmt: skip
            raise ValueError(
                f"scorers {', '.join(blind)} look at pixels, but {given}: call wrap(model, processor) with "
                "the model's own, AutoProcessor.from_pretrained(name), or leave them out, "
                "ArrCocConfig(scorers=('participatory',))"
            )
        for scorer in scorers:
            if getattr(scorer, "variant", None) != "attention":
                continue
            modules = self.family.attentions(self.model)
            for layer in scorer.layers:
                layer_number(layer, len(modules))
            heads = getattr(self.model.config.get_text_config(), "num_attention_heads", None)
            for layer, head in scorer.heads or ():
                if isinstance(heads, int) and not -heads <= head < heads:
                    raise ValueError(f"head {head} of layer {layer}: the layers of this model have {heads} heads")

    def check_allocation(self, call: Call, allocation: Sequence[Sequence[int]] | None) -> None:
        """Refuse a given allocation that doesn't fit the call."""
        if allocation is None:
            return
        if len(allocation) != call.batch:
            raise ValueError(
                f"allocation has {len(allocation)} lists for {call.batch} samples; pass one list of budgets each "
                "(an empty one for a sample without an image)."
            )
        for sample, budgets in enumerate(allocation):
            self._check(budgets, len(call.patches_of(sample)), f"allocation[{sample}]")

    def _check(self, budgets: Sequence[int], patches: int, source: str) -> None:
        if len(budgets) != patches:
            raise ValueError(f"{source} holds {len(budgets)} budgets for {patches} patches; give one each.")
        for budget in budgets:
            if budget not in self.config.budgets:
                raise ValueError(f"{source} holds {budget!r}, which is none of the budgets {self.config.budgets}.")

    def _with_answer_line(self, alone: Call) -> Call:
        """The question as the glance is asked it; see ``answer_line`` of :class:`arr_coc.ArrCocConfig`."""
        line = self.config.answer_line.strip()
        if not line:
            return alone
        if self.tokenizer is None:
            raise ValueError(
                f"answer_line={line!r} needs the model's tokenizer: call wrap(model, processor), or leave it empty."
            )
        prompt = alone.inputs["input_ids"][0]
        text, found = find_question(prompt, self.family.image_token(self.model), self.special, self.tokenizer)
        if not text or text.casefold().endswith(line.casefold()):
            return alone
        check_question(self.tokenizer, line)
        words = self.tokenizer(f" {line}", add_special_tokens=False)["input_ids"]
        return alone.with_words(_end_of(prompt.tolist(), found.tolist()), words)

    def _question(self, call: Call, sample: int, text: str | None) -> tuple[str, torch.Tensor]:
        ids, mask = call.inputs["input_ids"][sample], call.inputs["attention_mask"][sample]
        if text is not None and self.tokenizer is not None:
            check_question(self.tokenizer, text)
            tokens = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            return text, ids.new_tensor(tokens)
        prompt = ids[call.prompt(sample).to(ids.device)] if mask is not None else ids
        words, found = find_question(prompt, self.family.image_token(self.model), self.special, self.tokenizer)
        return (text if text is not None else words), found


def _end_of(prompt: list[int], words: list[int]) -> int:
    """The place behind the last occurrence of the words' end: of as many of them as stand together."""
    for count in range(min(len(words), 8), 0, -1):
        tail = words[-count:]
        for end in range(len(prompt), count - 1, -1):
            if prompt[end - count : end] == tail:
                return end
    return len(prompt)


def _timed(watch: Stopwatch, function: Any) -> Any:
    def timed(*args: Any) -> torch.Tensor:
        with watch("read"):
            result: torch.Tensor = function(*args)
        return result

    return timed


def _not_needed(*args: Any) -> torch.Tensor:
    raise RuntimeError("This planner did not ask for a glance; put 'glance' into its needs.")


def tokenizer_of(processor: Any) -> Any:
    """The tokenizer of a processor, the tokenizer itself, or None."""
    tokenizer = getattr(processor, "tokenizer", processor)
    return tokenizer if callable(getattr(tokenizer, "decode", None)) and callable(tokenizer) else None


def pixel_scale(processor: Any) -> tuple[Any, Any] | None:
    """Mean and deviation per channel by which pixels were normalised, if a processor states them."""
    images = getattr(processor, "image_processor", processor)
    if getattr(images, "do_normalize", True) is False:
        return 0.0, 1.0
    mean, deviation = getattr(images, "image_mean", None), getattr(images, "image_std", None)
    return None if mean is None or deviation is None else (mean, deviation)


def special_ids(model: PreTrainedModel, tokenizer: Any) -> set[int]:
    """Ids that are no words: special tokens of the tokenizer, and every ``*_token_id`` of the model's configs."""
    ids: set[int] = set(getattr(tokenizer, "all_special_ids", None) or ())
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    ids |= {int(index) for index, token in added.items() if getattr(token, "special", False)}
    for config in (model.config, model.config.get_text_config()):
        for name, value in config.to_dict().items():
            if name.endswith("_token_id"):
                ids |= {v for v in (value if isinstance(value, list) else [value]) if isinstance(v, int)}
    return ids
