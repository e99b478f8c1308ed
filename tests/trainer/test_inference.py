"""Windows, scales and mirroring, against the same said again pixel by pixel."""

import math
import tracemalloc
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer import inference
from trainer.inference import WHOLE_PHOTO, Inference, InferenceError

SIDES = st.integers(1, 23)
OPTIONS = st.builds(
    Inference,
    scales=st.lists(st.sampled_from([0.5, 0.75, 1.0, 1.25, 1.75]), min_size=1, max_size=3).map(
        tuple
    ),
    flip=st.booleans(),
    window=st.none() | st.integers(1, 12),
    overlap=st.sampled_from([0.0, 1 / 3, 0.5, 0.9]),
)


def photos(height, width, batch=2):
    rng = np.random.default_rng(height * 100 + width)
    return rng.integers(0, 256, (batch, height, width, 3)).astype(np.float32)


def near_sighted(pixels):
    """A network of two classes that sees where a pixel lies, and the picture's mean."""
    pixels = np.asarray(pixels)
    _, height, width, _ = pixels.shape
    rows, columns = np.mgrid[:height, :width]
    place = (rows / 50 + columns / 100)[..., np.newaxis]
    mean = pixels.mean(axis=(1, 2), keepdims=True)
    return (pixels[..., :2] / 255 + place + mean[..., 1:] / 128).astype(np.float32)


def resized(values, size):
    """Bilinear, half-pixel centres, one row and column at a time: [H, W, C] -> [*size, C]."""
    for axis, length in enumerate(size):
        at = (np.arange(length) + 0.5) * values.shape[axis] / length - 0.5
        at = np.clip(at, 0, values.shape[axis] - 1)
        below = np.floor(at).astype(int)
        above = np.minimum(below + 1, values.shape[axis] - 1)
        share = (at - below).reshape([-1 if a == axis else 1 for a in range(3)])
        values = values.take(below, axis) * (1 - share) + values.take(above, axis) * share
    return values


def window_starts(length, window, overlap):
    side = min(window or length, length)
    starts, stride = [0], side - math.floor(side * overlap)
    while starts[-1] + side < length:
        starts.append(min(starts[-1] + stride, length - side))
    return side, starts


def said_again(network, photo, options):
    """The mean over the views of one photo, [H, W, 3] -> [H, W, K], in float64."""
    height, width, _ = photo.shape
    views = []
    for scale in options.scales:
        size = max(1, round(height * scale)), max(1, round(width * scale))
        seen = resized(photo.astype(np.float64), size).astype(np.float32)
        sums, counts = np.zeros((*size, 2)), np.zeros((*size, 1))
        rows, tops = window_starts(size[0], options.window, options.overlap)
        columns, lefts = window_starts(size[1], options.window, options.overlap)
        for top in tops:
            for left in lefts:
                part = seen[np.newaxis, top : top + rows, left : left + columns]
                scores = network(part)[0].astype(np.float64)
                if options.flip:
                    mirrored = network(np.flip(part, axis=2))[0].astype(np.float64)
                    scores = (scores + np.flip(mirrored, axis=1)) / 2
                sums[top : top + rows, left : left + columns] += scores
                counts[top : top + rows, left : left + columns] += 1
        assert counts.min() >= 1  # each pixel is covered
        views.append(resized(sums / counts, (height, width)))
    return np.mean(views, axis=0)


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, OPTIONS, st.sampled_from([1, 3, 64]))
def test_scores_are_the_mean_over_all_views(height, width, options, strip_rows):
    pixels = photos(height, width)
    with mock.patch.object(inference, "_STRIP_ROWS", strip_rows):
        found = options.scores(near_sighted, pixels)
    assert found.dtype == np.float32
    expected = [said_again(near_sighted, photo, options) for photo in pixels]
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)
    ids = options.class_ids(near_sighted, pixels).numpy()
    np.testing.assert_array_equal(ids, np.argmax(found, axis=-1))


@pytest.mark.parametrize("window", [None, 64, 97])
def test_tall_photos_have_no_seams(window):
    """More rows than are averaged at a time, by TensorFlow's resizing at once."""
    pixels = photos(301, 40, batch=1)
    options = Inference(scales=(0.75, 1.0, 1.75), window=window)
    found = options.scores(near_sighted, pixels)
    np.testing.assert_allclose(found[0], said_again(near_sighted, pixels[0], options), atol=2e-4)


