"""What each kind of source holds, row by row: a name for error messages, and what makes the sample (or raises)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from ..asking.images import load_image
from ..config import nearest
from .task_config import FIELDS, TaskConfig

Sample = dict[str, Any]
LONGEST = 2**28
"""Letters of a line of JSON; a picture may stand in it."""
Row = tuple[str, Callable[[], Sample]]
"""A name for error messages, and what makes the sample (or raises)."""


def checked(sample: Sample) -> Sample:
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
    from ..reference import generate

    grid: Any = tuple(config.grid) if config.grid else None
    count = config.skip + (config.limit or 0)
    samples = generate(
        count, seed=config.seed, split=str(config.split), kinds=config.kinds, grid=grid, world=str(config.source)
    )
    for sample in samples:
        yield sample["question_id"], partial(dict, sample)


def _jsonl(config: TaskConfig) -> Iterator[Row]:
    folder = Path(config.images or Path(str(config.path)).parent)
    try:
        with Path(str(config.path)).open(encoding="utf-8") as lines:
            for number, line in enumerate(iter(partial(lines.readline, LONGEST + 1), ""), start=1):
                if len(line) > LONGEST:
                    raise ValueError(f"{config.path}, line {number}, is longer than {LONGEST:,} letters; cut it up")
                if line.strip():
                    yield f"line {number}", partial(_from_line, line, config, number - 1, folder)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"task.path={config.path!r} can't be read ({error}); give JSON Lines in UTF-8.") from error


def in_memory(config: TaskConfig, rows: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    """Rows that are mappings; relative image paths start from ``config.images`` or here."""
    folder = Path(config.images or ".")
    for number, row in enumerate(rows):
        yield f"row {number}", partial(_from_row, row, config, number, folder)


def _vqa_json(config: TaskConfig) -> Iterator[Row]:
    """The official pair: questions and annotations, joined on question_id."""
    questions = _official(str(config.path), "questions")
    known = {str(row.get("question_id")): row for row in _official(str(config.annotations), "annotations")}

    def make(question: dict[str, Any]) -> Sample:
        if str(question["question_id"]) not in known:
            raise ValueError("the annotation file has no such question")
        annotation = known[str(question["question_id"])]
        return {
            "image": load_image(_within(config.image_name.format(**question), (Path(str(config.images)),))),
            "question": question["question"],
            "answers": annotation["answers"],
            "kind": annotation.get("answer_type"),
            "image_id": question["image_id"],
            "question_id": question["question_id"],
        }

    for question in questions:
        yield f"question {question.get('question_id')}", partial(make, question)


def _official(file: str, key: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))[key]
    except (ValueError, LookupError, TypeError, OSError, RecursionError) as error:
        raise ValueError(f"{file} is no file of the official format ({error}); it must hold {key!r}") from error
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise ValueError(f"{file} is no file of the official format; {key!r} must be a list of objects")
    return found


def _fields(config: TaskConfig) -> Iterator[Row]:
    """Pictures, and beside each a JSON object whose keys are asked for."""
    pictures = {file.stem: file for file in sorted(Path(str(config.images)).iterdir())}
    for file in sorted(Path(str(config.annotations)).iterdir()):
        try:
            values = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        except (ValueError, OSError, RecursionError):
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
            folder = Path(str(config.images))
            yield f"{file.name}, {key}", partial(_from_row, row, config, 0, folder, within=(folder,))


def _unreadable(reason: str) -> Sample:
    raise ValueError(reason)


def _dataset(config: TaskConfig) -> Iterator[Row]:
    """A Hugging Face dataset: hub name, folder of files or saved dataset, or one CSV, JSON or Parquet file."""
    try:
        import datasets
    except ImportError as error:
        raise ImportError("task.source=dataset needs the package datasets: pip install 'arr-coc[eval]'") from error
    path, split = Path(str(config.path)), config.split or "train"
    if path.is_dir() and (path / "state.json").is_file():
        data = _opened(config, datasets.load_from_disk, str(path))
    elif path.is_file():
        kind = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}.get(path.suffix)
        if kind is None:
            raise ValueError(f"task.path={config.path!r}: a dataset file must end in .csv, .json, .jsonl or .parquet.")
        data = _opened(config, datasets.load_dataset, kind, data_files={split: str(path)}, split=split)
    else:
        data = _load(config, config.subset, split, config.streaming)
    column = config.columns.get("image") or "image"
    if column not in (data.column_names or [column]):
        raise ValueError(
            f"the data has no column {column!r} for the image, only {data.column_names}; set task.columns."
        )
    pictures = None
    if config.image_subset is not None:
        table = _raw(_load(config, config.image_subset, split, False), "image")
        pictures = _Pictures(table, {str(name): row for row, name in enumerate(table["id"])})
    else:
        data = _raw(data, column)
    folder = Path(config.images or (path.parent if path.is_file() else path))
    # The files of the library's own pictures lie where it has put them; a name in a text column is somebody's.
    within = () if pictures or (data.features and isinstance(data.features[column], datasets.Image)) else (folder,)
    for number, row in enumerate(data):
        yield f"row {number}", partial(_from_row, row, config, number, folder, pictures, within)


def _load(config: TaskConfig, subset: str | None, split: str, streaming: bool) -> Any:
    import datasets

    return _opened(config, datasets.load_dataset, str(config.path), subset, split=split, streaming=streaming)


def _opened(config: TaskConfig, load: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    try:
        return load(*arguments, **options)
    except Exception as error:  # not found, offline, unknown split, damaged: the library's first line says which
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"the dataset {config.path!r} can't be loaded: {said}") from error


class _Pictures:
    """Pictures of another table, by their ids."""

    def __init__(self, table: Any, rows: Mapping[str, int]) -> None:
        self.table, self.rows = table, rows

    def __getitem__(self, name: Any) -> Any:
        if str(name) not in self.rows:
            raise KeyError(f"there is no picture {str(name)!r} in the image subset")
        return self.table[self.rows[str(name)]]["image"]


def _raw(data: Any, column: str | None) -> Any:
    """The data with its pictures undecoded: one that is broken must cost one row, so the decoding is ours."""
    import datasets

    if data.features and isinstance(data.features[column], datasets.Image):
        return data.cast_column(column, datasets.Image(decode=False))
    return data


def _from_line(line: str, config: TaskConfig, number: int, folder: Path) -> Sample:
    row: Any = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError("it is no JSON object; write one object per line")
    return _from_row(row, config, number, folder, within=(folder,))


def _from_row(
    row: Mapping[str, Any],
    config: TaskConfig,
    number: int,
    folder: Path,
    pictures: _Pictures | None = None,
    within: Sequence[Path] = (),
) -> Sample:
    """A sample from one row, through the column mapping; a mapped column must exist. Columns that we have no name for
    come along: a reward of one's own may read them. Files outside of ``within`` are not read, if it names folders."""
    sample: Sample = {name: value for name, value in row.items() if name not in FIELDS}
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
            hint = nearest(theirs, row).partition("Known:")[0].strip()
            raise KeyError(f"no column {theirs!r} for {ours!r}, only {sorted(row)}; set task.columns. {hint}")
    if pictures is not None:
        sample.setdefault("image_id", sample["image"])
        sample["image"] = pictures[sample["image"]]
    sample["image"], digest = _image(sample["image"], folder, within)
    # The same picture under several questions is one cluster of the statistics, so unnamed images go by their content.
    sample.setdefault("image_id", digest)
    sample.setdefault("question_id", number)
    return sample


