"""The preprocessing job as one call: checks, Beam pipeline, publication, report."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import apache_beam as beam
import cv2
import numpy as np
import PIL
from apache_beam.io.filesystem import BeamIOError, FileMetadata
from apache_beam.io.filesystems import FileSystems
from google import protobuf

from pipeline import (
    dataset_info,
    duplicates,
    engine,
    files,
    output_folder,
    pairs,
    parts,
    report,
    report_page,
    strips,
    transforms,
)
from pipeline.dataset_info import TRAIN_SPLIT, DatasetInfo, ShardSummary
from pipeline.errors import UserError
from pipeline.fingerprint import fingerprint
from pipeline.output_folder import Staging
from pipeline.pair_reader import PairReader
from pipeline.palette import CITYSCAPES, Palette, parse_palette
from pipeline.report import Findings
from pipeline.strips import Strip

PAIRS_PER_SHARD = 256
"""About half a second of one core's work and 10 MB: fine enough to spread, large enough to read."""

_VERSIONS = {module.__name__: module.__version__ for module in (beam, cv2, np, PIL, protobuf)}
"""Of the packages that decide over a record's bytes."""


@dataclasses.dataclass(frozen=True)
class JobOptions:
    """What `pipeline.preprocess` takes as flags; they are explained there."""

    input_dir: str
    output_dir: str
    name: str = "pairs"
    image_side: str = "left"
    palette: str = "cityscapes"
    label_recovery: str = "robust"
    ambiguous: str = "keep"
    num_shards: int | None = None
    num_workers: int = 1
    max_bad_fraction: float = 0.05
    leakage: str = "drop"
    overwrite: bool = False


class JobError(UserError):
    """A job that cannot start, or whose result must not be used."""


def run(options: JobOptions, beam_arguments: Sequence[str] = ()) -> DatasetInfo:
    """Runs the job; `options.output_dir` is then complete, or as it was before.

    What is finished when a job ends early, for whatever reason, stays beside `options.output_dir`.
    The same job goes on with it; it ends with the same bytes. Another one deletes it.

    Args:
      options: What to read and how to write it.
      beam_arguments: Beam's own flags; without ``--runner`` the job runs on this machine.

    Raises:
      OSError: Where the disk is full, or files cannot be read or written.
      UserError: Where something given cannot be used, or too many pairs are bad.
    """
    started = time.monotonic()
    if not re.fullmatch(r"[a-z][a-z0-9_]*", options.name):
        raise JobError(
            f"--name takes lower-case letters, digits and _ only. Received: {options.name!r}."
        )
    beam_options = engine.beam_options(options.num_workers, beam_arguments)
    palette = load_palette(options.palette)
    folders, images = _find_splits(files.absolute(options.input_dir))
    num_pairs = {split: len(found) for split, found in images.items()}
    convert = transforms.ConvertOptions(
        name=options.name,
        image_side=options.image_side,
        palette=palette,
        label_recovery=options.label_recovery,
        ignore_ambiguous=options.ambiguous == "ignore",
        num_shards=_shards_per_split(num_pairs, options.num_shards),
        drop_leaks=options.leakage == "drop",
    )
    facts = {"options": dataclasses.asdict(convert), "versions": _VERSIONS}
    identity = fingerprint(facts, itertools.chain(*images.values()))
    try:
        with (
            output_folder.replacing(options.output_dir, options.overwrite, identity) as staging,
            _telling_what_is_finished(staging, sum(convert.num_shards.values())),
        ):
            with (
                _progress(staging, sum(num_pairs.values())),
                engine.running(options.num_workers, beam_options) as pipeline,
            ):
                _ = (
                    pipeline
                    | "FindPairs" >> transforms.FindPairs(folders)
                    | "MarkDuplicates" >> duplicates.MarkDuplicates()
                    | "WriteShards" >> transforms.WriteShards(staging, convert)
                )
            summaries = parts.read_summaries(staging, ShardSummary.from_json)
            _check_complete(summaries, num_pairs, convert.num_shards)
            _check_bad(summaries, sum(num_pairs.values()), options)
            _check_something_to_train_on(summaries)
            info = dataset_info.build_info(options.name, summaries, palette, _provenance(options))
            findings = _findings(info, summaries)
            page = _report_page(findings, summaries, folders, convert)
            _write_description(staging.records, findings, summaries, page)
    except OSError as error:
        error.filename = error.filename or options.output_dir  # A full disk does not say where.
        raise
    print(_closing_words(findings, options.output_dir, time.monotonic() - started))
    return info


