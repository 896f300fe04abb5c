"""Where relevance is read before any data: the band of depth, heads averaged, or what the model brings."""

import types

import pytest
import torch

from arr_coc.knowing import make_scorer
from arr_coc.knowing.participatory import Participatory, attention_map
from arr_coc.knowing.reading import SHARES, suited
from tests.knowing.planted import blank, scene


def model(depth, **config):
    text = types.SimpleNamespace(num_hidden_layers=depth)
    return types.SimpleNamespace(config=types.SimpleNamespace(get_text_config=lambda: text, **config))


@pytest.mark.parametrize(
    ("depth", "published"), [(28, (16, 18, 19)), (36, (20, 21, 22, 23)), (32, (21,)), (40, (24,))]
)
def test_the_band_holds_the_layers_that_published_readers_use(depth, published):
    """Q-Zoom, GlimpsePrune and ViCrop on Qwen2.5-VL-7B, 3B and Qwen3-VL-4B; GlimpsePrune on LLaVA-1.5-7B."""
    spec = suited("participatory", model(depth))
    assert set(published) <= set(spec["layers"]) and spec["heads"] == "mean"
    assert min(spec["layers"]) >= depth / 2 and max(spec["layers"]) < 0.8 * depth
    assert {int(share * depth) for share in SHARES} <= set(spec["layers"])


def test_what_is_named_or_brought_counts():
    brought = model(3, arr_coc={"layers": [-2, -1], "heads": "sharp"})
    assert suited("participatory", brought) == {"name": "participatory", "layers": [-2, -1], "heads": "sharp"}
    assert suited("participatory", None) == "participatory"
    for spec in (
        {"name": "participatory", "layers": [5]}, {"name": "participatory", "heads": [(1, 2)]}, "propositional",
        {"name": "participatory", "variant": "embedding"}, "participatory:embedding",
    ):  # fmt: skip
        assert suited(spec, model(28)) == spec
    assert suited("participatory", model(1))["layers"] == [0]
    assert isinstance(make_scorer(suited("participatory", model(28))), Participatory)


def test_the_shipped_model_brings_its_reading(reference):
    vlm, _ = reference
    assert suited("participatory", vlm)["layers"] == [-2, -1] and suited("participatory", vlm)["heads"] == "sharp"


def test_sharp_heads_follow_a_sink_and_the_mean_does_not():
    """32 heads of a layer look for patch 2; in two of them one cell of patch 0 draws nearly everything."""
    generator = torch.Generator().manual_seed(0)
    heads = torch.rand(1, 32, 256, generator=generator) / 256
    heads[:, :, 64 * 2 + 9] += 0.3
    heads[:, :2] *= 0.02
    heads[:, :2, 5] += 0.97
    sharp, mean = (attention_map(heads, [64] * 4, s).view(4, 64).sum(1) for s in (True, False))
    assert mean.argmax() == 2 and sharp[0] > mean[0] + 0.1


def test_layers_count_alike_whatever_mass_they_lay_on_the_image():
    generator = torch.Generator().manual_seed(1)
    layers = torch.rand(2, 4, 256, generator=generator)
    want = torch.stack([layer.mean(0) / layer.mean(0).sum() for layer in layers])
    loud = layers * torch.tensor([1.0, 1e-3])[:, None, None]
    assert torch.allclose(attention_map(loud, [64] * 4, False), want.mean(0), atol=1e-7)
    top = want.amax(0)
    assert torch.allclose(attention_map(loud, [64] * 4, False, peak=True), top / top.sum(), atol=1e-7)


def test_the_peak_is_a_reading_of_its_own():
    attention = torch.full((4, 2, 256), 1e-3)
    attention[1, :, 64 * 3 + 7] = 0.5  # one layer of the band sees it
    seen, scorer = scene([blank()] * 4, attention=attention), Participatory(layers=[0, 1, 2, 3])
    peak = scorer.readings(seen)["peak"]
    assert scorer.more_readings == ("peak",) and peak.argmax() == 3 and peak[3] > scorer(seen)[3]
    assert torch.isclose(peak.sum(), torch.tensor(1.0)) and Participatory("embedding").readings(seen) == {}
