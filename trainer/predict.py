"""Labels photos with a SavedModel: class ids and pictures to look at.

python -m trainer.predict --saved_model=RUN/export/N --input=PHOTOS --output_dir=OUT
"""

from __future__ import annotations

from absl import flags

from pipeline import cli
from trainer import inference_flags

flags.adopt_module_key_flags(inference_flags)  # --help shows them too.
_SAVED_MODEL = flags.DEFINE_string("saved_model", None, "Folder of a SavedModel of trainer.export.")
_INPUT = flags.DEFINE_string("input", None, "A photo, or a folder of photos.")
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Folder to write to; must be new or empty.")
_PAIRS = flags.DEFINE_enum(
    "pairs", None, ["left", "right"], "The inputs are pairs, with the photo at this side."
)
_LIMIT = flags.DEFINE_integer("limit", None, "Only so many photos.", lower_bound=1)


def main(_: list[str]) -> None:
    saved_model, source = cli.require(_SAVED_MODEL), cli.require(_INPUT)
    output_dir, inference = cli.require(_OUTPUT_DIR), inference_flags.options()
    from pipeline.startup import start_tensorflow

    start_tensorflow()
    from trainer import prediction
    from trainer.failures import tensorflow_errors

    with tensorflow_errors():
        done, bad = prediction.predict_folder(
            saved_model, source, output_dir, _PAIRS.value, _LIMIT.value, inference
        )
    print(f"{done} photos labelled: {output_dir}/*_overlay.png to look at, *_ids.png to use.")
    if bad:
        cli.fail(f"{len(bad)} photos could not be labelled: {'; '.join(bad)}.")


if __name__ == "__main__":
    cli.run(main)
