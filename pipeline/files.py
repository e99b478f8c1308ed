"""Files on any file system that Beam knows: listed, read, written whole, deleted.

Beam takes every path it lists or deletes as a pattern; here only patterns are, so that a folder
may be called ``data[1]``.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import shutil
import uuid

from apache_beam.io.filesystem import CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems

from pipeline.pairs import MAX_FILE_BYTES

RAW = {"mime_type": "application/octet-stream", "compression_type": CompressionTypes.UNCOMPRESSED}
"""Arguments of ``FileSystems.open`` and ``create`` that leave the bytes as they are."""

_USUAL_BYTES = 2**20

TEMPORARY_SUFFIX = ".tmp"
"""Of files that are being written; they get their own names when they are whole."""


def is_local(path: str) -> bool:
    return FileSystems.get_scheme(path) is None


def absolute(path: str) -> str:
    """A folder, file or pattern under the one name that all workers and later jobs know it by."""
    return os.path.abspath(path) if is_local(path) else path.rstrip("/")


def pattern_below(folder: str, pattern: str) -> str:
    """What Beam matches for a pattern below a folder; ``**`` goes through sub-folders."""
    return FileSystems.join(glob.escape(folder), pattern)


def make_folder(folder: str) -> None:
    """Makes a folder and those above it, where they are not there yet.

    Raises:
      OSError: Where it cannot be made.
    """
    if is_local(folder):
        os.makedirs(folder, exist_ok=True)  # Beam's would lose the number that says why it failed
    elif not FileSystems.exists(folder):
        FileSystems.mkdirs(folder)


def match_files(folder: str, pattern: str) -> list[FileMetadata]:
    """The files that match below a folder: path with forward slashes, size, time of last change.

    Raises:
      BeamIOError: Where the file system does not answer.
    """
    (match,) = FileSystems.match([pattern_below(folder, pattern)])
    return [
        FileMetadata(f.path.replace("\\", "/"), f.size_in_bytes, f.last_updated_in_seconds)
        for f in match.metadata_list
    ]


def linked_folders(folder: str) -> list[str]:
    """Links to folders below a local one, which Beam does not follow; elsewhere there are none."""
    if not is_local(folder):
        return []
    return sorted(
        path
        for parent, names, _ in os.walk(folder)
        for path in (os.path.join(parent, name) for name in names)
        if os.path.islink(path)
    )


def list_files(folder: str, pattern: str) -> list[str]:
    """Paths of the files that match below a folder, with forward slashes.

    Raises:
      BeamIOError: Where the file system does not answer.
    """
    return [found.path for found in match_files(folder, pattern)]


def read_bounded(path: str, limit: int = MAX_FILE_BYTES + 1) -> bytes:
    """A file's first bytes: as many as it has, but `limit` at most.

    By default that is one more than a photo may have, which shows that it is too large.
    """
    with FileSystems.open(path, **RAW) as file:
        # Python makes room for all that is asked for.
        data = file.read(min(limit, _USUAL_BYTES))
        return data if len(data) < _USUAL_BYTES else data + file.read(limit - _USUAL_BYTES)


def sha256(path: str) -> str:
    """The checksum of a file's bytes, hexadecimal."""
    digest = hashlib.sha256()
    with FileSystems.open(path, **RAW) as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def has_checksum(path: str, expected: str) -> bool:
    """Whether a file is there, and its bytes have a `sha256`."""
    return FileSystems.exists(path) and sha256(path) == expected


def check_written(path: str, expected: str) -> None:
    """Holds a file that was just written against the `sha256` of what was.

    Raises:
      OSError: Where they differ.
    """
    if not has_checksum(path, expected):
        raise OSError(errno.EIO, "What can be read is not what was written", path)


def temporary_name(path: str) -> str:
    """A name that nobody else writes to, in the same folder; one that no disk finds too long."""
    return f"{path[: path.rfind('/') + 1]}{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"


def write_whole(path: str, data: bytes) -> None:
    """Writes a file so that a reader sees all of it or nothing."""
    temporary = temporary_name(path)
    with FileSystems.create(temporary, **RAW) as file:
        file.write(data)
    rename(temporary, path)


def rename(source: str, destination: str) -> None:
    """Renames a file; one that already has the new name is replaced."""
    if not is_local(destination) and FileSystems.exists(destination):
        delete_files([destination])  # some stores would refuse
    FileSystems.rename([source], [destination])


def delete_files(paths: list[str]) -> None:
    FileSystems.delete([glob.escape(path) for path in paths])


def delete_folder(folder: str) -> None:
    """Deletes a folder with all that is in it, if it exists."""
    if is_local(folder):
        shutil.rmtree(folder, ignore_errors=True)
    elif found := list_files(folder, "**"):
        delete_files(found)
