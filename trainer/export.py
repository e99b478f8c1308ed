"""Writes a run's network as a SavedModel, in the layout of TensorFlow Serving.

python -m trainer.export --model_dir=RUN
"""

from __future__ import annotations

from absl import flags

from pipeline import cli

_MODEL_DIR = flags.DEFINE_string("model_dir", None, "Folder of the run.")
_CHECKPOINT = flags.DEFINE_enum("checkpoint", "best", ["best", "latest"], "Which state to export.")


def main(_: list[str]) -> None:
    model_dir = cli.require(_MODEL_DIR)
    from pipeline.startup import start_tensorflow

    start_tensorflow()
    from trainer import saved_model

    print(f"SavedModel: {saved_model.export(model_dir, _CHECKPOINT.value)}")


if __name__ == "__main__":
    cli.run(main)
