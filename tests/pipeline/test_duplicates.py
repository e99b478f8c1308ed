"""Pairs with the same bytes are found, whatever their names and sizes, and only those."""

import random
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to

from pipeline.duplicates import MarkDuplicates, mark_copies
from pipeline.pairs import FoundPair


def write(folder: Path, contents: dict[str, bytes]) -> list[FoundPair]:
    """Writes files by their ``SPLIT/KEY``."""
    pairs = []
    for name, content in contents.items():
        split, key = name.split("/")
        path = folder / split / key
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        pairs.append(FoundPair(split, key, str(path), len(content)))
    return pairs


def assert_marked(pairs: list[FoundPair], expected: dict[str, str]) -> None:
    with beam.Pipeline(FnApiRunner()) as pipeline:
        marked = (
            pipeline
            | beam.Create(pairs)
            | MarkDuplicates()
            | beam.Map(lambda pair: (f"{pair.split}/{pair.key}", pair.duplicate_of))
        )
        names = [f"{pair.split}/{pair.key}" for pair in pairs]
        assert_that(marked, equal_to([(name, expected.get(name, "")) for name in names]))


def test_duplicates_of_all_kinds(tmp_path):
    big = random.Random(0).randbytes(3_000_000)
    contents = {
        "train/alone": b"of its own size",
        "train/a": b"same size 1",
        "train/b": b"same size 2",
        "train/within": b"within",
        "train/within_2": b"within",
        "train/within_3": b"within",
        "train/leak": b"leaking",
        "train/leak_2": b"leaking",
        "val/kept": b"leaking",
        "test/x": b"elsewhere",
        "val/x": b"elsewhere",
        "train/z": b"elsewhere",
        "train/big": big,
        "val/big": big[:-1] + bytes([big[-1] ^ 1]),  # a last byte decides, too
        "val/big_2": big,
    }
    expected = {
        "train/within_2": "train/within",
        "train/within_3": "train/within",
        "train/leak": "val/kept",
        "train/leak_2": "val/kept",
        "val/x": "test/x",
        "train/z": "test/x",
        "train/big": "val/big_2",
    }
    assert_marked(write(tmp_path, contents), expected)


def test_files_of_a_size_of_their_own_are_not_read():
    pairs = [FoundPair("train", f"{n}.jpg", f"/nowhere/{n}.jpg", n) for n in range(5)]
    assert_marked(pairs, {})


@pytest.mark.parametrize("seed", range(5))
def test_which_is_the_first_does_not_depend_on_the_order(seed):
    pairs = [
        FoundPair(split, key, f"{split}/{key}", 7)
        for split in ("a", "train", "val")
        for key in ("10.jpg", "2.jpg", "9.jpg")
    ]
    shuffled = random.Random(seed).sample(pairs, len(pairs))
    marked = list(mark_copies(shuffled))
    assert {(pair.split, pair.key) for pair in marked} == {(p.split, p.key) for p in pairs}
    assert [(p.split, p.key) for p in marked if not p.duplicate_of] == [("a", "10.jpg")]
    assert {pair.duplicate_of for pair in marked} == {"", "a/10.jpg"}
