"""Augmentation: photo and labels stay together, and the same seed gives the same result."""

import numpy as np
import pytest
import tensorflow as tf

from pipeline.augment import (
    pad,
    paste_classes,
    random_color,
    random_crop,
    scale_image,
    scale_label,
)

FILL = -1000.0
HEIGHT, WIDTH = 40, 60


def coordinates(height: int = HEIGHT, width: int = WIDTH) -> tuple[np.ndarray, np.ndarray]:
    """A photo that says of each pixel where it is, and labels that say it up to 15 pixels.

    Sampled bilinearly, the photo gives the place of sampling exactly.
    """
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows, columns, rows + columns], axis=-1).astype(np.float32)
    return image, label_at(rows, columns)


def label_at(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return (rows % 15 * 15 + columns % 15).astype(np.uint8)


def cropped(image: tf.Tensor, label: tf.Tensor, seed: tf.Tensor, **changes):
    """Photo and labels of a random crop."""
    options = {"crop_size": 32, "min_scale": 0.5, "max_scale": 2.0, "flip": True, **changes}
    crop = random_crop(tf.shape(label), seed, **options)
    top, left, height, width = tf.unstack(crop.window)
    window = image[top : top + height, left : left + width]
    return (
        pad(scale_image(window, crop), crop, options["crop_size"], FILL),
        pad(scale_label(label, crop), crop, options["crop_size"], 255),
    )


def augment(image, label, seed: int, **changes) -> tuple[np.ndarray, np.ndarray]:
    changed = cropped(tf.constant(image), tf.constant(label), tf.constant([seed, 7]), **changes)
    return changed[0].numpy(), changed[1].numpy()


def unscaled(image, label, seed, **changes):
    return augment(image, label, seed, **{"min_scale": 1.0, "max_scale": 1.0, **changes})


@pytest.mark.parametrize("size", [9, 32, 64, 301])
@pytest.mark.parametrize("seed", range(3))
def test_a_crop_of_the_whole_photo_at_scale_1_changes_nothing(size, seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (size, size, 3), np.uint8)
    label = rng.integers(0, 256, (size, size), np.uint8)
    same_image, same_label = unscaled(image, label, seed, crop_size=size, flip=False)
    assert same_image.dtype == np.float32
    assert same_label.dtype == np.uint8
    np.testing.assert_array_equal(same_label, label)
    np.testing.assert_allclose(same_image, image, atol=0.05)


def test_a_crop_at_scale_1_is_a_window_and_windows_lie_everywhere():
    image, label = coordinates()
    corners = set()
    for seed in range(80):
        cropped, cropped_label = unscaled(image, label, seed, flip=False)
        top, left = np.rint(cropped[0, 0, :2]).astype(int)
        window = np.s_[top : top + 32, left : left + 32]
        np.testing.assert_allclose(cropped, image[window], atol=1e-3)
        np.testing.assert_array_equal(cropped_label, label[window])
        corners.add((top, left))
    tops, lefts = zip(*corners, strict=True)
    assert set(tops) == set(range(HEIGHT - 32 + 1))
    assert (min(lefts), max(lefts)) == (0, WIDTH - 32)


def test_one_in_two_is_mirrored_photo_and_labels_alike():
    image, label = coordinates()
    mirrored = 0
    for seed in range(60):
        plain_image, plain_label = unscaled(image, label, seed, flip=False)
        flipped_image, flipped_label = unscaled(image, label, seed, flip=True)
        if flipped_image[0, 0, 1] > flipped_image[0, -1, 1]:
            mirrored += 1
            flipped_image, flipped_label = flipped_image[:, ::-1], flipped_label[:, ::-1]
        np.testing.assert_allclose(flipped_image, plain_image, atol=1e-3)
        np.testing.assert_array_equal(flipped_label, plain_label)
    assert 18 <= mirrored <= 42


@pytest.mark.parametrize("crop_size", [16, 32, 75])
def test_each_label_is_the_one_where_the_photo_was_sampled(crop_size):
    image, label = coordinates()
    shares_clear = []
    for seed in range(40):
        sampled, labels = augment(image, label, seed, crop_size=crop_size)
        inside = sampled[..., 0] != FILL
        rows, columns = sampled[..., 0][inside], sampled[..., 1][inside]
        assert inside.any()
        assert rows.min() >= 0
        assert rows.max() <= HEIGHT - 1
        assert columns.max() <= WIDTH - 1
        np.testing.assert_array_equal(labels[~inside], 255)
        # Halfway between two pixels either is the nearest.
        clear = np.minimum(np.abs(rows % 1 - 0.5), np.abs(columns % 1 - 0.5)) > 0.01
        expected = label_at(np.rint(rows).astype(int), np.rint(columns).astype(int))
        shares_clear.append(clear.mean())
        np.testing.assert_array_equal(labels[inside][clear], expected[clear])
    assert np.mean(shares_clear) > 0.5


@pytest.mark.parametrize(("scale", "crop_size"), [(0.5, 20), (2.0, 80), (0.8, 32), (1.25, 50)])
@pytest.mark.parametrize("flip", [False, True])
def test_pixels_are_squares_and_not_points(scale, crop_size, flip):
    """A scaled photo keeps its middle: as much is beyond its first pixel's centre as its last's."""
    image, label = coordinates(40, 40)
    sampled, _ = augment(
        image, label, 5, crop_size=crop_size, min_scale=scale, max_scale=scale, flip=flip
    )
    inside = sampled[..., 0] != FILL
    np.testing.assert_allclose(sampled[inside].mean(0), [19.5, 19.5, 39], atol=1e-3)
    steps = np.abs(np.diff(sampled[5:-5, 5:-5, 1], axis=1))
    np.testing.assert_allclose(steps, 1 / scale, atol=1e-3)


def test_scales_are_log_uniform_between_their_ends():
    image, label = coordinates(400, 400)
    steps = []
    for seed in range(200):
        sampled, _ = augment(image, label, seed, crop_size=50, flip=False)
        steps.append(np.diff(sampled[1:-1, 0, 0]).mean())
    scales = np.log2(1 / np.array(steps))
    assert scales.min() >= -1.001
    assert scales.max() <= 1.001
    assert abs(scales.mean()) < 0.15
    np.testing.assert_allclose(np.quantile(scales, [0.25, 0.75]), [-0.5, 0.5], atol=0.2)


def test_a_photo_smaller_than_the_crop_is_filled_around_and_kept_whole():
    image, label = coordinates(20, 24)
    for seed in range(20):
        sampled, labels = unscaled(image, label, seed, crop_size=48)
        inside = labels != 255
        assert inside.sum() == 20 * 24
        assert (sampled[~inside] == FILL).all()
        np.testing.assert_array_equal(np.sort(labels[inside]), np.sort(label.ravel()))


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1), (2, 2)])
def test_the_smallest_photos_are_filled_like_others(shape):
    image, label = coordinates(*shape)
    sampled, labels = augment(image, label, 1)
    assert np.isfinite(sampled).all()
    assert set(np.unique(labels)) <= {*label.ravel(), 255}


