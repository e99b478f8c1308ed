"""A small network, a run of it, and how two runs' states are compared."""

import shutil
import types

import numpy as np
import pytest
import tensorflow as tf

from trainer import config as config_lib
from trainer import distribution, saved_model, training


@pytest.fixture(scope="session")
def tiny_config():
    """A PSPNet that learns the drawn streets in 40 steps; dropout and augmentation are on."""
    return config_lib.override_all(
        config_lib.Config(),
        [
            ("seed", 7),  # whose network is surer after so few steps than others
            ("steps", 40),
            ("batch_size", 8),
            ("evaluate_every", 10),
            ("pictures", 1),
            ("data.crop_size", 64),
            ("data.min_scale", 1.0),
            ("data.max_scale", 1.25),
            ("model.output_stride", 16),
            ("model.width_multiplier", 0.125),
            ("model.bins", [1, 2]),
            ("model.head_channels", 16),
            ("model.auxiliary_channels", 8),
            ("optimizer.name", "sgd"),
            ("optimizer.learning_rate", 0.1),
            ("optimizer.warmup_steps", 5),
            ("optimizer.weight_decay", 0.0),
        ],
    )


@pytest.fixture(scope="session")
def trained_run(tiny_config, records_dir, mirrored_strategy, tmp_path_factory):
    """`tiny_config` trained on two replicas without a break; not to be changed.

    ``folder`` and ``saved_model`` are its paths, ``matrix`` is the last confusion matrix.
    """
    folder = tmp_path_factory.mktemp("runs") / "trained"
    matrix = training.train(tiny_config, mirrored_strategy, str(records_dir), str(folder))
    return types.SimpleNamespace(
        folder=folder, matrix=matrix, saved_model=saved_model.export(str(folder), "latest")
    )


@pytest.fixture(scope="session")
def averaged_run(tiny_config, records_dir, tmp_path_factory):
    """Three steps that keep an average, with a SavedModel of the best; not to be changed."""
    folder = tmp_path_factory.mktemp("averaged") / "run"
    changes = [("steps", 3), ("ema_decay", 0.9), ("evaluate_every", 3), ("pictures", 0)]
    config = config_lib.override_all(tiny_config, changes)
    training.train(config, distribution.create_strategy("one"), str(records_dir), str(folder))
    saved_model.export(str(folder), "best")
    return folder


@pytest.fixture(scope="session")
def final_state():
    """Function from a run's folder to all that its latest checkpoint holds, by name."""

    def read(folder) -> dict[str, np.ndarray]:
        reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(folder / "checkpoints"))
        names = reader.get_variable_to_shape_map()
        # The object graph holds names as Python gave them, the counter how often it was saved.
        left_out = ("_CHECKPOINTABLE_OBJECT_GRAPH", "save_counter/.ATTRIBUTES/VARIABLE_VALUE")
        return {name: reader.get_tensor(name) for name in names if name not in left_out}

    return read


@pytest.fixture(scope="session")
def assert_same_state(final_state):
    """Function that holds two runs' final states to be the same, bit for bit."""

    def check(first, second) -> None:
        expected, found = final_state(first), final_state(second)
        assert expected.keys() == found.keys()
        different = [name for name in expected if not np.array_equal(expected[name], found[name])]
        assert not different

    return check


@pytest.fixture(scope="session")
def stop_at():
    """Function that takes a run back to where it was when it had written a step's checkpoint."""

    def take_back(folder, step: int) -> None:
        checkpoints = folder / "checkpoints"
        for path in checkpoints.glob("ckpt-*"):
            if int(path.stem.split("-")[1].split(".")[0]) > step:
                path.unlink()
        tf.compat.v1.train.update_checkpoint_state(str(checkpoints), f"ckpt-{step}")

    return take_back


@pytest.fixture(scope="session")
def events():
    """Function from a folder of TensorBoard logs to {tag: [(step, tensor proto), ...]}."""

    def read(folder) -> dict[str, list]:
        found: dict[str, list] = {}
        for path in sorted(folder.glob("events.out.tfevents.*")):
            for record in tf.data.TFRecordDataset(str(path)):
                event = tf.compat.v1.Event.FromString(record.numpy())
                for value in event.summary.value:
                    found.setdefault(value.tag, []).append((event.step, value))
        return found

    return read


@pytest.fixture(scope="session")
def scalars(events):
    """Function from a folder of TensorBoard logs and a tag to {step: value}."""

    def read(folder, tag: str) -> dict[int, float]:
        return {step: float(tf.make_ndarray(v.tensor)) for step, v in events(folder)[tag]}

    return read


@pytest.fixture(scope="session")
def chromium_process(tmp_path_factory):
    """A headless Chromium, driven by Selenium."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="Selenium is not installed")
    chromium, driver = (
        next(filter(None, map(shutil.which, names)), None)
        for names in (("chromium", "chromium-browser", "google-chrome"), ("chromedriver",))
    )
    if chromium is None or driver is None:
        pytest.skip("there is no Chromium with its chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in (
        "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
        "disable-background-networking", "disable-component-update", "disable-sync",
        "window-size=1200,900", f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):  # fmt: skip
        options.add_argument(f"--{argument}")
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


@pytest.fixture
def browser(chromium_process):
    """The same, with nothing in its console yet."""
    chromium_process.get_log("browser")
    return chromium_process