def load_palette(name: str) -> Palette:
    """The Cityscapes palette by its name, or one from a file.

    Raises:
      UserError: Where the file is missing or no palette.
    """
    if name == CITYSCAPES.name:
        return CITYSCAPES
    try:
        text = files.read_bounded(name).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError, BeamIOError) as error:
        raise UserError(
            f"--palette takes 'cityscapes' or a .json or .csv file that can be read. "
            f"Received: {name!r}."
        ) from error
    return parse_palette(text, os.path.basename(name))


def _find_splits(input_dir: str) -> tuple[dict[str, str], dict[str, list[FileMetadata]]]:
    """The folder of each split, and the images in it."""
    try:
        found = files.match_files(input_dir, "**")
        for link in files.linked_folders(input_dir):
            found += files.match_files(link, "**")
    except (BeamIOError, ValueError) as error:
        raise pairs.InputError(f"--input_dir {input_dir!r} cannot be read: {error}.") from error
    if not found:
        raise pairs.InputError(f"--input_dir {input_dir!r} is missing or empty.")
    folders, left_out = pairs.find_splits((file.path for file in found), input_dir)
    if left_out:
        logging.warning("%d images outside %s are left out.", left_out, ", ".join(folders.values()))
    images: dict[str, list[FileMetadata]] = {folder: [] for folder in folders.values()}
    for file in found:
        folder = file.path.rpartition("/")[0]
        if folder in images and pairs.is_image_name(file.path):
            _check_name(file.path)
            images[folder].append(file)
    return folders, {split: images[folder] for split, folder in folders.items()}


