"""Times one of our networks: inference, a step of training as every run takes it, a checkpoint.

python -m benchmarks.keras_step PRESET BATCH_SIZE SIDE SECONDS [NAME=VALUE ...]
"""

from __future__ import annotations

import sys
import tempfile

import numpy as np

from benchmarks.stopwatch import measure, peak_bytes, report
from pipeline.palette import CITYSCAPES
from pipeline.startup import start_tensorflow
from trainer import config as config_lib

start_tensorflow()

import tensorflow as tf  # noqa: E402

from model import summary  # noqa: E402
from trainer import distribution, run_folder  # noqa: E402
from trainer.checkpoints import Checkpoints  # noqa: E402
from trainer.learner import Learner  # noqa: E402


def main(preset: str, batch_size: str, side: str, seconds: str, *changes: str) -> None:
    assignments = [config_lib.parse_assignment(change) for change in changes]
    config = config_lib.override_all(config_lib.preset(preset), assignments)
    shape = (int(batch_size), int(side), int(side))
    rng = np.random.default_rng(0)
    batch = {
        "image": tf.constant(rng.uniform(0, 255, (*shape, 3)), tf.float32),
        "label": tf.constant(rng.integers(0, CITYSCAPES.num_classes, shape), tf.uint8),
    }
    strategy = distribution.create_strategy("one")
    with strategy.scope():
        network = run_folder.build_network_for(
            config,
            num_classes=CITYSCAPES.num_classes,
            class_colors=CITYSCAPES.class_colors,
            mean=[127.5] * 3,
            std=[127.5] * 3,
            class_weights=[1.0] * CITYSCAPES.num_classes,
        )
        learner = Learner(config, network)
        step = learner.make_step(strategy)
    model = network.for_inference()
    predict = tf.function(lambda: model(batch["image"], training=False))
    layers = summary.layer_summaries(network, int(side), int(side))
    forward = measure(lambda: [x.numpy() for x in predict().values()], float(seconds))
    training = measure(lambda: step(batch).numpy(), float(seconds))
    peak = peak_bytes()  # of the steps, as the others report it
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(folder, learner.state)
        save = measure(lambda: checkpoints.save(step=1), 0.0)
    report(
        sum(layer.parameters for layer in layers),
        forward=forward,
        step=training,
        peak_bytes=peak,
        save=save.seconds,
        gflops=summary.inference_flops(layers) / 1e9,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
