"""Random changes to a photo and its labels, each a pure function of a seed.

A seed is an int32 [2] tensor; the same seed gives the same result on every machine and replica.
"""

from __future__ import annotations

import tensorflow as tf

from pipeline.palette import IGNORE_LABEL

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def random_scale_crop_flip(
    image: tf.Tensor,
    label: tf.Tensor,
    seed: tf.Tensor,
    *,
    crop_size: int,
    min_scale: float,
    max_scale: float,
    flip: bool,
    fill: float,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Scales, crops and mirrors in one resampling, which touches only the pixels that are kept.

    The scale is log-uniform. What lies outside the photo is filled: where the scaled photo is
    smaller than the crop, and up to half a pixel along its edges where it is enlarged.

    Args:
      image: uint8 or float32 [H, W, 3]; sampled bilinearly.
      label: uint8 [H, W]; sampled at the nearest pixel.
      seed: int32 [2].
      crop_size: Side of the result, in pixels.
      min_scale: Smallest scale.
      max_scale: Largest scale.
      flip: Mirror one in two.
      fill: Level given to pixels outside the photo; their label is 255.

    Returns:
      float32 [crop_size, crop_size, 3] and uint8 [crop_size, crop_size].
    """
    draws = tf.random.stateless_uniform([4], seed)
    scale = min_scale * (max_scale / min_scale) ** draws[0]
    top, bottom = _window(tf.shape(label)[0], crop_size, scale, draws[1])
    left, right = _window(tf.shape(label)[1], crop_size, scale, draws[2])
    if flip:
        left, right = tf.cond(draws[3] < 0.5, lambda: (right, left), lambda: (left, right))
    box = tf.stack([top, left, bottom, right])[tf.newaxis]

    def sample(pixels: tf.Tensor, method: str, outside: float) -> tf.Tensor:
        return tf.image.crop_and_resize(
            pixels[tf.newaxis], box, [0], [crop_size, crop_size], method, outside
        )[0]

    cropped_label = sample(label[..., tf.newaxis], "nearest", IGNORE_LABEL)[..., 0]
    return sample(image, "bilinear", fill), tf.cast(cropped_label, tf.uint8)


def _window(
    size: tf.Tensor, crop_size: int, scale: tf.Tensor, draw: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """First and last sampling position along one axis, in crop_and_resize's units.

    Those count from 0 at the first pixel's centre to 1 at the last one's. A whole-pixel offset
    makes a crop at scale 1 exact.
    """
    size = tf.cast(size, tf.float32)
    step = 1.0 / scale
    offset = tf.round((size - crop_size * step) * draw)
    first = offset + 0.5 * step - 0.5
    last = first + (crop_size - 1) * step
    # Rounding must not carry a sample on the photo's edge over it, where all is fill: half a
    # millionth of the way to the middle makes up for it.
    middle = 0.5 * (size - 1.0)
    inward = 5e-7 * tf.maximum(1.0, crop_size * step / size)
    first, last = first + (middle - first) * inward, last + (middle - last) * inward
    unit = tf.maximum(size - 1.0, 1.0)
    return first / unit, last / unit


def random_color(image: tf.Tensor, seed: tf.Tensor, strength: float) -> tf.Tensor:
    """Changes brightness, contrast and saturation by one affine map of the colours.

    Args:
      image: float32 [H, W, 3], levels 0 to 255.
      seed: int32 [2].
      strength: Each of the three changes by a factor of 1 - strength to 1 + strength.

    Returns:
      float32 [H, W, 3], levels 0 to 255.
    """
    factors = tf.random.stateless_uniform([3], seed, 1.0 - strength, 1.0 + strength)
    brightness, contrast, saturation = tf.unstack(factors)
    to_gray = tf.tile(tf.constant(_LUMA)[:, tf.newaxis], [1, 3])
    matrix = brightness * contrast * (saturation * tf.eye(3) + (1.0 - saturation) * to_gray)
    mean = tf.reduce_mean(image) * brightness
    return tf.clip_by_value(tf.tensordot(image, matrix, 1) + (1.0 - contrast) * mean, 0.0, 255.0)
