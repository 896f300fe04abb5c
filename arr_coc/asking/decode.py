"""Decoding one picture, and the process that does it under limits; `isolate` starts and replaces that process.

Run as a program it answers on its standard output what it is sent on its standard input, one picture at a time. It
imports nothing of this package, so that starting it costs what Pillow costs.
"""

from __future__ import annotations

import io
import os
import re
import signal
import struct
import sys
import warnings
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
"""What is decoded, where this Pillow has it. A format that isn't named never runs: an EPS would start Ghostscript."""

MAX_SCANS = 100
"""Scans of a JPEG: a progressive one of a camera or the web has about ten, and each costs a pass over all pixels."""

REQUEST = struct.Struct(">QQ")  # bytes that follow, most pixels
REPLY = struct.Struct(">BIIQ")  # status, width, height, bytes that follow
DONE, ANIMATED, REFUSED, EXHAUSTED = range(4)

_SPARE = 192 * 2**20  # bytes of memory beside the pixels and the file itself
_PER_PIXEL = 24  # bytes: a transparent picture is held as four bytes three times over
_SECONDS, _SECONDS_PER_MEGAPIXEL = 3.0, 0.2  # of CPU time; a few times what slow machines need

# First bytes, in lower case, of what people hand over as images and is none that is read: what it is, and the remedy.
_NOT_RASTER = (
    (b"%pdf", "it is a PDF document; export the page as PNG"),
    (b"%!ps", "it is a PostScript drawing; export it as PNG"),
    (b"\xc5\xd0\xd3\xc6", "it is a PostScript drawing; export it as PNG"),
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
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([1-8])["<]')


class Refused(ValueError):
    """A picture that can't be used; the message goes on after its name."""


def decode(data: bytes, max_pixels: int, limit: Limits | None = None) -> tuple[Image.Image, bool]:
    """Decode an image file.

    Parameters
    ----------
    data
        The whole file.
    max_pixels
        Upper bound on width * height, checked against the header before anything is decoded.
    limit
        Told the size that the header declares.

    Returns
    -------
    tuple
        The upright picture, mode "RGB", and whether the file holds further frames.

    Raises
    ------
    Refused
        Whatever is wrong with it.
    MemoryError
        If it needs more than the process may have.
    """
    with warnings.catch_warnings():
        # Pillow warns at 89 and refuses at 179 megapixels while it opens the header; both are beyond our own limit.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.init()
        try:
            image = Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name in Image.OPEN])
        except MemoryError:
            raise
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise _too_large(str(error), max_pixels) from error
        except UnidentifiedImageError as error:
            raise Refused(f"is not an image that can be read: {_describe(data)}") from error
        except Exception as error:  # decoders raise nearly anything on malformed headers
            raise Refused(f"has a damaged or truncated header ({_line(error)}); save the image again") from error
        with image:
            width, height = image.size
            if width < 1 or height < 1:
                raise Refused(f"is {width} x {height} pixels; an image needs at least one pixel")
            if width * height > max_pixels:
                raise _too_large(f"{width} x {height} pixels", max_pixels)
            if data.startswith(b"\xff\xd8") and (scans := data.count(b"\xff\xda")) > MAX_SCANS:
                raise Refused(f"is a JPEG of {scans} scans, at most {MAX_SCANS} are read; save it again as PNG")
            if limit is not None:
                limit.allow(width * height)
            try:
                image.load()
                upright = to_rgb(image)
            except (Refused, MemoryError):
                raise
            except Exception as error:  # truncated and corrupt data surface as OSError, SyntaxError, struct.error, ...
                raise Refused(
                    f"is truncated or corrupt ({_line(error)}); the whole image must decode: download or save it again"
                ) from error
            return upright, _animated(image)


