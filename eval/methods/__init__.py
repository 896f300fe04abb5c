"""The methods an evaluation compares. Each is a registered class: a new one is a class in a file named here."""

from . import (
    cdpruner,
    divprune,
    fastv,
    fixed,
    learner,
    oracle,
    planned,
    pruned,
    published,
    router,
    unmodified,
    visionzip,
)
from .base import (
    Method,
    NotApplicable,
    at_prices,
    curve_members,
    make_method,
    make_methods,
    method_names,
    register_method,
)

__all__ = [
    "Method",
    "NotApplicable",
    "at_prices",
    "curve_members",
    "make_method",
    "make_methods",
    "method_names",
    "register_method",
]
__all__ += [
    "cdpruner",
    "divprune",
    "fastv",
    "fixed",
    "learner",
    "oracle",
    "planned",
    "pruned",
    "router",
    "published",
    "unmodified",
]
__all__ += ["visionzip"]
