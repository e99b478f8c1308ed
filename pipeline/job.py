"""The preprocessing job as one call: checks, Beam pipeline, publication, report."""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import logging
import math
import os
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr

import apache_beam as beam
import cv2
import numpy as np
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from tqdm import tqdm

from pipeline import dataset_info, files, local_runner, output_folder, pairs, transforms
from pipeline.dataset_info import DatasetInfo, ShardSummary
from pipeline.errors import UserError
from pipeline.palette import CITYSCAPES, Palette, parse_palette

PAIRS_PER_SHARD = 256
"""About half a second of one core's work and 10 MB: fine enough to spread, large enough to read."""

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
    num_shards: int | None = None
    num_workers: int = 1
    max_bad_fraction: float = 0.05
    overwrite: bool = False


class JobError(UserError):
    """A job that cannot start, or whose result must not be used."""


def run(options: JobOptions, beam_arguments: Sequence[str] = ()) -> DatasetInfo:
    """Runs the job; `options.output_dir` is then complete, or as it was before.

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
    folders, num_pairs = _find_splits(options.input_dir)
    convert = transforms.ConvertOptions(
        name=options.name,
        image_side=options.image_side,
        palette=palette,
        num_shards=_shards_per_split(num_pairs, options.num_shards),
    )
    try:
        with output_folder.replacing(options.output_dir, options.overwrite) as staging:
            with (
                _progress(staging, sum(num_pairs.values())),
                _pipeline(options.num_workers, beam_options) as pipeline,
            ):
                _ = (
                    pipeline
                    | "FindPairs" >> transforms.FindPairs(folders)
                    | "WriteShards" >> transforms.WriteShards(staging, convert)
                )
                pipeline.run().wait_until_finish()
            summaries = list(_read_summaries(staging, set()))
            _check_complete(summaries, num_pairs)
            _check_bad(summaries, sum(num_pairs.values()), options)
            info = dataset_info.build_info(options.name, summaries, palette, _provenance(options))
            _write_description(staging, info, summaries)
    except OSError as error:
        error.filename = error.filename or options.output_dir  # A full disk does not say where.
        raise
    print(_report(info, options.output_dir, time.monotonic() - started))
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
    """Gives an empty pipeline, to be filled and run in the block, on this machine or elsewhere."""
    if not options.view_as(StandardOptions).runner:
        with local_runner.running(num_workers) as runner:
            yield beam.Pipeline(runner, options)
        return
    try:
        pipeline = beam.Pipeline(options=options)
    except (ImportError, ValueError) as error:
        raise UserError(str(error)) from error
    yield pipeline


def _find_splits(input_dir: str) -> tuple[dict[str, str], dict[str, int]]:
    """The folder of each split, and how many pairs it holds."""
    try:
        paths = files.list_files(input_dir.rstrip("/"), "**")
    except BeamIOError as error:
        raise pairs.InputError(f"--input_dir {input_dir!r} cannot be read: {error}.") from error
    if not paths:
        raise pairs.InputError(f"--input_dir {input_dir!r} is missing or empty.")
    folders, left_out = pairs.find_splits(paths, input_dir)
    if left_out:
        logging.warning("%d images outside %s are left out.", left_out, ", ".join(folders.values()))
    images = Counter(path.rpartition("/")[0] for path in paths if pairs.is_image_name(path))
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


def _read_summaries(staging: str, seen: set[str]) -> Iterator[ShardSummary]:
    """The summaries in a folder that are not yet in `seen`, which they are added to."""
    for path in files.list_files(staging, "*" + transforms.SUMMARY_SUFFIX):
        if path not in seen:
            seen.add(path)
            yield ShardSummary.from_json(files.read_bounded(path).decode())


@contextmanager
def _progress(staging: str, total: int) -> Iterator[None]:
    """Shows how many pairs are done, shard by shard, while the pipeline runs anywhere."""
    stop = threading.Event()
    with tqdm(total=total, unit="pair", desc="preprocess", disable=not sys.stderr.isatty()) as bar:

        def watch() -> None:
            seen: set[str] = set()
            done, last_line = 0, time.monotonic()
            while not stop.wait(_WATCH_SECONDS):
                new = list(_read_summaries(staging, seen))
                count = sum(summary.num_records + len(summary.bad) for summary in new)
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


def _check_complete(summaries: Sequence[ShardSummary], num_pairs: dict[str, int]) -> None:
    """Holds what was written against what was found, split by split."""
    done: Counter[str] = Counter()
    for summary in summaries:
        done[summary.split] += summary.num_records + len(summary.bad)
    for split, expected in num_pairs.items():
        if done[split] != expected:
            raise JobError(
                f"Split {split!r}: {expected} pairs were found, but {done[split]} came out of the "
                "job. Nothing was published; did files change while it ran?"
            )


def _check_bad(summaries: Sequence[ShardSummary], total: int, options: JobOptions) -> None:
    bad = [entry for summary in summaries for entry in summary.bad]
    if len(bad) <= options.max_bad_fraction * total and len(bad) < total:
        return
    path = f"{options.output_dir.rstrip('/')}.{dataset_info.BAD_PAIRS_FILE}"
    files.write_whole(path, _bad_pairs_lines(summaries))
    raise JobError(
        f"{len(bad)} of {total} pairs are bad, more than --max_bad_fraction="
        f"{options.max_bad_fraction:g} allows; the first: {bad[0].split}/{bad[0].key}: "
        f"{bad[0].reason}. All of them: {path}. Nothing else was written."
    )


def _bad_pairs_lines(summaries: Sequence[ShardSummary]) -> bytes:
    entries = sorted(
        (entry for summary in summaries for entry in summary.bad),
        key=lambda entry: (entry.split, entry.key),
    )
    return "".join(json.dumps(dataclasses.asdict(entry)) + "\n" for entry in entries).encode()


def _provenance(options: JobOptions) -> dict[str, object]:
    return {
        "input_dir": options.input_dir,
        "image_side": options.image_side,
        "palette": options.palette,
        "num_shards": options.num_shards,
        "label_recovery": "nearest",
        "versions": {module.__name__: module.__version__ for module in (beam, cv2, np)},
    }


def _write_description(staging: str, info: DatasetInfo, summaries: Sequence[ShardSummary]) -> None:
    """Writes all that stands beside the shards; the file that makes it a data set comes last."""
    dataset_info.write_tfds_metadata(staging, info)
    for name, data in (
        (dataset_info.BAD_PAIRS_FILE, _bad_pairs_lines(summaries)),
        (dataset_info.OFFSETS_FILE, dataset_info.encode_offsets(summaries)),
        (dataset_info.INFO_FILE, info.to_json().encode()),
    ):
        files.write_whole(FileSystems.join(staging, name), data)
    files.delete_files(files.list_files(staging, "*" + transforms.SUMMARY_SUFFIX))


def _report(info: DatasetInfo, output_dir: str, seconds: float) -> str:
    """The closing table: pairs, then the share of each class in each split."""
    names = list(info.splits)
    splits = list(info.splits.values())
    rows: list[tuple[str, list[str]]] = [
        ("pairs read", [f"{s.num_records + s.num_bad_pairs:,}" for s in splits]),
        ("written", [f"{s.num_records:,}" for s in splits]),
        ("bad", [f"{s.num_bad_pairs:,}" for s in splits]),
        ("shards", [f"{len(s.shards):,}" for s in splits]),
        ("megabytes", [f"{sum(h.num_bytes for h in s.shards) / 1e6:,.1f}" for s in splits]),
        ("pixels of", ["" for _ in splits]),
    ]
    classes = [*info.palette.class_names, "(ignored)"]
    for index, name in enumerate(classes):
        shares = []
        for split in splits:
            pixels = [*split.class_pixels, split.ignored_pixels]
            shares.append(f"{pixels[index] / max(sum(pixels), 1):.3%}")
        rows.append((f"  {name}", shares))
    lines = [f"{'':<16}" + "".join(f"{name:>12}" for name in names)]
    lines += [f"{title:<16}" + "".join(f"{cell:>12}" for cell in cells) for title, cells in rows]
    total = sum(split.num_records for split in splits)
    lines.append(f"{total:,} records in {seconds:.1f} s ({total / seconds:,.0f} a second).")
    if any(split.num_bad_pairs for split in splits):
        lines.append(f"Bad pairs, each with its reason: {output_dir}/{dataset_info.BAD_PAIRS_FILE}")
    lines.append(f"Records: {output_dir}")
    return "\n".join(lines)
