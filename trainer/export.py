"""Writes a run's network as a SavedModel, in TensorFlow Serving's layout, or that as a LiteRT file.

python -m trainer.export --model_dir=RUN
python -m trainer.export --saved_model=RUN/export/N --format=litert --quantize=dynamic
"""

from __future__ import annotations

import os

from absl import flags

from pipeline import cli
from pipeline.errors import UserError

_MODEL_DIR = flags.DEFINE_string("model_dir", None, "Folder of the run.")
_CHECKPOINT = flags.DEFINE_enum("checkpoint", "best", ["best", "latest"], "Which state to export.")
_FORMAT = flags.DEFINE_enum("format", "saved_model", ["saved_model", "litert"], "What to write.")
_SAVED_MODEL = flags.DEFINE_string("saved_model", None, "The SavedModel to convert to LiteRT.")
_QUANTIZE = flags.DEFINE_enum(
    "quantize",
    "none",
    ["none", "dynamic", "int8"],
    "LiteRT's numbers: float32; 8-bit weights; 8-bit weights and features.",
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Records that int8 takes its ranges from, and any file is checked with."
)


def main(_: list[str]) -> None:
    litert_only = [flag.name for flag in (_SAVED_MODEL, _DATA_DIR, _QUANTIZE) if flag.present]
    if _FORMAT.value == "saved_model" and litert_only:
        raise UserError(f"--{litert_only[0]} is for --format=litert only.")
    run_only = [flag.name for flag in (_MODEL_DIR, _CHECKPOINT) if flag.present]
    if _FORMAT.value == "litert" and run_only:
        raise UserError(f"--{run_only[0]} is for --format=saved_model; LiteRT takes --saved_model.")
    source = cli.require(_MODEL_DIR if _FORMAT.value == "saved_model" else _SAVED_MODEL)
    from pipeline.startup import start_tensorflow

    start_tensorflow()
    if _FORMAT.value == "saved_model":
        from trainer import saved_model

        print(f"SavedModel: {saved_model.export(source, _CHECKPOINT.value)}")
        return
    from trainer import litert
    from trainer.failures import tensorflow_errors

    with tensorflow_errors(_DATA_DIR.value):
        path, parity = litert.export(source, _QUANTIZE.value, _DATA_DIR.value)
    print(
        f"{parity.same_ids:.2%} of the pixels get the SavedModel's class; scores differ by "
        f"{parity.difference:.2g} at most.\nLiteRT: {path}, {os.path.getsize(path) / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    cli.run(main)
