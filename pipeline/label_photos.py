"""Beam transforms: photos -> their labels, part by part."""

import hashlib
import itertools
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam
import cv2
import numpy as np
from apache_beam.io import fileio
from apache_beam.io.filesystem import FileMetadata
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import KeyedModelHandler, RunInference

from pipeline import files, manifest, pairs, records
from pipeline.manifest import BadPhotoEntry, LabelledPhoto, PartSummary
from pipeline.output_folder import Staging
from pipeline.overlay import overlay
from pipeline.palette import Palette
from pipeline.parts import SUMMARY_SUFFIX, read_summary
from pipeline.saved_model_handler import Photos, SavedModelHandler

PHOTOS_PER_PART, PIXELS_PER_PART = 64, 2**25
"""What a killed job does again at most, and, three bytes a pixel, what a worker holds at once."""

_HEADER_BYTES = 2**16
"""Most photos' headers are shorter; of the others the whole file is read."""


@dataclass(frozen=True)
class FoundPhoto:
    """A photo's path below the folder that is searched, and where it is."""

    key: str
    path: str


@dataclass(frozen=True)
class Part:
    """Photos that are read, labelled and written together, by their keys in order."""

    name: str
    photos: list[FoundPhoto]


@dataclass(frozen=True)
class ReadPart:
    """A part with its photos' pixels.

    Attributes:
      part: Which it is.
      pixels: uint8 [H, W, 3] by the photo's key; of those that could be read.
      bad: The others.
    """

    part: Part
    pixels: dict[str, np.ndarray]
    bad: list[BadPhotoEntry]


@dataclass(frozen=True)
class LabelOptions:
    """How photos are labelled.

    Attributes:
      saved_model: The network.
      palette: Its classes.
      batch_size: Photos of one size that the network sees at once.
      overlays: Write pictures to look at, too.
      max_pixels: Photos with more are left out.
    """

    saved_model: str
    palette: Palette
    batch_size: int
    overlays: bool
    max_pixels: int


class FindPhotos(beam.PTransform):
    """A pattern -> `FoundPhoto` elements, with keys below a folder."""

    def __init__(self, pattern: str, root: str) -> None:
        super().__init__()
        self._pattern = pattern
        self._root = root

    def expand(self, pbegin: beam.pvalue.PBegin) -> beam.PCollection[FoundPhoto]:
        return (
            pbegin
            | beam.Create([self._pattern])
            | fileio.MatchAll(fileio.EmptyMatchTreatment.DISALLOW)
            | beam.Filter(lambda metadata: pairs.is_image_name(metadata.path))
            | beam.Map(found_photo, self._root)
        )


def found_photo(metadata: FileMetadata, root: str) -> FoundPhoto:
    """A photo by its file."""
    path = metadata.path.replace("\\", "/")
    return FoundPhoto(path[len(root) + 1 :], path)


class LabelPhotos(beam.PTransform):
    """`FoundPhoto` elements -> one `PartSummary` for each part written to the staging folder.

    Photos of one size make parts, by the order of their names: so the labels depend on the photos
    alone, never on the number of workers or their pace. Only names are grouped, pixels are read,
    labelled and written where they are. A part that an earlier job has finished is left as it is.
    """

    def __init__(self, staging: Staging, options: LabelOptions) -> None:
        super().__init__()
        self._staging = staging
        self._options = options

    def expand(self, found: beam.PCollection[FoundPhoto]) -> beam.PCollection[PartSummary]:
        options = self._options
        handler = SavedModelHandler(options.saved_model, options.batch_size)
        keyed: KeyedModelHandler = KeyedModelHandler(handler)
        return (
            found
            | "BySize" >> beam.Map(lambda photo: (size_of(photo.path), photo))
            | "SameSize" >> beam.GroupByKey()
            | "MakeParts" >> beam.FlatMap(lambda group: make_parts(*group))
            | "Spread" >> beam.Reshuffle()
            | "ReadPhotos" >> beam.ParDo(_ReadPhotos(self._staging, options))
            | "Label" >> RunInference(keyed)
            | "WriteLabels" >> beam.ParDo(_WriteLabels(self._staging, options))
        )


def size_of(path: str) -> tuple[int, int]:
    """Width and height of a photo as it is stored; zeros where it is none.

    Raises:
      OSError: Where the file cannot be read.
    """
    for limit in (_HEADER_BYTES, pairs.MAX_FILE_BYTES):
        try:
            return pairs.read_header(files.read_bounded(path, limit), pairs.PHOTO_MODES).size
        except pairs.BadPair:
            continue
    return 0, 0


