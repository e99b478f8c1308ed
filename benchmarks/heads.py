"""Trains the networks for the same CPU time on the same records, and compares what they learnt.

    python -m benchmarks.heads --data_dir=RECORDS --workdir=FOLDER --minutes=10

Every network has the same backbone, input, loss, optimizer and schedule: those of its preset,
``NETWORK_resnet18``, and of ``--set``. A network's step is timed first; it then trains, by the real
trainer.task, for as many steps as fit into ``--minutes`` of CPU time (all cores together), once for
each seed. Runs that are finished in ``--workdir`` are not repeated, so that a benchmark of hours
can be stopped and started again. The table and the pictures are written there, too.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import flags
from tqdm import tqdm

from benchmarks import budget
from pipeline import cli
from pipeline.errors import UserError
from trainer import curves

NETWORKS = (
    "pspnet_resnet18",
    "fcn32s_resnet18",
    "fcn8s_resnet18",
    "unet_resnet18",
    "deeplabv3_resnet18",
    "deeplabv3plus_resnet18",
    "article_classes",
    "article",
)

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder that pipeline.preprocess wrote.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the runs and of the result.")
_MINUTES = flags.DEFINE_float(
    "minutes", 10.0, "CPU minutes of training for each run.", lower_bound=0.01
)
_SEEDS = flags.DEFINE_multi_integer("seeds", [0, 1, 2], "One run each.", lower_bound=0)
_NETWORKS = flags.DEFINE_multi_enum("networks", NETWORKS, NETWORKS, "Presets that take part.")
_SET = flags.DEFINE_multi_string("set", [], "A value of all configurations; repeatable.")
_PICTURES = flags.DEFINE_integer("pictures", 4, "Validation pictures shown.", lower_bound=1)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What was measured of a network before its first run.

    Attributes:
      cpu_minutes: That each run is to take.
      steps: That fit into them.
      images_per_second: Of training, on the clock.
      parameters: That are trained.
      gflops: Of the inference of a picture of the crops' size.
    """

    cpu_minutes: float
    steps: int
    images_per_second: float
    parameters: int
    gflops: float


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run came to; CPU time is that of the whole command, evaluation and export included."""

    cpu_minutes: float
    mean_iou: float
    pixel_accuracy: float


def main(_: list[str]) -> None:
    data_dir, workdir = cli.require(_DATA_DIR), Path(cli.require(_WORKDIR))
    workdir.mkdir(parents=True, exist_ok=True)
    networks = list(dict.fromkeys(_NETWORKS.value))
    plans = {network: _plan(network, workdir) for network in tqdm(networks, desc="timing")}
    runs: dict[str, list[Run]] = {network: [] for network in networks}
    # By seed, so that a benchmark that is stopped has compared all networks with what there is.
    turns = [(network, seed) for seed in _SEEDS.value for network in networks]
    for network, seed in tqdm(turns, desc="training", unit="run"):
        runs[network].append(_run(network, seed, plans[network].steps, data_dir, workdir))
    text = table(plans, runs)
    print(text)
    (workdir / "heads.txt").write_text(text + "\n")
    folders = {network: workdir / f"{network}-{_SEEDS.value[0]}" for network in networks}
    _draw(data_dir, folders, workdir / "heads.png")
    print(f"Pictures: {workdir / 'heads.png'}")


def _plan(network: str, workdir: Path) -> Plan:
    """Times a network's step; what a benchmark that was stopped had measured is used again."""
    path = workdir / f"{network}.json"
    if path.exists():
        plan = Plan(**json.loads(path.read_text()))
        if plan.cpu_minutes != _MINUTES.value:
            raise UserError(
                f"{str(workdir)!r} holds runs of {plan.cpu_minutes:g} minutes; name another "
                f"--workdir. Received: --minutes={_MINUTES.value:g}."
            )
        return plan
    timing = budget.time_step(network, _SET.value)
    plan = Plan(
        cpu_minutes=_MINUTES.value,
        steps=max(1, round(60 * _MINUTES.value / timing.step_cpu)),
        images_per_second=timing.images_per_second,
        parameters=timing.parameters,
        gflops=timing.gflops,
    )
    path.write_text(json.dumps(dataclasses.asdict(plan)))
    return plan


