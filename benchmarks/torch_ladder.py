"""`model.ladder` on a ResNet-18, restated in PyTorch. Benchmarks use it; it needs torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from benchmarks.torch_pspnet import PLAIN, PyramidPooling, convolution, resize, stages
from model.ladder import DETAIL_CHANNELS


def _unit(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        convolution(inputs, outputs, size, stride), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Ladder(nn.Module):
    """The network of the preset ``small``.

    Args:
      classes: Number of classes, K.
      base: Channels of the stem.
      channels: Of the ladder.
      bins: Of the pyramid.
      align_corners: Of all resizing but the upsampling.
      upsampling: Factors of the pixels' height and width before the stem.
    """

    def __init__(
        self,
        classes: int,
        base: int,
        channels: int,
        bins: Sequence[int],
        align_corners: bool,
        upsampling: Sequence[int],
    ) -> None:
        super().__init__()
        self.upsampling = nn.Upsample(scale_factor=tuple(upsampling), mode="bilinear")
        self.stem = _unit(3, base, 7, 2)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.stages = nn.ModuleList(list(stages(base, base, 18, PLAIN))[:3])
        last = 4 * base
        self.pyramid = PyramidPooling(last, bins, align_corners)
        self.top = _unit(last + last // len(bins) * len(bins), channels, 1)
        self.laterals = nn.ModuleList(_unit(c, channels, 1) for c in (2 * base, base))
        self.refine = nn.ModuleList(_unit(channels, channels, 3) for _ in range(2))
        self.scores = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(channels, classes, 1))
        self.coarse = _unit(channels, DETAIL_CHANNELS, 1)
        self.fine = _unit(base, DETAIL_CHANNELS, 3)
        self.detail = nn.Sequential(
            _unit(DETAIL_CHANNELS, DETAIL_CHANNELS, 3), nn.Conv2d(DETAIL_CHANNELS, classes, 1)
        )
        self.align_corners = align_corners

    def predict(self, pixels: torch.Tensor) -> torch.Tensor:
        """Scores [B, K, H, W] of normalised pixels [B, 3, H, W]."""
        stem = self.stem(self.upsampling(pixels))
        features = [self.pool(stem)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        x = self.top(self.pyramid(features[3]))
        for finer, lateral, refine in zip(
            (features[2], features[1]), self.laterals, self.refine, strict=True
        ):
            x = refine(self._resize(x, finer) + lateral(finer))
        correction = self.detail(self.fine(stem) + self._resize(self.coarse(x), stem))
        return self._resize(self._resize(self.scores(x), stem) + correction, pixels)

    def _resize(self, x: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        return resize(x, reference.shape[2:], self.align_corners)
