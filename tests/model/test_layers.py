"""Resizing against the formula of bilinear interpolation with half-pixel centres."""

import numpy as np
import pytest

from model.layers import ResizeLike


def interpolation_matrix(source, target):
    matrix = np.zeros((target, source))
    for i in range(target):
        position = min(max((i + 0.5) * source / target - 0.5, 0), source - 1)
        below = int(position)
        above = min(below + 1, source - 1)
        matrix[i, below] += 1 - (position - below)
        matrix[i, above] += position - below
    return matrix


@pytest.mark.parametrize("target", [(13, 8), (3, 20), (1, 1), (4, 5)])
def test_resizes_with_half_pixel_centres(target):
    features = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype(np.float32)
    resized = ResizeLike()([features, np.zeros((2, *target, 1), np.float32)])
    rows, columns = (interpolation_matrix(s, t) for s, t in zip((4, 5), target, strict=True))
    expected = np.einsum("ij,bjkc,lk->bilc", rows, features, columns)
    np.testing.assert_allclose(resized, expected, atol=1e-5)
