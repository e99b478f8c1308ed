"""What a records folder says of itself: splits, shards, classes, pixel statistics, provenance.

A records folder holds

    NAME-SPLIT.tfrecord-00000-of-00004   the shards
    records_info.json                    `DatasetInfo`, written last: without it, no data set
    record_offsets.npz                   where each record begins in its shard
    bad_pairs.jsonl                      the pairs left out, each with its reason
    duplicates.jsonl                     the pairs whose file equals another's
    report.html                          all of this for people, with pictures
    dataset_info.json, features.json     the same for TensorFlow Datasets
"""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import io
import json
import math
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from etils import epath

from pipeline.errors import UserError
from pipeline.palette import Palette, PaletteError

INFO_FILE = "records_info.json"
OFFSETS_FILE = "record_offsets.npz"
BAD_PAIRS_FILE = "bad_pairs.jsonl"
DUPLICATES_FILE = "duplicates.jsonl"
REPORT_FILE = "report.html"
FORMAT_VERSION = 2
TRAIN_SPLIT = "train"
_PLACE = "data_dir"
_TFDS_FILES = ("dataset_info.json", "features.json")


class DatasetError(UserError):
    """A records folder that is missing, incomplete or of another version."""


def shard_name(dataset: str, split: str, index: int, num_shards: int) -> str:
    """The file name of a shard, as TensorFlow Datasets expects it."""
    return f"{dataset}-{split}.tfrecord-{index:05d}-of-{num_shards:05d}"


def is_records_file(name: str) -> bool:
    """Whether a file of this name in a records folder is a part of it."""
    parts = (INFO_FILE, OFFSETS_FILE, BAD_PAIRS_FILE, DUPLICATES_FILE, REPORT_FILE, *_TFDS_FILES)
    return name in parts or bool(re.fullmatch(r"\w+-\w+\.tfrecord-\d{5}-of-\d{5}", name))


@dataclasses.dataclass(frozen=True)
class BadPairEntry:
    """A pair that was left out: its split, file name, kind of fault and reason."""

    split: str
    key: str
    error: str
    reason: str


@dataclasses.dataclass(frozen=True)
class DuplicateEntry:
    """A pair whose file has the same bytes as another's.

    Attributes:
      split: Its split.
      key: Its file name.
      duplicate_of: ``SPLIT/KEY`` of the other.
      dropped: Whether it was left out: it is a training pair, and the other is not.
    """

    split: str
    key: str
    duplicate_of: str
    dropped: bool

    @property
    def leaks(self) -> bool:
        """Whether training would see a picture that another split holds."""
        return leaks(self.split, self.duplicate_of)


_Entry = TypeVar("_Entry", BadPairEntry, DuplicateEntry)


def leaks(split: str, duplicate_of: str) -> bool:
    """Whether a pair of a split is a training pair that another split holds as well."""
    return split == TRAIN_SPLIT and duplicate_of.partition("/")[0] not in ("", TRAIN_SPLIT)


@dataclasses.dataclass(frozen=True)
class Recovery:
    """How well the labels of a pair could be read back.

    Attributes:
      split: Its split.
      key: Its file name.
      unsure: Share of pixels where another class is nearly as likely.
      unknown: Share of pixels whose colour is far from every class's.
    """

    split: str
    key: str
    unsure: float
    unknown: float


NUM_WORST, NUM_SAMPLES = 8, 6
"""How many recoveries and ordinary pairs a report shows; no shard need name more."""


def worst_recoveries(recoveries: Iterable[Recovery]) -> list[Recovery]:
    """The `NUM_WORST` with most doubt, in order; those without any are none."""
    doubtful = (r for r in recoveries if r.unsure or r.unknown)
    return heapq.nsmallest(
        NUM_WORST, doubtful, key=lambda r: (-r.unsure, -r.unknown, r.split, r.key)
    )


