"""easy-VQA in mosaics: several of its small pictures become the patches of one, and a question is about one of them.

The pictures and questions come from the wheel ``easy-vqa`` (Victor Zhou 2019, MIT), which is optional.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from PIL import Image
from tqdm.auto import tqdm

PATCH = 160
"""Side of a patch in pixels, as in our own worlds."""
PLACES = {2: ("top", "bottom"), 3: ("top", "middle", "bottom")}
COLUMNS = {2: ("left", "right"), 3: ("left", "center", "right")}


def write_mosaics(
    out: Path, n: int = 2000, grid: tuple[int, int] = (2, 2), seed: int = 0, asked: int = 12
) -> list[Path]:
    """Write ``n`` mosaics of the training pictures and ``n`` of the test pictures.

    Parameters
    ----------
    out
        Folder for ``train.jsonl``, ``test.jsonl`` and the pictures.
    n
        Mosaics of each part.
    grid
        Rows and columns of pictures, 2 or 3 each.
    seed
        Of which pictures meet, and which one is asked about.
    asked
        Questions about each mosaic of the training pictures; those of the test pictures have one, and so are
        independent.

    Returns
    -------
    list of Path
        The two files: lines with ``image``, ``question``, ``answer``, ``kind`` and ``evidence``: the patch.

    Raises
    ------
    ImportError
        If the wheel is not installed.
    ValueError
        For another grid.
    """
    if grid[0] not in PLACES or grid[1] not in COLUMNS:
        raise ValueError(f"grid is {grid}; it must be (rows, cols) with 2 or 3 of each")
    try:
        import easy_vqa
    except ImportError as error:
        raise ImportError("the mosaics are made of the package easy-vqa: pip install easy-vqa") from error
    files = []
    for part in ("train", "test"):
        texts, answers, pictures = getattr(easy_vqa, f"get_{part}_questions")()
        paths = getattr(easy_vqa, f"get_{part}_image_paths")()
        rng, ids = random.Random(f"{part}/{seed}"), sorted(paths)
        about: dict[int, list[int]] = {}
        for question, picture in enumerate(pictures):
            about.setdefault(picture, []).append(question)
        (out / part).mkdir(parents=True, exist_ok=True)
        files.append(out / f"{part}.jsonl")
        with files[-1].open("w", encoding="utf-8") as lines:
            for i in tqdm(range(n), desc=f"mosaics of {part}", unit="picture"):
                chosen = [rng.choice(ids) for _ in range(grid[0] * grid[1])]
                name = f"{part}/{i}.png"
                mosaic([Path(paths[picture]) for picture in chosen], grid).save(out / name)
                for _ in range(asked if part == "train" else 1):
                    place = rng.randrange(len(chosen))
                    row, column = divmod(place, grid[1])
                    one = rng.choice(about[chosen[place]])
                    where = f"{PLACES[grid[0]][row]} {COLUMNS[grid[1]][column]}"
                    line = {
                        "image": name, "image_id": name, "answer": answers[one], "evidence": [place],
                        "question": f"{where} : {texts[one].removesuffix('?').strip()} ?",
                        "kind": "yes/no" if answers[one] in ("yes", "no") else "what",
                    }  # fmt: skip
                    lines.write(json.dumps(line) + "\n")
    return files


def mosaic(files: list[Path], grid: tuple[int, int]) -> Image.Image:
    """Pictures in raster order as patches of one."""
    whole = Image.new("RGB", (grid[1] * PATCH, grid[0] * PATCH))
    for i, file in enumerate(files):
        with Image.open(file) as picture:
            patch = picture.convert("RGB").resize((PATCH, PATCH), Image.Resampling.BICUBIC)
        whole.paste(patch, (i % grid[1] * PATCH, i // grid[1] * PATCH))
    return whole
