"""Image files as people have them: each becomes the upright RGB picture it shows, or one clear error."""

from __future__ import annotations

import base64
import io
import logging
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from arr_coc.asking.images import MAX_PIXELS, ImageError, load_image, read_image, to_rgb

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quadrants(mode: str = "RGB") -> Image.Image:
    """64 x 48, red, green / blue, white: every rotation and flip of it differs."""
    image = Image.new("RGB", (64, 48), WHITE)
    image.paste(RED, (0, 0, 32, 24))
    image.paste(GREEN, (32, 0, 64, 24))
    image.paste(BLUE, (0, 24, 32, 48))
    return image.convert(mode)


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    """Colours near the four corners, in raster order."""
    right, bottom = image.width - 5, image.height - 5
    return [image.getpixel(at) for at in ((4, 4), (right, 4), (4, bottom), (right, bottom))]


def close(found: list[tuple[int, ...]], wanted: list[tuple[int, ...]], tolerance: int = 12) -> bool:
    return bool(np.abs(np.asarray(found, int) - np.asarray(wanted, int)).max() <= tolerance)


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG file whose header declares what it likes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("a.png", "RGB", {}),
        ("a.jpg", "RGB", {"quality": 95}),
        ("a.webp", "RGB", {"lossless": True}),
        ("a.bmp", "RGB", {}),
        ("a.tiff", "RGB", {"compression": "tiff_lzw"}),
        ("a.gif", "P", {}),
        ("palette.png", "P", {}),
        ("cmyk.jpg", "CMYK", {"quality": 95}),
        ("cmyk.tiff", "CMYK", {}),
        ("opaque.png", "RGBA", {}),
        ("ycc.jpg", "YCbCr", {"quality": 95}),
        ("PNG without its name", "RGB", {"format": "PNG"}),
        ("lying.jpg", "RGB", {"format": "PNG"}),
    ],
)
def test_colour_formats_show_their_colours(tmp_path: Path, name: str, mode: str, options: dict) -> None:
    quadrants(mode).save(tmp_path / name, **options)
    image = load_image(tmp_path / name)
    assert image.mode == "RGB" and image.size == (64, 48)
    assert close(corners(image), [RED, GREEN, BLUE, WHITE])


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_grey_is_three_equal_channels(tmp_path: Path, suffix: str) -> None:
    Image.new("L", (9, 7), 100).save(tmp_path / f"grey.{suffix}")
    assert close([load_image(str(tmp_path / f"grey.{suffix}")).getpixel((4, 4))], [(100, 100, 100)], 2)


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    image = Image.new("1", (8, 8), 0)
    image.putpixel((3, 3), 1)
    image.save(tmp_path / "fax.png")
    read = load_image(tmp_path / "fax.png")
    assert read.getpixel((3, 3)) == WHITE and read.getpixel((0, 0)) == (0, 0, 0)


def test_sixteen_bit_grey_keeps_its_shades(tmp_path: Path) -> None:
    # Neither black nor white occurs: shades are kept, not stretched.
    ramp = (257 * np.arange(50, 200)).astype(np.uint16).reshape(1, -1)
    for name in ("deep.png", "deep.tiff"):
        Image.fromarray(ramp).save(tmp_path / name)
        assert np.array_equal(np.asarray(load_image(tmp_path / name))[0, :, 1], np.arange(50, 200))


def test_float_is_stretched_and_nan_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.25, 0.5, 0.75]], np.float32)).save(tmp_path / "f.tiff")
    assert np.asarray(load_image(tmp_path / "f.tiff"))[0, :, 0].tolist() == [0, 128, 255]
    Image.fromarray(np.array([[0.25, np.nan]], np.float32)).save(tmp_path / "nan.tiff")
    with pytest.raises(ImageError, match=r"nan\.tiff.*NaN"):
        load_image(tmp_path / "nan.tiff")


