"""Measures a training step and inference of our PSPNet beside the same network in PyTorch.

    python -m benchmarks.train_step

Each contender runs in a process of its own, by turns with the others, on the same random pixels:

    ours                  pspnet_resnet18, pspnet_resnet50: output stride 8, auxiliary head
    torch                 the same network in PyTorch, channels_last
    torch_compiled        the same with torch.compile
    segmentation_models   the PSPNet of that package, with a backbone that is cut, not dilated; its
                          sides must divide by 48, so that it gets 240x240 in place of 256x256
    article               the article's network: no stride, colours for classes

Times are medians of a call and then of the rounds, in milliseconds an image. What cannot run here
is named and left out; `pip install torch==2.13.0` and `pip install segmentation-models tf_keras`
bring the others.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from tqdm import tqdm

from pipeline import cli

BACKBONES = ("resnet18", "resnet50")
CONTENDERS = ("ours", "torch", "torch_compiled", "segmentation_models", "article")

_BACKBONES = flags.DEFINE_multi_enum("backbones", BACKBONES, BACKBONES, "Of PSPNet.")
_CONTENDERS = flags.DEFINE_multi_enum("contenders", CONTENDERS, CONTENDERS, "Who takes part.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Images of a step.", lower_bound=1)
_SIZE = flags.DEFINE_integer("size", 256, "Height and width of the images.", lower_bound=48)
_SECONDS = flags.DEFINE_float("seconds", 20.0, "Least time to measure a function in a round.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Rounds by turns.", lower_bound=1)


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a contender's process reported.

    Attributes:
      parameters: That are trained.
      forward: Seconds of a call of the inference.
      step: Seconds of a training step.
      step_cpu: CPU seconds of a training step, of all cores.
      peak_bytes: Most memory that the process held.
    """

    parameters: int
    forward: float
    step: float
    step_cpu: float
    peak_bytes: int


def main(_: list[str]) -> None:
    rows = list(dict.fromkeys(contenders(_CONTENDERS.value, _BACKBONES.value)))
    measured: dict[tuple[str, str], list[Measured]] = {row: [] for row in rows}
    turns = [row for _ in range(_ROUNDS.value) for row in rows]
    for row in tqdm(turns, desc="train_step", disable=None):
        if (result := _measure(*row)) is not None:
            measured[row].append(result)
    medians = {row: _median(results) for row, results in measured.items() if results}
    print(table(medians, _BATCH_SIZE.value))


def contenders(names: Sequence[str], backbones: Sequence[str]) -> list[tuple[str, str]]:
    """Every contender on every backbone; the article's network has one of its own."""
    pairs = [(name, backbone) for backbone in backbones for name in names if name != "article"]
    return pairs + [("article", "its own")] * ("article" in names)


def side(name: str, size: int) -> int:
    """The height and width that a contender takes, `size` or the next smaller one."""
    return size // 48 * 48 if name == "segmentation_models" else size


def command(name: str, backbone: str) -> list[str]:
    """The command line of a contender."""
    module, first, *last = {
        "ours": ["keras_step", f"pspnet_{backbone}", "optimizer.name=sgd"],
        "article": ["keras_step", "article", "optimizer.name=sgd"],
        "torch": ["torch_step", backbone.removeprefix("resnet")],
        "torch_compiled": ["torch_step", backbone.removeprefix("resnet"), "compile"],
        "segmentation_models": ["segmentation_models_step", backbone],
    }[name]
    numbers = (_BATCH_SIZE.value, side(name, _SIZE.value), _SECONDS.value)
    return [sys.executable, "-m", f"benchmarks.{module}", first, *map(str, numbers), *last]


def _measure(name: str, backbone: str) -> Measured | None:
    root = Path(__file__).parent.parent
    done = subprocess.run(command(name, backbone), cwd=root, capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2]
        tqdm.write(f"{name}, {backbone} is left out: {reason}", file=sys.stderr)
        return None
    said = json.loads(done.stdout.strip().rpartition("\n")[2])
    return Measured(**{field.name: said[field.name] for field in dataclasses.fields(Measured)})


def _median(results: Sequence[Measured]) -> Measured:
    columns = zip(*map(dataclasses.astuple, results), strict=True)
    parameters, forward, step, step_cpu, peak = map(statistics.median, columns)
    return Measured(int(parameters), forward, step, step_cpu, int(peak))


def table(measured: dict[tuple[str, str], Measured], batch_size: int) -> str:
    """One line for each contender; ratios are of the step, to PyTorch's on the same backbone."""
    lines = [
        f"{'network':<21}{'backbone':<10}{'parameters':>12}{'forward ms':>12}{'step ms':>10}"
        f"{'x torch':>9}{'peak MiB':>10}"
    ]
    for (name, backbone), result in measured.items():
        torch = measured.get(("torch", backbone))
        milliseconds = 1000 / batch_size
        lines.append(
            f"{name:<21}{backbone:<10}{result.parameters:>12,}"
            f"{milliseconds * result.forward:>12,.0f}{milliseconds * result.step:>10,.0f}"
            f"{f'{result.step / torch.step:.2f}' if torch else '-':>9}"
            f"{result.peak_bytes / 2**20:>10,.0f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
