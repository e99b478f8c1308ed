"""The script one writes without Beam: a pool of processes, each writing whole shards.

    python -m benchmarks.handwritten PAIRS RECORDS WORKERS

It writes the same records as pipeline.preprocess with nearest labels, and shares nothing with it
but the colours: the yardstick of its speed, and in the tests of its content. It does none of the
rest: no checks, counts or checksums, nothing for the case that a file is bad or the job killed.
"""

import multiprocessing
import struct
import sys
from pathlib import Path

import cv2
import google_crc32c
import numpy as np

from pipeline.palette import CITYSCAPES

PAIRS_PER_SHARD = 256
JPEG_OPTIONS = [
    cv2.IMWRITE_JPEG_QUALITY,
    95,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
]
PNG_OPTIONS = [
    cv2.IMWRITE_PNG_FILTER,
    cv2.IMWRITE_PNG_FILTER_NONE,
    cv2.IMWRITE_PNG_COMPRESSION,
    2,
]
table: np.ndarray


def build_table() -> np.ndarray:
    """The train id of the colour nearest to each blue, green and red: uint8 [2**24]."""
    colors = CITYSCAPES.colors[:, ::-1].astype(np.int32)
    squares = (np.arange(256)[:, None, None] - colors.T) ** 2  # level, channel, colour
    table = np.empty((256, 256, 256), np.uint8)
    for blue in range(256):
        distances = squares[blue, 0] + squares[:, None, 1] + squares[None, :, 2]
        table[blue] = CITYSCAPES.train_ids[distances.argmin(axis=-1)]
    return table.reshape(-1)


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number: int, data: bytes) -> bytes:
    """A length-delimited field of a protocol buffer."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def feature(name: str, kind: int, value: bytes) -> bytes:
    """One entry of tf.train.Features; kind 1 is a BytesList, 3 an Int64List."""
    return field(1, field(1, name.encode()) + field(2, field(kind, field(1, value))))


def encode_example(key: str, image: bytes, label: bytes, height: int, width: int) -> bytes:
    """A serialised tf.train.Example."""
    return field(
        1,
        feature("height", 3, varint(height))
        + feature("image", 1, image)
        + feature("key", 1, key.encode())
        + feature("label", 1, label)
        + feature("width", 3, varint(width)),
    )


def masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def convert_images(path: Path) -> tuple[bytes, bytes, int, int]:
    """A pair's photo as JPEG, its train ids as PNG, height and width."""
    pair = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    assert pair is not None, path
    height, width = pair.shape[0], pair.shape[1] // 2
    photo, mask = pair[:, :width], pair[:, width:]
    levels = mask.astype(np.uint32)
    labels = table[levels[..., 0] << 16 | levels[..., 1] << 8 | levels[..., 2]]
    image = cv2.imencode(".jpg", photo, JPEG_OPTIONS)[1].tobytes()
    return image, cv2.imencode(".png", labels, PNG_OPTIONS)[1].tobytes(), height, width


def convert(path: Path) -> bytes:
    """A pair's record, as it stands in a TFRecord file."""
    data = encode_example(path.name, *convert_images(path))
    length = struct.pack("<Q", len(data))
    return length + masked_crc(length) + data + masked_crc(data)


def write_shard(shard: tuple[Path, list[Path]]) -> None:
    file, paths = shard
    with file.open("wb") as output:
        for path in paths:
            output.write(convert(path))


def initialize() -> None:
    """Prepares a worker process."""
    global table
    cv2.setNumThreads(1)
    table = build_table()


def main(input_dir: str, output_dir: str, workers: str) -> None:
    Path(output_dir).mkdir()
    shards = []
    for split in sorted(Path(input_dir).iterdir()):
        paths = sorted(split.glob("*.jpg"))
        count = -(-len(paths) // PAIRS_PER_SHARD)
        for index in range(count):
            name = f"pairs-{split.name}.tfrecord-{index:05d}-of-{count:05d}"
            shards.append((Path(output_dir, name), paths[index::count]))
    with multiprocessing.Pool(int(workers), initialize) as pool:
        for _ in pool.imap_unordered(write_shard, shards):
            pass


if __name__ == "__main__":
    main(*sys.argv[1:])
