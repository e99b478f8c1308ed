"""Labels any number of photos with a SavedModel, as an Apache Beam job.

    python -m pipeline.predict --saved_model=RUN/export/N --input_pattern='PHOTOS/**' \\
        --output_dir=OUT

Flags this command does not know go to Beam: ``--runner=FlinkRunner --flink_master=...``.
"""

from __future__ import annotations

from absl import flags

from pipeline import cli, late_beam, pairs

_SAVED_MODEL = flags.DEFINE_string(
    "saved_model", None, "Folder of a SavedModel of trainer.export, seen by every worker."
)
_INPUT_PATTERN = flags.DEFINE_string(
    "input_pattern",
    None,
    "The photos: 'FOLDER/*.jpg', or 'FOLDER/**' for all JPEG and PNG files below it, in quotes.",
)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Folder to write to.")
_OVERLAYS = flags.DEFINE_bool("overlays", False, "Write pictures to look at, too.")
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size",
    8,
    "Photos of one size that the network sees at once; fewer where they are large.",
    lower_bound=1,
)
_MAX_PIXELS = flags.DEFINE_integer(
    "max_pixels",
    pairs.MAX_PREDICTED_PIXELS,
    "Photos with more are left out: the network needs memory in proportion.",
    lower_bound=1,
)
_NUM_WORKERS = flags.DEFINE_integer(
    "num_workers", 1, "Worker processes; 1 works in this process.", lower_bound=1
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the predictions in --output_dir.")


def main(beam_arguments: list[str]) -> None:
    saved_model, input_pattern = cli.require(_SAVED_MODEL), cli.require(_INPUT_PATTERN)
    output_dir = cli.require(_OUTPUT_DIR)
    job = late_beam.import_job("pipeline.prediction_job")

    job.run(
        job.PredictionOptions(
            saved_model=saved_model,
            input_pattern=input_pattern,
            output_dir=output_dir,
            overlays=_OVERLAYS.value,
            batch_size=_BATCH_SIZE.value,
            max_pixels=_MAX_PIXELS.value,
            num_workers=_NUM_WORKERS.value,
            overwrite=_OVERWRITE.value,
        ),
        beam_arguments,
    )


if __name__ == "__main__":
    cli.run(main, known_flags_only=True)
