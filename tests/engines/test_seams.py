"""Every private place of vLLM that is used is where `seams` says, and one that has moved is named."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

import arr_coc.engines.vllm as package
from arr_coc.engines.vllm import seams, table, versions
from arr_coc.engines.vllm.watch import KEPT, Attentions

from .conftest import needs_vllm


@needs_vllm
@pytest.mark.parametrize("name", sorted(seams.SEAMS))
def test_a_seam_is_where_it_was(name: str) -> None:
    seams.check({name: seams.SEAMS[name]})


@pytest.mark.parametrize("name", ["json:JSONDecoder.gone", "gone.away:Thing", "json:loads"])
def test_a_seam_that_has_moved_is_named(name: str) -> None:
    with pytest.raises(ImportError, match=name.split(":")[1]):
        seams.check({name: ("never",)})


def test_no_private_place_is_used_elsewhere() -> None:
    """Everything imported from vLLM outside `seams` is one of its seams, or public: listed here, with the reason."""
    public = {
        "vllm": "the package's own names",
        "vllm.config.multimodal": "types of extension methods",
        "vllm.multimodal": "registering a processor",
        "vllm.multimodal.inputs": "what a processor returns",
        "vllm.multimodal.parse": "what a processor is given",
        "vllm.multimodal.processing": "the base of processors",
        "vllm.entrypoints.openai.chat_completion.protocol": "the request of the OpenAI API",
    }
    known = {name.partition(":")[0] for name in seams.SEAMS}
    for file in Path(package.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm" and not node.level:
                assert node.module in public or node.module in known, (file.name, node.module)


@needs_vllm
def test_the_installed_version_is_a_tested_one() -> None:
    versions.require_vllm()


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "version", lambda name: "0.99.0")
    with pytest.raises(ImportError, match="0.99.0"):
        versions.require_vllm()


def test_a_model_that_is_not_supported_is_named() -> None:
    from types import SimpleNamespace as Some

    with pytest.raises(ValueError, match="Pixtral.*Qwen2VL.*gateway"):
        table.require(Some(model="m", hf_config=Some(architectures=["PixtralForConditionalGeneration"])))
    table.require(Some(model="m", hf_config=Some(architectures=["Qwen2VLForConditionalGeneration"])))


# ---------------------------------------------------------------- what is watched


def _step(watch: Attentions, query: torch.Tensor, key: torch.Tensor, *rows: tuple[str, int, int, int]) -> None:
    watch.see(0, query, key, rows, 0.5)


def test_attention_is_read_across_chunks_batches_and_preemptions() -> None:
    """Against a softmax by hand: two requests in one step, one in two chunks and begun anew; grouped key heads."""
    torch.manual_seed(0)
    query, key = torch.randn(9, 4, 8), torch.randn(9, 2, 8)
    keys = key.repeat_interleave(2, 1)

    def by_hand(last: int, rows: slice) -> torch.Tensor:
        return (torch.einsum("hd,lhd->hl", query[last], keys[rows]) * 0.5).softmax(-1)

    watch = Attentions()
    watch.begin("a", "first", 5)
    watch.begin("b", "second", 3)
    _step(watch, query, key, ("a", 0, 2, 2), ("other", 2, 4, 7))
    _step(watch, query, key, ("a", 0, 2, 2))  # preempted: all over again
    _step(watch, query[2:], key[2:], ("a", 0, 3, 5), ("b", 3, 6, 3))
    assert torch.allclose(watch.take("first")[0], by_hand(4, slice(0, 5)), atol=1e-6)
    assert torch.allclose(watch.take("second")[0], by_hand(7, slice(5, 8)), atol=1e-6)
    assert watch.take("first") == {} == watch.take("nobody")
    _step(watch, query, key, ("a", 0, 1, 6))  # decoding is not looked at
    watch.end("a")
    assert not watch.keys.get("a") and "a" not in watch.wanted


def test_what_cannot_be_read_stays_without_a_result_and_the_forgotten_is_let_go_of() -> None:
    watch, query, key = Attentions(), torch.randn(4, 2, 8), torch.randn(4, 2, 8)
    watch.begin("a", "cached", 6)
    _step(watch, query, key, ("a", 0, 4, 6))  # its first two tokens came from a cache
    assert watch.take("cached") == {} and "a" not in watch.wanted
    for number in range(KEPT + 20):
        watch.begin(str(number), f"name {number}", 4)
        _step(watch, query, key, (str(number), 0, 4, 4))
        watch.end(str(number))
    assert len(watch.done) == KEPT and watch.take("name 0") == {} and watch.take(f"name {KEPT}")
