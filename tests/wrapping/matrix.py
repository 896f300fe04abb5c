"""The exactness matrix: what must hold of every family, one function per property.

Each function gets a :class:`Cell` and returns the figure of its row: the largest absolute difference of logits (0
means to the bit), or what was counted. It fails by ``assert``; what a family can't do is written as ``Skip``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch.utils.flop_counter import FlopCounterMode

import arr_coc
from arr_coc.config import ArrCocConfig
from arr_coc.families import Segment, family_for
from arr_coc.families.any_resolution import AnyResolution
from arr_coc.families.compat import cache_name, output_cache
from arr_coc.realizing import Call
from arr_coc.wrapping.prefill import Prefill
from tests import tiny, zoo
from tests.wrapping.conftest import Deep, Pattern

BUDGETS, SIDE = (2, 4, 9, 16), 4
MIXED = (2, 16, 4, 9, 2)
TOLERANCE = 2e-5
STEPS = 3
LINEAR = ("qwen3_5", "qwen3_5_moe", "qwen4_exp", "glm5_next", "lfm2_vl", "lfm3_vl")
"""Families whose language model has linear-attention or convolution layers: a masked token still moves their state."""


class Skip(Exception):
    """A property that does not apply; says why."""


class Cell:
    """One family under test: its model, its inputs, and wrappers that detach themselves."""

    def __init__(self, model: tiny.Tiny) -> None:
        self.tiny, self.model, self.prompts = model, model.model, model.prompts
        self.family = family_for(self.model)
        self.realizers = ["pool", "select"] + (["rescale"] if self.family.can_rescale else [])
        self.lengths = [len(row) for row in self.prompts]
        self.numberings = ("auto", "compact") if self.family.compact_only else ("auto", "compact", "keep")

    def make(self, *samples: int, left: bool = True) -> dict[str, Any]:
        numbers = list(samples) or list(range(len(self.prompts)))
        return self.tiny.make([self.prompts[i] for i in numbers], left=left, numbers=numbers)

    @contextmanager
    def wrapped(self, *pattern: int, needs: tuple[str, ...] = (), **config: Any) -> Any:
        values = {"budgets": BUDGETS, "patch_side": SIDE, "realizer": "pool"} | config
        planner = Pattern(*(pattern or MIXED), needs=needs)
        with arr_coc.wrap(self.model, tiny.tokenizer(), ArrCocConfig(**values), planner) as arr:
            yield arr

    def logits(self, inputs: dict[str, Any], **extra: Any) -> torch.Tensor:
        with torch.no_grad():
            return self.model(**inputs, **extra).logits

    def seen(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """What the base model is called with in a forward of these inputs."""
        caught: dict[str, Any] = {}
        names = list(inspect.signature(type(self.model.base_model).forward).parameters)[1:]

        def catch(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            caught.update(dict(zip(names, args, strict=False)) | kwargs)

        handle = self.model.base_model.register_forward_pre_hook(catch, with_kwargs=True)
        try:
            self.logits(inputs)
        finally:
            handle.remove()
        return caught

    def generate(self, inputs: dict[str, Any], **extra: Any) -> Any:
        options = {"max_new_tokens": STEPS, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
        return self.model.generate(**inputs, **(options | extra))


def difference(a: Any, b: Any) -> float:
    """Largest absolute difference of two tensors or of two sequences of them."""
    if isinstance(a, torch.Tensor):
        assert a.shape == b.shape
        return float((a - b).abs().max()) if a.numel() else 0.0
    assert len(a) == len(b)
    return max(difference(x, y) for x, y in zip(a, b, strict=True))


def close(*figures: float, tolerance: float = TOLERANCE) -> float:
    worst = max(figures)
    assert worst < tolerance, f"{worst} is not below {tolerance}"
    return worst


def labels_of(inputs: dict[str, Any]) -> torch.Tensor:
    ids = inputs["input_ids"]
    return ids.masked_fill((inputs["attention_mask"] == 0) | (ids == tiny.IMAGE), -100)


def grown(inputs: dict[str, Any], ids: torch.Tensor, causal: int) -> dict[str, Any]:
    """The inputs with ``ids``, which begin with theirs; ``causal`` is the token type of what was added."""
    extra = ids.shape[1] - inputs["input_ids"].shape[1]
    longer = {"input_ids": ids, "attention_mask": F.pad(inputs["attention_mask"], (0, extra), value=1)}
    for key in ("mm_token_type_ids", "token_type_ids"):
        if key in inputs:
            longer[key] = F.pad(inputs[key], (0, extra), value=causal if key == "token_type_ids" else 0)
    return inputs | longer


def causal_type(cell: Cell) -> int:
    """In paligemma type 0 is the bidirectional prefix, elsewhere it is text."""
    return int(cell.tiny.name == "paligemma")


# ---------------------------------------------------------------- properties


def identity(cell: Cell) -> float:
    """Full budget: forward, loss and generation are the untouched model's, to the bit."""
    worst = 0.0
    for left in (True, False):
        inputs = cell.make(left=left)
        labels = labels_of(inputs)
        before, loss = cell.logits(inputs), cell.model(**inputs, labels=labels).loss.detach()
        answer = cell.generate(inputs) if left else None
        for realizer in cell.realizers:
            with cell.wrapped(BUDGETS[-1], realizer=realizer) as arr:
                worst = max(worst, difference(cell.logits(inputs), before))
                worst = max(worst, difference(cell.model(**inputs, labels=labels).loss.detach(), loss))
                if answer is not None:
                    again = cell.generate(inputs)
                    assert torch.equal(again.sequences, answer.sequences)
                    worst = max(worst, difference(again.logits, answer.logits))
                assert all(record.tokens == record.full_tokens for record in arr.last) and arr.last[0].tokens > 0
    assert worst == 0
    return worst


