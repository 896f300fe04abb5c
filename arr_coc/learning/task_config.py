"""The vocabulary of a task: where questions come from and how they are put, for learning and evaluation alike."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..config import nearest
from ..reference import MODELS
from .settings import check_types

SOURCES = (*MODELS, "dataset", "vqa_json", "jsonl", "fields", "rows")
FIELDS = ("image", "question", "answers", "answer", "kind", "image_id", "question_id")


@dataclass(kw_only=True)
class TaskConfig:
    """Where the questions come from.

    Parameters
    ----------
    source
        ``"reference"`` (drawn by the reference world), ``"pages"`` (by that of the second model), ``"dataset"``
        (Hugging Face `datasets`: a hub name or a local folder or file), ``"vqa_json"`` (the official pair of question
        and annotation files), ``"jsonl"`` (one JSON object a line), ``"fields"`` (a folder of pictures, and one of
        JSON objects of the same names: every key is asked for, as of SROIE's receipts), or ``"rows"`` (in memory, see
        `Task.of`). By default what ``path`` looks like; without a path the reference world.
    name
        What the run calls it; the source by default.
    path
        Hub name, folder or file (dataset, jsonl), or the questions file (vqa_json).
    subset, split
        Configuration and split of a dataset; the reference world's split ("learn" to learn from, "eval" to be judged
        on, by default). A dataset without splits has the one split "train", the default for local data.
    annotations, images
        Annotation file of the official pair, or folder of the objects (fields); folder against which image names are
        resolved.
    image_name
        How the official pair names its files, e.g. ``"COCO_val2014_{image_id:012d}.jpg"``.
    image_subset
        Subset of the same dataset that holds the pictures, by ids in its column "id"; the image column then names one
        (GQA).
    columns
        From our names (image, question, answers, answer, kind, image_id, question_id) to the data's; a dot leads into
        a mapping ("types.structural"), null leaves out a column that the data has (an id that is not unique), and
        braces put a text together ("{directory}/{identifier}.png").
    prompt
        The text around the question, with ``{question}`` in it.
    reward
        Registered reward; "vqa_accuracy" by default.
    skip, limit
        Rows to pass over first; largest number of questions from there on, ``None`` takes all (the reference world is
        endless and needs one). Where a dataset has no split to learn from, learn beyond the rows that are judged.
    seed
        Seed of the reference world.
    kinds, grid
        Restrict the reference world to some kinds of question or one grid of patches.
    streaming
        Read a dataset as a stream.
    max_unreadable
        Share of rows that may be unreadable before the run stops.
    """

    source: str | None = None
    name: str | None = None
    path: str | None = None
    subset: str | None = None
    image_subset: str | None = None
    split: str | None = None
    annotations: str | None = None
    images: str | None = None
    image_name: str = "{image_id}.jpg"
    columns: dict[str, str | None] = field(default_factory=dict)
    prompt: str = "{question}"
    reward: str = "vqa_accuracy"
    skip: int = 0
    limit: int | None = 300
    seed: int = 0
    kinds: list[str] | None = None
    grid: list[int] | None = None
    streaming: bool = False
    max_unreadable: float = 0.05

    def __post_init__(self) -> None:
        check_types(self)
        if self.source is None:
            self.source = self._likely()
        if self.source not in SOURCES:
            raise ValueError(f"task.source={self.source!r} is unknown. {nearest(self.source, SOURCES)}")
        if self.source in MODELS:
            for name in ("path", "annotations", "images", "subset", "image_subset"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"task.{name}={getattr(self, name)!r} would be ignored: task.source={self.source!r} draws its "
                        f"own questions. Leave task.source out, or set it to one of {', '.join(SOURCES[2:-1])}."
                    )
            self.split = self.split or "eval"
        for name, least in (("skip", 0), ("limit", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                more = ", or null for all questions" if name == "limit" else ""
                raise ValueError(f"task.{name}={value} must be at least {least}{more}.")
        if not 0 <= self.max_unreadable <= 1:
            raise ValueError(f"task.max_unreadable={self.max_unreadable} must be a share in [0, 1].")
        if "{question}" not in self.prompt:
            raise ValueError(f"task.prompt={self.prompt!r} must contain {{question}}.")

    def _likely(self) -> str:
        if self.path is None:
            return "reference"
        if self.annotations is not None:
            return "vqa_json"
        return "jsonl" if self.path.endswith(".jsonl") else "dataset"
