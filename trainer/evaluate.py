"""Scores a run's network on a split of records.

python -m trainer.evaluate --data_dir=RECORDS --model_dir=RUN --split=val
"""

from __future__ import annotations

import json
import os

from absl import flags

from pipeline import cli

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder that pipeline.preprocess wrote.")
_MODEL_DIR = flags.DEFINE_string("model_dir", None, "Folder of the run.")
_SPLIT = flags.DEFINE_string("split", "val", "Split to evaluate.")
_CHECKPOINT = flags.DEFINE_enum("checkpoint", "best", ["best", "latest"], "Which state to score.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Examples of a step.", lower_bound=1)


def main(_: list[str]) -> None:
    data_dir, model_dir = cli.require(_DATA_DIR), cli.require(_MODEL_DIR)
    from pipeline.startup import start_tensorflow

    start_tensorflow()
    from trainer import evaluation
    from trainer.failures import tensorflow_errors

    with tensorflow_errors(data_dir):
        step, matrix, palette = evaluation.evaluate_run(
            data_dir, model_dir, _SPLIT.value, _CHECKPOINT.value, _BATCH_SIZE.value
        )
    print(evaluation.table(matrix, palette))
    path = os.path.join(model_dir, f"evaluation-{_SPLIT.value}.json")
    result = {
        "checkpoint": _CHECKPOINT.value,
        "step": step,
        **evaluation.summarize(matrix, palette),
        "confusion_matrix": matrix.tolist(),
    }
    with open(path + ".tmp", "w", encoding="utf-8") as file:
        json.dump(result, file, indent=2)
    os.replace(path + ".tmp", path)
    print(f"Step {step:,}, {_CHECKPOINT.value} checkpoint. Figures: {path}")


if __name__ == "__main__":
    cli.run(main)
