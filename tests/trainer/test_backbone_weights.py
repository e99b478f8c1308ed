"""Files of weights for a backbone: what is read from them, and what is told of those that are not.

That the features of the network that was saved come out is in tests/model/test_applications.py.
"""

import keras
import numpy as np
import pytest

from model import backbones
from pipeline.errors import UserError
from trainer import backbone_weights, distribution, run_folder, training
from trainer import config as config_lib
from trainer.backbone_weights import BackboneWeightsError
from trainer.config import ModelConfig

WIDTH = 0.75


def plain(function=keras.applications.MobileNetV3Small, alpha=WIDTH, include_top=False):
    return function(weights=None, include_top=include_top, alpha=alpha)


@pytest.fixture(scope="module")
def saved():
    keras.utils.set_random_seed(5)
    return plain(include_top=True)


@pytest.fixture(scope="module")
def folder(saved, tmp_path_factory):
    """Files of all kinds; those that start with ``good`` are of the right network."""
    root = tmp_path_factory.mktemp("weights")
    without_top = keras.Model(saved.input, saved.get_layer("conv_2").input)
    saved.save_weights(root / "good_top.weights.h5")
    saved.save(root / "good_top.h5")
    without_top.save_weights(root / "good.weights.h5")
    keras.Sequential([keras.Input([4]), keras.layers.Dense(3)]).save(root / "other.h5")
    for name in ("good.weights.h5", "good_top.h5"):
        data = (root / name).read_bytes()
        (root / name.replace("good", "cut")).write_bytes(data[: len(data) // 2])
    (root / "text.h5").write_text("no weights")
    (root / "pickle.pth").write_bytes(b"\x80\x04.")
    return root


@pytest.fixture(scope="module")
def backbone():
    pixels = keras.Input([None, None, 3])
    features = backbones.build(
        "mobilenetv3small", pixels, mean=(0, 0, 0), std=(1, 1, 1), width_multiplier=WIDTH
    )
    return keras.Model(pixels, list(features))


def load(model, weights, **options):
    options = {"backbone": "mobilenetv3small", "width_multiplier": WIDTH, **options}
    backbone_weights.load(ModelConfig(backbone_weights=str(weights), **options), model)


@pytest.mark.parametrize(
    ("name", "left_over"),
    [
        ("good_top.weights.h5", "; not used: conv_2, logits"),
        ("good_top.h5", "; not used: conv_2, logits"),
        ("good.weights.h5", ""),
    ],
)
def test_every_layer_is_set(backbone, saved, folder, name, left_over, capsys):
    for weight in backbone.weights:
        weight.assign(np.full(weight.shape, 7))
    load(backbone, folder / name)
    for layer in backbone.layers:
        for weight, expected in zip(layer.weights, saved_weights(saved, layer), strict=True):
            np.testing.assert_array_equal(weight, expected)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"Backbone: 86 layers' weights read from {folder / name}{left_over}."


def saved_weights(saved, layer):
    return saved.get_layer(layer.name).get_weights() if layer.weights else []


def test_imagenet_is_looked_up_in_keras_cache(backbone, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    name = "weights_mobilenet_v3_small_224_0.75_float_no_top_v2.h5"
    with pytest.raises(BackboneWeightsError) as caught:
        load(backbone, "imagenet")
    for part in (
        name,
        str(tmp_path / "models"),
        "python -c 'import keras; keras.applications.MobileNetV3Small(alpha=0.75, "
        "include_top=False, input_shape=(224, 224, 3))'",
    ):
        assert part in str(caught.value)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / name).write_bytes((folder / "good_top.h5").read_bytes())
    load(backbone, "imagenet")
    assert name in capsys.readouterr().err


@pytest.mark.parametrize("name", ["cut.weights.h5", "cut_top.h5", "text.h5", "other.h5"])
def test_a_file_that_is_not_of_the_network(backbone, folder, name):
    with pytest.raises(BackboneWeightsError, match=r"MobileNetV3Small.*0\.75") as caught:
        load(backbone, folder / name)
    assert str(folder / name) in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("saved_as", [".h5", ".weights.h5"])
@pytest.mark.parametrize(
    "build",
    [
        lambda: plain(alpha=1.0),
        lambda: plain(keras.applications.MobileNetV3Large),
        lambda: plain(keras.applications.MobileNetV2),
    ],
)
def test_a_file_of_another_application(backbone, build, saved_as, tmp_path):
    network = build()
    save = network.save if saved_as == ".h5" else network.save_weights
    save(tmp_path / f"file{saved_as}")
    with pytest.raises(BackboneWeightsError, match="does not hold the weights"):
        load(backbone, tmp_path / f"file{saved_as}")


@pytest.mark.parametrize(
    ("weights", "options", "reason"),
    [
        ("missing.h5", {}, "no file"),
        ("", {}, "no file"),
        ("pickle.pth", {}, ".h5"),
        ("Imagenet", {}, "'imagenet'"),
        ("imagenet", {"width_multiplier": 0.5}, "0.75, 1.0"),
        ("imagenet", {"backbone": "resnet50"}, "python -m trainer.import_weights"),
        ("imagenet", {"backbone": "resnet18"}, "resnet50_v1, resnet101_v1, mobilenetv2"),
    ],
)
def test_what_cannot_be_loaded(backbone, folder, weights, options, reason):
    path = folder / weights if "." in weights else weights or f"{folder}/.h5"
    with pytest.raises(UserError) as caught:
        load(backbone, path, **options)
    assert reason in str(caught.value)
    assert str(options.get("width_multiplier", path)) in str(caught.value)


def test_a_network_without_a_backbone():
    with pytest.raises(BackboneWeightsError, match="'article' has no backbone"):
        load(None, "imagenet", name="article")


def of_file(tiny_config, path, *changes):
    names = ("backbone", "width_multiplier", "backbone_weights")
    values = ("mobilenetv3small", WIDTH, str(path))
    pairs = [(f"model.{name}", value) for name, value in zip(names, values, strict=True)]
    return config_lib.override_all(tiny_config, [*pairs, *changes])


def test_a_bad_file_is_told_before_the_folder_is_occupied(
    tiny_config, folder, records_dir, tmp_path
):
    strategy = distribution.create_strategy("one")
    with pytest.raises(BackboneWeightsError, match="no file"):
        run = str(tmp_path / "run")
        training.train(of_file(tiny_config, folder / "no.h5"), strategy, str(records_dir), run)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_run_starts_from_the_weights_and_goes_on_without_the_file(
    tiny_config, folder, saved, mirrored_strategy, records_dir, tmp_path, capsys
):
    path = tmp_path / "moved.weights.h5"
    path.write_bytes((folder / "good.weights.h5").read_bytes())
    config = of_file(
        tiny_config, path, ("steps", 2), ("evaluate_every", 1), ("optimizer.learning_rate", 1e-20)
    )
    run = str(tmp_path / "run")
    arguments = (config, mirrored_strategy, str(records_dir), run)
    training.train(*arguments)
    assert "Backbone: 86 layers" in capsys.readouterr().err
    path.unlink()
    training.train(*arguments)
    assert "Backbone" not in capsys.readouterr().err

    network = run_folder.build_network(*run_folder.load(run))
    assert run_folder.restore_model(network.model, run, "latest") == 2
    for layer in network.backbone.layers:
        for weight, expected in zip(layer.weights, saved_weights(saved, layer), strict=True):
            if weight.trainable:  # the statistics have moved
                np.testing.assert_allclose(weight, expected, atol=1e-15)
