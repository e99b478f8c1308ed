"""Encoded photos in a graph: what is no image, or too large, is refused before it is decoded."""

from __future__ import annotations

import tensorflow as tf

from pipeline.pairs import MAX_PREDICTED_PIXELS

MAX_BATCH_PIXELS = 2**28
"""Of a batch's class ids, a byte each, padded to one size."""

_JPEG_START = b"\xff\xd8\xff"
_PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
"""The signature, then the length and the type of the chunk that must come first."""


def decode(data: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    """Decodes a JPEG or PNG of unknown origin.

    Args:
      data: string scalar.
      place: Integer scalar; the error's name for the image is ``image_bytes[place]``.

    Returns:
      uint8 [H, W, 3], RGB as it is stored: EXIF data does not turn it, transparency is dropped.

    Raises:
      tf.errors.InvalidArgumentError: When it is run on what is neither of them, is broken, or has
        more than `MAX_PREDICTED_PIXELS` by its header, which is never decoded.
    """
    header = tf.strings.substr(data, 0, 24) + tf.constant(bytes(24))
    is_jpeg = tf.equal(tf.strings.substr(header, 0, len(_JPEG_START)), _JPEG_START)
    is_png = tf.equal(tf.strings.substr(header, 0, len(_PNG_START)), _PNG_START)
    data = _where(
        tf.logical_or(is_jpeg, is_png),
        data,
        tf.strings.format("image_bytes[{}] is neither a JPEG nor a PNG.", place),
    )
    # The other format's function would fail on the header.
    size = tf.cond(
        is_png,
        lambda: _png_size(header),
        lambda: tf.cast(tf.image.extract_jpeg_shape(data)[:2], tf.int64),
    )
    height, width = size[0], size[1]
    data = _where(
        tf.reduce_all([height > 0, width > 0, height * width <= MAX_PREDICTED_PIXELS]),
        data,
        tf.strings.format(
            "image_bytes[{}] has {}x{} pixels; 1 to {} are decoded.",
            (place, width, height, MAX_PREDICTED_PIXELS),
        ),
    )
    # Despite its name it reads PNG too, and it decodes JPEG as the records are decoded.
    return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")


def check_batch(sizes: tf.Tensor) -> tf.Tensor:
    """The sizes of a batch's images, int64 [B, 2], for what pads them to the largest.

    Raises:
      tf.errors.InvalidArgumentError: When it is run where that is more than `MAX_BATCH_PIXELS`: a
        tall and a wide image of a few pixels each may be.
    """
    height, width = tf.unstack(tf.reduce_max(sizes, axis=0))
    count = tf.size(sizes, tf.int64) // 2
    # Each is at most 2**24 and there are not 2**15 of them, or the product could not be told.
    fits = tf.logical_and(count < 2**15, count * height * width <= MAX_BATCH_PIXELS)
    message = tf.strings.format(
        "{} images, padded to {}x{} pixels, are too large together; send fewer in a request.",
        (count, width, height),
    )
    return _where(fits, sizes, message)


def _png_size(header: tf.Tensor) -> tf.Tensor:
    """Height and width, int64 [2]; negative where they are more than PNG allows."""
    sides = tf.io.decode_raw(tf.strings.substr(header, 16, 8), tf.int32, little_endian=False)
    return tf.cast(tf.reverse(sides, [0]), tf.int64)


def _where(condition: tf.Tensor, data: tf.Tensor, message: tf.Tensor) -> tf.Tensor:
    """The same tensor, for operations that must not run before the condition is found to hold."""
    with tf.control_dependencies([tf.debugging.Assert(condition, [message])]):
        return tf.identity(data)
