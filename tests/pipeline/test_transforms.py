"""What is counted on the way to the shards; the rest is tested through the job."""

import numpy as np
import pytest

from pipeline import transforms


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (100, 1), (64, 96), (4096, 2048)])
@pytest.mark.parametrize("lowest", [0, 253])
def test_sums_of_channels_are_exact(shape, lowest):
    rng = np.random.default_rng(shape)
    pair = rng.integers(lowest, 256, (shape[0], 2 * shape[1], 3), np.uint8)
    photo = pair[:, shape[1] :]  # a view, as halves of pairs are
    sums, square_sums = transforms._channel_sums(photo)
    assert sums.dtype == square_sums.dtype == np.int64
    np.testing.assert_array_equal(sums, photo.sum((0, 1), np.int64))
    np.testing.assert_array_equal(square_sums, (photo.astype(np.int64) ** 2).sum((0, 1)))