def drop_is_mask(cell: Cell) -> float:
    """Dropping tokens equals masking them in the untouched model at full length."""
    if cell.tiny.name in LINEAR:
        raise Skip("linear-attention or convolution layers: masking a key is not dropping it")
    inputs, numbering = cell.make(), cell.numberings[-1]
    with cell.wrapped(realizer="select", positions=numbering) as arr:
        short, kept = cell.logits(inputs), arr.kept
    mask = torch.zeros_like(inputs["attention_mask"])
    for sample, places in enumerate(kept):
        mask[sample, places] = 1
    assert mask.sum() < inputs["attention_mask"].sum() - 25
    base = cell.model.base_model
    if hasattr(base, "get_rope_index"):
        names = set(inspect.signature(base.get_rope_index).parameters)
        positions, _ = base.get_rope_index(**{k: v for k, v in inputs.items() if k in names})
    else:
        counted = mask if numbering == "compact" else inputs["attention_mask"]
        positions = (counted.cumsum(-1) - 1).clamp(min=0) + (cell.tiny.name == "paligemma")
    full = cell.logits(inputs | {"attention_mask": mask}, position_ids=positions)
    unmasked = cell.logits(inputs)
    assert (short[0, -4:] - unmasked[0, -4:]).abs().max() > 0.02
    return close(*(difference(short[s, -len(k) :], full[s, k]) for s, k in enumerate(kept)))


def alone(cell: Cell) -> float:
    """A question taken out of its batch has its own images: the features that they have in the batch."""
    inputs, figures = cell.make(left=False), []
    call = Call(cell.model, cell.family, inputs, SIDE)
    with torch.no_grad():
        whole = call.full.streams
        for sample in set(call.sample_of):
            entries = [e for e, owner in enumerate(call.sample_of) if owner == sample]
            rows = slice(call.starts[entries[0]], call.starts[entries[-1] + 1])
            question = call.question(sample)
            figures += [difference(a, b[rows]) for a, b in zip(question.full.streams, whole, strict=True)]
            assert torch.equal(question.inputs["input_ids"][0], inputs["input_ids"][sample, call.prompt(sample)])
    return close(*figures)


def joined(cell: Cell) -> float | str:
    """Patches at full detail, handed to the tower one after another as one segment, give the native features."""
    if not cell.family.can_join:
        return "own"  # no patch is told where it stood
    call = Call(cell.model, cell.family, cell.make(), SIDE)
    views: dict[tuple[int, int], list[Any]] = {}
    for patch in call.patches:
        views.setdefault((patch.entry, patch.view), []).append(patch)
    assert max(map(len, views.values())) > 1
    segments = [
        Segment(tuple(group), tuple((p.height, p.width) for p in group), False, entry)
        for (entry, _), group in views.items()
    ]
    with torch.no_grad():
        native, joint = call.full.streams, cell.family.encode_resized(cell.model, call.inputs, segments).streams
    order = torch.cat([call.rows(patch).reshape(-1) for patch in call.patches]).argsort()
    return close(*(difference(a, b[order]) for a, b in zip(native, joint, strict=True)))


