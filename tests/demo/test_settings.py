"""``--set`` reaches the demo's model, and what is wrong with it is told before a model is loaded."""

from typing import Any

import pytest
from typer.testing import CliRunner

import arr_coc
import arr_coc.reference
from demo.cli import app
from demo.host import Host, Settings


@pytest.fixture
def loaded(reference: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arr_coc.reference, "load", lambda *name: reference)


def test_base_values_hold_where_a_visitor_chose_none(loaded: None) -> None:
    host = Host(base={"scorers": ["participatory"], "limit": 0.5})
    (sample,) = arr_coc.reference.generate(1, grid=(2, 2), kinds=["color"])
    shown = host.ask(sample["image"], sample["question"], Settings(policy="heuristic"))
    assert set(shown.allocation.scores) == {"participatory"} and shown.allocation.tokens <= 800
    # A saved policy keeps what it was learned with; a limit is free.
    shown = host.ask(sample["image"], sample["question"], Settings(policy="learned"))
    assert set(shown.allocation.scores) == {"propositional", "perspectival", "participatory"}
    assert shown.allocation.tokens <= 800
    # And a visitor's own choice goes before.
    assert (
        host.ask(sample["image"], sample["question"], Settings(policy="uniform-400", limit=1.0)).allocation.tokens
        == 1600
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--set", "wrap.limt=1"], "Did you mean 'limit'"),
        (["--policy", "nothing/here/policy"], "no saved policy"),
        (["--model", "./no/such"], "does not exist"),
    ],
)
def test_what_is_wrong_is_told_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch, options, said) -> None:
    monkeypatch.setattr(arr_coc.reference, "load", lambda *name: pytest.fail("the model was loaded"))
    shown = CliRunner().invoke(app, options)
    assert shown.exit_code == 2 and said in shown.stderr, shown.output
