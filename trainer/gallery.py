"""Shows a run as a web page: curves, IoU by class, confusion, pictures, and a model card.

python -m trainer.gallery --model_dir=RUN
"""

from __future__ import annotations

import os

from absl import flags

from pipeline import cli
from trainer.whole_file import write_whole

_MODEL_DIR = flags.DEFINE_string("model_dir", None, "Folder of the run.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder that pipeline.preprocess wrote; by default the run's own, if it is "
    "still there. Without it there are no pictures."
)  # fmt: skip
_OUTPUT = flags.DEFINE_string("output", None, "The page; by default MODEL_DIR/gallery.html.")
_DATA_LICENCE = flags.DEFINE_string(
    "data_licence", None, "What the page says of the licence of the data, such as CC BY-NC 4.0."
)


def main(_: list[str]) -> None:
    model_dir = cli.require(_MODEL_DIR)
    output = _OUTPUT.value or os.path.join(model_dir, "gallery.html")
    from pipeline.startup import start_tensorflow

    start_tensorflow()
    from trainer import run_page, run_report
    from trainer.failures import tensorflow_errors

    with tensorflow_errors(_DATA_DIR.value):
        report = run_report.gather(model_dir, _DATA_DIR.value)
    write_whole(output, run_page.as_page(report, _DATA_LICENCE.value))
    if report.measurement is None:
        print("Without pictures: the run's records are not at hand. Name them with --data_dir.")
    print(f"Page: {output}")


if __name__ == "__main__":
    cli.run(main)
