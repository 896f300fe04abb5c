"""The methods an evaluation compares. Each is a registered class: a new one is a class in a file named here."""

from . import fixed, learner, oracle, planned, shaped, untouched
from .base import Method, NotApplicable, make_method, method_names, register_method

__all__ = ["Method", "NotApplicable", "make_method", "method_names", "register_method"]
__all__ += ["fixed", "learner", "oracle", "planned", "shaped", "untouched"]