def allocation(cell: Cell) -> str:
    """Placeholders = feature rows = realised tokens (and newline rows, where a layout has such)."""
    inputs, counts = cell.make(), ""
    before = int((inputs["input_ids"] == tiny.IMAGE).sum())
    for realizer in cell.realizers:
        with cell.wrapped(realizer=realizer) as arr:
            seen = cell.seen(inputs)
            images = (seen["input_ids"] == tiny.IMAGE).sum(1).tolist()
            records = arr.last
        rows = seen["mm_encoder_outputs"]["image"].pooler_output
        assert sum(part.reshape(-1, part.shape[-1]).shape[0] for part in rows) == sum(images)
        assert images == [record.tokens + record.newlines for record in records]
        for record in records:
            assert record.tokens == sum(record.realised) and (record.tokens < record.full_tokens or not record.patches)
            assert all(real <= nominal for real, nominal in zip(record.realised, record.budgets, strict=True))
        counts = counts or f"{before} to {sum(images)}"
    return counts


def cached(cell: Cell) -> float:
    """Generation with a cache, without one, and a loop of forward calls agree step by step."""
    inputs, figures = cell.make(), []
    length = inputs["input_ids"].shape[1]
    for realizer in sorted({"pool", cell.family.auto_realizer}):
        for positions in cell.numberings:
            with cell.wrapped(realizer=realizer, positions=positions):
                with_cache, without = cell.generate(inputs), cell.generate(inputs, use_cache=False)
                assert torch.equal(with_cache.sequences[:, :length], inputs["input_ids"])
                assert torch.equal(with_cache.sequences, without.sequences)
                figures.append(difference(with_cache.logits, without.logits))
                for step in range(STEPS):
                    longer = grown(inputs, with_cache.sequences[:, : length + step], causal_type(cell))
                    figures.append(difference(cell.logits(longer)[:, -1], with_cache.logits[step]))
                alone = cell.make(0)  # nothing is padded: generate passes no mask on
                figures.append(difference(cell.generate(alone).logits, cell.generate(alone, use_cache=False).logits))
    return close(*figures)


def batch_is_single(cell: Cell) -> float:
    """Left and right padding, unequal totals, several images, a sample without one."""
    figures = []
    for realizer in sorted({"pool", cell.family.auto_realizer}):
        for left in (True, False):
            inputs = cell.make(left=left)
            with cell.wrapped(realizer=realizer) as arr:
                together, kept = cell.logits(inputs), arr.kept
                batch = cell.generate(inputs) if left else None
                totals = {record.tokens for record in arr.last}
                assert len(totals) > 2 - (len(cell.prompts) < 4)
                for sample in range(len(cell.prompts)):
                    alone = cell.make(sample, left=left)
                    span = slice(-len(kept[sample]), None) if left else slice(0, len(kept[sample]))
                    figures.append(difference(together[sample, span], cell.logits(alone)[0]))
                    if batch is not None:
                        answer = cell.generate(alone)
                        assert torch.equal(batch.sequences[sample, -STEPS:], answer.sequences[0, -STEPS:])
                        for a, b in zip(batch.logits, answer.logits, strict=True):
                            figures.append(difference(a[sample], b[0]))
    # A scan over a padded sequence is cut into other chunks, in the untouched model too.
    return close(*figures, tolerance=2e-4 if cell.tiny.name in LINEAR else TOLERANCE)


def beams(cell: Cell) -> float:
    """Beam search, one and two sequences returned: batch = alone, prompts as given."""
    inputs, figures = cell.make(), []
    attempt(lambda: cell.generate(inputs, num_beams=2))
    with cell.wrapped():
        for many in (1, 2):
            options = {"num_beams": 2, "num_return_sequences": many, "output_scores": True, "max_new_tokens": 3}
            batch = cell.generate(inputs, **options)
            for sample in range(len(cell.prompts)):
                rows = slice(many * sample, many * (sample + 1))
                assert torch.equal(batch.sequences[rows, :-3], inputs["input_ids"][sample].expand(many, -1))
                alone = cell.generate(cell.make(sample), **options)
                assert torch.equal(batch.sequences[rows, -3:], alone.sequences[:, -3:])
                figures.append(difference(batch.sequences_scores[rows], alone.sequences_scores))
    return close(*figures)


