"""A records folder's description: read back as written, and every fault of a folder named."""

import contextlib
import dataclasses
import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import dataset_info
from pipeline.dataset_info import (
    BadPairEntry,
    DatasetError,
    DatasetInfo,
    ShardSummary,
    build_info,
    load_info,
    load_offsets,
)
from pipeline.palette import CITYSCAPES, IGNORE_LABEL

COUNTS = st.integers(0, 2**40)
TEXT = st.text(max_size=12)


@st.composite
def summaries(draw, split="train", index=0):
    label_pixels = [0] * 256
    for train_id in draw(st.sets(st.sampled_from([*range(19), IGNORE_LABEL]))):
        label_pixels[train_id] = draw(COUNTS)
    bad = st.builds(BadPairEntry, st.just(split), TEXT, TEXT, TEXT)
    return ShardSummary(
        split=split,
        index=index,
        file=dataset_info.shard_name("pairs", split, index, 3),
        sha256=draw(TEXT),
        record_bytes=draw(st.lists(st.integers(17, 2**33), max_size=5)),
        label_pixels=label_pixels,
        channel_sum=draw(st.lists(COUNTS, min_size=3, max_size=3)),
        channel_square_sum=[2**60] * 3,
        max_height=draw(st.integers(0, 5000)),
        max_width=draw(st.integers(0, 5000)),
        bad=draw(st.lists(bad, max_size=3)),
    )


PARTS = st.tuples(
    summaries("train", 0), summaries("train", 1), summaries("train", 2), summaries("val", 0)
)


@given(summaries())
def test_a_summary_comes_back_from_json(summary):
    assert ShardSummary.from_json(summary.to_json()) == summary


def small(info_parts) -> list[ShardSummary]:
    """Summaries whose sums are those of real pixels, so that the variance is not negative."""
    return [
        dataclasses.replace(part, channel_sum=[0, 0, 0], channel_square_sum=[0, 0, 0])
        for part in info_parts
    ]


@settings(deadline=None)
@given(PARTS, st.randoms())
def test_the_description_adds_up_whatever_the_order_and_comes_back_from_json(parts, random):
    parts = small(parts)
    info = build_info("pairs", parts, CITYSCAPES, {"input_dir": "in"})
    shuffled = random.sample(parts, len(parts))
    assert build_info("pairs", shuffled, CITYSCAPES, {"input_dir": "in"}) == info
    assert DatasetInfo.from_json(info.to_json()) == info

    train = info.splits["train"]
    assert [shard.file for shard in train.shards] == [part.file for part in parts[:3]]
    assert train.num_records == sum(len(part.record_bytes) for part in parts[:3])
    assert train.num_bad_pairs == sum(len(part.bad) for part in parts[:3])
    assert train.max_height == max(part.max_height for part in parts[:3])
    for train_id in range(19):
        expected = sum(part.label_pixels[train_id] for part in parts[:3])
        assert train.class_pixels[train_id] == expected
    assert train.ignored_pixels == sum(part.label_pixels[IGNORE_LABEL] for part in parts[:3])


def test_mean_and_deviation_are_those_of_the_training_pixels():
    rng = np.random.default_rng(0)
    photos = rng.integers(0, 256, (3, 1000, 3))
    parts = []
    for split, index, photo in [("train", 0, photos[0]), ("train", 1, photos[1]), ("val", 0, None)]:
        photo = photos[2] if photo is None else photo
        parts.append(
            ShardSummary(
                split, index, f"{split}{index}", "", [17], [1000, *[0] * 255],
                photo.sum(0).tolist(), (photo**2).sum(0).tolist(), 10, 100, [],
            )
        )  # fmt: skip
    info = build_info("pairs", parts, CITYSCAPES, {})
    train = photos[:2].reshape(-1, 3)
    np.testing.assert_allclose(info.mean, train.mean(0), atol=5e-5)
    np.testing.assert_allclose(info.std, train.std(0), atol=5e-5)


def test_offsets_are_where_records_begin(tmp_path):
    def part(split, index, sizes):
        return ShardSummary(split, index, "", "", sizes, [0] * 256, [0] * 3, [0] * 3, 0, 0, [])

    parts = [part("val", 0, [9]), part("train", 1, [5]), part("train", 0, [10, 20, 30])]
    (tmp_path / dataset_info.OFFSETS_FILE).write_bytes(dataset_info.encode_offsets(parts))
    assert load_offsets(str(tmp_path), "train").tolist() == [0, 10, 30, 0]
    assert load_offsets(str(tmp_path), "val").tolist() == [0]


@pytest.mark.parametrize(
    ("name", "is_part"),
    [
        (dataset_info.INFO_FILE, True),
        (dataset_info.shard_name("pairs", "train", 3, 12), True),
        ("features.json", True),
        ("model", False),
        ("notes.txt", False),
        ("pairs-train.tfrecord-00000-of-00002.bak", False),
    ],
)
def test_which_files_are_records(name, is_part):
    assert dataset_info.is_records_file(name) == is_part


