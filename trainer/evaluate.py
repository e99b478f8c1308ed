"""Scores a run's network, a SavedModel or a LiteRT file on a split of records.

python -m trainer.evaluate --data_dir=RECORDS --model_dir=RUN --split=val
python -m trainer.evaluate --data_dir=RECORDS --saved_model=RUN/export/N --output_dir=OUT
"""

from __future__ import annotations

import dataclasses
from typing import Any

from absl import flags

from pipeline import cli
from pipeline.errors import UserError
from pipeline.palette import Palette
from trainer import inference_flags
from trainer.inference import Scorer

flags.adopt_module_key_flags(inference_flags)  # --help shows them too.
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder that pipeline.preprocess wrote.")
_MODEL_DIR = flags.DEFINE_string("model_dir", None, "Folder of the run.")
_CHECKPOINT = flags.DEFINE_enum("checkpoint", "best", ["best", "latest"], "Which state of the run.")
_SAVED_MODEL = flags.DEFINE_string("saved_model", None, "Or a SavedModel of trainer.export.")
_LITERT = flags.DEFINE_string("litert", None, "Or a LiteRT file of trainer.export.")
_SPLIT = flags.DEFINE_string("split", "val", "Split to evaluate.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Examples of a step.", lower_bound=1)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Folder for the figures; by default the run's, if a run is evaluated."
)


def _source() -> str:
    """What is to be evaluated; of the three flags one must be given."""
    given = [flag for flag in (_MODEL_DIR, _SAVED_MODEL, _LITERT) if flag.value]
    if not given:
        raise UserError("--model_dir is missing, or --saved_model or --litert in its place.")
    if len(given) > 1:
        names = " and ".join(f"--{flag.name}" for flag in given)
        raise UserError(f"{names} both say what to evaluate; give one of them.")
    if _CHECKPOINT.present and not _MODEL_DIR.value:
        raise UserError(
            "--checkpoint chooses a state of --model_dir, which is not given. Received: "
            f"--checkpoint={_CHECKPOINT.value}."
        )
    return cli.require(given[0])


def _loaded(source: str) -> tuple[Scorer, Palette]:
    if _LITERT.value:
        from trainer import litert

        return litert.load(source)
    from trainer import saved_model

    return saved_model.load(source)


def main(_: list[str]) -> None:
    data_dir, source = cli.require(_DATA_DIR), _source()
    inference = inference_flags.options()
    output_dir = _OUTPUT_DIR.value or _MODEL_DIR.value or cli.require(_OUTPUT_DIR)
    from pipeline.startup import start_tensorflow

    start_tensorflow()
    from trainer import evaluation
    from trainer.failures import tensorflow_errors

    split, batch_size = _SPLIT.value, _BATCH_SIZE.value
    about: dict[str, Any] = {"inference": dataclasses.asdict(inference)}
    with tensorflow_errors(data_dir):
        if _MODEL_DIR.value:
            step, evaluator, palette = evaluation.load_run(
                data_dir, source, split, _CHECKPOINT.value, batch_size, inference
            )
            about |= {"checkpoint": _CHECKPOINT.value, "step": step}
            evaluated = f"Step {step:,}, {_CHECKPOINT.value} checkpoint."
        else:
            scorer, palette = _loaded(source)
            evaluator = evaluation.evaluator_of(
                scorer, palette, source, data_dir, split, batch_size, inference
            )
            about |= {"file": source}
            evaluated = f"{source}."
        matrix = evaluator.confusion()
    print(evaluation.table(matrix, palette))
    path = evaluation.write(output_dir, split, matrix, palette, about)
    print(f"{evaluated} Figures: {path}.json, {path}.png")


if __name__ == "__main__":
    cli.run(main)
