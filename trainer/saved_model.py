"""SavedModels that need none of this code: bytes or pixels in, class ids or pictures out."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from model.networks import Network
from pipeline.dataset_info import DatasetInfo
from pipeline.errors import UserError
from pipeline.overlay import PHOTO_SHARE
from pipeline.pairs import MAX_PREDICTED_PIXELS
from pipeline.palette import IGNORE_LABEL, PALETTE_FILE, Palette
from trainer import image_bytes, run_folder
from trainer.config import Config
from trainer.image_bytes import check_batch
from trainer.inference import Scorer

CONFIG_ASSET = "config.json"
PREPROCESSING_ASSET = "preprocessing.json"
GRAPH_FILE = "saved_model.pb"


class ServingModule(tf.Module):
    """The signatures of an exported network.

    ``serving_default``: ``image_bytes`` string [B], a JPEG or PNG each, of any sizes ->
    ``class_ids`` uint8 [B, H, W] with H and W the largest of the batch, 255 beyond a photo's own
    size, which ``height`` and ``width``, int32 [B], give.

    ``from_images``: ``images`` uint8 [B, H, W, 3] RGB -> ``class_ids`` uint8 [B, H, W].

    ``probabilities``: the same ``images`` -> ``probabilities`` float32 [B, H, W, K], which of the
    article's network are scores of another kind.

    ``overlay``: ``image_bytes`` as above -> ``overlay_bytes`` string [B], a PNG each: the photo,
    tinted as `pipeline.overlay` does, to a level.

    Beside the signatures stands the function ``scores``, from pixels, float32 [B, H, W, 3], to
    float32 [B, H, W, K]. Bytes that are no image, are broken or too large are an
    InvalidArgumentError of the request that they are in.

    Args:
      network: What to serve.
      palette: Its classes.
      assets: Files to carry along.
    """

    def __init__(self, network: Network, palette: Palette, assets: list[str]) -> None:
        super().__init__()
        served = dataclasses.replace(network, model=network.for_inference())
        # The variables alone: with the Keras model attached the file would be twice as large.
        self._state = run_folder.model_state(served.model)
        self._network = lambda pixels: served(pixels)
        self._assets = [tf.saved_model.Asset(path) for path in assets]
        self._class_colors = palette.class_colors.astype(np.float32)

    @property
    def signatures(self) -> dict[str, Any]:
        """By the names that they are served under."""
        return {
            "serving_default": self.from_bytes,
            "from_images": self.from_images,
            "probabilities": self.probabilities,
            "overlay": self.overlay,
        }

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32, "pixels")])
    def scores(self, pixels: tf.Tensor) -> tf.Tensor:
        return self._network(pixels)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, "images")])
    def probabilities(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": self.scores(tf.cast(images, tf.float32))}

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, "images")])
    def from_images(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        scores = self.scores(tf.cast(images, tf.float32))
        return {"class_ids": tf.cast(tf.argmax(scores, axis=-1), tf.uint8)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def from_bytes(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        ragged = self._each(
            lambda _, class_ids: tf.RaggedTensor.from_tensor(class_ids),
            image_bytes,
            tf.RaggedTensorSpec([None, None], tf.uint8, ragged_rank=1),
        )
        heights = ragged.row_lengths(axis=1)
        widths = tf.reduce_max(ragged.row_lengths(axis=2), axis=1)
        sizes = check_batch(tf.stack([heights, widths], axis=1))
        with tf.control_dependencies([sizes]):
            class_ids = ragged.to_tensor(tf.constant(IGNORE_LABEL, tf.uint8))
        height, width = tf.unstack(tf.cast(sizes, tf.int32), axis=1)
        return {"class_ids": class_ids, "height": height, "width": width}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def overlay(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        def png(photo: tf.Tensor, class_ids: tf.Tensor) -> tf.Tensor:
            colors = tf.gather(self._class_colors, tf.cast(class_ids, tf.int32))
            levels = PHOTO_SHARE * tf.cast(photo, tf.float32) + (1 - PHOTO_SHARE) * colors
            return tf.io.encode_png(tf.cast(tf.round(levels), tf.uint8))

        pngs = self._each(png, image_bytes, tf.TensorSpec([], tf.string))
        # TensorFlow Serving hands out as binary what has this ending.
        return {"overlay_bytes": pngs}

    def _each(self, function: Callable[..., Any], encoded: tf.Tensor, spec: Any) -> Any:
        """Stacks what the function makes of each photo, uint8 [H, W, 3], and its classes."""

        def of_one(item: tuple[tf.Tensor, tf.Tensor]) -> Any:
            place, data = item
            photo = image_bytes.decode(data, place)
            return function(photo, self.from_images(photo[tf.newaxis])["class_ids"][0])

        places = tf.range(tf.size(encoded))
        # One after the other: side by side they would need the memory of several.
        return tf.map_fn(of_one, (places, encoded), fn_output_signature=spec, parallel_iterations=1)


def export(model_dir: str, checkpoint: str) -> str:
    """Exports a run's network to ``RUN/export/STEP``.

    Args:
      model_dir: The run's folder.
      checkpoint: ``best`` or ``latest``.

    Returns:
      The SavedModel's folder; it appears whole or not at all.

    Raises:
      RunError: Where the run has no such checkpoint, or the SavedModel cannot be written.
    """
    config, info = run_folder.load(model_dir)
    network = run_folder.build_network(config, info)
    step = run_folder.restore_model(network.model, model_dir, checkpoint)
    versions = os.path.join(model_dir, "export")
    os.makedirs(versions, exist_ok=True)
    # Serving takes only numbers for versions, so that it does not look at the temporary folder.
    temporary = tempfile.mkdtemp(prefix="incomplete-", dir=versions)
    try:
        assets = _write_assets(temporary, config, info)
        saved = os.path.join(temporary, "model")
        module = ServingModule(network, info.palette, assets)
        tf.saved_model.save(module, saved, signatures=module.signatures)
        target = os.path.join(versions, str(step))
        if os.path.exists(target):
            os.rename(target, os.path.join(temporary, "replaced"))
        os.rename(saved, target)
    except tf.errors.OpError as error:
        raise run_folder.RunError(
            f"The SavedModel could not be written to {versions!r}: {run_folder.reason(error)}."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def open_folder(folder: str) -> tuple[Any, Palette, dict[str, bytes]]:
    """Opens an exported network.

    Args:
      folder: ``RUN/export/N``.

    Returns:
      What ``tf.saved_model.load`` gives, the classes, and the assets by their names.

    Raises:
      RunError: Where the folder is damaged, or no SavedModel of ours.
    """
    try:
        assets = {path.name: path.read_bytes() for path in Path(folder, "assets").iterdir()}
        palette = Palette.from_dict(json.loads(assets[PALETTE_FILE]))
        module = tf.saved_model.load(folder)
        if not hasattr(module, "scores"):
            raise ValueError("it has no scores and is of an earlier version; export it again")
    except (OSError, ValueError, KeyError, IndexError, UserError, tf.errors.OpError) as error:
        raise run_folder.RunError(
            f"{folder!r} is damaged, or no SavedModel of trainer.export: "
            f"{run_folder.reason(error)}. Name a folder such as RUN/export/3000."
        ) from error
    return module, palette, assets


def load(folder: str) -> tuple[Scorer, Palette]:
    """Loads an exported network.

    Args:
      folder: See `open_folder`.

    Returns:
      Its function ``scores``, and its classes.

    Raises:
      RunError: See `open_folder`.
    """
    module, palette, _ = open_folder(folder)
    return functools.partial(_scores, module), palette


def _scores(module: Any, pixels: Any) -> tf.Tensor:
    return module.scores(tf.convert_to_tensor(pixels))


def read(folder: str) -> tuple[Config, Palette, dict[str, np.ndarray]]:
    """Reads what an exported network was made of, without building it.

    Args:
      folder: See `open_folder`.

    Returns:
      The run's configuration; its palette; and the network's weights and statistics, float arrays
      by the paths that Keras gave them.

    Raises:
      RunError: See `open_folder`.
      UserError: Where it is a later version's, with what is not known here.
    """
    module, palette, assets = open_folder(folder)
    config = Config.from_json(assets[CONFIG_ASSET].decode(), CONFIG_ASSET)
    # A TensorFlow variable has the path of the Keras variable that it was part of for its name.
    weights = {v.name.removesuffix(":0"): v.numpy() for v in module._state if v.dtype.is_floating}
    return config, palette, weights


def _preprocessing(info: DatasetInfo) -> dict[str, Any]:
    """What the graph takes and does to it, for those who feed it in other languages."""
    return {
        "image_bytes": {
            "formats": ["JPEG", "PNG"],
            "max_pixels": MAX_PREDICTED_PIXELS,
            "exif_orientation": "not applied",
            "jpeg_dct_method": "INTEGER_ACCURATE",
        },
        "images": {
            "shape": ["batch", "height", "width", "RGB"],
            "dtype": "uint8",
            "levels": [0, 255],
            "resized": False,
            "normalized": "in the graph",
        },
        "training_levels": {"mean": info.mean, "standard_deviation": info.std},
        "class_ids": {"void": IGNORE_LABEL, "beyond_a_photo_in_a_batch": IGNORE_LABEL},
    }


def _write_assets(folder: str, config: Config, info: DatasetInfo) -> list[str]:
    texts = {
        PALETTE_FILE: json.dumps(info.palette.to_dict()),
        CONFIG_ASSET: config.to_json(),
        PREPROCESSING_ASSET: json.dumps(_preprocessing(info), indent=2),
    }
    paths = []
    for name, text in texts.items():
        paths.append(os.path.join(folder, name))
        with open(paths[-1], "w", encoding="utf-8") as file:
            file.write(text)
    return paths
