"""Times one way of predicting, and scores it on records.

python -m benchmarks.predictor CONTENDER MODEL_DIR SAVED_MODEL DATA_DIR SIDE SECONDS PHOTOS
"""

from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.stopwatch import measure
from pipeline.startup import start_tensorflow
from trainer.inference import Scorer

BATCH_SIZES = (1, 8)


def main(
    contender: str, model_dir: str, saved_model: str, data_dir: str, side: str, seconds: str,
    photos: str,
) -> None:  # fmt: skip
    if contender == "torch":
        scorer, num_bytes = _torch(model_dir), None
    else:
        start_tensorflow()
        scorer, num_bytes = {
            "keras_predict": lambda: _keras_predict(model_dir),
            "saved_model": lambda: _saved_model(saved_model),
            "litert_none": lambda: _litert(f"{saved_model}.tflite"),
            "litert_dynamic": lambda: _litert(f"{saved_model}-dynamic.tflite"),
            "litert_int8": lambda: _litert(f"{saved_model}-int8.tflite"),
        }[contender]()
    rng = np.random.default_rng(0)
    calls = []
    for batch_size in BATCH_SIZES:
        pixels = rng.uniform(0, 255, (batch_size, int(side), int(side), 3)).astype(np.float32)
        calls.append(measure(functools.partial(scorer, pixels), float(seconds)).seconds)
    mean_iou = None
    if contender != "torch" and int(photos):
        mean_iou = _mean_iou(scorer, data_dir, int(photos))
    print(json.dumps({"calls": calls, "num_bytes": num_bytes, "mean_iou": mean_iou}))


def _keras_predict(model_dir: str) -> tuple[Scorer, int | None]:
    from trainer import run_folder

    network = run_folder.build_network(*run_folder.load(model_dir))
    run_folder.restore_model(network.model, model_dir, "best")
    model = network.for_inference()

    def scorer(pixels: np.ndarray) -> Any:
        outputs = model.predict(pixels, batch_size=len(pixels), verbose=0)
        return network.objective.scores(outputs).numpy()

    return scorer, None


def _saved_model(folder: str) -> tuple[Scorer, int | None]:
    from trainer import saved_model

    scores, _ = saved_model.load(folder)
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    # As an array, like what the others give.
    return lambda pixels: np.asarray(scores(pixels)), sum(path.stat().st_size for path in files)


def _litert(path: str) -> tuple[Scorer, int | None]:
    from trainer import litert

    return litert.load(path)[0], os.path.getsize(path)


def _torch(model_dir: str) -> Scorer:
    """The run's network in PyTorch, with random weights; PSPNet and the ladder on ResNets alone."""
    import torch

    from benchmarks.torch_ladder import Ladder
    from benchmarks.torch_pspnet import TORCHVISION_STRIDE_8, PSPNet
    from trainer import run_folder

    config, info = run_folder.load(model_dir)
    model, classes = config.model, info.palette.num_classes
    base = round(64 * model.width_multiplier)
    known = (model.name, model.backbone, model.output_stride, model.deep_stem)
    network: PSPNet | Ladder
    if known == ("ladder", "resnet18", 32, False):
        network = Ladder(
            classes,
            base,
            model.head_channels,
            model.bins,
            model.align_corners,
            model.input_upsampling,
        )
    elif model.input_upsampling == (1, 1) and known in (
        ("pspnet", "resnet18", 8, False),
        ("pspnet", "resnet50", 8, False),
    ):
        network = PSPNet(
            classes,
            int(model.backbone.removeprefix("resnet")),
            TORCHVISION_STRIDE_8,
            deep_stem=False,
            align_corners=model.align_corners,
            base=base,
            channels=model.head_channels,
            bins=model.bins,
        )
    else:
        raise SystemExit(
            "only PSPNet at output stride 8 on resnet18 or resnet50, and the ladder at 32 on "
            "resnet18, are restated"
        )
    network.eval().to(memory_format=torch.channels_last)

    def scorer(pixels: np.ndarray) -> Any:
        with torch.inference_mode():
            # Seen by PyTorch as [B, 3, H, W] that lies in memory as channels_last has it.
            values = torch.from_numpy(pixels).permute(0, 3, 1, 2)
            return network.predict((values - 127.5) / 127.5).softmax(dim=1).numpy()

    return scorer


def _mean_iou(scorer: Scorer, data_dir: str, photos: int) -> float:
    """Over the first photos of the validation split."""
    from model import metrics
    from model.confusion import confusion_matrix
    from pipeline.input_fn import RecordReader, evaluation_dataset

    reader = RecordReader(data_dir, "val")
    num_classes = reader.info.palette.num_classes
    matrix = np.zeros((num_classes, num_classes), np.int64)
    indices = range(min(photos, len(reader)))
    for batch in evaluation_dataset(reader, global_batch_size=1, indices=indices):
        class_ids = scorer(batch["image"].numpy()).argmax(axis=-1).astype(np.int32)
        matrix += confusion_matrix(batch["label"], class_ids, num_classes).numpy()
    return metrics.mean_iou(matrix)


if __name__ == "__main__":
    main(*sys.argv[1:])
