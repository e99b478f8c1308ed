"""One step of training, the same on any number of replicas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from model.networks import Network
from pipeline.input_fn import Batch
from trainer.loss_scale import LossScale
from trainer.optimizer import Optimizer
from trainer.weight_average import WeightAverage

Step = Callable[[Any], tf.Tensor]


def make_step(
    strategy: tf.distribute.Strategy,
    network: Network,
    optimizer: Optimizer,
    *,
    clip_norm: float = 0.0,
    accumulation_steps: int = 1,
    average: WeightAverage | None = None,
    loss_scale: LossScale | None = None,
    jit_compile: bool = False,
) -> Step:
    """One step of training that is the same on any number of replicas.

    Sums and counts of the loss are added up over the replicas before they are divided, and
    gradients before they are clipped.

    Args:
      strategy: In whose scope all that follows was built.
      network: What is trained.
      optimizer: Of its variables.
      clip_norm: Largest global norm of the gradients; 0 for none.
      accumulation_steps: Parts that a replica's batch is taken in, one after the other. All terms
        of the loss must count the same pixels if there is more than one.
      average: Of the weights; it is updated.
      loss_scale: For float16; where a gradient is not finite, nothing is updated.
      jit_compile: Whether XLA compiles the network and its gradient; for one replica only.

    Returns:
      A function of a distributed batch; it updates the network and returns loss and global
      gradient norm, float32 [2]. The norm of a step that `loss_scale` has left out is 0.
    """
    variables = [variable.value for variable in optimizer.trainable_variables]

    def sums_and_gradients(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """The loss's sum and count, and the sum's gradients, of a part of a replica's batch.

        Where the part is all of the batch, the sum is divided by the count already.
        """
        with tf.GradientTape() as tape:
            outputs = network.model(images, training=True)
            sums, counts = network.objective.loss(outputs, labels)
            if accumulation_steps == 1:
                sums, counts = sums / tf.maximum(_total(counts), 1.0), tf.ones_like(counts)
            loss = tf.reduce_sum(sums)
            scaled = loss if loss_scale is None else loss * loss_scale.value
        return loss, counts[0], *tape.gradient(scaled, variables)

    compute = (
        tf.function(sums_and_gradients, jit_compile=True) if jit_compile else sums_and_gradients
    )

    def replica_gradients(batch: Batch) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """Loss and gradients of the global batch, and the gradients' norm."""
        sums: list[tf.Tensor] = []
        for part in range(accumulation_steps):
            # Every n-th example, so that a part holds the same ones on any number of replicas,
            # and batch normalisation the same statistics.
            # One part after the other, so that the memory of one is enough.
            with tf.control_dependencies(sums):
                computed = compute(
                    *(batch[name][part::accumulation_steps] for name in ("image", "label"))
                )
            sums = [a + b for a, b in zip(sums, computed, strict=True)] if sums else list(computed)
        loss, count, *gradients = _total(sums)
        if accumulation_steps > 1:
            count = tf.maximum(count, 1.0)
            loss, gradients = loss / count, [gradient / count for gradient in gradients]
        if loss_scale is not None:
            gradients = [gradient / loss_scale.value for gradient in gradients]
        norm = tf.linalg.global_norm(gradients)
        if clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, clip_norm, use_norm=norm)
        return loss, norm, gradients

    @tf.function
    def step(batch: Any) -> tf.Tensor:
        losses, norms, gradients = strategy.run(replica_gradients, args=(batch,))
        loss, norm = (strategy.experimental_local_results(x)[0] for x in (losses, norms))

        def update() -> None:
            strategy.run(optimizer.apply, args=(gradients,))
            if average is not None:
                average.update(strategy)

        if loss_scale is None:
            update()
        else:
            norm = loss_scale.guard(norm, update)
        return tf.stack([loss, norm])

    return step


def _total(value: Any) -> Any:
    """The sum over the replicas; in a replica's context."""
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)
