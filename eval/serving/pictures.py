"""Pictures that somebody made to do harm, and sound ones to damage."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image


def sound() -> dict[str, bytes]:
    """Small pictures of 14 kinds that all decode."""
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((64, 48), Image.Resampling.BICUBIC)
    grey = colour.convert("L")
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a picture"
    more = [colour.transpose(Image.Transpose.ROTATE_180), colour]

    def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
        file = io.BytesIO()
        image.save(file, kind, **options)
        return file.getvalue()

    found = {
        "jpeg": encoded(colour, "JPEG", exif=exif),
        "progressive": encoded(colour, "JPEG", progressive=True, quality=95),
        "mpo": encoded(colour, "MPO", save_all=True, append_images=more),
        "png": encoded(colour, "PNG", exif=exif),
        "palette": encoded(colour.convert("P"), "PNG", transparency=3),
        "deep": encoded(Image.fromarray(rng.integers(0, 65536, (48, 64), np.uint16)), "PNG"),
        "apng": encoded(colour, "PNG", save_all=True, append_images=more),
        "webp": encoded(colour, "WEBP", exif=exif),
        "animated": encoded(colour, "WEBP", save_all=True, append_images=more, lossless=True),
        "gif": encoded(colour.convert("P"), "GIF", save_all=True, append_images=[m.convert("P") for m in more]),
        "bmp": encoded(colour, "BMP"),
        "tiff": encoded(colour, "TIFF", compression="tiff_lzw"),
        "pages": encoded(grey, "TIFF", save_all=True, append_images=[colour.convert("P"), colour]),
    }
    if "AVIF" in Image.SAVE:
        found["avif"] = encoded(colour, "AVIF")
    return found


def mutated(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Damaged pictures, kind by kind: bytes changed, cut, doubled, moved, numbers made as large as they can be."""
    rng = np.random.default_rng(seed)
    whole = list(sound().items())
    for n in range(count):
        kind, data = whole[n % len(whole)]
        broken = bytearray(data)
        for _ in range(int(rng.choice([1, 2, 6, 40]))):
            at = int(rng.integers(len(broken)) if rng.random() < 0.5 else rng.integers(min(200, len(broken))))
            match int(rng.integers(5)):
                case 0:
                    broken[at] = int(rng.integers(256))
                case 1:
                    broken[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"])
                case 2:
                    broken[at:at] = broken[at : at + int(rng.integers(1, 300))]
                case 3:
                    del broken[at : at + int(rng.integers(1, 20))]
                case _:
                    broken[at] ^= 1 << int(rng.integers(8))
            if not broken:
                break
        cut = broken[: int(rng.integers(1, len(broken) + 1))] if broken and rng.random() < 0.2 else broken
        yield kind, mended(bytes(cut)) if rng.random() < 0.5 else bytes(cut)


def mended(data: bytes) -> bytes:
    """A PNG with the checksums of its chunks made right: whoever damages it on purpose would."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    fixed, at = bytearray(data), 8
    while at + 12 <= len(fixed):
        (size,) = struct.unpack_from(">I", fixed, at)
        if at + 12 + size > len(fixed):
            break
        struct.pack_into(">I", fixed, at + 8 + size, zlib.crc32(fixed[at + 4 : at + 8 + size]))
        at += 12 + size
    return bytes(fixed)


def chunk(kind: bytes, body: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def many_tags(tags: int = 65_535, size: int = 768 * 1024) -> bytes:
    """A PNG of 64 x 64 pixels whose EXIF block declares so many tags, all of them the same 700 KiB."""
    entries = b"".join(struct.pack(">HHII", 0x8000 | (k & 0x7FFF), 7, size - 100, 8) for k in range(tags))
    exif = b"MM\0*" + struct.pack(">IH", 8, tags) + entries
    exif += bytes(max(0, size - len(exif)))
    pixels = zlib.compress(bytes(64 * (1 + 3 * 64)))
    head = struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head), chunk(b"eXIf", exif), chunk(b"IDAT", pixels), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def many_tags_tiff(tags: int = 65_535, size: int = 800_000) -> bytes:
    """A TIFF whose directory declares so many tags, all of them the same 700 KB."""
    entries = b"".join(struct.pack("<HHII", k + 1, 7, size - 100_000, 8) for k in range(tags))
    data = b"II*\0" + struct.pack("<IH", 8, tags) + entries + bytes(4)
    return data + bytes(max(0, size - len(data)))


def many_scans(scans: int = 1500, side: int = 3000) -> bytes:
    """A progressive JPEG whose last scan comes again and again: each is a pass over all pixels."""
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last = data[data.rfind(b"\xff\xda") : -2]
    return data[:-2] + scans * last + data[-2:]


def many_frames(frames: int = 60_000) -> bytes:
    """A TIFF of a megabyte with so many pages: counting them is quadratic."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(file, "TIFF")
    data = bytearray(file.getvalue())
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    link = at + 2 + 12 * count
    for _ in range(frames):
        struct.pack_into("<I", data, link, len(data))
        link = len(data) + 14
        data += struct.pack("<HHHIII", 1, 256, 3, 1, 4, 0)
    return bytes(data)


POSTSCRIPT = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(/tmp/x) (w) file closefile\nshowpage\n"
)
