"""What a records folder says of itself: splits, shards, classes, pixel statistics, provenance.

A records folder holds

    NAME-SPLIT.tfrecord-00000-of-00004   the shards
    records_info.json                    `DatasetInfo`, written last: without it, no data set
    record_offsets.npz                   where each record begins in its shard
    bad_pairs.jsonl                      the pairs left out, each with its reason
    dataset_info.json, features.json     the same for TensorFlow Datasets
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from pipeline.errors import UserError
from pipeline.palette import Palette, PaletteError

INFO_FILE = "records_info.json"
OFFSETS_FILE = "record_offsets.npz"
BAD_PAIRS_FILE = "bad_pairs.jsonl"
FORMAT_VERSION = 1
_TFDS_FILES = ("dataset_info.json", "features.json")


class DatasetError(UserError):
    """A records folder that is missing, incomplete or of another version."""


def shard_name(dataset: str, split: str, index: int, num_shards: int) -> str:
    """The file name of a shard, as TensorFlow Datasets expects it."""
    return f"{dataset}-{split}.tfrecord-{index:05d}-of-{num_shards:05d}"


def is_records_file(name: str) -> bool:
    """Whether a file of this name in a records folder is a part of it."""
    parts = (INFO_FILE, OFFSETS_FILE, BAD_PAIRS_FILE, *_TFDS_FILES)
    return name in parts or bool(re.fullmatch(r"\w+-\w+\.tfrecord-\d{5}-of-\d{5}", name))


@dataclasses.dataclass(frozen=True)
class BadPairEntry:
    """A pair that was left out: its split, file name, kind of fault and reason."""

    split: str
    key: str
    error: str
    reason: str


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
      channel_sum: Sum of the photos' red, green and blue levels.
      channel_square_sum: Sum of their squares.
      max_height: Of its records, in pixels.
      max_width: Of its records, in pixels.
      bad: The pairs of this shard that were left out.
    """

    split: str
    index: int
    file: str
    sha256: str
    record_bytes: list[int]
    label_pixels: list[int]
    channel_sum: list[int]
    channel_square_sum: list[int]
    max_height: int
    max_width: int
    bad: list[BadPairEntry]

    @property
    def num_records(self) -> int:
        return len(self.record_bytes)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ShardSummary:
        value = json.loads(text)
        return cls(**{**value, "bad": [BadPairEntry(**entry) for entry in value["bad"]]})


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
      ignored_pixels: Pixels of the ignore label.
      max_height: Of its records, in pixels.
      max_width: Of its records, in pixels.
      num_bad_pairs: Pairs that were left out.
    """

    shards: list[ShardInfo]
    class_pixels: list[int]
    ignored_pixels: int
    max_height: int
    max_width: int
    num_bad_pairs: int

    @property
    def num_records(self) -> int:
        return sum(shard.num_records for shard in self.shards)


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """The description of a records folder.

    Attributes:
      name: First part of the shards' names.
      splits: By name.
      palette: Class names, colours and train ids.
      mean: Of the training photos' red, green and blue levels, 0 to 255.
      std: Their standard deviation.
      provenance: What the records were made with: versions and options.
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
    mean, std = _channel_statistics(by_split.get("train", list(summaries)))
    splits = {split: _build_split(shards, palette) for split, shards in by_split.items()}
    return DatasetInfo(name, splits, palette, mean, std, provenance)


def _build_split(shards: Sequence[ShardSummary], palette: Palette) -> SplitInfo:
    label_pixels = np.array([s.label_pixels for s in shards], np.int64).sum(axis=0)
    class_pixels = label_pixels[: palette.num_classes]
    return SplitInfo(
        shards=[ShardInfo(s.file, s.num_records, sum(s.record_bytes), s.sha256) for s in shards],
        class_pixels=class_pixels.tolist(),
        ignored_pixels=int(label_pixels.sum() - class_pixels.sum()),
        max_height=max(s.max_height for s in shards),
        max_width=max(s.max_width for s in shards),
        num_bad_pairs=sum(len(s.bad) for s in shards),
    )


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


def write_tfds_metadata(data_dir: str, info: DatasetInfo) -> None:
    """Makes the folder readable by `tfds.builder_from_directory`."""
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(
        {
            "key": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "label": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
            "height": tfds.features.Scalar(dtype=np.int64),
            "width": tfds.features.Scalar(dtype=np.int64),
        }
    )
    template = tfds.core.ShardedFileTemplate(
        data_dir=epath.Path(data_dir), dataset_name=info.name, filetype_suffix="tfrecord"
    )
    tfds.folder_dataset.write_metadata(
        data_dir=data_dir,
        features=features,
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