def test_a_flat_deep_image_does_not_divide_by_zero() -> None:
    assert to_rgb(Image.fromarray(np.full((2, 2), 7e9, np.float32))).getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_laid_on_white(tmp_path: Path, mode: str) -> None:
    alpha = Image.new("L", (20, 10), 0)
    alpha.paste(255, (0, 0, 10, 10))
    image = Image.new("RGB", (20, 10), (0, 0, 0)).convert("L" if mode == "LA" else "P" if mode == "PA" else "RGB")
    image.putalpha(alpha)
    assert image.mode == mode
    image.save(tmp_path / "alpha.tiff" if mode == "PA" else tmp_path / "alpha.png")
    read = load_image(next(tmp_path.iterdir()))
    assert read.getpixel((4, 4)) == (0, 0, 0) and read.getpixel((15, 4)) == WHITE


def test_transparent_palette_colour_is_white(tmp_path: Path) -> None:
    image = quadrants("P")
    index = image.getpixel((4, 4))
    image.save(tmp_path / "p.png", transparency=index)
    assert close(corners(load_image(tmp_path / "p.png")), [WHITE, GREEN, BLUE, WHITE])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    # What a camera stores for orientation k is the upright picture under the inverse transposition.
    stored = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    image = quadrants() if stored is None else quadrants().transpose(stored)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "photo.jpg", quality=95, exif=exif)
    read = load_image(tmp_path / "photo.jpg")
    assert read.size == (64, 48) and close(corners(read), [RED, GREEN, BLUE, WHITE])


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_animation_gives_its_first_frame_and_says_so(tmp_path: Path, suffix: str, caplog) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"m.{suffix}", save_all=True, append_images=frames[1:], **options)
    with caplog.at_level(logging.WARNING, "arr_coc.asking.images"):
        assert close([load_image(tmp_path / f"m.{suffix}").getpixel((4, 4))], [RED], 3)
    assert "several frames" in caplog.text and "first" in caplog.text


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (17, 4001)])
def test_any_size_and_aspect(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, RED).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png").size == size


def test_to_rgb_never_returns_the_callers_image() -> None:
    image = quadrants()
    assert to_rgb(image) is not image and to_rgb(image) == image


