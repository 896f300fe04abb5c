"""Realizing: the answer is given from exactly the tokens that were allocated."""

from .base import Encoded, Realised, Realizer, make_realizer, register_realizer
from .call import SEQUENCE_KEYS, Call, Grid
from .pool import Pool, Select
from .rescale import Rescale, RescaleSeparate
from .splice import Spliced, gather, splice

__all__ = [
    "SEQUENCE_KEYS",
    "Call",
    "Encoded",
    "Grid",
    "Pool",
    "Realised",
    "Realizer",
    "Rescale",
    "RescaleSeparate",
    "Select",
    "Spliced",
    "gather",
    "make_realizer",
    "register_realizer",
    "splice",
]
