"""State dicts into networks, without PyTorch; `test_import_weights` compares what they compute."""

import importlib.util

import numpy as np
import pytest

from pipeline import dataset_info
from trainer import config as config_lib
from trainer import run_folder, torch_weights
from trainer.torch_weights import WeightsError

SMALL = [
    ("model.width_multiplier", 0.125), ("model.head_channels", 16), ("model.auxiliary_channels", 8),
]  # fmt: skip


@pytest.fixture(scope="module")
def config():
    return config_lib.override_all(config_lib.preset("semseg_pspnet50"), SMALL)


@pytest.fixture(scope="module")
def network(config, records_dir):
    return run_folder.build_network(config, dataset_info.load_info(str(records_dir)))


@pytest.fixture
def state(network):
    """All that semseg's file would have, by the layout's own numbers."""
    shapes = {}

    def conv(name, size, inputs, outputs):
        shapes[f"{name}.weight"] = (outputs, inputs, size, size)

    def batch_norm(name, channels):
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (channels,)

    for index, (inputs, outputs) in enumerate([(3, 8), (8, 8), (8, 16)]):
        conv(f"layer0.{3 * index}", 3, inputs, outputs)
        batch_norm(f"layer0.{3 * index + 1}", outputs)
    inputs = 16
    for layer, blocks in enumerate((3, 4, 6, 3), start=1):
        channels = 4 * 2**layer
        for block in range(blocks):
            name = f"layer{layer}.{block}"
            sizes = [(1, inputs, channels), (3, channels, channels), (1, channels, 4 * channels)]
            for index, size in enumerate(sizes, start=1):
                conv(f"{name}.conv{index}", *size)
                batch_norm(f"{name}.bn{index}", size[-1])
            if block == 0:
                conv(f"{name}.downsample.0", 1, inputs, 4 * channels)
                batch_norm(f"{name}.downsample.1", 4 * channels)
            inputs = 4 * channels
    for index in range(4):
        conv(f"ppm.features.{index}.1", 1, 256, 64)
        batch_norm(f"ppm.features.{index}.2", 64)
    for name, inputs, channels in (("cls", 512, 16), ("aux", 128, 8)):
        conv(f"{name}.0", 3, inputs, channels)
        batch_norm(f"{name}.1", channels)
        conv(f"{name}.4", 1, channels, 19)
        shapes[f"{name}.4.bias"] = (19,)
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def test_every_weight_has_its_place(network, state):
    filled = torch_weights.fill(network, state)
    assert filled.layout == "semseg"
    assert sorted(filled.matched) == sorted(state)
    assert (filled.missing, filled.left_over, filled.misshapen) == ([], [], [])
    assert len(state) == len(network.model.weights)
    layer = network.model.get_layer
    np.testing.assert_array_equal(
        layer("stage2_block1_conv2").kernel[0, 2, 3, 1], state["layer2.0.conv2.weight"][1, 3, 0, 2]
    )
    variance = layer("stage4_block1_shortcut_bn").moving_variance
    np.testing.assert_array_equal(variance, state["layer4.0.downsample.1.running_var"])
    gamma = layer("pyramid6_conv_bn").gamma
    np.testing.assert_array_equal(gamma, state["ppm.features.3.2.weight"])


def test_what_does_not_match_is_named(network, state):
    kept = network.model.get_layer("stage1_block1_conv2").kernel.numpy()
    del state["layer1.0.conv2.weight"]
    state["layer1.0.conv1.weight"] = np.zeros((8, 16, 3, 3), np.float32)
    state["layer3.6.conv1.weight"] = np.zeros((32, 128, 1, 1), np.float32)
    filled = torch_weights.fill(network, state)
    assert filled.missing == ["layer1.0.conv2.weight"]
    assert filled.left_over == ["layer3.6.conv1.weight"]
    assert filled.misshapen == ["layer1.0.conv1.weight: (8, 16, 3, 3), (8, 16, 1, 1)"]
    np.testing.assert_array_equal(network.model.get_layer("stage1_block1_conv2").kernel, kept)


@pytest.mark.parametrize("prefix", ["", "layer0.0"])
def test_other_networks_are_refused(network, prefix):
    foreign = {f"{prefix}{name}.weight": np.zeros(3, np.float32) for name in ("", ".a", ".b")}
    before = [weight.numpy() for weight in network.model.weights]
    with pytest.raises(WeightsError, match=r"--weights is .*it has .*\.weight"):
        torch_weights.fill(network, foreign)
    assert all(map(np.array_equal, before, [w.numpy() for w in network.model.weights]))


def test_the_classes_must_be_as_many(network, state):
    for name, channels in (("cls", 16), ("aux", 8)):
        state[f"{name}.4.weight"] = np.zeros((21, channels, 1, 1), np.float32)
        state[f"{name}.4.bias"] = np.zeros(21, np.float32)
    with pytest.raises(WeightsError, match=r"tells 21 classes apart, --data_dir has 19\."):
        torch_weights.fill(network, state)


def test_what_the_weights_were_trained_with_is_told(config):
    assert torch_weights.trained_otherwise("semseg", config.model) == []
    ours = config_lib.Config().model
    assert torch_weights.trained_otherwise("torchvision", ours) == ["model.normalization=imagenet"]
    assert torch_weights.trained_otherwise("semseg", ours) == [
        "model.first_block_dilation=after",
        "model.normalization=imagenet",
        "model.align_corners=True",
    ]


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="PyTorch is here")
def test_a_missing_pytorch_is_a_sentence(run_command, records_dir, tmp_path):
    done = run_command(
        "trainer.import_weights", "--weights=any.pth", f"--data_dir={records_dir}",
        f"--model_dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "error: Reading --weights needs PyTorch: pip install torch\n"
    assert not (tmp_path / "run").exists()
