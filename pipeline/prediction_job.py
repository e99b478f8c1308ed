"""The prediction job as one call: checks, Beam pipeline, manifest, publication."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata

import apache_beam as beam
import cv2
import numpy as np
import PIL
from apache_beam.io.filesystem import BeamIOError, FileMetadata
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from pipeline import engine, files, label_photos, manifest, output_folder, pairs, parts
from pipeline.errors import UserError
from pipeline.fingerprint import fingerprint
from pipeline.label_photos import LabelOptions
from pipeline.manifest import PartSummary
from pipeline.output_folder import Contents, Staging
from pipeline.palette import PALETTE_FILE, Palette

PREDICTIONS = Contents("predictions", manifest.MANIFEST_FILE, manifest.is_predictions_file)

_VERSIONS = {module.__name__: module.__version__ for module in (beam, cv2, np, PIL)}
"""Of the packages that decide over the labels, beside TensorFlow."""


@dataclasses.dataclass(frozen=True)
class PredictionOptions:
    """What `pipeline.predict` takes as flags; they are explained there."""

    saved_model: str
    input_pattern: str
    output_dir: str
    overlays: bool = False
    batch_size: int = 8
    max_pixels: int = pairs.MAX_PREDICTED_PIXELS
    num_workers: int = 1
    overwrite: bool = False


class PredictionJobError(UserError):
    """A job that cannot start, or that labelled nothing."""


def run(
    options: PredictionOptions, beam_arguments: Sequence[str] = ()
) -> tuple[int, list[manifest.BadPhotoEntry]]:
    """Runs the job; `options.output_dir` is then complete, or as it was before.

    What is finished when a job ends early, for whatever reason, stays beside `options.output_dir`.
    The same job goes on with it; it ends with the same bytes. Another one deletes it.

    Args:
      options: What to label and how.
      beam_arguments: Beam's own flags; without ``--runner`` the job runs on this machine.

    Returns:
      How many photos were labelled, and those that were not.

    Raises:
      OSError: Where the disk is full, or files cannot be read or written.
      UserError: Where something given cannot be used, or no photo can be labelled.
    """
    started = time.monotonic()
    beam_options = engine.beam_options(options.num_workers, beam_arguments)
    _check_tensorflow(beam_options)
    saved_model = files.absolute(options.saved_model)
    palette, model_files = _find_model(saved_model)
    pattern = files.absolute(options.input_pattern)  # as Beam gives the paths of what matches
    root = folder_of(pattern)
    _check_apart(options.output_dir, pattern, root)
    found = _find_photos(pattern, root)
    label = LabelOptions(
        saved_model=saved_model,
        palette=palette,
        batch_size=options.batch_size,
        overlays=options.overlays,
        max_pixels=options.max_pixels,
    )
    facts = {"options": dataclasses.asdict(label), "versions": _versions()}
    identity = fingerprint(facts, [*found, *model_files])
    try:
        with (
            output_folder.replacing(
                options.output_dir, options.overwrite, identity, PREDICTIONS
            ) as staging,
            parts.telling_what_is_finished(
                staging, lambda: _count_labelled(staging), len(found), "photos"
            ),
        ):
            seen: set[str] = set()
            with (
                _without_false_alarm(),
                parts.progress(lambda: _count(staging, seen), len(found), "photo", "predict"),
                engine.running(options.num_workers, beam_options) as pipeline,
            ):
                _ = (
                    pipeline
                    | "FindPhotos" >> label_photos.FindPhotos(pattern, root)
                    | "LabelPhotos" >> label_photos.LabelPhotos(staging, label)
                )
            summaries = parts.read_summaries(staging, PartSummary.from_json)
            _check_complete(summaries, len(found))
            labelled = [entry for summary in summaries for entry in summary.labelled]
            bad = [entry for summary in summaries for entry in summary.bad]
            _check_some_labelled(labelled, bad)
            described = {
                PALETTE_FILE: json.dumps(palette.to_dict(), indent=2).encode(),
                manifest.BAD_PHOTOS_FILE: manifest.encode(bad),
                manifest.MANIFEST_FILE: manifest.encode(labelled),
            }
            for name, data in described.items():
                files.write_whole(FileSystems.join(staging.records, name), data)
    except OSError as error:
        error.filename = error.filename or options.output_dir  # A full disk does not say where.
        raise
    seconds = time.monotonic() - started
    print(_closing_words(labelled, bad, options.output_dir, seconds))
    return len(labelled), bad


def _check_tensorflow(beam_options: PipelineOptions) -> None:
    """Workers on this machine need TensorFlow here; those of a cluster have their own."""
    local = not beam_options.view_as(StandardOptions).runner
    if local and importlib.util.find_spec("tensorflow") is None:
        raise PredictionJobError(
            "There is no TensorFlow, which labels the photos: pip install '.[pipeline,trainer]'."
        )


def _versions() -> dict[str, str]:
    try:
        return {**_VERSIONS, "tensorflow": metadata.version("tensorflow")}
    except metadata.PackageNotFoundError:
        return _VERSIONS  # on a machine that only hands the job to a cluster


def _find_model(folder: str) -> tuple[Palette, list[FileMetadata]]:
    """A SavedModel's classes and files, without loading it.

    Raises:
      PredictionJobError: Where the folder holds no SavedModel of ours.
    """
    try:
        found = files.match_files(folder, "**")
        text = files.read_bounded(FileSystems.join(folder, "assets", PALETTE_FILE))
        palette = Palette.from_dict(json.loads(text))
        if not any(file.path.endswith("/saved_model.pb") for file in found):
            raise ValueError("it holds no saved_model.pb")
    except (OSError, BeamIOError, ValueError, UserError) as error:
        raise PredictionJobError(
            f"--saved_model {folder!r} is no SavedModel of trainer.export: {error}. Name a folder "
            "such as RUN/export/3000."
        ) from error
    return palette, found


def folder_of(pattern: str) -> str:
    """The folder below which a pattern's photos lie: ``a/b/*/c.jpg`` -> ``a/b``."""
    fixed = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
    return fixed.rpartition("/")[0]


