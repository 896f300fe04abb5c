"""Readings against plain transcriptions of the formulas that were published for them, on random tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from arr_coc.knowing.participatory import Participatory
from tests.knowing.planted import blank, scene

PATCHES, SIDE = 3, 8  # one patch at each kind of place: first, between, last


def attention(seed: int) -> torch.Tensor:
    """``[layers 4, heads 5, cells]`` positive, as mass of the last token that leaves some for the words."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(4, 5, PATCHES * SIDE**2, generator=generator) / (2 * PATCHES * SIDE**2)


@pytest.mark.parametrize("layer", [0, 2, -1])
def test_relative_attention(layer):
    """Zhang et al., "MLLMs know where to look" (ICLR 2025): A_rel = A_q / A_g at one layer, heads averaged.

    A_g is the map of a question that asks for nothing in particular. Their map is used up to a factor (windows are
    compared by their sums), so ours adds up to one.
    """
    asked, generic = attention(1), attention(2)
    a_q = np.zeros(PATCHES * SIDE**2)
    a_g = np.zeros(PATCHES * SIDE**2)
    for head in range(5):
        a_q += asked[layer, head].double().numpy() / 5
        a_g += generic[layer, head].double().numpy() / 5
    relative = a_q / a_g
    reading = Participatory(layers=(layer,), weights=[1.0], prior=a_g.reshape(PATCHES, -1).tolist())
    seen = scene([blank()] * PATCHES, attention=asked)
    cells = torch.cat(reading.cell_map(seen)).double().numpy()
    np.testing.assert_allclose(cells, relative / relative.sum(), rtol=1e-4)
    by_patch = relative.reshape(PATCHES, -1).sum(1) / relative.sum()
    np.testing.assert_allclose(reading(seen).double().numpy(), by_patch, rtol=1e-4)


def test_mean_and_peak_over_a_band():
    """The mean of a layer's heads, normalised over the picture, then mean and maximum over the layers of the band."""
    asked = attention(3)
    layers = []
    for layer in (1, 2):
        mean = sum(asked[layer, head].double().numpy() for head in range(5)) / 5
        layers.append(mean / mean.sum())
    seen = scene([blank()] * PATCHES, attention=asked)
    reading = Participatory(layers=(1, 2))
    for found, joined in (
        (reading(seen), np.mean(layers, axis=0)),
        (reading.readings(seen)["peak"], np.max(layers, axis=0)),
    ):
        expected = joined.reshape(PATCHES, -1).sum(1) / joined.sum()
        np.testing.assert_allclose(found.double().numpy(), expected, rtol=1e-5)
