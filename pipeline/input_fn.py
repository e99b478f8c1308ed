"""Shards -> batches for training and for evaluation.

Which record stands at which place of an epoch, and how it is augmented, is a pure function of
(seed, position): position counts examples from the start of training. So a run goes on at any
step without replaying the steps before it, and the global batch of a step holds the same examples
on any number of replicas. Records are read by their offset, one at a time; nothing is held in
memory and no shuffle buffer is filled.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from etils import epath

from pipeline import augment, dataset_info
from pipeline.dataset_info import DatasetInfo
from pipeline.options import Augmentation
from pipeline.palette import IGNORE_LABEL
from pipeline.records import decode_label, decode_photo, parse_fields, parse_record

Batch = dict[str, tf.Tensor]


class RecordReader:
    """Random access to the records of one split.

    Args:
      data_dir: A records folder.
      split: The split's name.

    Raises:
      DatasetError: Where the folder is incomplete or has no such split.
    """

    def __init__(self, data_dir: str, split: str) -> None:
        self.info: DatasetInfo = dataset_info.load_info(data_dir)
        self.split = self.info.split(split)
        offsets = dataset_info.load_offsets(data_dir, split)
        lengths = [shard.num_records for shard in self.split.shards]
        if len(offsets) != sum(lengths):
            raise dataset_info.DatasetError(
                f"{dataset_info.OFFSETS_FILE} in {data_dir!r} lists {len(offsets)} records of "
                f"{split!r}, {dataset_info.INFO_FILE} lists {sum(lengths)}; write the records "
                "again with pipeline.preprocess."
            )
        self._files = [str(epath.Path(data_dir) / shard.file) for shard in self.split.shards]
        self._shard_of_record = np.repeat(np.arange(len(lengths)), lengths)
        self._offsets = offsets

    def __len__(self) -> int:
        return len(self._offsets)

    def read(self, index: tf.Tensor) -> tf.data.Dataset:
        """A data set of one serialised record.

        Args:
          index: int64 scalar, the record's number within the split.
        """
        file = tf.gather(tf.constant(self._files), tf.gather(self._shard_of_record, index))
        # tf.data.TFRecordDataset does not pass byte_offsets on; the operation below it takes them.
        variant = tf.raw_ops.TFRecordDatasetV2(
            filenames=file[tf.newaxis],
            compression_type="",
            buffer_size=0,
            byte_offsets=tf.gather(self._offsets, index)[tf.newaxis],
        )
        return tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string)).take(1)


def training_dataset(
    reader: RecordReader,
    augmentation: Augmentation,
    *,
    seed: int,
    global_batch_size: int,
    first_step: int,
    last_step: int,
    replicas: int = 1,
    worker: int = 0,
    num_workers: int = 1,
) -> tf.data.Dataset:
    """Batches for the steps `first_step` to `last_step` - 1.

    Args:
      reader: The training split.
      augmentation: How examples are changed.
      seed: Of order and augmentation.
      global_batch_size: Examples of a step, over all replicas.
      first_step: The step to begin with.
      last_step: The step to end before.
      replicas: Over all workers; a batch of the result is one replica's.
      worker: Number of this input pipeline.
      num_workers: Input pipelines in all; each gives its own part of every step's examples.

    Returns:
      Batches of ``key`` string [B], ``image`` float32 [B, S, S, 3] with levels 0 to 255, ``label``
      uint8 [B, S, S] with S the crop size and B = global_batch_size / replicas.

    Raises:
      ValueError: Where the global batch cannot be divided evenly among the replicas.
    """
    local_size = _local_size(global_batch_size, replicas, num_workers)
    num_records = len(reader)
    fill = float(np.mean(reader.info.mean))
    fold_in = tf.random.experimental.stateless_fold_in
    chances = _paste_chances(reader.split.class_pixels)

    def position_of(place: tf.Tensor) -> tf.Tensor:
        return _position_of(place, global_batch_size, local_size, worker)

    def read(position: tf.Tensor) -> tf.data.Dataset:
        epoch, place = position // num_records, position % num_records
        index = tf.random.experimental.index_shuffle(
            place, seed=tf.stack([tf.constant(seed, tf.int64), epoch]), max_index=num_records - 1
        )
        own_seed = tf.stack([tf.constant(seed, tf.int64), position])
        data = reader.read(index)
        if augmentation.paste_rate:
            other = tf.random.stateless_uniform([], fold_in(own_seed, 2), 0, num_records, tf.int64)
            data = tf.data.Dataset.zip(data, reader.read(other))
        return data.map(lambda *data: (data, own_seed))

    def decode(data: Sequence[tf.Tensor], own_seed: tf.Tensor) -> Batch:
        own = _augmented(parse_fields(data[0]), augmentation, fill, own_seed)
        if not augmentation.paste_rate:
            return own

        def pasted() -> Batch:
            fields = parse_fields(data[1])
            other = _augmented(fields, augmentation, fill, fold_in(own_seed, 4))
            return _pasted(own, other, fold_in(own_seed, 5), chances)

        drawn = tf.random.stateless_uniform([], fold_in(own_seed, 3)) < augmentation.paste_rate
        return tf.cond(drawn, pasted, lambda: own)

    return (
        tf.data.Dataset.range(first_step * local_size, last_step * local_size)
        .map(position_of)
        .flat_map(read)
        .map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(global_batch_size // replicas, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
    )


def _local_size(global_batch_size: int, replicas: int, num_workers: int) -> int:
    """How many of a step's examples one worker reads."""
    if global_batch_size % replicas or replicas % num_workers:
        raise ValueError(
            "The global batch must divide evenly among the replicas, and those among the workers. "
            f"Received: global_batch_size={global_batch_size}, replicas={replicas}, "
            f"num_workers={num_workers}"
        )
    return global_batch_size // num_workers