def _image(value: Any, folder: Path, within: Sequence[Path]) -> tuple[Image.Image, str]:
    """The picture of a cell (a path, bytes, a PIL image or the raw form of `datasets.Image`) and a name by its
    content."""
    if isinstance(value, Mapping):
        value = value["bytes"] if value.get("bytes") is not None else value["path"]
    if isinstance(value, str):
        if within and not value.startswith("data:") and "://" not in value:
            return load_image(_within(value, (folder, *within))), value
        return load_image(value, folder=folder), value
    image = load_image(value)
    content = value if isinstance(value, bytes) else image.tobytes()
    return image, hashlib.blake2b(content, digest_size=8).hexdigest()


def _within(name: str, folders: Sequence[Path]) -> Path:
    """The file of that name in the first folder, if it lies in one of them: a row of somebody else's names no other
    file of this disk, by ``..``, from the root or through a link."""
    file = folders[0] / name
    roots = [folder.resolve() for folder in folders]
    # In the hub's cache a snapshot is a folder of links to its neighbour.
    roots += [above.parent / "blobs" for root in roots for above in root.parents if above.name == "snapshots"]
    if not any(file.resolve().is_relative_to(root) for root in roots):
        raise ValueError(
            f"the picture {name[:200]!r} lies outside of {folders[0]}, and the rows may be somebody else's; if you "
            "trust them, name the folder that holds all of it: task.images=/"
        )
    return file


READERS: dict[str, Callable[[TaskConfig], Iterator[Row]]] = {
    "reference": _drawn,
    "pages": _drawn,
    "dataset": _dataset,
    "vqa_json": _vqa_json,
    "jsonl": _jsonl,
    "fields": _fields,
}
