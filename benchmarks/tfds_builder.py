"""TensorFlow Datasets' own way: a builder whose examples come from a Beam pipeline.

    python -m benchmarks.tfds_builder PAIRS RECORDS WORKERS

It converts a pair exactly as `benchmarks.handwritten` does, up to the two encoded images; sharding,
shuffling, writing and the workers are TFDS's and Beam's.
"""

from __future__ import annotations

import importlib
import io
import sys
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from benchmarks import handwritten
from pipeline.dataset_info import tfds_features


class Pairs(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Photos and the train ids of their pixels, by split."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # TFDS would look for checksums beside it, with a package it does not require.

    def __init__(self, input_dir: str, **options: Any) -> None:
        self._input_dir = input_dir
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(features=tfds_features())

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        splits = sorted(Path(self._input_dir).iterdir())
        return {split.name: self._generate_examples(split) for split in splits}

    def _generate_examples(self, split: Path) -> Any:
        beam = tfds.core.lazy_imports.apache_beam
        return beam.Create(sorted(map(str, split.glob("*.jpg")))) | beam.Map(to_example)


def to_example(path: str) -> tuple[str, dict[str, Any]]:
    if not hasattr(handwritten, "table"):
        handwritten.initialize()
    image, label, height, width = handwritten.convert_images(Path(path))
    name = Path(path).name
    example = {"key": name, "image": io.BytesIO(image), "label": io.BytesIO(label)}
    return name, {**example, "height": height, "width": width}


def main(input_dir: str, output_dir: str, workers: str) -> None:
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

    options = PipelineOptions(
        direct_num_workers=int(workers), direct_running_mode="multi_processing"
    )
    config = tfds.download.DownloadConfig(beam_runner=FnApiRunner(), beam_options=options)
    Pairs(input_dir, data_dir=output_dir).download_and_prepare(download_config=config)


if __name__ == "__main__":
    # By its name: what workers unpickle must not belong to __main__.
    importlib.import_module("benchmarks.tfds_builder").main(*sys.argv[1:])