def _check_name(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise pairs.InputError(
            f"The file name {path!r} is not UTF-8, and no key of a record; rename the file."
        ) from error


def _shards_per_split(num_pairs: dict[str, int], num_shards: int | None) -> dict[str, int]:
    for split, count in num_pairs.items():
        if num_shards and num_shards > count:
            raise UserError(
                f"--num_shards must not exceed a split's pairs: {split!r} has {count}. "
                f"Received: {num_shards}."
            )
    return {
        split: num_shards or math.ceil(count / PAIRS_PER_SHARD)
        for split, count in num_pairs.items()
    }


@contextmanager
def _telling_what_is_finished(staging: Staging, num_shards: int) -> Iterator[None]:
    def count() -> int:
        return len(parts.read_summaries(staging, ShardSummary.from_json))

    with parts.telling_what_is_finished(staging, count, num_shards, "shards"):
        yield


@contextmanager
def _progress(staging: Staging, num_pairs: int) -> Iterator[None]:
    seen: set[str] = set()

    def newly_done() -> int:
        found = parts.read_summaries(staging, ShardSummary.from_json, seen)
        return sum(summary.num_pairs for summary in found)

    with parts.progress(newly_done, num_pairs, "pair", "preprocess"):
        yield


def _check_complete(
    summaries: Sequence[ShardSummary], num_pairs: dict[str, int], num_shards: dict[str, int]
) -> None:
    """Holds what was written against what was found, split by split."""
    shards = Counter(summary.split for summary in summaries)
    done: Counter[str] = Counter()
    for summary in summaries:
        done[summary.split] += summary.num_pairs
    for split, expected in num_pairs.items():
        if done[split] != expected or shards[split] != num_shards[split]:
            raise JobError(
                f"Split {split!r}: {expected} pairs were found, but {done[split]} came out of the "
                f"job, in {shards[split]} of {num_shards[split]} shards. Nothing was published; "
                "did files change while it ran?"
            )


def _check_bad(summaries: Sequence[ShardSummary], total: int, options: JobOptions) -> None:
    bad = dataset_info.in_order(entry for summary in summaries for entry in summary.bad)
    if len(bad) <= options.max_bad_fraction * total and len(bad) < total:
        return
    path = f"{options.output_dir.rstrip('/')}.{dataset_info.BAD_PAIRS_FILE}"
    files.write_whole(path, dataset_info.encode_entries(bad))
    (kind, count), *_ = Counter(entry.error for entry in bad).most_common()
    first = next(entry for entry in bad if entry.error == kind)
    raise JobError(
        f"{len(bad)} of {total} pairs are bad, more than --max_bad_fraction="
        f"{options.max_bad_fraction:g} allows; {count} are {kind}, the first: "
        f"{first.split}/{first.key}: {first.reason}. All of them: {path}. Nothing was published."
    )


def _check_something_to_train_on(summaries: Sequence[ShardSummary]) -> None:
    training = [summary for summary in summaries if summary.split == TRAIN_SPLIT]
    dropped = [entry for summary in training for entry in summary.duplicates if entry.dropped]
    if dropped and not any(summary.num_records for summary in training):
        first = dataset_info.in_order(dropped)[0]
        raise JobError(
            f"All {len(dropped)} usable pairs of {TRAIN_SPLIT!r} are in another split, too (the "
            f"first, {first.key}, is {first.duplicate_of}): nothing is left to train on. Name "
            "another --input_dir, or keep them with --leakage=keep. Nothing was published."
        )


def _findings(info: DatasetInfo, summaries: Sequence[ShardSummary]) -> Findings:
    return Findings(
        info,
        dataset_info.in_order(entry for summary in summaries for entry in summary.bad),
        dataset_info.in_order(entry for summary in summaries for entry in summary.duplicates),
    )


def _report_page(
    findings: Findings,
    summaries: Sequence[ShardSummary],
    folders: dict[str, str],
    convert: transforms.ConvertOptions,
) -> str:
    """The page for people; the few pairs that it shows are read once more, here."""
    read_pair = PairReader(
        convert.palette, convert.image_side, convert.label_recovery, convert.ignore_ambiguous
    )

    def draw(split: str, key: str) -> Strip:
        try:
            pair = read_pair(files.read_bounded(f"{folders[split]}/{key}"))
        except pairs.BadPair as error:
            raise JobError(f"{split}/{key} changed while the job ran: {error}.") from error
        return strips.make_strip(split, key, pair, convert.palette)

    samples, worst = strips.choose(summaries)
    return report_page.as_page(
        findings,
        samples=[draw(split, key) for split, key in samples],
        worst=[draw(recovery.split, recovery.key) for recovery in worst],
    )


def _provenance(options: JobOptions) -> dict[str, object]:
    return {
        "input_dir": options.input_dir,
        "image_side": options.image_side,
        "palette": options.palette,
        "num_shards": options.num_shards,
        "leakage": options.leakage,
        "label_recovery": options.label_recovery,
        "ambiguous": options.ambiguous,
        "versions": _VERSIONS,
    }


def _write_description(
    folder: str, findings: Findings, summaries: Sequence[ShardSummary], page: str
) -> None:
    """Writes all that stands beside the shards; the file that makes it a data set comes last."""
    described = {
        **dataset_info.tfds_metadata(findings.info),
        dataset_info.BAD_PAIRS_FILE: dataset_info.encode_entries(findings.bad),
        dataset_info.DUPLICATES_FILE: dataset_info.encode_entries(findings.duplicates),
        dataset_info.OFFSETS_FILE: dataset_info.encode_offsets(summaries),
        dataset_info.REPORT_FILE: page.encode(),
        dataset_info.INFO_FILE: findings.info.to_json().encode(),
    }
    for name, data in described.items():
        files.write_whole(FileSystems.join(folder, name), data)


def _closing_words(findings: Findings, output_dir: str, seconds: float) -> str:
    total = sum(split.num_records for split in findings.info.splits.values())
    return "\n".join(
        [
            report.as_text(findings),
            f"{total:,} records in {seconds:.1f} s ({total / seconds:,.0f} a second).",
            f"With pictures: {output_dir.rstrip('/')}/{dataset_info.REPORT_FILE}",
            f"Records: {output_dir}",
        ]
    )
