"""The one place that knows the record: its fields, its bytes in a TFRecord file, how to parse it.

A record is a ``tf.train.Example`` with the fields

    key     bytes   file name of the pair, relative to its split
    image   bytes   photo, JPEG (quality 95, 4:4:4)
    label   bytes   train ids, 8-bit greyscale PNG, 255 = ignore
    height  int64   pixels
    width   int64   pixels

TensorFlow is imported only where a record is parsed: Beam workers write records without it.
"""

from __future__ import annotations

import dataclasses
import functools
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cv2
import google_crc32c
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

if TYPE_CHECKING:
    import tensorflow as tf

JPEG_QUALITY = 95
_JPEG_OPTIONS = [
    cv2.IMWRITE_JPEG_QUALITY,
    JPEG_QUALITY,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
]
# Runs of equal labels are what deflate finds best: a filter only hides them. Of 256x256 labels it
# made the files larger by a tenth and took a third longer.
_PNG_OPTIONS = [
    cv2.IMWRITE_PNG_FILTER,
    cv2.IMWRITE_PNG_FILTER_NONE,
    cv2.IMWRITE_PNG_COMPRESSION,
    2,
]


@dataclasses.dataclass(frozen=True)
class Record:
    """One training or evaluation example, decoded.

    Attributes:
      key: File name of the pair, relative to its split.
      image: uint8 [H, W, 3], RGB.
      label: uint8 [H, W], train ids.
    """

    key: str
    image: np.ndarray
    label: np.ndarray


def encode_record(record: Record) -> bytes:
    """Serialises a record; the same record gives the same bytes."""
    height, width = record.label.shape
    example = _example_class()()
    features = example.features.feature
    features["key"].bytes_list.value.append(record.key.encode())
    features["image"].bytes_list.value.append(
        encode_image(".jpg", cv2.cvtColor(record.image, cv2.COLOR_RGB2BGR), _JPEG_OPTIONS)
    )
    features["label"].bytes_list.value.append(encode_label(record.label))
    features["height"].int64_list.value.append(height)
    features["width"].int64_list.value.append(width)
    return example.SerializeToString(deterministic=True)


def encode_label(label: np.ndarray) -> bytes:
    """Train ids, uint8 [H, W], as an 8-bit greyscale PNG."""
    return encode_image(".png", label, _PNG_OPTIONS)


def encode_image(suffix: str, pixels: np.ndarray, options: Sequence[int] = ()) -> bytes:
    """Encodes an image with OpenCV.

    Args:
      suffix: ``.jpg`` or ``.png``.
      pixels: uint8 [H, W], or [H, W, 3] in BGR.
      options: OpenCV's ``IMWRITE_...`` numbers, each followed by its value.
    """
    done, data = cv2.imencode(suffix, pixels, list(options))
    if not done:
        raise RuntimeError(f"OpenCV could not encode a {suffix} of shape {pixels.shape}.")
    return data.tobytes()


@functools.lru_cache(maxsize=1)
def _example_class() -> Any:
    """The message class of tf.train.Example (tensorflow/core/example/*.proto), without TensorFlow.

    It lives in a descriptor pool of its own, so that TensorFlow can load beside it.
    """
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="example.proto", package="tensorflow", syntax="proto3"
    )

    def add_message(name: str, *fields: tuple[str, int, int, str | None]) -> Any:
        message = file.message_type.add(name=name)
        for number, (field_name, kind, label, type_name) in enumerate(fields, start=1):
            message.field.add(
                name=field_name, number=number, type=kind, label=label, type_name=type_name
            )
        return message

    one, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    add_message("BytesList", ("value", field.TYPE_BYTES, many, None))
    add_message("FloatList", ("value", field.TYPE_FLOAT, many, None))
    add_message("Int64List", ("value", field.TYPE_INT64, many, None))
    feature = add_message(
        "Feature",
        ("bytes_list", field.TYPE_MESSAGE, one, ".tensorflow.BytesList"),
        ("float_list", field.TYPE_MESSAGE, one, ".tensorflow.FloatList"),
        ("int64_list", field.TYPE_MESSAGE, one, ".tensorflow.Int64List"),
    )
    feature.oneof_decl.add(name="kind")
    for member in feature.field:
        member.oneof_index = 0
    features = add_message(
        "Features",
        ("feature", field.TYPE_MESSAGE, many, ".tensorflow.Features.FeatureEntry"),
    )
    entry = features.nested_type.add(name="FeatureEntry")
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=one)
    entry.field.add(
        name="value", number=2, type=field.TYPE_MESSAGE, label=one, type_name=".tensorflow.Feature"
    )
    entry.options.map_entry = True
    add_message("Example", ("features", field.TYPE_MESSAGE, one, ".tensorflow.Features"))

    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


def frame_record(data: bytes) -> bytes:
    """A record as it stands in a TFRecord file: length and data, each with its checksum.

    Format: tensorflow.org/tutorials/load_data/tfrecord, "TFRecords format details".
    """
    length = struct.pack("<Q", len(data))
    return length + _masked_crc(length) + data + _masked_crc(data)


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def parse_record(data: tf.Tensor) -> dict[str, tf.Tensor]:
    """Parses and decodes one record.

    Args:
      data: string scalar.

    Returns:
      ``key`` string scalar, ``image`` uint8 [H, W, 3], ``label`` uint8 [H, W].
    """
    fields = parse_fields(data)
    return {
        "key": fields["key"],
        "image": decode_photo(fields["image"]),
        "label": decode_label(fields["label"]),
    }


def parse_fields(data: tf.Tensor) -> dict[str, tf.Tensor]:
    """Parses one record and decodes nothing.

    Args:
      data: string scalar.

    Returns:
      ``key``, ``image`` and ``label`` string scalars, ``height`` and ``width`` int64 scalars.
    """
    import tensorflow as tf

    kinds = {"key": tf.string, "image": tf.string, "label": tf.string}
    kinds |= {"height": tf.int64, "width": tf.int64}
    return tf.io.parse_single_example(
        data, {name: tf.io.FixedLenFeature([], kind) for name, kind in kinds.items()}
    )


def decode_photo(data: tf.Tensor, window: tf.Tensor | None = None) -> tf.Tensor:
    """Decodes a record's photo, or the same pixels of a part of it in less time.

    Args:
      data: string scalar.
      window: int32 [4]: top, left, height and width of the part.

    Returns:
      uint8 [h, w, 3].
    """
    import tensorflow as tf

    options = {"channels": 3, "dct_method": "INTEGER_ACCURATE"}
    if window is None:
        return tf.io.decode_jpeg(data, **options)
    return tf.io.decode_and_crop_jpeg(data, window, **options)


def decode_label(data: tf.Tensor) -> tf.Tensor:
    """Decodes a record's labels: string scalar -> uint8 [H, W]."""
    import tensorflow as tf

    return tf.io.decode_png(data, channels=1)[..., 0]
