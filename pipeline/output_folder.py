"""Output folders that appear whole or not at all, on any file system that Beam knows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from apache_beam.io.filesystems import FileSystems

from pipeline.dataset_info import INFO_FILE
from pipeline.errors import UserError


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
      The staging folder, ``output_dir`` + ``.incomplete``.

    Raises:
      OutputFolderError: Where `output_dir` holds something that must be kept.
    """
    output_dir = output_dir.rstrip("/")
    _check_replaceable(output_dir, overwrite)
    staging, replaced = f"{output_dir}.incomplete", f"{output_dir}.replaced"
    for leftover in (staging, replaced):
        if FileSystems.exists(leftover):
            FileSystems.delete([leftover])
    FileSystems.mkdirs(staging)
    try:
        yield staging
        _publish(staging, output_dir, replaced)
    except BaseException:
        if FileSystems.exists(staging):
            FileSystems.delete([staging])
        raise


def _check_replaceable(output_dir: str, overwrite: bool) -> None:
    (match,) = FileSystems.match([FileSystems.join(output_dir, "*")])
    if not match.metadata_list:
        return
    if not overwrite:
        raise OutputFolderError(
            f"--output_dir {output_dir!r} is not empty: name another folder, or replace the "
            "records in it with --overwrite."
        )
    if not FileSystems.exists(FileSystems.join(output_dir, INFO_FILE)):
        raise OutputFolderError(
            f"--output_dir {output_dir!r} holds something else than records (no {INFO_FILE}); "
            "--overwrite will not delete it. Name another folder."
        )


def _publish(staging: str, output_dir: str, replaced: str) -> None:
    if FileSystems.get_scheme(output_dir) is None:
        if FileSystems.exists(output_dir):
            FileSystems.rename([output_dir], [replaced])
        FileSystems.rename([staging], [output_dir])
        if FileSystems.exists(replaced):
            FileSystems.delete([replaced])
        return
    old = FileSystems.match([FileSystems.join(output_dir, "*")])[0].metadata_list
    # The sign goes first, so that no reader takes a mixture of old and new for whole.
    for found in sorted(old, key=lambda found: not found.path.endswith(INFO_FILE)):
        FileSystems.delete([found.path])
    new = FileSystems.match([FileSystems.join(staging, "*")])[0].metadata_list
    for found in sorted(new, key=lambda found: found.path.endswith(INFO_FILE)):
        name = FileSystems.split(found.path)[1]
        FileSystems.rename([found.path], [FileSystems.join(output_dir, name)])
