"""SavedModels that need none of this code: bytes or pixels in, class ids out."""

from __future__ import annotations

import json
import os
import shutil
import tempfile

import keras
import numpy as np
import tensorflow as tf

from model.losses import Objective
from pipeline.palette import IGNORE_LABEL, Palette
from trainer import run_folder
from trainer.config import Config

PALETTE_ASSET = "palette.json"
CONFIG_ASSET = "config.json"
GRAPH_FILE = "saved_model.pb"


class ServingModule(tf.Module):
    """The signatures of an exported network.

    ``serving_default``: ``image_bytes`` string [B], a JPEG or PNG each, of any sizes ->
    ``class_ids`` uint8 [B, H, W] with H and W the largest of the batch, 255 beyond a photo's own
    size, which ``height`` and ``width``, int32 [B], give.

    ``from_images``: ``images`` uint8 [B, H, W, 3] RGB -> ``class_ids`` uint8 [B, H, W].

    Beside the signatures stands the function ``scores``, from pixels, float32 [B, H, W, 3], to
    float32 [B, H, W, K].

    Args:
      model: From pixels to outputs.
      objective: How outputs are read.
      assets: Files to carry along.
    """

    def __init__(self, model: keras.Model, objective: Objective, assets: list[str]) -> None:
        super().__init__()
        # The variables alone: with the Keras model attached the file would be twice as large.
        self._state = run_folder.model_state(model)
        self._assets = [tf.saved_model.Asset(path) for path in assets]
        self._model = lambda pixels: model(pixels, training=False)
        self._objective = objective

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32, "pixels")])
    def scores(self, pixels: tf.Tensor) -> tf.Tensor:
        return self._objective.scores(self._model(pixels))

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, "images")])
    def from_images(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        scores = self.scores(tf.cast(images, tf.float32))
        return {"class_ids": tf.cast(tf.argmax(scores, axis=-1), tf.uint8)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def from_bytes(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        def class_ids(data: tf.Tensor) -> tf.RaggedTensor:
            # Despite its name it reads PNG too, and it decodes JPEG as the records are decoded.
            image = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
            return tf.RaggedTensor.from_tensor(self.from_images(image[tf.newaxis])["class_ids"][0])

        ragged = tf.map_fn(
            class_ids,
            image_bytes,
            fn_output_signature=tf.RaggedTensorSpec([None, None], tf.uint8, ragged_rank=1),
        )
        return {
            "class_ids": ragged.to_tensor(tf.constant(IGNORE_LABEL, tf.uint8)),
            "height": tf.cast(ragged.row_lengths(axis=1), tf.int32),
            "width": tf.cast(tf.reduce_max(ragged.row_lengths(axis=2), axis=1), tf.int32),
        }


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
        assets = _write_assets(temporary, config, info.palette)
        saved = os.path.join(temporary, "model")
        module = ServingModule(network.for_inference(), network.objective, assets)
        tf.saved_model.save(
            module,
            saved,
            signatures={"serving_default": module.from_bytes, "from_images": module.from_images},
        )
        target = os.path.join(versions, str(step))
        shutil.rmtree(target, ignore_errors=True)
        os.rename(saved, target)
    except tf.errors.OpError as error:
        raise run_folder.RunError(
            f"The SavedModel could not be written to {versions!r}: {run_folder.reason(error)}."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def read(folder: str) -> tuple[Config, Palette, dict[str, np.ndarray]]:
    """Reads what an exported network was made of, without building it.

    Args:
      folder: ``RUN/export/N``.

    Returns:
      The run's configuration; its palette; and the network's weights and statistics, float arrays
      by the paths that Keras gave them.

    Raises:
      RunError: Where the folder is damaged, or no SavedModel of ours.
      UserError: Where it is a later version's, with what is not known here.
    """
    try:
        texts = {}
        for name in (CONFIG_ASSET, PALETTE_ASSET):
            with open(os.path.join(folder, "assets", name), encoding="utf-8") as file:
                texts[name] = file.read()
        config = Config.from_json(texts[CONFIG_ASSET], CONFIG_ASSET)
        palette = Palette.from_dict(json.loads(texts[PALETTE_ASSET]))
        state = tf.saved_model.load(folder)._state
    except (OSError, ValueError, AttributeError, IndexError, tf.errors.OpError) as error:
        raise run_folder.RunError(
            f"{folder!r} is damaged, or no SavedModel of trainer.export: "
            f"{run_folder.reason(error)}."
        ) from error
    # A TensorFlow variable has the path of the Keras variable that it was part of for its name.
    weights = {v.name.removesuffix(":0"): v.numpy() for v in state if v.dtype.is_floating}
    return config, palette, weights


def _write_assets(folder: str, config: Config, palette: Palette) -> list[str]:
    texts = {PALETTE_ASSET: json.dumps(palette.to_dict()), CONFIG_ASSET: config.to_json()}
    paths = []
    for name, text in texts.items():
        paths.append(os.path.join(folder, name))
        with open(paths[-1], "w", encoding="utf-8") as file:
            file.write(text)
    return paths
