"""Pictures as people hold them: whatever shows one becomes an upright RGB image, through one function.

Files and bytes are decoded in a process of its own, see `isolate`. A picture that cannot be used raises
:class:`ImageError`, which names it, the rule it breaks and the remedy.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from . import decode
from .isolate import decode_apart

logger = logging.getLogger(__name__)

MAX_PIXELS = 80_000_000
"""Largest image that is decoded, in pixels: about 240 MB as RGB, and below the size at which Pillow warns."""
MAX_BYTES = 512 * 2**20
"""Largest file that is read."""
SMALLEST_SIDE, LARGEST_ASPECT = 8, 50
"""A picture with a shorter side or a larger aspect is used, but warned of: it is hardly the one that was meant."""
_READ = "_read_by_arr_coc"  # what `load_image` has done need not be done again


class ImageError(ValueError):
    """An image that cannot be used; the message names it, the rule and the remedy."""


def load_image(
    source: Any, *, name: str | None = None, max_pixels: int = MAX_PIXELS, folder: str | os.PathLike[str] | None = None
) -> Image.Image:
    """Read a picture, whatever form it has, as an upright RGB image.

    Parameters
    ----------
    source
        One of

        - a path: JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, and HEIC where pillow-heif is installed;
        - the bytes of such a file, a file object open for reading bytes, or a ``data:image/...;base64,`` address;
        - a Pillow image of any mode;
        - a numpy array or torch tensor (anything with ``__array__``) of shape [H, W], [H, W, C] or [C, H, W] with 1, 3
          or 4 channels: integers or floats in 0 to 255, floats in 0 to 1, or booleans. Where both ends of the shape
          could be channels, an array is [H, W, C] and a tensor [C, H, W];
        - the mapping that `datasets` makes of an undecoded picture: ``bytes`` or ``path``.

        EXIF rotation is applied; palette, grey, 16-bit and CMYK pictures are converted; transparent ones are laid on
        white. Of an animation the first frame is taken, which is logged as a warning, as is a sliver of a picture.
    name
        What messages call it; by default its path, or "the image".
    max_pixels
        Upper bound on width * height. For files it is checked against the header, before anything is decoded.
    folder
        What a relative path starts from.

    Returns
    -------
    PIL.Image.Image
        Mode "RGB", fully decoded, a new image; what this function has returned before, as it is.

    Raises
    ------
    ImageError
        If it is missing, unreadable, empty, truncated, no image, of zero size, above `max_pixels`, an address, or an
        array of another shape or range.
    TypeError
        If it is none of the above.
    """
    if isinstance(source, Image.Image) and getattr(source, _READ, False) and source.mode == "RGB":
        return source
    if isinstance(source, Mapping):
        source = _of_mapping(source)
    if isinstance(source, str) and source.startswith("data:"):
        source, name = _of_address(source, name or "the image"), name or "the image"
    if isinstance(source, str | os.PathLike):
        file = Path(source) if folder is None else Path(folder) / source
        name = name or str(file)
        _check_file(file)
        try:
            data = file.read_bytes()
        except PermissionError as error:
            raise ImageError(f"{name} cannot be opened: permission denied; make it readable (chmod +r)") from error
        except OSError as error:
            raise ImageError(f"{name} cannot be read ({error.strerror}); check the disk, or copy it again") from error
        return read_image(data, name=name, max_pixels=max_pixels)
    name = name or "the image"
    if isinstance(source, bytes | bytearray | memoryview):
        return read_image(bytes(source), name=name, max_pixels=max_pixels)
    if callable(getattr(source, "read", None)) and not isinstance(source, Image.Image):
        data = source.read()
        if not isinstance(data, bytes):
            raise ImageError(f"{name} is a file object that gives {type(data).__name__}; open it for bytes ('rb')")
        return read_image(data, name=name, max_pixels=max_pixels)
    if not isinstance(source, Image.Image):
        source = _of_array(source, name, max_pixels)
    _check_size(source.width, source.height, name, max_pixels)
    return _finished(_upright(source, name), name)


def read_image(data: bytes, *, name: str = "the image", max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read the bytes of an image file; everything else is as in :func:`load_image`."""
    if not data:
        raise ImageError(f"{name} is empty (0 bytes); send the whole image file")
    if len(data) > MAX_BYTES:
        raise ImageError(f"{name} has {len(data):,} bytes; at most {MAX_BYTES:,} are read: scale it down first")
    try:
        image, animated = decode_apart(data, max_pixels)
    except decode.Refused as error:
        raise ImageError(f"{name} {error}") from error
    if animated:
        logger.warning("%s has several frames; the first one is used", name)
    return _finished(image, name)


def to_rgb(image: Image.Image) -> Image.Image:
    """As :func:`load_image` for a Pillow image, without its bounds and warnings."""
    return _upright(image, "the image")


def _upright(image: Image.Image, name: str) -> Image.Image:
    try:
        return decode.to_rgb(image)
    except decode.Refused as error:
        raise ImageError(f"{name} {error}") from error
    except (TypeError, MemoryError):
        raise
    except Exception as error:  # a picture that was opened and not yet read fails as its decoder pleases
        raise ImageError(f"{name} is truncated or corrupt ({error}); the whole image must decode") from error