def sampling(cell: Cell) -> float:
    """Seeded sampling of three sequences: reproducible, each from its own prompt."""
    inputs = cell.make()
    attempt(lambda: cell.generate(inputs, max_new_tokens=1, num_return_sequences=2, do_sample=True))
    with cell.wrapped(), torch.random.fork_rng(devices=[]):
        want = cell.generate(inputs, max_new_tokens=1).logits[0].repeat_interleave(3, 0)
        runs = []
        for _ in range(2):
            torch.manual_seed(0)
            runs.append(cell.generate(inputs, max_new_tokens=2, do_sample=True, num_return_sequences=3))
    assert torch.equal(runs[0].sequences, runs[1].sequences)
    assert len({tuple(row.tolist()) for row in runs[0].sequences[:3]}) > 1
    return close(difference(runs[0].logits[0], want))


def static_cache(cell: Cell) -> float:
    """A static cache gives what a growing one gives."""
    inputs = cell.make(1)
    options = {"cache_implementation": "static", "disable_compile": True}
    same_natively(lambda: cell.generate(inputs, **options), cell, inputs)
    with cell.wrapped():
        return close(difference(cell.generate(inputs).logits, cell.generate(inputs, **options).logits))


def chunked_prefill(cell: Cell) -> float:
    """Prefill in chunks of 16 gives what one prefill gives."""
    inputs = cell.make(1)
    if transformers.__version__ < "5.23":
        with cell.wrapped():
            try:
                cell.generate(inputs, prefill_chunk_size=16)
            except ValueError as error:
                raise Skip(str(error)) from error
            raise AssertionError("not refused")
    same_natively(lambda: cell.generate(inputs, prefill_chunk_size=16), cell, inputs)
    with cell.wrapped():
        plain = cell.generate(inputs)
        return close(difference(plain.logits, cell.generate(inputs, prefill_chunk_size=16).logits))


def attempt(native: Callable[[], Any]) -> Any:
    """Run the untouched model; what it can't do itself is not asked of the wrapped one."""
    try:
        with torch.random.fork_rng(devices=[]):
            return native()
    except Exception as error:
        raise Skip(f"the untouched model fails: {type(error).__name__}: {str(error).splitlines()[0][:60]}") from error


def same_natively(native: Callable[[], Any], cell: Cell, inputs: Any) -> None:
    """As :func:`attempt`, where the untouched model itself may also answer differently."""
    if difference(attempt(native).logits, cell.generate(inputs).logits) > TOLERANCE:
        raise Skip("the untouched model itself answers differently")


def eager(cell: Cell) -> float:
    """Eager attention gives what SDPA gives."""
    inputs = cell.make(0)
    try:
        with cell.wrapped():
            sdpa = cell.logits(inputs)
            cell.model.set_attn_implementation("eager")
            return close(difference(cell.logits(inputs), sdpa), tolerance=5 * TOLERANCE)
    finally:
        cell.model.set_attn_implementation("sdpa")


def loss(cell: Cell) -> float:
    """The loss is the cross entropy of the tokens that stay; no supervised token is lost."""
    inputs = cell.make(left=False)
    labels, terms = labels_of(inputs), []
    with cell.wrapped() as arr:
        out = cell.model(**inputs, labels=labels)
    supervised = 0
    for sample, places in enumerate(arr.kept):
        row, target = out.logits[sample, : len(places)], labels[sample, places]
        terms.append(F.cross_entropy(row[:-1], target[1:], ignore_index=-100, reduction="sum"))
        supervised += int((target[1:] != -100).sum())
        words = inputs["input_ids"][sample] >= tiny.WORDS.start
        assert int((target >= tiny.WORDS.start).sum()) == int((words & (labels[sample] != -100)).sum())
    # Models that mask padding themselves divide by the tokens that they see; others by the supervised ones.
    return close(abs(float(sum(terms).detach()) / supervised - float(out.loss.detach())), tolerance=1e-4)


