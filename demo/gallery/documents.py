"""Drawn pictures of the size that ordinary models are made for: a page of print, a receipt, a chart.

Invented from the first word to the last, so that their answers are known and nobody's data is shown.
"""

from __future__ import annotations

import io
import textwrap

from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from arr_coc.drawing import font

INK, FAINT = (24, 24, 28), (90, 90, 98)

LETTER = (
    "The reading room on the first floor will be closed for repairs from Monday, 3 March until Friday, 28 March. "
    "Ordered books are handed out at the desk in the entrance hall during this time; the book drop in Mill Lane "
    "stays open day and night.",
    "Loans that fall due while the room is closed are extended by three weeks. You need not do anything. Inter- "
    "library loans can't be extended, because they belong to other houses: please bring them back on the day that "
    "is printed on the slip.",
    "The children's story hour moves to the town hall, room 214, and begins half an hour later than usual, at "
    "4.30 pm. Mrs Okafor will read from the letters of a lighthouse keeper.",
    "We have put 46 new chairs and 12 desk lamps on the list for the room, and we owe them to the friends of the "
    "library, who collected 8,350 crowns at the summer fair.",
)
SMALL_PRINT = (
    "Overdue fines: 0.20 crowns a day for each book, at most 6 crowns. Lost cards are replaced for 4 crowns. This "
    "notice replaces that of 9 January. Reference number LB-2207/14."
)

GOODS = (
    ("Rye bread 750 g", "1", "3.40"), ("Goat cheese", "2", "9.80"), ("Tomatoes 1.2 kg", "1", "4.55"),
    ("Olive oil 0.5 l", "1", "8.90"), ("Oat milk", "3", "5.97"), ("Pencils, box of 12", "1", "2.75"),
    ("Basil, pot", "1", "2.20"), ("Dark chocolate", "4", "7.16"),
)  # fmt: skip
TOTAL = "44.73"

STOPS = {"Harbour": 412, "Old Town": 655, "Station": 934, "Museum": 287, "Hospital": 518, "Airport": 743}
"""Passengers of an invented tram by stop, thousands in a year."""


def page() -> Image.Image:
    """A notice of a library, 1240 x 1754 pixels (A4 at 150 dpi), with small print at its foot."""
    sheet = Image.new("RGB", (1240, 1754), (252, 251, 247))
    draw = ImageDraw.Draw(sheet)
    draw.text((110, 110), "TOWN LIBRARY OF ELMSFORD", font=font(46, bold=True), fill=INK)
    draw.text((110, 178), "17 Mill Lane  ·  open Tuesday to Saturday, 10 am to 7 pm", font=font(22), fill=FAINT)
    draw.line((110, 226, 1130, 226), fill=INK, width=3)
    draw.text((110, 270), "Notice to our readers", font=font(34, bold=True), fill=INK)
    draw.text((1130, 280), "Elmsford, 14 February", font=font(22), fill=INK, anchor="ra")
    y = 350
    for paragraph in LETTER:
        y = _paragraph(draw, paragraph, (110, y), 74, font(27)) + 34
    draw.text((110, y + 30), "Ida Lindqvist", font=font(26), fill=INK)
    draw.text((110, y + 70), "Head of the library", font=font(20), fill=FAINT)
    draw.line((110, 1600, 1130, 1600), fill=FAINT, width=1)
    _paragraph(draw, SMALL_PRINT, (110, 1618), 150, font(14))
    return sheet


def receipt() -> Image.Image:
    """A receipt of a shop, 560 x 1240 pixels: tall and narrow."""
    roll = Image.new("RGB", (560, 1240), (250, 250, 248))
    draw = ImageDraw.Draw(roll)
    draw.text((280, 70), "FINCH & SON", font=font(44, bold=True), fill=INK, anchor="ma")
    draw.text((280, 128), "groceries since 1931", font=font(20), fill=FAINT, anchor="ma")
    draw.text((280, 160), "8 Canal Street, Elmsford", font=font(20), fill=FAINT, anchor="ma")
    draw.text((40, 230), "21 Oct   17:42", font=font(20), fill=INK)
    draw.text((520, 230), "till 3", font=font(20), fill=INK, anchor="ra")
    y = 290
    for name, count, price in GOODS:
        draw.text((40, y), f"{count} x", font=font(21), fill=INK)
        draw.text((100, y), name, font=font(21), fill=INK)
        draw.text((520, y), price, font=font(21), fill=INK, anchor="ra")
        y += 48
    draw.line((40, y + 6, 520, y + 6), fill=INK, width=2)
    draw.text((40, y + 30), "TOTAL", font=font(36, bold=True), fill=INK)
    draw.text((520, y + 30), TOTAL, font=font(36, bold=True), fill=INK, anchor="ra")
    draw.text((40, y + 100), "paid by card", font=font(21), fill=INK)
    draw.text((520, y + 100), TOTAL, font=font(21), fill=INK, anchor="ra")
    draw.text((40, y + 150), "of this value added tax 8 %", font=font(16), fill=FAINT)
    draw.text((520, y + 150), "3.31", font=font(16), fill=FAINT, anchor="ra")
    draw.text((280, y + 240), "you were served by Noor", font=font(18), fill=FAINT, anchor="ma")
    draw.text((280, y + 330), "receipt 0058-7714   keep it for returns within 14 days", font=font(14), fill=FAINT,
              anchor="ma")  # fmt: skip
    return roll


def chart() -> Image.Image:
    """A bar chart, 1200 x 800 pixels, its source in small print."""
    figure = Figure(figsize=(12, 8), dpi=100, layout="constrained")
    axes = figure.subplots()
    bars = axes.bar(list(STOPS), list(STOPS.values()), color="#3b6fb6")
    axes.bar_label(bars, fontsize=13)
    axes.set_title("Tram line 5: passengers by stop", loc="left", fontsize=24)
    axes.set_ylabel("thousands in the year", fontsize=15)
    axes.tick_params(labelsize=15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("counted 1 April to 31 March; Airport since its opening in June", loc="right", fontsize=9)
    out = io.BytesIO()
    figure.savefig(out)
    return Image.open(out).convert("RGB")


def _paragraph(
    draw: ImageDraw.ImageDraw, text: str, corner: tuple[int, int], letters: int, face: ImageFont.FreeTypeFont
) -> int:
    """Set a paragraph; where it ends."""
    x, y = corner
    for line in textwrap.wrap(text, letters):
        draw.text((x, y), line, font=face, fill=INK)
        y += round(1.55 * face.size)
    return y
