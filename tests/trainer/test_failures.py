"""TensorFlow's errors: named as what the user can mend."""

import shutil

import pytest
import tensorflow as tf

from pipeline.input_fn import RecordReader, evaluation_dataset
from trainer.failures import TensorFlowFailure, tensorflow_errors


def test_a_shard_with_a_flipped_byte_is_named(records_dir, tmp_path):
    folder = tmp_path / "records"
    shutil.copytree(records_dir, folder)
    shard = sorted(folder.glob("*-val.tfrecord-*"))[0]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    dataset = evaluation_dataset(RecordReader(str(folder), "val"), global_batch_size=2)
    with (
        pytest.raises(TensorFlowFailure, match=f"records are damaged: {shard.name}. Write them"),
        tensorflow_errors(str(folder)),
    ):
        for _ in dataset:
            pass


@pytest.mark.slow
def test_memory_that_runs_out_is_named():
    with (
        pytest.raises(TensorFlowFailure, match=r"ran out: .*smaller --batch_size"),
        tensorflow_errors(),
    ):
        tf.zeros([2**20, 2**20, 2**10])


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(TensorFlowFailure, match=r"cannot be read or written: .*file"),
        tensorflow_errors(),
    ):
        tf.io.write_file(str(tmp_path / "file" / "below"), "")


def test_other_errors_stay_what_they_are():
    with pytest.raises(tf.errors.InvalidArgumentError), tensorflow_errors():
        tf.reshape(tf.zeros([3]), [2])
