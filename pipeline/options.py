"""How training examples are changed and weighed, as data: no TensorFlow is needed to check it."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How training examples are changed; see `pipeline.augment`.

    Attributes:
      crop_size: Side of the square training crop, in pixels.
      min_scale: Smallest random scale.
      max_scale: Largest random scale.
      flip: Mirror one in two.
      color_strength: Largest relative change of brightness, contrast and saturation; 0 for none.
      paste_rate: Share of the examples into which the pixels of some classes, rare ones rather than
        frequent ones, of another one are pasted.
    """

    crop_size: int = 256
    min_scale: float = 0.5
    max_scale: float = 2.0
    flip: bool = True
    color_strength: float = 0.25
    paste_rate: float = 0.0

    def __post_init__(self) -> None:
        if self.crop_size < 8:
            raise ValueError(f"`crop_size` must be at least 8. Received: {self.crop_size}")
        if not 0 < self.min_scale <= self.max_scale:
            raise ValueError(
                "Scales must satisfy 0 < min_scale <= max_scale. "
                f"Received: {self.min_scale} and {self.max_scale}"
            )
        if not 0 <= self.color_strength < 1:
            raise ValueError(f"`color_strength` must be in [0, 1). Received: {self.color_strength}")
        if not 0 <= self.paste_rate <= 1:
            raise ValueError(f"`paste_rate` must be in [0, 1]. Received: {self.paste_rate}")


CLASS_WEIGHTS = ("none", "enet", "fourth_root", "sqrt", "inverse")
"""Schemes of `pipeline.dataset_info.DatasetInfo.class_weights`."""