def test_the_ignore_label_stays_the_ignore_label():
    image, _ = coordinates()
    void = np.full((HEIGHT, WIDTH), 255, np.uint8)
    assert (augment(image, void, 3)[1] == 255).all()


def test_inside_tf_data_as_eagerly_and_again_the_same():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    label = rng.integers(0, 19, (HEIGHT, WIDTH), np.uint8)

    def both(seed):
        changed, labels = cropped(tf.constant(image), tf.constant(label), tf.stack([seed, 7]))
        return changed, labels, random_color(changed, tf.stack([seed, 8]), 0.25)

    traced = tf.data.Dataset.range(20, output_type=tf.int32).map(both, num_parallel_calls=2)
    results = list(traced.as_numpy_iterator())
    for seed, result in enumerate(results):
        for first, second in zip(both(tf.constant(seed)), result, strict=True):
            np.testing.assert_allclose(first, second, atol=1e-3)
    for first, second in zip(results, traced.as_numpy_iterator(), strict=True):
        np.testing.assert_array_equal(first[0], second[0])
    assert len({result[0].tobytes() for result in results}) == 20


class TestColor:
    PHOTO = np.random.default_rng(1).uniform(0, 255, (20, 30, 3)).astype(np.float32)

    def change(self, image, seed: int, strength: float) -> np.ndarray:
        return random_color(tf.constant(image), tf.constant([seed, 5]), strength).numpy()

    def test_strength_0_changes_nothing(self):
        np.testing.assert_allclose(self.change(self.PHOTO, 3, 0.0), self.PHOTO, atol=1e-3)

    @pytest.mark.parametrize("seed", range(5))
    def test_is_saturation_then_contrast_then_brightness(self, seed):
        factors = tf.random.stateless_uniform([3], [seed, 5], 0.6, 1.4).numpy()
        brightness, contrast, saturation = factors.astype(float)
        photo = self.PHOTO.astype(float)
        gray = (photo @ [0.299, 0.587, 0.114])[..., None]
        expected = gray + saturation * (photo - gray)
        expected = photo.mean() + contrast * (expected - photo.mean())
        expected = (brightness * expected).clip(0, 255)
        np.testing.assert_allclose(self.change(self.PHOTO, seed, 0.4), expected, atol=0.01)

    @pytest.mark.parametrize("seed", range(10))
    def test_levels_stay_levels(self, seed):
        extreme = np.where(self.PHOTO > 127, 255, 0).astype(np.float32)
        changed = self.change(extreme, seed, 0.9)
        assert changed.min() >= 0
        assert changed.max() <= 255
        assert np.abs(changed - extreme).max() > 1

    def test_grey_stays_grey(self):
        gray = np.repeat(self.PHOTO[..., :1], 3, axis=-1)
        changed = self.change(gray, 4, 0.5)
        np.testing.assert_allclose(changed, changed[..., :1].repeat(3, -1), atol=1e-2)
        assert np.abs(changed - gray).max() > 1


