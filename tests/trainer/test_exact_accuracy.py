"""Scores against exact labels are counts over those labels, of the same photos."""

import cv2
import numpy as np
import pytest

from pipeline.input_fn import RecordReader, evaluation_dataset


@pytest.fixture
def labels_dir(records_dir, tmp_path):
    """The records' own labels of the validation split, as exact ones are given."""
    folder = tmp_path / "labels"
    folder.mkdir()
    for example in evaluation_dataset(RecordReader(str(records_dir), "val"), global_batch_size=1):
        name = example["key"][0].numpy().decode().removesuffix(".jpg")
        cv2.imwrite(str(folder / f"{name}.png"), example["label"][0].numpy())
    return folder


def test_they_count_what_is_in_the_folder(
    trained_run, records_dir, labels_dir, tmp_path, run_command
):
    flags = [f"--data_dir={records_dir}", f"--saved_model={trained_run.saved_model}", "--flip"]
    evaluated = run_command("trainer.evaluate", *flags, f"--output_dir={tmp_path}")
    first = run_command("benchmarks.exact_accuracy", *flags, f"--labels={labels_dir}")
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines() == evaluated.stdout.splitlines()[:-1]

    picture = cv2.imread(str(labels_dir / "1.png"), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(labels_dir / "1.png"), np.full_like(picture, 255))
    second = run_command("benchmarks.exact_accuracy", *flags, f"--labels={labels_dir}")
    assert second.returncode == 0, second.stderr
    assert second.stdout != first.stdout


def test_what_cannot_be_scored_is_told_in_a_sentence(
    trained_run, records_dir, labels_dir, run_command
):
    def refusal() -> str:
        done = run_command(
            "benchmarks.exact_accuracy", f"--data_dir={records_dir}", f"--labels={labels_dir}",
            f"--saved_model={trained_run.saved_model}",
        )  # fmt: skip
        assert done.returncode == 1
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    cv2.imwrite(str(labels_dir / "1.png"), np.full((64, 64), 77, np.uint8))
    assert "1.jpg hold 77" in refusal()
    cv2.imwrite(str(labels_dir / "1.png"), np.zeros((32, 64), np.uint8))
    assert "is of shape (32, 64)" in refusal()
    (labels_dir / "1.png").unlink()
    assert "1.png cannot be read" in refusal()
