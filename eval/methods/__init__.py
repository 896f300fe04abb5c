"""The methods an evaluation compares. Each is a registered class; adding one needs a class in one file and an import
here."""

from . import fixed, oracle, planned, untouched
from .base import Method, NotApplicable, make_method, method_names, register_method

__all__ = [
    "Method", "NotApplicable", "fixed", "make_method", "method_names", "oracle", "planned", "register_method",
    "untouched",
]  # fmt: skip
