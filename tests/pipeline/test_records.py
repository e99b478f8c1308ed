"""The record, held against TensorFlow's own reader and writer of Examples and TFRecord files."""

import io
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline import records, synthesize
from pipeline.records import Record


def scene(index: int = 1, size: int = 128) -> Record:
    photo, labels = synthesize.draw_scene(synthesize.scene_rng(0, "train", index), size)
    return Record(f"{index}.jpg", photo, labels)


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """Peak signal to noise ratio, in decibels."""
    error = np.mean((first.astype(float) - second.astype(float)) ** 2)
    return 10 * np.log10(255**2 / error)


def test_tensorflow_reads_the_example():
    record = scene()
    fields = tf.train.Example.FromString(records.encode_record(record)).features.feature
    assert sorted(fields) == ["height", "image", "key", "label", "width"]
    assert fields["key"].bytes_list.value == [b"1.jpg"]
    assert (fields["height"].int64_list.value, fields["width"].int64_list.value) == ([128], [128])
    with Image.open(io.BytesIO(fields["label"].bytes_list.value[0])) as label:
        assert (label.format, label.mode) == ("PNG", "L")
        np.testing.assert_array_equal(np.asarray(label), record.label)
    with Image.open(io.BytesIO(fields["image"].bytes_list.value[0])) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")
        assert image.layer[0][1:3] == image.layer[1][1:3] == (1, 1)  # no chroma subsampling


def test_bytes_are_those_that_tensorflow_writes():
    data = records.encode_record(scene())
    example = tf.train.Example.FromString(data)
    assert example.SerializeToString(deterministic=True) == data


@pytest.mark.parametrize("traced", [False, True], ids=["eager", "tf.data"])
def test_parses_what_was_encoded(traced):
    record = scene()
    data = records.encode_record(record)
    if traced:
        dataset = tf.data.Dataset.from_tensors(data).map(records.parse_record)
        parsed = dataset.get_single_element()
    else:
        parsed = records.parse_record(tf.constant(data))
    assert parsed["key"].numpy() == b"1.jpg"
    assert parsed["image"].dtype == parsed["label"].dtype == tf.uint8
    np.testing.assert_array_equal(parsed["label"], record.label)
    assert psnr(parsed["image"].numpy(), record.image) > 38


@pytest.mark.parametrize(
    "window", [(0, 0, 128, 128), (3, 5, 1, 1), (17, 40, 70, 88), (64, 0, 64, 9)]
)
def test_a_decoded_window_is_that_part_of_the_photo(window):
    fields = records.parse_fields(tf.constant(records.encode_record(scene())))
    assert (fields["height"], fields["width"]) == (128, 128)
    top, left, height, width = window
    photo = records.decode_photo(fields["image"])
    np.testing.assert_array_equal(
        records.decode_photo(fields["image"], tf.constant(window)),
        photo[top : top + height, left : left + width],
    )


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=40), st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_keys_and_labels_of_any_kind_come_back_exactly(key, height, width, seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    label = rng.integers(0, 256, (height, width), np.uint8)
    parsed = records.parse_record(tf.constant(records.encode_record(Record(key, image, label))))
    assert parsed["key"].numpy().decode() == key
    assert parsed["image"].shape == (height, width, 3)
    np.testing.assert_array_equal(parsed["label"], label)


def test_red_stays_red():
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 200
    data = records.encode_record(Record("red", red, red[..., 1]))
    image = records.parse_record(tf.constant(data))["image"].numpy()
    assert image.reshape(-1, 3).mean(0) == pytest.approx([200, 0, 0], abs=3)


def test_the_same_record_gives_the_same_bytes():
    assert records.encode_record(scene()) == records.encode_record(scene())
    assert records.encode_record(scene()) != records.encode_record(scene(2))


def test_views_are_encoded_as_copies_are():
    record = scene()
    pair = np.concatenate([record.image, record.image], axis=1)
    view = Record(record.key, pair[:, :128], record.label)
    assert records.encode_record(view) == records.encode_record(record)


@settings(max_examples=40, deadline=None)
@given(payloads=st.lists(st.binary(max_size=3000), min_size=1, max_size=5))
def test_frames_are_those_of_tensorflow(payloads, tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    ours, theirs = folder / "ours.tfrecord", folder / "theirs.tfrecord"
    ours.write_bytes(b"".join(map(records.frame_record, payloads)))
    with tf.io.TFRecordWriter(str(theirs)) as writer:
        for payload in payloads:
            writer.write(payload)
    assert ours.read_bytes() == theirs.read_bytes()
    read = [data.numpy() for data in tf.data.TFRecordDataset(str(ours))]
    assert read == payloads


def test_a_damaged_frame_is_noticed(tmp_path):
    framed = bytearray(records.frame_record(b"street"))
    framed[14] ^= 1
    (tmp_path / "a").write_bytes(framed)
    with pytest.raises(tf.errors.DataLossError):
        list(tf.data.TFRecordDataset(str(tmp_path / "a")))


def test_encodes_without_tensorflow_and_beside_it():
    script = """
import sys
import numpy as np
from pipeline import records
record = records.Record("a", np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8))
data = records.encode_record(record)
assert "tensorflow" not in sys.modules
import tensorflow as tf
assert tf.train.Example.FromString(data).features.feature["key"].bytes_list.value == [b"a"]
assert records.encode_record(record) == data
print("done")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "done\n", done.stderr
