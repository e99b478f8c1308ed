"""The ladder's size; `test_decoders` has what it reads."""

from model.ladder import ladder


def test_size(decoder_alone, trainable_size):
    batch_norm = 2
    channels = (32, 32, 64, 128, 256)  # of a ResNet-18 of half the width
    pyramid = 4 * (128 + batch_norm) * 32
    top = (2 * 128 + batch_norm) * 64
    lateral = (64 + batch_norm) * 64 + (32 + batch_norm) * 64
    refine = 2 * (9 * 64 + batch_norm) * 64
    detail = (64 + batch_norm) * 16 + (9 * 32 + batch_norm) * 16 + (9 * 16 + batch_norm) * 16
    classes = (64 + 1) * 19 + (16 + 1) * 19
    expected = pyramid + top + lateral + refine + detail + classes
    assert trainable_size(decoder_alone(ladder, channels)) == expected
