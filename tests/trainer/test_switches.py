"""Each switch of training does what it says: averages, accumulation, precision, compilation."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from model.layers import ResizeLike, conv_batch_norm
from model.losses import IGNORE_LABEL, CrossEntropy
from model.networks import Network
from trainer import config as config_lib
from trainer import distribution
from trainer.config import OptimizerConfig
from trainer.loss_scale import LossScale
from trainer.optimizer import Optimizer
from trainer.step import make_step
from trainer.weight_average import WeightAverage

CLASSES, SIZE, BATCH = 4, 16, 8


def network(normalized=True, **loss):
    """Convolutions and a head; without batch normalisation, examples do not meet."""
    pixels = keras.Input([None, None, 3])
    x = keras.layers.Rescaling(1 / 128, -1)(pixels)
    x = conv_batch_norm(x, 6, 3, name="c") if normalized else keras.layers.Conv2D(6, 3)(x)
    x = keras.layers.Conv2D(CLASSES, 1, dtype="float32")(keras.layers.ReLU()(x))
    logits = ResizeLike()([keras.layers.AveragePooling2D(2, dtype="float32")(x), pixels])
    return Network(keras.Model(pixels, {"logits": logits}), CrossEntropy(**loss), None)


def batches(count):
    rng = np.random.default_rng(0)
    for _ in range(count):
        labels = rng.integers(0, CLASSES, (BATCH, SIZE, SIZE))
        share = np.linspace(0, 0.9, BATCH)[:, np.newaxis, np.newaxis]
        labels[rng.uniform(size=labels.shape) < share] = IGNORE_LABEL
        images = rng.uniform(0, 255, (BATCH, SIZE, SIZE, 3)).astype(np.float32)
        yield {"image": tf.constant(images), "label": tf.constant(labels, tf.uint8)}


class Stepper:
    def __init__(self, build=network, seed=1, average=None, loss_scale=None, **options):
        keras.utils.set_random_seed(seed)
        self.network = build()
        config = OptimizerConfig(name="sgd", learning_rate=0.1, warmup_steps=0, power=0.0)
        optimizer = Optimizer(config, 100, self.network)
        self.average = WeightAverage(self.network.model, average) if average is not None else None
        strategy = distribution.create_strategy("one")
        self.step = make_step(
            strategy,
            self.network,
            optimizer,
            average=self.average,
            loss_scale=loss_scale,
            **options,
        )

    def weights(self):
        return [v.numpy() for v in self.network.model.variables if v.dtype == "float32"]


def test_the_average_is_its_recurrence():
    stepper = Stepper(average=0.7)
    expected = stepper.weights()
    for t, batch in enumerate(batches(6), start=1):
        stepper.step(batch)
        decay = min(0.7, t / (t + 9))
        pairs = zip(expected, stepper.weights(), strict=True)
        expected = [decay * a + (1 - decay) * v for a, v in pairs]
    own = stepper.weights()
    for average, value in zip(stepper.average.averages, expected, strict=True):
        np.testing.assert_allclose(average.numpy(), value, rtol=1e-5, atol=1e-6)
    assert any(not np.allclose(a, b, atol=1e-4) for a, b in zip(own, expected, strict=True))
    with stepper.average.applied():
        for value, average in zip(stepper.weights(), stepper.average.averages, strict=True):
            np.testing.assert_array_equal(value, average.numpy())
    for value, before in zip(stepper.weights(), own, strict=True):
        np.testing.assert_array_equal(value, before)


@pytest.mark.parametrize("parts", [2, 8])
@pytest.mark.parametrize("clip_norm", [0.0, 0.05])
def test_parts_of_a_batch_add_up_to_it(parts, clip_norm):
    def build():
        return network(normalized=False, class_weights=[1.0, 0.5, 3.0, 0.0], label_smoothing=0.1)

    whole = Stepper(build, clip_norm=clip_norm)
    in_parts = Stepper(build, clip_norm=clip_norm, accumulation_steps=parts)
    for batch in batches(3):
        np.testing.assert_allclose(in_parts.step(batch), whole.step(batch), rtol=1e-5)
        for found, expected in zip(in_parts.weights(), whole.weights(), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.fixture
def policy(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(f"mixed_{request.param}")
    yield request.param
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("policy", ["bfloat16", "float16"], indirect=True)
def test_half_precision_learns_what_full_precision_learns(policy):
    half = Stepper(loss_scale=LossScale() if policy == "float16" else None)
    keras.config.set_dtype_policy("float32")
    full = Stepper()
    for a, b in zip(half.weights(), full.weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert half.network.model.get_layer("c").compute_dtype == policy
    start = full.weights()
    for batch in batches(4):
        np.testing.assert_allclose(half.step(batch), full.step(batch), rtol=0.03)
    moved = [np.abs(a - b).max() for a, b in zip(full.weights(), start, strict=True)]
    for a, b, distance in zip(half.weights(), full.weights(), moved, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, atol=0.1 * distance + 1e-6)


def test_a_gradient_beyond_float16_halves_the_scale_and_changes_nothing():
    scale = LossScale(initial=4.0, growth_steps=3)
    stepper = Stepper(loss_scale=scale, average=0.5)
    (batch,) = batches(1)
    before = stepper.weights()[0]
    stepper.step(batch)
    good, averages = stepper.weights(), [a.numpy() for a in stepper.average.averages]
    assert not np.array_equal(good[0], before)
    scale.value.assign(np.inf)
    loss, norm = stepper.step(batch).numpy()
    assert np.isfinite(loss)
    assert norm == 0
    scale.value.assign(4.0)
    for kept in ("kernel", "bias", "gamma", "beta"):
        for variable, value in zip(stepper.network.model.variables, good, strict=True):
            if variable.name == kept:
                np.testing.assert_array_equal(variable.numpy(), value)
    for average, value in zip(stepper.average.averages, averages, strict=True):
        np.testing.assert_array_equal(average.numpy(), value)
    values = []
    for _ in range(7):
        stepper.step(batch)
        values.append(float(scale.value))
    assert values == [4, 4, 8, 8, 8, 16, 16]


def test_a_loss_that_no_scale_can_save_is_told():
    scale = LossScale(initial=2.0)
    stepper = Stepper(loss_scale=scale)
    (batch,) = batches(1)
    batch["image"] = batch["image"] * np.nan
    norms = [float(stepper.step(batch)[1]) for _ in range(4)]
    assert norms[:2] == [0, 0]
    assert np.isnan(norms[-1])


def test_compiled_steps_are_the_steps():
    plain, compiled = Stepper(), Stepper(jit_compile=True)
    for batch in batches(3):
        np.testing.assert_allclose(compiled.step(batch), plain.step(batch), rtol=1e-5)
        for found, expected in zip(compiled.weights(), plain.weights(), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([("batch_size", 8), ("accumulation_steps", 3)], "must divide `batch_size`"),
        ([("accumulation_steps", 2), ("loss.ohem_threshold", 0.7)], "hard pixels"),
        ([("precision", "float64")], "Received: 'float64'"),
        ([("ema_decay", 1.0)], "Received: 1.0"),
        ([("loss.class_weights", "rare")], "Received: 'rare'"),
    ],
)
def test_combinations_that_cannot_be_are_refused(changes, message):
    with pytest.raises(config_lib.ConfigError, match=message):
        config_lib.override_all(config_lib.Config(), changes)
