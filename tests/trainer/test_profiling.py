"""The profiler: it records the steps it is asked for, and changes nothing."""

import shutil

import pytest
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from trainer import training
from trainer.profiling import Profiler


def recorded_steps(folder) -> list[int]:
    """Numbers of the steps that a run's only trace holds."""
    (trace,) = folder.glob("train/plugins/profile/*/*.xplane.pb")
    space = xplane_pb2.XSpace.FromString(trace.read_bytes())
    steps = []
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                if plane.event_metadata[event.metadata_id].name == "train":
                    steps += [
                        stat.int64_value or stat.uint64_value
                        for stat in event.stats
                        if plane.stat_metadata[stat.metadata_id].name == "step_num"
                    ]
    return sorted(steps)


def test_a_profiled_run_is_the_run_without(
    trained_run, tiny_config, records_dir, mirrored_strategy, assert_same_state, tmp_path
):
    training.train(tiny_config, mirrored_strategy, str(records_dir), str(tmp_path), profile=(8, 10))
    assert recorded_steps(tmp_path) == [8, 9, 10]
    assert_same_state(trained_run.folder, tmp_path)


def test_a_run_that_ends_early_leaves_what_was_recorded(tmp_path):
    with pytest.raises(ZeroDivisionError), Profiler(str(tmp_path), (2, 9)) as profiler:
        for step in range(1, 9):
            with profiler.step(step):
                tf.constant(1) + 1
            1 / (4 - step)
    assert recorded_steps(tmp_path) == [2, 3, 4]


def test_no_steps_leave_no_trace(tmp_path):
    with Profiler(str(tmp_path), None) as profiler, profiler.step(1):
        pass
    assert list(tmp_path.iterdir()) == []


def test_steps_that_are_done_are_not_profiled(
    trained_run, tiny_config, records_dir, mirrored_strategy, tmp_path, capfd
):
    folder = shutil.copytree(trained_run.folder, tmp_path / "run")
    training.train(tiny_config, mirrored_strategy, str(records_dir), str(folder), profile=(8, 10))
    assert "Nothing is profiled: step 8 is done.\n" in capfd.readouterr().err
    assert not (folder / "train" / "plugins").exists()