def _run(network: str, seed: int, steps: int, data_dir: str, workdir: Path) -> Run:
    """Trains by the real command, unless that was done before; it evaluates at its end."""
    folder = workdir / f"{network}-{seed}"
    done = folder / "run.json"
    if done.exists():
        return Run(**json.loads(done.read_text()))
    flags = [f"--seed={seed}", f"--steps={steps}", "--strategy=one"]
    changes = [f"evaluate_every={steps}", *_SET.value]
    usage = budget.train(network, data_dir, folder, *flags, changes=changes)
    iou, accuracy = (
        curves.read(str(folder), "validation", tag)[-1].value
        for tag in ("mean_iou", "pixel_accuracy")
    )
    run = Run(usage.cpu_seconds / 60, iou, accuracy)
    done.write_text(json.dumps(dataclasses.asdict(run)))
    return run


def table(plans: Mapping[str, Plan], runs: Mapping[str, Sequence[Run]]) -> str:
    """One line a network, the best first.

    The spread is the standard deviation over the seeds, whose own mIoUs follow.
    """
    lines = [
        f"{'network':<24}{'parameters':>12}{'GFLOPs':>8}{'images/s':>10}{'steps':>7}"
        f"{'CPU min':>9}{'mIoU':>8}{'spread':>8}{'accuracy':>10}"
        "  mIoU of each seed"
    ]
    for network in sorted(runs, key=lambda name: -_mean(runs[name], "mean_iou")):
        plan, done = plans[network], runs[network]
        spread = statistics.stdev(run.mean_iou for run in done) if len(done) > 1 else float("nan")
        lines.append(
            f"{network:<24}{plan.parameters:>12,}{plan.gflops:>8.1f}"
            f"{plan.images_per_second:>10.1f}{plan.steps:>7,}{_mean(done, 'cpu_minutes'):>9.1f}"
            f"{_mean(done, 'mean_iou'):>8.3f}{spread:>8.3f}{_mean(done, 'pixel_accuracy'):>10.3f}"
            f"  {' '.join(f'{run.mean_iou:.3f}' for run in done)}"
        )
    return "\n".join(lines)


def _mean(runs: Sequence[Run], field: str) -> float:
    return statistics.fmean(getattr(run, field) for run in runs)


def _draw(data_dir: str, folders: Mapping[str, Path], path: Path) -> None:
    """Draws what each network sees in the first validation pictures, beside the truth."""
    from pipeline.startup import start_tensorflow

    start_tensorflow()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from pipeline.input_fn import RecordReader, evaluation_dataset
    from trainer.prediction import load_saved_model

    reader = RecordReader(data_dir, "val")
    batches = evaluation_dataset(reader, global_batch_size=1).take(_PICTURES.value)
    examples = [(b["image"][0].numpy().astype(np.uint8), b["label"][0].numpy()) for b in batches]
    columns = {"photo": [photo for photo, _ in examples]}
    columns["truth"] = [reader.info.palette.colorize(labels) for _, labels in examples]
    for network, folder in folders.items():
        (version,) = (folder / "export").iterdir()
        predict, palette = load_saved_model(str(version))
        columns[network] = [palette.colorize(predict(photo)) for photo, _ in examples]
    figure = Figure(figsize=(2 * len(columns), 2.1 * len(examples)), layout="constrained")
    for place, (name, pictures) in enumerate(columns.items()):
        for row, picture in enumerate(pictures):
            axes = figure.add_subplot(len(examples), len(columns), row * len(columns) + place + 1)
            axes.imshow(picture)
            axes.set_axis_off()
            if row == 0:
                axes.set_title(name.removesuffix("_resnet18"), fontsize=9)
    FigureCanvasAgg(figure).print_png(path)


if __name__ == "__main__":
    cli.run(main)
