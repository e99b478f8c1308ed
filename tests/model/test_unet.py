"""U-Net's size; `test_decoders` has what it reads."""

from model.unet import unet


def test_size_is_the_papers_rule_on_a_resnet(decoder_alone, trainable_size):
    # Each level: 3x3 of (channels from below + its own) to its own, and 3x3 of its own.
    batch_norm = 2
    channels = (64, 64, 128, 256, 512)  # of ResNet-18
    below, expected = 512, 0
    for own in (256, 128, 64, 64):
        expected += (9 * (below + own) + batch_norm) * own
        expected += (9 * own + batch_norm) * own
        below = own
    assert trainable_size(decoder_alone(unet, channels)) == expected + (64 + 1) * 19
