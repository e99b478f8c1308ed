"""Scores a SavedModel against exact labels, where the records' are read back from JPEG's colours.

    python -m benchmarks.exact_accuracy --data_dir=RECORDS --saved_model=RUN/export/N
        --labels=LABELS/val [--split=val] [--flip] [--scales=0.75,1,1.25]

The photos are the records', which must be of one size. The mean is over the classes that are in the
truth or were predicted. `trainer.evaluate` gives the same table against the records' own labels.
"""

from __future__ import annotations

import numpy as np
from absl import flags

from benchmarks.exact_labels import read_exact
from pipeline import cli
from pipeline.errors import UserError
from pipeline.palette import IGNORE_LABEL
from trainer import inference_flags

flags.adopt_module_key_flags(inference_flags)  # --help shows them too.
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder that pipeline.preprocess wrote.")
_SAVED_MODEL = flags.DEFINE_string("saved_model", None, "A SavedModel of trainer.export.")
_LABELS = flags.DEFINE_string("labels", None, "Folder of the split's exact train ids, as PNGs.")
_SPLIT = flags.DEFINE_string("split", "val", "Split to score.")


def main(_: list[str]) -> None:
    data_dir, folder = cli.require(_DATA_DIR), cli.require(_SAVED_MODEL)
    labels, inference = cli.require(_LABELS), inference_flags.options()
    from pipeline.startup import start_tensorflow

    start_tensorflow()
    from model.confusion import confusion_matrix
    from pipeline.input_fn import RecordReader, evaluation_dataset
    from trainer import evaluation, progress, saved_model

    scorer, palette = saved_model.load(folder)
    reader = RecordReader(data_dir, _SPLIT.value)
    matrix = np.zeros((palette.num_classes, palette.num_classes), np.int64)
    photos = evaluation_dataset(reader, global_batch_size=1)
    for example in progress.counted(photos, len(reader), "score"):
        key = example["key"][0].numpy().decode()
        truth = read_exact(labels, key, tuple(example["label"].shape[1:]))
        unknown = truth[(truth >= palette.num_classes) & (truth != IGNORE_LABEL)]
        if unknown.size:
            raise UserError(
                f"The exact labels of {key} hold {unknown[0]}, which is no train id of "
                f"{folder!r}: those are 0 to {palette.num_classes - 1}, {IGNORE_LABEL} for void."
            )
        predictions = inference.class_ids(scorer, example["image"])
        matrix += confusion_matrix(truth[None], predictions, palette.num_classes).numpy()
    print(evaluation.table(matrix, palette))


if __name__ == "__main__":
    cli.run(main)
