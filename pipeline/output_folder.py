"""Output folders that appear whole or not at all, on any file system that Beam knows."""

from __future__ import annotations

import fcntl
import glob
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from apache_beam.io.filesystems import FileSystems

from pipeline import files
from pipeline.dataset_info import INFO_FILE, is_records_file
from pipeline.errors import UserError

_STAGING = ".incomplete-"


class OutputFolderError(UserError):
    """An output folder that must not be written to."""


@contextmanager
def replacing(output_dir: str, overwrite: bool) -> Iterator[str]:
    """Gives a staging folder whose content becomes `output_dir` when the block ends well.

    On a local disk the staging folder is renamed. An object store has no such step: there the
    files are moved one by one, and last the one that readers take for the sign of a whole folder.

    Args:
      output_dir: The folder to make.
      overwrite: Whether records that stand there may be replaced.

    Yields:
      The staging folder, beside `output_dir`. Its name is new each time: a worker that outlives
      its killed job cannot write into the next one's.

    Raises:
      OutputFolderError: Where `output_dir` holds something that must be kept, or another job is
        writing to it.
    """
    if files.is_local(output_dir):
        output_dir = os.path.realpath(output_dir)  # rename would replace a link, not its target
    output_dir = output_dir.rstrip("/")
    replaced = f"{output_dir}.replaced"
    _recover(output_dir, replaced)
    _check_replaceable(output_dir, overwrite)
    for leftover in _leftovers(output_dir):
        with _locked(leftover):
            files.delete_folder(leftover)
    staging = output_dir + _STAGING + uuid.uuid4().hex[:8]
    files.make_folder(staging)
    with _locked(staging):
        try:
            yield staging
            _publish(staging, output_dir, replaced)
        except BaseException:
            files.delete_folder(staging)
            raise


@contextmanager
def _locked(staging: str) -> Iterator[None]:
    """Holds a local staging folder; the operating system lets go of it when this process ends."""
    if not files.is_local(staging):
        yield
        return
    descriptor = os.open(staging, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise OutputFolderError(
            f"Another job is writing to this --output_dir (its files are in {staging!r}). Wait "
            "for it, or name another folder."
        ) from error
    finally:
        os.close(descriptor)


def _recover(output_dir: str, replaced: str) -> None:
    """Undoes what a job that was killed while it published has left half done."""
    if not files.is_local(output_dir) or not os.path.isdir(replaced):
        return
    if os.path.exists(output_dir):
        _check_only_records(replaced, "a leftover of an earlier job")
        files.delete_folder(replaced)
    else:
        os.rename(replaced, output_dir)


def _leftovers(output_dir: str) -> list[str]:
    """Staging folders of jobs that were killed."""
    if files.is_local(output_dir):
        return glob.glob(glob.escape(output_dir + _STAGING) + "[0-9a-f]" * 8)
    parent, name = FileSystems.split(output_dir)
    staging = re.compile(re.escape(FileSystems.join(parent, name) + _STAGING) + "[0-9a-f]{8}(?=/)")
    paths = files.list_files(parent, f"{glob.escape(name + _STAGING)}*/**")
    return sorted({match.group() for match in map(staging.match, paths) if match})


def _check_replaceable(output_dir: str, overwrite: bool) -> None:
    if files.is_local(output_dir):
        if os.path.exists(output_dir) and not os.path.isdir(output_dir):
            raise OutputFolderError(f"--output_dir {output_dir!r} is a file; name a folder.")
        if os.path.ismount(output_dir):
            raise OutputFolderError(
                f"--output_dir {output_dir!r} is where a file system is mounted and cannot be "
                "replaced in one step; name a folder in it."
            )
    entries = _entries(output_dir)
    if not entries:
        return
    if not overwrite:
        raise OutputFolderError(
            f"--output_dir {output_dir!r} is not empty: name another folder, or replace the "
            "records in it with --overwrite."
        )
    if INFO_FILE not in entries:
        raise OutputFolderError(
            f"--output_dir {output_dir!r} holds something else than records (no {INFO_FILE}); "
            "--overwrite will not delete it. Name another folder."
        )
    _check_only_records(output_dir, "--output_dir")


def _check_only_records(folder: str, what: str) -> None:
    others = sorted(name for name in _entries(folder) if not is_records_file(name))
    if others:
        raise OutputFolderError(
            f"{what} {folder!r} holds {others[0]!r} beside the records; it would be deleted with "
            "them. Move it elsewhere."
        )


def _entries(folder: str) -> list[str]:
    """Names of what is in a folder; where there are no folders, names with slashes."""
    if files.is_local(folder):
        return os.listdir(folder) if os.path.isdir(folder) else []
    return [path[len(folder) + 1 :] for path in files.list_files(folder, "**")]


def _publish(staging: str, output_dir: str, replaced: str) -> None:
    if files.is_local(output_dir):
        if os.path.exists(output_dir):
            os.rename(output_dir, replaced)
        try:
            os.rename(staging, output_dir)
        except BaseException:
            _recover(output_dir, replaced)
            raise
        files.delete_folder(replaced)
        return
    old = files.list_files(output_dir, "*")
    # The sign goes first, so that no reader takes a mixture of old and new for whole.
    for path in sorted(old, key=lambda path: not path.endswith(INFO_FILE)):
        files.delete_files([path])
    new = files.list_files(staging, "*")
    for path in sorted(new, key=lambda path: path.endswith(INFO_FILE)):
        FileSystems.rename([path], [FileSystems.join(output_dir, FileSystems.split(path)[1])])