def test_the_file_is_closed(tmp_path: Path) -> None:
    quadrants().save(tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        load_image(tmp_path / "a.png")
    (tmp_path / "a.png").unlink()


def jpeg_bytes() -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, "JPEG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "rule"),
    [
        ("text.png", b"just some words\n", "holds text"),
        ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        ("drawing.png", b"<?xml version='1.0'?>\n<svg/>", "SVG"),
        ("page.jpg", b"<!DOCTYPE html><html></html>", "web page"),
        ("doc.png", b"%PDF-1.7\n", "PDF"),
        ("photo.heic", b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        ("noise.png", bytes(range(255, 0, -1)), "unknown"),
        ("empty.png", b"", "0 bytes"),
        ("cut.jpg", jpeg_bytes()[:900], "truncated"),
        ("half.jpg", jpeg_bytes()[:-400], "truncated"),
        ("short.png", png(100, 100, b"\0" * 300), "truncated"),
        ("header.png", png(8, 8)[:20], "header"),
        ("wide0.png", png(0, 5), "zero size"),
        ("high0.png", png(5, 0), "zero size"),
        ("wide0.gif", b"GIF89a" + struct.pack("<HH", 0, 0) + b"\0\0\0;", "zero size"),
        ("bomb.png", png(60_000, 60_000), "80,000,000"),
        ("large.png", png(9_400, 9_400), "80,000,000"),
        ("limit.png", png(10_000, 8_001), "80,000,000"),
    ],
)
def test_unusable_files_are_one_clear_error(tmp_path: Path, name: str, data: bytes, rule: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ImageError) as error:
        load_image(tmp_path / name)
    message = str(error.value)
    assert name in message and rule in message and "\n" not in message
    assert ";" in message or ":" in message  # the remedy follows the rule


def test_the_pixel_limit_is_checked_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bomb.png").write_bytes(png(10_000, 8_001))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(ImageError, match="too large"):
        load_image(tmp_path / "bomb.png")
    assert Image.MAX_IMAGE_PIXELS == before and MAX_PIXELS < before


def test_the_pixel_limit_can_be_set(tmp_path: Path) -> None:
    quadrants().save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png", max_pixels=64 * 48).size == (64, 48)
    with pytest.raises(ImageError, match="64 x 48"):
        load_image(tmp_path / "a.png", max_pixels=64 * 48 - 1)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    quadrants().save(tmp_path / "holiday.png")
    with pytest.raises(ImageError, match=r"did you mean .*holiday\.png"):
        load_image(tmp_path / "holyday.png")
    with pytest.raises(ImageError, match="does not exist; check the path"):
        load_image(tmp_path / "zzz" / "q.png")
    with pytest.raises(ImageError, match="directory"):
        load_image(tmp_path)
    with pytest.raises(ImageError, match="download"):
        load_image("https://example.org/cat.png")
    with pytest.raises(ImageError, match="cannot be looked at"):
        load_image("x" * 5000)
    with pytest.raises(TypeError, match="load_image"):
        to_rgb("a.png")  # type: ignore[arg-type]


def test_random_damage_never_escapes_as_another_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for suffix in ("png", "jpg", "gif", "webp", "tiff", "bmp"):
        stream = io.BytesIO()
        quadrants().save(stream, "JPEG" if suffix == "jpg" else suffix.upper())
        whole = np.frombuffer(stream.getvalue(), np.uint8)
        for trial in range(25):
            broken = whole.copy()
            broken[rng.integers(0, len(broken), 6)] = rng.integers(0, 256, 6)
            if trial % 2:
                broken = broken[: rng.integers(1, len(broken))]
            (tmp_path / f"a.{suffix}").write_bytes(broken.tobytes())
            try:
                assert load_image(tmp_path / f"a.{suffix}", max_pixels=1_000_000).mode == "RGB"
            except ImageError:
                pass


def test_bytes_are_read_as_files_are(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.new("RGB", (64, 48), RED).save(file)
    data = file.read_bytes()
    assert read_image(data) == load_image(file)
    wrongs = (b"", "empty"), (b"hello", "holds text"), (data[:40], "header|truncated"), (b"%PDF-", "PDF")
    for wrong, needle in wrongs:
        with pytest.raises(ImageError, match=f"^the upload.*({needle})"):
            read_image(wrong, name="the upload")
    with pytest.raises(ImageError, match="too large"):
        read_image(data, max_pixels=64 * 48 - 1)


def test_pictures_as_people_hold_them(tmp_path: Path) -> None:
    """Paths, bytes, file objects, addresses with data, mappings of `datasets`, arrays and tensors: one picture."""
    picture = quadrants()
    picture.save(tmp_path / "a.png")
    data, array = (tmp_path / "a.png").read_bytes(), np.asarray(picture)
    chw = np.moveaxis(array, 2, 0)
    for form in (
        tmp_path / "a.png", str(tmp_path / "a.png"), data, bytearray(data), memoryview(data), io.BytesIO(data),
        "data:image/png;base64," + base64.b64encode(data).decode(), {"bytes": data, "path": None},
        {"bytes": None, "path": str(tmp_path / "a.png")}, picture, picture.convert("RGBA"), array, chw,
        array.astype(np.int64), array / 255, (chw / 255).astype(np.float32), array.astype(np.float64),
        torch.from_numpy(array.copy()), torch.from_numpy(chw.copy()), torch.from_numpy(chw / 255).half(),
        torch.from_numpy(chw / 255).bfloat16(), np.dstack([array, np.full((48, 64), 255, np.uint8)]),
    ):  # fmt: skip
        found = load_image(form)
        assert found.mode == "RGB" and found.size == (64, 48)
        assert np.abs(np.asarray(found, int) - array).max() <= (
            1 if "bfloat16" in str(getattr(form, "dtype", "")) else 0
        )
    with (tmp_path / "a.png").open("rb") as file:
        assert load_image(file) == picture
    assert load_image("a.png", folder=tmp_path) == picture
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    for form in (grey, grey[:, :, None], grey[None], torch.from_numpy(grey), torch.from_numpy(grey)[None]):
        assert np.array_equal(np.asarray(load_image(form))[:, :, 1], grey)
    assert load_image(np.eye(9, dtype=bool)).getpixel((3, 3)) == WHITE
    # Both ends could be channels: an array is [H, W, C], a tensor [C, H, W].
    assert load_image(np.zeros((3, 9, 3), np.uint8)).size == (9, 3)
    assert load_image(torch.zeros(3, 9, 3, dtype=torch.uint8)).size == (3, 9)
    again = load_image(picture)
    assert load_image(again) is again  # what was read is not read again


@pytest.mark.parametrize(
    ("wrong", "kind", "rule"),
    [
        (np.zeros((2, 48, 64, 3)), ImageError, "batch"),
        (np.zeros((48, 64, 5)), ImageError, "channels"),
        (np.zeros(7), ImageError, r"\[H, W\]"),
        (np.zeros((0, 5, 3)), ImageError, "at least one pixel"),
        (np.full((4, 4, 3), -0.5), ImageError, "normalisation"),
        (np.full((4, 4), 70_000), ImageError, "0 to 255"),
        (np.full((4, 4), np.nan), ImageError, "finite"),
        (np.full((4, 4), "a"), ImageError, "integers, floats or booleans"),
        ({"image": 3}, ImageError, "bytes or path"),
        (io.StringIO("text"), ImageError, "'rb'"),
        ([np.zeros((4, 4))], TypeError, "one picture for each question"),
        (3, TypeError, "a path, bytes, a file object"),
        (None, TypeError, "NoneType"),
        ("\0", ImageError, "does not exist"),
    ],
)
def test_what_is_no_picture_is_refused_in_words(wrong: object, kind: type[Exception], rule: str) -> None:
    with pytest.raises(kind, match=rule):
        load_image(wrong)


@pytest.mark.parametrize(
    ("size", "warned"), [((1, 1), True), ((1, 4000), True), ((9000, 100), True), ((64, 48), False)]
)
def test_a_sliver_is_used_and_warned_of_once(size: tuple[int, int], warned: bool, caplog) -> None:
    with caplog.at_level(logging.WARNING, "arr_coc.asking.images"):
        image = load_image(Image.new("RGB", size))
        load_image(image)
    assert image.size == size and caplog.text.count("hardly anything") == int(warned)


@pytest.mark.parametrize("where", ["exif", "raw", "xmp"])
def test_orientation_is_found_wherever_a_png_keeps_it(where: str) -> None:
    from PIL.PngImagePlugin import PngInfo

    stored, exif, info, stream = (
        quadrants().transpose(Image.Transpose.ROTATE_90),
        Image.Exif(),
        PngInfo(),
        io.BytesIO(),
    )
    exif[0x0112] = 6
    options: dict = {"exif": exif} if where == "exif" else {"pnginfo": info}
    if where == "raw":
        digits = exif.tobytes().hex()
        info.add_text("Raw profile type exif", f"\nexif\n{len(digits) // 2:8d}\n{digits}\n", zip=True)
    if where == "xmp":
        info.add_itxt("XML:com.adobe.xmp", '<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>')
    stored.save(stream, "PNG", **options)
    assert Image.open(stream).getexif().get(0x0112) == 6  # so says Pillow
    assert close(corners(load_image(stream.getvalue())), [RED, GREEN, BLUE, WHITE])