class TestLoading:
    @pytest.fixture
    def folder(self, records_dir, tmp_path):
        return shutil.copytree(records_dir, tmp_path / "records")

    def assert_refused(self, folder, *words):
        with pytest.raises(DatasetError) as caught:
            load_info(str(folder))
        for word in words:
            assert word in str(caught.value)

    def edit(self, folder, **changes):
        path = folder / dataset_info.INFO_FILE
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    def test_a_whole_folder_loads(self, folder):
        info = load_info(str(folder))
        assert {name: split.num_records for name, split in info.splits.items()} == {
            "train": 24,
            "val": 7,
        }
        assert info.palette == CITYSCAPES

    def test_all_files_of_a_folder_are_known_as_its_parts(self, folder):
        assert all(dataset_info.is_records_file(path.name) for path in folder.iterdir())

    def test_a_missing_folder(self, tmp_path):
        self.assert_refused(tmp_path / "nowhere", "no records folder", "nowhere")

    def test_a_file_in_place_of_a_folder(self, tmp_path):
        (tmp_path / "file").touch()
        self.assert_refused(tmp_path / "file", "no records folder", "file")

    def test_a_folder_without_its_description(self, folder):
        (folder / dataset_info.INFO_FILE).unlink()
        self.assert_refused(folder, "records_info.json", "incomplete", "pipeline.preprocess")

    def test_a_missing_shard(self, folder):
        name = "pairs-train.tfrecord-00001-of-00002"
        (folder / name).unlink()
        self.assert_refused(folder, name, "is missing")

    @pytest.mark.parametrize("change", [-1, 1])
    def test_a_shard_of_another_size(self, folder, change):
        path = folder / "pairs-val.tfrecord-00000-of-00002"
        size = path.stat().st_size
        path.write_bytes((path.read_bytes() + b"x")[: size + change])
        self.assert_refused(folder, path.name, f"has {size + change} bytes", f"says {size}")

    def test_another_format(self, folder):
        self.edit(folder, format_version=99)
        self.assert_refused(folder, "format 99", "reads 1")

    def test_damaged_json(self, folder):
        path = folder / dataset_info.INFO_FILE
        path.write_text(path.read_text()[:300])
        self.assert_refused(folder, "records_info.json is damaged", "pipeline.preprocess")

    @pytest.mark.parametrize("text", ["", "[]", "{}", "null", "3", '{"format_version": 1}'])
    def test_json_of_something_else(self, folder, text):
        (folder / dataset_info.INFO_FILE).write_text(text)
        self.assert_refused(folder, "records_info.json is damaged")

    def test_bytes_that_are_no_text(self, folder):
        (folder / dataset_info.INFO_FILE).write_bytes(b"\xff\xfe\x00{")
        self.assert_refused(folder, "records_info.json is damaged")

    @pytest.mark.parametrize(
        "changes",
        [{"splits": []}, {"splits": {"train": 3}}, {"palette": None}, {"splits": {"a": {"b": 1}}}],
        ids=str,
    )
    def test_fields_of_another_kind(self, folder, changes):
        self.edit(folder, **changes)
        self.assert_refused(folder, "records_info.json is damaged")

    def test_a_split_that_is_not_there_or_empty(self, folder):
        info = load_info(str(folder))
        with pytest.raises(DatasetError, match="no split 'test'; there are: train, val"):
            info.split("test")
        empty = dataclasses.replace(info.splits["val"], shards=[])
        with pytest.raises(DatasetError, match="split 'val' holds no records"):
            dataclasses.replace(info, splits={"val": empty}).split("val")

    def test_missing_offsets(self, folder):
        (folder / dataset_info.OFFSETS_FILE).unlink()
        with pytest.raises(DatasetError, match=r"record_offsets\.npz' is missing or damaged"):
            load_offsets(str(folder), "train")

    @pytest.mark.parametrize("cut", [0, 1, 100, -1])
    def test_damaged_offsets(self, folder, cut):
        path = folder / dataset_info.OFFSETS_FILE
        path.write_bytes(path.read_bytes()[:cut])
        with pytest.raises(DatasetError, match=r"record_offsets\.npz' is missing or damaged"):
            load_offsets(str(folder), "train")

    def test_offsets_of_another_split(self, folder):
        with pytest.raises(DatasetError, match=r"record_offsets\.npz' is missing or damaged"):
            load_offsets(str(folder), "test")

    def test_offsets_with_a_flipped_bit(self, folder):
        path = folder / dataset_info.OFFSETS_FILE
        data = bytearray(path.read_bytes())
        good = load_offsets(str(folder), "train")
        for place in range(len(data)):
            data[place] ^= 4
            path.write_bytes(data)
            with contextlib.suppress(DatasetError):
                np.testing.assert_array_equal(load_offsets(str(folder), "train"), good)
            data[place] ^= 4
