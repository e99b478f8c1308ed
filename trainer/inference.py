"""How a photo is predicted: whole or in windows, at several scales, mirrored as well or not.

TensorFlow is imported only where it computes, so that a command can refuse flags at once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import partial
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

Rows = Callable[[int, int], np.ndarray]
"""From the first row and the row below the last to these rows of a picture, [B, rows, W, C]."""

_MAX_SCALE = 4.0
_STRIP_ROWS = 64
"""Of a photo, whose scores are averaged at a time."""


class InferenceError(UserError):
    """A way to predict that there is not."""


@dataclasses.dataclass(frozen=True)
class Inference:
    """Views of a photo whose scores are averaged; by default there is one, the photo itself.

    Windows are seen one after the other, from the top down. A photo is scaled, and scores are held,
    for the height of a window only: what grows with a photo's height are its pixels and class ids.

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
        return np.concatenate(list(self._strips(scorer, pixels)), axis=1)

    def class_ids(self, scorer: Scorer, pixels: Any) -> tf.Tensor:
        """The class of the greatest mean score, int32 [B, H, W]; see `scores`."""
        import tensorflow as tf

        # NumPy's: TensorFlow's would copy the scores first.
        strips = self._strips(scorer, pixels)
        ids = [np.argmax(strip, axis=-1).astype(np.int32) for strip in strips]
        return tf.constant(np.concatenate(ids, axis=1))

    def _strips(self, scorer: Scorer, pixels: Any) -> Iterator[np.ndarray]:
        """The mean scores from the top down, a few rows at a time."""
        pixels = np.asarray(pixels)
        height = pixels.shape[1]
        views = [_View(pixels, scale, partial(self._finished, scorer)) for scale in self.scales]
        for top in range(0, height, _STRIP_ROWS):
            bottom = min(top + _STRIP_ROWS, height)
            total = views[0].rows(top, bottom)
            for view in views[1:]:
                total = total + view.rows(top, bottom)
            yield total / len(views) if len(views) > 1 else total

    def _finished(
        self, scorer: Scorer, size: tuple[int, int], rows_of: Rows
    ) -> Iterator[np.ndarray]:
        """The mean over windows from the top down, a few rows that no further window shows."""
        height, width = size
        windows, columns = self._cuts(height), self._cuts(width)
        if len(windows) == len(columns) == 1:
            yield self._seen(scorer, rows_of(0, height))
            return
        side = windows[0].stop
        total, count = None, np.zeros((1, side, width, 1), np.float32)
        ends = [*(below.start for below in windows[1:]), height]
        for window, end in zip(windows, ends, strict=True):
            pixels = rows_of(window.start, window.stop)
            for column in columns:
                seen = self._seen(scorer, pixels[:, :, column])
                if total is None:
                    total = np.zeros((len(pixels), side, width, seen.shape[-1]), np.float32)
                total[:, :, column] += seen
                count[:, :, column] += 1
            assert total is not None
            done = end - window.start
            for top in range(0, done, _STRIP_ROWS):
                rows = np.s_[:, top : min(top + _STRIP_ROWS, done)]
                yield total[rows] / count[rows]
            for sums in (total, count):
                sums[:, : side - done] = sums[:, done:]
                sums[:, side - done :] = 0

    def _cuts(self, length: int) -> list[slice]:
        """Where the windows lie along a side."""
        side = min(self.window or length, length)
        stride = max(1, side - math.floor(side * self.overlap))
        starts = [*range(0, length - side, stride), length - side]
        return [slice(start, start + side) for start in starts]

    def _seen(self, scorer: Scorer, pixels: np.ndarray) -> np.ndarray:
        scores = np.asarray(scorer(pixels))
        if not self.flip:
            return scores
        mirrored = np.asarray(scorer(np.ascontiguousarray(pixels[:, :, ::-1])))
        return (scores + mirrored[:, :, ::-1]) / 2


class _View:
    """The scores of a photo as a scorer sees it at some scale, from the top down.

    Args:
      pixels: float32 [B, H, W, 3].
      scale: Of H and W.
      finished: From the size of the scaled photo, and a function that gives its rows, to their
        scores, some rows at a time.
    """

    def __init__(
        self,
        pixels: np.ndarray,
        scale: float,
        finished: Callable[[tuple[int, int], Rows], Iterator[np.ndarray]],
    ) -> None:
        height, width = self._size = pixels.shape[1:3]
        self._scaled = max(1, round(scale * height)), max(1, round(scale * width))

        def rows_of(top: int, bottom: int) -> np.ndarray:
            return pixels[:, top:bottom]

        scaled_rows = partial(_resized_rows, rows_of, self._size, self._scaled)
        self._blocks = finished(self._scaled, scaled_rows)
        self._held, self._top = next(self._blocks), 0

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """Scores, float32 [B, bottom - top, W, K]; `top` is not above that of an earlier call."""
        return _resized_rows(self._scaled_rows, self._scaled, self._size, top, bottom)

    def _scaled_rows(self, top: int, bottom: int) -> np.ndarray:
        """Scores of the scaled photo; those above `top` are forgotten."""
        while self._top + self._held.shape[1] < bottom:
            self._held = np.concatenate([self._held, next(self._blocks)], axis=1)
        self._held, self._top = self._held[:, top - self._top :], top
        return self._held[:, : bottom - top]


def _resized_rows(
    rows_of: Rows, size: tuple[int, int], new_size: tuple[int, int], top: int, bottom: int
) -> np.ndarray:
    """Rows of what `tf.image.resize` makes of a picture: bilinear, with half-pixel centres.

    Args:
      rows_of: Gives the picture's rows.
      size: Its height and width.
      new_size: Height and width after.
      top: The first row.
      bottom: The row below the last.

    Returns:
      float32 [B, bottom - top, new width, C].
    """
    if size == new_size:
        return rows_of(top, bottom)
    import tensorflow as tf

    factors = [after / before for before, after in zip(size, new_size, strict=True)]
    # The rows that the first and the last lie between.
    first = max(0, math.floor((top + 0.5) / factors[0] - 0.5))
    last = min(size[0], math.floor((bottom - 0.5) / factors[0] - 0.5) + 2)
    return tf.raw_ops.ScaleAndTranslate(
        images=rows_of(first, last),
        size=[bottom - top, new_size[1]],
        scale=factors,
        translation=[first * factors[0] - top, 0.0],
        kernel_type="triangle",
        antialias=False,
    ).numpy()


WHOLE_PHOTO = Inference()
"""Photos as they are, each seen once."""
