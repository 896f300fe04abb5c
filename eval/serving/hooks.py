"""What schemathesis is given beside the schema: pictures that can be read, decisions that were made.

Loaded by its process (``SCHEMATHESIS_HOOKS``), never by ours: see `eval.serving.hostile.fuzz`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

REPLIES, DECISIONS = "ARR_COC_FUZZ_REPLIES", "ARR_COC_FUZZ_DECISIONS"


def better_bodies(path: str, body: Any, questions: list[dict[str, Any]], decisions: list[str]) -> list[Any]:
    """A generated body, and what real parts make of it: the picture, the picture and the question, the decision id."""
    if not isinstance(body, dict):
        return [body]
    if path == "/answer":
        bodies = [body]
        for q in questions:
            bodies += [{**body, "image": q["png"]}, {**body, "image": q["png"], "question": q["question"]}]
        return bodies
    if path == "/reward":
        return [body, *({**body, "id": name} for name in decisions)]
    return [body]


def _register() -> None:
    import schemathesis
    from hypothesis import strategies as st

    from .server import samples

    questions, decisions = samples(4, seed=6), json.loads(os.environ[DECISIONS])
    replies = Path(os.environ[REPLIES])

    @schemathesis.hook
    def flatmap_body(context: Any, body: Any) -> Any:
        return st.sampled_from(better_bodies(context.operation.path, body, questions, decisions))

    @schemathesis.hook
    def after_call(context: Any, case: Any, response: Any) -> None:
        with replies.open("a") as file:
            file.write(json.dumps([f"{case.method} {case.operation.path}", response.status_code]) + "\n")


if DECISIONS in os.environ:
    _register()
