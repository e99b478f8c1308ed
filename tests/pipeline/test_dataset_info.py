"""A records folder's description: read back as written, and every fault of a folder named."""

import contextlib
import dataclasses
import json
import math
import re
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
    DuplicateEntry,
    Recovery,
    ShardSummary,
    build_info,
    load_info,
    load_offsets,
)
from pipeline.palette import CITYSCAPES, IGNORE_LABEL

COUNTS = st.integers(0, 2**40)
SHARES = st.floats(0, 1)
TEXT = st.text(max_size=12)


@st.composite
def summaries(draw, split="train", index=0):
    label_pixels = [0] * 256
    for train_id in draw(st.sets(st.sampled_from([*range(19), IGNORE_LABEL]))):
        label_pixels[train_id] = draw(COUNTS)
    bad = st.builds(BadPairEntry, st.just(split), TEXT, TEXT, TEXT)
    duplicates = st.builds(DuplicateEntry, st.just(split), TEXT, TEXT, st.booleans())
    recoveries = st.builds(Recovery, st.just(split), TEXT, SHARES, SHARES)
    sizes = st.sampled_from(["512x256", "64x64", "640x480"])
    return ShardSummary(
        split=split,
        index=index,
        file=dataset_info.shard_name("pairs", split, index, 3),
        sha256=draw(TEXT),
        record_bytes=draw(st.lists(st.integers(17, 2**33), max_size=5)),
        label_pixels=label_pixels,
        label_records=[min(pixels, 5) for pixels in label_pixels],
        unsure_pixels=draw(COUNTS),
        unknown_pixels=draw(COUNTS),
        channel_sum=draw(st.lists(COUNTS, min_size=3, max_size=3)),
        channel_square_sum=[2**60] * 3,
        sizes=draw(st.dictionaries(sizes, st.integers(1, 99))),
        codings=draw(st.dictionaries(TEXT, st.integers(1, 99), max_size=3)),
        samples=draw(st.lists(TEXT, max_size=3)),
        worst=draw(st.lists(recoveries, max_size=3)),
        bad=draw(st.lists(bad, max_size=3)),
        duplicates=draw(st.lists(duplicates, max_size=3)),
    )


PARTS = st.tuples(
    summaries("train", 0), summaries("train", 1), summaries("train", 2), summaries("val", 0)
)


@settings(deadline=None)
@given(summaries())
def test_a_summary_comes_back_from_json(summary):
    assert ShardSummary.from_json(summary.to_json()) == summary


def small(info_parts) -> list[ShardSummary]:
    """Summaries whose sums are those of real pixels, so that the variance is not negative."""
    return [
        dataclasses.replace(part, channel_sum=[0, 0, 0], channel_square_sum=[0, 0, 0])
        for part in info_parts
    ]


@settings(deadline=None, max_examples=25)
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
    assert train.num_duplicates == sum(len(part.duplicates) for part in parts[:3])
    assert train.num_pairs == sum(part.num_pairs for part in parts[:3])
    assert train.unsure_pixels == sum(part.unsure_pixels for part in parts[:3])
    assert train.unknown_pixels == sum(part.unknown_pixels for part in parts[:3])
    assert train.class_records == np.sum([p.label_records for p in parts[:3]], 0)[:19].tolist()
    for field in ("sizes", "codings"):
        names = {name for part in parts[:3] for name in getattr(part, field)}
        expected = {n: sum(getattr(part, field).get(n, 0) for part in parts[:3]) for n in names}
        assert getattr(train, field) == expected
    sizes = [list(map(int, size.split("x"))) for size in train.sizes]
    assert [train.max_width, train.max_height] == np.max([[0, 0], *sizes], 0).tolist()
    for train_id in range(19):
        expected = sum(part.label_pixels[train_id] for part in parts[:3])
        assert train.class_pixels[train_id] == expected
    assert train.ignored_pixels == sum(part.label_pixels[IGNORE_LABEL] for part in parts[:3])


