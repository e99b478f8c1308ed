"""Times PSPNet in PyTorch: inference, and a step of training as `benchmarks.keras_step` takes it.

python -m benchmarks.torch_step DEPTH BATCH_SIZE SIDE SECONDS [compile]
"""

from __future__ import annotations

import sys

import torch
from torch.nn import functional

from benchmarks.stopwatch import measure, report
from benchmarks.torch_pspnet import TORCHVISION_STRIDE_8, PSPNet

CLASSES = 19


def main(depth: str, batch_size: str, side: str, seconds: str, *how: str) -> None:
    torch.manual_seed(0)
    network = PSPNet(
        CLASSES, int(depth), TORCHVISION_STRIDE_8, deep_stem=False, align_corners=False
    ).to(memory_format=torch.channels_last)
    heads, main_head = network, network.predict
    if "compile" in how:
        heads, main_head = torch.compile(network), torch.compile(network.predict)
    shape = (int(batch_size), int(side), int(side))
    pixels = torch.randn(shape[0], 3, *shape[1:]).to(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, shape)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, foreach=True
    )

    def predict() -> None:
        with torch.inference_mode():
            main_head(pixels)

    def step() -> None:
        logits, auxiliary = heads(pixels)
        loss = functional.cross_entropy(logits, labels, ignore_index=255)
        loss = loss + 0.4 * functional.cross_entropy(auxiliary, labels, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    network.eval()
    forward = measure(predict, float(seconds))
    network.train()
    report(
        sum(parameter.numel() for parameter in network.parameters()),
        forward=forward,
        step=measure(step, float(seconds)),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
