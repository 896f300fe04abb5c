"""Questions to evaluate on, from four sources, in one shape; rows that cannot be read are counted, never silently
dropped.

A sample is a dict: ``image`` (PIL, RGB), ``question``, ``answers`` (list of str), ``kind``, ``image_id`` and
``question_id`` (str, unique), and whatever else its source knows (the reference world: ``evidence``, ``grid``,
``level``).
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from arr_coc.asking.images import load_image, to_rgb
from arr_coc.reference import MODELS

from .config import TaskConfig

Sample = dict[str, Any]
Row = tuple[str, Callable[[], Sample]]
"""A name for error messages, and what makes the sample (or raises)."""

FIELDS = ("image", "question", "answers", "answer", "kind", "image_id", "question_id")


class Task:
    """An iterable of samples that can be read again and again in the same order.

    Attributes
    ----------
    config
        See `TaskConfig`.
    name
        What reports call it.
    unreadable
        ``{"row", "reason"}`` of each row that the last pass could not read.
    read
        Rows that the last pass looked at.

    Raises
    ------
    ValueError
        While iterating, when more than ``max_unreadable`` of the rows cannot be read, a question's id comes twice,
        or no row is left.
    """

    def __init__(self, config: TaskConfig) -> None:
        self.config, self.name = config, config.name or config.source
        self.unreadable: list[dict[str, str]] = []
        self.read = 0
        _check_paths(config)

    def __iter__(self) -> Iterator[Sample]:
        self.unreadable, self.read = [], 0
        seen: set[str] = set()
        for name, make in _SOURCES[self.config.source](self.config):
            if self.config.limit is not None and len(seen) >= self.config.limit:
                break
            self.read += 1
            try:
                sample = _checked(make())
            except (ValueError, TypeError, KeyError, OSError, Image.DecompressionBombError) as error:
                self.unreadable.append({"row": name, "reason": f"{type(error).__name__}: {error}"})
                if self.read >= 20:
                    self._check_unreadable()
                continue
            if sample["question_id"] in seen:
                raise ValueError(
                    f"task {self.name}: question_id {sample['question_id']!r} comes twice; ids must be unique"
                )
            seen.add(sample["question_id"])
            sample["question"] = self.config.prompt.format(question=sample["question"])
            yield sample
        self._check_unreadable()
        if not seen:
            raise ValueError(
                f"task {self.name}: no question could be read; check task.path, task.split and task.columns"
            )

    def _check_unreadable(self) -> None:
        if len(self.unreadable) > self.config.max_unreadable * self.read:
            first = "; ".join(f"row {bad['row']}: {bad['reason']}" for bad in self.unreadable[:3])
            raise ValueError(
                f"task {self.name}: {len(self.unreadable)} of {self.read} rows cannot be read, more than "
                f"task.max_unreadable={self.config.max_unreadable} allows. {first}"
            )


def _check_paths(config: TaskConfig) -> None:
    if config.source in MODELS:
        if config.limit is None:
            raise ValueError("task.limit=null: the reference worlds are endless; give the number of questions.")
        return
    if config.source == "fields":
        for name in ("images", "annotations"):
            folder = getattr(config, name)
            if folder is None or not Path(folder).is_dir():
                raise ValueError(f"task.{name}={folder!r} is no folder; source 'fields' needs pictures and objects.")
        return
    if config.path is None:
        raise ValueError(f"task.path is missing: source {config.source!r} needs to know where the questions are.")
    if config.source == "vqa_json" and (config.annotations is None or config.images is None):
        raise ValueError(
            "task.source=vqa_json needs task.annotations (file) and task.images (folder) beside task.path."
        )
    for name in ("path", "annotations"):
        if config.source == "fields":
            break
        file = getattr(config, name)
        if file is not None and (config.source != "dataset") and not Path(file).is_file():
            raise ValueError(f"task.{name}={file!r} is no file; check the path.")
    if config.images is not None and not Path(config.images).is_dir():
        raise ValueError(f"task.images={config.images!r} is no folder; check the path.")
    for ours in config.columns:
        if ours not in FIELDS:
            raise ValueError(
                f"task.columns has the key {ours!r}; it maps our names ({', '.join(FIELDS)}) to the data's."
            )


def _checked(sample: Sample) -> Sample:
    """The sample with its answers as a list of str and its ids as str."""
    if not isinstance(sample.get("question"), str) or not sample["question"].strip():
        raise ValueError(f"question {sample.get('question')!r} is empty or no text")
    answers = sample.get("answers")
    if answers is None:
        answers = [sample["answer"]] if sample.get("answer") is not None else []
    elif isinstance(answers, Mapping):  # datasets turns a list of mappings into a mapping of lists
        answers = answers["answer"]
    elif isinstance(answers, str):
        answers = [answers]
    sample["answers"] = [str(a["answer"] if isinstance(a, Mapping) else a) for a in answers]
    if not sample["answers"]:
        raise ValueError("there is no answer; map a column to 'answers' or 'answer'")
    kind = sample.get("kind") or "all"
    sample["kind"] = (
        str(kind) if isinstance(kind, str) or not isinstance(kind, Sequence) else ", ".join(map(str, kind))
    )
    sample["question_id"], sample["image_id"] = str(sample["question_id"]), str(sample["image_id"])
    return sample


def _drawn(config: TaskConfig) -> Iterator[Row]:
    from arr_coc.reference import generate

    grid = tuple(config.grid) if config.grid else None
    samples = generate(
        config.limit, seed=config.seed, split=config.split, kinds=config.kinds, grid=grid, world=config.source
    )
    for sample in samples:
        yield sample["question_id"], partial(dict, sample)


def _jsonl(config: TaskConfig) -> Iterator[Row]:
    folder = Path(config.images or Path(str(config.path)).parent)
    with Path(str(config.path)).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield f"line {number}", partial(_from_line, line, config, number, folder)


def _vqa_json(config: TaskConfig) -> Iterator[Row]:
    """The official pair: questions and annotations, joined on question_id."""
    questions = json.loads(Path(str(config.path)).read_text(encoding="utf-8"))["questions"]
    annotations = json.loads(Path(str(config.annotations)).read_text(encoding="utf-8"))["annotations"]
    known = {annotation["question_id"]: annotation for annotation in annotations}

    def make(question: dict[str, Any]) -> Sample:
        if question["question_id"] not in known:
            raise ValueError("the annotation file has no such question")
        annotation = known[question["question_id"]]
        file = Path(str(config.images)) / config.image_name.format(**question)
        return {
            "image": load_image(file),
            "question": question["question"],
            "answers": annotation["answers"],
            "kind": annotation.get("answer_type"),
            "image_id": question["image_id"],
            "question_id": question["question_id"],
        }

    for question in questions:
        yield f"question {question['question_id']}", partial(make, question)


def _fields(config: TaskConfig) -> Iterator[Row]:
    """Pictures, and beside each a JSON object whose keys are asked for."""
    pictures = {file.stem: file for file in sorted(Path(str(config.images)).iterdir())}
    for file in sorted(Path(str(config.annotations)).iterdir()):
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, OSError):
            values = None
        if not isinstance(values, dict):
            yield file.name, partial(_unreadable, f"{file} is no JSON object")
            continue
        for key, value in values.items():
            if file.stem not in pictures:
                yield file.name, partial(_unreadable, f"no picture of this name in {config.images}")
                break
            row = {"image": pictures[file.stem].name, "question": key, "answer": value, "kind": key,
                   "image_id": file.stem, "question_id": f"{file.stem} {key}"}  # fmt: skip
            yield f"{file.name}, {key}", partial(_from_row, row, config, 0, Path(str(config.images)))


def _unreadable(reason: str) -> Sample:
    raise ValueError(reason)


def _dataset(config: TaskConfig) -> Iterator[Row]:
    """A Hugging Face dataset: hub name, folder of files or saved dataset, or one CSV, JSON or Parquet file."""
    try:
        import datasets
    except ImportError as error:
        raise ImportError("task.source=dataset needs the package datasets: pip install 'arr-coc[eval]'") from error
    path = Path(str(config.path))
    if path.is_dir() and (path / "state.json").is_file():
        data = datasets.load_from_disk(str(path))
    elif path.is_file():
        kind = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}.get(path.suffix)
        if kind is None:
            raise ValueError(f"task.path={config.path!r}: a dataset file must end in .csv, .json, .jsonl or .parquet.")
        data = datasets.load_dataset(kind, data_files={config.split: str(path)}, split=config.split)
    else:
        data = datasets.load_dataset(str(config.path), config.subset, split=config.split, streaming=config.streaming)
    column = config.columns.get("image", "image")
    if column not in (data.column_names or [column]):
        raise ValueError(
            f"the data has no column {column!r} for the image, only {data.column_names}; set task.columns."
        )
    pictures = None
    if config.image_subset is not None:
        table = _raw(datasets.load_dataset(str(config.path), config.image_subset, split=config.split), "image")
        pictures = _Pictures(table, {str(name): row for row, name in enumerate(table["id"])})
    else:
        data = _raw(data, column)
    folder = Path(config.images or (path.parent if path.is_file() else path))
    for number, row in enumerate(data):
        yield f"row {number}", partial(_from_row, row, config, number, folder, pictures)


class _Pictures:
    """Pictures of another table, by their ids."""

    def __init__(self, table: Any, rows: Mapping[str, int]) -> None:
        self.table, self.rows = table, rows

    def __getitem__(self, name: Any) -> Any:
        if str(name) not in self.rows:
            raise KeyError(f"there is no picture {str(name)!r} in the image subset")
        return self.table[self.rows[str(name)]]["image"]


def _raw(data: Any, column: str) -> Any:
    """The data with its pictures undecoded: one that is broken must cost one row, so the decoding is ours."""
    import datasets

    if data.features and isinstance(data.features[column], datasets.Image):
        return data.cast_column(column, datasets.Image(decode=False))
    return data


def _from_line(line: str, config: TaskConfig, number: int, folder: Path) -> Sample:
    return _from_row(json.loads(line), config, number, folder)


def _from_row(
    row: Mapping[str, Any], config: TaskConfig, number: int, folder: Path, pictures: _Pictures | None = None
) -> Sample:
    """A sample from one row, through the column mapping; a mapped column must exist."""
    sample: Sample = {}
    for ours in FIELDS:
        theirs = config.columns.get(ours, ours)
        if theirs is None:
            continue
        if "{" in theirs:
            sample[ours] = theirs.format(**row)
            continue
        first, _, rest = theirs.partition(".")
        if theirs in row:
            sample[ours] = row[theirs]
        elif rest and isinstance(row.get(first), Mapping) and rest in row[first]:
            sample[ours] = row[first][rest]
        elif ours in config.columns or ours in ("image", "question"):
            raise KeyError(f"no column {theirs!r} for {ours!r}, only {sorted(row)}; set task.columns")
    if pictures is not None:
        sample.setdefault("image_id", sample["image"])
        sample["image"] = pictures[sample["image"]]
    sample["image"], digest = _image(sample["image"], folder)
    # The same picture under several questions is one cluster of the statistics, so unnamed images go by their content.
    sample.setdefault("image_id", digest)
    sample.setdefault("question_id", number)
    return sample


def _image(value: Any, folder: Path) -> tuple[Image.Image, str]:
    """The picture of a cell (a path, bytes, a PIL image or the raw form of `datasets.Image`) and a name by its
    content."""
    if isinstance(value, Mapping):
        value = value["bytes"] if value.get("bytes") is not None else value["path"]
    if isinstance(value, str):
        return load_image(folder / value), value
    if isinstance(value, bytes):
        with Image.open(io.BytesIO(value)) as image:
            return to_rgb(image), hashlib.blake2b(value, digest_size=8).hexdigest()
    return to_rgb(value), hashlib.blake2b(value.tobytes(), digest_size=8).hexdigest()


_SOURCES: dict[str, Callable[[TaskConfig], Iterator[Row]]] = {
    "reference": _drawn,
    "pages": _drawn,
    "dataset": _dataset,
    "vqa_json": _vqa_json,
    "jsonl": _jsonl,
    "fields": _fields,
}
