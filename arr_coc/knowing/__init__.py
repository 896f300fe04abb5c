"""Knowing: three ways of judging which patch of an image deserves detail, one file each."""

from .base import Scorer, make_scorer, register_scorer, scorer_names

__all__ = ["Scorer", "make_scorer", "register_scorer", "scorer_names"]
