"""Beam transforms: folders of pairs -> shards of records."""

import dataclasses
import hashlib
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import apache_beam as beam
import cv2
import numpy as np
from apache_beam.io import fileio
from apache_beam.io.filesystem import FileMetadata
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics

from pipeline import dataset_info, files, pairs, records
from pipeline.dataset_info import BadPairEntry, DuplicateEntry, Recovery, ShardSummary, shard_name
from pipeline.output_folder import Staging
from pipeline.pair_reader import Pair, PairReader
from pipeline.pairs import FoundPair
from pipeline.palette import Palette
from pipeline.parts import SUMMARY_SUFFIX, read_summary


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
      label_recovery: How labels are read back, of `labels.READERS`.
      ignore_ambiguous: Whether labels that are in doubt become the ignore label.
      num_shards: Of each split.
      drop_leaks: Leave out training pairs that another split holds as well.
    """

    name: str
    image_side: str
    palette: Palette
    label_recovery: str
    ignore_ambiguous: bool
    num_shards: dict[str, int]
    drop_leaks: bool


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
            | beam.Map(_found_pair)
            | beam.Filter(lambda pair: pairs.is_image_name(pair.path))
        )


def _found_pair(metadata: FileMetadata) -> FoundPair:
    path = metadata.path.replace("\\", "/")
    folder, key = posixpath.split(path)
    return FoundPair(posixpath.basename(folder), key, path, metadata.size_in_bytes)


class WriteShards(beam.PTransform):
    """`FoundPair` elements -> one `ShardSummary` for each shard written to the staging folder.

    Only names are grouped: a hash of its name gives each pair its shard and its place there, and
    pixels are read, converted and written inside the shard's own step. So the bytes of a shard
    depend on the names and files alone, never on the number of workers or their pace. A shard
    that an earlier job has finished there is left as it is.
    """

    def __init__(self, staging: Staging, options: ConvertOptions) -> None:
        super().__init__()
        self._staging = staging
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
            | beam.ParDo(_WriteShard(self._staging, self._options))
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
    """Converts the pairs of one shard, in order, and writes its file and then its summary.

    A shard is finished where there is a summary of its pairs and its file has the summary's
    checksum. So neither a kill nor a loss of power can make half a shard pass for a whole one.
    """

    def __init__(self, staging: Staging, options: ConvertOptions) -> None:
        self._staging = staging
        self._options = options
        self._read = Metrics.counter("pairs", "read")
        self._written = Metrics.counter("pairs", "written")
        self._bad = Metrics.counter("pairs", "bad")
        self._dropped = Metrics.counter("pairs", "dropped")
        self._found_finished = Metrics.counter("shards", "found finished")
        self._record_bytes = Metrics.distribution("records", "bytes")

    def setup(self) -> None:
        # Beam runs as many workers as there are cores; OpenCV's own threads would only compete.
        cv2.setNumThreads(1)
        options = self._options
        self._read_pair = PairReader(
            options.palette, options.image_side, options.label_recovery, options.ignore_ambiguous
        )

    def process(
        self, element: tuple[tuple[str, int, int], Iterable[FoundPair | None]]
    ) -> Iterator[ShardSummary]:
        key = ShardKey(*element[0])
        found = sorted(
            (pair for pair in element[1] if pair is not None),
            key=lambda pair: (_position(pair), pair.key),
        )
        file = shard_name(self._options.name, key.split, key.index, key.num_shards)
        path = FileSystems.join(self._staging.records, file)
        summary_path = FileSystems.join(self._staging.work, file + SUMMARY_SUFFIX)
        summary = read_summary(summary_path, ShardSummary.from_json)
        if summary and summary.num_pairs == len(found) and files.has_checksum(path, summary.sha256):
            self._found_finished.inc()
        else:
            summary = self._write(path, found, _Counts(key.split, key.index, file))
            files.write_whole(summary_path, summary.to_json().encode())
        yield summary

    def _write(self, path: str, found: Iterable[FoundPair], counts: "_Counts") -> ShardSummary:
        file = FileSystems.split(path)[1]
        temporary = files.temporary_name(FileSystems.join(self._staging.work, file))
        with FileSystems.create(temporary, **files.RAW) as output:
            for pair in found:
                self._convert(pair, output, counts)
        files.rename(temporary, path)
        summary = counts.result()
        files.check_written(path, summary.sha256)
        return summary

    def _convert(self, found: FoundPair, output: BinaryIO, counts: "_Counts") -> None:
        self._read.inc()
        try:
            pair = self._read_pair(files.read_bounded(found.path))
        except pairs.BadPair as error:
            self._bad.inc()
            counts.add_bad(found, error)
            return
        leaks = dataset_info.leaks(found.split, found.duplicate_of)
        dropped = leaks and self._options.drop_leaks
        if found.duplicate_of:
            counts.add_duplicate(found, dropped)
        if dropped:
            self._dropped.inc()
            return
        record = records.Record(found.key, pair.photo, pair.labels.train_ids)
        framed = records.frame_record(records.encode_record(record))
        output.write(framed)
        counts.add(found.key, pair, framed)
        self._written.inc()
        self._record_bytes.update(len(framed))


class _Counts:
    """Adds up a `ShardSummary`, record by record."""

    def __init__(self, split: str, index: int, file: str) -> None:
        self._split, self._index, self._file = split, index, file
        self._sha256 = hashlib.sha256()
        self._record_bytes: list[int] = []
        self._label_pixels = np.zeros(256, np.int64)
        self._label_records = np.zeros(256, np.int64)
        self._channel_sum = np.zeros(3, np.int64)
        self._channel_square_sum = np.zeros(3, np.int64)
        self._unsure_pixels = self._unknown_pixels = 0
        self._sizes: Counter[str] = Counter()
        self._codings: Counter[str] = Counter()
        self._samples: list[str] = []
        self._recoveries: list[Recovery] = []
        self._bad: list[BadPairEntry] = []
        self._duplicates: list[DuplicateEntry] = []

    def add(self, key: str, pair: Pair, framed: bytes) -> None:
        self._sha256.update(framed)
        self._record_bytes.append(len(framed))
        train_ids = pair.labels.train_ids
        label_pixels = _histogram(train_ids)
        self._label_pixels += label_pixels
        self._label_records += label_pixels > 0
        sums, square_sums = _channel_sums(pair.photo)
        self._channel_sum += sums
        self._channel_square_sum += square_sums
        unsure = int(np.count_nonzero(pair.labels.unsure))
        unknown = pair.labels.unknown_fraction
        self._unsure_pixels += unsure
        self._unknown_pixels += round(unknown * train_ids.size)
        height, width = train_ids.shape
        self._sizes[f"{width}x{height}"] += 1
        self._codings[pair.coding] += 1
        if len(self._samples) < dataset_info.NUM_SAMPLES:
            self._samples.append(key)
        self._recoveries.append(Recovery(self._split, key, unsure / train_ids.size, unknown))

    def add_bad(self, pair: FoundPair, error: pairs.BadPair) -> None:
        self._bad.append(BadPairEntry(pair.split, pair.key, type(error).__name__, str(error)))

    def add_duplicate(self, pair: FoundPair, dropped: bool) -> None:
        self._duplicates.append(DuplicateEntry(pair.split, pair.key, pair.duplicate_of, dropped))

    def result(self) -> ShardSummary:
        return ShardSummary(
            split=self._split,
            index=self._index,
            file=self._file,
            sha256=self._sha256.hexdigest(),
            record_bytes=self._record_bytes,
            label_pixels=self._label_pixels.tolist(),
            label_records=self._label_records.tolist(),
            unsure_pixels=self._unsure_pixels,
            unknown_pixels=self._unknown_pixels,
            channel_sum=self._channel_sum.tolist(),
            channel_square_sum=self._channel_square_sum.tolist(),
            sizes=dict(self._sizes),
            codings=dict(self._codings),
            samples=self._samples,
            worst=dataset_info.worst_recoveries(self._recoveries),
            bad=self._bad,
            duplicates=self._duplicates,
        )


def _histogram(label: np.ndarray) -> np.ndarray:
    """How often each train id occurs: int64 [256]."""
    counts = cv2.calcHist([label], [0], None, [256], [0, 256])
    return counts.reshape(256).astype(np.int64)


def _channel_sums(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the levels, and of their squares, in each channel: int64 [3] both.

    They are exact: float64 holds sums of up to 2**53, and `norm` gives the square of a rounded
    root, which is off by less than a hundredth in the largest image.
    """
    square_sums = [cv2.norm(channel, cv2.NORM_L2SQR) for channel in cv2.split(image)]
    sums = cv2.sumElems(image)[:3]
    return np.array(sums).astype(np.int64), np.rint(square_sums).astype(np.int64)
