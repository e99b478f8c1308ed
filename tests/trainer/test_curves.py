"""What a run has logged is read back, each step once."""

import itertools
import os
import time

import pytest
import tensorflow as tf

from model import metrics
from trainer import curves


@pytest.mark.parametrize(
    ("part", "tag"), [("validation", "mean_iou"), ("validation", "iou/road"), ("train", "loss")]
)
def test_a_run_is_read_as_it_was_written(trained_run, scalars, part, tag):
    points = curves.read(str(trained_run.folder), part, tag)
    assert {point.step: point.value for point in points} == scalars(trained_run.folder / part, tag)
    assert [point.step for point in points] == sorted({point.step for point in points})
    assert all(a.wall_time <= b.wall_time for a, b in itertools.pairwise(points))
    assert 0 < time.time() - points[-1].wall_time < 3600


def test_the_last_point_is_what_training_gave_back(trained_run):
    for tag, value in (
        ("mean_iou", metrics.mean_iou(trained_run.matrix)),
        ("pixel_accuracy", metrics.pixel_accuracy(trained_run.matrix)),
    ):
        last = curves.read(str(trained_run.folder), "validation", tag)[-1]
        assert last.step == 40
        assert last.value == pytest.approx(value, rel=1e-6)


def test_of_a_step_that_was_repeated_the_last_written_counts(tmp_path):
    folder = tmp_path / "train"
    for steps, value in (((1, 2, 3, 4), 1.0), ((3, 4, 5), 2.0)):
        writer = tf.summary.create_file_writer(str(folder))
        with writer.as_default():
            for step in steps:
                tf.summary.scalar("loss", value, step=step)
        writer.close()
    # TensorBoard reads files by their names, whose beginning is a second: here the later first.
    first, second = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    os.rename(second, folder / "events.out.tfevents.1.later")
    points = curves.read(str(tmp_path), "train", "loss")
    assert [(p.step, p.value) for p in points] == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]
    # A kill in the middle of a write.
    first.write_bytes(first.read_bytes()[:-7])
    points = curves.read(str(tmp_path), "train", "loss")
    assert [(p.step, p.value) for p in points] == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]


def test_what_was_not_logged_has_no_points(trained_run, tmp_path):
    assert curves.read(str(trained_run.folder), "train", "mean_iou") == []
    assert curves.read(str(tmp_path), "validation", "mean_iou") == []


def test_all_scalars_are_read_at_once_and_nothing_else(trained_run, scalars):
    found = curves.read_all(str(trained_run.folder), "validation")
    assert {"mean_iou", "pixel_accuracy", "iou/road"} <= found.keys()
    # Pictures and texts are logged there as well.
    assert {tag.partition("/")[0] for tag in found} == {"mean_iou", "pixel_accuracy", "iou"}
    for tag, points in found.items():
        logged = scalars(trained_run.folder / "validation", tag)
        assert {point.step: point.value for point in points} == logged
