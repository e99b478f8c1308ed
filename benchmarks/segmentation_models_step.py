"""Times the PSPNet of segmentation_models: inference, and a step of training.

    python -m benchmarks.segmentation_models_step BACKBONE BATCH_SIZE SIDE SECONDS

It needs `pip install segmentation-models tf_keras` and sides that divide by 48. It has no auxiliary
head, and in place of dilating its backbone it leaves the last two stages out.
"""

from __future__ import annotations

import os
import sys

import numpy as np

from benchmarks.stopwatch import measure, report

os.environ.update(SM_FRAMEWORK="tf.keras", TF_USE_LEGACY_KERAS="1", TF_ENABLE_ONEDNN_OPTS="1")

CLASSES = 19


def main(backbone: str, batch_size: str, side: str, seconds: str) -> None:
    import segmentation_models
    import tensorflow as tf
    import tf_keras

    shape = (int(batch_size), int(side), int(side))
    rng = np.random.default_rng(0)
    pixels = tf.constant(rng.normal(size=(*shape, 3)), tf.float32)
    labels = tf.constant(rng.integers(0, CLASSES, shape), tf.int32)
    model = segmentation_models.PSPNet(
        backbone, input_shape=(*shape[1:], 3), classes=CLASSES, encoder_weights=None
    )
    optimizer = tf_keras.optimizers.SGD(0.01, momentum=0.9)
    entropy = tf_keras.losses.SparseCategoricalCrossentropy()
    predict = tf.function(lambda: model(pixels, training=False))

    @tf.function
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = entropy(labels, model(pixels, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    report(
        sum(int(np.prod(w.shape)) for w in model.trainable_weights),
        forward=measure(lambda: predict().numpy(), float(seconds)),
        step=measure(lambda: step().numpy(), float(seconds)),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
