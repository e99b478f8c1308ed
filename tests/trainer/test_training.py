import pytest


def test_r(trained_run, scalars, events):
    print(
        scalars(trained_run.folder / "train", "loss"),
        scalars(trained_run.folder / "validation", "mean_iou"),
        events(trained_run.folder / "validation").keys(),
    )
