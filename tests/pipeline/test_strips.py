"""The report's pictures of single pairs show what they say."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline import strips
from pipeline.dataset_info import Recovery
from pipeline.labels import RecoveredLabels
from pipeline.pair_reader import Pair
from pipeline.palette import CITYSCAPES, IGNORE_LABEL

ROAD, SKY = (CITYSCAPES.class_names.index(name) for name in ("road", "sky"))


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def make(mask: np.ndarray, train_ids: np.ndarray, unsure: np.ndarray | None = None):
    labels = RecoveredLabels(
        train_ids.astype(np.uint8),
        np.zeros(train_ids.shape, bool) if unsure is None else unsure,
        0.25,
    )
    photo = np.full_like(mask, 200)
    return strips.make_strip("train", "1.jpg", Pair(photo, mask, labels, "PNG"), CITYSCAPES)


def test_a_strip_says_what_is_in_the_pair():
    labels = np.full((40, 80), ROAD)
    labels[:10] = SKY
    labels[10:20] = IGNORE_LABEL
    unsure = np.zeros(labels.shape, bool)
    unsure[:, :8] = True
    strip = make(CITYSCAPES.colorize(labels), labels, unsure)
    assert (strip.split, strip.key, strip.coding, strip.size) == ("train", "1.jpg", "PNG", "80x40")
    assert (strip.unsure, strip.unknown) == (0.1, 0.25)
    assert strip.class_shares[ROAD] == 0.5
    assert strip.class_shares[SKY] == 0.25
    assert sum(strip.class_shares) == 0.75
    np.testing.assert_array_equal(decoded(strip.recovered), CITYSCAPES.colorize(labels))
    assert np.abs(decoded(strip.photo).astype(int) - 200).max() <= 2
    assert np.abs(decoded(strip.mask).astype(int) - CITYSCAPES.colorize(labels)).mean() < 5


def test_doubt_is_drawn_where_it_is():
    labels = np.full((64, 96), ROAD)
    labels[:, 64:] = IGNORE_LABEL
    mask = CITYSCAPES.colorize(labels)
    mask[:32, 64:] = (111, 74, 0)  # another colour of void is a good one, too
    mask[:32, :32] = (0, 255, 0)  # far from that of a road
    unsure = np.zeros(labels.shape, bool)
    unsure[32:, 32:64] = True
    doubt = decoded(make(mask, labels, unsure).doubt).astype(int)
    for rows, columns, color in (
        (slice(4, 28), slice(4, 28), strips.FAR_COLOR),
        (slice(36, 60), slice(36, 60), strips.UNSURE_COLOR),
    ):
        assert np.abs(doubt[rows, columns] - color).max() < 12
    for rows, columns in ((slice(36, 60), slice(4, 28)), (slice(4, 60), slice(68, 92))):
        assert np.abs(doubt[rows, columns] - 230).max() < 4  # pale grey


@pytest.mark.parametrize(
    ("height", "width", "shown"),
    [(256, 512, (256, 512)), (1024, 2048, (256, 512)), (1000, 10, (256, 3)), (9, 4000, (1, 512))],
)
def test_large_photos_are_shown_small(height, width, shown):
    labels = np.full((height, width), ROAD)
    strip = make(CITYSCAPES.colorize(labels), labels)
    assert strip.size == f"{width}x{height}"
    for data in (strip.photo, strip.mask, strip.recovered, strip.doubt):
        assert decoded(data).shape == (*shown, 3)


def test_each_split_has_its_share_of_the_samples(empty_summary):
    def shard(split, index, worst=()):
        names = [f"{split}{index}_{n}" for n in range(4)]
        return empty_summary(split, index, samples=names, worst=list(worst))

    recoveries = [Recovery("val", f"{n}", n / 20, 0) for n in range(1, 12)]
    shards = [
        shard("val", 1, recoveries[:5]),
        shard("train", 1, [Recovery("train", "x", 0.99, 0)]),
        shard("val", 0, recoveries[5:]),
        shard("train", 0),
    ]
    samples, worst = strips.choose(shards)
    assert samples == [
        *(("train", f"train0_{n}") for n in range(3)),
        *(("val", f"val0_{n}") for n in range(3)),
    ]
    assert [r.key for r in worst] == ["x", "11", "10", "9", "8", "7", "6", "5"]


def test_many_splits_do_not_make_many_pictures(empty_summary):
    shards = [empty_summary(f"part{n}", 0, samples=["a", "b"]) for n in range(30)]
    assert len(strips.choose(shards)[0]) == 6
    assert strips.choose([empty_summary("train", 0)]) == ([], [])
