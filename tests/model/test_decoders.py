"""What each decoder reads of a backbone; `test_networks` has what whole networks share."""

import keras
import numpy as np
import pytest

from model.features import Features
from model.networks import DECODERS

CHANNELS = (4, 6, 8, 10, 12)
SIZES = {  # of a picture of 70x45, at output strides of 32 and 8
    32: [(35, 23), (18, 12), (9, 6), (5, 3), (3, 2)],
    8: [(35, 23), (18, 12), (9, 6), (9, 6), (9, 6)],
}
READS = {  # the stages a decoder's paper takes, and the one whose size its scores have
    "pspnet": ({"stage4"}, "stage4"),
    "fcn32s": ({"stage4"}, "stage4"),
    "fcn8s": ({"stage2", "stage3", "stage4"}, "stage2"),
    "ladder": ({"stem", "stage1", "stage2", "stage3"}, "stem"),
    "unet": ({"stem", "stage1", "stage2", "stage3", "stage4"}, "stem"),
    "deeplabv3": ({"stage4"}, "stage4"),
    "deeplabv3plus": ({"stage1", "stage4"}, "stage1"),
}


def test_all_decoders_are_here():
    assert READS.keys() == DECODERS.keys()


@pytest.mark.parametrize("output_stride", SIZES)
@pytest.mark.parametrize("name", READS)
def test_which_features_the_scores_depend_on(decoder_alone, name, output_stride):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    model = decoder_alone(DECODERS[name], CHANNELS)
    stages, finest = READS[name]
    features = Features(
        *(
            rng.normal(size=(1, *size, channels)).astype(np.float32)
            for size, channels in zip(SIZES[output_stride], CHANNELS, strict=True)
        )
    )
    scores = model(features).numpy()
    assert scores.shape == (1, *getattr(features, finest).shape[1:3], 19)
    for stage in Features._fields:
        changed = features._replace(**{stage: getattr(features, stage) + 1})
        difference = np.abs(model(changed).numpy() - scores).max()
        assert difference > 1e-6 if stage in stages else difference == 0
