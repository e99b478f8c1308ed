"""Pictures: their shapes, and pixels whose colour is known."""

import cv2
import numpy as np
import pytest

from pipeline.overlay import overlay
from pipeline.palette import CITYSCAPES, IGNORE_LABEL
from trainer import pictures

ROAD, SKY, CAR = 0, 10, 13


def photo_and_labels(height=40, width=60):
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (height, width, 3), np.uint8)
    labels = np.full((height, width), SKY, np.uint8)
    labels[height // 2 :] = ROAD
    labels[:, :5] = IGNORE_LABEL
    return photo, labels


@pytest.mark.parametrize("gap", [0, 1, 4])
def test_a_strip_holds_its_panels_with_white_between(gap):
    rng = np.random.default_rng(0)
    panels = [rng.integers(0, 255, (10, width, 3), np.uint8) for width in (3, 7, 5)]
    strip = pictures.strip(panels, gap)
    assert strip.shape == (10, 15 + 2 * gap, 3)
    assert strip.dtype == np.uint8
    left = 0
    for panel in panels:
        np.testing.assert_array_equal(strip[:, left : left + panel.shape[1]], panel)
        left += panel.shape[1]
        assert (strip[:, left : left + gap] == 255).all()
        left += gap


def test_a_strip_of_one_panel_is_the_panel():
    panel = np.zeros((4, 5, 3), np.uint8)
    np.testing.assert_array_equal(pictures.strip([panel]), panel)


def test_a_caption_stands_above_the_picture():
    photo, _ = photo_and_labels()
    captioned = pictures.with_caption(photo, "31.5% 7.jpg")
    assert captioned.shape == (56, 60, 3) and captioned.dtype == np.uint8
    np.testing.assert_array_equal(captioned[16:], photo)
    assert captioned[:16].min() < 100 and (captioned[0] == 255).all()
    other = pictures.with_caption(photo, "31.6% 7.jpg")
    assert not np.array_equal(captioned[:16], other[:16])


def test_an_overlay_mixes_photo_and_colours():
    photo, labels = photo_and_labels()
    before = photo.copy()
    tinted = overlay(photo, labels, CITYSCAPES)
    colors = np.zeros((256, 3))
    colors[:19] = CITYSCAPES.class_colors
    expected = 0.45 * photo + 0.55 * colors[labels]
    assert tinted.dtype == np.uint8
    assert np.abs(tinted - expected).max() <= 0.5 + 1e-6
    np.testing.assert_array_equal(photo, before)


def test_a_legend_leaves_the_picture_and_names_what_is_there():
    photo, labels = photo_and_labels(height=100)
    result = pictures.with_legend(photo, labels, CITYSCAPES)
    np.testing.assert_array_equal(result[:, :60], photo)
    legend = result[:, 60:].reshape(-1, 3)
    pixels = [(legend == color).all(axis=1).sum() for color in CITYSCAPES.class_colors]
    # A few pixels may have a class's colour by chance, where black letters fade into white.
    assert [train_id for train_id, count in enumerate(pixels) if count > 100] == [ROAD, SKY]


def test_a_legend_begins_with_the_largest_class():
    labels = np.full((100, 10), SKY, np.uint8)
    labels[:40], labels[40:45] = ROAD, CAR
    result = pictures.with_legend(np.zeros((100, 10, 3), np.uint8), labels, CITYSCAPES)[:, 10:]
    tops = [
        int(np.argmax((result == CITYSCAPES.class_colors[train_id]).all(2).any(1)))
        for train_id in (SKY, ROAD, CAR)
    ]
    assert 0 < tops[0] < tops[1] < tops[2]


def test_a_low_picture_grows_to_its_legend():
    labels = np.arange(19, dtype=np.uint8)[np.newaxis].repeat(8, axis=0)
    photo = np.full((8, 19, 3), 7, np.uint8)
    result = pictures.with_legend(photo, labels, CITYSCAPES)
    assert result.shape[0] > 19 * 15
    np.testing.assert_array_equal(result[:8, :19], photo)
    assert (result[8:, :19] == 255).all()
    for color in CITYSCAPES.class_colors:
        assert (result == color).all(2).any()


def test_a_legend_leaves_out_specks():
    labels = np.full((100, 100), SKY, np.uint8)
    labels[0, :5], labels[1, :4] = ROAD, CAR  # 0.05 % are listed, less is not
    result = pictures.with_legend(np.zeros((100, 100, 3), np.uint8), labels, CITYSCAPES)[:, 100:]
    pixels = [(result == CITYSCAPES.class_colors[i]).all(axis=2).sum() for i in (SKY, ROAD, CAR)]
    assert pixels[0] > 100 and pixels[1] > 100 and pixels[2] == 0


def test_a_legend_of_nothing_but_void_is_empty():
    photo = np.full((30, 20, 3), 7, np.uint8)
    labels = np.full((30, 20), IGNORE_LABEL, np.uint8)
    result = pictures.with_legend(photo, labels, CITYSCAPES)
    assert result.shape[0] == 30
    assert (result[:, 20:] == 255).all()


@pytest.mark.parametrize("rows", [[0, 1, 2], [2, 0, 1]])
def test_a_confusion_picture_shows_truth_in_rows(rows):
    matrix = np.zeros((3, 3), np.int64)
    for truth, prediction in enumerate(rows):
        matrix[truth, prediction] = 10 ** (truth + 1)  # shares, not counts, are drawn
    picture = pictures.confusion_picture(matrix, ["road", "sky", "traffic light"])
    assert picture.dtype == np.uint8
    assert picture.ndim == 3 and picture.shape[2] == 3
    dark = (picture < [60, 80, 256]).all(axis=2).astype(np.uint8)
    dark &= picture[..., 2] > 80  # blue, not black
    _, _, boxes, centers = cv2.connectedComponentsWithStats(dark, connectivity=4)
    largest = 1 + np.argsort(-boxes[1:, cv2.CC_STAT_AREA])[:3]
    by_row = sorted(centers[largest].tolist(), key=lambda center: center[1])
    order = np.argsort(np.argsort([center[0] for center in by_row]))
    np.testing.assert_array_equal(order, rows)


def test_a_confusion_picture_of_nothing_is_drawn_too():
    names = CITYSCAPES.class_names
    empty = pictures.confusion_picture(np.zeros((19, 19), np.int64), names)
    full = pictures.confusion_picture(np.eye(19, dtype=np.int64), names)
    assert empty.shape == full.shape
    assert not np.array_equal(empty, full)


def test_mistakes_are_marked_and_void_is_not():
    photo, truth = photo_and_labels()
    prediction = np.full_like(truth, SKY)
    picture = pictures.mistakes(photo, truth, prediction)
    wrong = np.zeros(truth.shape, bool)
    wrong[20:, 5:] = True
    assert (picture[wrong] == pictures.WRONG_COLOR).all()
    rest = picture[~wrong].astype(int)
    assert np.ptp(rest, axis=-1).max() == 0 and rest.min() >= 160
    assert np.ptp(rest) > 30  # the photo can still be seen
