"""Prints a configuration's network layer by layer: shapes, parameters, multiply-adds, totals.

python -m trainer.summary --preset=pspnet_resnet50 --size=512x256
"""

from __future__ import annotations

import re

from absl import flags

from pipeline import cli, dataset_info
from pipeline.errors import UserError
from trainer import config_flags

flags.adopt_module_key_flags(config_flags)  # --help shows them too.
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Records folder, for its number of classes.")
_NUM_CLASSES = flags.DEFINE_integer("num_classes", 19, "Of classes.", lower_bound=1)
_SIZE = flags.DEFINE_string("size", "256x256", "WIDTHxHEIGHT of a picture in pixels.")


def _size() -> tuple[int, int]:
    match = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", _SIZE.value)
    if not match:
        raise UserError(f"--size takes WIDTHxHEIGHT, such as 512x256. Received: {_SIZE.value!r}.")
    return int(match[1]), int(match[2])


def main(_: list[str]) -> None:
    config = config_flags.configuration()
    width, height = _size()
    num_classes = _NUM_CLASSES.value
    if _DATA_DIR.value:
        if _NUM_CLASSES.present:
            raise UserError("--data_dir and --num_classes both say the classes; give one of them.")
        num_classes = dataset_info.load_info(_DATA_DIR.value).palette.num_classes
    from pipeline.startup import start_tensorflow

    start_tensorflow()
    from model import summary
    from trainer import run_folder

    network = run_folder.build_network_for(
        config,  # Neither colours nor the statistics of pixels change what is printed.
        num_classes=num_classes,
        class_colors=[(0, 0, 0)] * num_classes,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
    print(summary.text(network, height, width))


if __name__ == "__main__":
    cli.run(main)
