"""Beam transforms: folders of pairs -> shards of records."""

import dataclasses
import hashlib
import posixpath
import uuid
from collections.abc import Iterable, Iterator

import apache_beam as beam
import cv2
import numpy as np
from apache_beam.io import fileio
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics

from pipeline import files, pairs, records
from pipeline.dataset_info import BadPairEntry, ShardSummary, shard_name
from pipeline.labels import NearestColor
from pipeline.pairs import FoundPair
from pipeline.palette import Palette

SUMMARY_SUFFIX = ".summary.json"


@dataclasses.dataclass(frozen=True)
class ShardKey:
    """Names one shard of a split."""

    split: str
    index: int
    num_shards: int


@dataclasses.dataclass(frozen=True)
class ConvertOptions:
    """How pairs become records.

    Attributes:
      name: First part of the shards' names.
      image_side: Where the photo is, ``left`` or ``right``.
      palette: The masks' colours.
      num_shards: Of each split.
    """

    name: str
    image_side: str
    palette: Palette
    num_shards: dict[str, int]


class FindPairs(beam.PTransform):
    """Folder of each split -> `FoundPair` elements."""

    def __init__(self, split_folders: dict[str, str]) -> None:
        super().__init__()
        self._split_folders = split_folders

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection[FoundPair]:
        patterns = [files.pattern_below(folder, "*") for folder in self._split_folders.values()]
        return (
            pbegin
            | beam.Create(patterns)
            | fileio.MatchAll(fileio.EmptyMatchTreatment.DISALLOW)
            | beam.Map(lambda metadata: metadata.path.replace("\\", "/"))
            | beam.Filter(pairs.is_image_name)
            | beam.Map(_found_pair)
        )


def _found_pair(path: str) -> FoundPair:
    folder, key = posixpath.split(path)
    return FoundPair(posixpath.basename(folder), key, path)


class WriteShards(beam.PTransform):
    """`FoundPair` elements -> one `ShardSummary` for each shard written to a folder.

    Only names are grouped: a hash of its name gives each pair its shard and its place there, and
    pixels are read, converted and written inside the shard's own step. So the bytes of a shard
    depend on the names and files alone, never on the number of workers or their pace.
    """

    def __init__(self, folder: str, options: ConvertOptions) -> None:
        super().__init__()
        self._folder = folder
        self._options = options

    def expand(self, found: beam.PCollection[FoundPair]) -> beam.PCollection[ShardSummary]:
        # Every shard gets a place-holder, so that one that no name falls into is written too.
        empty = found.pipeline | "EveryShard" >> beam.Create(
            [
                (dataclasses.astuple(ShardKey(split, index, count)), None)
                for split, count in self._options.num_shards.items()
                for index in range(count)
            ]
        )
        keyed = found | "AssignShard" >> beam.Map(_with_shard, self._options.num_shards)
        return (
            (keyed, empty)
            | beam.Flatten()
            | beam.GroupByKey()
            | beam.ParDo(_WriteShard(self._folder, self._options))
        )


def _with_shard(
    pair: FoundPair, num_shards: dict[str, int]
) -> tuple[tuple[str, int, int], FoundPair]:
    count = num_shards[pair.split]
    return (pair.split, _position(pair) % count, count), pair


def _position(pair: FoundPair) -> int:
    """A place in the shuffled order of all pairs that depends on the pair's name alone."""
    name = f"{pair.split}/{pair.key}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big")


class _WriteShard(beam.DoFn):
    """Converts the pairs of one shard, in order, and writes its file and its summary."""

    def __init__(self, folder: str, options: ConvertOptions) -> None:
        self._folder = folder
        self._options = options
        self._read = Metrics.counter("pairs", "read")
        self._written = Metrics.counter("pairs", "written")
        self._bad = Metrics.counter("pairs", "bad")
        self._record_bytes = Metrics.distribution("records", "bytes")

    def setup(self) -> None:
        # Beam runs as many workers as there are cores; OpenCV's own threads would only compete.
        cv2.setNumThreads(1)
        self._labels = NearestColor(self._options.palette)

    def process(
        self, element: tuple[tuple[str, int, int], Iterable[FoundPair | None]]
    ) -> Iterator[ShardSummary]:
        key = ShardKey(*element[0])
        found = sorted(
            (pair for pair in element[1] if pair is not None),
            key=lambda pair: (_position(pair), pair.key),
        )
        file = shard_name(self._options.name, key.split, key.index, key.num_shards)
        path = FileSystems.join(self._folder, file)
        temporary = f"{path}.{uuid.uuid4().hex}.tmp"
        counts = _Counts(key.split, key.index, file)
        with FileSystems.create(temporary, **files.RAW) as output:
            for pair in found:
                self._read.inc()
                try:
                    record = self._convert(pair)
                except pairs.BadPair as error:
                    self._bad.inc()
                    counts.add_bad(pair, error)
                    continue
                framed = records.frame_record(records.encode_record(record))
                output.write(framed)
                counts.add(record, framed)
                self._written.inc()
                self._record_bytes.update(len(framed))
        FileSystems.rename([temporary], [path])
        result = counts.result()
        files.write_whole(path + SUMMARY_SUFFIX, result.to_json().encode())
        yield result

    def _convert(self, pair: FoundPair) -> records.Record:
        photo, mask = pairs.split_pair(
            pairs.decode_image(files.read_bounded(pair.path)), self._options.image_side
        )
        return records.Record(pair.key, photo, self._labels(mask).train_ids)


class _Counts:
    """Adds up a `ShardSummary`, record by record."""

    def __init__(self, split: str, index: int, file: str) -> None:
        self._split, self._index, self._file = split, index, file
        self._sha256 = hashlib.sha256()
        self._record_bytes: list[int] = []
        self._label_pixels = np.zeros(256, np.int64)
        self._channel_pixels = np.zeros((3, 256), np.int64)
        self._max_size = np.zeros(2, np.int64)
        self._bad: list[BadPairEntry] = []

    def add(self, record: records.Record, framed: bytes) -> None:
        self._sha256.update(framed)
        self._record_bytes.append(len(framed))
        self._label_pixels += _histogram(record.label, 0)
        for channel in range(3):
            self._channel_pixels[channel] += _histogram(record.image, channel)
        self._max_size = np.maximum(self._max_size, record.label.shape)

    def add_bad(self, pair: FoundPair, error: pairs.BadPair) -> None:
        self._bad.append(BadPairEntry(pair.split, pair.key, type(error).__name__, str(error)))

    def result(self) -> ShardSummary:
        levels = np.arange(256, dtype=np.int64)
        return ShardSummary(
            split=self._split,
            index=self._index,
            file=self._file,
            sha256=self._sha256.hexdigest(),
            record_bytes=self._record_bytes,
            label_pixels=self._label_pixels.tolist(),
            channel_sum=(self._channel_pixels @ levels).tolist(),
            channel_square_sum=(self._channel_pixels @ levels**2).tolist(),
            max_height=int(self._max_size[0]),
            max_width=int(self._max_size[1]),
            bad=self._bad,
        )


def _histogram(pixels: np.ndarray, channel: int) -> np.ndarray:
    """How often each level occurs in a channel: int64 [256]."""
    counts = cv2.calcHist([pixels], [channel], None, [256], [0, 256])
    return counts.reshape(256).astype(np.int64)
