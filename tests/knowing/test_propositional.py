"""Planted truth for the propositional score and the detail loss."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from arr_coc.knowing.detail import detail_loss, scene_detail_loss
from arr_coc.knowing.propositional import Propositional
from arr_coc.scene.patches import Patch
from tests.knowing.planted import blank, noise, objects, photograph, ramp, scene, sign, square, text, vignette

GRIDS = [(8, 8), (8, 16), (16, 16), (20, 20)]


def score(*pictures):
    return Propositional()(scene(pictures))


def intensity_entropy(pixels, bins=32):
    """``[n]`` Shannon entropy of the intensity histogram, in bits."""
    level = (pixels.mean(1) * bins).long().clamp(0, bins - 1).flatten(1)
    p = torch.stack([torch.bincount(row, minlength=bins) for row in level]) / level.shape[1]
    return -torch.special.xlogy(p, p).sum(-1) / math.log(2)


def test_noise_does_not_beat_text():
    noises = [noise(d, seed, grey) for d in (0.02, 0.05, 0.1, 0.2, 0.4) for seed in (0, 1) for grey in (True, False)]
    texts = [text(s, seed=seed) for s in (9, 11, 16) for seed in (0, 1)]
    texts += [text(12, lines=3), text(14, (143,) * 3, (128,) * 3), text(11, (235,) * 3, (15,) * 3)]
    scores = score(*noises, *texts)
    assert scores[: len(noises)].max() < 0.05
    assert scores[len(noises) :].min() > 0.3
    # Plain entropy ranks them the wrong way round: that is why it is not the score.
    plain = intensity_entropy(torch.stack([noise(0.2), text()]))
    assert plain[0] > plain[1]


def test_blurred_noise_and_impulses_do_not_beat_text():
    soft = F.avg_pool2d(F.avg_pool2d(noise(0.5)[None], 3, 1, 1), 3, 1, 1)[0]
    impulses = torch.where(noise(1.0, grey=True) > 0.97, 1.0, 0.5)
    scores = score(soft, impulses, text(9), text(12, lines=3))
    assert scores[:2].max() < scores[2:].min()


def test_text_is_found_in_noise_of_its_own_strength():
    for seed in range(3):
        hidden = (text(14, (100,) * 3, (150,) * 3, seed=seed) + noise(0.1, seed, mean=0.0 + 0.5) - 0.5).clamp(0, 1)
        with_text, without = score(hidden, noise(0.1, seed))
        assert with_text > 1.5 * without


def test_colours_of_equal_luminance_count():
    ink, paper = (200, 80, 90), (60, 138, 110)
    assert abs(sum(ink) - sum(paper)) < 65
    assert score(text(14, ink, paper)) > 0.4


def test_flat_and_graded_ground_hold_nothing():
    scores = score(blank(0.0), blank(1.0), ramp(), ramp(vertical=True))
    assert scores.max() < 0.02
    assert intensity_entropy(ramp()[None]) > 4.5  # bits that the score rightly ignores


def test_soft_light_holds_little():
    """Its gradients point everywhere and predict each other perfectly: only the rule against ramps keeps it down."""
    light, faint = score(vignette(), text(14, (143,) * 3, (128,) * 3))
    assert light < 0.15 and light < faint / 2


def test_more_content_more_bits():
    nothing, small, one, several, number, page = score(
        blank(), square(10), sign(None), objects(), sign("47"), text(12)
    ).tolist()
    assert nothing == 0 < small < one < number < page
    assert small < several < page


def test_photographs_foliage_and_sky():
    china = photograph("china.jpg")
    sky, roof = score(china[:, :160, 360:520], china[:, 100:260, 120:280])
    assert sky < 0.15 and roof > 3 * sky


def test_bits_stay_within_the_alphabet():
    bits = Propositional.bits(torch.stack([text(), noise(), blank()]))
    assert (bits >= 0).all() and (bits <= math.log2(9)).all()


def test_detail_loss_falls_with_the_budget_and_ends_at_zero():
    lost, energy = detail_loss(torch.stack([text(), sign(), noise(), square(), blank()]), (20, 20), GRIDS)
    share = lost.mean((2, 3)) / (energy.mean((1, 2)) + 1e-4)[:, None]
    assert (share[:4, 0] > share[:4, 1]).all() and (share[:4, 1] > share[:4, 2]).all()
    assert (share[:4, 2] > 0).all() and (share[:, 3] == 0).all()
    assert share[4].max() < 1e-6
    assert share[0, 0] > 0.5 > share[1, 0]  # a page is lost at 64 tokens, a disc is not


def test_detail_loss_is_the_energy_of_the_resize():
    """Against a plain antialiased resize there and back, on grey pixels, where one colour plane is everything."""
    x = text(11, (20,) * 3, (240,) * 3)[None]
    lost, energy = detail_loss(x, (20, 20), [(8, 16)])
    there = F.interpolate(x, size=(64, 128), mode="bicubic", antialias=True)
    back = F.interpolate(there, size=(160, 160), mode="bicubic", antialias=True)
    expected = F.avg_pool2d((x - back).square().sum(1, keepdim=True), 20)[:, 0]
    assert torch.allclose(lost[:, 0], expected, atol=1e-5)
    blocks = x.unfold(2, 20, 20).unfold(3, 20, 20)
    spread = blocks.var((4, 5), correction=0).sum(1)
    assert torch.allclose(energy, spread, atol=1e-5)


def test_detail_loss_knows_the_place():
    x = blank(0.9)
    x[:, 43:57, 103:117] = (torch.arange(14) % 2).float() * 0.8
    cells = scene_detail_loss(scene([x])).per_cell[0, :, 0].view(8, 8)
    assert cells.argmax() == 2 * 8 + 5 and cells[2, 5] > 0.5
    assert cells[6:].max() < 0.01


def test_detail_loss_separates_numbers_from_colours():
    found = scene_detail_loss(scene([sign("47"), sign(None)]))
    middle = found.per_cell[:, 4 * 8 + 3, :]  # the cell of the digits
    assert (middle[0, :3] > 2 * middle[1, :3]).all()
    weights = [torch.zeros(64), torch.zeros(64)]
    for w in weights:
        w[4 * 8 + 3] = 1.0
    assert torch.allclose(found.attended(weights), middle)


def test_detail_loss_of_ragged_patches():
    patches = [Patch(0, 0, 0, 20, 0, 20), Patch(0, 0, 20, 33, 0, 14), Patch(1, 0, 0, 5, 0, 6)]
    pictures = [text(), text()[:, :104, :112], text()[:, :40, :48]]
    ragged = scene(pictures, patches)
    ragged.glance_grids = [(8, 8), (8, 8), (5, 6)]
    found = scene_detail_loss(ragged)
    assert found.per_cell.shape == (3, 64, 4)
    assert (found.per_patch[2] == 0).all()  # 30 tokens: every arm is native
    assert (found.per_patch[1, 2:] == 0).all() and found.per_patch[1, 0] > 0  # 182 tokens: 256 and 400 are one arm
    assert (found.per_cell[2] == 0).all()


@pytest.mark.parametrize(
    ("pixels", "grids", "message"),
    [
        (torch.rand(2, 160, 160), GRIDS, r"\[n, 3, H, W\]"),
        (torch.full((3, 160, 160), torch.nan), GRIDS, "NaN"),
        (torch.rand(3, 160, 160), [(21, 20)], "21 x 20 must lie between"),
    ],
)
def test_detail_loss_refuses(pixels, grids, message):
    with pytest.raises(ValueError, match=message):
        detail_loss(pixels, (20, 20), grids)
