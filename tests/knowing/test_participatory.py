"""The coupling of question and patch, on planted attention, planted embeddings and a tiny CLIP."""

from __future__ import annotations

import pytest
import torch

from arr_coc.knowing.participatory import Participatory, attention_map, word_map
from tests.knowing.planted import blank, scene, sign, text


def planted_attention(target: int, layers: int = 3, heads: int = 4, patches: int = 4):
    """Diffuse heads, and one in the last layer that looks at cell 7 of the target."""
    generator = torch.Generator().manual_seed(0)
    attention = torch.rand(layers, heads, 64 * patches, generator=generator) / (64 * patches)
    attention[-1, 1, 64 * target + 7] += 0.6
    return attention


@pytest.mark.parametrize("heads", ["mean", "sharp", [(2, 1)], [(-1, 1), (-2, 0)]])
@pytest.mark.parametrize("target", [0, 3])
def test_attention_finds_the_patch_and_the_cell(heads, target):
    scorer = Participatory(heads=heads)
    seen = scene([blank()] * 4, attention=planted_attention(target))
    scores, cells = scorer(seen), scorer.cell_map(seen)
    assert scores.argmax() == target
    assert torch.isclose(scores.sum(), torch.tensor(1.0), atol=1e-5)
    assert [c.shape for c in cells] == [(64,)] * 4 and cells[target].argmax() == 7
    assert torch.allclose(torch.stack([c.sum() for c in cells]), scores, atol=1e-6)


def test_sharp_heads_weigh_more():
    attention = planted_attention(2)
    mean, sharp = (attention_map(attention, [64] * 4, s).view(4, 64).sum(1)[2] for s in (False, True))
    assert sharp > mean + 0.2


def test_only_the_layers_named_are_read():
    asked = []
    seen = scene([blank()] * 4, attention=planted_attention(1))
    inner = seen.read_attention
    seen.read_attention = lambda layers: asked.append(tuple(layers)) or inner(layers)
    Participatory(layers=(1,))(seen)
    Participatory(heads=[(2, 0), (0, 3), (2, 1)])(seen)
    assert asked == [(1,), (0, 2)]


def test_no_attention_on_the_image_is_no_preference():
    scores = Participatory()(scene([blank()] * 4, attention=torch.zeros(3, 2, 256)))
    assert torch.allclose(scores, torch.full((4,), 0.25))


def test_attention_of_nan_or_of_the_wrong_length_is_refused():
    with pytest.raises(ValueError, match="glance attention holds NaN"):
        Participatory()(scene([blank()] * 4, attention=torch.full((3, 2, 256), torch.nan)))
    with pytest.raises(ValueError, match="gave 255 cells, the glance grids 256"):
        Participatory()(scene([blank()] * 4, attention=torch.zeros(3, 2, 255)))


def planted_tokens(target: int, width: int = 64):
    """Glance tokens around a common mean; cell 9 of the target resembles the second of four words."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(4, 64, width, generator=generator) + 3.0
    words = torch.randn(4, width, generator=generator) - 2.0
    tokens[target, 9] += 3 * (words[1] - words.mean(0))
    return list(tokens), words


@pytest.mark.parametrize("target", [0, 2])
def test_embeddings_find_the_word(target):
    glance, words = planted_tokens(target)
    scorer, seen = Participatory("embedding"), scene([blank()] * 4, glance=glance, words=words)
    assert scorer(seen).argmax() == target and scorer.cell_map(seen)[target].argmax() == 9
    swapped = scene([blank()] * 4, glance=glance, words=words[[0, 2, 3]])
    assert scorer(swapped)[target] < scorer(seen)[target] - 0.2  # without the word nothing stands out


def test_function_words_weigh_little():
    """Words that no token prefers may be added without moving the map much."""
    glance, words = planted_tokens(1)
    tokens = torch.cat(glance)
    noise = torch.randn(6, 64, generator=torch.Generator().manual_seed(3)) * 0.1 + words.mean(0)
    few, many = word_map(tokens, words), word_map(tokens, torch.cat([words, noise]))
    assert few.argmax() == many.argmax() == 64 + 9
    assert many.max() > 0.5 * few.max()


def test_embedding_of_one_word_and_half_precision():
    glance, words = planted_tokens(1)
    seen = scene([blank()] * 4, glance=[g.half() for g in glance], words=words[1:2].bfloat16())
    scores = Participatory("embedding")(seen)
    assert scores.dtype == torch.float32 and scores.isfinite().all()
    with pytest.raises(ValueError, match="has no words"):
        Participatory("embedding")(scene([blank()], words=words[:0]))


class FakeProcessor:
    def __call__(self, text, padding, truncation, return_tensors):
        ids = torch.tensor([[min(98, ord(c)) for c in t.ljust(8)[:7]] + [99] for t in text])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.fixture(scope="module")
def clip():
    transformers = pytest.importorskip("transformers")
    sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    config = transformers.CLIPConfig(
        text_config=dict(**sizes, vocab_size=100, max_position_embeddings=16, eos_token_id=99),
        vision_config=dict(**sizes, image_size=32, patch_size=8),
        projection_dim=8,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.CLIPModel(config).eval()


def test_a_loaded_image_text_model_scores_by_the_question(clip):
    scorer = Participatory("clip", model=clip, processor=FakeProcessor())
    pictures = [text(), sign(), blank()]
    one, other = (scorer(scene(pictures, question=q)) for q in ("red sign", "what is written"))
    assert torch.isclose(one.sum(), torch.tensor(1.0), atol=1e-5)
    assert not torch.allclose(one, other)
    cells = scorer.cell_map(scene(pictures, question="red sign"))
    assert torch.allclose(torch.stack([c.sum() for c in cells]), one, atol=1e-6)


def test_image_text_models_are_checked(clip, tmp_path):
    with pytest.raises(RuntimeError, match="could not be loaded.*Give a local folder"):
        Participatory("siglip", model=str(tmp_path))
    with pytest.raises(ValueError, match="needs its processor"):
        Participatory("clip", model=clip)
    with pytest.raises(TypeError, match="use a CLIP or SigLIP model"):
        Participatory("clip", model=torch.nn.Linear(1, 1), processor=FakeProcessor())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(variant="atention"), "Did you mean 'attention'"),
        (dict(variant="siglip"), "needs model="),
        (dict(variant="attention", model="x"), "leave model= out"),
        (dict(heads="sharpest"), "must be 'mean', 'sharp' or a list"),
        (dict(layers=()), "name no layer"),
        (dict(heads=[]), "name no layer"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        Participatory(**options)
