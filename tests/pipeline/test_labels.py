"""Labels are read back from damaged colours as the definition says: by the nearest colour."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline import labels, pairs, synthesize
from pipeline.labels import NearestColor, UnknownColors
from pipeline.palette import CITYSCAPES, IGNORE_LABEL, Entry, Palette


@pytest.fixture(scope="module")
def cityscapes() -> NearestColor:
    return NearestColor(CITYSCAPES)


def distances(mask: np.ndarray, palette: Palette) -> np.ndarray:
    """Of each pixel to each colour, the plain way: float64 [H, W, N]."""
    difference = mask[:, :, None].astype(float) - palette.colors.astype(float)
    return np.sqrt((difference**2).sum(-1))


def assert_nearest(read: labels.RecoveredLabels, mask: np.ndarray, palette: Palette) -> None:
    """Each train id must be one that a nearest colour has; a tie may go either way."""
    to_colors = distances(mask, palette)
    given_id = palette.train_ids == read.train_ids[..., None]
    to_given = np.where(given_id, to_colors, np.inf).min(-1)
    np.testing.assert_array_equal(to_given, to_colors.min(-1))


@settings(max_examples=200, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 8), st.just(3))))
def test_every_colour_gets_the_label_of_the_nearest(cityscapes, mask):
    fraction = (distances(mask, CITYSCAPES).min(-1) > labels.UNKNOWN_DISTANCE + 0.5).mean()
    if fraction > labels.MAX_UNKNOWN_FRACTION:
        with pytest.raises(UnknownColors):
            cityscapes(mask)
    else:
        read = cityscapes(mask)
        assert read.unknown_fraction == pytest.approx(fraction)
        assert_nearest(read, mask, CITYSCAPES)


@pytest.mark.parametrize("spread", [3, 12, 20])
def test_damaged_masks_get_the_labels_of_the_nearest(cityscapes, spread):
    rng = np.random.default_rng(spread)
    true = CITYSCAPES.colors[rng.integers(0, 29, (200, 300))]
    mask = (true + rng.normal(0, spread, true.shape)).clip(0, 255).astype(np.uint8)
    assert_nearest(cityscapes(mask), mask, CITYSCAPES)


def test_undamaged_colours_come_back_exactly(cityscapes):
    order = np.random.default_rng(0).integers(0, 29, (50, 40))
    read = cityscapes(CITYSCAPES.colors[order])
    np.testing.assert_array_equal(read.train_ids, CITYSCAPES.train_ids[order])
    assert read.train_ids.dtype == np.uint8
    assert read.unknown_fraction == 0


def test_the_halves_of_a_pair_need_not_be_contiguous(cityscapes):
    pixels = np.tile(CITYSCAPES.colors[:4], (6, 2, 1))
    _, mask = pairs.split_pair(pixels, "left")
    assert not mask.flags.c_contiguous
    np.testing.assert_array_equal(cityscapes(mask).train_ids, np.tile([0, 1, 2, 3], (6, 1)))


def test_a_photo_in_place_of_the_mask_is_refused(cityscapes):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    with pytest.raises(UnknownColors, match=r"\d+% of the mask's pixels .* palette 'cityscapes'"):
        cityscapes(noise)


@pytest.mark.parametrize(("share", "refused"), [(0.29, False), (0.31, True)])
def test_more_than_three_tenths_of_unknown_colour_are_too_many(cityscapes, share, refused):
    mask = np.zeros((100, 100, 3), np.uint8)
    mask[: round(share * 100)] = (0, 255, 0)
    if refused:
        with pytest.raises(UnknownColors, match="31%"):
            cityscapes(mask)
    else:
        assert cityscapes(mask).unknown_fraction == pytest.approx(share)


@pytest.mark.parametrize("num_colors", [2, 40, 300])
def test_palettes_of_ones_own(num_colors):
    rng = np.random.default_rng(num_colors)
    codes = rng.choice(2**24, num_colors, replace=False)
    colors = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], -1)
    train_ids = [*range(num_colors // 2), *rng.integers(0, num_colors // 2, num_colors)]
    train_ids[-1] = train_ids[num_colors - 1] = IGNORE_LABEL
    palette = Palette(
        "own",
        tuple(
            Entry(f"class {i}", tuple(map(int, color)), int(train_id))
            for i, (color, train_id) in enumerate(zip(colors, train_ids, strict=False))
        ),
    )
    true = palette.colors[rng.integers(0, num_colors, (60, 50))].astype(int)
    mask = (true + rng.integers(-9, 10, true.shape)).clip(0, 255).astype(np.uint8)
    assert_nearest(NearestColor(palette)(mask), mask, palette)


def test_labels_survive_jpeg_as_far_as_is_claimed(cityscapes):
    """Of synthetic masks, at the quality of the pairs on Kaggle."""
    right = []
    for index in range(8):
        photo, truth = synthesize.draw_scene(synthesize.scene_rng(0, "val", index), 256)
        pair = pairs.decode_image(synthesize.encode_pair(photo, truth))
        right.append((cityscapes(pairs.split_pair(pair, "left")[1]).train_ids == truth).mean())
    assert np.mean(right) > 0.95


def test_real_masks_are_read_back(cityscapes, real_pairs, real_labels):
    right = total = 0
    for path in sorted((real_pairs / "val").iterdir()):
        truth = cv2.imread(str(real_labels / "val" / f"{path.stem}.png"), cv2.IMREAD_UNCHANGED)
        _, mask = pairs.split_pair(pairs.decode_image(path.read_bytes()), "left")
        right += np.count_nonzero(cityscapes(mask).train_ids == truth)
        total += truth.size
    assert right / total >= 0.97
