"""A configuration's network: every preset has one, and what it does not take is refused."""

import numpy as np
import pytest

from trainer import config as config_lib
from trainer import run_folder

DATA = {
    "num_classes": 5,
    "class_colors": np.zeros((5, 3)),
    "mean": (70.0, 80.0, 75.0),
    "std": (40.0, 50.0, 60.0),
}
PUBLISHED_STRIDES = {
    "pspnet": 8, "fcn32s": 32, "fcn8s": 32, "unet": 32, "deeplabv3": 16, "deeplabv3plus": 16,
    "ladder": 32,
}  # fmt: skip


@pytest.mark.parametrize("name", config_lib.PRESETS)
def test_every_preset_has_a_network(name):
    config = config_lib.preset(name)
    if not name.startswith("article"):
        config = config_lib.override(config, "model.width_multiplier", 0.125)
    network = run_folder.build_network_for(config, **DATA)
    assert network.model.name == config.model.name
    if not name.startswith("article"):
        assert config.model.output_stride == PUBLISHED_STRIDES[config.model.name]
        (head,) = (x for x in network.model.layers if x.name == "head_classes")
        pyramid = "pspnet" in config.model.name or "deeplab" in config.model.name
        assert not pyramid or head.input.shape[-1] == config.model.head_channels


@pytest.mark.parametrize(
    ("preset", "field", "value"),
    [
        ("fcn8s_resnet18", "head_channels", 64),
        ("unet_resnet18", "atrous_rates", [1, 2]),
        ("deeplabv3_resnet18", "bins", [1, 2]),
        ("pspnet_resnet18", "atrous_rates", [1, 2]),
        ("article_classes", "auxiliary_channels", 64),
    ],
)
def test_what_has_no_effect_is_refused(preset, field, value):
    config = config_lib.override(config_lib.preset(preset), f"model.{field}", value)
    with pytest.raises(config_lib.ConfigError, match=f"model.{field}=.* has no effect"):
        run_folder.build_network_for(config, **DATA)


@pytest.mark.parametrize(
    ("field", "value"), [("atrous_rates", [6, 0]), ("head_channels", 0), ("auxiliary_channels", -1)]
)
def test_a_value_that_cannot_be_used_is_named(field, value):
    config = config_lib.override(config_lib.preset("deeplabv3_resnet18"), f"model.{field}", value)
    with pytest.raises(config_lib.ConfigError, match=f"`{field}`.* Received: "):
        run_folder.build_network_for(config, **DATA)
