"""Output folders that appear whole or not at all, on any file system that Beam knows.

While a job works, all that it writes is in a folder beside its output:

    OUTPUT.incomplete/lock                  held while a job lives; on local disks only
    OUTPUT.incomplete/FINGERPRINT/records/  what becomes OUTPUT
    OUTPUT.incomplete/FINGERPRINT/work/     what only the job needs, such as half-written files

The fingerprint names all that the output depends on. So a job finds again what the same job left
when it ended early, and never takes another's for its own, nor do workers that outlive their job
write into another's.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems

from pipeline import files
from pipeline.dataset_info import INFO_FILE, is_records_file
from pipeline.errors import UserError


class OutputFolderError(UserError):
    """An output folder that must not be written to."""


@dataclasses.dataclass(frozen=True)
class Staging:
    """Where a job writes until its output is whole.

    Attributes:
      records: The folder that becomes the output.
      work: The folder of what only the job needs.
    """

    records: str
    work: str


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a job's output consists of.

    Attributes:
      name: What it is called, in the plural.
      sign: The file that is written last: without it, the folder is not whole.
      is_part: Whether a file of this path below the folder is a part of it.
    """

    name: str
    sign: str
    is_part: Callable[[str], bool]


RECORDS = Contents("records", INFO_FILE, is_records_file)


@contextmanager
def replacing(
    output_dir: str, overwrite: bool, fingerprint: str, contents: Contents = RECORDS
) -> Iterator[Staging]:
    """Gives folders to write to, one of which becomes `output_dir` when the block ends well.

    When it does not, they stay, and the next job of the same fingerprint is given them again; a
    job of another one deletes them. On a local disk the folder is renamed. An object store has no
    such step, and no locks: there the files are copied one by one, and last the one that readers
    take for the sign of a whole folder; and two jobs at once are not noticed. Of the same
    fingerprint they write the same bytes; of two, the later one deletes what the earlier one
    writes, which then fails.

    Args:
      output_dir: The folder to make.
      overwrite: Whether an output of this kind that stands there may be replaced.
      fingerprint: Of all that the output depends on, 16 hexadecimal digits.
      contents: What the output consists of; all else is the user's.

    Yields:
      The folders, with what an earlier job of this fingerprint has finished.

    Raises:
      OutputFolderError: Where `output_dir` holds something that must be kept, or another job is
        writing to it.
    """
    if files.is_local(output_dir):
        output_dir = os.path.realpath(output_dir)  # rename would replace a link, not its target
        _check_is_folder(output_dir)
    output_dir = output_dir.rstrip("/")
    replaced = f"{output_dir}.replaced"
    incomplete = f"{output_dir}.incomplete"
    with _locked(incomplete):
        _recover(output_dir, replaced, contents)
        _check_replaceable(output_dir, overwrite, _stagings(incomplete), contents)
        for other in _stagings(incomplete):
            if other != fingerprint:
                files.delete_folder(f"{incomplete}/{other}")
        folder = f"{incomplete}/{fingerprint}"
        staging = Staging(f"{folder}/records", f"{folder}/work")
        files.make_folder(staging.records)
        files.make_folder(staging.work)
        with suppress(BeamIOError):  # a worker that outlives its job may be quicker
            files.delete_files(files.list_files(staging.work, f"*{files.TEMPORARY_SUFFIX}"))
        yield staging
        # Hours may have passed, and others know nothing of the lock.
        _check_replaceable(output_dir, overwrite, _stagings(incomplete), contents)
        _publish(staging.records, output_dir, replaced, contents)
        files.delete_folder(folder)


def _check_is_folder(output_dir: str) -> None:
    if os.path.exists(output_dir) and not os.path.isdir(output_dir):
        raise OutputFolderError(f"--output_dir {output_dir!r} is a file; name a folder.")
    if os.path.ismount(output_dir):
        raise OutputFolderError(
            f"--output_dir {output_dir!r} is where a file system is mounted and cannot be "
            "replaced in one step; name a folder in it."
        )


