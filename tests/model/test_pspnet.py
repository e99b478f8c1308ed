"""The pyramid pooling module's shape and size; `test_networks` has what all networks share."""

import numpy as np
import pytest

from model import networks

DATA = {
    "num_classes": 19,
    "class_colors": np.zeros((19, 3)),
    "mean": (70.0, 80.0, 75.0),
    "std": (40.0, 50.0, 60.0),
    "loss": {},
}


def test_size_of_the_papers_network():
    # ResNet-50 as torchvision has it; four 1x1 of 2048 to 512; 3x3 heads and their classifiers.
    batch_norm = 2
    backbone = 25_557_032 - 2_049_000
    pyramid = 4 * (2048 + batch_norm) * 512
    head = (9 * 4096 + batch_norm) * 512 + (512 + 1) * 19
    auxiliary = (9 * 1024 + batch_norm) * 256 + (256 + 1) * 19
    model = networks.build("pspnet", **DATA, backbone="resnet50").model
    count = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert count == backbone + pyramid + head + auxiliary


@pytest.mark.parametrize("bins", [(), (1, 1), (0, 2), tuple(range(1, 100))], ids=str)
def test_refuses(bins):
    with pytest.raises(ValueError, match=r"`bins`.* Received: "):
        networks.build("pspnet", **DATA, width_multiplier=0.125, bins=bins)
