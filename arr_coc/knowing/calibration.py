"""What was found out about a model without labels, as a small file that fits that model alone."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import ArrCocConfig, check_trust
from .base import make_scorer

FORMAT = 1


def fingerprint(model: Any, processor: Any) -> dict[str, str]:
    """What a calibration depends on: the model, its processor, and how a question is put to it."""
    tokenizer = getattr(processor, "tokenizer", processor)
    template = getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None)
    return {
        "model": str(getattr(model.config, "_name_or_path", "")),
        "model_type": str(model.config.model_type),
        "processor": type(processor).__name__,
        "template": hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:16],
    }


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Where a model's relevance is read, how far it can be trusted, and what its doubt is worth.

    Attributes
    ----------
    made_for
        See `fingerprint`.
    reading
        Options of the participatory scorer (``layers``, ``weights``, ``prior``); empty where nothing was found that
        beats the model's default on held-out pictures.
    relevance_floor
        Relevance of any patch, relative to the first: how much likelier the first one is to hold the evidence.
    doubt
        Knots (doubt, probability that more detail changes the answer), both rising; ``None`` leaves doubt as it is.
    report
        What was measured, for people.
    """

    made_for: dict[str, str]
    reading: dict[str, Any] = field(default_factory=dict)
    relevance_floor: float = 0.0
    doubt: list[list[float]] | None = None
    report: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # A file of somebody else's is data: it says where to look, and names nothing to load.
        if not isinstance(self.made_for, dict) or not isinstance(self.report, dict):
            raise ValueError("made_for and report must be mappings")
        if not isinstance(self.reading, dict) or not self.reading.keys() <= {"layers", "weights", "prior"}:
            raise ValueError(f"reading={self.reading!r} may hold layers, weights and prior alone")
        layers = self.reading.get("layers", [0])
        if not isinstance(layers, list) or not all(type(layer) is int and 0 <= layer < 10_000 for layer in layers):
            raise ValueError(f"layers={str(layers)[:80]} must be numbers of layers")
        make_scorer({"name": "participatory", **self.reading})
        check_trust({"relevance_floor": self.relevance_floor, "doubt": self.doubt})

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the file, atomically."""
        from allocator.storage import replace_file

        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_file(target, json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1) + "\n")
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read the file.

        Raises
        ------
        FileNotFoundError, ValueError
            If there is none, or it is damaged.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            if values.pop("format") != FORMAT:
                raise ValueError("another format")
            return cls(**values)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path} holds no calibration ({error}); make one with arr-coc calibrate") from error

    def apply(self, config: ArrCocConfig, model: Any, processor: Any) -> ArrCocConfig:
        """The configuration with what was found in it.

        Raises
        ------
        ValueError
            If it was made for another model, processor or prompt template.
        """
        here = fingerprint(model, processor)
        apart = [
            f"{key} is {here[key]!r}, not {self.made_for.get(key)!r}"
            for key in here
            if here[key] != self.made_for.get(key)
        ]
        if apart:
            raise ValueError(f"this calibration was made for another model: {'; '.join(apart)}; calibrate this one")
        scorers = [self._read(spec) for spec in config.scorers]
        trust = {"relevance_floor": self.relevance_floor, "doubt": self.doubt}
        return dataclasses.replace(config, scorers=tuple(scorers), trust=trust)

    def _read(self, spec: Any) -> Any:
        own = {"name": spec} if isinstance(spec, str) else dict(spec)
        plain = own["name"] == "participatory" and own.get("variant", "attention") == "attention"
        return {**own, **self.reading} if plain and self.reading else spec
