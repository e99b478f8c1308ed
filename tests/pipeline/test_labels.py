"""Labels are read back from damaged colours: by the nearest colour, or fitted to the JPEG."""

import functools
import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from pipeline import labels, pairs, synthesize
from pipeline.labels import FittedColors, NearestColor, RecoveredLabels, UnknownColors
from pipeline.palette import CITYSCAPES, IGNORE_LABEL, Entry, Palette


def nearest(mask: np.ndarray, palette: Palette = CITYSCAPES) -> RecoveredLabels:
    """What the nearest colours say; they look at pixels alone."""
    return NearestColor(palette).read_pixels(mask)


@functools.cache
def fitted_reader(palette: Palette = CITYSCAPES) -> FittedColors:
    return FittedColors(palette)


def read_pair(reader: labels.LabelReader, data: bytes, image_side: str = "left") -> RecoveredLabels:
    _, mask = labels.open_pair(data, image_side)
    return reader(mask)


@functools.cache
def scene(index: int, size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    return synthesize.draw_scene(synthesize.scene_rng(0, "val", index), size)


@functools.cache
def coded_scene(index: int, quality: int, subsampling: str) -> bytes:
    return synthesize.encode_pair(*scene(index), quality, subsampling)


def mean_iou(truth: np.ndarray, read: np.ndarray) -> float:
    """Over the classes in the truth, void left out; scikit-learn's definition of Jaccard."""
    scores = []
    for label in set(np.unique(truth)) - {IGNORE_LABEL}:
        either = np.count_nonzero((truth == label) | (read == label))
        scores.append(np.count_nonzero((truth == label) & (read == label)) / either)
    return float(np.mean(scores))


def distances(mask: np.ndarray, palette: Palette) -> np.ndarray:
    """Of each pixel to each colour, the plain way: float64 [H, W, N]."""
    difference = mask[:, :, None].astype(float) - palette.colors.astype(float)
    return np.sqrt((difference**2).sum(-1))


def assert_nearest(read: RecoveredLabels, mask: np.ndarray, palette: Palette) -> None:
    """Each train id must be one that a nearest colour has; a tie may go either way."""
    to_colors = distances(mask, palette)
    given_id = palette.train_ids == read.train_ids[..., None]
    to_given = np.where(given_id, to_colors, np.inf).min(-1)
    np.testing.assert_array_equal(to_given, to_colors.min(-1))


@settings(max_examples=200, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 8), st.just(3))))
def test_every_colour_gets_the_label_of_the_nearest(mask):
    fraction = (distances(mask, CITYSCAPES).min(-1) > labels.UNKNOWN_DISTANCE).mean()
    if fraction > labels.MAX_UNKNOWN_FRACTION:
        with pytest.raises(UnknownColors):
            nearest(mask)
    else:
        read = nearest(mask)
        assert read.unknown_fraction == pytest.approx(fraction)
        assert_nearest(read, mask, CITYSCAPES)


@pytest.mark.parametrize("spread", [3, 12, 18])
def test_damaged_masks_get_the_labels_of_the_nearest(spread):
    rng = np.random.default_rng(spread)
    true = CITYSCAPES.colors[rng.integers(0, 29, (200, 300))]
    mask = (true + rng.normal(0, spread, true.shape)).clip(0, 255).astype(np.uint8)
    assert_nearest(nearest(mask), mask, CITYSCAPES)


def test_undamaged_colours_come_back_exactly():
    order = np.random.default_rng(0).integers(0, 29, (50, 40))
    read = nearest(CITYSCAPES.colors[order])
    np.testing.assert_array_equal(read.train_ids, CITYSCAPES.train_ids[order])
    assert read.train_ids.dtype == np.uint8
    assert read.unknown_fraction == 0


def test_the_halves_of_a_pair_need_not_be_contiguous():
    pixels = np.tile(CITYSCAPES.colors[:4], (6, 2, 1))
    _, mask = pairs.split_pair(pixels, "left")
    assert not mask.flags.c_contiguous
    np.testing.assert_array_equal(nearest(mask).train_ids, np.tile([0, 1, 2, 3], (6, 1)))


def test_a_photo_in_place_of_the_mask_is_refused():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    with pytest.raises(UnknownColors, match=r"\d+% of the mask's pixels .* palette 'cityscapes'"):
        nearest(noise)


@pytest.mark.parametrize(("share", "refused"), [(0.29, False), (0.31, True)])
def test_more_than_three_tenths_of_unknown_colour_are_too_many(share, refused):
    mask = np.zeros((100, 100, 3), np.uint8)
    mask[: round(share * 100)] = (0, 255, 0)
    if refused:
        with pytest.raises(UnknownColors, match="31%"):
            nearest(mask)
    else:
        assert nearest(mask).unknown_fraction == pytest.approx(share)


