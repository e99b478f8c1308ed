"""The flags --scales, --flip and --window, and the way to predict that they describe."""

from __future__ import annotations

from absl import flags

from trainer.inference import Inference, InferenceError

_SCALES = flags.DEFINE_list(
    "scales", ["1"], "Scales of a photo that are averaged, such as 0.5,0.75,1,1.25,1.5,1.75."
)
_FLIP = flags.DEFINE_boolean("flip", False, "Average with what is seen in the mirrored photo.")
_WINDOW = flags.DEFINE_integer(
    "window",
    None,
    "Side of the squares that large photos are seen in, which overlap by a third; the whole photo "
    "without.",
    lower_bound=1,
)


def options() -> Inference:
    """What the flags describe.

    Raises:
      InferenceError: Where a value cannot be used.
    """
    try:
        scales = tuple(float(scale) for scale in _SCALES.value)
    except ValueError as error:
        raise InferenceError(
            f"--scales takes numbers, such as 0.75,1,1.25. Received: {','.join(_SCALES.value)}."
        ) from error
    return Inference(scales=scales, flip=_FLIP.value, window=_WINDOW.value)
