"""PSPNet as hszhao/semseg has it and ResNet as torchvision has it, restated in PyTorch.

Written from their descriptions and the names in their state dicts; what is equal to them is the
layout of the weights and what is computed with them in evaluation.
"""

import torch
from torch import nn
from torch.nn import functional


def convolution(inputs, outputs, size, stride=1, rate=1):
    padding = rate * (size // 2)
    return nn.Conv2d(inputs, outputs, size, stride, padding, dilation=rate, bias=False)


class Block(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3 and 1x1 to four times the channels, beside a shortcut."""

    def __init__(self, inputs, channels, bottleneck, stride, rates):
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

    def forward(self, x):
        shortcut = self.downsample(x) if hasattr(self, "downsample") else x
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        if self.bottleneck:
            x = self.bn3(self.conv3(functional.relu(x)))
        return functional.relu(x + shortcut)


def stages(inputs, base, depth, plan):
    """The four stages; ``plan`` has (stride, rates of the first block, rate of the others)."""
    bottleneck = depth > 34
    counts = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[depth]
    for index, (count, (stride, first_rates, rate)) in enumerate(zip(counts, plan, strict=True)):
        channels = base * 2**index
        blocks = [Block(inputs, channels, bottleneck, stride, first_rates)]
        inputs = channels * (4 if bottleneck else 1)
        blocks += [Block(inputs, channels, bottleneck, 1, (rate, rate)) for _ in range(1, count)]
        yield nn.Sequential(*blocks)


PLAIN = [(1, (1, 1), 1), (2, (1, 1), 1), (2, (1, 1), 1), (2, (1, 1), 1)]
TORCHVISION_STRIDE_8 = [(1, (1, 1), 1), (2, (1, 1), 1), (1, (1, 2), 2), (1, (2, 4), 4)]
SEMSEG = [(1, (1, 1), 1), (2, (1, 1), 1), (1, (2, 2), 2), (1, (4, 4), 4)]


class ResNet(nn.Module):
    """torchvision's; gives the stem's features and those of the four stages."""

    def __init__(self, depth, plan, base=64):
        super().__init__()
        self.conv1 = nn.Conv2d(3, base, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(base)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages(base, base, depth, plan)
        self.fc = nn.Linear(base * 8 * (4 if depth > 34 else 1), 1000)

    def forward(self, x):
        x = functional.relu(self.bn1(self.conv1(x)))
        features = [x]
        x = functional.max_pool2d(x, 3, 2, 1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            features.append(x)
        return features


class PyramidPooling(nn.Module):
    def __init__(self, inputs, bins):
        super().__init__()
        outputs = inputs // len(bins)
        self.features = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(size),
                nn.Conv2d(inputs, outputs, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            )
            for size in bins
        )

    def forward(self, x):
        averages = [resize(branch(x), x.shape[2:]) for branch in self.features]
        return torch.cat([x, *averages], 1)


def resize(x, size):
    return functional.interpolate(x, size, mode="bilinear", align_corners=True)


def head(inputs, channels, classes):
    return nn.Sequential(
        nn.Conv2d(inputs, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Dropout2d(0.1),
        nn.Conv2d(channels, classes, 1),
    )


class PSPNet(nn.Module):
    """semseg's of 50 layers; gives the scores of both heads at the size of its input."""

    def __init__(self, classes, base=64, channels=512, bins=(1, 2, 3, 6)):
        super().__init__()
        self.layer0 = nn.Sequential(
            convolution(3, base, 3, 2), nn.BatchNorm2d(base), nn.ReLU(),
            convolution(base, base, 3), nn.BatchNorm2d(base), nn.ReLU(),
            convolution(base, 2 * base, 3), nn.BatchNorm2d(2 * base), nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        )  # fmt: skip
        self.layer1, self.layer2, self.layer3, self.layer4 = stages(2 * base, base, 50, SEMSEG)
        self.ppm = PyramidPooling(32 * base, bins)
        self.cls = head(64 * base, channels, classes)
        self.aux = head(16 * base, channels // 2, classes)

    def forward(self, x):
        size = x.shape[2:]
        third = self.layer3(self.layer2(self.layer1(self.layer0(x))))
        scores = self.cls(self.ppm(self.layer4(third)))
        return resize(scores, size), resize(self.aux(third), size)


def randomize(module, seed):
    """Random weights, and statistics near those of what runs through, so that nothing fades."""
    torch.manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            if part.bias is not None:  # A classifier; its scores should be of a usual size.
                part.weight.data *= 0.1
                nn.init.normal_(part.bias)
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.2)
            part.momentum = 1.0
    module.train()
    with torch.no_grad():
        module(torch.randn(4, 3, 65, 65))
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean += 0.2 * torch.randn_like(part.running_mean)
                part.running_var *= 0.5 + torch.rand_like(part.running_var)
                part.running_var += 0.1
    return module.eval()
