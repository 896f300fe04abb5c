"""What is wrong is told when a model is wrapped, by its name and with the remedy; a lost handle is found again."""

from __future__ import annotations

from typing import Any

import pytest

import arr_coc
from arr_coc.config import POLICIES, ArrCocConfig
from tests import tiny
from tests.wrapping.conftest import BUDGETS, SIDE, Pattern, built

WORDS = {"budgets": BUDGETS, "patch_side": SIDE, "scorers": ("participatory",)}


@pytest.fixture
def model() -> Any:
    model = built("qwen2_5_vl").model
    yield model
    assert "generate" not in vars(model) and not model._forward_pre_hooks


def test_fields_are_arguments_of_wrap(model) -> None:
    base = ArrCocConfig(**WORDS, limit=0.9, seed=3)
    with arr_coc.wrap(model, tiny.tokenizer(), base, limit=0.5) as arr:
        assert (arr.config.limit, arr.config.seed, base.limit) == (0.5, 3, 0.9)
    with arr_coc.wrap(model, tiny.tokenizer(), WORDS) as arr:  # as YAML and JSON give it
        assert arr.config == ArrCocConfig(**WORDS)


@pytest.mark.parametrize(
    ("arguments", "kind", "needles"),
    [
        ({"limits": 0.4}, TypeError, ["'limits'", "Did you mean 'limit'"]),
        ({"config": {"limts": 0.4}}, ValueError, ["'limts'", "Did you mean 'limit'"]),
        ({"policy": "tompson"}, ValueError, ["'tompson'", "Did you mean 'thompson'"]),
        ({"policy": "linucb"}, ValueError, ["'linucb'", "one reward per patch"]),
        ({"policy": "uniform"}, ValueError, ["needs budget="]),
        ({"processor": "Qwen/Qwen2.5-VL-3B-Instruct"}, TypeError, ["str", "AutoProcessor.from_pretrained"]),
        ({"processor": ArrCocConfig()}, TypeError, ["ArrCocConfig", "wrap(model, processor, config)"]),
        ({"processor": None, "scorers": ("propositional",)}, ValueError, ["propositional", "no processor was given"]),
        ({"scorers": ("perspectival",)}, ValueError, ["image_mean", "wrap(model, processor)"]),
        ({"scorers": ({"name": "participatory", "layers": [30]},)}, ValueError, ["layer 30", "-3 to 2"]),
        ({"scorers": ({"name": "participatory", "layers": [-4]},)}, ValueError, ["layer -4"]),
        ({"scorers": ({"name": "participatory", "heads": [[1, 77]]},)}, ValueError, ["head 77", "4 heads"]),
        ({"scorers": ("participatry",)}, ValueError, ["'participatry'", "Did you mean 'participatory'"]),
    ],
)
def test_wrapping_refuses(model, arguments, kind, needles) -> None:
    arguments = {"processor": tiny.tokenizer(), **WORDS, **arguments}
    with pytest.raises(kind) as error:
        arr_coc.wrap(model, **arguments)
    assert all(needle in str(error.value) for needle in needles), error.value


def test_a_name_is_no_model() -> None:
    with pytest.raises(TypeError, match="'Qwen/x' is a name; load it first"):
        arr_coc.wrap("Qwen/x")


@pytest.mark.parametrize("arguments", [((), {"limits": 0.4}), ((0.4,), {})])
def test_the_configuration_takes_its_own_names_only(arguments) -> None:
    with pytest.raises(TypeError, match="Did you mean 'limit'|takes its fields by name"):
        ArrCocConfig(*arguments[0], **arguments[1])


def test_the_named_policies_are_those_that_can_be_wrapped() -> None:
    from arr_coc.attending.planners import wrappable_policies

    assert list(POLICIES) == wrappable_policies()
    for policy in POLICIES:
        assert ArrCocConfig(policy=policy, budget=64).policy == policy


def test_a_lost_handle_is_found_again(model) -> None:
    arr_coc.wrap(model, None, WORDS, Pattern(4))
    with pytest.raises(ValueError, match=r"already wrapped; .*arr_coc\.unwrap\(model\)"):
        arr_coc.wrap(model, None, WORDS, Pattern(4))
    found = arr_coc.unwrap(model)
    assert isinstance(found, arr_coc.ArrCoc) and not found.attached
    with pytest.raises(ValueError, match="is not wrapped"):
        arr_coc.unwrap(model)
    found.attach()
    assert arr_coc.unwrap(model) is found


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # PEFT's own
def test_a_handle_inside_peft_is_found(model) -> None:
    peft = pytest.importorskip("peft")
    fresh = tiny.build("qwen2_5_vl").model
    adapted = peft.get_peft_model(fresh, peft.LoraConfig(target_modules=["q_proj"]))
    arr = arr_coc.wrap(adapted, None, WORDS, Pattern(4))
    assert arr_coc.unwrap(adapted) is arr