def test_mean_and_deviation_are_those_of_the_training_pixels(empty_summary):
    rng = np.random.default_rng(0)
    photos = rng.integers(0, 256, (3, 1000, 3))
    parts = []
    for split, index, photo in [("train", 0, photos[0]), ("train", 1, photos[1]), ("val", 0, None)]:
        photo = photos[2] if photo is None else photo
        parts.append(
            empty_summary(
                split,
                index,
                record_bytes=[17],
                label_pixels=[1000, *[0] * 255],
                channel_sum=photo.sum(0).tolist(),
                channel_square_sum=(photo**2).sum(0).tolist(),
            )
        )
    info = build_info("pairs", parts, CITYSCAPES, {})
    train = photos[:2].reshape(-1, 3)
    np.testing.assert_allclose(info.mean, train.mean(0), atol=5e-5)
    np.testing.assert_allclose(info.std, train.std(0), atol=5e-5)


@pytest.fixture(scope="module")
def with_pixels(empty_summary):
    """Describes splits with so many pixels of the first classes."""

    def describe(**pixels: list[int]) -> DatasetInfo:
        parts = [
            empty_summary(split, 0, label_pixels=[*counts, *[0] * (255 - len(counts)), 1000])
            for split, counts in pixels.items()
        ]
        return build_info("pairs", parts, CITYSCAPES, {})

    return describe


@given(pixels=st.lists(COUNTS, min_size=19, max_size=19))
def test_class_weights_are_those_of_enet(with_pixels, pixels):
    weights = with_pixels(train=pixels, val=[9] * 19).class_weights()
    shares = np.array(pixels, float) / max(sum(pixels), 1)
    for weight, pixel_count, share in zip(weights, pixels, shares, strict=True):
        expected = 1 / math.log(1.02 + share) if pixel_count else 0
        assert weight == pytest.approx(expected, rel=1e-12)
        assert weight == 0 or 1.4 < weight < 50.6


def test_class_weights_prefer_rare_classes_and_leave_out_absent_ones(with_pixels):
    weights = with_pixels(train=[10_000, 100, 1], val=[0, 0, 0, 5]).class_weights()
    assert 0 < weights[0] < weights[1] < weights[2]
    assert weights[3:] == [0] * 16
    assert with_pixels(train=[0] * 19).class_weights() == [0] * 19


@pytest.mark.parametrize(
    ("scheme", "ratio"), [("none", 1), ("fourth_root", 2), ("sqrt", 4), ("inverse", 16)]
)
def test_class_weights_are_powers_of_the_shares(with_pixels, scheme, ratio):
    common, rare, *others = with_pixels(train=[160, 10]).class_weights(scheme)
    assert rare / common == pytest.approx(ratio)
    assert others == [0] * 17


def test_class_weights_come_from_all_splits_where_none_is_called_train(with_pixels):
    assert (
        with_pixels(a=[30, 0], b=[10, 40]).class_weights()
        == with_pixels(train=[40, 40]).class_weights()
    )


def test_the_worst_recoveries_have_most_doubt():
    def recovery(key, unsure, unknown):
        return Recovery("train", key, unsure, unknown)

    clear = [recovery(f"clear{n}", 0, 0) for n in range(20)]
    doubtful = [recovery("c", 0.2, 0), recovery("a", 0.1, 0.9), recovery("b", 0.1, 0.3)]
    tied = [recovery(f"tied{n}", 0, 0.1) for n in range(9)]
    found = dataset_info.worst_recoveries([*clear, *tied[::-1], *doubtful[::-1]])
    assert found == [*doubtful, *tied][: dataset_info.NUM_WORST]
    assert dataset_info.worst_recoveries(clear) == []


