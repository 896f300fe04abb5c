"""estimate: tokens, operations and the expected share of time of a question, from a model's configuration alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..config import ArrCocConfig, below_floors, resolve_limit
from ..wrapping.cost import Forecast
from .images import MAX_PIXELS
from .sizes import check_config, check_pictures

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Estimate:
    """What one question about a picture will cost; shares are of the untouched model's tower and prefill.

    Attributes
    ----------
    forecast
        Tokens and operations.
    budgets
        Visual tokens of the family's own patch that can be chosen.
    realizer
        How patches are reduced.
    limit
        Tokens allowed, if a limit was given.
    way
        "glance": looking pays; "direct": the question is answered at full detail.
    why
        The reason, in words.
    """

    forecast: Forecast
    budgets: tuple[int, ...]
    realizer: str
    limit: int | None
    way: str
    why: str

    @property
    def floor(self) -> float:
        """Share of the visual tokens that every patch at its floor takes."""
        return self.forecast.floor / self.forecast.tokens

    @property
    def unchanged(self) -> float:
        """Share of the operations where the glance answers."""
        return 1.0 if self.way == "direct" else self.forecast.glance / self.forecast.untouched

    @property
    def raised(self) -> float:
        """Share of the operations where one patch is raised to full detail, the mean over patches."""
        return 1.0 if self.way == "direct" else self.forecast.raised / self.forecast.untouched

    def to_dict(self) -> dict[str, Any]:
        """The estimate as JSON-able data."""
        known = self.forecast
        return {
            "patches": known.patches, "tokens": known.tokens, "floor_tokens": known.floor, "words": known.words,
            "budgets": list(self.budgets), "realizer": self.realizer, "limit": self.limit, "way": self.way,
            "why": self.why, "operations": known.untouched, "floor": self.floor, "nothing_raised": self.unchanged,
            "one_patch_raised": self.raised,
        }  # fmt: skip

    def __str__(self) -> str:
        known = self.forecast
        lines = [
            f"{known.patches} patch{'es' if known.patches != 1 else ''}, {known.tokens:,} visual tokens; "
            f"every patch at its floor: {known.floor:,} ({self.floor:.0%})",
            f"budgets of a whole patch: {', '.join(map(str, self.budgets))}; realizer {self.realizer}",
            f"untouched model: {known.untouched / 1e12:.3g} T operations (tower and prefill, {known.words} words)",
        ]
        if self.limit is not None:
            lines.append(f"limit: {self.limit:,} tokens")
        if self.way == "direct":
            lines.append(f"answered directly, at the untouched model's cost: {self.why}")
        else:
            lines.append(f"glance, nothing raised: {self.unchanged:.0%} of that")
            lines.append(f"glance and look, one patch raised to full detail: {self.raised:.0%}")
        return "\n".join(lines)


def estimate(
    model: Any, size: tuple[int, int], processor: Any = None, config: ArrCocConfig | None = None, words: int = 40
) -> Estimate:
    """Estimate what a question about a picture will cost; no weights are loaded and nothing is run.

    Parameters
    ----------
    model
        Folder or hub name with ``config.json``, a transformers configuration, or a model (on any device, "meta" too).
    size
        (width, height) of the picture in pixels.
    processor
        Its processor, or its image processor alone; read from ``model`` where that is a name. A whole processor also
        makes the prompt, with its template.
    config
        As for :func:`arr_coc.wrap`: budgets, realizer, limit.
    words
        Words of the question; with an image processor alone, all tokens of the prompt besides the image.

    Raises
    ------
    ValueError
        For an unsupported model, a configuration that can't be built, a size that is not positive or above
        `MAX_PIXELS`, or an ``int`` limit that does not fit the picture.
    """
    if len(size) != 2 or any(not isinstance(side, int) or side < 1 for side in size):
        raise ValueError(f"size={size!r} must be (width, height) in pixels, two ints of at least 1.")
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"size={size!r} is above {MAX_PIXELS:,} pixels, the largest picture that is read.")
    try:
        return _estimate(model, size, processor, config, words)
    except (ValueError, TypeError, OSError, ImportError, NotImplementedError):
        raise
    except Exception as error:  # whatever a foreign configuration provokes
        if not isinstance(model, str):
            raise
        raise ValueError(
            f"the configuration of {model} can't be used ({type(error).__name__}: {str(error)[:200]}); check its files"
        ) from error


def _estimate(model: Any, size: tuple[int, int], processor: Any, config: ArrCocConfig | None, words: int) -> Estimate:
    from ..wrapping.wrapper import ArrCoc

    built, images = _model(model), _processor(model, processor)
    arr = ArrCoc(built, None, config or ArrCocConfig(), _Nobody())
    call = made_up(arr, images, size, words)
    known, costs = arr.builder.forecast(call), arr.builder.costs(call.patches)
    limit = resolve_limit(arr.config.limit, costs) if arr.config.limit is not None else None
    direct = arr.builder.directly(call) if arr.config.direct else None
    why = direct[1] if direct is not None else ""
    if below_floors(arr.config.limit, costs):
        why = f"limit={arr.config.limit} is below the floors, so the floors are the limit"
    way = "glance" if direct is None else "direct"
    return Estimate(known, arr.config.budgets, arr.realizer.name, limit, way, why)


class _Nobody:
    """A planner that is never asked."""

    needs: frozenset[str] = frozenset()

    def plan(self, scene: Any) -> Any:
        """Never called."""
        raise NotImplementedError


def _model(model: Any) -> PreTrainedModel:
    """The model itself, or one without weights."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    if isinstance(model, torch.nn.Module):
        return model
    config = AutoConfig.from_pretrained(model, trust_remote_code=False) if isinstance(model, str) else model
    check_config(str(model) if isinstance(model, str) else config.model_type, config.to_dict())
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


def _processor(model: Any, processor: Any) -> Any:
    from transformers import AutoProcessor

    if processor is None:
        if not isinstance(model, str):
            raise ValueError("Pass processor= too: a configuration does not say how pictures are cut and resized.")
        processor = AutoProcessor.from_pretrained(model, trust_remote_code=False)
    check_pictures(str(model) if isinstance(model, str) else type(processor).__name__, processor)
    return processor


def made_up(arr: Any, processor: Any, size: tuple[int, int], words: int) -> Any:
    """A call with a picture of noise of that size, and as many placeholders as it fills."""
    import numpy as np
    import torch
    from PIL import Image

    from ..realizing import Call
    from .ask import prepare

    noise = np.random.default_rng(0).integers(1, 255, (size[1], size[0], 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    if getattr(processor, "tokenizer", None) is not None:
        inputs = dict(prepare(processor, [picture], [" ".join(["what"] * words)]))
        return Call(arr.model, arr.family, inputs, arr.config.patch_side)
    made = processor(images=[picture], return_tensors="pt")
    inputs = {name: value for name, value in made.items() if name in arr.family.feature_inputs(arr.model)}
    count = sum(entry.count for entry in arr.family.layout(arr.model, inputs))
    image = arr.family.image_token(arr.model)
    text = int(image == 0)
    before = min(words, max(4, words // 4))  # the template, and behind the picture the question
    ids = [text] * before + [image] * count + [text] * (words - before)
    inputs["input_ids"] = torch.tensor([ids])
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return Call(arr.model, arr.family, inputs, arr.config.patch_side)
