"""The ResNet is torchvision's, and dilation changes its resolution, not its features."""

import itertools

import keras
import numpy as np
import pytest

from model.resnet import resnet


def build(depth, output_stride, width_multiplier=1.0, deep_stem=False):
    inputs = keras.Input([None, None, 3])
    features = resnet(inputs, depth, output_stride, width_multiplier, deep_stem)
    return keras.Model(inputs, [features.stage3, features.stage4])


def randomize_batch_norm(model, rng):
    """Gives every normalisation statistics and an affine part that are not the neutral ones."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            (channels,) = layer.gamma.shape
            layer.set_weights(
                [
                    rng.uniform(0.5, 1.5, channels),  # gamma
                    rng.normal(0, 0.2, channels),  # beta
                    rng.normal(0, 0.2, channels),  # mean
                    rng.uniform(0.5, 1.5, channels),  # variance
                ]
            )


def assert_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


QUICK = [(18, False), (50, True)]


@pytest.mark.parametrize(
    ("depth", "deep_stem"),
    [
        pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
        for case in itertools.product([18, 34, 50, 101], [False, True])
    ],
)
def test_dilated_features_subsampled_are_the_plain_networks(depth, deep_stem):
    rng = np.random.default_rng(0)
    plain, at16, at8 = (build(depth, stride, 0.25, deep_stem) for stride in (32, 16, 8))
    randomize_batch_norm(plain, rng)
    for size in [(65, 64), (64, 71)]:
        pixels = rng.normal(size=(2, *size, 3)).astype(np.float32)
        stage3, stage4 = (features.numpy() for features in plain(pixels))
        assert stage4.std() > 0.1
        for dilated, output_stride, factor3, factor4 in [(at16, 16, 1, 2), (at8, 8, 2, 4)]:
            dilated.set_weights(plain.get_weights())
            dense3, dense4 = (features.numpy() for features in dilated(pixels))
            assert dense4.shape[1:3] == tuple(-(-side // output_stride) for side in size)
            assert_close(dense3[:, ::factor3, ::factor3], stage3)
            assert_close(dense4[:, ::factor4, ::factor4], stage4)


@pytest.mark.parametrize(
    ("choice", "rates"),
    # Of the 3x3 convolutions of stages 3 and 4 at output stride 8, first block and second.
    [("before", [1, 2, 2, 4]), ("after", [2, 2, 4, 4])],
)
def test_rates_of_the_first_block(choice, rates):
    inputs = keras.Input([None, None, 3])
    features = resnet(inputs, 50, 8, 0.125, first_block_dilation=choice)
    model = keras.Model(inputs, features.stage4)
    names = [f"stage{stage}_block{block}_conv2" for stage in (3, 4) for block in (1, 2)]
    assert [model.get_layer(name).dilation_rate for name in names] == [(r, r) for r in rates]
    plain = keras.Model(inputs, resnet(inputs, 50, 32, 0.125, first_block_dilation=choice).stage4)
    assert {layer.dilation_rate for layer in plain.layers if hasattr(layer, "dilation_rate")} == {
        (1, 1)
    }


@pytest.mark.parametrize(
    ("depth", "parameters", "channels"),
    # What torchvision reports, less the classifier with its 1,000 classes.
    [
        (18, 11_689_512 - 513_000, (256, 512)),
        (34, 21_797_672 - 513_000, (256, 512)),
        (50, 25_557_032 - 2_049_000, (1024, 2048)),
        (101, 44_549_160 - 2_049_000, (1024, 2048)),
    ],
)
def test_parameters_and_channels_are_torchvisions(depth, parameters, channels):
    model = build(depth, 8)
    assert sum(int(np.prod(weight.shape)) for weight in model.trainable_weights) == parameters
    assert tuple(output.shape[-1] for output in model.outputs) == channels


def test_kernels_of_one_shape_start_different():
    model = build(18, 32, width_multiplier=0.25)
    first = model.get_layer("stage1_block1_conv1").kernel.numpy()
    second = model.get_layer("stage1_block1_conv2").kernel.numpy()
    assert np.abs(first - second).max() > 0.01
    assert first.std() == pytest.approx(np.sqrt(2 / (3 * 3 * 16)), rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((19, 8), "`depth`.* Received: 19"),
        ((18, 8, 0.001), "`width_multiplier`.* Received: 0.001"),
        ((18, 8, 1.0, False, "during"), "`first_block_dilation`.* Received: 'during'"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        resnet(keras.Input([None, None, 3]), *arguments)
