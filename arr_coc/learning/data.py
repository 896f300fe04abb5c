"""Questions to learn from, by name: reference VQA, a JSON Lines file, or a Hugging Face dataset."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..asking.images import load_image, to_rgb
from ..config import nearest
from ..reference import MODELS


class Questions(Sequence[dict[str, Any]]):
    """Records of any source as samples with ``image`` (RGB), ``question`` and whatever else they hold.

    Parameters
    ----------
    records
        A list of mappings or a Hugging Face dataset. An image may be a Pillow image or the path of a file.
    columns
        Where ``image``, ``question``, ``answers`` or ``answer`` come from, if their columns have other names.
    folder
        What relative image paths start from.
    """

    def __init__(self, records: Any, columns: Mapping[str, str] | None = None, folder: Path = Path()):
        self.records, self.columns, self.folder = records, dict(columns or {}), folder
        if not len(records):
            raise ValueError("the dataset is empty; learning needs at least one question")
        for wanted, column in self.columns.items():
            if column not in records[0]:
                raise ValueError(f"the column {column!r} for {wanted!r} does not exist. {nearest(column, records[0])}")

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        record = dict(self.records[index])
        record.update({wanted: record[column] for wanted, column in self.columns.items()})
        for wanted in ("image", "question"):
            if wanted not in record:
                raise ValueError(
                    f"question {index} has no {wanted!r}; name its column, as in data.columns={{{wanted}: ...}}. "
                    f"{nearest(wanted, record)}"
                )
        image = record["image"]
        record["image"] = load_image(self.folder / image) if isinstance(image, str | Path) else to_rgb(image)
        return record


def load_questions(
    source: str = "reference",
    *,
    n: int,
    seed: int = 0,
    split: str | None = None,
    kinds: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
) -> Iterable[Mapping[str, Any]]:
    """Open a source of questions.

    Parameters
    ----------
    source
        ``"reference"`` draws reference VQA, ``"pages"`` questions about pages; a name ending in ``.jsonl`` is a file with one record per line
        (``image``: a path relative to the file, ``question``, ``answers`` or ``answer``); anything else is a Hugging
        Face dataset.
    n
        Questions that reference VQA draws.
    seed
        Of reference VQA.
    split
        "learn" (default) for reference VQA, "train" (default) for a Hugging Face dataset.
    kinds
        Kinds of reference questions; all by default.
    columns
        See :class:`Questions`.

    Returns
    -------
    iterable of mappings
        A generator for reference VQA, else a sequence.

    Raises
    ------
    ValueError
        If the source is missing, unreadable or empty.
    ImportError
        If a Hugging Face dataset is named and ``datasets`` is not installed.
    """
    if source in MODELS:
        from .. import reference

        return reference.generate(n, seed=seed, split=split or "learn", kinds=kinds, world=source)
    if source.endswith(".jsonl"):
        return Questions(_read_lines(Path(source)), columns, Path(source).parent)
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ImportError("Hugging Face datasets need the datasets library: pip install 'arr-coc[eval]'") from error
    try:
        return Questions(load_dataset(source, split=split or "train"), columns)
    except (OSError, ValueError) as error:  # not found, offline, unknown split: the library's first line says which
        raise ValueError(f"the dataset {source!r} can't be loaded: {str(error).splitlines()[0]}") from error


def _read_lines(file: Path) -> list[dict[str, Any]]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the questions in {file} can't be read ({error}); give JSON Lines in UTF-8") from error
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}, line {number} is no JSON ({error.msg}); write one object per line") from error
        if not isinstance(record, dict):
            raise ValueError(f"{file}, line {number} is no JSON object; write one object per line")
        records.append(record)
    return records