@pytest.mark.parametrize("num_colors", [2, 40, 257])
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
    assert_nearest(nearest(mask, palette), mask, palette)


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:2:2", "4:4:4"])
@pytest.mark.parametrize("quality", [50, 75, 95])
def test_fitted_labels_are_better_than_the_nearest(quality, subsampling):
    """By a half of what the nearest colours get wrong, on drawn scenes of 19 classes."""
    wrong = {"fitted": 0, "nearest": 0}
    for index in range(3):
        truth = scene(index)[1]
        data = coded_scene(index, quality, subsampling)
        for name, reader in (("fitted", fitted_reader()), ("nearest", NearestColor(CITYSCAPES))):
            wrong[name] += np.count_nonzero(read_pair(reader, data).train_ids != truth)
    assert wrong["fitted"] < wrong["nearest"] / 2


def test_fitted_labels_are_as_exact_as_is_claimed():
    """On drawn scenes at the quality of the pairs on Kaggle."""
    truths, reads = zip(
        *((scene(i)[1], read_pair(fitted_reader(), coded_scene(i, 75, "4:2:0"))) for i in range(6)),
        strict=True,
    )
    truth = np.stack(truths)
    read = np.stack([read.train_ids for read in reads])
    sure = ~np.stack([read.unsure for read in reads])
    assert (read == truth).mean() > 0.985
    assert mean_iou(truth, read) > 0.90
    assert sure.mean() > 0.92
    assert (read == truth)[sure].mean() > 0.995


def test_masks_of_high_quality_come_back_whole():
    truth = scene(0)[1]
    read = read_pair(fitted_reader(), coded_scene(0, 100, "4:4:4"))
    assert (read.train_ids == truth).mean() > 0.9999


@pytest.mark.parametrize("image_side", ["left", "right"])
@pytest.mark.parametrize("size", [(64, 64), (50, 70), (37, 41), (18, 20), (1, 1)])
def test_masks_of_any_size_on_any_side(size, image_side):
    """Also where the mask does not begin or end with a block of the JPEG."""
    height, width = size
    truth = np.where(np.arange(width)[None] < width / 3, 13, np.full((height, 1), 0))
    truth[height // 2 :] = 8
    mask = CITYSCAPES.colorize(truth)
    noise = np.random.default_rng(0).integers(0, 256, mask.shape, np.uint8)
    halves = [noise if min(size) > 18 else mask, mask]
    pair = np.concatenate(halves if image_side == "left" else halves[::-1], axis=1)
    buffer = io.BytesIO()
    Image.fromarray(pair).save(buffer, "JPEG", quality=97, subsampling="4:2:0")
    read = read_pair(fitted_reader(), buffer.getvalue(), image_side)
    assert read.train_ids.shape == read.unsure.shape == size
    assert (read.train_ids == truth).mean() > 0.9


@pytest.mark.parametrize("options", [{"progressive": True}, {"optimize": True}, {"keep_rgb": True}])
def test_other_kinds_of_jpeg(options):
    photo, truth = scene(1)
    pair = np.concatenate([photo, CITYSCAPES.colorize(truth)], axis=1)
    buffer = io.BytesIO()
    Image.fromarray(pair).save(buffer, "JPEG", quality=85, subsampling=0, **options)
    read = read_pair(fitted_reader(), buffer.getvalue())
    assert (read.train_ids == truth).mean() > (0.98 if "keep_rgb" in options else 0.99)


def test_png_masks_come_back_exactly():
    photo, truth = scene(0)
    pair = np.concatenate([photo, CITYSCAPES.colorize(truth)], axis=1)
    buffer = io.BytesIO()
    Image.fromarray(pair).save(buffer, "PNG")
    read = read_pair(fitted_reader(), buffer.getvalue())
    np.testing.assert_array_equal(read.train_ids, truth)
    assert not read.unsure.any()


def test_a_photo_in_place_of_the_mask_is_refused_before_it_is_fitted():
    with pytest.raises(UnknownColors):
        read_pair(fitted_reader(), coded_scene(0, 75, "4:2:0"), "right")


def test_a_small_class_is_kept_and_its_look_alikes_are_not_invented():
    """Between black and a car's blue lie three other classes; a far car has a hundred pixels."""
    truth = np.full((128, 128), 0)
    truth[40:90, 10:60] = 13
    truth[60:, 80:] = IGNORE_LABEL
    truth[20:30, 100:110] = 11
    data = synthesize.encode_pair(np.zeros((128, 128, 3), np.uint8), truth, 60)
    read = read_pair(fitted_reader(), data)
    assert set(np.unique(read.train_ids)) == {0, 11, 13, IGNORE_LABEL}
    assert (read.train_ids == truth).mean() > 0.99


def test_real_masks_are_read_back_as_well_as_is_claimed(real_pairs, real_labels):
    names = sorted(path.stem for path in (real_labels / "val").iterdir())[::4]
    truth, read, unsure = [], [], []
    for name in names:
        path = str(real_labels / "val" / f"{name}.png")
        truth.append(cv2.imread(path, cv2.IMREAD_UNCHANGED))
        data = next((real_pairs / "val").glob(f"{name}.*")).read_bytes()
        result = read_pair(fitted_reader(), data)
        read.append(result.train_ids)
        unsure.append(result.unsure)
    right, sure = np.equal(truth, read), ~np.array(unsure)
    assert right.mean() >= 0.995
    assert mean_iou(np.array(truth), np.array(read)) >= 0.97
    assert right[sure].mean() >= 0.998
    assert sure.mean() >= 0.96