def _check_apart(output_dir: str, pattern: str, root: str) -> None:
    """Refuses an output that the pattern may match: labels would be taken for photos.

    Raises:
      PredictionJobError: Where it does.
    """
    output, folder = (
        os.path.realpath(path) if files.is_local(path) else path for path in (output_dir, root)
    )
    output, folder = f"{output.rstrip('/')}/", f"{folder.rstrip('/')}/"
    beneath = pattern.removeprefix(root).lstrip("/")
    deep = "/" in beneath or "**" in beneath
    if output == folder or (deep and output.startswith(folder)):
        raise PredictionJobError(
            f"--output_dir {output_dir!r} lies where --input_pattern {pattern!r} looks for photos; "
            "name a folder elsewhere."
        )


def _find_photos(pattern: str, root: str) -> list[FileMetadata]:
    """The photos that match.

    Raises:
      PredictionJobError: Where there are none, or two would be written to the same files.
    """
    try:
        (match,) = FileSystems.match([pattern])
    except (BeamIOError, ValueError) as error:
        raise PredictionJobError(f"--input_pattern {pattern!r} cannot be read: {error}.") from error
    if "**" in pattern and (links := files.linked_folders(root)):
        logging.warning(
            "Links to folders are not followed: %d are left out, the first %r.",
            len(links),
            links[0],
        )
    found = [file for file in match.metadata_list if pairs.is_image_name(file.path)]
    if not found:
        raise PredictionJobError(
            f"--input_pattern {pattern!r} matches no photos ({', '.join(pairs.IMAGE_SUFFIXES)}); "
            "those of a folder and all below it are 'FOLDER/**', in quotes."
        )
    if same := label_photos.same_output(label_photos.found_photo(file, root) for file in found):
        first, second = (photo.path for photo in same)
        raise PredictionJobError(
            f"{first!r} and {second!r} would be written to the same files; rename one."
        )
    return found


@contextmanager
def _without_false_alarm() -> Iterator[None]:
    """Keeps RunInference's warning that memory cannot be measured off the screen.

    It gives it wherever the packages of its model manager, which is not used here, are missing.
    """

    def passes(record: logging.LogRecord) -> bool:
        return "Resource module is not available" not in str(record.msg)

    logging.getLogger().addFilter(passes)
    try:
        yield
    finally:
        logging.getLogger().removeFilter(passes)


def _count(staging: Staging, seen: set[str]) -> int:
    """How many photos are done, of parts that are not yet in `seen`, which they are added to."""
    found = parts.read_summaries(staging, PartSummary.from_json, seen)
    return sum(len(summary.photos) for summary in found)


def _count_labelled(staging: Staging) -> int:
    """How many photos have labels that a later run need not make."""
    found = parts.read_summaries(staging, PartSummary.from_json)
    return sum(len(summary.labelled) for summary in found)


def _check_complete(summaries: Sequence[PartSummary], expected: int) -> None:
    """Holds what was done against what was found."""
    done = sum(len(summary.photos) for summary in summaries)
    if done != expected:
        raise PredictionJobError(
            f"{expected} photos were found, but {done} came out of the job. Nothing was published; "
            "did files change while it ran?"
        )


def _check_some_labelled(
    labelled: Sequence[manifest.LabelledPhoto], bad: Sequence[manifest.BadPhotoEntry]
) -> None:
    if labelled:
        return
    (kind, count), *_ = Counter(entry.error for entry in bad).most_common()
    first = min((entry for entry in bad if entry.error == kind), key=lambda entry: entry.photo)
    raise PredictionJobError(
        f"None of the {len(bad)} photos can be labelled; {count} are {kind}, the first: "
        f"{first.photo}: {first.reason}. Nothing was published."
    )


def _closing_words(
    labelled: Sequence[manifest.LabelledPhoto],
    bad: Sequence[manifest.BadPhotoEntry],
    output_dir: str,
    seconds: float,
) -> str:
    folder = output_dir.rstrip("/")
    lines = [
        f"{len(labelled):,} photos labelled in {seconds:.1f} s "
        f"({len(labelled) / seconds:,.1f} a second).",
        f"What is in them: {folder}/{manifest.MANIFEST_FILE}",
    ]
    if bad:
        lines.insert(1, f"{len(bad):,} could not be: {folder}/{manifest.BAD_PHOTOS_FILE}")
    return "\n".join(lines)
