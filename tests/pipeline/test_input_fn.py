"""Batches: every record once an epoch, the same on any number of replicas and from any step on."""

import io
import itertools
import shutil

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline import dataset_info, job, records
from pipeline.dataset_info import DatasetError
from pipeline.input_fn import (
    RecordReader,
    _paste_chances,
    evaluation_dataset,
    training_dataset,
)
from pipeline.options import Augmentation
from pipeline.palette import CITYSCAPES

NUM_TRAIN = 24
SMALL = Augmentation(crop_size=24)
PASTING = Augmentation(crop_size=24, paste_rate=0.5)
SIZES = [(20, 30), (40, 16), (33, 33), (8, 12), (40, 30)]


@pytest.fixture(scope="module")
def reader(records_dir) -> RecordReader:
    return RecordReader(str(records_dir), "train")


def take(reader, first, last, *, batch=8, seed=0, augmentation=SMALL, **options) -> list[dict]:
    dataset = training_dataset(
        reader, augmentation, seed=seed, global_batch_size=batch,
        first_step=first, last_step=last, **options,
    )  # fmt: skip
    return list(dataset.as_numpy_iterator())


def keys(batches) -> list[str]:
    return [key.decode() for batch in batches for key in batch["key"]]


def assert_same(first: list[dict], second: list[dict]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def in_order(folder, split: str) -> list[records.Record]:
    """Every record of a split by TensorFlow's own reader of whole files."""
    files = [shard.file for shard in dataset_info.load_info(str(folder)).splits[split].shards]
    parsed = (
        records.parse_record(data)
        for data in tf.data.TFRecordDataset([str(folder / file) for file in files])
    )
    return [
        records.Record(p["key"].numpy().decode(), p["image"].numpy(), p["label"].numpy())
        for p in parsed
    ]


class TestReader:
    def test_reads_any_record_as_a_reader_of_whole_files_does(self, reader, records_dir):
        expected = in_order(records_dir, "train")
        assert len(reader) == len(expected) == NUM_TRAIN
        order = [*range(NUM_TRAIN), 3, 23, 0]
        read = tf.data.Dataset.from_tensor_slices(np.int64(order)).flat_map(reader.read)
        found = [records.parse_record(data)["key"].numpy().decode() for data in read]
        assert found == [expected[index].key for index in order]

    def test_a_split_that_is_not_there(self, records_dir):
        with pytest.raises(DatasetError, match="no split 'test'; there are: train, val"):
            RecordReader(str(records_dir), "test")

    def test_offsets_that_do_not_fit(self, records_dir, tmp_path):
        folder = shutil.copytree(records_dir, tmp_path / "records")
        offsets = {"train": np.arange(3), "val": np.arange(7)}
        buffer = io.BytesIO()
        np.savez(buffer, **offsets)
        (folder / dataset_info.OFFSETS_FILE).write_bytes(buffer.getvalue())
        with pytest.raises(DatasetError, match=r"lists 3 records of 'train', .* lists 24"):
            RecordReader(str(folder), "train")


class TestTraining:
    def test_batches_are_as_described(self, reader):
        (batch,) = take(reader, 0, 1)
        assert {name: (value.shape, value.dtype.kind) for name, value in batch.items()} == {
            "key": ((8,), "O"),
            "image": ((8, 24, 24, 3), "f"),
            "label": ((8, 24, 24), "u"),
        }
        assert batch["image"].dtype == np.float32
        assert 0 <= batch["image"].min() < 50 < 200 < batch["image"].max() <= 255
        assert set(np.unique(batch["label"])) <= {*range(19), 255}
        spec = training_dataset(
            reader, SMALL, seed=0, global_batch_size=8, first_step=0, last_step=1
        ).element_spec
        assert spec["image"].shape == (8, 24, 24, 3)
        assert spec["label"].shape == (8, 24, 24)

    @pytest.mark.parametrize("batch", [1, 5, 8, 24, 48])
    def test_each_epoch_holds_every_record_once(self, reader, batch):
        steps = -(-3 * NUM_TRAIN // batch)
        found = keys(take(reader, 0, steps, batch=batch))
        everything = sorted(f"{number}.jpg" for number in range(1, NUM_TRAIN + 1))
        epochs = [found[start : start + NUM_TRAIN] for start in range(0, 72, NUM_TRAIN)]
        assert [sorted(epoch) for epoch in epochs] == [everything] * 3
        assert len(set(map(tuple, epochs))) == 3

    def test_order_and_augmentation_follow_the_seed(self, reader):
        first, again, other = (take(reader, 0, 3, seed=seed) for seed in (1, 1, 2))
        assert_same(first, again)
        assert keys(first) != keys(other)
        assert sorted(keys(first)) == sorted(keys(other))

    def test_a_record_is_augmented_anew_in_each_epoch(self, reader):
        seen: dict[str, set[bytes]] = {}
        for batch in take(reader, 0, 12, batch=8):
            for key, image in zip(batch["key"], batch["image"], strict=True):
                seen.setdefault(key, set()).add(image.tobytes())
        assert {len(images) for images in seen.values()} == {4}

    @settings(max_examples=8, deadline=None)
    @given(first=st.integers(0, 12), steps=st.integers(0, 3), batch=st.sampled_from([4, 7]))
    def test_starting_later_gives_what_skipping_gives(self, reader, first, steps, batch):
        options = {"batch": batch, "augmentation": PASTING}
        everything = take(reader, 0, first + steps, **options)
        assert_same(take(reader, first, first + steps, **options), everything[first:])

    @pytest.mark.parametrize(("replicas", "workers"), [(2, 1), (4, 1), (2, 2), (4, 2)])
    def test_the_global_batch_is_the_same_on_any_replicas_and_workers(
        self, reader, replicas, workers
    ):
        expected = take(reader, 2, 5, augmentation=PASTING)
        division = {"replicas": replicas, "num_workers": workers}
        per_worker = [
            take(reader, 2, 5, augmentation=PASTING, worker=worker, **division)
            for worker in range(workers)
        ]
        local_replicas = replicas // workers
        for step, whole in enumerate(expected):
            parts = itertools.chain.from_iterable(
                batches[step * local_replicas : (step + 1) * local_replicas]
                for batches in per_worker
            )
            parts = list(parts)
            assert [len(part["key"]) for part in parts] == [8 // replicas] * replicas
            joined = {name: np.concatenate([part[name] for part in parts]) for name in whole}
            assert_same([joined], [whole])

    def test_some_examples_get_classes_of_another_and_are_named_after_both(self, reader):
        plain, mixed = take(reader, 0, 30), take(reader, 0, 30, augmentation=PASTING)
        changed, partners = 0, []
        for before, after in zip(plain, mixed, strict=True):
            for place, key in enumerate(after["key"]):
                own, _, partner = key.decode().partition(" with ")
                assert own == before["key"][place].decode()
                same = all((before[n][place] == after[n][place]).all() for n in ("image", "label"))
                assert partner or same
                changed += not same
                partners += [partner] if partner else []
        assert 0.4 < len(partners) / 240 < 0.6
        assert len(set(partners)) == NUM_TRAIN
        assert changed > len(partners) / 2

    @pytest.mark.parametrize(
        ("class_pixels", "chances"),
        [
            ((10, 100, 0, 1000), (0.5, 0.5, 0.5, 0.05)),
            ((1, 2, 4, 16), (0.5, 0.5, 0.375, 0.09375)),
            ((0, 0), (0.0, 0.0)),
        ],
    )
    def test_what_is_rarer_than_the_median_class_is_pasted_most(self, class_pixels, chances):
        np.testing.assert_allclose(_paste_chances(class_pixels), chances)

    @pytest.mark.parametrize(
        "wrong", [{"batch": 7, "replicas": 2}, {"replicas": 3}, {"replicas": 2, "num_workers": 4}]
    )
    def test_an_uneven_division_is_refused(self, reader, wrong):
        with pytest.raises(ValueError, match=r"must divide evenly .* Received: global_batch_size="):
            take(reader, 0, 1, **wrong)

    def test_without_augmentation_the_records_come_as_they_are(self, reader, records_dir):
        plain = Augmentation(crop_size=64, min_scale=1, max_scale=1, flip=False, color_strength=0)
        stored = {record.key: record for record in in_order(records_dir, "train")}
        for batch in take(reader, 0, 3, augmentation=plain):
            for key, image, label in zip(
                *(batch[n] for n in ("key", "image", "label")), strict=True
            ):
                record = stored[key.decode()]
                np.testing.assert_allclose(image, record.image, atol=0.02)
                np.testing.assert_array_equal(label, record.label)


class TestEvaluation:
    @pytest.fixture(scope="class")
    def mixed(self, tmp_path_factory):
        """Records of five sizes, from PNG pairs, in two shards."""
        folder = tmp_path_factory.mktemp("mixed")
        (folder / "pairs" / "val").mkdir(parents=True)
        rng = np.random.default_rng(0)
        for index, (height, width) in enumerate(SIZES):
            photo = rng.integers(0, 256, (height, width, 3), np.uint8)
            mask = CITYSCAPES.class_colors[rng.integers(0, 19, (height, width))]
            pair = Image.fromarray(np.concatenate([photo, mask], axis=1))
            pair.save(folder / "pairs" / "val" / f"{index}.png")
        options = job.JobOptions(str(folder / "pairs"), str(folder / "records"), num_shards=2)
        job.run(options)
        return folder / "records"

    def check(self, folder, batch_size: int, replicas: int) -> None:
        reader = RecordReader(str(folder), "val")
        expected = in_order(folder, "val")
        height = max(record.image.shape[0] for record in expected)
        width = max(record.image.shape[1] for record in expected)
        dataset = evaluation_dataset(reader, global_batch_size=batch_size, replicas=replicas)
        batches = list(dataset.as_numpy_iterator())
        assert len(batches) == -(-len(expected) // batch_size) * replicas
        rows = []
        for batch in batches:
            assert batch["image"].shape == (batch_size // replicas, height, width, 3)
            assert batch["image"].dtype == np.float32
            names = ("key", "index", "image", "label", "valid")
            rows += zip(*(batch[name] for name in names), strict=True)
        assert [valid for *_, valid in rows] == [
            place < len(expected) for place in range(len(rows))
        ]
        last = len(expected) - 1
        assert [index for _, index, *_ in rows] == [min(n, last) for n in range(len(rows))]
        for (key, _, image, label, _), record in zip(rows, expected, strict=False):
            h, w = record.label.shape
            assert key.decode() == record.key
            np.testing.assert_array_equal(image[:h, :w], record.image)
            np.testing.assert_array_equal(label[:h, :w], record.label)
            padding = np.ones((height, width), bool)
            padding[:h, :w] = False
            assert (label[padding] == 255).all()
            assert np.unique(image[padding]).size <= 1
        assert all((label == 255).all() for *_, label, valid in rows if not valid)

    @pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 8, 20])
    def test_every_record_comes_once_in_order_unchanged(self, records_dir, batch_size):
        self.check(records_dir, batch_size, replicas=1)

    @pytest.mark.parametrize("indices", [[], [4], [6, 0, 3, 3]])
    def test_records_can_be_named_by_their_numbers(self, records_dir, indices):
        reader = RecordReader(str(records_dir), "val")
        expected = in_order(records_dir, "val")
        dataset = evaluation_dataset(reader, global_batch_size=1, indices=indices)
        found = list(dataset.as_numpy_iterator())
        assert [batch["index"].tolist() for batch in found] == [[index] for index in indices]
        for batch, index in zip(found, indices, strict=True):
            assert batch["key"][0].decode() == expected[index].key
            np.testing.assert_array_equal(batch["label"][0], expected[index].label)

    @pytest.mark.parametrize(("batch_size", "replicas"), [(1, 1), (2, 1), (4, 2), (8, 4), (5, 5)])
    def test_photos_of_many_sizes_are_padded_to_the_largest(self, mixed, batch_size, replicas):
        reader = RecordReader(str(mixed), "val")
        assert sorted(record.label.shape for record in in_order(mixed, "val")) == sorted(SIZES)
        assert (reader.split.max_height, reader.split.max_width) == (40, 33)
        self.check(mixed, batch_size, replicas)

    def test_training_takes_photos_of_many_sizes(self, mixed):
        reader = RecordReader(str(mixed), "val")
        (batch,) = take(reader, 0, 1, batch=5)
        assert batch["image"].shape == (5, 24, 24, 3)
        assert sorted(keys([batch])) == [f"{index}.png" for index in range(5)]