def _animated(image: Image.Image) -> bool:
    """Whether there are further frames. Asked only after the first one is safe, and never how many: counting those of
    a TIFF or GIF reads them all."""
    if image.format == "MPO":  # many phones: the further frames are previews
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except MemoryError:
        raise
    except Exception:  # a damaged second frame does no harm to the first
        return True


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
    ValueError
        If it has no pixels, or "F" values that are not finite.
    """
    if not isinstance(image, Image.Image):
        raise TypeError(f"image is a {type(image).__name__}, it must be a PIL image; read anything else by load_image")
    if image.width < 1 or image.height < 1:
        raise Refused(f"is {image.width} x {image.height} pixels; an image needs at least one pixel")
    image.load()  # before its orientation is asked for: Pillow turns a TIFF while loading it
    turn = _TRANSPOSITIONS.get(orientation(image))
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        shown = _eight_bit(image)
    elif image.has_transparency_data:
        shown = image.convert("RGBA")
        shown = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown).convert("RGB")
    else:
        shown = image.convert("RGB")  # a copy, where it is RGB already
    return shown if turn is None else shown.transpose(turn)


def orientation(image: Image.Image) -> int:
    """EXIF orientation of a picture, 1 to 8; 1 where it says nothing that makes sense.

    Only this tag is read. Pillow's own way reads the values of all of them, which overlap in a file that is made for
    it: 65,535 tags on the same 768 KiB are 48 GiB.
    """
    tags = getattr(image, "tag_v2", None)
    if tags is not None:
        return _valid(tags.get(0x0112))
    exif = image.info.get("exif")
    if isinstance(exif, bytes) and (found := _tag(exif)) != 1:
        return found
    old = image.info.get("Raw profile type exif")
    if not exif and isinstance(old, str):  # as ImageMagick writes it into a PNG: two lines, then hexadecimal digits
        try:
            return _tag(bytes.fromhex("".join(old.split("\n")[3:])))
        except ValueError:
            return 1
    for key in ("XML:com.adobe.xmp", "xmp"):
        packet = image.info.get(key)
        packet = packet.encode(errors="replace") if isinstance(packet, str) else packet
        if not exif and isinstance(packet, bytes) and (match := _XMP.search(packet)):
            return int(match[1])
    return 1


def _tag(exif: bytes) -> int:
    """The orientation in the first directory of an EXIF block."""
    start = 6 if exif.startswith(b"Exif\0\0") else 0
    order = {b"II": "<", b"MM": ">"}.get(exif[start : start + 2])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(order + "I", exif, start + 4)
        (count,) = struct.unpack_from(order + "H", exif, start + at)
        for entry in range(min(count, 1000)):
            tag, kind, number, value = struct.unpack_from(order + "HHIH", exif, start + at + 2 + 12 * entry)
            if tag == 0x0112:
                return _valid(value) if (kind, number) == (3, 1) else 1
    except struct.error:
        pass
    return 1


def _valid(value: object) -> int:
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _eight_bit(image: Image.Image) -> Image.Image:
    """A picture of deep grey as RGB, in strips: a megapixel of float64 is 8 MB."""
    import numpy as np

    deep = np.asarray(image)
    if image.mode == "F" and not np.isfinite(deep).all():
        raise Refused("holds NaN or infinite grey values; every pixel must be finite: replace them first")
    low, high = 0.0, 65535.0
    if image.mode == "F" or deep.max() > high or deep.min() < low:
        low, high = float(deep.min()), float(deep.max())
    grey = np.empty(deep.shape, np.uint8)
    for row in range(0, len(deep), 64):
        strip = deep[row : row + 64].astype(np.float64)
        grey[row : row + 64] = np.rint((strip - low) * (255.0 / max(high - low, 1e-12)))
    return Image.fromarray(grey).convert("RGB")


def _describe(data: bytes) -> str:
    """What a file that isn't read seems to be, with the remedy."""
    head = data[:512]
    for magic, name in _RASTER.items():
        if head.startswith(magic):
            return f"it starts like a {name}, but its header is damaged, cut off or declares zero size; save it again"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for magic, what in _NOT_RASTER:
        if start.startswith(magic) or (start.startswith(b"<?xml") and magic in start):
            return what
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"msf1"):
        return "it is a HEIC photograph, which needs pip install pillow-heif; or export it as JPEG"
    if head and b"\0" not in head and not any(byte > 127 for byte in head):
        return "it holds text; give a JPEG, PNG, WebP, GIF, TIFF or BMP file"
    return "the format is unknown or its first bytes are damaged; save it as JPEG, PNG or WebP"


def _too_large(size: str, max_pixels: int) -> Refused:
    return Refused(
        f"is too large ({size}); the limit is {max_pixels:,} pixels, so that a small file cannot "
        "fill the memory: scale it down first"
    )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def seconds(pixels: int) -> float:
    """CPU seconds that a picture of so many pixels may take."""
    return _SECONDS + _SECONDS_PER_MEGAPIXEL * pixels / 1e6


class Limits:
    """What this process may use of memory and CPU time, picture by picture."""

    def __init__(self) -> None:
        import resource

        self._resource = resource
        with open("/proc/self/statm") if os.path.exists("/proc/self/statm") else io.StringIO("0") as file:
            self._base = int(file.read().split()[0]) * resource.getpagesize() or 2**30
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # a decoder writes no file

    def begin(self, size: int) -> None:
        """A picture of so many bytes has come."""
        self._size = size
        used = sum(self._resource.getrusage(self._resource.RUSAGE_SELF)[:2])
        self._began = used
        self.allow(0)

    def allow(self, pixels: int) -> None:
        """It declares so many pixels."""
        memory = self._base + _SPARE + 4 * self._size + _PER_PIXEL * pixels
        time = int(self._began + seconds(pixels)) + 1
        for kind, value in ((self._resource.RLIMIT_AS, memory), (self._resource.RLIMIT_CPU, time)):
            hard = self._resource.getrlimit(kind)[1]
            value = value if hard == self._resource.RLIM_INFINITY else min(value, hard)
            self._resource.setrlimit(kind, (value, hard))


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Decode what comes until nothing does."""
    try:
        from pillow_heif import register_heif_opener  # type: ignore[import-not-found, unused-ignore]

        register_heif_opener()
    except ImportError:
        pass
    Image.init()
    limits = Limits()
    while len(head := requests.read(REQUEST.size)) == REQUEST.size:
        size, max_pixels = REQUEST.unpack(head)
        data = requests.read(size)
        width = height = 0
        try:
            limits.begin(size)
            image, animated = decode(data, max_pixels, limits)
            (width, height), status, body = image.size, ANIMATED if animated else DONE, image.tobytes()
        except Refused as error:
            status, body = REFUSED, str(error).encode()
        except MemoryError:
            status, body = EXHAUSTED, b""
        except Exception as error:  # none is known
            status, body = REFUSED, f"can't be decoded ({_line(error)}); save the image again".encode()
        image = data = b""  # type: ignore[assignment]
        replies.write(REPLY.pack(status, width, height, len(body)))
        replies.write(body)
        replies.flush()
        if status == EXHAUSTED:
            return  # with a memory in pieces; a successor begins with a whole one


if __name__ == "__main__":
    # What ends a server or a run is sent to its whole group, and the pictures inside are still read. It ends with its
    # owner.
    for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        signal.signal(number, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    serve(sys.stdin.buffer, answers)