class TestPaste:
    """Of classes 0 to 3 and void; the other example's pixels are told by their level of 1."""

    label, other_label = np.random.default_rng(0).choice(np.uint8([0, 1, 2, 3, 255]), (2, 20, 30))

    def pasted(self, seed: int, chances=(0.5,) * 4) -> tuple[np.ndarray, np.ndarray]:
        """Where a pixel was pasted, and the labels after it."""
        image, other_image = tf.zeros([20, 30, 3]), tf.ones([20, 30, 3])
        image, label = paste_classes(
            image, tf.constant(self.label), other_image, tf.constant(self.other_label),
            tf.constant([seed, 3]), tf.constant(chances),
        )  # fmt: skip
        assert label.dtype == tf.uint8
        assert (image.numpy() == image.numpy()[..., :1]).all()
        return image.numpy()[..., 0], label.numpy()

    def test_a_class_is_pasted_whole_or_not_at_all_with_its_labels(self):
        choices = set()
        for seed in range(60):
            where, label = self.pasted(seed)
            shares = [where[self.other_label == train_id].mean() for train_id in (0, 1, 2, 3)]
            assert set(shares) <= {0.0, 1.0}
            assert not where[self.other_label == 255].any()
            np.testing.assert_array_equal(label, np.where(where, self.other_label, self.label))
            choices.add(tuple(shares))
        assert len(choices) == 2**4

    def test_the_same_seed_chooses_the_same(self):
        for seed in range(5):
            for one, again in zip(self.pasted(seed), self.pasted(seed), strict=True):
                np.testing.assert_array_equal(one, again)

    def test_each_class_has_its_own_chance(self):
        chances = (0.0, 0.1, 0.6, 1.0)
        pasted = np.mean(
            [
                [where[self.other_label == train_id].all() for train_id in range(4)]
                for where, _ in (self.pasted(seed, chances) for seed in range(400))
            ],
            axis=0,
        )
        np.testing.assert_allclose(pasted, chances, atol=0.08)
        assert (pasted[0], pasted[3]) == (0.0, 1.0)