def _position_of(
    place: tf.Tensor, global_batch_size: int, local_size: int, worker: int
) -> tf.Tensor:
    """Which of all workers' examples is the one at a place among a worker's own."""
    step, place_in_step = place // local_size, place % local_size
    return step * global_batch_size + worker * local_size + place_in_step


def _augmented(
    fields: dict[str, tf.Tensor], options: Augmentation, fill: float, seed: tf.Tensor
) -> Batch:
    """Decodes what the crop shows of a record. Each step is done where there are fewest pixels."""
    crop = augment.random_crop(
        tf.cast(tf.stack([fields["height"], fields["width"]]), tf.int32),
        seed,
        crop_size=options.crop_size,
        min_scale=options.min_scale,
        max_scale=options.max_scale,
        flip=options.flip,
    )
    image = augment.scale_image(decode_photo(fields["image"], crop.window), crop)
    if options.color_strength:
        color_seed = tf.random.experimental.stateless_fold_in(seed, 1)
        image = augment.random_color(image, color_seed, options.color_strength)
    label = augment.scale_label(decode_label(fields["label"]), crop)
    return {
        "key": fields["key"],
        "image": augment.pad(image, crop, options.crop_size, fill),
        "label": augment.pad(label, crop, options.crop_size, IGNORE_LABEL),
    }


def _paste_chances(class_pixels: Sequence[int]) -> np.ndarray:
    """Of a class as rare as the median or rarer 1/2, the less the more frequent it is: float32 [K].

    After the median frequency balancing of Eigen and Fergus, "Predicting Depth, Surface Normals and
    Semantic Labels with a Common Multi-Scale Convolutional Architecture", ICCV 2015, section 6.3.2.
    """
    pixels = np.array(class_pixels, np.float32)
    median = np.median(pixels[pixels > 0]) if pixels.any() else 0.0
    return np.minimum(1.0, median / np.maximum(pixels, 1.0)) / 2


def _pasted(own: Batch, other: Batch, seed: tf.Tensor, chances: np.ndarray) -> Batch:
    """The example with classes of the other; its key names both."""
    image, label = augment.paste_classes(
        own["image"], own["label"], other["image"], other["label"], seed, chances
    )
    return {
        "key": tf.strings.join([own["key"], other["key"]], " with "),
        "image": image,
        "label": label,
    }


def evaluation_dataset(
    reader: RecordReader,
    *,
    global_batch_size: int,
    replicas: int = 1,
    worker: int = 0,
    num_workers: int = 1,
    indices: Sequence[int] | None = None,
) -> tf.data.Dataset:
    """Every record once, in order, unchanged; every batch is full.

    Photos are padded at the bottom and right to the largest of the split, so that a result does
    not depend on the batch size. Padding, and the rows that fill the last batch, carry label 255.

    Args:
      reader: The split to evaluate.
      global_batch_size: Examples of a step, over all replicas.
      replicas: Over all workers; a batch of the result is one replica's.
      worker: Number of this input pipeline.
      num_workers: Input pipelines in all; each gives its own part of every step's examples.
      indices: Numbers of records within the split, to be given instead of all of them.

    Returns:
      Batches of ``key`` string [B], ``index`` int64 [B], the record's number within the split,
      ``image`` float32 [B, H, W, 3] with levels 0 to 255, ``label`` uint8 [B, H, W], ``valid``
      bool [B], false for rows that only fill the batch.

    Raises:
      ValueError: Where the global batch cannot be divided evenly among the replicas.
    """
    local_size = _local_size(global_batch_size, replicas, num_workers)
    index_at = np.arange(len(reader)) if indices is None else np.asarray(indices, np.int64)
    num_records = len(index_at)
    num_steps = -(-num_records // global_batch_size)
    height, width = reader.split.max_height, reader.split.max_width
    fill = float(np.mean(reader.info.mean))

    def position_of(place: tf.Tensor) -> tf.Tensor:
        return _position_of(place, global_batch_size, local_size, worker)

    def read(place: tf.Tensor) -> tf.data.Dataset:
        index = tf.gather(index_at, tf.minimum(place, num_records - 1))
        return reader.read(index).map(lambda record: (record, index, place < num_records))

    def decode(data: tf.Tensor, index: tf.Tensor, valid: tf.Tensor) -> Batch:
        example = parse_record(data)
        rows = [0, height - tf.shape(example["label"])[0]]
        columns = [0, width - tf.shape(example["label"])[1]]
        image = tf.cast(example["image"], tf.float32)
        image = tf.pad(image, [rows, columns, [0, 0]], constant_values=fill)
        ignore = tf.constant(IGNORE_LABEL, tf.uint8)
        label = tf.pad(example["label"], [rows, columns], constant_values=ignore)
        label = tf.where(valid, label, ignore)
        return {
            "key": example["key"],
            "index": index,
            "image": tf.ensure_shape(image, [height, width, 3]),
            "label": tf.ensure_shape(label, [height, width]),
            "valid": valid,
        }

    return (
        tf.data.Dataset.range(num_steps * local_size)
        .map(position_of)
        .flat_map(read)
        .map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(global_batch_size // replicas, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
    )
