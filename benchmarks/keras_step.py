"""Times one of our networks: inference, and a step of training as every run takes it.

python -m benchmarks.keras_step PRESET BATCH_SIZE SIDE SECONDS [NAME=VALUE ...]
"""

from __future__ import annotations

import sys

import numpy as np

from benchmarks.stopwatch import measure, report
from pipeline.dataset_info import DatasetInfo
from pipeline.palette import CITYSCAPES
from trainer import config as config_lib
from trainer.startup import start_tensorflow

start_tensorflow()

import tensorflow as tf  # noqa: E402

from model import summary  # noqa: E402
from trainer import distribution, run_folder, training  # noqa: E402
from trainer.optimizer import Optimizer  # noqa: E402


def main(preset: str, batch_size: str, side: str, seconds: str, *changes: str) -> None:
    assignments = [config_lib.parse_assignment(change) for change in changes]
    config = config_lib.override_all(config_lib.preset(preset), assignments)
    info = DatasetInfo("", {}, CITYSCAPES, mean=[127.5] * 3, std=[127.5] * 3, provenance={})
    shape = (int(batch_size), int(side), int(side))
    rng = np.random.default_rng(0)
    batch = {
        "image": tf.constant(rng.uniform(0, 255, (*shape, 3)), tf.float32),
        "label": tf.constant(rng.integers(0, info.palette.num_classes, shape), tf.uint8),
    }
    strategy = distribution.create_strategy("one")
    with strategy.scope():
        network = run_folder.build_network(config, info)
        optimizer = Optimizer(config.optimizer, config.steps, network)
    model = network.for_inference()
    predict = tf.function(lambda: model(batch["image"], training=False))
    step = training.make_step(strategy, network, optimizer)
    layers = summary.layer_summaries(network, int(side), int(side))
    report(
        sum(layer.parameters for layer in layers),
        forward=measure(lambda: [x.numpy() for x in predict().values()], float(seconds)),
        step=measure(lambda: step(batch).numpy(), float(seconds)),
        gflops=summary.inference_flops(layers) / 1e9,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
