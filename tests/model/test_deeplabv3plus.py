"""DeepLabv3+'s size; `test_decoders` has what it reads, `test_deeplabv3` its pyramid."""

from model.deeplabv3plus import deeplabv3plus


def test_size_is_the_papers(decoder_alone, trainable_size):
    batch_norm = 2
    pyramid = (2 * (2048 + batch_norm) + 3 * (9 * 2048 + batch_norm)) * 256
    project = (5 * 256 + batch_norm) * 256
    low_level = (256 + batch_norm) * 48
    refine = (9 * (256 + 48) + batch_norm) * 256 + (9 * 256 + batch_norm) * 256
    expected = pyramid + project + low_level + refine + (256 + 1) * 19
    assert trainable_size(decoder_alone(deeplabv3plus)) == expected