def make_parts(size: tuple[int, int], photos: Iterable[FoundPhoto]) -> Iterator[Part]:
    """Deals photos of one size out to parts."""
    width, height = size
    count = max(1, min(PHOTOS_PER_PART, PIXELS_PER_PART // max(1, width * height)))
    in_order = sorted(photos, key=lambda photo: photo.key)
    for index, start in enumerate(range(0, len(in_order), count)):
        yield Part(f"{width}x{height}-{index:06d}", in_order[start : start + count])


def _summary_path(staging: Staging, part: Part) -> str:
    return FileSystems.join(staging.work, part.name + SUMMARY_SUFFIX)


class _ReadPhotos(beam.DoFn):
    """Reads the photos of a part, unless it is finished.

    A file that cannot be read ends the job: its photo may be a good one when the job goes on. A
    part is finished where there is a summary of its photos and each file that was written for them
    has the summary's checksum.
    """

    def __init__(self, staging: Staging, options: LabelOptions) -> None:
        self._staging = staging
        self._options = options
        self._read = Metrics.counter("photos", "read")
        self._bad = Metrics.counter("photos", "bad")
        self._found_finished = Metrics.counter("parts", "found finished")

    def setup(self) -> None:
        cv2.setNumThreads(1)

    def process(self, part: Part) -> Iterator[tuple[ReadPart, Photos]]:
        if self._is_finished(part):
            self._found_finished.inc()
            return
        read = ReadPart(part, {}, [])
        for photo in part.photos:
            self._read.inc()
            try:
                read.pixels[photo.key] = read_photo(photo.path, self._options.max_pixels)
            except pairs.BadPair as error:
                self._bad.inc()
                read.bad.append(BadPhotoEntry(photo.key, type(error).__name__, str(error)))
        yield read, list(read.pixels.values())

    def _is_finished(self, part: Part) -> bool:
        summary = read_summary(_summary_path(self._staging, part), PartSummary.from_json)
        return (
            summary is not None
            and summary.photos == {photo.key for photo in part.photos}
            and all(
                files.has_checksum(FileSystems.join(self._staging.records, name), checksum)
                for name, checksum in summary.sha256.items()
            )
        )


def read_photo(path: str, max_pixels: int) -> np.ndarray:
    """A photo as it is shown, turned as its EXIF data says: uint8 [H, W, 3].

    Raises:
      BadPair: One of its kinds.
      OSError: Where the file cannot be read.
    """
    data = files.read_bounded(path)
    header = pairs.read_header(data, pairs.PHOTO_MODES)
    width, height = header.size
    if width * height > max_pixels:
        raise pairs.ImageTooLarge(f"{width}x{height} pixels; --max_pixels={max_pixels}")
    return pairs.decode_pixels(data, header, apply_orientation=True)


class _WriteLabels(beam.DoFn):
    """Writes the files of a part and then its summary."""

    def __init__(self, staging: Staging, options: LabelOptions) -> None:
        self._staging = staging
        self._options = options
        self._labelled = Metrics.counter("photos", "labelled")

    def process(self, element: tuple[ReadPart, Photos]) -> Iterator[PartSummary]:
        read, all_labels = element
        summary = PartSummary([], read.bad, {})
        for (key, photo), labels in zip(read.pixels.items(), all_labels, strict=True):
            summary.labelled.append(self._write_photo(key, photo, labels, summary))
            self._labelled.inc()
        path = _summary_path(self._staging, read.part)
        files.write_whole(path, summary.to_json().encode())
        yield summary

    def _write_photo(
        self, key: str, photo: np.ndarray, labels: np.ndarray, summary: PartSummary
    ) -> LabelledPhoto:
        palette = self._options.palette
        ids = manifest.output_name(key, manifest.IDS_SUFFIX)
        written = {ids: records.encode_label(labels)}
        picture = None
        if self._options.overlays:
            picture = manifest.output_name(key, manifest.OVERLAY_SUFFIX)
            tinted = cv2.cvtColor(overlay(photo, labels, palette), cv2.COLOR_RGB2BGR)
            written[picture] = records.encode_image(".png", tinted)
        for name, data in written.items():
            summary.sha256[name] = self._write(name, data)
        height, width = labels.shape
        shares = manifest.class_shares(labels, palette)
        return LabelledPhoto(key, ids, picture, width, height, shares)

    def _write(self, name: str, data: bytes) -> str:
        """Writes a file and gives its checksum."""
        path = FileSystems.join(self._staging.records, name)
        checksum = hashlib.sha256(data).hexdigest()
        files.make_folder(posixpath.dirname(path))
        files.write_whole(path, data)
        files.check_written(path, checksum)
        return checksum


def same_output(photos: Iterable[FoundPhoto]) -> tuple[FoundPhoto, FoundPhoto] | None:
    """The first two photos that would be written to the same files, if there are any."""
    in_order = sorted(photos, key=lambda p: (manifest.output_name(p.key, ""), p.key))
    for first, second in itertools.pairwise(in_order):
        if manifest.output_name(first.key, "") == manifest.output_name(second.key, ""):
            return first, second
    return None
