"""The learning rate against its formula."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.schedule import PolyWithWarmup


def formula(step, peak, total_steps, warmup_steps, power):
    growth = (step + 1) / warmup_steps if step < warmup_steps else 1.0
    return peak * growth * (1 - step / total_steps) ** power


@pytest.mark.parametrize("warmup_steps", [0, 1, 7, 50, 80])
@pytest.mark.parametrize("power", [0.0, 0.5, 0.9, 1.0, 2.0])
def test_every_step_is_the_formula(warmup_steps, power):
    schedule = PolyWithWarmup(0.02, 50, warmup_steps, power)
    steps = np.arange(51)
    expected = [formula(step, 0.02, 50, warmup_steps, power) for step in steps]
    np.testing.assert_allclose(schedule(steps).numpy(), expected, rtol=2e-6, atol=1e-12)
    np.testing.assert_allclose([float(schedule(step)) for step in steps], expected, rtol=2e-6)


@given(
    peak=st.floats(1e-6, 10),
    total_steps=st.integers(1, 10**6),
    warmup_steps=st.integers(0, 10**6),
    power=st.floats(0.01, 5),
)
def test_it_is_never_negative_nor_above_its_peak_and_ends_at_0(
    peak, total_steps, warmup_steps, power
):
    schedule = PolyWithWarmup(peak, total_steps, warmup_steps, power)
    values = schedule(np.linspace(0, total_steps, 11)).numpy()
    assert (values >= 0).all()
    assert (values <= np.float32(peak) * (1 + 1e-6)).all()
    assert values[-1] == 0
    assert float(schedule(total_steps + 1)) == 0
    after = values[np.linspace(0, total_steps, 11) >= warmup_steps]
    assert (np.diff(after) <= 0).all()


def test_power_0_is_constant():
    values = PolyWithWarmup(0.3, 20, 0, 0.0)(np.arange(21)).numpy()
    np.testing.assert_array_equal(values, np.float32(0.3))


def test_it_is_rebuilt_from_its_configuration():
    schedule = PolyWithWarmup(0.3, 20, 5, 0.9)
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    np.testing.assert_array_equal(again(np.arange(21)), schedule(np.arange(21)))