def _finished(image: Image.Image, name: str) -> Image.Image:
    short, long = sorted(image.size)
    if short < SMALLEST_SIDE or long > LARGEST_ASPECT * short:
        logger.warning(
            "%s is %d x %d pixels: hardly anything can be seen in that; is it the picture that was meant?",
            name, *image.size,
        )  # fmt: skip
    setattr(image, _READ, True)
    return image


def _of_mapping(source: Mapping[Any, Any]) -> Any:
    for key in ("bytes", "path"):
        if source.get(key) is not None:
            return source[key]
    raise ImageError(
        f"the image is a mapping with the keys {sorted(map(str, source))[:5]}; it needs bytes or path, as datasets "
        "gives an undecoded picture"
    )


def _of_address(source: str, name: str) -> bytes:
    head, comma, body = source.partition(",")
    if not comma or not head.endswith(";base64"):
        raise ImageError(f"{name} is a data address that isn't base64; write data:image/png;base64,...")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"{name} is a damaged data address ({error}); encode the file again") from error


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(
            f"{name} is too large ({width} x {height} pixels); the limit is {max_pixels:,} pixels: scale it down first"
        )


def _of_array(source: Any, name: str, max_pixels: int) -> Image.Image:
    """A picture from an array [H, W], [H, W, C] or [C, H, W]."""
    if isinstance(source, list | tuple):
        raise TypeError(f"{name} is a {type(source).__name__} of {len(source)}; give one picture for each question")
    tensor = callable(getattr(source, "detach", None))
    if tensor:
        source = source.detach().cpu()
        source = source.float() if source.is_floating_point() else source  # numpy has no bfloat16
    elif not hasattr(source, "__array__"):
        raise TypeError(
            f"{name} is a {type(source).__name__}; give a path, bytes, a file object, a PIL image, a numpy array, a "
            "tensor, or a mapping with bytes or path"
        )
    array = np.asarray(source)
    shape = tuple(array.shape)
    if array.ndim == 3:
        first, last = shape[0] in (1, 3, 4), shape[2] in (1, 3, 4)
        if first and (tensor or not last):
            array = np.moveaxis(array, 0, 2)
        elif not last:
            raise ImageError(f"{name} has the shape {shape}; one of its ends must be 1, 3 or 4 channels")
        array = array[:, :, 0] if array.shape[2] == 1 else array
    elif array.ndim != 2:
        batch = "; it looks like a batch: give one picture at a time" if array.ndim == 4 else ""
        raise ImageError(f"{name} has the shape {shape}; it must be [H, W], [H, W, C] or [C, H, W]{batch}")
    if 0 in shape:
        raise ImageError(f"{name} has the shape {shape}; an image needs at least one pixel")
    _check_size(array.shape[1], array.shape[0], name, max_pixels)
    return Image.fromarray(np.ascontiguousarray(_bytes(array, name)))


def _bytes(array: np.ndarray, name: str) -> np.ndarray:
    """Values as uint8."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if not (np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating)):
        raise ImageError(f"{name} holds values of type {array.dtype}; pixels are integers, floats or booleans")
    low, high = array.min(), array.max()
    if not np.isfinite([low, high]).all():
        raise ImageError(f"{name} holds NaN or infinite values; every pixel must be finite: replace them first")
    if low < 0 or high > 255:
        raise ImageError(
            f"{name} has values from {low:g} to {high:g}; they must lie in 0 to 255, or in 0 to 1 as floats: undo a "
            "normalisation, or scale deeper values down"
        )
    if np.issubdtype(array.dtype, np.floating) and high <= 1:
        array = array.astype(np.float64) * 255
    return np.rint(array).astype(np.uint8)


def _check_file(file: Path) -> None:
    """Refuse what is not a readable regular file before anything is read."""
    if str(file).startswith(("http:/", "https:/", "hf:/", "s3:/", "gs:/")):  # Path has folded the double slash
        raise ImageError(f"{file} is an address; image files are read from disk: download it first")
    try:
        if file.is_dir():
            raise ImageError(f"{file} is a directory; name one image file in it")
        if not file.exists():
            near = _near_name(file)
            hint = f"did you mean {near}?" if near else "check the path"
            raise ImageError(f"{file} does not exist; {hint}")
        if not file.is_file():
            raise ImageError(f"{file} is not a regular file; images are read from files")
        size = file.stat().st_size
        if size == 0:
            raise ImageError(f"{file} is empty (0 bytes); download or save the image again")
        if size > MAX_BYTES:
            raise ImageError(f"{file} has {size:,} bytes; at most {MAX_BYTES:,} are read: scale the image down first")
    except OSError as error:
        reason = error.strerror
        raise ImageError(f"{file} cannot be looked at ({reason}); check the path and its permissions") from error
    except ValueError as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{str(file)!r} is no path ({error}); name an image file") from error


def _near_name(file: Path) -> Path | None:
    """The most similar name in the same directory, if any."""
    try:
        names = [entry.name for entry in file.parent.iterdir()]
    except OSError:
        return None
    near = difflib.get_close_matches(file.name, names, n=1, cutoff=0.7)
    return file.parent / near[0] if near else None
