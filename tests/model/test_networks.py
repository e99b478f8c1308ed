"""Networks are built by name, with the objective that belongs to each."""

import numpy as np
import pytest

from model.losses import ColorRegression, CrossEntropy
from model.networks import OPTIONS, build

DATA = {
    "num_classes": 3,
    "class_colors": [[0, 0, 0], [255, 0, 0], [0, 255, 0]],
    "mean": (70.0, 80.0, 75.0),
    "std": (40.0, 50.0, 60.0),
}
SMALL = {"pspnet": {"width_multiplier": 0.125, "head_channels": 8}, "article": {}}


@pytest.mark.parametrize(
    ("name", "objective_type"), [("pspnet", CrossEntropy), ("article", ColorRegression)]
)
def test_network_and_objective_fit(name, objective_type):
    model, objective = build(name, **DATA, **SMALL[name])
    assert isinstance(objective, objective_type)
    outputs = model(np.zeros((2, 9, 10, 3), np.uint8))
    loss, count = objective.loss(outputs, np.ones((2, 9, 10), np.uint8))
    assert np.isfinite(loss)
    assert count == 180
    assert objective.scores(outputs).shape == (2, 9, 10, 3)


def test_options_reach_network_and_objective():
    model, objective = build(
        "pspnet", **DATA, **SMALL["pspnet"], auxiliary_weight=0.2, auxiliary_head=False
    )
    assert objective.auxiliary_weight == 0.2
    assert list(model.output) == ["logits"]


def test_options_are_those_of_the_functions():
    assert OPTIONS["article"] == set()
    assert OPTIONS["pspnet"] == {
        "auxiliary_head",
        "auxiliary_weight",
        "bins",
        "depth",
        "dropout",
        "head_channels",
        "output_stride",
        "width_multiplier",
    }


def test_refuses_an_unknown_name():
    with pytest.raises(ValueError, match=r"\['article', 'pspnet'\]. Received: 'unet'"):
        build("unet", **DATA)


def test_refuses_an_unknown_option():
    with pytest.raises(ValueError, match=r"'depth'.* Received: \['deepth'\]"):
        build("pspnet", **DATA, deepth=18)
