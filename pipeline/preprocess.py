"""Turns a folder of side-by-side pairs into sharded TFRecords, as an Apache Beam job.

    python -m pipeline.preprocess --input_dir=PAIRS --output_dir=RECORDS

Flags this command does not know go to Beam: ``--runner=FlinkRunner --flink_master=...``.
"""

from __future__ import annotations

from absl import flags

from pipeline import cli, labels, late_beam, pairs

_INPUT_DIR = flags.DEFINE_string(
    "input_dir", None, "Folder of pairs, with a folder per split (train/, val/)."
)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Folder to write the records to.")
_NAME = flags.DEFINE_string("name", "pairs", "First part of the shards' names.")
_IMAGE_SIDE = flags.DEFINE_enum("image_side", "left", pairs.SIDES, "Side of a pair with the photo.")
_PALETTE = flags.DEFINE_string(
    "palette", "cityscapes", "Colours of the masks: cityscapes, or a .json or .csv file."
)
_LABEL_RECOVERY = flags.DEFINE_enum(
    "label_recovery",
    "robust",
    list(labels.READERS),
    "How labels are read from the masks' colours: robust fits them to what the JPEG stores, "
    "nearest takes each pixel for itself: less exact, and quicker by 20 to 30 ms a 256x256 mask.",
)
_AMBIGUOUS = flags.DEFINE_enum(
    "ambiguous",
    "keep",
    ["keep", "ignore"],
    "Labels that are in doubt: keep the likeliest, or write the ignore label.",
)
_NUM_SHARDS = flags.DEFINE_integer(
    "num_shards", None, "Shards of each split. Default: one for every 256 pairs.", lower_bound=1
)
_NUM_WORKERS = flags.DEFINE_integer(
    "num_workers", 1, "Worker processes; 1 works in this process.", lower_bound=1
)
_MAX_BAD_FRACTION = flags.DEFINE_float(
    "max_bad_fraction",
    0.05,
    "Fail where a larger part of the pairs is bad.",
    lower_bound=0.0,
    upper_bound=1.0,
)
_LEAKAGE = flags.DEFINE_enum(
    "leakage",
    "drop",
    ["drop", "keep"],
    "What to do with a training pair whose file is in another split, too.",
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the records in --output_dir.")


def main(beam_arguments: list[str]) -> None:
    input_dir, output_dir = cli.require(_INPUT_DIR), cli.require(_OUTPUT_DIR)
    job = late_beam.import_job("pipeline.job")

    job.run(
        job.JobOptions(
            input_dir=input_dir,
            output_dir=output_dir,
            name=_NAME.value,
            image_side=_IMAGE_SIDE.value,
            palette=_PALETTE.value,
            label_recovery=_LABEL_RECOVERY.value,
            ambiguous=_AMBIGUOUS.value,
            num_shards=_NUM_SHARDS.value,
            num_workers=_NUM_WORKERS.value,
            max_bad_fraction=_MAX_BAD_FRACTION.value,
            leakage=_LEAKAGE.value,
            overwrite=_OVERWRITE.value,
        ),
        beam_arguments,
    )


if __name__ == "__main__":
    cli.run(main, known_flags_only=True)