@dataclasses.dataclass(frozen=True)
class ShardSummary:
    """What was written to one shard.

    All counts are whole numbers, so that sums over shards do not depend on their order.

    Attributes:
      split: The split it belongs to.
      index: Its number within the split.
      file: Its file name.
      sha256: Of its bytes, hexadecimal.
      record_bytes: Size of each record in the file, framing included.
      label_pixels: Pixels of each train id, [256].
      label_records: Records in which each train id occurs, [256].
      unsure_pixels: Pixels where another class is nearly as likely.
      unknown_pixels: Pixels whose colour is far from every class's.
      channel_sum: Sum of the photos' red, green and blue levels.
      channel_square_sum: Sum of their squares.
      sizes: Records of each size, such as ``512x256`` (width x height).
      codings: Records of each kind of file, such as ``JPEG 75 4:2:0``.
      samples: File names of its first `NUM_SAMPLES` records.
      worst: Its `worst_recoveries`.
      bad: The pairs of this shard that were left out.
      duplicates: Its pairs that equal others; those that were dropped are in no record.
    """

    split: str
    index: int
    file: str
    sha256: str
    record_bytes: list[int]
    label_pixels: list[int]
    label_records: list[int]
    unsure_pixels: int
    unknown_pixels: int
    channel_sum: list[int]
    channel_square_sum: list[int]
    sizes: dict[str, int]
    codings: dict[str, int]
    samples: list[str]
    worst: list[Recovery]
    bad: list[BadPairEntry]
    duplicates: list[DuplicateEntry]

    @property
    def num_records(self) -> int:
        return len(self.record_bytes)

    @property
    def num_dropped(self) -> int:
        return sum(entry.dropped for entry in self.duplicates)

    @property
    def num_pairs(self) -> int:
        """Pairs that were read, whatever became of them."""
        return self.num_records + len(self.bad) + self.num_dropped

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ShardSummary:
        value = json.loads(text)
        lists = {
            "worst": [Recovery(**entry) for entry in value["worst"]],
            "bad": [BadPairEntry(**entry) for entry in value["bad"]],
            "duplicates": [DuplicateEntry(**entry) for entry in value["duplicates"]],
        }
        return cls(**{**value, **lists})


