"""Random changes to a photo and its labels, each a pure function of a seed.

A seed is an integer [2] tensor; the same seed gives the same result on every machine and replica.
A crop is drawn before the photo is decoded, so that only the part it shows need be.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from pipeline.palette import IGNORE_LABEL

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class Crop(NamedTuple):
    """A square crop of a scaled, perhaps mirrored photo, as drawn by `random_crop`.

    Attributes:
      window: int32 [4]: top, left, height and width of the part of the photo that it shows.
      size: int32 [2]: height and width this part is scaled to.
      offset: int32 [2]: its top and left within the crop; around it all is filled.
      mirrored: bool scalar: whether left and right change places.
    """

    window: tf.Tensor
    size: tf.Tensor
    offset: tf.Tensor
    mirrored: tf.Tensor


def random_crop(
    photo_size: tf.Tensor,
    seed: tf.Tensor,
    *,
    crop_size: int,
    min_scale: float,
    max_scale: float,
    flip: bool,
) -> Crop:
    """Draws scale, place and mirroring of a crop.

    The scale is log-uniform, but for being rounded so that the crop shows a whole number of the
    photo's pixels. Where the scaled photo is smaller than the crop, it is kept whole.

    Args:
      photo_size: int32 [2], height and width.
      seed: [2].
      crop_size: Side of the crop, in pixels.
      min_scale: Smallest scale.
      max_scale: Largest scale.
      flip: Mirror one in two.
    """
    draws = tf.random.stateless_uniform([4], seed)
    scale = min_scale * (max_scale / min_scale) ** draws[0]
    side = tf.maximum(tf.round(crop_size / scale), 1.0)
    scaled = tf.cast(tf.round(tf.cast(photo_size, tf.float32) * (crop_size / side)), tf.int32)
    size = tf.clip_by_value(scaled, 1, crop_size)
    shown = tf.minimum(photo_size, tf.cast(side, tf.int32))

    def place(room: tf.Tensor) -> tf.Tensor:
        return tf.cast(draws[1:3] * tf.cast(room + 1, tf.float32), tf.int32)

    window = tf.concat([place(photo_size - shown), shown], axis=0)
    mirrored = tf.logical_and(flip, draws[3] < 0.5)
    return Crop(window, size, place(crop_size - size), mirrored)


def scale_image(window: tf.Tensor, crop: Crop) -> tf.Tensor:
    """Scales, bilinearly, and mirrors a crop's window of the photo.

    Args:
      window: uint8 or float32 [h, w, 3] with h and w those of `crop.window`.
      crop: The crop.

    Returns:
      float32 [crop.size[0], crop.size[1], 3].
    """
    mirrored_axes = tf.fill([tf.cast(crop.mirrored, tf.int32)], 1)  # [1] or []
    window = tf.reverse(window, mirrored_axes)
    # Of floats it takes half the time that it takes of bytes.
    window = tf.cast(window, tf.float32)[tf.newaxis]
    return tf.raw_ops.ResizeBilinear(images=window, size=crop.size, half_pixel_centers=True)[0]


def scale_label(label: tf.Tensor, crop: Crop) -> tf.Tensor:
    """Cuts a crop's window out of the labels, scales it, to the nearest pixel, and mirrors it.

    Args:
      label: uint8 [H, W], all of it.
      crop: The crop.

    Returns:
      uint8 [crop.size[0], crop.size[1]].
    """
    top, left, height, width = tf.unstack(crop.window)
    rows = _nearest(height, crop.size[0])
    columns = _nearest(width, crop.size[1])
    columns = tf.where(crop.mirrored, width - 1 - columns, columns)
    # Columns first, of the rows in view: they are gathered pixel by pixel, rows at a stroke.
    window = label[top : top + height]
    return tf.gather(tf.gather(window, left + columns, axis=1), rows)


def _nearest(before: tf.Tensor, after: tf.Tensor) -> tf.Tensor:
    """Which of `before` pixels along an axis each of `after` pixels shows: int32 [after]."""
    return (2 * tf.range(after) + 1) * before // (2 * after)


def pad(pixels: tf.Tensor, crop: Crop, crop_size: int, fill: float) -> tf.Tensor:
    """Fills around a scaled window.

    Args:
      pixels: [crop.size[0], crop.size[1], ...].
      crop: The crop.
      crop_size: Side of the crop, in pixels.
      fill: Level given to pixels outside the photo.

    Returns:
      [crop_size, crop_size, ...], of the same type.
    """
    around = tf.stack([crop.offset, crop_size - crop.size - crop.offset], axis=1)
    rest = pixels.shape[2:]
    around = tf.pad(around, [[0, len(rest)], [0, 0]])
    padded = tf.pad(pixels, around, constant_values=tf.cast(fill, pixels.dtype))
    return tf.ensure_shape(padded, [crop_size, crop_size, *rest])


def random_color(image: tf.Tensor, seed: tf.Tensor, strength: float) -> tf.Tensor:
    """Changes brightness, contrast and saturation by one affine map of the colours.

    Args:
      image: float32 [H, W, 3], levels 0 to 255.
      seed: [2].
      strength: Each of the three changes by a factor of 1 - strength to 1 + strength.

    Returns:
      float32 [H, W, 3], levels 0 to 255.
    """
    factors = tf.random.stateless_uniform([3], seed, 1.0 - strength, 1.0 + strength)
    brightness, contrast, saturation = tf.unstack(factors)
    to_gray = tf.tile(tf.constant(_LUMA)[:, tf.newaxis], [1, 3])
    matrix = brightness * contrast * (saturation * tf.eye(3) + (1.0 - saturation) * to_gray)
    mean = tf.reduce_mean(image) * brightness
    # One product of two matrices: tf.tensordot of an unknown shape takes half as long again.
    mixed = tf.reshape(tf.reshape(image, [-1, 3]) @ matrix, tf.shape(image))
    return tf.clip_by_value(mixed + (1.0 - contrast) * mean, 0.0, 255.0)


def paste_classes(
    image: tf.Tensor,
    label: tf.Tensor,
    other_image: tf.Tensor,
    other_label: tf.Tensor,
    seed: tf.Tensor,
    chances: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Pastes all pixels of some classes of another example, chosen by chance.

    Pixels without a class are not pasted, and may be pasted over.

    Args:
      image: float32 [H, W, 3].
      label: uint8 [H, W], train ids.
      other_image: float32 [H, W, 3].
      other_label: uint8 [H, W].
      seed: [2].
      chances: float32 [K], of each class, 0 to 1.

    Returns:
      The mixed image and its labels, of the same shapes and types.

    Reference: Olsson et al., "ClassMix: Segmentation-Based Data Augmentation for Semi-Supervised
    Learning", WACV 2021, section 3.1, where labels are guessed and half of the classes are chosen.
    """
    chosen = tf.random.stateless_uniform(tf.shape(chances), seed) < chances
    chosen = tf.pad(chosen, [[0, IGNORE_LABEL + 1 - tf.size(chances)]])
    mask = tf.gather(chosen, tf.cast(other_label, tf.int32))
    return (
        tf.where(mask[..., tf.newaxis], other_image, image),
        tf.where(mask, other_label, label),
    )
