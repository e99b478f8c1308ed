"""Features without a backbone, to look at a decoder alone."""

import keras
import numpy as np
import pytest

from model.features import Features

RESNET50_CHANNELS = (64, 256, 512, 1024, 2048)


@pytest.fixture
def decoder_alone():
    """Function from a decoder and options to its model of all five features, for 19 classes."""

    def build(decoder, channels=RESNET50_CHANNELS, **options) -> keras.Model:
        features = Features(*(keras.Input([None, None, count]) for count in channels))
        return keras.Model(features, decoder(features, 19, **options))

    return build


@pytest.fixture
def trainable_size():
    """Function from a model to the number of its trainable parameters."""

    def count(model) -> int:
        return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)

    return count