@dataclasses.dataclass(frozen=True)
class ShardInfo:
    """One shard file, as the folder's description names it."""

    file: str
    num_records: int
    num_bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class SplitInfo:
    """One split.

    Attributes:
      shards: Its files, in order.
      class_pixels: Pixels of each class, [K].
      class_records: Records in which each class occurs, [K].
      ignored_pixels: Pixels of the ignore label.
      unsure_pixels: Pixels where another class is nearly as likely.
      unknown_pixels: Pixels whose colour is far from every class's.
      sizes: Records of each size, ``WIDTHxHEIGHT``, the most frequent first.
      codings: Records of each kind of file, such as ``JPEG 75 4:2:0``, likewise.
      num_bad_pairs: Pairs that were left out.
      num_duplicates: Pairs that equal another, the dropped ones among them.
      num_dropped_pairs: Training pairs left out as they equal one of another split.
    """

    shards: list[ShardInfo]
    class_pixels: list[int]
    class_records: list[int]
    ignored_pixels: int
    unsure_pixels: int
    unknown_pixels: int
    sizes: dict[str, int]
    codings: dict[str, int]
    num_bad_pairs: int
    num_duplicates: int
    num_dropped_pairs: int

    @property
    def num_records(self) -> int:
        return sum(shard.num_records for shard in self.shards)

    @property
    def num_pairs(self) -> int:
        """Pairs that were read, whatever became of them."""
        return self.num_records + self.num_bad_pairs + self.num_dropped_pairs

    @property
    def num_pixels(self) -> int:
        return sum(self.class_pixels) + self.ignored_pixels

    @property
    def max_height(self) -> int:
        """Of its records, in pixels."""
        return max((int(size.split("x")[1]) for size in self.sizes), default=0)

    @property
    def max_width(self) -> int:
        """Of its records, in pixels."""
        return max((int(size.split("x")[0]) for size in self.sizes), default=0)


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """The description of a records folder.

    Attributes:
      name: First part of the shards' names.
      splits: By name.
      palette: Class names, colours and train ids.
      mean: Of the training photos' red, green and blue levels, 0 to 255.
      std: Their standard deviation.
      provenance: What the records were made with: versions and options; of a run's copy also where
        they lay.
    """

    name: str
    splits: dict[str, SplitInfo]
    palette: Palette
    mean: list[float]
    std: list[float]
    provenance: dict[str, Any]

    def to_json(self) -> str:
        value = {
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "splits": {name: dataclasses.asdict(split) for name, split in self.splits.items()},
            "mean": self.mean,
            "std": self.std,
            "palette": self.palette.to_dict(),
            "provenance": self.provenance,
        }
        return json.dumps(value, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> DatasetInfo:
        """The reverse of `to_json`.

        Raises:
          DatasetError: Where the text is damaged or of another version.
        """
        try:
            value = json.loads(text)
            if value["format_version"] != FORMAT_VERSION:
                raise DatasetError(
                    f"The records are of format {value['format_version']}, this program reads "
                    f"{FORMAT_VERSION}; write them again with pipeline.preprocess."
                )
            return cls(
                name=value["name"],
                splits={name: _split_from_dict(s) for name, s in value["splits"].items()},
                palette=Palette.from_dict(value["palette"]),
                mean=value["mean"],
                std=value["std"],
                provenance=value["provenance"],
            )
        except (AttributeError, KeyError, TypeError, ValueError, PaletteError) as error:
            raise DatasetError(
                f"{INFO_FILE} is damaged ({error!r}); write the records again with "
                "pipeline.preprocess."
            ) from error

    def kept_in(self, data_dir: str) -> DatasetInfo:
        """The same, knowing where its records lie, so that a run's copy leads back to them."""
        place = data_dir if "://" in data_dir else os.path.abspath(data_dir)
        return dataclasses.replace(self, provenance={**self.provenance, _PLACE: place})

    @property
    def data_dir(self) -> str | None:
        """Where its records lay for the one who called `kept_in`; None where nobody did."""
        return self.provenance.get(_PLACE)

    @property
    def training_splits(self) -> list[SplitInfo]:
        """The split to train on; where none is called so, all."""
        return [self.splits[name] for name in _training_splits(self.splits)]

    def class_weights(self, scheme: str = "enet", split: str | None = None) -> list[float]:
        """How much a pixel of each class may count in a training loss, [K]: the rarer, the more.

        With the class's share p of a split's pixels that have a class, it is, by `scheme`,

            none         1
            enet         1 / ln(1.02 + p) (Paszke et al. 2016, ENet): 1.4 to 50.5, so that a class
                         of a few pixels cannot drown the others
            fourth_root  1 / p^(1/4)
            sqrt         1 / sqrt(p)
            inverse      1 / p, all classes alike

        A class without a pixel weighs 0. Without a name the split is the training split.
        """
        splits = self.training_splits if split is None else [self.split(split)]
        pixels = np.array([s.class_pixels for s in splits], np.int64).sum(axis=0)
        # A class without a pixel is no division by 0; it is left out below.
        share = np.maximum(pixels, 1) / max(pixels.sum(), 1)
        weights = {
            "none": np.ones(len(pixels)),
            "enet": 1 / np.log(1.02 + share),
            "fourth_root": share**-0.25,
            "sqrt": 1 / np.sqrt(share),
            "inverse": 1 / share,
        }[scheme]
        return np.where(pixels > 0, weights, 0.0).tolist()

    def split(self, name: str) -> SplitInfo:
        """A split by its name.

        Raises:
          DatasetError: Where there is none of this name, or it is empty.
        """
        if name not in self.splits:
            raise DatasetError(f"There is no split {name!r}; there are: {', '.join(self.splits)}.")
        if not self.splits[name].num_records:
            raise DatasetError(f"The split {name!r} holds no records.")
        return self.splits[name]


def _split_from_dict(value: dict[str, Any]) -> SplitInfo:
    return SplitInfo(**{**value, "shards": [ShardInfo(**shard) for shard in value["shards"]]})


def build_info(
    name: str, summaries: Sequence[ShardSummary], palette: Palette, provenance: dict[str, Any]
) -> DatasetInfo:
    """Adds the shards' summaries up to the folder's description."""
    by_split: dict[str, list[ShardSummary]] = {}
    for summary in sorted(summaries, key=lambda s: (s.split, s.index)):
        by_split.setdefault(summary.split, []).append(summary)
    mean, std = _channel_statistics([s for n in _training_splits(by_split) for s in by_split[n]])
    splits = {split: _build_split(shards, palette) for split, shards in by_split.items()}
    return DatasetInfo(name, splits, palette, mean, std, provenance)


def _training_splits(splits: Collection[str]) -> list[str]:
    return [TRAIN_SPLIT] if TRAIN_SPLIT in splits else list(splits)


def _build_split(shards: Sequence[ShardSummary], palette: Palette) -> SplitInfo:
    label_pixels = np.array([s.label_pixels for s in shards], np.int64).sum(axis=0)
    label_records = np.array([s.label_records for s in shards], np.int64).sum(axis=0)
    class_pixels = label_pixels[: palette.num_classes]
    return SplitInfo(
        shards=[ShardInfo(s.file, s.num_records, sum(s.record_bytes), s.sha256) for s in shards],
        class_pixels=class_pixels.tolist(),
        class_records=label_records[: palette.num_classes].tolist(),
        ignored_pixels=int(label_pixels.sum() - class_pixels.sum()),
        unsure_pixels=sum(s.unsure_pixels for s in shards),
        unknown_pixels=sum(s.unknown_pixels for s in shards),
        sizes=_add_counts(s.sizes for s in shards),
        codings=_add_counts(s.codings for s in shards),
        num_bad_pairs=sum(len(s.bad) for s in shards),
        num_duplicates=sum(len(s.duplicates) for s in shards),
        num_dropped_pairs=sum(s.num_dropped for s in shards),
    )


def _add_counts(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Sums by name, the largest first."""
    total: Counter[str] = Counter()
    for part in counts:
        total.update(part)
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))


def _channel_statistics(shards: Sequence[ShardSummary]) -> tuple[list[float], list[float]]:
    count = sum(sum(s.label_pixels) for s in shards)
    mean, std = [], []
    for channel in range(3):
        total = sum(s.channel_sum[channel] for s in shards)
        square_total = sum(s.channel_square_sum[channel] for s in shards)
        # Whole numbers until the last division: no cancellation.
        variance = (square_total * count - total * total) / max(count, 1) ** 2
        mean.append(round(total / max(count, 1), 4))
        std.append(round(math.sqrt(variance), 4))
    return mean, std


def encode_offsets(summaries: Sequence[ShardSummary]) -> bytes:
    """The content of `record_offsets.npz`: for each split, int64 [num_records] in shard order."""
    offsets: dict[str, list[np.ndarray]] = {}
    for summary in sorted(summaries, key=lambda s: (s.split, s.index)):
        sizes = np.array(summary.record_bytes, np.int64)
        offsets.setdefault(summary.split, []).append(np.cumsum(sizes) - sizes)
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {split: np.concatenate(parts) for split, parts in offsets.items()}
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def in_order(entries: Iterable[_Entry]) -> list[_Entry]:
    """Entries by split and file name."""
    return sorted(entries, key=lambda entry: (entry.split, entry.key))


def encode_entries(entries: Iterable[_Entry]) -> bytes:
    """The content of `bad_pairs.jsonl` or `duplicates.jsonl`: an entry a line."""
    return "".join(json.dumps(dataclasses.asdict(entry)) + "\n" for entry in entries).encode()


def load_bad_pairs(data_dir: str) -> list[BadPairEntry]:
    """The pairs that were left out, by split and name.

    Raises:
      DatasetError: Where the list is missing or damaged.
    """
    return _load_entries(data_dir, BAD_PAIRS_FILE, BadPairEntry)


def load_duplicates(data_dir: str) -> list[DuplicateEntry]:
    """The pairs that equal others, by split and name.

    Raises:
      DatasetError: Where the list is missing or damaged.
    """
    return _load_entries(data_dir, DUPLICATES_FILE, DuplicateEntry)


def _load_entries(data_dir: str, name: str, kind: Callable[..., _Entry]) -> list[_Entry]:
    path = epath.Path(data_dir) / name
    try:
        return [kind(**json.loads(line)) for line in path.read_text().splitlines()]
    except (OSError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{str(path)!r} is missing or damaged ({error!r}); write the records again with "
            "pipeline.preprocess."
        ) from error


def load_info(data_dir: str) -> DatasetInfo:
    """Reads a records folder's description and checks that its shards are all there.

    Raises:
      DatasetError: Where the folder, its description or a shard is missing or of the wrong size.
    """
    folder = epath.Path(data_dir)
    if not folder.is_dir():
        raise DatasetError(f"There is no records folder {data_dir!r}.")
    if not (folder / INFO_FILE).exists():
        raise DatasetError(
            f"{data_dir!r} holds no {INFO_FILE}: it is no records folder, or an incomplete one. "
            "Write it with pipeline.preprocess."
        )
    info = DatasetInfo.from_json((folder / INFO_FILE).read_bytes())
    for split in info.splits.values():
        for shard in split.shards:
            path = folder / shard.file
            size = path.stat().length if path.exists() else None
            if size != shard.num_bytes:
                found = "is missing" if size is None else f"has {size} bytes"
                raise DatasetError(
                    f"The shard {str(path)!r} {found}; {INFO_FILE} says {shard.num_bytes} bytes. "
                    "Restore it, or write the records again with pipeline.preprocess."
                )
    return info


def damaged_shards(data_dir: str) -> list[str]:
    """The shards whose bytes are not those that were written, by their checksums.

    Raises:
      DatasetError: Where the folder is not whole.
    """
    damaged = []
    for split in load_info(data_dir).splits.values():
        for shard in split.shards:
            with (epath.Path(data_dir) / shard.file).open("rb") as file:
                digest = hashlib.sha256()
                while block := file.read(2**20):
                    digest.update(block)
            if digest.hexdigest() != shard.sha256:
                damaged.append(shard.file)
    return damaged


def load_offsets(data_dir: str, split: str) -> np.ndarray:
    """Where each record of a split begins in its shard: int64 [num_records], in shard order.

    Raises:
      DatasetError: Where the file is missing or damaged.
    """
    path = epath.Path(data_dir) / OFFSETS_FILE
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            return arrays[split]
    except Exception as error:  # a damaged zip file can make numpy raise almost anything
        raise DatasetError(
            f"{str(path)!r} is missing or damaged ({error!r}); write the records again with "
            "pipeline.preprocess."
        ) from error


def tfds_features() -> Any:
    """A record's fields as TensorFlow Datasets names them: a `tfds.features.FeaturesDict`."""
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(
        {
            "key": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "label": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
            "height": tfds.features.Scalar(dtype=np.int64),
            "width": tfds.features.Scalar(dtype=np.int64),
        }
    )


def tfds_metadata(info: DatasetInfo) -> dict[str, bytes]:
    """The files, by name, that make a records folder readable by `tfds.builder_from_directory`."""
    import tensorflow_datasets as tfds

    # Beam knows file systems that TFDS does not: it works on a local stand-in, and wants to find
    # the shards' names there.
    with tempfile.TemporaryDirectory(prefix="preprocess-") as folder:
        shards = {Path(folder, s.file) for split in info.splits.values() for s in split.shards}
        for shard in shards:
            shard.touch()
        template = tfds.core.ShardedFileTemplate(
            data_dir=epath.Path(folder), dataset_name=info.name, filetype_suffix="tfrecord"
        )
        tfds.folder_dataset.write_metadata(
            data_dir=folder,
            features=tfds_features(),
            split_infos=[
                tfds.core.SplitInfo(
                    name=name,
                    shard_lengths=[shard.num_records for shard in split.shards],
                    num_bytes=sum(shard.num_bytes for shard in split.shards),
                    filename_template=template.replace(split=name),
                )
                for name, split in info.splits.items()
            ],
            check_data=False,
            description="Street photos with the train ids of their pixels.",
        )
        written = sorted(set(Path(folder).iterdir()) - shards)
        return {path.name: path.read_bytes() for path in written}
