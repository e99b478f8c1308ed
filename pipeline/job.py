"""The preprocessing job as one call: checks, Beam pipeline, publication, report."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import itertools
import json
import logging
import math
import os
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import apache_beam as beam
import cv2
import numpy as np
import PIL
from apache_beam.io.filesystem import BeamIOError, FileMetadata
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from google import protobuf
from tqdm import tqdm

from pipeline import (
    cluster_runner,
    dataset_info,
    duplicates,
    files,
    local_runner,
    output_folder,
    pairs,
    report,
    report_page,
    strips,
    transforms,
)
from pipeline.dataset_info import TRAIN_SPLIT, DatasetInfo, ShardSummary
from pipeline.errors import UserError
from pipeline.output_folder import Staging
from pipeline.pair_reader import PairReader
from pipeline.palette import CITYSCAPES, Palette, parse_palette
from pipeline.report import Findings
from pipeline.strips import Strip

PAIRS_PER_SHARD = 256
"""About half a second of one core's work and 10 MB: fine enough to spread, large enough to read."""

_VERSIONS = {module.__name__: module.__version__ for module in (beam, cv2, np, PIL, protobuf)}
"""Of the packages that decide over a record's bytes."""

_WATCH_SECONDS = 1.0
_LINE_SECONDS = 30.0
"""Between lines of progress where there is no terminal to show a bar on."""


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
    beam_options = _beam_options(options.num_workers, beam_arguments)
    palette = load_palette(options.palette)
    folders, images = _find_splits(options.input_dir)
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
    fingerprint = _fingerprint(convert, itertools.chain(*images.values()))
    try:
        with (
            output_folder.replacing(options.output_dir, options.overwrite, fingerprint) as staging,
            _telling_what_is_finished(staging, sum(convert.num_shards.values())),
        ):
            with (
                _progress(staging, sum(num_pairs.values())),
                _pipeline(options.num_workers, beam_options) as pipeline,
            ):
                _ = (
                    pipeline
                    | "FindPairs" >> transforms.FindPairs(folders)
                    | "MarkDuplicates" >> duplicates.MarkDuplicates()
                    | "WriteShards" >> transforms.WriteShards(staging, convert)
                )
            summaries = _read_summaries(staging, set())
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


def _beam_options(num_workers: int, arguments: Sequence[str]) -> PipelineOptions:
    """Beam's options; on this machine a flag that Beam does not know is an error.

    Raises:
      UserError: Where Beam cannot use a flag.
    """
    local = not any(argument.split("=")[0] == "--runner" for argument in arguments)
    workers = f"--{'direct_num_workers' if local else 'num_workers'}={num_workers}"
    said = io.StringIO()
    try:
        with redirect_stderr(said):  # Beam's parser prints its usage, a page long
            unknown = _unknown_arguments(arguments)
            options = PipelineOptions([*arguments, workers])
    except SystemExit as error:
        raise UserError(f"{said.getvalue().strip().rpartition('error: ')[2]}.") from error
    for argument in unknown if local else ():
        if not argument.startswith("-"):
            raise UserError(f"Unexpected argument {argument!r}; flags are written --name=value.")
        raise UserError(f"There is no flag {argument.split('=')[0]}. (--help lists the flags.)")
    return options


def _unknown_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments that Beam's own flags leave over."""
    parsers: list[argparse.ArgumentParser] = []
    logging.disable(logging.WARNING)  # Beam would only say that it goes on without them
    try:
        PipelineOptions().get_all_options(add_extra_args_fn=parsers.append)
        return parsers[0].parse_known_args(list(arguments))[1]
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def _pipeline(num_workers: int, options: PipelineOptions) -> Iterator[beam.Pipeline]:
    """Gives an empty pipeline, to be filled in the block; runs it on this machine or elsewhere."""
    if options.view_as(StandardOptions).runner:
        with cluster_runner.running(options) as pipeline:
            yield pipeline
        return
    with local_runner.running(num_workers) as runner:
        pipeline = beam.Pipeline(runner, options)
        yield pipeline
        pipeline.run().wait_until_finish()


def _find_splits(input_dir: str) -> tuple[dict[str, str], dict[str, list[FileMetadata]]]:
    """The folder of each split, and the images in it."""
    try:
        found = files.match_files(input_dir.rstrip("/"), "**")
    except BeamIOError as error:
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
            images[folder].append(file)
    return folders, {split: images[folder] for split, folder in folders.items()}


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


def _fingerprint(convert: transforms.ConvertOptions, images: Iterable[FileMetadata]) -> str:
    """Names all that the shards' bytes depend on: 16 hexadecimal digits.

    An image that was changed shows by its size and time; our own code is taken as it stands, so
    that nobody has to remember to count its versions.
    """
    digest = hashlib.blake2b(digest_size=8)
    facts = {"options": dataclasses.asdict(convert), "versions": _VERSIONS}
    digest.update(json.dumps(facts, sort_keys=True).encode())
    for image in sorted(images, key=lambda image: image.path):
        fact = (image.path, image.size_in_bytes, image.last_updated_in_seconds)
        digest.update(repr(fact).encode())
    for source in sorted(Path(__file__).parent.rglob("*")):
        if source.is_file() and source.suffix != ".pyc":
            digest.update(source.read_bytes())
    return digest.hexdigest()


def _read_summaries(staging: Staging, seen: set[str]) -> list[ShardSummary]:
    """The summaries in a staging folder that are not yet in `seen`, which they are added to."""
    summaries = []
    for path in files.list_files(staging.work, "*" + transforms.SUMMARY_SUFFIX):
        if path not in seen and (summary := transforms.read_summary(path)):
            seen.add(path)
            summaries.append(summary)
    return summaries


@contextmanager
def _telling_what_is_finished(staging: Staging, num_shards: int) -> Iterator[None]:
    """Says at the start what an earlier run has left, and after a fault what this one leaves."""
    if count := len(_read_summaries(staging, set())):
        print(
            f"Going on with an earlier run: {count} of {num_shards} shards are there.",
            file=sys.stderr,
        )
    try:
        yield
    except BaseException:
        if count := len(_read_summaries(staging, set())):
            print(
                f"{count} of {num_shards} shards are finished and stay in {staging.records!r}; the "
                "same command goes on with them.",
                file=sys.stderr,
            )
        raise


@contextmanager
def _progress(staging: Staging, total: int) -> Iterator[None]:
    """Shows how many pairs are done, shard by shard, while the pipeline runs anywhere."""
    stop = threading.Event()
    seen: set[str] = set()
    done = sum(summary.num_pairs for summary in _read_summaries(staging, seen))
    hidden = not sys.stderr.isatty()
    with tqdm(total=total, initial=done, unit="pair", desc="preprocess", disable=hidden) as bar:

        def watch() -> None:
            nonlocal done
            last_line = time.monotonic()
            while not stop.wait(_WATCH_SECONDS):
                count = sum(summary.num_pairs for summary in _read_summaries(staging, seen))
                done += count
                bar.update(count)
                if bar.disable and time.monotonic() - last_line > _LINE_SECONDS:
                    print(f"{done:,} of {total:,} pairs", file=sys.stderr)
                    last_line = time.monotonic()
            bar.update(total - done)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


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
