"""Planted truth for salience, and the rules of backbones."""

from __future__ import annotations

import pytest
import torch

from arr_coc.knowing import make_scorer
from arr_coc.knowing.perspectival import Perspectival, spectral_residual
from tests.knowing.planted import blank, mosaic, noise, objects, photograph, scene, sign, square, text


def sheet(*row):
    """Nine patches on paper, three by three, with ``row`` placed by index."""
    tiles = [blank(0.9) for _ in range(9)]
    for index, tile in row:
        tiles[index] = tile
    return torch.cat([torch.cat(tiles[r : r + 3], 2) for r in (0, 3, 6)], 1)


@pytest.mark.parametrize("place", [0, 4, 5, 8])
@pytest.mark.parametrize("residual", [True, False])
def test_the_one_object_stands_out(place, residual):
    scores = Perspectival(residual=residual)(mosaic(sheet((place, sign(None))), 3, 3))
    assert scores.argmax() == place and scores[place] > 0.7
    assert scores.sort().values[-2] < scores[place] - 0.2


def test_separate_patches_are_compared_with_each_other():
    tiles = [text(12, seed=i) for i in range(4)]
    tiles[2] = 1 - tiles[2]  # the only dark page
    scores = Perspectival()(scene(tiles))
    assert scores.argmax() == 2 and scores[2] > scores[[0, 1, 3]].max() + 0.05


def test_small_and_several_objects_beat_empty_ground():
    scores = Perspectival()(scene([blank(0.9), square(10), objects(), blank(0.9)]))
    assert scores[2] > scores[1] > scores[[0, 3]].max()


def test_a_seam_between_patches_of_one_image_is_no_edge():
    """A disc on the seam: seen whole, its two halves are equally salient."""
    picture = torch.cat([blank(0.9), blank(0.9)], 2)
    y, x = torch.meshgrid(torch.arange(160), torch.arange(320), indexing="ij")
    picture[:, (y - 79.5) ** 2 + (x - 159.5) ** 2 < 900] = torch.tensor([0.8, 0.1, 0.1])[:, None]
    left, right = Perspectival().maps(mosaic(picture, 1, 2))
    assert torch.allclose(left, right.flip(-1), atol=0.02)


def test_photographs():
    """The flower is central, the pavilion left; sky and background are dull."""
    flower = Perspectival()(mosaic(_fitted("flower.jpg"), 3, 4)).view(3, 4)
    assert flower[1, 1:3].min() > flower[:, [0, 3]].max()
    china = Perspectival()(mosaic(_fitted("china.jpg"), 3, 4)).view(3, 4)
    assert china[:2, 1].min() > china[:2, 2].max()


def _fitted(name):
    return torch.nn.functional.interpolate(photograph(name)[None], size=(480, 640), mode="bilinear", antialias=True)[0]


def test_spectral_residual_is_finite_on_flat_views():
    assert torch.allclose(spectral_residual(torch.full((2, 32, 32), 0.3)), torch.ones(2, 32, 32), atol=0.2)
    assert spectral_residual(torch.zeros(1, 1, 1)).isfinite().all()


def test_a_loaded_backbone_scores_by_contrast():
    timm = pytest.importorskip("timm")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model("test_vit", pretrained=False, num_classes=0).eval()
        convolutional = timm.create_model("test_resnet", pretrained=False, num_classes=0).eval()
    pictures = [text(), text(seed=1), text(seed=2), noise(0.4)]
    for backbone in (model, convolutional):
        scorer = Perspectival(backbone=backbone)
        scores = scorer(scene(pictures))
        assert scores.argmax() == 3
        assert torch.equal(scorer(scene(pictures)), scores)


def test_backbones_never_get_random_weights(monkeypatch):
    timm = pytest.importorskip("timm")
    with pytest.raises(ValueError, match="timm has no model 'vit_smal_patch16_224'.*Did you mean"):
        Perspectival(backbone="vit_smal_patch16_224")
    with pytest.raises(ValueError, match="no pretrained weights"):
        Perspectival(backbone="vit_giant_patch14_224")

    def offline(*args, **kwargs):
        assert kwargs["pretrained"] is True
        raise OSError("offline")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(RuntimeError, match="could not be loaded.*Random weights are never used"):
        Perspectival(backbone="vit_small_patch16_224.augreg_in1k")
    with pytest.raises(TypeError, match="timm module"):
        Perspectival(backbone=torch.nn.Linear(2, 2))


def test_a_backbone_in_training_mode_is_refused():
    timm = pytest.importorskip("timm")
    with pytest.raises(ValueError, match="training mode"):
        Perspectival(backbone=timm.create_model("test_vit", pretrained=False))


def test_glance_features_stand_out_by_their_contrast():
    """By hand: three patches of one direction, a fourth at a right angle to it."""
    same, other = torch.eye(4)[:1].expand(64, 4), torch.eye(4)[1:2].expand(64, 4)
    scorer = make_scorer("perspectival:glance")
    assert scorer.needs == {"glance"}
    found = scene([blank(0.5)] * 4, glance=[same, 3 * same, other, same])
    found.pixels = None  # it needs none
    centre = torch.tensor([3.0, 1.0]) / 10**0.5
    contrast = torch.stack([1 - centre[0], 1 - centre[0], 1 - centre[1], 1 - centre[0]])
    assert torch.allclose(scorer(found), contrast / (contrast + contrast.mean() + 1e-3), atol=1e-5)
    assert torch.equal(scorer(scene([blank(0.5)] * 2, glance=[same, same])), torch.zeros(2))
    with pytest.raises(ValueError, match="variant='glimpse' is unknown.*glance"):
        Perspectival(variant="glimpse")
    with pytest.raises(ValueError, match="leave backbone='resnet18' out"):
        Perspectival(variant="glance", backbone="resnet18")
