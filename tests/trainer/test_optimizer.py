"""Learning rates by part of the network, and which weights decay how."""

import keras
import numpy as np
import pytest

from model.losses import ColorRegression
from model.networks import Network
from trainer.config import OPTIMIZERS, ConfigError, OptimizerConfig
from trainer.optimizer import Optimizer

WARMUP = {"learning_rate": 0.1, "warmup_steps": 2, "power": 1.0}
RATES = [0.05, 0.075, 0.05, 0.025, 0]  # over 4 steps, and after them


def small_network():
    """All kinds of weights there are, in a backbone and in the head on it."""
    pixels = keras.Input([None, None, 3])
    x = keras.layers.Conv2D(4, 3, name="c")(pixels)
    x = keras.layers.DepthwiseConv2D(3, name="d")(x)
    features = keras.layers.BatchNormalization(name="n")(x)
    colors = keras.layers.Conv2D(3, 1, name="head")(features)
    model = keras.Model(pixels, {"colors": colors}, name="small")
    return Network(model, ColorRegression(np.eye(3)), keras.Model(pixels, [features]))


def random_weights(optimizer):
    rng = np.random.default_rng(0)
    for variable in optimizer.trainable_variables:
        variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return weights(optimizer)


def random_gradients(optimizer, seed):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=v.shape).astype(np.float32) for v in optimizer.trainable_variables]


def weights(optimizer):
    return {variable.path: variable.numpy() for variable in optimizer.trainable_variables}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("factor", [1.0, 10.0])
def test_it_trains_every_weight_and_follows_the_schedule(name, factor):
    network = small_network()
    optimizer = Optimizer(OptimizerConfig(name, head_rate_factor=factor, **WARMUP), 4, network)
    assert {id(v) for v in optimizer.trainable_variables} == {
        id(v) for v in network.model.trainable_variables
    }
    assert len(optimizer.trainable_variables) == len(network.model.trainable_variables)
    found = []
    for step in range(5):
        found.append(optimizer.learning_rates)
        optimizer.apply(random_gradients(optimizer, step))
    factors = {"learning_rate": 1}
    if factor != 1:
        factors = {"learning_rate/backbone": 1, "learning_rate/heads": factor}
    for part, times in factors.items():
        expected = times * np.array(RATES)
        np.testing.assert_allclose([rates.pop(part) for rates in found], expected, rtol=1e-6)
    assert not any(found)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_heads_move_as_with_a_rate_of_their_own(name):
    """As the weights do of networks whose one rate is the backbone's, or the heads'."""
    moved = {}
    for rate, factor in ((0.01, 10.0), (0.01, 1.0), (0.1, 1.0)):
        config = OptimizerConfig(name, rate, factor, weight_decay=0.2, warmup_steps=0)
        optimizer = Optimizer(config, 4, small_network())
        random_weights(optimizer)
        for step in range(3):
            seeded = {  # the order of the weights may depend on the parts
                v.path: np.random.default_rng([step, i]).normal(size=v.shape).astype(np.float32)
                for i, v in enumerate(sorted(optimizer.trainable_variables, key=lambda v: v.path))
            }
            optimizer.apply([seeded[v.path] for v in optimizer.trainable_variables])
        moved[rate, factor] = weights(optimizer)
    for path, found in moved[0.01, 10.0].items():
        rate, other = (0.1, 0.01) if path.startswith("head/") else (0.01, 0.1)
        np.testing.assert_allclose(found, moved[rate, 1.0][path], rtol=1e-6, err_msg=path)
        assert np.abs(found - moved[other, 1.0][path]).max() > 1e-3, path


