"""Names all that a job's output depends on, so that a job finds again what the same one left."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from apache_beam.io.filesystem import FileMetadata


def fingerprint(facts: Mapping[str, object], read: Iterable[FileMetadata]) -> str:
    """The name: 16 hexadecimal digits.

    An input that was changed shows by its size and time; our own code is taken as it stands, so
    that nobody has to remember to count its versions.

    Args:
      facts: Options and versions, as JSON takes them.
      read: The files that are the job's input, in any order.
    """
    digest = hashlib.blake2b(digest_size=8)
    digest.update(json.dumps(facts, sort_keys=True).encode())
    for file in sorted(read, key=lambda file: file.path):
        fact = (file.path, file.size_in_bytes, file.last_updated_in_seconds)
        digest.update(repr(fact).encode())
    for source in sorted(Path(__file__).parent.rglob("*")):
        if source.is_file() and source.suffix != ".pyc":
            digest.update(source.read_bytes())
    return digest.hexdigest()