@contextmanager
def _locked(incomplete: str) -> Iterator[None]:
    """Holds a local folder; the operating system lets go of it when this process ends.

    The folder is made before and, where nothing of use is left in it, deleted after.
    """
    if not files.is_local(incomplete):
        yield
        return
    os.makedirs(incomplete, exist_ok=True)
    lock = f"{incomplete}/lock"
    # A file and open for writing: NFS locks nothing else.
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT)
    try:
        _take(descriptor, incomplete)
        try:
            yield
        finally:
            for staging in _stagings(incomplete):
                if not _entries(f"{incomplete}/{staging}/records"):
                    files.delete_folder(f"{incomplete}/{staging}")
            os.unlink(lock)
            with suppress(OSError):  # it holds finished shards, or something of the user's
                os.rmdir(incomplete)
    finally:
        os.close(descriptor)


def _take(descriptor: int, incomplete: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.fstat(descriptor).st_nlink:
            raise BlockingIOError("its holder has deleted it since it was opened")
    except BlockingIOError as error:
        raise OutputFolderError(
            f"Another job is writing to this --output_dir (its files are in {incomplete!r}). Wait "
            "for it, or name another folder."
        ) from error


def _stagings(incomplete: str) -> list[str]:
    """The fingerprints of the jobs that have left something."""
    names = {entry.split("/")[0] for entry in _entries(incomplete)}
    return sorted(name for name in names if re.fullmatch("[0-9a-f]{16}", name))


def _recover(output_dir: str, replaced: str, contents: Contents) -> None:
    """Undoes what a job that was killed while it published has left half done."""
    if not files.is_local(output_dir) or not os.path.isdir(replaced):
        return
    if os.path.exists(output_dir):
        _check_nothing_else(replaced, "a leftover of an earlier job", contents)
        files.delete_folder(replaced)
    else:
        os.rename(replaced, output_dir)


def _check_replaceable(
    output_dir: str, overwrite: bool, stagings: list[str], contents: Contents
) -> None:
    entries = _entries(output_dir)
    if not entries or _is_half_published(output_dir, entries, stagings, contents):
        return
    if not overwrite:
        raise OutputFolderError(
            f"--output_dir {output_dir!r} is not empty: name another folder, or replace the "
            f"{contents.name} in it with --overwrite."
        )
    if contents.sign not in entries:
        raise OutputFolderError(
            f"--output_dir {output_dir!r} holds something else than {contents.name} (no "
            f"{contents.sign}); --overwrite will not delete it. Name another folder."
        )
    _check_nothing_else(output_dir, "--output_dir", contents)


def _is_half_published(
    output_dir: str, entries: list[str], stagings: list[str], contents: Contents
) -> bool:
    """Whether a job was killed while it published to an object store, which takes a while."""
    return (
        not files.is_local(output_dir)
        and bool(stagings)
        and contents.sign not in entries
        and all(map(contents.is_part, entries))
    )


def _check_nothing_else(folder: str, what: str, contents: Contents) -> None:
    others = sorted(name for name in _entries(folder) if not contents.is_part(name))
    if others:
        raise OutputFolderError(
            f"{what} {folder!r} holds {others[0]!r} beside the {contents.name}; it would be "
            "deleted with them. Move it elsewhere."
        )


def _entries(folder: str) -> list[str]:
    """Paths below a folder: of its files, and of folders on a local disk that hold nothing."""
    if not files.is_local(folder):
        return [path[len(folder) + 1 :] for path in files.list_files(folder, "**")]
    found = []
    for parent, folders, names in os.walk(folder):
        if parent != folder and not folders and not names:
            found.append(parent)
        # `walk` counts links to folders among the folders, and does not go into them.
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        found += [os.path.join(parent, name) for name in (*names, *links)]
    return [os.path.relpath(path, folder) for path in found]


def _publish(records: str, output_dir: str, replaced: str, contents: Contents) -> None:
    """Makes the records folder the output, without what a killed job half wrote in it."""
    files.delete_files([f"{records}/{n}" for n in _entries(records) if not contents.is_part(n)])
    if files.is_local(output_dir):
        if os.path.exists(output_dir):
            os.rename(output_dir, replaced)
        try:
            os.rename(records, output_dir)
        except BaseException:
            _recover(output_dir, replaced, contents)
            raise
        files.delete_folder(replaced)
        return
    # The sign goes first, so that no reader takes a mixture of old and new for whole.
    for name in sorted(_entries(output_dir), key=lambda name: name != contents.sign):
        files.delete_files([f"{output_dir}/{name}"])
    # Copied, not moved: killed on the way, the next job finds all of them and copies again.
    for name in sorted(_entries(records), key=lambda name: name == contents.sign):
        FileSystems.copy([f"{records}/{name}"], [f"{output_dir}/{name}"])