def checkpointing(cell: Cell) -> float:
    """Gradient checkpointing: same loss, same gradients, and they reach the tower."""
    cell = Cell(zoo.build(cell.tiny.name))  # transformers leaves hooks behind when it is switched off
    inputs = cell.make(0, 1, left=False)
    labels, figures = labels_of(inputs), []
    gradients = []
    enable = getattr(cell.model, "activation_checkpointing_enable", cell.model.gradient_checkpointing_enable)
    disable = getattr(cell.model, "activation_checkpointing_disable", cell.model.gradient_checkpointing_disable)
    try:
        for on in (False, True):
            cell.model.train()
            for module in cell.model.modules():
                if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                    module.eval()
            if on:
                enable()
            cell.model.zero_grad(set_to_none=True)
            with cell.wrapped(realizer=cell.family.auto_realizer):
                out = cell.model(**inputs, labels=labels)
            out.loss.backward()
            figures.append(float(out.loss.detach()))
            gradients.append({n: p.grad.clone() for n, p in cell.model.named_parameters() if p.grad is not None})
    finally:
        disable()
    assert gradients[0].keys() == gradients[1].keys()
    towers = ("vis", "image_tower")
    reached = [n for n, g in gradients[0].items() if any(word in n for word in towers) and g.abs().sum() > 0]
    assert reached, "no gradient reaches the tower"
    biggest = max(float(g.abs().max()) for g in gradients[0].values())
    return close(
        abs(figures[0] - figures[1]),
        max(difference(gradients[0][n], gradients[1][n]) for n in gradients[0]) / biggest,
        tolerance=1e-4,
    )


def second_turn(cell: Cell) -> float:
    """A second turn on the kept cache is that of the whole conversation."""
    inputs = cell.make(0, 1)
    figures = []
    for positions in {"auto", cell.numberings[-1]}:
        with cell.wrapped(positions=positions) as arr:
            first = cell.generate(inputs)
            budgets = [record.budgets for record in arr.last]
            ids = torch.cat([first.sequences, torch.tensor([[40, 41, 42], [43, 44, 45]])], 1)
            second = grown(inputs, ids, causal_type(cell))
            whole = cell.generate(second, allocation=budgets)
            kept = cell.generate(second, **{cache_name(): output_cache(first)})
        assert torch.equal(kept.sequences, whole.sequences)
        figures.append(difference(kept.logits, whole.logits))
    return close(*figures)


def attention(cell: Cell) -> float:
    """The glance attention read under SDPA is the eager model's own attention map."""
    inputs = cell.make(1)
    with cell.wrapped(BUDGETS[0], needs=("glance",)) as arr:
        cell.logits(inputs)
        (scene,) = arr.planner.scenes
        read = scene.read_attention([-1])
        caught = cell.seen(inputs)
    caught.pop("use_cache", None)
    images = (caught["input_ids"][0] == tiny.IMAGE).nonzero().squeeze(1)
    try:
        cell.model.set_attn_implementation("eager")
        with torch.no_grad():
            out = cell.model(**caught, output_attentions=True, use_cache=False)
    finally:
        cell.model.set_attn_implementation("sdpa")
    maps = [m for m in out.attentions if isinstance(m, torch.Tensor) and m.ndim == 4]
    want = maps[-1][0, :, -1, images[_glance_order(cell, scene)]].float()
    assert read.sum(-1).max() < 1 + 1e-5
    return close(difference(read[0], want), tolerance=1e-4)


def _glance_order(cell: Cell, scene: Any) -> list[int]:
    """Of each glance token, patch after patch, its number among the placeholders of the prompt."""
    keys = []
    for patch, (rows, columns) in zip(scene.patches, scene.glance_grids, strict=True):
        for r in range(rows):
            for c in range(columns):
                y = patch.top + (2 * r + 1) * patch.height // (2 * rows)
                x = patch.left + (2 * c + 1) * patch.width // (2 * columns)
                keys.append((patch.entry, patch.view, y, x))
    newlines = isinstance(cell.family, AnyResolution)
    order: list[Any] = []
    for key in sorted(keys):
        # A newline follows each row of the tiles, and an overview that stands alone.
        if newlines and order and (order[-1][1] == 1 or order[-1][0] != key[0]) and order[-1][:3] != key[:3]:
            order.append((None,) * 4)
        order.append(key)
    ranks = {key: place for place, key in enumerate(order)}
    return [ranks[key] for key in keys]


