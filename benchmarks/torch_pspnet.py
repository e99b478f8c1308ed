"""PSPNet as hszhao/semseg has it, and ResNet as torchvision has it, restated in PyTorch.

Written from their descriptions and the names in their state dicts; what is equal to them is the
layout of the weights, and what is computed with them. Benchmarks and tests use it; it needs torch,
which nothing else here does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn import functional

Plan = Sequence[tuple[int, tuple[int, int], int]]
"""Of each stage: its stride, the rates of its first block's 3x3 convolutions, and the others'."""

PLAIN = [(1, (1, 1), 1), (2, (1, 1), 1), (2, (1, 1), 1), (2, (1, 1), 1)]
TORCHVISION_STRIDE_8 = [(1, (1, 1), 1), (2, (1, 1), 1), (1, (1, 2), 2), (1, (2, 4), 4)]
SEMSEG = [(1, (1, 1), 1), (2, (1, 1), 1), (1, (2, 2), 2), (1, (4, 4), 4)]

_BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


def convolution(inputs: int, outputs: int, size: int, stride: int = 1, rate: int = 1) -> nn.Conv2d:
    padding = rate * (size // 2)
    return nn.Conv2d(inputs, outputs, size, stride, padding, dilation=rate, bias=False)


class Block(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3 and 1x1 to four times the channels, beside a shortcut."""

    def __init__(
        self, inputs: int, channels: int, bottleneck: bool, stride: int, rates: tuple[int, int]
    ) -> None:
        super().__init__()
        self.bottleneck = bottleneck
        first, second = rates
        outputs = channels * (4 if bottleneck else 1)
        if bottleneck:
            self.conv1 = convolution(inputs, channels, 1)
            self.conv2 = convolution(channels, channels, 3, stride, first)
            self.conv3 = convolution(channels, outputs, 1)
            self.bn3 = nn.BatchNorm2d(outputs)
        else:
            self.conv1 = convolution(inputs, channels, 3, stride, first)
            self.conv2 = convolution(channels, channels, 3, 1, second)
        self.bn1 = nn.BatchNorm2d(channels)
        self.bn2 = nn.BatchNorm2d(channels)
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = self.downsample(x) if hasattr(self, "downsample") else x
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        if self.bottleneck:
            x = self.bn3(self.conv3(functional.relu(x)))
        return functional.relu(x + shortcut)


def stages(inputs: int, base: int, depth: int, plan: Plan) -> Iterator[nn.Module]:
    bottleneck = depth > 34
    for index, (count, (stride, first, rate)) in enumerate(zip(_BLOCKS[depth], plan, strict=True)):
        channels = base * 2**index
        blocks = [Block(inputs, channels, bottleneck, stride, first)]
        inputs = channels * (4 if bottleneck else 1)
        blocks += [Block(inputs, channels, bottleneck, 1, (rate, rate)) for _ in range(1, count)]
        yield nn.Sequential(*blocks)


class ResNet(nn.Module):
    """torchvision's; gives the stem's features and those of the four stages.

    Args:
      depth: 18 or 50.
      plan: Strides and rates.
      base: Channels of the stem.
    """

    def __init__(self, depth: int, plan: Plan, base: int = 64) -> None:
        super().__init__()
        self.conv1 = convolution(3, base, 7, 2)
        self.bn1 = nn.BatchNorm2d(base)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages(base, base, depth, plan)
        self.fc = nn.Linear(base * 8 * (4 if depth > 34 else 1), 1000)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        features = [functional.relu(self.bn1(self.conv1(x)))]
        x = functional.max_pool2d(features[0], 3, 2, 1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            features.append(x)
        return features


class PyramidPooling(nn.Module):
    """The features beside their averages over b x b regions."""

    def __init__(self, inputs: int, bins: Sequence[int], align_corners: bool) -> None:
        super().__init__()
        outputs = inputs // len(bins)
        self.features = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(size),
                convolution(inputs, outputs, 1),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            )
            for size in bins
        )
        self.align_corners = align_corners

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        averages = [resize(branch(x), x.shape[2:], self.align_corners) for branch in self.features]
        return torch.cat([x, *averages], 1)


def resize(x: torch.Tensor, size: Sequence[int], align_corners: bool) -> torch.Tensor:
    return functional.interpolate(x, list(size), mode="bilinear", align_corners=align_corners)


def _head(inputs: int, channels: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        convolution(inputs, channels, 3),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Dropout2d(0.1),
        nn.Conv2d(channels, classes, 1),
    )


class PSPNet(nn.Module):
    """semseg's with its 50 layers, or one of other depth, stem and resizing in the same layout.

    Args:
      classes: Number of classes, K.
      depth: 18 or 50.
      plan: Strides and rates.
      deep_stem: Three 3x3 convolutions in place of the 7x7.
      align_corners: Of all resizing.
      base: Channels of the stem's first convolution.
      channels: Of the head; the auxiliary head has half of them.
      bins: Of the pyramid.
    """

    def __init__(
        self,
        classes: int,
        depth: int = 50,
        plan: Plan = SEMSEG,
        deep_stem: bool = True,
        align_corners: bool = True,
        base: int = 64,
        channels: int = 512,
        bins: Sequence[int] = (1, 2, 3, 6),
    ) -> None:
        super().__init__()
        stem: list[nn.Module] = [convolution(3, base, 7, 2), nn.BatchNorm2d(base), nn.ReLU()]
        if deep_stem:
            stem = [
                convolution(3, base, 3, 2), nn.BatchNorm2d(base), nn.ReLU(),
                convolution(base, base, 3), nn.BatchNorm2d(base), nn.ReLU(),
                convolution(base, 2 * base, 3), nn.BatchNorm2d(2 * base), nn.ReLU(),
            ]  # fmt: skip
        self.layer0 = nn.Sequential(*stem, nn.MaxPool2d(3, 2, 1))
        inputs = 2 * base if deep_stem else base
        self.layer1, self.layer2, self.layer3, self.layer4 = stages(inputs, base, depth, plan)
        last = base * 8 * (4 if depth > 34 else 1)
        self.ppm = PyramidPooling(last, bins, align_corners)
        self.cls = _head(last + last // len(bins) * len(bins), channels, classes)
        self.aux = _head(last // 2, channels // 2, classes)
        self.align_corners = align_corners

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores of both heads, [B, K, H, W] each, of normalised pixels [B, 3, H, W]."""
        stage3 = self._stage3(x)
        return self._main(stage3, x), resize(self.aux(stage3), x.shape[2:], self.align_corners)

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of the main head alone."""
        return self._main(self._stage3(x), x)

    def _stage3(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer3(self.layer2(self.layer1(self.layer0(x))))

    def _main(self, stage3: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        scores = self.cls(self.ppm(self.layer4(stage3)))
        return resize(scores, x.shape[2:], self.align_corners)