def test_sgd_is_its_formula_with_l2_of_kernels():
    config = OptimizerConfig("sgd", weight_decay=0.2, momentum=0.9, head_rate_factor=10.0, **WARMUP)
    optimizer = Optimizer(config, 4, small_network())
    expected = random_weights(optimizer)
    velocity = {path: np.zeros_like(value) for path, value in expected.items()}
    kinds = set()
    for step in range(3):
        gradients = random_gradients(optimizer, step)
        optimizer.apply(gradients)
        for path, gradient in zip(expected, gradients, strict=True):
            kinds.add(path.rpartition("/")[2])
            rate = RATES[step] * (10 if path.startswith("head/") else 1)
            decay = 0.2 if path.endswith("/kernel") else 0.0
            total = gradient + decay * expected[path]
            velocity[path] = 0.9 * velocity[path] - rate * total
            expected[path] = expected[path] + velocity[path]
        for path, found in weights(optimizer).items():
            np.testing.assert_allclose(found, expected[path], rtol=1e-5, atol=1e-6, err_msg=path)
    assert kinds == {"kernel", "bias", "gamma", "beta"}


def test_muon_makes_the_singular_values_of_a_kernels_momentum_one():
    pixels = keras.Input([None, None, 3])
    features = keras.layers.Conv2D(4, 3, name="stem")(pixels)
    features = keras.layers.Conv2D(5, 3, name="c")(features)
    features = keras.layers.DepthwiseConv2D(3, name="d")(features)
    scores = keras.layers.Conv2D(6, 1, name="head_classes")(features)
    network = Network(keras.Model(pixels, {"colors": scores}), ColorRegression(np.eye(3)), None)
    options = {"weight_decay": 0.2, **WARMUP}
    muon, adamw = (
        Optimizer(OptimizerConfig(name, **options), 4, Network(*(
            keras.models.clone_model(network.model), network.objective, None)))
        for name in ("muon", "adamw")
    )  # fmt: skip
    random_weights(adamw)
    before = random_weights(muon)
    momentum = 0.0
    for step in range(3):
        gradients = random_gradients(muon, step)
        for optimizer in (muon, adamw):
            optimizer.apply(gradients)
        after = weights(muon)
        gradient = gradients[list(before).index("c/kernel")].reshape(36, 5).astype(np.float64)
        momentum = 0.95 * momentum + gradient
        left, _, right = np.linalg.svd(gradient + 0.95 * momentum, full_matrices=False)
        rate = RATES[step]
        moved = (1 - 0.2 * rate) * before["c/kernel"] - after["c/kernel"]
        values = left.T @ moved.reshape(36, 5) @ right.T / (rate * 0.2 * np.sqrt(36))
        # Five steps of Newton-Schulz end near one, not at it.
        assert 0.6 < np.diag(values).min() <= np.diag(values).max() < 1.3
        np.testing.assert_allclose(values, np.diag(np.diag(values)), atol=1e-4)
        before = after
    for path, expected in weights(adamw).items():
        if path != "c/kernel":
            np.testing.assert_allclose(before[path], expected, rtol=1e-5, err_msg=path)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_without_gradients_kernels_alone_shrink(name):
    config = OptimizerConfig(name, weight_decay=0.2, momentum=0.5, **WARMUP)
    optimizer = Optimizer(config, 4, small_network())
    before = random_weights(optimizer)
    for _ in range(2):
        optimizer.apply([np.zeros(v.shape, np.float32) for v in optimizer.trainable_variables])
    after = weights(optimizer)
    first = 1 - 0.05 * 0.2
    second = first * (1 - 0.075 * 0.2)
    if name == "sgd":
        second += 0.5 * (first - 1)  # the penalty's gradient passes through the momentum
    for path, weight in before.items():
        if path.endswith("/kernel"):
            np.testing.assert_allclose(after[path], second * weight, rtol=1e-6)
        else:
            np.testing.assert_array_equal(after[path], weight)


def test_a_rate_for_the_heads_needs_a_backbone():
    config = OptimizerConfig(head_rate_factor=10.0)
    network = small_network()
    with pytest.raises(ConfigError, match=r"head_rate_factor=10.0 needs .*'small' has none"):
        Optimizer(config, 4, Network(network.model, network.objective, None))
