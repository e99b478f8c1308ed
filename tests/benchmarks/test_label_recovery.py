"""The benchmark runs, scores as defined, and says what it lacks."""

import numpy as np
import pytest

from benchmarks.label_recovery import Score
from pipeline import synthesize
from pipeline.labels import RecoveredLabels


def test_scores_are_those_of_the_definition():
    truth = np.array([[0, 0, 0, 1], [1, 1, 255, 255]], np.uint8)
    read = np.array([[0, 0, 1, 1], [1, 0, 255, 2]], np.uint8)
    unsure = np.array([[False, False, True, False], [False, True, False, False]])
    score = Score()
    data = synthesize.encode_pair(np.zeros((2, 4, 3), np.uint8), truth)
    score.add(data, truth, lambda mask: RecoveredLabels(read, unsure, 0.0))
    assert score.iou[0] == 2 / 4
    assert score.iou[1] == 2 / 4
    assert np.isnan(score.iou[2])  # not in the truth
    assert np.isnan(score.iou[255])  # void
    assert str(score).split()[:4] == ["62.50%", "0.500", "75.00%", "83.333%"]


@pytest.mark.slow
def test_the_table_has_every_way_and_coding(run_command):
    done = run_command("benchmarks.label_recovery", "--scenes=1", "--qualities=60")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert [row[:3] for row in rows] == [
        ["60", subsampling, way]
        for subsampling in ("4:2:0", "4:4:4")
        for way in ("nearest", "k-means", "robust")
    ]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--pairs=x"], "--labels go together"),
        (["--qualities=good"], "Received: 'good'"),
        (["--pairs=.", "--labels=."], "holds no pairs"),
    ],
)
def test_mistakes_are_told_in_a_sentence(run_command, flags, said):
    done = run_command("benchmarks.label_recovery", *flags)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and said in done.stderr
