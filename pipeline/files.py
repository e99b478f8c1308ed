"""Files on any file system that Beam knows: listed, read, written whole, deleted.

Beam takes every path it lists or deletes as a pattern; here only patterns are, so that a folder
may be called ``data[1]``.
"""

from __future__ import annotations

import glob
import os
import shutil
import uuid

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from pipeline.pairs import MAX_FILE_BYTES

RAW = {"mime_type": "application/octet-stream", "compression_type": CompressionTypes.UNCOMPRESSED}
"""Arguments of ``FileSystems.open`` and ``create`` that leave the bytes as they are."""


def is_local(path: str) -> bool:
    return FileSystems.get_scheme(path) is None


def pattern_below(folder: str, pattern: str) -> str:
    """What Beam matches for a pattern below a folder; ``**`` goes through sub-folders."""
    return FileSystems.join(glob.escape(folder), pattern)


def make_folder(folder: str) -> None:
    """Makes a folder and those above it.

    Raises:
      OSError: Where it exists or cannot be made.
    """
    if is_local(folder):
        os.makedirs(folder)  # Beam's would lose the number that says why it failed
    else:
        FileSystems.mkdirs(folder)


def list_files(folder: str, pattern: str) -> list[str]:
    """Paths of the files that match below a folder, with forward slashes.

    Raises:
      BeamIOError: Where the file system does not answer.
    """
    (match,) = FileSystems.match([pattern_below(folder, pattern)])
    return [found.path.replace("\\", "/") for found in match.metadata_list]


def read_bounded(path: str) -> bytes:
    """A file's bytes; of one that is too large for a pair only as many as show that it is."""
    with FileSystems.open(path, **RAW) as file:
        return file.read(MAX_FILE_BYTES + 1)


def write_whole(path: str, data: bytes) -> None:
    """Writes a file so that a reader sees all of it or nothing."""
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    with FileSystems.create(temporary, **RAW) as file:
        file.write(data)
    FileSystems.rename([temporary], [path])


def delete_files(paths: list[str]) -> None:
    FileSystems.delete([glob.escape(path) for path in paths])


def delete_folder(folder: str) -> None:
    """Deletes a folder with all that is in it, if it exists."""
    if is_local(folder):
        shutil.rmtree(folder, ignore_errors=True)
    elif found := list_files(folder, "**"):
        delete_files(found)
