"""Records of drawn street scenes, for benchmarks that were given none."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping

from pipeline import synthesize


def write_records(folder: str, counts: Mapping[str, int], size: int) -> str:
    """Draws pairs and converts them, below a folder.

    Args:
      folder: Where; it must exist.
      counts: Pairs of each split.
      size: Height and width of a photo, in pixels.

    Returns:
      The records folder.
    """
    from pipeline import job

    pairs, records = f"{folder}/pairs", f"{folder}/records"
    synthesize.write_data_set(pairs, counts, size, seed=0)
    with contextlib.redirect_stdout(io.StringIO()):
        job.run(job.JobOptions(pairs, records))
    return records
