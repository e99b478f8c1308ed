"""Beam transform: which pairs' files have the same bytes."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator

import apache_beam as beam

from pipeline import files
from pipeline.dataset_info import TRAIN_SPLIT
from pipeline.pairs import FoundPair


class MarkDuplicates(beam.PTransform):
    """`FoundPair` elements -> the same, where a copy names the pair that it repeats.

    Only files of one size can be equal, and only those are read. What is grouped are names, and
    once: to group them anew by content, so that many files of one size spread over the workers,
    takes longer than to read them.
    """

    def expand(self, found: beam.PCollection[FoundPair]) -> beam.PCollection[FoundPair]:
        return (
            found
            | "BySize" >> beam.Map(lambda pair: (pair.num_bytes, pair))
            | "SameSize" >> beam.GroupByKey()
            | beam.FlatMap(lambda group: mark_same_size(group[1]))
        )


def mark_same_size(pairs: Iterable[FoundPair]) -> Iterator[FoundPair]:
    """Marks the copies among pairs whose files are of one size."""
    pairs = list(pairs)
    if len(pairs) == 1:
        return iter(pairs)
    by_content: dict[str, list[FoundPair]] = {}
    for pair in pairs:
        by_content.setdefault(files.sha256(pair.path), []).append(pair)
    return itertools.chain.from_iterable(map(mark_copies, by_content.values()))


def mark_copies(pairs: Iterable[FoundPair]) -> Iterator[FoundPair]:
    """Marks all but the first of pairs whose files are equal.

    The first is one outside of training, if there is one: a training pair that repeats it can
    then be told from a training pair that repeats another.
    """
    first, *copies = sorted(
        pairs, key=lambda pair: (pair.split == TRAIN_SPLIT, pair.split, pair.key)
    )
    yield first
    for pair in copies:
        yield dataclasses.replace(pair, duplicate_of=f"{first.split}/{first.key}")
