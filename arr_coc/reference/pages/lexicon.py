"""The words of the world of pages: what is printed, and what values look like."""

from __future__ import annotations

import random

COLORS = {
    "red": (214, 52, 52),
    "green": (52, 160, 70),
    "blue": (60, 100, 225),
    "yellow": (240, 205, 50),
    "purple": (140, 70, 190),
    "orange": (240, 130, 40),
    "black": (25, 25, 28),
    "white": (250, 250, 248),
    "grey": (150, 152, 158),
    "pink": (245, 150, 190),
}
GOODS = tuple(
    "milk bread tea rice soap eggs apple fish salt oil sugar corn ham juice cake beef soup nuts plum lemon coffee "
    "butter cheese water paper pencil lamp brush cable towel".split()
)
SUMS = tuple("total tax tip cash change discount".split())
FIELDS = tuple("date age phone code room seat gate flight weight price order floor table track height hour".split())
MONTHS = tuple("jan feb mar apr may jun jul aug sep oct nov dec".split())
DAYS = tuple("mon tue wed thu fri sat sun".split())
TEAMS = tuple("north south east west lions bears hawks foxes".split())
GAUGES = tuple("battery volume steps speed heat light power signal".split())
NAMES = tuple("anna omar li maria john sara ivan noah emma paul ruth leo".split())
CITIES = tuple("rome oslo paris lima cairo delhi tokyo berlin dublin quito".split())
SIGNS = tuple("exit stop open closed sale push hotel taxi bank park lift zone".split())
TITLES = tuple("receipt invoice form ticket menu report sales score stock status".split())
PERSONAL = ("name", "city")

WORDS = tuple(
    dict.fromkeys(GOODS + SUMS + FIELDS + MONTHS + DAYS + TEAMS + GAUGES + NAMES + CITIES + SIGNS + TITLES + PERSONAL)
)
WORD_ID = {word: i + 1 for i, word in enumerate(WORDS)}
"""Dense word labels; 0 is none."""
NUMBER_ID = len(WORDS) + 1
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789.:-%"
CHARACTER_ID = {c: i + 1 for i, c in enumerate(CHARACTERS)}
COLOR_ID = {c: i + 1 for i, c in enumerate(COLORS)}


def number(rng: random.Random, style: str) -> str:
    """A value to print: ``"price"`` 4.50, ``"count"`` 2 to 4 digits, ``"percent"`` 85%, ``"date"`` 12-05."""
    if style == "price":
        return f"{rng.randint(1, 99)}.{rng.randint(0, 99):02d}"
    if style == "percent":
        return f"{rng.randint(1, 99)}%"
    if style == "date":
        return f"{rng.randint(1, 28):02d}-{rng.randint(1, 12):02d}"
    if style == "time":
        return f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"
    digits = rng.choice((2, 2, 3, 3, 4)) if style == "count" else 2
    return str(rng.randint(10 ** (digits - 1), 10**digits - 1))
