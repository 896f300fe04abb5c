"""What every scorer must keep: shape, range, independence of other questions, dtype, refusal of bad pixels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from arr_coc.knowing import Scorer, make_scorer, register_scorer, scorer_names
from arr_coc.knowing import base as registry
from arr_coc.knowing.detail import detail_loss, scene_detail_loss
from arr_coc.knowing.pixels import colour_planes, resize
from arr_coc.scene.patches import Patch
from tests.knowing.planted import blank, noise, objects, photograph, scene, sign, square, text

PIXEL_SCORERS = ["propositional", "perspectival"]


@pytest.fixture
def fresh_registry(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})


def page():
    return scene([text(), sign(), noise(), objects()])


@pytest.mark.parametrize("name", PIXEL_SCORERS)
def test_scores_are_float32_in_the_unit_interval(name):
    scores = make_scorer(name)(page())
    assert scores.shape == (4,) and scores.dtype == torch.float32
    assert (scores >= 0).all() and (scores <= 1).all() and scores.std() > 0.01


@pytest.mark.parametrize("name", PIXEL_SCORERS)
def test_another_question_does_not_change_a_bit(name):
    scorer, first = make_scorer(name), page()
    before = scorer(first)
    scorer(scene([blank(1.0), text(9), noise(0.4)]))
    assert torch.equal(scorer(first), before)
    assert torch.equal(make_scorer(name)(page()), before)


@pytest.mark.parametrize("name", PIXEL_SCORERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes_score_alike(name, dtype):
    exact, rounded = page(), page()
    rounded.pixels = [p.to(dtype) for p in rounded.pixels]
    scores = make_scorer(name)(rounded)
    assert scores.dtype == torch.float32
    # Noise and text are unmoved by bfloat16's eight bits; flat ground is, hence the tolerance.
    assert torch.allclose(scores, make_scorer(name)(exact), atol=0.03)


@pytest.mark.parametrize("name", PIXEL_SCORERS)
def test_the_same_picture_at_twice_the_size_scores_alike(name):
    pictures = [photograph("china.jpg")[:, y : y + 160, x : x + 160] for y in (0, 160) for x in (0, 160, 320, 480)]
    pictures += [text(14), sign(), square(), objects()]
    twice = [F.interpolate(p[None], scale_factor=2, mode="bicubic")[0].clamp(0, 1) for p in pictures]
    small, large = (make_scorer(name)(scene(p)) for p in (pictures, twice))
    assert (small - large).abs().max() < 0.08
    assert torch.corrcoef(torch.stack([small, large]))[0, 1] > 0.98


def test_detail_loss_depends_on_the_pixels_left_not_on_the_pixels_there():
    """The same picture at twice the size, cut down to as many pixels, loses as much."""
    pictures = torch.stack([text(14), sign(), square(), objects()])
    twice = F.interpolate(pictures, scale_factor=2, mode="bicubic").clamp(0, 1)
    small, large = (detail_loss(x, (x.shape[2] // 8,) * 2, [(8, 8), (8, 16), (16, 16)]) for x in (pictures, twice))
    shares = [lost.mean((2, 3)) / energy.mean((1, 2))[:, None] for lost, energy in (small, large)]
    assert (shares[0] - shares[1]).abs().max() < 0.1


@pytest.mark.parametrize("name", PIXEL_SCORERS)
def test_patches_of_different_pixel_sizes_go_together(name):
    odd = [text()[:, :104], sign()[:, :, :112], noise(), text()[:, :8, :8], blank()[:, :1, :1]]
    patches = [Patch(i, 0, 0, max(1, p.shape[1] // 8), 0, max(1, p.shape[2] // 8)) for i, p in enumerate(odd)]
    ragged = scene(odd, patches)
    scores = make_scorer(name)(ragged)
    assert scores.shape == (5,) and scores[4] < 0.9
    alone = scene(odd[:1], patches[:1])
    if name == "propositional":  # relative to nothing: a patch scores the same in any company
        assert torch.allclose(make_scorer(name)(alone), scores[:1], atol=1e-6)


@pytest.mark.parametrize("name", PIXEL_SCORERS)
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_flat_image_scores_zero(name, value):
    assert make_scorer(name)(scene([blank(value)] * 3)).max() < 1e-3


@pytest.mark.parametrize("name", PIXEL_SCORERS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_pixels_are_refused_by_patch(name, bad):
    broken = page()
    broken.pixels[2] = broken.pixels[2].clone()
    broken.pixels[2][1, 3, 4] = bad
    for call in (make_scorer(name), scene_detail_loss):
        with pytest.raises(ValueError, match="patch 2 hold NaN or infinite"):
            call(broken)


def test_missing_or_misshapen_pixels_are_refused():
    broken = page()
    broken.pixels[1] = broken.pixels[1][0]
    with pytest.raises(ValueError, match=r"patch 1 have shape \(160, 160\)"):
        make_scorer("propositional")(broken)
    broken.pixels = None
    with pytest.raises(ValueError, match="'perspectival' needs pixels"):
        make_scorer("perspectival")(broken)


def test_resize_is_the_antialiased_interpolation():
    x = torch.rand(2, 3, 50, 70, generator=torch.Generator().manual_seed(0))
    for mode in ("bilinear", "bicubic"):
        for size in ((20, 33), (80, 70), (50, 140)):
            expected = F.interpolate(x, size=size, mode=mode, antialias=True)
            assert torch.allclose(resize(x, *size, mode=mode), expected, atol=1e-5)


def test_two_colour_planes_keep_the_energy():
    x = torch.stack([photograph(n)[:, 100:260, 100:260] for n in ("china.jpg", "flower.jpg")])
    planes = colour_planes(x)
    energy = [(t - t.mean((2, 3), keepdim=True)).square().sum((1, 2, 3)) for t in (planes, x)]
    assert (energy[0] <= energy[1] * 1.0001).all() and (energy[0] > 0.97 * energy[1]).all()


def test_third_party_scorers_register_in_one_call(fresh_registry):
    class Height(Scorer):
        name, needs = "height", frozenset()

        def __init__(self, divisor: float = 20.0) -> None:
            self.divisor = divisor

        def score(self, scene):
            return torch.tensor([p.height / self.divisor for p in scene.patches])

    register_scorer("height", Height)
    assert "height" in scorer_names()
    assert make_scorer("height", divisor=40.0)(page()).tolist() == [0.5] * 4
    register_scorer("height", Height)  # the same again is no error
    with pytest.raises(ValueError, match="exists already"):
        register_scorer("height", lambda: Height())
    with pytest.raises(ValueError, match="exists already"):
        register_scorer("propositional", Height)
    with pytest.raises(ValueError, match="no option 'divisr'. Did you mean 'divisor'"):
        make_scorer("height", divisr=1.0)
    with pytest.raises(ValueError, match="must be finite and lie in"):
        make_scorer("height", divisor=1.0)(page())
    register_scorer("wrong", lambda: 3)
    with pytest.raises(TypeError, match="must return a Scorer"):
        make_scorer("wrong")


@pytest.mark.parametrize(("value", "message"), [([0.1, 0.2], "one number per patch"), ([float("nan")] * 4, "finite")])
def test_a_scorer_that_breaks_the_contract_is_named(value, message):
    class Broken(Scorer):
        name = "broken"

        def score(self, scene):
            return torch.tensor(value)

    with pytest.raises(ValueError, match=f"'broken'.*{message}"):
        Broken()(page())


def test_unknown_scorers_name_the_near_match():
    with pytest.raises(ValueError, match="Did you mean 'participatory'"):
        make_scorer("participatry")
    with pytest.raises(ValueError, match="has no option 'layer'. Did you mean 'layers'"):
        make_scorer("participatory", layer=3)
