"""PSPNet in PyTorch, in the layout of the reference code's state dicts (hszhao/semseg).

Only benchmarks and tests use it; it needs torch, which nothing else here does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, as in ResNet-18 and 34."""

    expansion = 1

    def __init__(self, inputs: int, channels: int, stride: int, rates: tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = _conv3x3(inputs, channels, stride, rates[0])
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv3x3(channels, channels, 1, rates[1])
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(inputs, channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(x)) + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1, as in ResNet-50 and 101."""

    expansion = 4

    def __init__(self, inputs: int, channels: int, stride: int, rates: tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv3x3(channels, channels, stride, rates[0])
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.downsample = _shortcut(inputs, 4 * channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.relu(self.bn2(self.conv2(x)))
        return functional.relu(self.bn3(self.conv3(x)) + shortcut)


def _conv3x3(inputs: int, outputs: int, stride: int, rate: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=rate, dilation=rate, bias=False)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module | None:
    if inputs == outputs and stride == 1:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class PyramidPooling(nn.Module):
    """The features beside their averages over b x b regions."""

    def __init__(self, inputs: int, bins: Sequence[int], align_corners: bool) -> None:
        super().__init__()
        self.features = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(size),
                nn.Conv2d(inputs, inputs // len(bins), 1, bias=False),
                nn.BatchNorm2d(inputs // len(bins)),
                nn.ReLU(),
            )
            for size in bins
        )
        self.align_corners = align_corners

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branches = [_resize(branch(x), x.shape[2:], self.align_corners) for branch in self.features]
        return torch.cat([x, *branches], dim=1)


def _resize(x: torch.Tensor, size: Sequence[int], align_corners: bool) -> torch.Tensor:
    return functional.interpolate(x, list(size), mode="bilinear", align_corners=align_corners)


_BLOCKS: dict[int, tuple[type[BasicBlock | Bottleneck], tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    50: (Bottleneck, (3, 4, 6, 3)),
}


class PSPNet(nn.Module):
    """PSPNet at output stride 8.

    Args:
      num_classes: Number of classes, K.
      depth: Of the ResNet, 18 or 50.
      deep_stem: Three 3x3 convolutions in place of the 7x7.
      dilate_first_block: Give the first block of a dilated stage that stage's rate, as semseg
        does, and not the rate before it.
      align_corners: Of all bilinear resizing.
      dropout: Share of the heads' channels dropped in training.
    """

    def __init__(
        self,
        num_classes: int,
        depth: int,
        deep_stem: bool = False,
        dilate_first_block: bool = False,
        align_corners: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        block, counts = _BLOCKS[depth]
        filters = [(3, 64, 2), (64, 64, 1), (64, 128, 1)] if deep_stem else []
        stem: list[nn.Module] = []
        for inputs, outputs, stride in filters:
            stem += [_conv3x3(inputs, outputs, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
        if not deep_stem:
            stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
        self.layer0 = nn.Sequential(*stem, nn.MaxPool2d(3, 2, 1))
        inputs, rate = 128 if deep_stem else 64, 1
        for stage, count in enumerate(counts, start=1):
            channels, stride = 64 * 2 ** (stage - 1), 2 if stage == 2 else 1
            before, rate = rate, rate * 2 if stage > 2 else rate
            first = block(inputs, channels, stride, (rate if dilate_first_block else before, rate))
            inputs = block.expansion * channels
            rest = [block(inputs, channels, 1, (rate, rate)) for _ in range(count - 1)]
            setattr(self, f"layer{stage}", nn.Sequential(first, *rest))
        self.ppm = PyramidPooling(inputs, (1, 2, 3, 6), align_corners)
        self.cls = _head(2 * inputs, 512, num_classes, dropout)
        self.aux = _head(inputs // 2, 256, num_classes, dropout)
        self.align_corners = align_corners

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Scores [B, K, H, W] of pixels [B, 3, H, W], and in training the auxiliary head's."""
        size = pixels.shape[2:]
        stage3 = self.layer3(self.layer2(self.layer1(self.layer0(pixels))))
        logits = self.cls(self.ppm(self.layer4(stage3)))
        auxiliary = _resize(self.aux(stage3), size, self.align_corners) if self.training else None
        return _resize(logits, size, self.align_corners), auxiliary


def _head(inputs: int, channels: int, num_classes: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        _conv3x3(inputs, channels, 1, 1),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Dropout2d(dropout),
        nn.Conv2d(channels, num_classes, 1),
    )