def default_policy(cell: Cell) -> str:
    """The default policy with its three scorers, and the policies that look at nothing, answer under their limit."""
    inputs = cell.make()
    processor = SimpleNamespace(
        tokenizer=tiny.tokenizer(), image_processor=SimpleNamespace(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    )
    spent = []
    choices: list[dict[str, Any]] = [
        {"limit": 0.6},
        {"policy": "uniform", "budget": BUDGETS[1]},
        {"policy": "random", "limit": 0.6},
    ]
    for choice in choices:
        config = ArrCocConfig(budgets=BUDGETS, patch_side=SIDE, **choice)
        with arr_coc.wrap(cell.model, processor, config) as arr:
            out = cell.model.generate(**inputs, max_new_tokens=1, do_sample=False)
            assert torch.equal(out[:, :-1], inputs["input_ids"])
            shares = [record.tokens / record.full_tokens for record in arr.last if record.patches]
            if "limit" in choice:
                assert max(shares) <= 0.6
            if choice == {"limit": 0.6}:
                names = {"propositional", "perspectival", "participatory"}
                assert all(set(record.scores) == names for record in arr.last if record.patches)
            given = [[BUDGETS[-1]] * len(record.patches) for record in arr.last]
            cell.model.generate(**inputs, max_new_tokens=1, do_sample=False, allocation=given)
            assert all(record.tokens == record.full_tokens for record in arr.last)
            spent.append(sum(shares) / len(shares))
    return " / ".join(f"{share:.2f}" for share in spent)


def looked_once(cell: Cell) -> str:
    """Going on from the glance gives what reading everything again gives: nothing changed, something changed."""
    few, figures, taken = BUDGETS[0], [], []
    plans = [(few,)], [(few, few, 16, 9)], [(few,), (few, few, 16), MIXED]
    for inputs, patterns in zip((cell.make(1), cell.make(1), cell.make()), plans, strict=True):
        answers = []
        for once in (True, False):
            with cell.wrapped(realizer=cell.family.auto_realizer) as arr, pytest.MonkeyPatch.context() as patch:
                arr.planner = Deep(*patterns)
                if not once:
                    patch.setattr(Prefill, "_first", lambda *_: None)
                answers.append(cell.generate(inputs))
                assert once or not any(record.shared for record in arr.last)
                taken += [(record.shared, len(kept)) for record, kept in zip(arr.last, arr.kept, strict=True)]
        assert torch.equal(answers[0].sequences, answers[1].sequences)
        figures.append(difference(answers[0].logits, answers[1].logits))
    assert taken[0][0] == taken[0][1], "an unchanged prompt was read again"
    return f"{close(*figures):.0e}; {taken[2][0]} of {taken[2][1]}"


def no_trace(cell: Cell) -> float:
    """After detaching, also after an exception inside: outputs, hooks and every module's ``__dict__`` as before."""
    inputs = cell.make(0, 1)
    before_logits, before = cell.logits(inputs), state(cell.model)
    with cell.wrapped(needs=("glance",)):
        cell.logits(inputs)
        cell.model.generate(**inputs, max_new_tokens=1)
        assert state(cell.model) != before
        handle = cell.model.get_decoder().layers[-1].register_forward_pre_hook(_fail)
        try:
            for call in (cell.model, partial(cell.model.generate, max_new_tokens=1)):
                with pytest.raises(ArithmeticError):
                    call(**inputs)
        finally:
            handle.remove()
    assert state(cell.model) == before
    figure = difference(cell.logits(inputs), before_logits)
    assert figure == 0
    return figure


def _fail(*_: Any) -> None:
    raise ArithmeticError("no luck")


def state(model: torch.nn.Module) -> dict[str, dict[str, Any]]:
    """``__dict__`` of every module, containers copied, so that anything left behind shows."""

    def frozen(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: id(v) if isinstance(v, _OBJECTS) else repr(v) for key, v in value.items()}
        return id(value) if isinstance(value, _OBJECTS) else repr(value)

    return {name: {key: frozen(v) for key, v in vars(module).items()} for name, module in model.named_modules()}


_OBJECTS = (torch.nn.Module, torch.Tensor)


def layout(cell: Cell) -> str:
    """A patch's feature rows are those that its pixels move most, and pixels come back as they went in."""
    inputs = {k: v for k, v in cell.make(0, 3).items() if k in cell.family.feature_inputs(cell.model)}
    whole = cell.make(0, 3)
    call = Call(cell.model, cell.family, whole, SIDE)
    values = inputs["pixel_values"].clone().requires_grad_()
    shown = cell.family.pixels(cell.model, whole | {"pixel_values": values}, call.patches, (0.5, 0.1))
    assert all(0 <= float(p.min()) and float(p.max()) <= 1 for p in shown)
    with torch.no_grad():
        before = cell.family.encode(cell.model, inputs).streams[0]
    hits = 0
    for patch, pixels in zip(call.patches, shown, strict=True):
        (touched,) = torch.autograd.grad(pixels.sum(), values, retain_graph=True)
        moved = inputs["pixel_values"] + 0.5 * (touched != 0)
        with torch.no_grad():
            after = cell.family.encode(cell.model, inputs | {"pixel_values": moved}).streams[0]
        change = (after - before).norm(dim=-1)
        inside = torch.zeros(len(change), dtype=torch.bool)
        inside[call.rows(patch).reshape(-1)] = True
        view = [p for p in call.patches if (p.entry, p.view) == (patch.entry, patch.view)]
        others = [change[call.rows(p).reshape(-1)].mean() for p in view if p != patch]
        hits += not others or bool(change[inside].mean() > max(others))
    assert hits == len(call.patches), f"{hits} of {len(call.patches)}"
    return f"{hits} of {len(call.patches)}"


def saved(cell: Cell) -> str:
    """Share of the untouched model's FLOPs at a quarter of the tokens per patch: tower, language model, both."""
    inputs, realizer = cell.make(0), cell.family.auto_realizer
    try:
        cell.model.set_attn_implementation("eager")  # whose products are counted
        full = _flops(cell, inputs)
        with cell.wrapped(BUDGETS[1], realizer=realizer):
            less = _flops(cell, inputs)
    finally:
        cell.model.set_attn_implementation("sdpa")
    tower, language, total = (a / b for a, b in zip(less, full, strict=True))
    assert language < 0.6 and (tower < 0.6 if realizer == "rescale" else tower == 1)
    return f"{realizer}: {tower:.2f}, {language:.2f}, {total:.2f}"


def _flops(cell: Cell, inputs: dict[str, Any]) -> tuple[int, int, int]:
    """FLOPs of one forward: up to the language model, inside it and its head, and all."""
    counter, before = FlopCounterMode(display=False), []
    decoder = cell.model.get_decoder()
    handle = decoder.register_forward_pre_hook(lambda *_: before.append(counter.get_total_flops()))
    try:
        with counter:
            cell.logits(inputs)
    finally:
        handle.remove()
    total = counter.get_total_flops()
    return before[-1], total - before[-1], total


PROPERTIES: dict[str, Callable[[Cell], float | str]] = {
    "identity": identity,
    "drop = mask": drop_is_mask,
    "alone": alone,
    "joined": joined,
    "tokens": allocation,
    "cached = uncached": cached,
    "batch = single": batch_is_single,
    "beams": beams,
    "sampling": sampling,
    "static cache": static_cache,
    "chunked prefill": chunked_prefill,
    "eager = SDPA": eager,
    "loss": loss,
    "checkpointing": checkpointing,
    "second turn": second_turn,
    "attention": attention,
    "default policy": default_policy,
    "looked once": looked_once,
    "no trace": no_trace,
    "layout": layout,
    "FLOPs": saved,
}
EVERYWHERE = ("identity", "drop = mask", "alone", "joined", "looked once")
"""What every run of the tests checks for every family."""
ALSO = {
    ("qwen3_omni_moe_thinker", "tokens"), ("glm5_next", "attention"), ("exaone4_5", "cached = uncached"),
    ("minimax_m3_vl", "cached = uncached"),
}  # fmt: skip
"""What was once wrong in one family alone: every run checks it."""
WHOLE = ("llava (CLIP)", "gemma3", "mistral3", "llava_next")
"""Four layouts whose whole row every run checks; the Qwen layout has test modules of its own."""
