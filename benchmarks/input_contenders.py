"""The ways from records to batches that `benchmarks.input_fn` compares.

Each takes the same records, in the same order, by the same reader, in batches of the same size.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from pipeline.input_fn import Batch, RecordReader, training_dataset
from pipeline.options import Augmentation
from pipeline.palette import IGNORE_LABEL
from pipeline.records import parse_record

Contender = Callable[[RecordReader, Augmentation, int, int], tf.data.Dataset]
"""Reader, augmentation, size of a batch, number of batches -> batches."""


def decode(
    reader: RecordReader, augmentation: Augmentation, batch_size: int, num_batches: int
) -> tf.data.Dataset:
    """Reading and decoding alone: the floor. The photos must be of one size."""
    del augmentation
    return _dataset(reader, lambda data, position: parse_record(data), batch_size, num_batches)


def ours(
    reader: RecordReader, augmentation: Augmentation, batch_size: int, num_batches: int
) -> tf.data.Dataset:
    """The training input."""
    return training_dataset(
        reader,
        augmentation,
        seed=0,
        global_batch_size=batch_size,
        first_step=0,
        last_step=num_batches,
    )


def usual(
    reader: RecordReader, augmentation: Augmentation, batch_size: int, num_batches: int
) -> tf.data.Dataset:
    """The same changes as tutorials write them: one tf.image call after the other."""

    def augmented(data: tf.Tensor, position: tf.Tensor) -> Batch:
        return _augment_as_usual(parse_record(data), augmentation, tf.stack([0, position]))

    return _dataset(reader, augmented, batch_size, num_batches)


CONTENDERS: dict[str, Contender] = {"decode": decode, "ours": ours, "usual": usual}


def _dataset(
    reader: RecordReader,
    convert: Callable[[tf.Tensor, tf.Tensor], Batch],
    batch_size: int,
    num_batches: int,
) -> tf.data.Dataset:
    """Built as `training_dataset` is, with another step from bytes to an example."""

    def read(position: tf.Tensor) -> tf.data.Dataset:
        index = tf.random.experimental.index_shuffle(
            position % len(reader), seed=[0, position // len(reader)], max_index=len(reader) - 1
        )
        return reader.read(index).map(lambda data: (data, position))

    return (
        tf.data.Dataset.range(num_batches * batch_size)
        .flat_map(read)
        .map(convert, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(batch_size, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
    )


def _augment_as_usual(example: Batch, options: Augmentation, seed: tf.Tensor) -> Batch:
    """Scales the whole picture, pads it to the crop's size, crops, mirrors, changes the colours."""
    side, strength = options.crop_size, options.color_strength
    seeds = tf.unstack(tf.random.split(seed, 6))
    image = tf.cast(example["image"], tf.float32)
    label = example["label"][..., tf.newaxis]

    low, high = options.min_scale, options.max_scale
    scale = low * (high / low) ** tf.random.stateless_uniform([], seeds[0])
    size = tf.cast(tf.cast(tf.shape(image)[:2], tf.float32) * scale, tf.int32)
    image = tf.image.resize(image, size)
    label = tf.image.resize(label, size, method="nearest")

    missing = tf.maximum(side - size, 0)
    paddings = [[0, missing[0]], [0, missing[1]], [0, 0]]
    image = tf.pad(image, paddings)
    label = tf.pad(label, paddings, constant_values=IGNORE_LABEL)
    image = tf.image.stateless_random_crop(image, [side, side, 3], seeds[1])
    label = tf.image.stateless_random_crop(label, [side, side, 1], seeds[1])
    if options.flip:
        image = tf.image.stateless_random_flip_left_right(image, seeds[2])
        label = tf.image.stateless_random_flip_left_right(label, seeds[2])
    if strength:
        image = image / 255.0
        image = tf.image.stateless_random_brightness(image, strength, seeds[3])
        image = tf.image.stateless_random_contrast(image, 1 - strength, 1 + strength, seeds[4])
        image = tf.image.stateless_random_saturation(image, 1 - strength, 1 + strength, seeds[5])
        image = tf.clip_by_value(image, 0.0, 1.0) * 255.0
    return {"key": example["key"], "image": image, "label": label[..., 0]}
