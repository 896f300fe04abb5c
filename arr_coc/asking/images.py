"""Reading image files as people have them: whatever Pillow can decode becomes an upright RGB image.

A picture that cannot be used raises :class:`ImageError`, which names the file, the rule it breaks and the remedy.
"""

from __future__ import annotations

import difflib
import io
import logging
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

logger = logging.getLogger(__name__)

MAX_PIXELS = 80_000_000
"""Largest image that is decoded, in pixels: about 240 MB as RGB, and below the size at which Pillow warns."""

# First bytes, in lower case, of what people hand over as images and Pillow does not read: what it is, and the remedy.
_NOT_RASTER = (
    (b"%pdf", "it is a PDF document; export the page as PNG"),
    (b"<svg", "it is an SVG drawing; export it as PNG"),
    (b"<!doctype", "it is a web page; save the image itself"),
    (b"<html", "it is a web page; save the image itself"),
)
_RASTER = {
    b"\x89PNG": "PNG",
    b"\xff\xd8": "JPEG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"RIFF": "WebP",
    b"II*": "TIFF",
    b"MM\0": "TIFF",
}


class ImageError(ValueError):
    """An image file that cannot be used; the message names the file, the rule and the remedy."""


def load_image(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read an image file as an upright RGB image.

    JPEG, PNG, WebP, GIF, TIFF, BMP and whatever else this Pillow decodes. EXIF rotation is applied; palette, grey,
    16-bit and CMYK pictures are converted; transparent ones are laid on white. Of an animation the first frame is
    taken, which is logged as a warning.

    Parameters
    ----------
    path
        The file.
    max_pixels
        Upper bound on width * height. It is checked against the header, before anything is decoded.

    Returns
    -------
    PIL.Image.Image
        Mode "RGB", fully decoded, the file closed.

    Raises
    ------
    ImageError
        If the file is missing, unreadable, empty, truncated, no image, of zero size or above `max_pixels`.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path is {path!r}, it must be a file name; give PIL images to arr_coc.asking.images.to_rgb")
    file = Path(path)
    _check_file(file)
    return _decode(file, str(file), max_pixels)


def read_image(data: bytes, *, name: str = "the image", max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read the bytes of an image file; everything else is as in :func:`load_image`.

    Parameters
    ----------
    data
        The whole file.
    name
        What errors call it.
    max_pixels
        As in :func:`load_image`.
    """
    if not data:
        raise ImageError(f"{name} is empty (0 bytes); send the whole image file")
    return _decode(io.BytesIO(data), name, max_pixels)


def _decode(source: Path | io.BytesIO, name: str, max_pixels: int) -> Image.Image:
    with warnings.catch_warnings():
        # Pillow warns at 89 and refuses at 179 megapixels while it opens the header; both are beyond our own limit.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(source)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise _too_large(name, str(error), max_pixels) from error
        except UnidentifiedImageError as error:
            raise ImageError(f"{name} is not an image that can be read: {_describe(source)}") from error
        except PermissionError as error:
            raise ImageError(f"{name} cannot be opened: permission denied; make it readable (chmod +r)") from error
        except Exception as error:  # decoders raise nearly anything on malformed headers
            raise ImageError(f"{name} has a damaged or truncated header ({error}); save the image again") from error
    with image:
        width, height = image.size
        if width < 1 or height < 1:
            raise ImageError(f"{name} is {width} x {height} pixels; an image needs at least one pixel")
        if width * height > max_pixels:
            raise _too_large(name, f"{width} x {height} pixels", max_pixels)
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":  # in an MPO (many phones) the further frames are previews
            logger.warning("%s has %d frames; the first one is used", name, frames)
        try:
            image.load()
            return to_rgb(image)
        except ImageError as error:
            raise ImageError(f"{name}: {error}") from error
        except Exception as error:  # truncated and corrupt data surface as OSError, SyntaxError, struct.error, ...
            raise ImageError(
                f"{name} is truncated or corrupt ({error}); the whole image must decode: download or save it again"
            ) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow image to an upright RGB one: EXIF rotation applied, transparency laid on white.

    Parameters
    ----------
    image
        Any mode. "I;16*" counts as 16-bit grey; "I" too unless a value exceeds 65,535; those and "F" are otherwise
        stretched from their darkest to their brightest value, because such files declare no white.

    Returns
    -------
    PIL.Image.Image
        A new image of mode "RGB".

    Raises
    ------
    TypeError
        If `image` is not a Pillow image.
    ImageError
        If it has no pixels, or "F" values that are not finite.
    """
    if not isinstance(image, Image.Image):
        raise TypeError(f"image is a {type(image).__name__}, it must be a PIL image; read files with load_image")
    if image.width < 1 or image.height < 1:
        raise ImageError(f"the image is {image.width} x {image.height} pixels; an image needs at least one pixel")
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_eight_bit(np.asarray(image), image.mode)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _eight_bit(values: np.ndarray, mode: str) -> np.ndarray:
    """Grey values [H, W] of a deep mode as uint8 [H, W]."""
    deep = values.astype(np.float64)
    if not np.isfinite(deep).all():
        raise ImageError("the image holds NaN or infinite grey values; every pixel must be finite: replace them first")
    low, high = 0.0, 65535.0
    if mode == "F" or deep.max() > high or deep.min() < low:
        low, high = float(deep.min()), float(deep.max())
    return np.rint((deep - low) * (255.0 / max(high - low, 1e-12))).astype(np.uint8)


def _check_file(file: Path) -> None:
    """Refuse what is not a readable regular file before Pillow sees it."""
    if str(file).startswith(("http:/", "https:/", "hf:/", "s3:/")):  # Path has folded the double slash
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
        if file.stat().st_size == 0:
            raise ImageError(f"{file} is empty (0 bytes); download or save the image again")
    except OSError as error:
        reason = error.strerror
        raise ImageError(f"{file} cannot be looked at ({reason}); check the path and its permissions") from error


def _near_name(file: Path) -> Path | None:
    """The most similar name in the same directory, if any."""
    try:
        names = [entry.name for entry in file.parent.iterdir()]
    except OSError:
        return None
    near = difflib.get_close_matches(file.name, names, n=1, cutoff=0.7)
    return file.parent / near[0] if near else None


def _describe(source: Path | io.BytesIO) -> str:
    """What a file that Pillow does not know seems to be, with the remedy."""
    if isinstance(source, Path):
        with source.open("rb") as stream:
            head = stream.read(512)
    else:
        head = source.getbuffer()[:512].tobytes()
    for magic, name in _RASTER.items():
        if head.startswith(magic):
            return f"it starts like a {name}, but its header is damaged, cut off or declares zero size; save it again"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for magic, what in _NOT_RASTER:
        if start.startswith(magic) or (start.startswith(b"<?xml") and magic in start):
            return what
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"msf1"):
        return "it is a HEIC photograph, which Pillow does not read by itself; export it as JPEG"
    if head and b"\0" not in head and not any(byte > 127 for byte in head):
        return "it holds text; give a JPEG, PNG, WebP, GIF, TIFF or BMP file"
    return "the format is unknown or its first bytes are damaged; save it as JPEG, PNG or WebP"


def _too_large(name: str, size: str, max_pixels: int) -> ImageError:
    return ImageError(
        f"{name} is too large ({size}); the limit is {max_pixels:,} pixels, so that a small file cannot "
        "fill the memory: scale it down first"
    )
