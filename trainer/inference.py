"""How a photo is predicted: whole or in windows, at several scales, mirrored as well or not.

TensorFlow is imported only where it computes, so that a command can refuse flags at once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import UserError

if TYPE_CHECKING:
    import tensorflow as tf

Scorer = Callable[[Any], Any]
"""From pixels, float32 [B, H, W, 3] RGB in 0 to 255, to the classes' scores, float32 [B, H, W, K].

Both are arrays or tensors. The scores are probabilities; of the article's network, whatever its
objective reads from the colours.
"""

_MAX_SCALE = 4.0


class InferenceError(UserError):
    """A way to predict that there is not."""


@dataclasses.dataclass(frozen=True)
class Inference:
    """Views of a photo whose scores are averaged; by default there is one, the photo itself.

    Windows are seen one after the other, so that a network needs no more memory for a large photo
    than for a window. What grows with the photo are sums: 4 bytes for each class and pixel, up to
    three times at the photo's size and, where it is scaled, once more at the scale's.

    Attributes:
      scales: Of height and width, above 0 and at most 4. Photos are resized bilinearly
        (half-pixel centres), scores back in the same way.
      flip: Whether what the network sees is shown to it mirrored, too.
      window: Side in pixels of the squares that a scaled photo is seen in; None for the whole
        photo. Sides that the photo does not have are cut to its own.
      overlap: Share of a window's side that is in the next one too, in [0, 1), rounded down to
        pixels. The last window of a row or column ends where the photo ends, and overlaps more.

    Raises:
      InferenceError: Where a value is not as said above.

    Reference: Zhao et al. 2017, section 5.1; a third of overlap, and mirroring each window, are
    from hszhao/semseg.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window: int | None = None
    overlap: float = 1 / 3

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < scale <= _MAX_SCALE for scale in self.scales):
            raise InferenceError(
                f"--scales takes numbers above 0 and up to {_MAX_SCALE:g}, such as 0.75,1,1.25. "
                f"Received: {','.join(map(str, self.scales))}."
            )
        if self.window is not None and self.window < 1:
            raise InferenceError(f"--window takes 1 pixel or more. Received: {self.window}.")
        if not 0 <= self.overlap < 1:
            raise InferenceError(
                f"Windows may overlap by 0 to below 1 of their side. Received: {self.overlap}."
            )

    def scores(self, scorer: Scorer, pixels: Any) -> np.ndarray:
        """The mean of the scores over all views.

        Args:
          scorer: What the views are shown to.
          pixels: float32 [B, H, W, 3], levels of 0 to 255.

        Returns:
          float32 [B, H, W, K].
        """
        pixels = np.asarray(pixels)
        means = (self._at_scale(scorer, pixels, scale) for scale in self.scales)
        total = next(means)
        for mean in means:
            total += mean
        total /= len(self.scales)
        return total

    def class_ids(self, scorer: Scorer, pixels: Any) -> tf.Tensor:
        """The class of the greatest mean score, int32 [B, H, W]; see `scores`."""
        import tensorflow as tf

        # NumPy's: TensorFlow's would copy the scores first, all that there are of a large photo.
        return tf.constant(np.argmax(self.scores(scorer, pixels), axis=-1), tf.int32)

    def _at_scale(self, scorer: Scorer, pixels: np.ndarray, scale: float) -> np.ndarray:
        height, width = pixels.shape[1:3]
        size = [max(1, round(scale * height)), max(1, round(scale * width))]
        if size == [height, width]:
            return self._in_windows(scorer, pixels)
        scores = self._in_windows(scorer, _resized(pixels, size))
        return _resized(scores, [height, width])

    def _in_windows(self, scorer: Scorer, pixels: np.ndarray) -> np.ndarray:
        height, width = pixels.shape[1:3]
        rows, columns = self._cuts(height), self._cuts(width)
        places = [np.s_[:, top, left] for top in rows for left in columns]
        first = self._seen(scorer, pixels[places[0]])
        if len(places) == 1:
            return np.array(first)
        total = np.zeros((*pixels.shape[:3], first.shape[-1]), np.float32)
        count = np.zeros((1, height, width, 1), np.float32)
        for number, place in enumerate(places):
            total[place] += self._seen(scorer, pixels[place]) if number else first
            count[place] += 1
        total /= count
        return total

    def _cuts(self, length: int) -> list[slice]:
        """Where the windows lie along a side."""
        side = min(self.window or length, length)
        stride = max(1, math.ceil(side * (1 - self.overlap)))
        starts = [*range(0, length - side, stride), length - side]
        return [slice(start, start + side) for start in starts]

    def _seen(self, scorer: Scorer, pixels: np.ndarray) -> np.ndarray:
        scores = np.asarray(scorer(pixels))
        if not self.flip:
            return scores
        mirrored = np.asarray(scorer(np.ascontiguousarray(pixels[:, :, ::-1])))
        return (scores + mirrored[:, :, ::-1]) / 2


def _resized(values: np.ndarray, size: list[int]) -> np.ndarray:
    """Bilinearly, with half-pixel centres: float32 [B, H, W, C] -> [B, *size, C]."""
    import tensorflow as tf

    # A copy: what TensorFlow hands out must not be added to.
    return np.array(tf.image.resize(values, size))


WHOLE_PHOTO = Inference()
"""Photos as they are, each seen once."""