@given(st.lists(st.lists(st.builds(Recovery, st.just("train"), TEXT, SHARES, SHARES))))
def test_the_worst_of_all_are_among_the_worst_of_each_shard(shards):
    everything = [recovery for shard in shards for recovery in shard]
    worst_of_each = [r for shard in shards for r in dataset_info.worst_recoveries(shard)]
    expected = dataset_info.worst_recoveries(everything)
    assert dataset_info.worst_recoveries(worst_of_each) == expected


@given(
    bad=st.lists(st.builds(BadPairEntry, TEXT, TEXT, TEXT, TEXT)),
    duplicates=st.lists(st.builds(DuplicateEntry, TEXT, TEXT, TEXT, st.booleans())),
)
def test_lists_come_back_as_written(tmp_path_factory, bad, duplicates):
    folder = tmp_path_factory.mktemp("lists")
    (folder / dataset_info.BAD_PAIRS_FILE).write_bytes(dataset_info.encode_entries(bad))
    (folder / dataset_info.DUPLICATES_FILE).write_bytes(dataset_info.encode_entries(duplicates))
    assert dataset_info.load_bad_pairs(str(folder)) == bad
    assert dataset_info.load_duplicates(str(folder)) == duplicates


@pytest.mark.parametrize("content", [None, b"{", b"{}", b"3", b'{"split": "train"}', b"\xff"])
def test_damaged_lists_are_named(tmp_path, content):
    for name, load in (
        (dataset_info.BAD_PAIRS_FILE, dataset_info.load_bad_pairs),
        (dataset_info.DUPLICATES_FILE, dataset_info.load_duplicates),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(DatasetError, match=rf"{re.escape(name)}' is missing or damaged"):
            load(str(tmp_path))


@pytest.mark.parametrize(
    ("split", "duplicate_of", "leaks"),
    [
        ("train", "val/1.jpg", True),
        ("train", "train/1.jpg", False),
        ("train", "", False),
        ("val", "test/1.jpg", False),
        ("train", "trainval/1.jpg", True),
    ],
)
def test_what_leaks(split, duplicate_of, leaks):
    assert DuplicateEntry(split, "2.jpg", duplicate_of, False).leaks == leaks


def test_offsets_are_where_records_begin(empty_summary, tmp_path):
    parts = [
        empty_summary("val", 0, record_bytes=[9]),
        empty_summary("train", 1, record_bytes=[5]),
        empty_summary("train", 0, record_bytes=[10, 20, 30]),
    ]
    (tmp_path / dataset_info.OFFSETS_FILE).write_bytes(dataset_info.encode_offsets(parts))
    assert load_offsets(str(tmp_path), "train").tolist() == [0, 10, 30, 0]
    assert load_offsets(str(tmp_path), "val").tolist() == [0]


@pytest.mark.parametrize(
    ("name", "is_part"),
    [
        (dataset_info.INFO_FILE, True),
        (dataset_info.shard_name("pairs", "train", 3, 12), True),
        ("features.json", True),
        ("report.html", True),
        ("duplicates.jsonl", True),
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
        self.assert_refused(folder, "format 99", "reads 2")

    def test_damaged_json(self, folder):
        path = folder / dataset_info.INFO_FILE
        path.write_text(path.read_text()[:300])
        self.assert_refused(folder, "records_info.json is damaged", "pipeline.preprocess")

    @pytest.mark.parametrize("text", ["", "[]", "{}", "null", "3", '{"format_version": 2}'])
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


def test_a_copy_can_say_where_its_records_lie(records_dir, monkeypatch):
    info = load_info(str(records_dir))
    assert info.data_dir is None
    monkeypatch.chdir(records_dir.parent)
    for place in (str(records_dir), records_dir.name):
        copy = DatasetInfo.from_json(info.kept_in(place).to_json())
        assert copy.data_dir == str(records_dir)
        assert load_info(copy.data_dir) == info
    assert info.kept_in("gs://bucket/records").data_dir == "gs://bucket/records"
