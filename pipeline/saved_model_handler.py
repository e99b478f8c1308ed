"""Our SavedModels as Beam's RunInference takes them: photos in, train ids out."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from apache_beam.ml.inference.base import ModelHandler

from pipeline.startup import start_tensorflow

BATCH_PIXELS = 2**21
"""Of the photos that the network sees at once: 8 of 512x512, or 1 of 2048x1024."""

Labeller = Callable[[np.ndarray], np.ndarray]
"""From photos of one size, uint8 [B, H, W, 3], to train ids, uint8 [B, H, W]."""

Photos = list[np.ndarray]
"""uint8 [H_i, W_i, 3] each, or their train ids, uint8 [H_i, W_i] each."""


class SavedModelHandler(ModelHandler[Photos, Photos, Labeller]):
    """Loads a SavedModel once a process and runs its ``from_images`` over lists of photos.

    Which photos the network sees together depends on the list alone, never on Beam's own batches,
    which grow with its pace: a batch's size may decide over the last bit of a score.

    Args:
      saved_model: The SavedModel's folder, under a name that every worker sees it by.
      batch_size: Photos of one size that the network sees at once; fewer where they are large.
    """

    def __init__(self, saved_model: str, batch_size: int) -> None:
        super().__init__(max_batch_size=1)
        self._saved_model = saved_model
        self._batch_size = batch_size

    def load_model(self) -> Labeller:
        """Loads the network.

        Raises:
          OSError: Where it is damaged.
        """
        start_tensorflow()
        import tensorflow as tf

        try:
            module = tf.saved_model.load(self._saved_model)
            module.signatures["from_images"]
        except (OSError, ValueError, KeyError, IndexError, tf.errors.OpError) as error:
            # What a worker fails for reaches the command as text, and an OSError is found in it.
            raise OSError(
                errno.EIO, "No SavedModel of trainer.export", self._saved_model
            ) from error

        return functools.partial(_label, module)

    def run_inference(
        self,
        batch: Sequence[Photos],
        model: Labeller,
        inference_args: dict[str, Any] | None = None,
    ) -> Iterable[Photos]:
        return [self._label_all(photos, model) for photos in batch]

    def _label_all(self, photos: Photos, model: Labeller) -> Photos:
        """Labels photos of any sizes, those of one size together."""
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for index, photo in enumerate(photos):
            by_shape.setdefault(photo.shape, []).append(index)
        labels: dict[int, np.ndarray] = {}
        for (height, width, _), indices in by_shape.items():
            count = max(1, min(self._batch_size, BATCH_PIXELS // (height * width)))
            for start in range(0, len(indices), count):
                together = indices[start : start + count]
                found = model(np.stack([photos[index] for index in together]))
                labels.update(zip(together, found, strict=True))
        return [labels[index] for index in range(len(photos))]

    def get_num_bytes(self, batch: Sequence[Photos]) -> int:
        return sum(photo.nbytes for photos in batch for photo in photos)

    def get_metrics_namespace(self) -> str:
        return "predict"


def _label(module: Any, photos: np.ndarray) -> np.ndarray:
    """Takes the module, too, which must live as long as its signature is called."""
    import tensorflow as tf

    try:
        found = module.signatures["from_images"](images=tf.constant(photos))
        return found["class_ids"].numpy()
    except tf.errors.ResourceExhaustedError as error:
        height, width = photos.shape[1:3]
        what = f"{len(photos)} photos of {width}x{height}"
        raise OSError(errno.ENOMEM, "The network ran out of memory", what) from error