def test_windows_overlap_by_a_third():
    def cuts(length, window):
        return [cut.start for cut in Inference(window=window)._cuts(length)]

    assert cuts(1000, 480) == [0, 320, 520]
    assert cuts(2048, 720) == [0, 480, 960, 1328]
    assert cuts(512, 512) == [0]


@settings(max_examples=30, deadline=None)
@given(SIDES, SIDES, OPTIONS)
def test_what_is_the_same_everywhere_stays_so(height, width, options):
    """Weights add up to 1 at every pixel, so that probabilities stay probabilities."""
    probabilities = np.array([0.125, 0.25, 0.625], np.float32)

    def constant(pixels):
        return np.broadcast_to(probabilities, (*pixels.shape[:3], 3))

    found = options.scores(constant, photos(height, width))
    np.testing.assert_allclose(found, np.broadcast_to(probabilities, found.shape), atol=1e-6)


@pytest.mark.parametrize("window", [1, 7, 16, 40])
def test_windows_change_nothing_where_pixels_are_judged_alone(window):
    pixels = photos(21, 33)
    found = Inference(window=window).scores(lambda seen: seen / 255, pixels)
    np.testing.assert_allclose(found, pixels / 255, rtol=1e-6)


def test_a_mirrored_photo_gives_mirrored_scores():
    pixels = photos(20, 31)
    options = Inference(scales=(0.75, 1.0), flip=True)
    found = options.scores(near_sighted, pixels)
    mirrored = options.scores(near_sighted, pixels[:, :, ::-1])
    np.testing.assert_allclose(mirrored[:, :, ::-1], found, atol=1e-5)
    without = Inference(scales=(0.75, 1.0)).scores(near_sighted, pixels)
    assert np.abs(without - found).max() > 0.01


def test_by_default_the_network_sees_each_photo_once_as_it_is():
    pixels, seen = photos(9, 14), []

    def network(views):
        seen.append(views)
        return near_sighted(views)

    np.testing.assert_array_equal(WHOLE_PHOTO.scores(network, pixels), near_sighted(pixels))
    (view,) = seen
    np.testing.assert_array_equal(view, pixels)


def test_of_a_large_photo_one_window_is_seen_at_a_time():
    shapes = []

    def network(views):
        shapes.append(views.shape)
        return views[..., :1]

    pixels = np.zeros((1, 1024, 2048, 3), np.float32)
    scores = Inference(window=512, flip=True).scores(network, pixels)
    assert scores.shape == (1, 1024, 2048, 1)
    assert set(shapes) == {(1, 512, 512, 3)}
    assert len(shapes) == 2 * 3 * 6  # stride 342: rows at 0, 342, 512, columns at ..., 1368, 1536


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0, 1.5)])
def test_memory_for_scores_does_not_grow_with_the_photo(scales):
    options, num_classes = Inference(scales=scales, window=32), 100

    def network(views):
        return np.repeat(views[..., :1], num_classes, axis=-1)

    def most_held(pixels):
        tracemalloc.start()
        try:
            options.class_ids(network, pixels)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    low, high = (photos(height, 48, batch=1) for height in (512, 2048))
    most_held(low)  # TensorFlow's own, once
    scores_growth = (high[..., 0].nbytes - low[..., 0].nbytes) * num_classes
    assert most_held(high) - most_held(low) < scores_growth / 5


def test_a_photo_smaller_than_the_window_is_seen_whole():
    pixels = photos(9, 30)
    found = Inference(window=64).scores(near_sighted, pixels)
    np.testing.assert_array_equal(found, near_sighted(pixels))


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"scales": ()}, "--scales takes numbers above 0 and up to 4"),
        ({"scales": (1.0, 0.0)}, "Received: 1.0,0.0."),
        ({"scales": (4.5,)}, "Received: 4.5."),
        ({"scales": (math.nan,)}, "Received: nan."),
        ({"window": 0}, "--window takes 1 pixel or more. Received: 0."),
        ({"overlap": 1.0}, "below 1 of their side. Received: 1.0."),
        ({"overlap": -0.1}, "Received: -0.1."),
    ],
)
def test_what_cannot_be_is_refused(values, part):
    with pytest.raises(InferenceError) as caught:
        Inference(**values)
    assert part in str(caught.value)
