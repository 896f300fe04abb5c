"""Pictures that are made to exhaust, stop or mislead whoever decodes them, through the function that reads them."""

from __future__ import annotations

import base64
import io
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from arr_coc.asking import decode, isolate
from arr_coc.asking.images import ImageError, load_image, read_image
from eval.serving.pictures import POSTSCRIPT, many_frames, many_scans, many_tags, many_tags_tiff, mutated, sound

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory where Linux shows it")


def peak(process: int | str = "self") -> int:
    """Largest resident memory of a process so far, in bytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> isolate.Decoders:
    """A pool of one process that nobody else uses."""
    own = isolate.Decoders(1)
    monkeypatch.setattr(isolate, "_pool", lambda process: own)
    return own


def processes(pool: isolate.Decoders) -> list[isolate._Process]:
    return [p for p in pool._idle.queue if p is not None]


def test_tags_are_not_read_to_find_the_orientation(pool: isolate.Decoders) -> None:
    """65,535 tags on the same 768 KiB: 48 GiB, were they read."""
    before = peak()
    assert read_image(many_tags()).size == (64, 64)
    assert peak() - before < 50 * 2**20
    assert peak(processes(pool)[0]._popen.pid) < 400 * 2**20
    picture = Image.open(io.BytesIO(many_tags()))  # somebody's own, not yet read: in this process
    assert load_image(picture).size == (64, 64) and peak() - before < 100 * 2**20


def test_memory_is_bounded_by_the_size_that_the_header_declares(pool: isolate.Decoders) -> None:
    before = peak()
    with pytest.raises(ImageError, match="needs more memory"):
        read_image(many_tags_tiff())
    assert peak() - before < 50 * 2**20 and not processes(pool)  # that process is gone, and the next one is made
    assert read_image(sound()["png"]).size == (48, 64)


def test_time_is_bounded(pool: isolate.Decoders, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImageError, match="a JPEG of 15.. scans, at most 100"):
        read_image(many_scans())
    assert read_image(many_frames()).getpixel((4, 4)) == (255, 0, 0)
    # One that hangs without using the CPU, as no decoder should.
    (process,) = processes(pool) or [isolate._Process()]
    os.kill(process._popen.pid, signal.SIGSTOP)
    monkeypatch.setattr(isolate, "_PATIENCE", 0.1)
    with pytest.raises(ImageError, match="takes longer"):
        read_image(sound()["png"], max_pixels=10_000)
    monkeypatch.setattr(isolate, "_PATIENCE", 5.0)
    assert read_image(sound()["png"]).size == (48, 64)


def test_a_decoder_that_dies_is_replaced(pool: isolate.Decoders) -> None:
    for _ in range(3):
        assert read_image(sound()["jpeg"]).mode == "RGB"
        os.kill(processes(pool)[0]._popen.pid, signal.SIGKILL)


def test_decoders_end_with_their_owner() -> None:
    program = (
        "import os; from arr_coc.asking import images, isolate\n"
        f"images.read_image({sound()['png']!r}); pool = isolate._pool(os.getpid())\n"
        "print([p._popen.pid for p in pool._idle.queue if p][0], flush=True); input()"
    )
    owner = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    child = int(owner.stdout.readline())
    owner.kill()
    owner.wait()
    until = time.monotonic() + 60
    while Path(f"/proc/{child}").exists() and time.monotonic() < until:
        time.sleep(0.02)
    state = Path(f"/proc/{child}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_a_postscript_never_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from PIL import EpsImagePlugin

    def ghostscript(*arguments: object, **more: object) -> None:
        pytest.fail("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", ghostscript)
    for data in (POSTSCRIPT, b"\xc5\xd0\xd3\xc6" + bytes(26) + POSTSCRIPT):
        with pytest.raises(ImageError, match="PostScript"):
            read_image(data)
        with pytest.raises(decode.Refused, match="PostScript"):
            decode.decode(data, 10**6)
    for kind in ("PPM", "ICO", "TGA", "PCX", "SGI"):  # what nobody named isn't read either
        file = io.BytesIO()
        Image.new("RGB", (16, 16)).save(file, kind)
        with pytest.raises(ImageError):
            read_image(file.getvalue())


def test_two_pages_show_the_first(tmp_path: Path) -> None:
    """Asking for the number of pages before the first is read gave its pixels the palette of the second."""
    grey = Image.linear_gradient("L").resize((16, 16))
    palette = Image.new("P", (16, 16), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0] + [0] * 762)
    for compression in (None, "tiff_lzw", "tiff_deflate"):
        grey.save(tmp_path / "a.tiff", save_all=True, append_images=[palette], compression=compression)
        assert load_image(tmp_path / "a.tiff") == grey.convert("RGB")


def test_a_damaged_second_frame_does_no_harm() -> None:
    for kind in ("gif", "apng", "pages", "mpo"):
        whole = sound()[kind]
        first = read_image(whole)
        for cut in range(1, 200, 7):
            try:
                assert read_image(whole[:-cut]).size == first.size
            except ImageError:
                pass


def test_a_thousand_mutated_pictures_of_every_kind(pool: isolate.Decoders, caplog: pytest.LogCaptureFixture) -> None:
    """Each is read or refused in words; no process grows beyond its limit."""
    before, seen, largest = peak(), {}, 0
    for kind, data in mutated(1000):
        try:
            image = load_image(data, name="the upload", max_pixels=1_000_000)
            assert image.mode == "RGB" and image.width * image.height <= 1_000_000
            seen[kind, True] = seen.get((kind, True), 0) + 1
        except ImageError as error:
            assert str(error).startswith("the upload") and "Traceback" not in str(error) and "\n" not in str(error)
            seen[kind, False] = seen.get((kind, False), 0) + 1
        for process in processes(pool):
            largest = max(largest, peak(process._popen.pid))
    assert len({kind for kind, _ in seen}) >= 12 and min(seen.values()) >= 1, seen
    assert peak() - before < 50 * 2**20 and largest < 400 * 2**20


def test_many_at_once_share_the_decoders() -> None:
    data = sound()["jpeg"]
    with ThreadPoolExecutor(8) as threads:
        assert len({image.tobytes() for image in threads.map(read_image, [data] * 64)}) == 1
    until = time.monotonic() + 60
    while threading.active_count() >= 50 and time.monotonic() < until:
        time.sleep(0.05)  # timers that were cancelled, and have not yet seen it
    assert threading.active_count() < 50


def test_array_and_address_bombs_are_refused() -> None:
    with pytest.raises(ImageError, match="too large"):
        load_image(np.broadcast_to(np.uint8(0), (100_000, 100_000)), max_pixels=10**6)
    with pytest.raises(ImageError, match="not base64|isn't base64|damaged"):
        load_image("data:image/png;base64,%%%")
    assert load_image("data:image/png;base64," + base64.b64encode(sound()["png"]).decode()).size == (48, 64)


def test_cpu_time_is_bounded(pool: isolate.Decoders, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A picture that is dear beyond its size: the kernel ends its decoder, and the next one begins."""
    program = tmp_path / "decode.py"
    program.write_text(
        isolate._PROGRAM.read_text().replace("= 3.0, 0.2", "= 0.0, 0.0").replace("SCANS = 100", "SCANS = 9999")
    )
    monkeypatch.setattr(isolate, "_PROGRAM", program)
    with pytest.raises(ImageError, match="takes longer than a picture of its size"):
        read_image(many_scans())
    assert read_image(sound()["png"]).size == (48, 64)
